//! The inbound lanes of one worker, joined by their sources, and what the worker does with them under the lock.
//!
//! Each worker of a process has an end of each lane. The position up to which a lane was taken stands in the segment and
//! moves with the transaction that takes a message (by itself when one is accepted that was [claimed](super::claim)); what the lane itself is told (entries consumed, blocks released) is told
//! after the commit, under the same lock. Invariants:
//! 1. Of all lanes of one source the lowest message is taken first, after all of them were looked at twice without seeing
//!    more: a message that was sent before another is never taken after it, whatever lanes they came by.
//! 2. Before anything is taken from a lane or released in it, the returns that somebody left for it are given back: what a
//!    lane is told never goes backwards.
//! 3. Nothing is taken from a lane while this worker lacks one that it was told of: what lies in that may have been sent before.
//!    A lane is told of before its sender has it, so who has seen a message sees that it lacks the lanes of all before it.
//! 4. What comes by a lane that *repeats* is noted in the filter by the transaction that takes it, and dropped if it is known
//!    there already. What the filter cannot tell is taken: a sender puts a message another way only when no more of it can
//!    come by the lane.

use std::ptr::NonNull;

use praas_protocol::message::{Address, MessageId};

use crate::message_lane::{ArrivedRoom, Contents, Inbound};
use crate::objects::block::{Kind, kind_and_link};
use crate::objects::error::StateError;
use crate::objects::layout::header::{HASH_SEED, MAIL_REPAIRS, MAIL_RETURNS, MAIL_STALLED, MAIL_TABLE};
use crate::objects::lock::Locked;
use crate::objects::transaction::Transaction;
use crate::objects::words::Space;

use super::error::MailError;
use super::filter::{self, Remembered, Sight, Verdict};
use super::limits::{COLLECT_BATCH, LANES, MESSAGES_BOUND};
use super::message::{self, LanePlace, Payload, Stored};
use super::name::{KeyText, QueueName, Source};
use super::queue::Queue;
use super::room;
use super::seek::Seek;
use super::table::Table;

/// A lane as it is handed to a mailbox.
#[derive(Debug)]
pub struct InboundLane {
    /// Its place among the inbound lanes of the process.
    pub slot: u16,
    /// Its number, which no other lane had in that place.
    pub serial: u64,
    /// Who sends.
    pub source: Address,
    /// The receiver's end.
    pub inbound: Inbound,
    /// Whether what lies in it may come another way, too: its sender is on another host.
    pub repeats: bool,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) serial: u64,
    pub(crate) inbound: Inbound,
    repeats: bool,
}

/// The lanes of one source.
#[derive(Debug)]
struct Group {
    source: Source,
    slots: Vec<u16>,
    /// Something is left in them for want of room.
    stalled: bool,
}

/// All lanes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    by_slot: Vec<Option<Lane>>,
    groups: Vec<Group>,
    /// Which group is looked at first, so that none is preferred.
    first: usize,
    repairs_seen: u64,
    /// Lanes that came and went.
    changes: u64,
    room: ArrivedRoom,
    /// Entries that were no messages.
    spoiled: u64,
}

/// What collecting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collected {
    /// What was wanted has come by this lane, and is held by the call already; so many others were queued before it. The lane's
    /// sender is to be told of the room when the lock is free again.
    Direct { queue: Queue, message: Stored, slot: u16, queued: usize },
    /// Nothing is left but what there is no room for; so many messages were queued.
    All { queued: usize },
    /// There is more.
    More { queued: usize },
}

/// What collecting from the lanes of one source came to; so many messages were queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// Nothing is left.
    All { queued: usize },
    /// There is more.
    More { queued: usize },
    /// There is no room for what is left.
    Stalled { queued: usize },
    /// This worker lacks a lane.
    Outdated { queued: usize },
}

/// What the filter makes of a message in a lane that repeats.
enum Novelty {
    /// To be noted with this record, at this time.
    New(Remembered, u64),
    /// Older than what is remembered: it came no other way (invariant 4).
    Old,
    /// It has come already.
    Known,
    /// The filter has no room for its source.
    NoRoom,
}

