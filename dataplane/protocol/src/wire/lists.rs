//! LIST, PROCESSES, LIST_APPLICATIONS, APPLICATIONS: pages of what a server has.
//!
//! A page is checked whole when it is parsed, so going through its rows cannot fail. A page is written until it is full:
//! [`ProcessPage`] and [`ApplicationPage`] say when.

use crate::control::{ProcessState, ProcessStatus};
use crate::limits::{
    LIST_PAGE_PROCESSES, PROCESS_ID_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX, WIRE_LAST_EXIT_BYTES_MAX, WORKERS_MAX,
};
use crate::wire::fields::{Fields, frame, put_cut_text, put_process, put_text};
use crate::wire::refusal::state;
use crate::wire::{HEADER_BYTES, Header, Kind, WireError};
use crate::{Name, ProcessId};

/// Asks for a page of the processes in the token's scope, in order of their ids. Answered by [`Processes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    /// Of this question.
    pub request_id: u64,
    /// Ids after this one; `None` starts at the beginning.
    pub after: Option<ProcessId>,
}

impl List {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::List, body);
        let after = fields.optional_process()?;
        fields.end(Self { request_id: header.request_id, after })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::List, 0, self.request_id, |out| match &self.after {
            Some(process) => put_process(out, process),
            None => put_text(out, ""),
        });
    }
}

/// A page of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes<'a> {
    /// Of the question.
    pub request_id: u64,
    /// Whether further ones follow: ask again after the last one.
    pub more: bool,
    count: u16,
    rows: &'a [u8],
}

/// One process of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRow<'a> {
    /// Its id.
    pub process: ProcessId,
    /// Where it stands in its life.
    pub state: ProcessState,
    /// Workers that are ready.
    pub workers: u32,
    /// Open lanes.
    pub lanes: u32,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
    /// Calls its workers say they answered.
    pub calls_reported: u64,
    /// Bytes that are stored of it.
    pub stored_bytes: u64,
    /// When it was last swapped out, in milliseconds since 1970; 0 if it never was.
    pub last_swap_unix_ms: u64,
    /// Why the last worker ended; empty if none did.
    pub last_exit: &'a str,
    pids: &'a [u8],
}

impl<'a> Processes<'a> {
    /// The page in `body`, every row of it checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Processes, body);
        let count = fields.u16()?;
        if usize::from(count) > LIST_PAGE_PROCESSES {
            return Err(WireError::Value { field: "the number of processes in a page", value: u64::from(count) });
        }
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Processes, rows);
        for _ in 0..count {
            ProcessRow::parse(&mut fields)?;
        }
        fields.end(Self { request_id: header.request_id, more: header.flags & 1 != 0, count, rows })
    }

    /// The processes of the page.
    pub fn rows(&self) -> impl Iterator<Item = ProcessRow<'a>> + use<'a> {
        let mut fields = Fields::of(Kind::Processes, self.rows);
        (0..self.count).map_while(move |_| ProcessRow::parse(&mut fields).ok())
    }
}

impl<'a> ProcessRow<'a> {
    fn parse(fields: &mut Fields<'a>) -> Result<Self, WireError> {
        let process = fields.process()?;
        let (state_code, pid_count) = (fields.u8()?, fields.u8()?);
        if usize::from(pid_count) > WORKERS_MAX {
            return Err(WireError::Value { field: "the number of workers", value: u64::from(pid_count) });
        }
        Ok(Self {
            process,
            state: state(state_code)?,
            workers: fields.u32()?,
            lanes: fields.u32()?,
            worker_restarts: fields.u64()?,
            calls_reported: fields.u64()?,
            stored_bytes: fields.u64()?,
            last_swap_unix_ms: fields.u64()?,
            pids: fields.slice(4 * usize::from(pid_count))?,
            last_exit: fields.text("the last exit", WIRE_LAST_EXIT_BYTES_MAX)?,
        })
    }

    /// OS process ids of the workers, in the server's view.
    pub fn worker_pids(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.pids.as_chunks::<4>().0.iter().map(|pid| u32::from_le_bytes(*pid))
    }

    /// The same with memory of its own.
    #[must_use]
    pub fn to_status(&self) -> ProcessStatus {
        ProcessStatus {
            process: self.process,
            state: self.state,
            workers: self.workers,
            worker_pids: self.worker_pids().collect(),
            lanes: self.lanes,
            worker_restarts: self.worker_restarts,
            last_exit: (!self.last_exit.is_empty()).then(|| self.last_exit.to_owned()),
            calls_reported: self.calls_reported,
            stored_bytes: self.stored_bytes,
            last_swap_unix_ms: (self.last_swap_unix_ms != 0).then_some(self.last_swap_unix_ms),
        }
    }
}

/// Writes a PROCESSES frame row by row.
#[derive(Debug)]
pub struct ProcessPage<'o> {
    page: Page<'o>,
}

impl<'o> ProcessPage<'o> {
    /// Begins the frame that answers the question `request_id`.
    pub fn begin(request_id: u64, out: &'o mut Vec<u8>) -> Self {
        Self { page: Page::begin(Kind::Processes, request_id, out) }
    }

