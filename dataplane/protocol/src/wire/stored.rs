//! STORAGE_USAGE, STORED: what storage holds of each process.

use crate::control::{ProcessState, StoredFolder, StoredPlace};
use crate::limits::{LIST_PAGE_PROCESSES, PROCESS_ID_BYTES_MAX, STORAGE_PLACE_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX};
use crate::wire::fields::{Fields, frame, put_cut_text, put_process, put_text};
use crate::wire::lists::Page;
use crate::wire::refusal::optional_state;
use crate::wire::{Header, Kind, WireError};

/// Asks for a page of what storage holds of the processes in the token's scope. Answered by [`Stored`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageUsage {
    /// Of this question.
    pub request_id: u64,
    /// What follows this process and life of it; `None` starts at the beginning.
    pub after: Option<StoredPlace>,
}

impl StorageUsage {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::StorageUsage, body);
        let incarnation = fields.u64()?;
        let process = fields.optional_process()?;
        if process.is_none() && incarnation != 0 {
            return Err(WireError::Value { field: "the life of no process", value: incarnation });
        }
        fields.end(Self { request_id: header.request_id, after: process.map(|process| (process, incarnation)) })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::StorageUsage, 0, self.request_id, |out| {
            out.extend_from_slice(&self.after.map_or(0, |(_, incarnation)| incarnation).to_le_bytes());
            match &self.after {
                Some((process, _)) => put_process(out, process),
                None => put_text(out, ""),
            }
        });
    }
}

/// A page of what storage holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Of the question.
    pub request_id: u64,
    /// Whether further ones follow: ask again after the last one.
    pub more: bool,
    /// Where it is: a path, or the address of a bucket.
    pub place: &'a str,
    count: u16,
    rows: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The page in `body`, every row of it checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Stored, body);
        let count = fields.u16()?;
        if usize::from(count) > LIST_PAGE_PROCESSES {
            return Err(WireError::Value { field: "the number of stored processes", value: u64::from(count) });
        }
        let place = fields.text("the place", STORAGE_PLACE_BYTES_MAX)?;
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Stored, rows);
        for _ in 0..count {
            parse_row(&mut fields)?;
        }
        fields.end(Self { request_id: header.request_id, more: header.flags & 1 != 0, place, count, rows })
    }

    /// The rows, in order of processes and their lives.
    pub fn folders(&self) -> impl Iterator<Item = StoredFolder> + use<'a> {
        let mut fields = Fields::of(Kind::Stored, self.rows);
        (0..self.count).map_while(move |_| parse_row(&mut fields).ok())
    }
}

/// Writes a STORED frame row by row.
#[derive(Debug)]
pub struct StoredPage<'o> {
    page: Page<'o>,
}

impl<'o> StoredPage<'o> {
    /// Begins the frame that answers the question `request_id`.
    pub fn begin(request_id: u64, place: &str, out: &'o mut Vec<u8>) -> Self {
        let mut page = Page::begin(Kind::Stored, request_id, out);
        let mut text = Vec::new();
        put_cut_text(&mut text, place, STORAGE_PLACE_BYTES_MAX);
        page.put(&text);
        Self { page }
    }

    /// Adds a row. False if the page is full: the row is not in it, and `more` is to be said at the end.
    pub fn push(&mut self, folder: &StoredFolder) -> bool {
        if usize::from(self.page.count()) == LIST_PAGE_PROCESSES {
            return false;
        }
        self.page.push(|out| {
            put_process(out, &folder.process);
            out.push(folder.state.map_or(0, ProcessState::code));
            for number in [folder.incarnation, folder.blobs, folder.bytes, folder.leftover_bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        })
    }

    /// Ends the frame; `more` says that further rows follow.
    pub fn end(self, more: bool) {
        self.page.end(more);
    }
}

fn parse_row(fields: &mut Fields<'_>) -> Result<StoredFolder, WireError> {
    let process = fields.process()?;
    let state = optional_state(fields.u8()?)?;
    let [incarnation, blobs, bytes, leftover_bytes] = [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
    Ok(StoredFolder { process, state, incarnation, blobs, bytes, leftover_bytes })
}

const _: () = {
    let row = 2 + PROCESS_ID_BYTES_MAX + 1 + 32;
    let head = 2 + 2 + STORAGE_PLACE_BYTES_MAX;
    assert!(head + row * LIST_PAGE_PROCESSES <= WIRE_CONTROL_BODY_BYTES_MAX as usize, "a page always fits");
};