/// What one look at the lanes of a source came to.
enum Step {
    /// Its lane's sender is still to be told of the room.
    Direct {
        queue: Queue,
        message: Stored,
        slot: u16,
    },
    Queued,
    Skipped,
    Stalled,
    Nothing,
    /// This worker lacks a lane, and must not take anything out of others.
    Outdated,
}

impl Lanes {
    pub(crate) fn add(&mut self, seed: u64, lane: InboundLane) -> Result<(), MailError> {
        let index = usize::from(lane.slot);
        if index >= LANES {
            return Err(MailError::NoSuchSlot { slot: lane.slot, slots: LANES });
        }
        if self.by_slot.len() <= index {
            self.by_slot.resize_with(index + 1, || None);
        }
        if self.by_slot[index].is_some() {
            return Err(MailError::SlotTaken { slot: lane.slot });
        }
        self.by_slot[index] = Some(Lane { serial: lane.serial, inbound: lane.inbound, repeats: lane.repeats });
        let source = Source::new(seed, &lane.source);
        match self.groups.iter_mut().find(|group| group.source == source) {
            Some(group) => group.slots.push(lane.slot),
            None => self.groups.push(Group { source, slots: vec![lane.slot], stalled: false }),
        }
        // What was to be repaired in it is.
        self.repairs_seen = 0;
        self.changes += 1;
        Ok(())
    }

    pub(crate) fn remove(&mut self, slot: u16) -> bool {
        let was_there = self.by_slot.get_mut(usize::from(slot)).is_some_and(|lane| lane.take().is_some());
        for group in &mut self.groups {
            group.slots.retain(|&other| other != slot);
        }
        self.groups.retain(|group| !group.slots.is_empty());
        self.changes += 1;
        was_there
    }

    pub(crate) fn spoiled(&self) -> u64 {
        self.spoiled
    }

    /// Counts lanes that came and went.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The slot of the only lane, if there is one alone and what comes by it comes no other way.
    pub(crate) fn sole_slot(&self) -> Option<u16> {
        let [group] = &self.groups[..] else { return None };
        let [slot] = group.slots[..] else { return None };
        self.lane(slot).filter(|lane| !lane.repeats).map(|_| slot)
    }

    /// Whether something is left in the only lane for want of room.
    #[inline]
    pub(crate) fn is_sole_stalled(&self) -> bool {
        self.groups.first().is_none_or(|group| group.stalled)
    }

    #[inline]
    pub(crate) fn lane(&self, slot: u16) -> Option<&Lane> {
        self.by_slot.get(usize::from(slot))?.as_ref()
    }

    fn lane_of(&self, place: &LanePlace) -> Option<&Lane> {
        self.lane(place.slot).filter(|lane| lane.serial == place.serial)
    }

    /// Whether a lane has something that may be taken now. Without the lock a hint; after a look that has left nothing, true
    /// only if something came or there is room again.
    #[inline]
    pub(crate) fn have_news(&self, space: Space<'_>, table: Option<Table>) -> bool {
        let is_stuck = |group: &Group| group.stalled && space.words.load(MAIL_STALLED) != 0;
        self.groups.iter().filter(|group| !is_stuck(group)).any(|group| self.has_arrived(group, space, table))
    }

    /// Whether anything lies in a lane, be there room for it or not: objects make room without a word about it. Without the
    /// lock a hint.
    #[inline]
    pub(crate) fn have_arrived(&self, space: Space<'_>, table: Option<Table>) -> bool {
        self.groups.iter().any(|group| self.has_arrived(group, space, table))
    }

    #[inline]
    fn has_arrived(&self, group: &Group, space: Space<'_>, table: Option<Table>) -> bool {
        group.slots.iter().any(|&slot| {
            self.lane(slot).is_some_and(|lane| lane.inbound.has_arrived(position(space, table, slot, lane)))
        })
    }