    /// Adds a row. False if the page is full: the row is not in it, and `more` is to be said at the end.
    pub fn push(&mut self, status: &ProcessStatus) -> bool {
        if usize::from(self.page.count) == LIST_PAGE_PROCESSES {
            return false;
        }
        self.page.push(|out| {
            put_process(out, &status.process);
            let pids = &status.worker_pids[..status.worker_pids.len().min(WORKERS_MAX)];
            out.push(status.state.code());
            out.push(u8::try_from(pids.len()).expect("at most 64 workers"));
            out.extend_from_slice(&status.workers.to_le_bytes());
            out.extend_from_slice(&status.lanes.to_le_bytes());
            out.extend_from_slice(&status.worker_restarts.to_le_bytes());
            for number in [status.calls_reported, status.stored_bytes, status.last_swap_unix_ms.unwrap_or_default()] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for pid in pids {
                out.extend_from_slice(&pid.to_le_bytes());
            }
            put_cut_text(out, status.last_exit.as_deref().unwrap_or_default(), WIRE_LAST_EXIT_BYTES_MAX);
        })
    }

    /// Ends the frame; `more` says that further processes follow.
    pub fn end(self, more: bool) {
        self.page.end(more);
    }
}

/// Asks for a page of the applications' names, in order. Answered by [`Applications`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListApplications {
    /// Of this question.
    pub request_id: u64,
    /// Names after this one; `None` starts at the beginning.
    pub after: Option<Name>,
}

impl ListApplications {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::ListApplications, body);
        let after = fields.optional_name("the application")?.parse().ok();
        fields.end(Self { request_id: header.request_id, after })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::ListApplications, 0, self.request_id, |out| {
            put_text(out, self.after.as_ref().map_or("", Name::as_str));
        });
    }
}

/// A page of applications' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applications<'a> {
    /// Of the question.
    pub request_id: u64,
    /// Whether further ones follow: ask again after the last one.
    pub more: bool,
    count: u16,
    rows: &'a [u8],
}

impl<'a> Applications<'a> {
    /// The page in `body`, every name of it checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Applications, body);
        let count = fields.u16()?;
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Applications, rows);
        for _ in 0..count {
            fields.name("an application")?;
        }
        fields.end(Self { request_id: header.request_id, more: header.flags & 1 != 0, count, rows })
    }

    /// The names of the page.
    pub fn names(&self) -> impl Iterator<Item = Name> + use<'a> {
        let mut fields = Fields::of(Kind::Applications, self.rows);
        (0..self.count).map_while(move |_| fields.name("an application").ok())
    }
}

/// Writes an APPLICATIONS frame name by name.
#[derive(Debug)]
pub struct ApplicationPage<'o> {
    page: Page<'o>,
}

impl<'o> ApplicationPage<'o> {
    /// Begins the frame that answers the question `request_id`.
    pub fn begin(request_id: u64, out: &'o mut Vec<u8>) -> Self {
        Self { page: Page::begin(Kind::Applications, request_id, out) }
    }

    /// Adds a name. False if the page is full: the name is not in it, and `more` is to be said at the end.
    pub fn push(&mut self, name: &Name) -> bool {
        self.page.push(|out| put_text(out, name.as_str()))
    }

    /// Ends the frame; `more` says that further names follow.
    pub fn end(self, more: bool) {
        self.page.end(more);
    }
}

/// A frame of a count, perhaps other fields, and as many rows as fit.
#[derive(Debug)]
pub(super) struct Page<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    count: u16,
}

impl<'o> Page<'o> {
    pub(super) fn begin(kind: Kind, request_id: u64, out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        frame(out, kind, 0, request_id, |out| out.extend_from_slice(&[0; 2]));
        Self { out, start, count: 0 }
    }

    /// Adds a field that stands before the rows.
    pub(super) fn put(&mut self, field: &[u8]) {
        self.out.extend_from_slice(field);
    }

    /// Rows so far.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Adds a row, unless the frame is full.
    pub(super) fn push(&mut self, row: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.out.len();
        row(self.out);
        if self.out.len() - self.start - HEADER_BYTES > WIRE_CONTROL_BODY_BYTES_MAX as usize {
            self.out.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }

    pub(super) fn end(self, more: bool) {
        self.end_with_flags(u8::from(more));
    }

    pub(super) fn end_with_flags(self, flags: u8) {
        let body_bytes = u32::try_from(self.out.len() - self.start - HEADER_BYTES).expect("each row was checked");
        let frame = &mut self.out[self.start..];
        frame[..4].copy_from_slice(&body_bytes.to_le_bytes());
        frame[5] = flags;
        frame[HEADER_BYTES..HEADER_BYTES + 2].copy_from_slice(&self.count.to_le_bytes());
    }
}

const _: () = {
    // A row of every field at its longest: a page that is full of bytes before it is full of rows is the rule's exception.
    let row = 2 + PROCESS_ID_BYTES_MAX + 2 + 8 + 32 + 4 * WORKERS_MAX + 2 + WIRE_LAST_EXIT_BYTES_MAX;
    assert!(row * 64 < WIRE_CONTROL_BODY_BYTES_MAX as usize, "a page always takes many rows");
};
