//! What a receiver seeks, and the look for it among the queues.

use std::ptr::NonNull;

use praas_protocol::Key;

use crate::objects::Objects;
use crate::objects::error::StateError;
use crate::objects::words::Space;

use super::lanes::{self, Lanes};
use super::limits::QUEUES_MAX;
use super::message::{LanePlace, PayloadAt, Stored};
use super::name::{KeyText, QueueName, Source};
use super::queue::Queue;
use super::table::Table;

/// From whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From<'s> {
    Any,
    One(&'s Source),
    Of(&'s [Source]),
}

/// What a receiver seeks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seek<'s> {
    pub(crate) from: From<'s>,
    pub(crate) key: KeyText<'s>,
    /// The same, as it was checked.
    pub(crate) expected: Key<'s>,
    /// The receiver's row.
    pub(crate) row: usize,
    /// The word for the last message that it holds.
    pub(crate) held_at: usize,
    /// Whether it receives what is found, or only looks at it.
    pub(crate) takes: bool,
}

/// What the look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// This one is next, and here are its bytes.
    Next {
        queue: Queue,
        message: Stored,
        bytes: NonNull<[u8]>,
    },
    /// All that is there lies in lanes that this worker does not have; this is one.
    Elsewhere(LanePlace),
    /// This one's lane was removed: its bytes are lost.
    Lost {
        queue: Queue,
        message: Stored,
    },
}

impl Seek<'_> {
    /// Whether messages of this source are sought.
    #[inline]
    pub(crate) fn names(&self, source: &Source) -> bool {
        match self.from {
            From::Any => true,
            From::One(one) => one.is(source),
            From::Of(many) => many.iter().any(|one| one.is(source)),
        }
    }

    /// Whether messages under this key are sought. One that was expected under it has the very same text.
    #[inline]
    pub(crate) fn has_key(&self, key: Key<'_>) -> bool {
        std::ptr::eq(self.expected.as_bytes(), key.as_bytes()) || self.expected == key
    }

    /// Looks among the queues.
    #[inline]
    pub(crate) fn look(&self, objects: &Objects, table: Table, lanes: &Lanes) -> Result<Found, StateError> {
        match self.from {
            From::One(source) => {
                let queue = Queue::find(objects.space(), table, &QueueName::new(source, self.key))?;
                queue.map_or(Ok(Found::Nothing), |queue| self.look_into(objects, table, lanes, queue))
            }
            From::Of(sources) => self.look_at_many(objects, table, lanes, sources),
            From::Any => self.look_around(objects, table, lanes),
        }
    }

    /// What is first in a queue.
    #[inline(always)]
    fn look_into(&self, objects: &Objects, table: Table, lanes: &Lanes, queue: Queue) -> Result<Found, StateError> {
        let space = objects.space();
        if !queue.hold(space).admits(self.row) {
            return Ok(Found::Nothing);
        }
        let Some(message) = queue.first(space)? else { return Ok(Found::Nothing) };
        let found = bytes_of(objects, lanes, message)?;
        Ok(match found {
            Ok(bytes) => Found::Next { queue, message, bytes },
            Err(place) if lanes::is_gone(space, table, &place) => Found::Lost { queue, message },
            Err(place) => Found::Elsewhere(place),
        })
    }

    /// Of several sources the message that came first.
    fn look_at_many(
        &self,
        objects: &Objects,
        table: Table,
        lanes: &Lanes,
        sources: &[Source],
    ) -> Result<Found, StateError> {
        let mut best = Best::new(objects.space());
        for source in sources {
            let Some(queue) = Queue::find(objects.space(), table, &QueueName::new(source, self.key))? else { continue };
            best.offer(self.look_into(objects, table, lanes, queue)?);
        }
        Ok(best.found)
    }

    /// Of all sources the next one in turn.
    fn look_around(&self, objects: &Objects, table: Table, lanes: &Lanes) -> Result<Found, StateError> {
        let space = objects.space();
        let Some(record) = Queue::find(space, table, &QueueName::of_key(self.key))? else { return Ok(Found::Nothing) };
        let Some(first) = record.next_ready(space)? else { return Ok(Found::Nothing) };
        let (mut queue, mut elsewhere) = (first, Found::Nothing);
        for _ in 0..QUEUES_MAX {
            match self.look_into(objects, table, lanes, queue)? {
                Found::Nothing => {}
                Found::Elsewhere(place) => elsewhere = Found::Elsewhere(place),
                found => return Ok(found),
            }
            queue = queue.ring_next(space)?;
            if queue == first {
                return Ok(elsewhere);
            }
        }
        Err(StateError::corrupt("ring of queues", record.place.at()))
    }
}

/// The message that came first, of those that were found.
struct Best<'a> {
    space: Space<'a>,
    found: Found,
    arrival: u64,
}

impl<'a> Best<'a> {
    fn new(space: Space<'a>) -> Self {
        Self { space, found: Found::Nothing, arrival: u64::MAX }
    }

    fn offer(&mut self, found: Found) {
        match found {
            Found::Next { message, .. } | Found::Lost { message, .. } => {
                let arrival = message.arrival(self.space);
                if arrival < self.arrival {
                    (self.found, self.arrival) = (found, arrival);
                }
            }
            Found::Elsewhere(_) if self.found == Found::Nothing => self.found = found,
            Found::Elsewhere(_) | Found::Nothing => {}
        }
    }
}

/// The bytes of a message, or the place in a lane that this worker does not have.
#[inline]
pub(crate) fn bytes_of(
    objects: &Objects,
    lanes: &Lanes,
    message: Stored,
) -> Result<Result<NonNull<[u8]>, LanePlace>, StateError> {
    match message.payload(objects.space())? {
        PayloadAt::Segment { offset, bytes } => {
            Ok(Ok(NonNull::slice_from_raw_parts(objects.bytes(offset, bytes), bytes)))
        }
        PayloadAt::Lane(place) => Ok(lanes.bytes(&place, message.place.at())?.ok_or(place)),
    }
}