    /// The bytes of a payload that lies in a lane; `None` if this worker does not have the lane.
    #[inline]
    pub(crate) fn bytes(&self, place: &LanePlace, at: usize) -> Result<Option<NonNull<[u8]>>, StateError> {
        let Some(lane) = self.lane_of(place) else { return Ok(None) };
        let block = lane.inbound.place_of(place.words);
        let block = block.ok_or_else(|| StateError::corrupt("place of a payload in a lane", at))?;
        Ok(Some(NonNull::from(lane.inbound.block(&block))))
    }

    /// Whether somebody was recovered since this worker has last looked into its lanes.
    #[inline]
    pub(crate) fn need_repair(&self, space: Space<'_>) -> bool {
        self.has_repairs(space.words.load(MAIL_REPAIRS)) && space.words.load(MAIL_TABLE) != 0
    }

    /// The same of a count of recoveries.
    #[inline(always)]
    pub(crate) fn has_repairs(&self, repairs: u64) -> bool {
        repairs.wrapping_add(1) != self.repairs_seen
    }

    /// Does what somebody who died has left undone in the lanes that this worker has (invariant 2).
    #[inline]
    pub(crate) fn repair(&mut self, locked: &Locked<'_>, table: Table) -> Result<(), StateError> {
        let words = locked.space().words;
        if self.need_repair(locked.space()) {
            self.publish_all_consumed(locked.space(), table);
        }
        if words.load(MAIL_RETURNS) != 0 {
            self.give_returns(locked, table)?;
        }
        Ok(())
    }

    #[cold]
    fn publish_all_consumed(&mut self, space: Space<'_>, table: Table) {
        self.repairs_seen = space.words.load(MAIL_REPAIRS).wrapping_add(1);
        for (slot, lane) in (0..).zip(&self.by_slot) {
            if let Some(lane) = lane {
                lane.inbound.publish_consumed(position(space, Some(table), slot, lane));
            }
        }
    }

    /// Tells the lane in a slot how far it was taken, by whoever that was. False if this worker does not have it.
    pub(crate) fn tell_consumed(&self, space: Space<'_>, table: Table, slot: u16) -> bool {
        let lane = self.lane(slot).filter(|lane| lane.serial == table.lane(slot).serial(space));
        if let Some(lane) = lane {
            lane.inbound.publish_consumed(position(space, Some(table), slot, lane));
        }
        lane.is_some()
    }

    /// Wakes the sender of a lane, from which something was taken before the lock was given back, if it waits for the room.
    #[inline]
    pub(crate) fn tell_sender(&self, slot: u16) {
        if let Some(lane) = self.lane(slot) {
            lane.inbound.tell_sender_after_exchange();
        }
    }

    /// Gives back blocks of removed messages, as far as this worker has their lanes or nobody ever will.
    pub(crate) fn give_returns(&self, locked: &Locked<'_>, table: Table) -> Result<(), StateError> {
        let space = locked.space();
        let mut named_at = MAIL_RETURNS;
        let mut number = space.words.load(named_at);
        for _ in 0..=MESSAGES_BOUND {
            if number == 0 {
                return Ok(());
            }
            let message = Stored::checked(space, number, named_at)?;
            let next = message.next(space);
            let place = message.lane_place(space);
            let place = place.ok_or_else(|| StateError::corrupt("message among the returns", message.place.at()))?;
            if self.has_released(space, table, &place) {
                let mut transaction = Transaction::begin(locked)?;
                transaction.keep(message.link_at())?;
                let named = if named_at == MAIL_RETURNS { next } else { kind_and_link(Kind::Message, next) };
                transaction.store(named_at, named)?;
                message.free(&mut transaction)?;
                transaction.commit();
            } else {
                named_at = message.link_at();
            }
            number = next;
        }
        Err(StateError::corrupt("list of returns", MAIL_RETURNS))
    }

    /// Releases a block in its lane. False if this worker does not have the lane, and some other may.
    fn has_released(&self, space: Space<'_>, table: Table, place: &LanePlace) -> bool {
        let Some(lane) = self.lane_of(place) else { return is_gone(space, table, place) };
        if let Some(block) = lane.inbound.place_of(place.words) {
            lane.inbound.release(block.descriptor(), block.stamp());
        }
        true
    }

