//! STATS and COUNTS: what is counted of one process, a page of its functions at a time.
//!
//! As with other pages, every row is checked when the frame is parsed, so going through them cannot fail.

use crate::ProcessId;
use crate::control::{FunctionStats, ProcessStats};
use crate::limits::{FUNCTIONS_MAX, NAME_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX};
use crate::wire::fields::{Fields, frame, put_process, put_text};
use crate::wire::lists::Page;
use crate::wire::{Header, Kind, WireError};

/// Asks for what is counted of a process. Answered by [`Counts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats<'a> {
    /// Of this question.
    pub request_id: u64,
    /// The process.
    pub process: ProcessId,
    /// Functions after this name; empty starts at the beginning. Borrowed, because every item of a decoder is as large as
    /// the largest.
    pub after: &'a str,
}

impl<'a> Stats<'a> {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Stats, body);
        let process = fields.process()?;
        let after = fields.optional_name("the function")?;
        fields.end(Self { request_id: header.request_id, process, after })
    }

    /// Appends the frame.
    ///
    /// # Panics
    /// If `after` is far longer than a name.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Stats, 0, self.request_id, |out| {
            put_process(out, &self.process);
            put_text(out, self.after);
        });
    }
}

/// What is counted of a process, with a page of its functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts<'a> {
    /// Of the question.
    pub request_id: u64,
    /// Whether further functions follow: ask again after the last one.
    pub more: bool,
    /// Requests that lie unclaimed in its lanes.
    pub queued: u64,
    /// Calls that its workers run.
    pub running: u64,
    /// Open lanes.
    pub lanes: u64,
    /// Times a worker was replaced after it died.
    pub worker_restarts: u64,
    count: u16,
    rows: &'a [u8],
}

impl<'a> Counts<'a> {
    /// The answer in `body`, every row of it checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Counts, body);
        let count = fields.u16()?;
        if usize::from(count) > FUNCTIONS_MAX {
            return Err(WireError::Value { field: "the number of functions in a page", value: u64::from(count) });
        }
        let (queued, running) = (fields.u64()?, fields.u64()?);
        let (lanes, worker_restarts) = (fields.u64()?, fields.u64()?);
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Counts, rows);
        for _ in 0..count {
            parse_row(&mut fields)?;
        }
        let more = header.flags & 1 != 0;
        fields.end(Self { request_id: header.request_id, more, queued, running, lanes, worker_restarts, count, rows })
    }

    /// The functions of the page, in order of their names.
    pub fn functions(&self) -> impl Iterator<Item = FunctionStats> + use<'a> {
        let mut fields = Fields::of(Kind::Counts, self.rows);
        (0..self.count).map_while(move |_| parse_row(&mut fields).ok())
    }

    /// The same with memory of its own.
    #[must_use]
    pub fn to_stats(&self) -> ProcessStats {
        let &Self { queued, running, lanes, worker_restarts, .. } = self;
        ProcessStats { functions: self.functions().collect(), queued, running, lanes, worker_restarts }
    }
}

fn parse_row(fields: &mut Fields<'_>) -> Result<FunctionStats, WireError> {
    Ok(FunctionStats {
        function: fields.name("a function")?,
        calls: fields.u64()?,
        failed: fields.u64()?,
        timed: fields.u64()?,
        mean_ns: fields.u64()?,
        p50_ns: fields.u64()?,
        p99_ns: fields.u64()?,
        p999_ns: fields.u64()?,
        max_ns: fields.u64()?,
    })
}

/// Writes a COUNTS frame row by row.
#[derive(Debug)]
pub struct CountsPage<'o> {
    page: Page<'o>,
}

impl<'o> CountsPage<'o> {
    /// Begins the frame that answers the question `request_id`: what `stats` says of the process, without its functions.
    pub fn begin(request_id: u64, stats: &ProcessStats, out: &'o mut Vec<u8>) -> Self {
        let mut page = Page::begin(Kind::Counts, request_id, out);
        for number in [stats.queued, stats.running, stats.lanes, stats.worker_restarts] {
            page.put(&number.to_le_bytes());
        }
        Self { page }
    }

    /// Adds a function. False if the page is full: it is not in it, and `more` is to be said at the end.
    pub fn push(&mut self, row: &FunctionStats) -> bool {
        if usize::from(self.page.count()) == FUNCTIONS_MAX {
            return false;
        }
        self.page.push(|out| {
            put_text(out, row.function.as_str());
            let counts = [row.calls, row.failed, row.timed];
            let times_ns = [row.mean_ns, row.p50_ns, row.p99_ns, row.p999_ns, row.max_ns];
            for number in counts.into_iter().chain(times_ns) {
                out.extend_from_slice(&number.to_le_bytes());
            }
        })
    }

    /// Ends the frame; `more` says that further functions follow.
    pub fn end(self, more: bool) {
        self.page.end(more);
    }
}

const _: () = {
    let row = 2 + NAME_BYTES_MAX + 8 * 8;
    assert!(34 + row * 500 < WIRE_CONTROL_BODY_BYTES_MAX as usize, "few processes need a second page");
};
