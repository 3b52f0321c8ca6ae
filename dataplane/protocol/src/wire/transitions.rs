//! WATCH_TRANSITIONS, TRANSITIONS: what happens in the lives of processes, as it happens.

use crate::ProcessId;
use crate::control::{ProcessState, Transition};
use crate::limits::{
    LIST_PAGE_PROCESSES, PROCESS_ID_BYTES_MAX, TRANSITION_REASON_BYTES_MAX, WIRE_CONTROL_BODY_BYTES_MAX,
};
use crate::wire::fields::{Fields, frame, put_cut_text, put_process, put_text};
use crate::wire::lists::Page;
use crate::wire::refusal::optional_state;
use crate::wire::{Header, Kind, WireError};

/// The question has a number to go on after; without, only the number of the last transition is asked for.
const FLAG_GO_ON: u8 = 1;

/// Asks what happens to one process or to all in the token's scope. Answered by [`Transitions`], at once if there is anything,
/// otherwise at the next transition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchTransitions {
    /// Of this question.
    pub request_id: u64,
    /// One process; `None` for all.
    pub process: Option<ProcessId>,
    /// Transitions after this number; `None` is answered at once, with none and the number of the last one.
    pub after: Option<u64>,
}

impl WatchTransitions {
    /// The question in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::WatchTransitions, body);
        let number = fields.u64()?;
        let after = (header.flags & FLAG_GO_ON != 0).then_some(number);
        if after.is_none() && number != 0 {
            return Err(WireError::Value { field: "the number after which nobody goes on", value: number });
        }
        let process = fields.optional_process()?;
        fields.end(Self { request_id: header.request_id, process, after })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.after.is_some() { FLAG_GO_ON } else { 0 };
        frame(out, Kind::WatchTransitions, flags, self.request_id, |out| {
            out.extend_from_slice(&self.after.unwrap_or_default().to_le_bytes());
            match &self.process {
                Some(process) => put_process(out, process),
                None => put_text(out, ""),
            }
        });
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transitions<'a> {
    /// Of the question.
    pub request_id: u64,
    /// The number of the last transition that was looked at: what to ask for next.
    pub upto: u64,
    /// Transitions of all processes that the server has forgotten before it was asked for them.
    pub lost: u64,
    count: u16,
    rows: &'a [u8],
}

impl<'a> Transitions<'a> {
    /// The transitions in `body`, every one of them checked.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Transitions, body);
        let count = fields.u16()?;
        if usize::from(count) > LIST_PAGE_PROCESSES {
            return Err(WireError::Value { field: "the number of transitions", value: u64::from(count) });
        }
        let (upto, lost) = (fields.u64()?, fields.u64()?);
        let rows = fields.rest();
        let mut fields = Fields::of(Kind::Transitions, rows);
        for _ in 0..count {
            parse_row(&mut fields)?;
        }
        fields.end(Self { request_id: header.request_id, upto, lost, count, rows })
    }

    /// The transitions, oldest first.
    pub fn transitions(&self) -> impl Iterator<Item = Transition> + use<'a> {
        let mut fields = Fields::of(Kind::Transitions, self.rows);
        (0..self.count).map_while(move |_| parse_row(&mut fields).ok())
    }
}

/// Writes a TRANSITIONS frame row by row.
#[derive(Debug)]
pub struct TransitionPage<'o> {
    page: Page<'o>,
}

impl<'o> TransitionPage<'o> {
    /// Begins the frame that answers the question `request_id`.
    pub fn begin(request_id: u64, upto: u64, lost: u64, out: &'o mut Vec<u8>) -> Self {
        let mut page = Page::begin(Kind::Transitions, request_id, out);
        page.put(&upto.to_le_bytes());
        page.put(&lost.to_le_bytes());
        Self { page }
    }

    /// Adds a row. False if the page is full: the row is not in it.
    pub fn push(&mut self, transition: &Transition) -> bool {
        if usize::from(self.page.count()) == LIST_PAGE_PROCESSES {
            return false;
        }
        self.page.push(|out| {
            let code = |state: Option<ProcessState>| state.map_or(0, ProcessState::code);
            put_process(out, &transition.process);
            out.extend_from_slice(&[code(transition.from), code(transition.to)]);
            for number in [transition.number, transition.at_unix_ms, transition.took_us, transition.bytes] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            put_cut_text(out, &transition.reason, TRANSITION_REASON_BYTES_MAX);
        })
    }

    /// Ends the frame.
    pub fn end(self) {
        self.page.end(false);
    }
}

fn parse_row(fields: &mut Fields<'_>) -> Result<Transition, WireError> {
    let process = fields.process()?;
    let (from, to) = (optional_state(fields.u8()?)?, optional_state(fields.u8()?)?);
    Ok(Transition {
        process,
        from,
        to,
        number: fields.u64()?,
        at_unix_ms: fields.u64()?,
        took_us: fields.u64()?,
        bytes: fields.u64()?,
        reason: fields.text("the reason", TRANSITION_REASON_BYTES_MAX)?.to_owned(),
    })
}

const _: () = {
    let row = 2 + PROCESS_ID_BYTES_MAX + 2 + 32 + 2 + TRANSITION_REASON_BYTES_MAX;
    assert!(
        18 + row * LIST_PAGE_PROCESSES <= WIRE_CONTROL_BODY_BYTES_MAX as usize,
        "a page of transitions always fits"
    );
};