    /// Takes what has come, in order, up to a batch: into queues, or to the caller at once if he takes it, it is what he seeks,
    /// and first in its queue. `is_current` says whether this worker has all lanes that it was told of (invariant 3).
    #[inline(always)]
    pub(crate) fn collect(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        seek: Option<&Seek<'_>>,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Collected, MailError> {
        let mut queued = 0;
        if let [group] = &self.groups[..]
            && seek.is_some_and(|seek| seek.names(&group.source))
        {
            // What nearly every receive of a process with one partner comes to.
            match self.collect_one(locked, table, 0, seek, is_current)? {
                Step::Direct { queue, message, slot } => return Ok(Collected::Direct { queue, message, slot, queued }),
                Step::Queued => queued = 1,
                Step::Outdated => return Err(MailError::Outdated),
                Step::Skipped | Step::Stalled | Step::Nothing => {}
            }
        }
        self.collect_all(locked, table, seek, is_current, queued)
    }

    /// The rest, after so many were queued.
    #[inline(never)]
    fn collect_all(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        seek: Option<&Seek<'_>>,
        is_current: &dyn Fn() -> bool,
        mut queued: usize,
    ) -> Result<Collected, MailError> {
        let (count, first) = (self.groups.len(), self.first);
        let mut looks = queued;
        // The groups that are sought come first, as they may end it.
        for sought in [true, false] {
            for index in (0..count).map(|step| (first + step) % count) {
                let is_sought = seek.is_some_and(|seek| seek.names(&self.groups[index].source));
                if is_sought != sought {
                    continue;
                }
                loop {
                    if looks == COLLECT_BATCH {
                        self.first = (index + 1) % count;
                        return Ok(Collected::More { queued });
                    }
                    looks += 1;
                    match self.collect_one(locked, table, index, seek.filter(|_| sought), is_current)? {
                        Step::Direct { queue, message, slot } => {
                            self.first = (index + 1) % count;
                            return Ok(Collected::Direct { queue, message, slot, queued });
                        }
                        Step::Queued => queued += 1,
                        Step::Outdated if queued == 0 => return Err(MailError::Outdated),
                        // Others are to hear of those first.
                        Step::Outdated => return Ok(Collected::More { queued }),
                        Step::Skipped => {}
                        Step::Stalled | Step::Nothing => {
                            looks -= 1;
                            break;
                        }
                    }
                }
            }
        }
        Ok(Collected::All { queued })
    }

    /// Whether some are of this source.
    pub(crate) fn are_of(&self, source: &Source) -> bool {
        self.groups.iter().any(|group| group.source == *source)
    }

