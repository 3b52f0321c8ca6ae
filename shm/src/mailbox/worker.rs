//! A mailbox: one worker's end of it.
//!
//! Ownership: an end has the lists of its row for itself, and its own ends of the lanes. It is not `Sync`. Everything is
//! done in *turns* under the writers' lock, each bounded, so that others come in between.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::Key;
use praas_protocol::limits::{ADDRESSES_PER_CALL_MAX, MAILBOX_MESSAGES_MAX};
use praas_protocol::message::Address;

use crate::WorkerTag;
use crate::mail_bell::MailBell;
use crate::objects::layout::header::{
    HASH_SEED, MAIL_MESSAGES, MAIL_QUEUES, MAIL_REPAIRS, MAIL_SEQUENCE, MAIL_SOURCES, MAIL_STALLED, MAIL_TABLE,
};
use crate::objects::lock::{self, Locked};
use crate::objects::logging;
use crate::objects::steps::step;
use crate::objects::words::Space;
use crate::objects::{LockOwner, Objects, StateError};
use crate::sync::Ordering;

use super::claim;
use super::error::MailError;
use super::held;
use super::lanes::{Collected, InboundLane, Lanes};
use super::limits::{COLLECT_TURNS_MAX, ENDING_BATCH, MESSAGES_BOUND};
use super::message::Stored;
use super::name::{KeyText, Source};
use super::queue::{self, Queue};
use super::received::{Peeked, Received, address_of};
use super::recovery;
use super::seek::{self, Found, From, Seek};
use super::short_way::Way;
use super::table::Table;

/// How long a worker waits for the lock, as for objects.
const PATIENCE: Duration = Duration::from_secs(5);
/// From whom a receiver wants a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'w> {
    /// From anybody, each in turn.
    Any,
    /// From this one.
    One(&'w Address),
    /// From any of these, what came first.
    Of(&'w [Address]),
}

/// Figures of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MailUsage {
    /// Messages in it, those included that calls hold; what still lies in lanes is not counted.
    pub messages: u64,
    /// Messages that it takes.
    pub messages_max: u64,
    /// Queues and keys that are kept.
    pub queues: u64,
    /// Sources whose repetitions are recognised.
    pub sources: u64,
}

/// One worker's end of the mailbox; see the module's text.
#[derive(Debug)]
pub struct Mailbox {
    objects: Arc<Objects>,
    owner: LockOwner,
    row: usize,
    seed: u64,
    patience: Cell<Duration>,
    bell: MailBell,
    lanes: RefCell<Lanes>,
    /// Messages that are held.
    pub(super) held: Cell<u64>,
    /// Whether one of them was claimed in its lane, and was there when this end looked last.
    pub(super) claimed: Cell<bool>,
    /// How the last one of the only lane was found.
    pub(super) way: RefCell<Option<Way>>,
    /// Rings of the bell before the last look.
    rings_seen: Cell<u32>,
    /// The table, once there is one: it stays.
    table: Cell<Option<Table>>,
    /// The source that was wanted last.
    last_wanted: RefCell<Option<(Address, Source)>>,
    sought: RefCell<Vec<Source>>,
}

/// What one turn of a receive came to.
enum Turn {
    Taken { queue: Queue, message: Stored, bytes: std::ptr::NonNull<[u8]> },
    Peeked(Peeked),
    Nothing,
    More,
}

