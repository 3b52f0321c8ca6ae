//! The short way: how a worker receives and accepts what comes by its only lane, while there is nothing else in the mailbox.
//!
//! It remembers where the last message came from, its key and its queue. If the next receive wants the same, and the next
//! message of the lane is short and of that key, it is [claimed](super::claim) where it lies. Everything else goes the long
//! way: several messages held at a time, several lanes, messages in queues, anything to repair.

use std::cell::Cell;

use praas_protocol::Key;
use praas_protocol::message::Address;

use crate::objects::layout::header::{
    MAIL_CLAIM, MAIL_MESSAGES, MAIL_REMOVALS, MAIL_REPAIRS, MAIL_RETURNS, MAIL_STALLED, MAIL_TABLE,
};
use crate::sync::Ordering;

use super::claim;
use super::error::MailError;
use super::message::{Spares, Stored};
use super::queue::Queue;
use super::received::Received;
use super::table::LaneWords;
use super::worker::{Mailbox, Wanted};

/// Words of the longest key that is remembered: they lie in an entry's first cache line.
const KEY_WORDS: usize = 4;
const KEY_BYTES_MAX: usize = KEY_WORDS * size_of::<u64>();
/// Words of the header from the mailbox's first one on that the short way looks at.
const MAIL_WORDS: usize = MAIL_REMOVALS + 1 - MAIL_TABLE;

/// Where the last message was found.
#[derive(Debug)]
pub(crate) struct Way {
    source: Address,
    /// Zero behind its end; as bytes, and as words.
    key: ([u8; KEY_BYTES_MAX], [u64; KEY_WORDS]),
    key_bytes: u8,
    queue: Queue,
    slot: u16,
    lane: LaneWords,
    /// What was counted when it was found: lanes that came and went, queues that were removed.
    lane_changes: u64,
    queue_removals: u64,
    /// The word of the small spare blocks, and the first one, which was checked.
    spare: Cell<(u64, Option<Stored>)>,
}

impl Way {
    #[inline(always)]
    fn leads_to(&self, source: &Address, key: Key<'_>) -> bool {
        self.key.0.get(..usize::from(self.key_bytes)) == Some(key.as_bytes()) && self.source == *source
    }

    /// The first small spare block, which `word` names.
    #[inline(always)]
    fn spare(&self, mailbox: &Mailbox, word: u64) -> Result<Option<Stored>, MailError> {
        if self.spare.get().0 != word {
            self.spare.set(Spares::SMALL.checked_first(mailbox.space())?);
        }
        Ok(self.spare.get().1)
    }

    #[inline(always)]
    fn key(&self) -> &[u64] {
        &self.key.1[..usize::from(self.key_bytes).div_ceil(size_of::<u64>())]
    }
}

