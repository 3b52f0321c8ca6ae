//! What the log ring is told of objects: a record in each transaction that changes one.
//!
//! Without a log each of these is one predictable branch.

use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::log_ring::writer::LogWriter;
use crate::log_ring::{PIECE_BYTES, record as encode};

use super::error::StateError;
use super::granule::Granule;
use super::limits::ROWS;
use super::lock::{self, LockOwner};
use super::object::Placed;
use super::transaction::Transaction;
use super::words::Space;

/// The object at `place` is published by this transaction. All of it is written but the entry that names it.
#[inline]
pub(crate) fn put(transaction: &mut Transaction<'_>, place: Granule) -> Result<(), StateError> {
    match transaction.space().log {
        None => Ok(()),
        Some(log) => put_record(log, transaction, place),
    }
}

#[inline(never)]
fn put_record(log: &LogWriter, transaction: &mut Transaction<'_>, place: Granule) -> Result<(), StateError> {
    let space = transaction.space();
    let object = Placed::read(space, place)?;
    let header = object.header(space);
    let in_pieces = object.value().bytes > PIECE_BYTES;
    let bytes =
        encode::PUT_BYTES + padded(object.key_bytes()) + if in_pieces { 0 } else { padded(object.value().bytes) };
    let head = encode::Head {
        namespace: object.namespace().0,
        encoding: header.meta.encoding.code(),
        stream: in_pieces.then(|| stream(space)),
        ..encode::Head::of(encode::Kind::Put)
    };
    let mut record = log.append(transaction, bytes)?;
    record.word(head.word(bytes));
    record.word(header.version);
    record.word(header.meta.type_id);
    record.word(u64::from(header.value_bytes) | u64::from(header.meta.schema_version) << 32);
    record.word(header.modified_unix_ms);
    record.word(object.key_bytes() as u64);
    object.key_words(space).for_each(|word| record.word(word));
    if !in_pieces {
        let value = space.words.bytes(object.value().offset, object.value().bytes);
        // SAFETY: `bytes` checks that the value lies inside the segment, which is no ring.
        unsafe { record.shared(value, object.value().bytes) };
    }
    record.finish();
    Ok(())
}

/// The object is deleted by this transaction, at this position.
#[inline]
pub(crate) fn deleted(transaction: &mut Transaction<'_>, object: &Placed, position: u64) -> Result<(), StateError> {
    match transaction.space().log {
        None => Ok(()),
        Some(log) => deleted_record(log, transaction, object, position),
    }
}

#[inline(never)]
fn deleted_record(
    log: &LogWriter,
    transaction: &mut Transaction<'_>,
    object: &Placed,
    position: u64,
) -> Result<(), StateError> {
    let space = transaction.space();
    let bytes = encode::DELETED_BYTES + padded(object.key_bytes());
    let head = encode::Head { namespace: object.namespace().0, ..encode::Head::of(encode::Kind::Deleted) };
    let mut record = log.append(transaction, bytes)?;
    record.word(head.word(bytes));
    record.word(position);
    record.word(object.key_bytes() as u64);
    object.key_words(space).for_each(|word| record.word(word));
    record.finish();
    Ok(())
}

/// Logs `bytes` at `place` ahead of the record that will name them, if they are too long for it. To be called without the
/// lock, by whom nobody disturbs at filling them.
///
/// # Safety
/// `place` must be mapped and readable for `bytes` for as long as this takes, and not lie in a ring.
pub(crate) unsafe fn pieces(
    space: Space<'_>,
    owner: LockOwner,
    patience: Duration,
    place: NonNull<u8>,
    bytes: usize,
) -> Result<(), StateError> {
    let Some(log) = space.log.filter(|_| bytes > PIECE_BYTES) else { return Ok(()) };
    for start in (0..bytes).step_by(PIECE_BYTES) {
        let count = PIECE_BYTES.min(bytes - start);
        with_room(space, patience, || {
            let locked = lock::acquire(space, owner, patience)?;
            let mut transaction = Transaction::begin(&locked)?;
            let record_bytes = encode::PIECE_HEAD_BYTES + padded(count);
            let head = encode::Head { stream: Some(stream(space)), ..encode::Head::of(encode::Kind::Piece) };
            let mut record = log.append(&mut transaction, record_bytes)?;
            record.word(head.word(record_bytes));
            record.word(0);
            record.word(count as u64);
            record.word(start as u64);
            // SAFETY: within the range that the caller promises.
            unsafe { record.shared(place.add(start), count) };
            record.finish();
            transaction.commit();
            Ok(())
        })?;
    }
    Ok(())
}

/// Does `attempt`, which takes the lock by itself, again after each time that the ring had no room, as long as the patience
/// lasts.
#[inline]
pub(crate) fn with_room<T, E: WantsRoom>(
    space: Space<'_>,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match attempt() {
        Err(error) if error.wanted_bytes().is_some() => wait_and_repeat(space, patience, attempt, error),
        done => done,
    }
}

#[cold]
fn wait_and_repeat<T, E: WantsRoom>(
    space: Space<'_>,
    patience: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
    mut refused: E,
) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        let (Some(log), Some(wanted_bytes)) = (space.log, refused.wanted_bytes()) else { return Err(refused) };
        if !log.wait_for_room(space, wanted_bytes, begun + patience) {
            return Err(refused.after(begun.elapsed()));
        }
        match attempt() {
            Err(error) if error.wanted_bytes().is_some() => refused = error,
            done => return done,
        }
    }
}

/// A refusal that may be one for want of room in the ring.
pub(crate) trait WantsRoom {
    /// How much was wanted, if it is.
    fn wanted_bytes(&self) -> Option<u64>;

    /// The same after a wait.
    fn after(self, waited: Duration) -> Self;
}

impl WantsRoom for StateError {
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

/// Pieces of each row are a stream of their own: a row fills one thing at a time.
pub(crate) fn stream(space: Space<'_>) -> u8 {
    match lock::owner(space) {
        LockOwner::Worker(tag) => tag.index(),
        _ => u8::try_from(ROWS - 1).expect("rows are fewer than 256"),
    }
}

/// Bytes to the end of their last word.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}
