//! How a message is sent: offered to the room until it is known that the receiver has it, or that it has not.
//!
//! An attempt of which nobody knows how it ended is repeated with the same number, and the receiver recognises it. Only while
//! every attempt was certainly refused may a message change its number, which it must if others have overtaken it by far.
//!
//! Numbers begin with the time in nanoseconds, so a program that resumes a session goes on above all that an earlier one has
//! used. Should a clock have been put back meanwhile, the receiver finds that a message has an old number although it was never
//! offered before: then numbers go on far above.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use praas_protocol::message::{Accepted, codes};
use praas_protocol::session::{SEND_FUNCTION, SendHead};
use praas_protocol::{Address, CallError, Key, MessageId};

use super::error::SendError;
use super::room::{Attempts, Room, Setback, nanoseconds};
use crate::function::Function;
use crate::limits::STATE_COPIED_BYTES;
use crate::reply::Reply;

const SEND: Function<'static> = Function::new(SEND_FUNCTION);

/// The first leap after a number that was used before: some 18 minutes of nanoseconds. Each further one is twice as long.
const LEAP_FIRST: u64 = 1 << 40;

/// Numbers are taken anew so many times for one message: the leaps add up to 2⁶⁰, and none is needed where clocks go on.
const LEAPS_MAX: u32 = 20;

/// The numbers of a session's messages.
#[derive(Debug)]
pub(super) struct Sequences(AtomicU64);

impl Sequences {
    /// Above those that any earlier program has used.
    pub(super) fn begin() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(AtomicU64::new(nanoseconds(since_1970).max(1)))
    }

    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// A number far above `used`, which was used before, and above all others that were given.
    fn leap(&self, used: u64, leaps: u32) -> u64 {
        let far = used.saturating_add(LEAP_FIRST << leaps);
        self.0.fetch_max(far, Ordering::Relaxed);
        self.next()
    }
}

/// A message on its way to somebody.
pub(super) struct Letter<'a> {
    to: Address,
    key: Key<'a>,
    bytes: &'a [u8],
    id: MessageId,
    /// Whether an attempt may have been successful of which that is not known.
    may_be_there: bool,
    /// Whether it waits for room in the receiver's mailbox.
    waits: bool,
    attempts: Attempts,
    leaps: u32,
}

/// What an attempt came to, unless the message is there.
enum Next {
    /// Offer it again, at the end of the time fail so.
    Again(SendError),
    /// That is the end.
    End(SendError),
}

impl<'a> Letter<'a> {
    /// The first attempt is still to come.
    pub(super) fn new(to: Address, key: Key<'a>, bytes: &'a [u8], id: MessageId, limit: Duration) -> Self {
        Self { to, key, bytes, id, may_be_there: false, waits: false, attempts: Attempts::within(limit), leaps: 0 }
    }

    /// It waits for room.
    pub(super) fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// It was tried before, and nobody knows how that ended.
    pub(super) fn repeated(self) -> Self {
        Self { may_be_there: true, ..self }
    }

    /// Offers it until its fate is known, or its time is over.
    pub(super) fn send(mut self, room: &Room, sequences: &Sequences) -> Result<MessageId, SendError> {
        loop {
            let next = match self.offer(room) {
                Ok(answer) => match Accepted::from_answer(&answer) {
                    Some(Accepted::Before) if !self.may_be_there => self.take_other_number(sequences),
                    Some(Accepted::Now | Accepted::Before) => return Ok(self.id),
                    None => self.refused(0, "the server's answer is none that it gives".to_owned()),
                },
                Err(Setback::Failed { code: codes::TOO_OLD, .. }) if !self.may_be_there => {
                    self.take_other_number(sequences)
                }
                Err(setback) => self.next(setback),
            };
            match next {
                Next::Again(_) if self.attempts.pause() => {}
                Next::Again(error) | Next::End(error) => return Err(self.or_unknown(error)),
            }
        }
    }

    /// Its number is another message's, or too old for one that was never offered.
    fn take_other_number(&mut self, sequences: &Sequences) -> Next {
        let reason = "the numbers of its messages are used up: begin another session";
        if self.leaps == LEAPS_MAX {
            return Next::End(self.unavailable(reason));
        }
        self.id.sequence = sequences.leap(self.id.sequence, self.leaps);
        self.leaps += 1;
        Next::Again(self.unavailable(reason))
    }

    fn offer(&self, room: &Room) -> Result<Reply, Setback> {
        let left = self.attempts.left();
        let within_ns = if self.waits { nanoseconds(left) } else { 0 };
        let (sequence, again) = (self.id.sequence, self.may_be_there);
        let head = SendHead { to: self.to, sequence, within_ns, again, key: self.key };
        if self.bytes.len() <= STATE_COPIED_BYTES {
            return room.ask(SEND, head.encode(self.bytes), left);
        }
        let head = head.encode_head();
        let mut loan = room.loan(head.len().saturating_add(self.bytes.len()), self.attempts.end())?;
        let written = loan.write_at(0, &head).and_then(|()| loan.write_at(head.len(), self.bytes));
        written.map_err(Setback::Ended)?;
        room.ask(SEND, loan, left)
    }

    fn next(&mut self, setback: Setback) -> Next {
        match setback {
            Setback::Again { may_have_run, error } => {
                self.may_be_there |= may_have_run;
                Next::Again(self.unavailable(&error.to_string()))
            }
            Setback::TimeOver | Setback::Unanswered => {
                self.may_be_there = true;
                Next::End(self.unknown())
            }
            Setback::Failed { code, message } => self.failed(code, message),
            Setback::NoWay(error) => Next::End(error.into()),
            Setback::Ended(CallError::Unauthorized { .. }) => Next::End(SendError::Unauthorized { to: self.to }),
            Setback::Ended(CallError::PayloadTooLarge { limit_bytes, actual_bytes }) => {
                let head_bytes = SendHead::bytes_before_payload(&self.key) as u64;
                let less_head = |bytes: u64| bytes.saturating_sub(head_bytes);
                let (limit_bytes, actual_bytes) = (less_head(limit_bytes), less_head(actual_bytes));
                Next::End(SendError::TooLarge { limit_bytes, actual_bytes })
            }
            Setback::Ended(error) => self.refused(0, error.to_string()),
        }
    }

    fn failed(&self, code: u32, message: String) -> Next {
        let (to, waited) = (self.to, self.attempts.waited());
        match code {
            codes::MAILBOX_FULL => {
                let full = SendError::MailboxFull { to, waited, message };
                if self.waits { Next::Again(full) } else { Next::End(full) }
            }
            codes::BUSY => Next::Again(self.unavailable(&message)),
            codes::NO_DESTINATION => Next::End(SendError::UnknownDestination { to }),
            codes::TOO_OLD => Next::End(SendError::TooOld { to, id: self.id }),
            code => self.refused(code, message),
        }
    }

    /// An error, unless an earlier attempt may have been successful: then nobody knows.
    fn or_unknown(&self, error: SendError) -> SendError {
        match error {
            // The receiver's word on all attempts.
            SendError::TooOld { .. } => error,
            _ if self.may_be_there => self.unknown(),
            error => error,
        }
    }

    fn unknown(&self) -> SendError {
        SendError::Unknown { to: self.to, id: self.id }
    }

    fn unavailable(&self, reason: &str) -> SendError {
        SendError::Unavailable { to: self.to, waited: self.attempts.waited(), reason: reason.to_owned() }
    }

    fn refused(&self, code: u32, message: String) -> Next {
        Next::End(SendError::Refused { to: self.to, code, message })
    }
}
