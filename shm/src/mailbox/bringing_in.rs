//! Server: everything that lies in the message lanes of a process without workers into its own segment, and the lanes closed.
//!
//! The server does with the lanes what a worker does, under the same lock: each message is one transaction that moves its lane.
//! A server that dies at any instruction leaves some messages in the queues and the others in their lanes, open or closed, and
//! the next one goes on. Invariants:
//! 1. A lane is closed by the exchange that its sender publishes by (`message_lane::entry`): a message is in the lane, or its
//!    sender knows that it is not.
//! 2. A payload is copied before its block in the lane is given back, by one transaction that puts the copy in the place of the
//!    message in its queue.
//! 3. Nothing is read by reference in a lane: its bytes are copied from memory that workers can write.

use crate::copy;
use crate::objects::block::{Kind, kind_and_link};
use crate::objects::error::StateError;
use crate::objects::layout::header::{HASH_SEED, MAIL_RETURNS};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;

use super::claim;
use super::error::MailError;
use super::lanes::{Collected, InboundLane, Lanes};
use super::limits::{COLLECT_TURNS_MAX, MESSAGES_BOUND, QUEUE_BUCKETS, QUEUES_MAX};
use super::message::{Payload, PayloadAt, Stored};
use super::queue::Queue;
use super::room;
use super::table::Table;

/// Rounds of taking all and closing: a lane cannot be closed while its ring is full, and each round empties all rings.
const ROUNDS_MAX: usize = 64;

/// Takes all that lies in these lanes, which are all that the process has, and closes them. Returns how many messages came.
pub(crate) fn bring_in(locked: &Locked<'_>, inbound: Vec<InboundLane>) -> Result<usize, MailError> {
    let space = locked.space();
    let Some(table) = (match Table::find(space)? {
        None if inbound.is_empty() => None,
        _ => Some(Table::ensure(locked)?),
    }) else {
        return Ok(0);
    };
    let seed = space.words.load(HASH_SEED);
    let mut lanes = Lanes::default();
    inbound.into_iter().try_for_each(|lane| lanes.add(seed, lane))?;
    claim::settle(locked)?;
    lanes.repair(locked, table)?;
    let mut count = 0;
    for _ in 0..ROUNDS_MAX {
        count += take_all(locked, table, &mut lanes)?;
        if lanes.close_all(space, table) {
            count += take_all(locked, table, &mut lanes)?;
            bring_payloads_in(locked, table, &lanes)?;
            lanes.give_returns(locked, table)?;
            return Ok(count);
        }
    }
    Err(MailError::LanesBusy { rounds: ROUNDS_MAX })
}

/// Takes what has come.
fn take_all(locked: &Locked<'_>, table: Table, lanes: &mut Lanes) -> Result<usize, MailError> {
    let space = locked.space();
    let mut count = 0;
    for _ in 0..COLLECT_TURNS_MAX {
        match lanes.collect(locked, table, None, &|| true)? {
            Collected::More { queued } => count += queued,
            Collected::All { queued } if !lanes.have_stalled() => return Ok(count + queued),
            Collected::All { .. } => break,
            Collected::Direct { message, .. } => {
                return Err(StateError::corrupt("message that nobody wanted", message.place.at()).into());
            }
        }
    }
    Err(MailError::full(space))
}

/// Copies all payloads that lie in lanes.
fn bring_payloads_in(locked: &Locked<'_>, table: Table, lanes: &Lanes) -> Result<(), MailError> {
    let space = locked.space();
    let mut left = MESSAGES_BOUND;
    for at in (0..QUEUE_BUCKETS).map(|bucket| table.bucket_at(bucket)) {
        let mut number = space.words.load(at);
        for _ in 0..QUEUES_MAX {
            if number == 0 {
                break;
            }
            let queue = Queue::checked(space, number, at)?;
            let mut before = None;
            let mut next = if queue.is_of_key(space) { None } else { queue.first(space)? };
            while let Some(message) = next {
                left = left.checked_sub(1).ok_or_else(|| StateError::corrupt("list of messages", at))?;
                let following = message.next(space);
                let own = match message.payload(space)? {
                    PayloadAt::Segment { .. } => message,
                    PayloadAt::Lane(_) => match copy_payload(locked, lanes, queue, before, message) {
                        Err(MailError::Full { .. }) if room::make_spares(locked)? => {
                            copy_payload(locked, lanes, queue, before, message)?
                        }
                        copied => copied?,
                    },
                };
                before = Some(own);
                next = if following == 0 { None } else { Some(Stored::checked(space, following, own.link_at())?) };
            }
            number = queue.next_in_bucket(space);
        }
    }
    Ok(())
}

/// Puts a message with its payload in the segment in the place of one whose payload lies in a lane.
fn copy_payload(
    locked: &Locked<'_>,
    lanes: &Lanes,
    queue: Queue,
    before: Option<Stored>,
    message: Stored,
) -> Result<Stored, MailError> {
    let space = locked.space();
    let PayloadAt::Lane(place) = message.payload(space)? else { return Ok(message) };
    let missing = MailError::LaneMissing { slot: place.slot, serial: place.serial };
    let (start, bytes) = lanes.payload_in_lane(&place, message.place.at())?.ok_or(missing)?;
    let mut transaction = Transaction::begin(locked)?;
    let own = Stored::make(&mut transaction, queue, message.id(space), &Payload::Reserved(bytes))?;
    let PayloadAt::Segment { offset, bytes } = own.payload(space)? else {
        return Err(StateError::corrupt("message that is filled", own.place.at()).into());
    };
    // SAFETY: the first range lies in the arena of a lane that is mapped, of which `payload_in_lane` has checked it; the other
    // one in a block of the segment that was just made, and that nobody else uses.
    unsafe { copy::between_shared(start, space.words.bytes(offset, bytes), bytes) };
    own.takes_the_place_of(&mut transaction, message)?;
    queue.replace(&mut transaction, before, message, own)?;
    transaction.keep(message.link_at())?;
    let returns = transaction.load(MAIL_RETURNS);
    space.words.store(message.link_at(), kind_and_link(Kind::Message, returns));
    transaction.store(MAIL_RETURNS, message.place.number())?;
    transaction.commit();
    Ok(own)
}