impl Mailbox {
    /// Receives by the short way, if it leads to what is wanted. There is something: most likely just that.
    #[inline(always)]
    pub(super) fn take_shortly(
        &self,
        wanted: Wanted<'_>,
        key: Key<'_>,
        is_current: &impl Fn() -> bool,
    ) -> Result<Option<Received<'_>>, MailError> {
        let Wanted::One(source) = wanted else { return Ok(None) };
        let way = self.way.borrow();
        let Some(way) = way.as_ref().filter(|way| way.leads_to(source, key)) else { return Ok(None) };
        let (space, lanes) = (self.space(), self.lanes().borrow());
        if self.held.get() != 0 || lanes.changes() != way.lane_changes || lanes.is_sole_stalled() {
            return Ok(None);
        }
        let Some(lane) = lanes.lane(way.slot) else { return Ok(None) };
        let Some(seen) = way.lane.position_if_known(space, lane.serial) else { return Ok(None) };
        lane.inbound.ask_for_rest(seen);
        let locked = self.lock_shortly()?;
        let mail = space.words.region::<MAIL_WORDS>(MAIL_TABLE);
        let load = |at: usize| mail[at - MAIL_TABLE].load(Ordering::Relaxed);
        let is_there = load(MAIL_MESSAGES) | load(MAIL_CLAIM) | load(MAIL_RETURNS) | load(MAIL_STALLED);
        if is_there != 0 || load(MAIL_REMOVALS) != way.queue_removals || lanes.has_repairs(load(MAIL_REPAIRS)) {
            return Ok(None);
        }
        let Some(message) = way.spare(self, load(Spares::SMALL.at()))? else { return Ok(None) };
        // Asked after the message was seen.
        let Some(position) = way.lane.position_if_known(space, lane.serial) else { return Ok(None) };
        let short = lane.inbound.short_at(position, way.key_bytes, way.key(), message.small_room(space));
        let Some((id, bytes)) = short.filter(|_| is_current()) else { return Ok(None) };
        message.fill_spare(space, way.queue, id, bytes);
        claim::make(&locked, self.row(), way.slot, position);
        drop(locked);
        self.held.set(1);
        self.claimed.set(true);
        let bytes = bytes as usize;
        let place =
            std::ptr::NonNull::slice_from_raw_parts(self.objects().bytes(message.payload_offset(), bytes), bytes);
        Ok(Some(Received::new(self, way.queue, message, place)))
    }

    /// Remembers how a message was found that this worker holds.
    #[inline]
    pub(super) fn remember(&self, wanted: Wanted<'_>, key: Key<'_>, queue: Queue) {
        if let (Wanted::One(source), 1..=KEY_BYTES_MAX) = (wanted, key.as_bytes().len()) {
            self.remember_short(source, key, queue);
        }
    }

    #[inline(never)]
    fn remember_short(&self, source: &Address, key: Key<'_>, queue: Queue) {
        let (space, lanes) = (self.space(), self.lanes().borrow());
        let (Some(slot), Some(table)) = (lanes.sole_slot(), self.table_if_known()) else { return };
        let (bytes, mut padded) = (key.as_bytes(), [0; KEY_BYTES_MAX]);
        padded[..bytes.len()].copy_from_slice(bytes);
        let (words, _) = padded.as_chunks::<8>();
        let way = Way {
            source: *source,
            key: (padded, std::array::from_fn(|index| u64::from_ne_bytes(words[index]))),
            key_bytes: u8::try_from(bytes.len()).expect("keys have at most 255 bytes"),
            queue,
            slot,
            lane: table.lane(slot),
            lane_changes: lanes.changes(),
            // The queue is there as long as its message is held.
            queue_removals: space.words.load_acquire(MAIL_REMOVALS),
            spare: Cell::new((0, None)),
        };
        self.way.replace(Some(way));
    }

    /// Removes a message that this worker has claimed. False if it holds it as any other by now.
    #[inline(always)]
    pub(super) fn accept_shortly(&self, message: Stored) -> Result<bool, MailError> {
        let locked = self.lock_shortly()?;
        let space = self.space();
        let (way, lanes) = (self.way.borrow(), self.lanes().borrow());
        let position = way
            .as_ref()
            .filter(|_| Spares::SMALL.first(space) == message.place.number())
            .and_then(|way| Some((way, claim::position(space, self.row(), way.slot, way.lane)?)));
        let Some((way, position)) = position else {
            self.claimed.set(false);
            return Ok(false);
        };
        claim::accept(&locked, way.lane, position)?;
        self.claimed.set(false);
        self.held.set(0);
        let lane = lanes.lane(way.slot).filter(|lane| way.lane.serial(space) == lane.serial);
        if let Some(lane) = lane {
            lane.inbound.note_consumed(position.wrapping_add(1));
        }
        let rings = self.has_made_room(&locked);
        drop(locked);
        if let Some(lane) = lane {
            lane.inbound.tell_sender_after_exchange();
        }
        if rings {
            self.bell().ring();
        }
        Ok(true)
    }

    /// The same of the only one that it holds.
    #[cold]
    pub(super) fn accept_claimed(&self) -> Result<bool, MailError> {
        let spare = self.way.borrow().as_ref().and_then(|way| way.spare.get().1);
        spare.map_or(Ok(false), |message| self.accept_shortly(message))
    }
}
