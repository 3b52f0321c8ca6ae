//! A walk over all messages and sources that are there to last, under the lock. What calls hold is among them: who begins
//! anew knows no calls. What was accepted and is still to be tidied away is not.

use praas_protocol::message::{ADDRESS_BYTES, Address, MessageId};

use crate::log_ring::KeptSource;
use crate::objects::error::StateError;
use crate::objects::layout::header::MAIL_SOURCE_OLDEST;
use crate::objects::words::Space;

use super::filter::Remembered;
use super::held;
use super::limits::{MESSAGES_BOUND, QUEUE_BUCKETS, QUEUES_MAX, SOURCES_MAX};
use super::message::{PayloadAt, Stored};
use super::queue::Queue;
use super::received::address_of;
use super::table::Table;

/// One message.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The position at which it came, and where that stands.
    pub(crate) arrival: u64,
    pub(crate) arrival_at: usize,
    pub(crate) id: MessageId,
    /// Whether somebody has received it before.
    pub(crate) is_redelivered: bool,
    pub(crate) payload: PayloadAt,
}

impl Kept {
    /// Offset and bytes of its payload in the segment, where it lies in a process that has no lanes.
    pub(crate) fn payload_in_segment(&self) -> Result<(usize, usize), StateError> {
        match self.payload {
            PayloadAt::Segment { offset, bytes } => Ok((offset, bytes)),
            PayloadAt::Lane(_) => {
                Err(StateError::corrupt("payload in a lane, of a message that is to last", self.arrival_at))
            }
        }
    }
}

/// Shows each message once, with the bytes of its key.
pub(crate) fn messages<E: From<StateError>>(
    space: Space<'_>,
    mut each: impl FnMut(Address, Vec<u8>, Kept) -> Result<(), E>,
) -> Result<(), E> {
    let Some(table) = Table::find(space)? else { return Ok(()) };
    let mut show = |queue: Queue, message: Stored| -> Result<(), E> {
        let at = message.place.at();
        let kept = Kept {
            arrival: message.arrival(space),
            arrival_at: at,
            id: message.id(space),
            is_redelivered: message.is_redelivered(space),
            payload: message.payload(space)?,
        };
        each(address_of(space, queue)?, queue.key_bytes(space), kept)
    };
    let mut left = MESSAGES_BOUND;
    let mut count = |at: usize| -> Result<(), StateError> {
        left = left.checked_sub(1).ok_or_else(|| StateError::corrupt("list of messages", at))?;
        Ok(())
    };
    for row in 0..space.layout.row_count {
        let mut next = held::last(space, row)?;
        while let Some(message) = next {
            count(message.place.at())?;
            show(message.queue(space)?, message)?;
            let before = message.before(space);
            next = if before == 0 { None } else { Some(Stored::checked(space, before, message.place.at())?) };
        }
    }
    for at in (0..QUEUE_BUCKETS).map(|bucket| table.bucket_at(bucket)) {
        let mut number = space.words.load(at);
        for _ in 0..QUEUES_MAX {
            if number == 0 {
                break;
            }
            let queue = Queue::checked(space, number, at)?;
            let mut next = if queue.is_of_key(space) { None } else { queue.first(space)? };
            while let Some(message) = next {
                count(message.place.at())?;
                show(queue, message)?;
                let number = message.next(space);
                next = if number == 0 { None } else { Some(Stored::checked(space, number, message.link_at())?) };
            }
            number = queue.next_in_bucket(space);
        }
    }
    Ok(())
}

/// Shows each source of which something is remembered, that which was used last at the end.
pub(crate) fn sources(
    space: Space<'_>,
    mut each: impl FnMut([u8; ADDRESS_BYTES], KeptSource),
) -> Result<(), StateError> {
    let mut number = space.words.load(MAIL_SOURCE_OLDEST);
    for _ in 0..=SOURCES_MAX {
        if number == 0 {
            return Ok(());
        }
        let record = Remembered::checked(space, number, MAIL_SOURCE_OLDEST)?;
        let (address, kept) = record.kept(space);
        if kept.window.iter().any(|&word| word != 0) {
            each(address, kept);
        }
        number = record.newer(space);
    }
    Err(StateError::corrupt("list of sources", MAIL_SOURCE_OLDEST))
}
