//! Messages and sources that come back from elsewhere, as they were. Nothing of it is a mutation: no position is taken and
//! nothing is logged. Nobody else has the segment yet.

use praas_protocol::message::{ADDRESS_BYTES, Address};

use crate::log_ring::{KeptMessage, KeptSource};
use crate::objects::error::StateError;
use crate::objects::layout::header::{HASH_SEED, MAIL_SEQUENCE, MAIL_TABLE};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;

use super::filter::Remembered;
use super::message::{LanePlace, Payload, Stored};
use super::name::{KeyText, QueueName, Source};
use super::queue::Queue;
use super::table::Table;

/// A message goes to the end of its queue, as the one that came at position `arrival`. Its payload lies in a lane, if a place is
/// given.
pub(crate) fn message(
    locked: &Locked<'_>,
    message: &KeptMessage,
    arrival: u64,
    is_redelivered: bool,
    place: Option<LanePlace>,
) -> Result<(), StateError> {
    let space = locked.space();
    let seed = space.words.load(HASH_SEED);
    let table = Table::ensure(locked)?;
    let source = Source::new(seed, &message.source);
    let key = KeyText::new(seed, message.key.as_bytes());
    let queue = Queue::ensure(locked, table, &QueueName::new(&source, key))?;
    let mut transaction = Transaction::begin(locked)?;
    let payload = place.map_or(Payload::Bytes(&message.payload), Payload::Lane);
    let stored = Stored::make(&mut transaction, queue, message.id, &payload)?;
    stored.comes_back(&mut transaction, arrival)?;
    if is_redelivered {
        stored.mark_redelivered(space);
    }
    queue.append(&mut transaction, stored)?;
    transaction.commit();
    Ok(())
}

/// So many messages of a lane were taken.
pub(crate) fn taken_of_lane(locked: &Locked<'_>, slot: u16, serial: u64, taken: u64) -> Result<(), StateError> {
    let lane = Table::ensure(locked)?.lane(slot);
    let mut transaction = Transaction::begin(locked)?;
    lane.move_to(&mut transaction, serial, taken)?;
    transaction.commit();
    Ok(())
}

/// A source, used later than those before it.
pub(crate) fn source(locked: &Locked<'_>, address: &[u8; ADDRESS_BYTES], kept: &KeptSource) -> Result<(), StateError> {
    let address = Address::from_bytes(address);
    let address = address.ok_or_else(|| StateError::corrupt("address of a source that comes back", MAIL_TABLE))?;
    let source = Source::new(locked.space().words.load(HASH_SEED), &address);
    Remembered::restore(locked, Table::ensure(locked)?, &source, kept)
}

/// The number given out last for a message that the process sends.
pub(crate) fn sequence(locked: &Locked<'_>, last: u64) {
    locked.space().words.store(MAIL_SEQUENCE, last);
}
