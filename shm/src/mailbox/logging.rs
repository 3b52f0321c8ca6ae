//! What the log ring is told of messages: a record in each transaction that puts one into a queue or removes some.
//!
//! Without a log each of these is one predictable branch. A process that is logged has no message lanes, so every payload
//! lies in the message's own block.

use std::time::Duration;

use praas_protocol::message::ADDRESS_BYTES;

use crate::log_ring::writer::LogWriter;
use crate::log_ring::{PIECE_BYTES, record as encode};
use crate::objects::error::StateError;
use crate::objects::logging::{WantsRoom, padded, stream};
use crate::objects::transaction::Transaction;

use super::error::MailError;
use super::limits::MESSAGES_BOUND;
use super::message::{PayloadAt, Stored};
use super::name::{ADDRESS_WORDS, KeyText, Source};

/// The message is queued by this transaction; `filtered_at_s`: when, if its source may repeat.
#[inline]
pub(crate) fn arrived(
    transaction: &mut Transaction<'_>,
    message: Stored,
    source: &Source,
    key: KeyText<'_>,
    filtered_at_s: Option<u64>,
) -> Result<(), StateError> {
    match transaction.space().log {
        None => Ok(()),
        Some(log) => arrived_record(log, transaction, message, source, key, filtered_at_s),
    }
}

#[inline(never)]
fn arrived_record(
    log: &LogWriter,
    transaction: &mut Transaction<'_>,
    message: Stored,
    source: &Source,
    key: KeyText<'_>,
    filtered_at_s: Option<u64>,
) -> Result<(), StateError> {
    let space = transaction.space();
    let PayloadAt::Segment { offset, bytes: payload_bytes } = message.payload(space)? else {
        return Err(StateError::corrupt("message of a lane in a process that is logged", message.place.at()));
    };
    let in_pieces = payload_bytes > PIECE_BYTES;
    let bytes = encode::ARRIVED_BYTES + padded(key.bytes.len()) + if in_pieces { 0 } else { padded(payload_bytes) };
    let head = encode::Head { stream: in_pieces.then(|| stream(space)), ..encode::Head::of(encode::Kind::Arrived) };
    let id = message.id(space);
    let mut record = log.append(transaction, bytes)?;
    record.word(head.word(bytes));
    record.word(message.arrival(space));
    record.word(id.incarnation);
    record.word(id.sequence);
    record.word(filtered_at_s.map_or(0, |now_s| now_s.saturating_add(1)));
    record.word(key.bytes.len() as u64 | (payload_bytes as u64) << 32);
    source.words.iter().for_each(|&word| record.word(word));
    record.bytes(key.bytes);
    if !in_pieces {
        let payload = space.words.bytes(offset, payload_bytes);
        // SAFETY: `bytes` checks that the payload lies inside the segment, which is no ring.
        unsafe { record.shared(payload, payload_bytes) };
    }
    record.finish();
    Ok(())
}

/// The message, of a list that leads from the last one to the first, and all before it are removed by this transaction, at
/// this position: `count` of them, or one.
#[inline]
pub(crate) fn removed(transaction: &mut Transaction<'_>, message: Stored, position: u64) -> Result<(), StateError> {
    match transaction.space().log {
        None => Ok(()),
        Some(log) => removed_record(log, transaction, position, 1, [Ok(message)].into_iter()),
    }
}

/// The same of all that a row's call holds, of which `last` is the last.
#[inline]
pub(crate) fn removed_all(
    transaction: &mut Transaction<'_>,
    last: Option<Stored>,
    position: u64,
) -> Result<(), StateError> {
    let space = transaction.space();
    let Some(log) = space.log else { return Ok(()) };
    let mut count = 0;
    for message in held(space, last) {
        message?;
        count += 1;
    }
    removed_record(log, transaction, position, count, held(space, last))
}

/// The messages of a row's list from the last to the first.
fn held(
    space: crate::objects::words::Space<'_>,
    last: Option<Stored>,
) -> impl Iterator<Item = Result<Stored, StateError>> {
    let mut next = last.map(Ok);
    let mut left = MESSAGES_BOUND + 1;
    std::iter::from_fn(move || {
        let message = match next.take()? {
            Ok(message) => message,
            Err(error) => return Some(Err(error)),
        };
        left -= 1;
        let before = message.before(space);
        next = match before {
            0 => None,
            _ if left == 0 => Some(Err(StateError::corrupt("list of held messages", message.place.at()))),
            number => Some(Stored::checked(space, number, message.place.at())),
        };
        Some(Ok(message))
    })
}

#[inline(never)]
fn removed_record(
    log: &LogWriter,
    transaction: &mut Transaction<'_>,
    position: u64,
    count: usize,
    messages: impl Iterator<Item = Result<Stored, StateError>>,
) -> Result<(), StateError> {
    let space = transaction.space();
    let bytes = encode::HEAD_BYTES + 8 * count;
    let mut record = log.append(transaction, bytes)?;
    record.word(encode::Head::of(encode::Kind::Removed).word(bytes));
    record.word(position);
    for message in messages {
        record.word(message?.arrival(space));
    }
    record.finish();
    Ok(())
}

impl WantsRoom for MailError {
    #[inline]
    fn wanted_bytes(&self) -> Option<u64> {
        match self {
            Self::LogFull { needed_bytes, .. } => Some(*needed_bytes),
            _ => None,
        }
    }

    fn after(self, waited: Duration) -> Self {
        match self {
            Self::LogFull { needed_bytes, free_bytes, capacity_bytes, .. } => {
                Self::LogFull { needed_bytes, free_bytes, capacity_bytes, waited }
            }
            other => other,
        }
    }
}

const _: () = assert!(ADDRESS_WORDS * 8 == ADDRESS_BYTES);