    /// Takes what has come by the lanes of one source into queues, in order, up to a batch.
    pub(crate) fn gather(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        source: &Source,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Gathered, MailError> {
        let Some(index) = self.groups.iter().position(|group| group.source == *source) else {
            return Ok(Gathered::All { queued: 0 });
        };
        let mut queued = 0;
        for _ in 0..COLLECT_BATCH {
            match self.collect_one(locked, table, index, None, is_current)? {
                Step::Queued | Step::Direct { .. } => queued += 1,
                Step::Skipped => {}
                Step::Stalled => return Ok(Gathered::Stalled { queued }),
                Step::Nothing => return Ok(Gathered::All { queued }),
                Step::Outdated => return Ok(Gathered::Outdated { queued }),
            }
        }
        Ok(Gathered::More { queued })
    }

    /// Takes the next message of a source, which the seeker names if there is one.
    #[inline(always)]
    fn collect_one(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        index: usize,
        seek: Option<&Seek<'_>>,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Step, MailError> {
        let Some(slot) = self.lowest(locked.space(), table, index) else {
            self.groups[index].stalled = false;
            return Ok(Step::Nothing);
        };
        if !is_current() {
            return Ok(Step::Outdated);
        }
        match self.take_from(locked, table, index, slot, seek) {
            Ok(step) => Ok(step),
            Err(error) => self.take_with_room(locked, table, index, slot, seek, error),
        }
    }

    /// The same after it was refused.
    #[cold]
    fn take_with_room(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        index: usize,
        slot: u16,
        seek: Option<&Seek<'_>>,
        refused: StateError,
    ) -> Result<Step, MailError> {
        let again = match refused {
            // Once: what was made for this message until there was no room is idle too.
            StateError::Full { .. } if room::make(locked)? => self.take_from(locked, table, index, slot, seek),
            error => Err(error),
        };
        match again {
            Err(StateError::Full { .. }) => Ok(self.stall(locked.space(), index)),
            done => Ok(done?),
        }
    }

    /// Says that something is left for want of room, so that whoever makes some rings.
    #[cold]
    fn stall(&mut self, space: Space<'_>, index: usize) -> Step {
        space.words.store(MAIL_STALLED, 1);
        self.groups[index].stalled = true;
        Step::Stalled
    }

    /// The lane of a group whose next message is the lowest (invariant 1).
    #[inline(always)]
    fn lowest(&mut self, space: Space<'_>, table: Table, index: usize) -> Option<u16> {
        let group = &self.groups[index];
        if let [slot] = group.slots[..] {
            let lane = self.lane(slot)?;
            return lane.inbound.has_arrived(position(space, Some(table), slot, lane)).then_some(slot);
        }
        self.lowest_of_many(space, table, index)
    }

    fn lowest_of_many(&mut self, space: Space<'_>, table: Table, index: usize) -> Option<u16> {
        let (mut arrived_before, slots) = (0, self.groups[index].slots.len());
        // Positions stand still under the lock, so lanes with something only become more.
        for _ in 0..=slots {
            let (mut arrived, mut lowest) = (0, None);
            for which in 0..slots {
                let slot = self.groups[index].slots[which];
                if let Some(id) = self.next_id(space, table, slot) {
                    arrived += 1;
                    lowest = lowest.filter(|&(other, _)| other <= id).or(Some((id, slot)));
                }
            }
            if arrived == arrived_before {
                return lowest.map(|(_, slot)| slot);
            }
            arrived_before = arrived;
        }
        None
    }

    /// The id of a lane's next message; the lowest of all for what is no message, which is to be skipped.
    fn next_id(&mut self, space: Space<'_>, table: Table, slot: u16) -> Option<MessageId> {
        let lane = self.by_slot.get(usize::from(slot))?.as_ref()?;
        let at = position(space, Some(table), slot, lane);
        match lane.inbound.arrived_at(at, &mut self.room) {
            Ok(arrived) => arrived.map(|arrived| arrived.id),
            Err(_) => Some(MessageId { incarnation: 0, sequence: 0 }),
        }
    }

    /// Takes the next message of a lane, which has arrived.
    #[inline(always)]
    fn take_from(
        &mut self,
        locked: &Locked<'_>,
        table: Table,
        index: usize,
        slot: u16,
        seek: Option<&Seek<'_>>,
    ) -> Result<Step, StateError> {
        let space = locked.space();
        let Some(Some(lane)) = self.by_slot.get(usize::from(slot)) else { return Ok(Step::Nothing) };
        let words = table.lane(slot);
        let at = words.position(space, lane.serial);
        let arrived = match lane.inbound.arrived_expecting(at, seek.map(|seek| seek.expected), &mut self.room) {
            Ok(Some(arrived)) => arrived,
            Ok(None) => return Ok(Step::Nothing),
            Err(_) => {
                self.spoiled += 1;
                let mut transaction = Transaction::begin(locked)?;
                words.move_to(&mut transaction, lane.serial, at.wrapping_add(1))?;
                transaction.commit();
                lane.inbound.publish_consumed(at.wrapping_add(1));
                return Ok(Step::Skipped);
            }
        };
        let group = &self.groups[index];
        let mut noted = None;
        if lane.repeats {
            match novelty(locked, table, &group.source, arrived.id)? {
                Novelty::New(record, now_s) => noted = Some((record, now_s)),
                Novelty::Old => {}
                Novelty::Known => return drop_known(locked, table, slot, lane, &arrived.contents),
                Novelty::NoRoom => return Ok(self.stall(space, index)),
            }
        }
        let sought = seek.filter(|seek| seek.has_key(arrived.key));
        let has_room = message::has_room(space);
        if !has_room && (sought.is_none() || !message::has_room_for_wanted(space)) {
            return Ok(self.stall(space, index));
        }
        let key = match sought {
            Some(seek) => seek.key,
            None => KeyText::new(space.words.load(HASH_SEED), arrived.key.as_bytes()),
        };
        let queue = Queue::ensure(locked, table, &QueueName::new(&group.source, key))?;
        let wanted = sought.filter(|seek| queue.count(space) == 0 && queue.hold(space).admits(seek.row));
        if !has_room && wanted.is_none() {
            return Ok(self.stall(space, index));
        }
        let payload = match &arrived.contents {
            Contents::Inline(bytes) => Payload::Bytes(bytes),
            Contents::Block(block) => Payload::Lane(LanePlace { slot, serial: lane.serial, words: block.words() }),
        };
        let mut transaction = Transaction::begin(locked)?;
        let message = Stored::make(&mut transaction, queue, arrived.id, &payload)?;
        message.arrives(&mut transaction)?;
        let direct = wanted.filter(|seek| seek.takes);
        match direct {
            Some(seek) => {
                message.enter_row(&mut transaction, seek.held_at)?;
                queue.hold_one(&mut transaction, seek.row)?;
            }
            None => queue.append(&mut transaction, message)?,
        }
        if let Some((record, now_s)) = noted {
            record.note(&mut transaction, arrived.id, now_s)?;
        }
        words.move_to(&mut transaction, lane.serial, at.wrapping_add(1))?;
        transaction.commit();
        let step = if direct.is_some() {
            // The sender is told when the lock is free: that orders both, so no fence is needed for it alone.
            lane.inbound.note_consumed(at.wrapping_add(1));
            Step::Direct { queue, message, slot }
        } else {
            lane.inbound.publish_consumed(at.wrapping_add(1));
            Step::Queued
        };
        self.groups[index].stalled = false;
        Ok(step)
    }
}

/// What the filter makes of the next message of a lane that repeats. A source that it does not know is entered.
#[inline(never)]
fn novelty(locked: &Locked<'_>, table: Table, source: &Source, id: MessageId) -> Result<Novelty, StateError> {
    let now_s = filter::now_s();
    let Some(record) = Remembered::ensure_if_room(locked, table, source, now_s)? else { return Ok(Novelty::NoRoom) };
    Ok(match record.sight(locked.space(), id) {
        Sight::Known(Verdict::New) => Novelty::New(record, now_s),
        Sight::Known(Verdict::Before) => Novelty::Known,
        Sight::TooOld { .. } => Novelty::Old,
    })
}

/// Skips a message that has come already. Its block is released before the lane moves on: whoever dies in between leaves it to
/// be skipped again, and a release may be repeated as long as nothing behind it was taken.
#[cold]
fn drop_known(
    locked: &Locked<'_>,
    table: Table,
    slot: u16,
    lane: &Lane,
    contents: &Contents<'_>,
) -> Result<Step, StateError> {
    let words = table.lane(slot);
    let next = words.position(locked.space(), lane.serial).wrapping_add(1);
    if let Contents::Block(block) = contents {
        lane.inbound.release(block.descriptor(), block.stamp());
    }
    let mut transaction = Transaction::begin(locked)?;
    words.move_to(&mut transaction, lane.serial, next)?;
    transaction.commit();
    lane.inbound.publish_consumed(next);
    Ok(Step::Skipped)
}

/// How far a lane was taken.
#[inline]
fn position(space: Space<'_>, table: Option<Table>, slot: u16, lane: &Lane) -> u64 {
    table.map_or(0, |table| table.lane(slot).position(space, lane.serial))
}

/// Whether another lane is in the place of this one: it was removed, and nothing can be read from it or told it.
pub(crate) fn is_gone(space: Space<'_>, table: Table, place: &LanePlace) -> bool {
    table.lane(place.slot).serial(space) != place.serial
}
