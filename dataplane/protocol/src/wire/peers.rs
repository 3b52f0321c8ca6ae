//! OPEN_AS, WATCH, CHANGES: what one server asks of another.
//!
//! A server that was given a token of another one is that one's client. By OPEN_AS it comes to a process or session there in
//! the name of one of its own processes; by WATCH it learns what there is to come to.

use crate::Name;
use crate::control::{DirectoryEntry, ProcessState};
use crate::limits::{LIST_PAGE_PROCESSES, PAYLOAD_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX};
use crate::message::{ADDRESS_BYTES, Address};
use crate::wire::fields::{Fields, frame, put_text};
use crate::wire::lists::Page;
use crate::wire::refusal::optional_state;
use crate::wire::{Header, Kind, WireError};

/// Asks for a handle to a process or session, in the name of a process or session of the asking server. Answered by
/// [`crate::wire::Opened`] or a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenAs {
    /// Of this question.
    pub request_id: u64,
    /// Largest payload that is to be sent, in bytes; 0 takes the application's limit.
    pub payload_bytes_max: u32,
    /// Calls in flight that are wanted; 0 takes the server's choice.
    pub in_flight_max: u32,
    /// Random, chosen when the asking server started.
    pub instance: u64,
    /// Counts the links of that instance to the other server: what comes with a lower number than one that was seen is late.
    pub generation: u64,
    /// Which life of the source: the one that its messages' ids name.
    pub incarnation: u64,
    /// The application of both.
    pub application: Name,
    /// In whose name: its calls have it as their principal, its messages as their source.
    pub source: Address,
    /// Whom the handle leads to.
    pub to: Address,
}

impl OpenAs {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::OpenAs, body);
        let question = Self {
            request_id: header.request_id,
            payload_bytes_max: fields.u32()?,
            in_flight_max: fields.u32()?,
            instance: fields.u64()?,
            generation: fields.u64()?,
            incarnation: fields.u64()?,
            source: address(&mut fields, "the source")?,
            to: address(&mut fields, "the destination")?,
            application: fields.name("the application")?,
        };
        if question.payload_bytes_max > PAYLOAD_BYTES_MAX {
            let value = u64::from(question.payload_bytes_max);
            return Err(WireError::Value { field: "payload_bytes_max", value });
        }
        fields.end(question)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::OpenAs, 0, self.request_id, |out| {
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.in_flight_max.to_le_bytes());
            for number in [self.instance, self.generation, self.incarnation] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&self.source.to_bytes());
            out.extend_from_slice(&self.to.to_bytes());
            put_text(out, self.application.as_str());
        });
    }
}

/// Asks what changed among the processes and sessions in the token's scope. Answered by [`Changes`], at once if there is
/// anything, otherwise at the next change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Of this question.
    pub request_id: u64,
    /// The change up to which the client knows, on this connection; 0 for all there is.
    pub after: u64,
}

impl Watch {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Watch, body);
        let after = fields.u64()?;
        fields.end(Self { request_id: header.request_id, after })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, Kind::Watch, 0, self.request_id, |out| out.extend_from_slice(&self.after.to_le_bytes()));
    }
}

const FLAG_MORE: u8 = 1;
const FLAG_WHOLE: u8 = 2;

/// What changed, or all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Of the question.
    pub request_id: u64,
    /// The number of the last change that is in here: what to ask for next.
    pub upto: u64,
    /// Whether this begins a list of all there is: what is neither in it nor in what follows is gone.
    pub is_whole: bool,
    /// Whether more follows at once, when it is asked for.
    pub more: bool,
    count: u16,
    rows: &'a [u8],
}

impl<'a> Changes<'a> {
    /// The changes in `body`, every one of them checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Changes, body);
        let count = fields.u16()?;
        if usize::from(count) > LIST_PAGE_PROCESSES {
            return Err(WireError::Value { field: "the number of changes", value: u64::from(count) });
        }
        let upto = fields.u64()?;
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Changes, rows);
        for _ in 0..count {
            parse_row(&mut fields)?;
        }
        let (is_whole, more) = (header.flags & FLAG_WHOLE != 0, header.flags & FLAG_MORE != 0);
        fields.end(Self { request_id: header.request_id, upto, is_whole, more, count, rows })
    }

    /// The changes, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = DirectoryEntry> + use<'a> {
        let mut fields = Fields::of(Kind::Changes, self.rows);
        (0..self.count).map_while(move |_| parse_row(&mut fields).ok())
    }
}

/// Writes a CHANGES frame entry by entry.
#[derive(Debug)]
pub struct ChangesPage<'o> {
    page: Page<'o>,
    is_whole: bool,
}

impl<'o> ChangesPage<'o> {
    /// Begins the frame that answers the question `request_id`.
    pub fn begin(request_id: u64, upto: u64, is_whole: bool, out: &'o mut Vec<u8>) -> Self {
        let mut page = Page::begin(Kind::Changes, request_id, out);
        page.put(&upto.to_le_bytes());
        Self { page, is_whole }
    }

    /// Adds an entry. False if the page is full: the entry is not in it.
    pub fn push(&mut self, entry: &DirectoryEntry) -> bool {
        if usize::from(self.page.count()) == LIST_PAGE_PROCESSES {
            return false;
        }
        self.page.push(|out| {
            out.push(entry.state.map_or(0, ProcessState::code));
            out.extend_from_slice(&entry.address.to_bytes());
            put_text(out, entry.application.as_str());
        })
    }

    /// Ends the frame; `more` says that more follows at once, when it is asked for.
    pub fn end(self, more: bool) {
        let whole = if self.is_whole { FLAG_WHOLE } else { 0 };
        self.page.end_with_flags(whole | if more { FLAG_MORE } else { 0 });
    }
}

fn parse_row(fields: &mut Fields<'_>) -> Result<DirectoryEntry, WireError> {
    let state = optional_state(fields.u8()?)?;
    let address = address(fields, "an address")?;
    Ok(DirectoryEntry { application: fields.name("the application")?, address, state })
}

/// A process or session, in 64 bytes.
pub(super) fn address(fields: &mut Fields<'_>, field: &'static str) -> Result<Address, WireError> {
    let bytes = fields.array::<ADDRESS_BYTES>()?;
    Address::from_bytes(&bytes).ok_or(WireError::Value { field, value: u64::from(bytes[0]) })
}

const _: () = {
    let row = 1 + ADDRESS_BYTES + 2 + crate::limits::NAME_BYTES_MAX;
    assert!(10 + row * LIST_PAGE_PROCESSES <= WIRE_CONTROL_BODY_BYTES_MAX as usize, "a page of changes always fits");
};