impl Mailbox {
    /// The end of worker `tag`, whose predecessor with the same index was recovered. The bell is that of the process.
    ///
    /// # Errors
    /// [`MailError::RowTaken`] if this process already has one; [`MailError::Busy`] or [`MailError::Corrupt`] if an earlier
    /// end in this process has left messages behind that cannot be given back.
    pub fn new(objects: Arc<Objects>, tag: WorkerTag, bell: MailBell) -> Result<Self, MailError> {
        let row = usize::from(tag.index());
        if !objects.take_mail_row(row) {
            return Err(MailError::RowTaken { row });
        }
        let seed = objects.space().words.load(HASH_SEED);
        let mailbox = Self {
            objects,
            owner: LockOwner::Worker(tag),
            row,
            seed,
            patience: Cell::new(PATIENCE),
            bell,
            lanes: RefCell::default(),
            held: Cell::new(0),
            claimed: Cell::new(false),
            way: RefCell::default(),
            rings_seen: Cell::new(0),
            table: Cell::new(None),
            last_wanted: RefCell::default(),
            sought: RefCell::default(),
        };
        // Rows are looked at only where there were messages: a row's page that was never used takes no memory.
        let space = mailbox.space();
        let is_row_used = || held::row_words(space, row).iter().any(|&word| word != 0) || claim::is_there(space);
        if space.words.load(MAIL_TABLE) != 0 && is_row_used() {
            recovery::settle_row(&mailbox.lock()?, row)?;
            mailbox.bell.ring();
        }
        Ok(mailbox)
    }

    /// Receives from one more lane.
    ///
    /// # Errors
    /// [`MailError::SlotTaken`], [`MailError::NoSuchSlot`]; [`MailError::Logged`] where changes are logged.
    pub fn add_lane(&self, lane: InboundLane) -> Result<(), MailError> {
        if self.space().log.is_some() {
            return Err(MailError::Logged);
        }
        self.lanes.borrow_mut().add(self.seed, lane)
    }

    /// Unmaps a lane, whose sender is gone and in which nothing is left. False if it was not there.
    pub fn remove_lane(&mut self, slot: u16) -> bool {
        self.lanes.get_mut().remove(slot)
    }

    /// The bell on which to wait; it rings for whatever may let a receive succeed.
    #[must_use]
    pub fn bell(&self) -> &MailBell {
        &self.bell
    }

    /// How long operations wait for the lock before they are refused as busy.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// Messages that this worker's call holds.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// Entries of lanes that were no messages and were skipped.
    #[must_use]
    pub fn spoiled(&self) -> u64 {
        self.lanes.borrow().spoiled()
    }

    /// Figures, read without the lock.
    #[must_use]
    pub fn usage(&self) -> MailUsage {
        MailUsage::read(self.space())
    }

    /// A number for a message that this process sends: higher than all before, in whatever worker.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        let before = self.space().words.at(MAIL_SEQUENCE).fetch_add(1, Ordering::Relaxed);
        step();
        before.wrapping_add(1)
    }

    /// Whether it is worth to try again to receive, after nothing was found. Takes no lock.
    #[must_use]
    #[inline]
    pub fn has_news(&self) -> bool {
        self.bell.rings() != self.rings_seen.get() || self.have_lanes_news()
    }

    /// The table, if there is one. Without the lock its first sight may be taken back, and is not remembered.
    #[inline]
    fn seen_table(&self) -> Option<Table> {
        self.table.get().or_else(|| Table::find(self.space()).ok().flatten())
    }

    #[inline]
    fn have_lanes_news(&self) -> bool {
        self.lanes.borrow().have_news(self.space(), self.seen_table())
    }

    /// The next message of this key from those wanted. It is this call's from then on, and no other call receives more of
    /// its source and key, until it is accepted or given back.
    ///
    /// # Errors
    /// [`MailError::LaneMissing`], [`MailError::TooManySources`], [`MailError::Busy`], [`MailError::Full`] if there is no
    /// memory at all, [`MailError::Corrupt`].
    #[inline]
    pub fn take(&self, wanted: Wanted<'_>, key: Key<'_>) -> Result<Option<Received<'_>>, MailError> {
        self.take_if(wanted, key, &|| true)
    }

    /// [`Mailbox::take`], as long as this worker has all lanes that it was told of: what a source has sent on one comes before
    /// what it sent on another one later, so a worker that lacks the earlier lane must not take anything out of the later.
    /// `is_current` is asked when a message was seen in a lane, before it is taken out.
    ///
    /// # Errors
    /// [`MailError::Outdated`]; otherwise as [`Mailbox::take`].
    #[inline]
    pub fn take_if(
        &self,
        wanted: Wanted<'_>,
        key: Key<'_>,
        is_current: &impl Fn() -> bool,
    ) -> Result<Option<Received<'_>>, MailError> {
        self.note_rings();
        if self.is_quiet() {
            return Ok(None);
        }
        match self.take_shortly(wanted, key, is_current)? {
            None => self.take_long(wanted, key, is_current),
            received => Ok(received),
        }
    }

    #[inline(never)]
    fn take_long(
        &self,
        wanted: Wanted<'_>,
        key: Key<'_>,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Option<Received<'_>>, MailError> {
        match self.receive(wanted, key, true, is_current)? {
            Turn::Taken { queue, message, bytes } => {
                self.held.set(self.held.get() + 1);
                self.remember(wanted, key, queue);
                Ok(Some(Received::new(self, queue, message, bytes)))
            }
            _ => Ok(None),
        }
    }

    /// A copy of what [`Mailbox::take`] would take.
    ///
    /// # Errors
    /// As there.
    pub fn peek(&self, wanted: Wanted<'_>, key: Key<'_>) -> Result<Option<Peeked>, MailError> {
        self.peek_if(wanted, key, &|| true)
    }

    /// A copy of what [`Mailbox::take_if`] would take.
    ///
    /// # Errors
    /// As there.
    pub fn peek_if(
        &self,
        wanted: Wanted<'_>,
        key: Key<'_>,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Option<Peeked>, MailError> {
        self.note_rings();
        if self.is_quiet() {
            return Ok(None);
        }
        match self.receive(wanted, key, false, is_current)? {
            Turn::Peeked(peeked) => Ok(Some(peeked)),
            _ => Ok(None),
        }
    }

    /// Whether nothing can be received, and nothing is to be told to any lane, without the lock.
    #[inline]
    fn is_quiet(&self) -> bool {
        let (space, lanes) = (self.space(), self.lanes.borrow());
        // The lanes first: what another worker takes out of one counts as a message before the lane is seen without it.
        !lanes.have_arrived(space, self.seen_table())
            // What is claimed in its lane is held, and not counted there.
            && space.words.load_acquire(MAIL_MESSAGES) + u64::from(self.claimed.get()) <= self.held.get()
            && !lanes.need_repair(space)
    }

    #[inline]
    fn receive(
        &self,
        wanted: Wanted<'_>,
        key: Key<'_>,
        takes: bool,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Turn, MailError> {
        match wanted {
            Wanted::Any => self.receive_from(From::Any, key, takes, is_current),
            Wanted::One(source) | Wanted::Of([source]) => self.receive_from_one(source, key, takes, is_current),
            Wanted::Of(sources) => self.receive_from_many(sources, key, takes, is_current),
        }
    }

    #[inline]
    fn receive_from_one(
        &self,
        source: &Address,
        key: Key<'_>,
        takes: bool,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Turn, MailError> {
        let mut last = self.last_wanted.borrow_mut();
        let source = match &mut *last {
            Some((address, known)) if address == source => known,
            last => &mut last.insert((*source, Source::new(self.seed, source))).1,
        };
        self.receive_from(From::One(source), key, takes, is_current)
    }

    fn receive_from_many(
        &self,
        sources: &[Address],
        key: Key<'_>,
        takes: bool,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Turn, MailError> {
        if sources.len() > ADDRESSES_PER_CALL_MAX {
            return Err(MailError::TooManySources { actual: sources.len(), limit: ADDRESSES_PER_CALL_MAX });
        }
        let mut sought = self.sought.borrow_mut();
        sought.clear();
        sought.extend(sources.iter().map(|source| Source::new(self.seed, source)));
        self.receive_from(From::Of(&sought), key, takes, is_current)
    }

    #[inline(always)]
    fn receive_from(
        &self,
        from: From<'_>,
        key: Key<'_>,
        takes: bool,
        is_current: &dyn Fn() -> bool,
    ) -> Result<Turn, MailError> {
        let (text, held_at) = (KeyText::new(self.seed, key.as_bytes()), held::held_at(self.space(), self.row));
        self.receive_sought(&Seek { from, key: text, expected: key, row: self.row, held_at, takes }, is_current)
    }

    #[inline(never)]
    fn receive_sought(&self, seek: &Seek<'_>, is_current: &dyn Fn() -> bool) -> Result<Turn, MailError> {
        match self.turn(seek, is_current)? {
            Turn::More => self.further_turns(seek, is_current),
            turn => Ok(turn),
        }
    }

    /// The turns after the first one, which is apart: what a loop seldom needs would be prepared before each receive.
    #[cold]
    #[inline(never)]
    fn further_turns(&self, seek: &Seek<'_>, is_current: &dyn Fn() -> bool) -> Result<Turn, MailError> {
        for _ in 1..COLLECT_TURNS_MAX {
            match self.turn(seek, is_current)? {
                Turn::More => {}
                turn => return Ok(turn),
            }
        }
        Ok(Turn::Nothing)
    }

    /// One turn: looks among the queues, then into the lanes.
    #[inline(always)]
    fn turn(&self, seek: &Seek<'_>, is_current: &dyn Fn() -> bool) -> Result<Turn, MailError> {
        let locked = self.lock()?;
        let table = self.table(&locked)?;
        let lanes = &mut *self.lanes.borrow_mut();
        lanes.repair(&locked, table)?;
        if held::is_ending(self.space(), self.row) {
            self.go_on_ending(&locked, table, lanes)?;
        }
        queue::tidy(&locked)?;
        let found = match self.look(&locked, table, lanes, seek)? {
            Found::Next { queue, message, bytes } if seek.takes => {
                // Others come into the ring meanwhile, so that none of them waits for the end of this one's.
                let queued = match seek.from {
                    From::Any => self.collect(&locked, table, lanes, is_current)?,
                    _ => 0,
                };
                held::take_first(&locked, queue, message, seek)?;
                self.end(locked, queued);
                return Ok(Turn::Taken { queue, message, bytes });
            }
            Found::Next { queue, message, bytes } => {
                return self.copy(&locked, queue, message, bytes).map(Turn::Peeked);
            }
            found => found,
        };
        let (collected, queued) = match lanes.collect(&locked, table, Some(seek), is_current)? {
            Collected::Direct { queue, message, slot, queued } => {
                let bytes = seek::bytes_of(&self.objects, lanes, message);
                self.end(locked, queued);
                lanes.tell_sender(slot);
                return match bytes? {
                    Ok(bytes) => Ok(Turn::Taken { queue, message, bytes }),
                    Err(place) => Err(MailError::LaneMissing { slot: place.slot, serial: place.serial }),
                };
            }
            Collected::All { queued } => (Turn::Nothing, queued),
            Collected::More { queued } => (Turn::More, queued),
        };
        self.end(locked, queued);
        match (collected, found) {
            // What was queued may have been sought, and could not be taken because of others.
            (Turn::Nothing, _) if queued > 0 => Ok(Turn::More),
            (Turn::Nothing, Found::Elsewhere(place)) => {
                Err(MailError::LaneMissing { slot: place.slot, serial: place.serial })
            }
            (turn, _) => Ok(turn),
        }
    }

    /// Ends a turn that has put messages into queues where others may seek them.
    #[inline]
    fn end(&self, locked: Locked<'_>, queued: usize) {
        drop(locked);
        if queued > 0 {
            self.bell.ring();
        }
    }

    /// Looks among the queues; what is lost on the way is removed.
    #[inline]
    fn look(&self, locked: &Locked<'_>, table: Table, lanes: &Lanes, seek: &Seek<'_>) -> Result<Found, MailError> {
        if self.space().words.load(MAIL_MESSAGES) == 0 {
            return Ok(Found::Nothing);
        }
        for _ in 0..=MESSAGES_BOUND {
            let found = seek.look(&self.objects, table, lanes)?;
            let Found::Lost { queue, message } = found else { return Ok(found) };
            held::lose_first(locked, queue, message)?;
            lanes.give_returns(locked, table)?;
        }
        Ok(Found::Nothing)
    }

    fn collect(
        &self,
        locked: &Locked<'_>,
        table: Table,
        lanes: &mut Lanes,
        is_current: &dyn Fn() -> bool,
    ) -> Result<usize, MailError> {
        match lanes.collect(locked, table, None, is_current)? {
            Collected::All { queued } | Collected::More { queued } => Ok(queued),
            Collected::Direct { queued, .. } => Ok(queued),
        }
    }

    fn copy(
        &self,
        _locked: &Locked<'_>,
        queue: Queue,
        message: Stored,
        bytes: std::ptr::NonNull<[u8]>,
    ) -> Result<Peeked, MailError> {
        let space = self.space();
        Ok(Peeked {
            id: message.id(space),
            source: address_of(space, queue)?,
            is_redelivered: message.is_redelivered(space),
            // SAFETY: the place was checked to lie inside the segment or a mapped lane; under the lock nobody removes the
            // message, and nobody of this trust domain writes it.
            bytes: unsafe { bytes.as_ref() }.to_vec(),
        })
    }

    /// Removes a message that this worker holds.
    #[inline]
    pub(crate) fn accept(&self, queue: Queue, message: Stored) -> Result<(), MailError> {
        if self.claimed.get() && self.accept_shortly(message)? {
            return Ok(());
        }
        self.with_log_room(|| {
            let locked = self.lock()?;
            let rings = self.remove(&locked, queue, message)?;
            self.held.set(self.held.get().saturating_sub(1));
            drop(locked);
            if rings {
                self.bell.ring();
            }
            Ok(())
        })
    }

    /// Does `attempt`, which takes the lock, again where the log ring had no room for it.
    #[inline]
    pub(crate) fn with_log_room<T>(&self, attempt: impl FnMut() -> Result<T, MailError>) -> Result<T, MailError> {
        logging::with_room(self.space(), self.patience.get(), attempt)
    }

    /// Logs a long payload ahead of its message.
    ///
    /// # Safety
    /// As for [`logging::pieces`].
    pub(crate) unsafe fn log_pieces(&self, place: NonNull<u8>, bytes: usize) -> Result<(), StateError> {
        // SAFETY: the caller's promise.
        unsafe { logging::pieces(self.space(), self.owner, self.patience.get(), place, bytes) }
    }

    /// Removes one message. True if somebody else may have something to receive now.
    #[inline]
    fn remove(&self, locked: &Locked<'_>, queue: Queue, message: Stored) -> Result<bool, MailError> {
        let space = locked.space();
        let is_last = if message.lane_place(space).is_none() {
            held::remove(locked, self.row, queue, message)?
        } else {
            self.remove_from_lane(locked, queue, message)?
        };
        let has_made_room = self.has_made_room(locked);
        Ok(has_made_room || is_last && queue.count(space) > 0)
    }

    /// The same of a message whose payload lies in a lane.
    fn remove_from_lane(&self, locked: &Locked<'_>, queue: Queue, message: Stored) -> Result<bool, MailError> {
        let (lanes, table) = (self.lanes.borrow(), self.table(locked)?);
        lanes.give_returns(locked, table)?;
        let is_last = held::remove(locked, self.row, queue, message)?;
        lanes.give_returns(locked, table)?;
        Ok(is_last)
    }

    /// Whether somebody waits for the room that was just made.
    #[inline]
    pub(super) fn has_made_room(&self, locked: &Locked<'_>) -> bool {
        let words = locked.space().words;
        let somebody = words.load(MAIL_STALLED) != 0;
        if somebody {
            words.store(MAIL_STALLED, 0);
        }
        somebody
    }

    /// Removes all messages that this worker's call holds: it has ended well, and its reply is not published yet. All of
    /// them are removed at one instant, whenever the worker dies.
    ///
    /// # Errors
    /// [`MailError::Busy`]: nothing was removed. [`MailError::Corrupt`].
    #[inline]
    pub fn accept_all(&mut self) -> Result<(), MailError> {
        match self.held.get() {
            0 if self.lanes.get_mut().need_repair(self.objects.space()) || self.is_ending() => self.repair(),
            0 => Ok(()),
            1 if self.claimed.get() && self.accept_claimed()? => Ok(()),
            1 => self.with_log_room(|| self.accept_last()),
            _ => self.with_log_room(|| self.accept_many()),
        }
    }

    /// Whether a call of this worker has accepted messages that are still to be removed, because the lock was busy.
    #[inline]
    fn is_ending(&self) -> bool {
        // Without a table nothing was ever stored in the row, and looking at it would give it memory.
        self.table.get().is_some() && held::is_ending(self.space(), self.row)
    }

    /// Tells the lanes what somebody who died has not, and removes what this worker has accepted.
    #[cold]
    fn repair(&self) -> Result<(), MailError> {
        let locked = self.lock()?;
        let table = self.table(&locked)?;
        let lanes = &mut *self.lanes.borrow_mut();
        lanes.repair(&locked, table)?;
        self.go_on_ending(&locked, table, lanes)
    }

    /// Removes more of what this worker's earlier call has accepted all together, and tells who waits for it.
    #[cold]
    fn go_on_ending(&self, locked: &Locked<'_>, table: Table, lanes: &Lanes) -> Result<(), MailError> {
        self.end_batch(locked, table, lanes)?;
        self.bell.ring();
        Ok(())
    }

    /// Removes a batch of what was accepted all together. True if nothing is left of it.
    fn end_batch(&self, locked: &Locked<'_>, table: Table, lanes: &Lanes) -> Result<bool, MailError> {
        lanes.give_returns(locked, table)?;
        let mut is_done = false;
        for _ in 0..ENDING_BATCH {
            is_done = !held::end_one(locked, self.row)?;
            if is_done {
                break;
            }
        }
        lanes.give_returns(locked, table)?;
        self.has_made_room(locked);
        Ok(is_done)
    }

    fn accept_last(&self) -> Result<(), MailError> {
        let locked = self.lock()?;
        if held::is_ending(self.space(), self.row) {
            self.go_on_ending(&locked, self.table(&locked)?, &self.lanes.borrow())?;
        }
        let message = held::last(self.space(), self.row)?;
        let rings = match message {
            Some(message) => self.remove(&locked, message.queue(self.space())?, message)?,
            None => false,
        };
        self.held.set(0);
        drop(locked);
        if rings {
            self.bell.ring();
        }
        Ok(())
    }

    #[cold]
    fn accept_many(&self) -> Result<(), MailError> {
        let locked = self.lock()?;
        held::finish_ending(&locked, self.row)?;
        held::begin_ending(&locked, self.row)?;
        self.held.set(0);
        drop(locked);
        let mut is_done = false;
        while !is_done {
            let locked = match self.lock() {
                Ok(locked) => locked,
                // They are removed: this worker's next turn does the rest, or whoever uses this row next.
                Err(MailError::Busy { .. }) => break,
                Err(error) => return Err(error),
            };
            let table = self.table(&locked)?;
            is_done = self.end_batch(&locked, table, &self.lanes.borrow())?;
        }
        self.bell.ring();
        Ok(())
    }

    /// Gives back all messages that this worker's call holds, to the heads of their queues and in their order: it has
    /// failed.
    ///
    /// # Errors
    /// [`MailError::Busy`]: some are held as before; try again, or end the worker. [`MailError::Corrupt`].
    pub fn release_all(&mut self) -> Result<(), MailError> {
        self.release_held()
    }

    fn release_held(&self) -> Result<(), MailError> {
        if self.held.get() == 0 {
            return Ok(());
        }
        let mut is_done = false;
        while !is_done {
            let locked = self.lock()?;
            for _ in 0..ENDING_BATCH {
                is_done = !held::give_back_last(&locked, self.row)?;
                if is_done {
                    self.held.set(0);
                    break;
                }
                self.held.set(self.held.get().saturating_sub(1));
            }
        }
        self.bell.ring();
        Ok(())
    }

    /// What happens from now on is news.
    #[inline]
    pub(super) fn note_rings(&self) {
        self.rings_seen.set(self.bell.rings());
    }

    /// The lock, for everything but the short way: no message is claimed any more.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Result<Locked<'_>, MailError> {
        let locked = self.lock_shortly()?;
        if claim::is_there(self.space()) {
            self.settle_claim(&locked)?;
        }
        self.claimed.set(false);
        Ok(locked)
    }

    /// The lock, with a message claimed in its lane if one was.
    #[inline(always)]
    pub(super) fn lock_shortly(&self) -> Result<Locked<'_>, MailError> {
        Ok(lock::acquire(self.space(), self.owner, self.patience.get())?)
    }

    #[cold]
    #[inline(never)]
    fn settle_claim(&self, locked: &Locked<'_>) -> Result<(), MailError> {
        let (Some(slot), table) = (claim::settle(locked)?, self.table(locked)?) else { return Ok(()) };
        let is_told = self.lanes.try_borrow().is_ok_and(|lanes| lanes.tell_consumed(self.space(), table, slot));
        if !is_told {
            // Whoever has the lane tells it.
            let words = self.space().words;
            words.store(MAIL_REPAIRS, words.load(MAIL_REPAIRS).wrapping_add(1));
        }
        Ok(())
    }

    /// The table, made if there is none and room for it.
    #[inline]
    pub(crate) fn table(&self, locked: &Locked<'_>) -> Result<Table, MailError> {
        match self.table.get() {
            Some(table) => Ok(table),
            None => self.make_table(locked),
        }
    }

    /// The table, if this end has seen it.
    #[inline]
    pub(super) fn table_if_known(&self) -> Option<Table> {
        self.table.get()
    }

    #[cold]
    fn make_table(&self, locked: &Locked<'_>) -> Result<Table, MailError> {
        let table = Table::ensure(locked).map_err(|error| self.full(error.into()))?;
        self.table.set(Some(table));
        Ok(table)
    }

    /// Puts the figures into a refusal for want of room.
    pub(crate) fn full(&self, error: MailError) -> MailError {
        match error {
            MailError::Full { needed_bytes, free_bytes, .. } => MailError::Full {
                messages: self.space().words.load(MAIL_MESSAGES),
                messages_max: u64::from(MAILBOX_MESSAGES_MAX),
                needed_bytes,
                free_bytes,
            },
            error => error,
        }
    }

    #[inline]
    pub(crate) fn space(&self) -> Space<'_> {
        self.objects.space()
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn lanes(&self) -> &RefCell<Lanes> {
        &self.lanes
    }

    pub(crate) fn row(&self) -> usize {
        self.row
    }

    /// A message that was held was given back.
    pub(crate) fn one_less_held(&self) {
        self.held.set(self.held.get().saturating_sub(1));
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        // What cannot be given back now is by the next end of this row, or by the server after this worker's end.
        let _ = self.release_held();
        self.objects.give_mail_row_back(self.row);
    }
}

impl MailUsage {
    pub(crate) fn read(space: Space<'_>) -> Self {
        let load = |at| space.words.load_acquire(at);
        Self {
            messages: load(MAIL_MESSAGES) + u64::from(claim::is_there(space)),
            messages_max: u64::from(MAILBOX_MESSAGES_MAX),
            queues: load(MAIL_QUEUES),
            sources: load(MAIL_SOURCES),
        }
    }
}
