//! Calls with idempotency keys: which of several equal calls runs, and what the others are told.
//!
//! ```text
//!         ┌─ the worker dies ──▶ lost ─── its time is over ──▶ (none)
//! (none) ─▶ running ─ finish ─▶ finished ─ its time is over ─▶ (none)
//!              ▲                              lost, to be run again: running anew
//! ```
//!
//! Invariants:
//! 1. Who runs a call has put its record, as `running` under its own tag, in the place of none, of one whose time is over, or
//!    of a lost one: by one transaction with a condition, so there is one of them.
//! 2. A finished record is put before the answer is published; the block that it needs at least is on loan since before the
//!    call ran, so that a full state cannot keep the end from being recorded.
//! 3. A call is lost when its worker's row no longer names that worker. The row is cleared after the worker's death, when the
//!    server has settled what it was at; whoever finds that reads the record again, by the condition of its own put.
//! 4. Each record has one slot in the ring of its segment, in the order in which the calls began; both come and go in one
//!    transaction. A slot holds the hash of the record's name.
//! 5. Records are forgotten only when their time is over. Each new one looks at a few of the oldest, and passes over those that run
//!    and those whose record is still in storage; a full ring, or a full share of the heap, refuses new ones.

use super::block::{Block, Kind};
use super::call_record::{CallClock, CallName, CallRecord, CallState, HEAD_BYTES, META};
use super::error::StateError;
use super::granule::{GRANULE_BYTES, Granule};
use super::guard::Guard;
use super::index::{self, Spot};
use super::key::{Key, Namespace};
use super::layout::header::{CALLS_GRANULES, CALLS_NEXT, CALLS_OLDEST};
use super::limits::{
    CALL_BEGIN_TRIES_MAX, CALL_LOOKS, CALL_LOOKS_WHEN_FULL, CALL_RECORDS_SHARE_OF_HEAP, CALL_SPARE_BYTES,
    PUT_WITHIN_LOCK_BYTES_MAX,
};
use super::loan::Loan;
use super::lock::Locked;
use super::object::Placed;
use super::restoring::Restoring;
use super::store::{Store, checked_value_bytes, unix_ms};
use super::transaction::Transaction;
use super::words::Space;
use super::write::{self, Hashed, PinnedScratch, Publication};
use super::{Condition, restoring, row_owner};
use crate::copy;

/// What became of the wish to run a call.
#[derive(Debug)]
pub enum Begun<'s, 'n> {
    /// Run it, and finish the claim.
    Run(CallClaim<'s, 'n>),
    /// Another worker runs it now: look again.
    Running,
    /// It has ended so.
    Finished(FinishedCall<'s>),
    /// The worker that ran it has died.
    Lost,
    /// The key is of a call with another payload.
    OtherPayload,
    /// There is no room for another record.
    Full {
        /// What is used.
        used: u64,
        /// Of how much: records, or bytes.
        limit: u64,
    },
}

/// The right to run a call, and the duty to record its end. Dropped, the call stays `running` until its worker ends.
#[derive(Debug)]
pub struct CallClaim<'s, 'n> {
    store: &'s Store,
    name: &'n CallName,
    record: CallRecord,
    version: u64,
    spare: Loan<'s, 'n>,
}

/// The end of a call.
#[derive(Debug, Clone, Copy)]
pub struct CallEnd<'a> {
    /// Its outcome.
    pub outcome_code: u32,
    /// First word of detail.
    pub detail: u32,
    /// Second word of detail.
    pub more: u32,
    /// Its bytes.
    pub reply: &'a [u8],
}

/// A call that has ended, as it was recorded.
#[derive(Debug)]
pub struct FinishedCall<'s> {
    guard: Guard<'s>,
    record: CallRecord,
}

impl FinishedCall<'_> {
    /// Its end.
    #[must_use]
    pub fn end(&self) -> CallEnd<'_> {
        let CallRecord { outcome_code, detail, more, .. } = self.record;
        let reply = self.guard.in_place().and_then(|value| value.get(HEAD_BYTES..)).unwrap_or_default();
        CallEnd { outcome_code, detail, more, reply }
    }
}

/// Figures of the records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallUsage {
    /// Records.
    pub records: u64,
    /// Most that there can be.
    pub records_max: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Bytes above which no record comes.
    pub bytes_max: u64,
}

impl CallUsage {
    fn read(space: Space<'_>) -> Self {
        let (oldest, next) = (space.words.load_acquire(CALLS_OLDEST), space.words.load_acquire(CALLS_NEXT));
        Self {
            records: next.saturating_sub(oldest),
            records_max: space.layout.call_slots as u64,
            bytes: space.words.load_acquire(CALLS_GRANULES).saturating_mul(GRANULE_BYTES),
            bytes_max: space.layout.heap_granules() / CALL_RECORDS_SHARE_OF_HEAP * GRANULE_BYTES,
        }
    }

    /// What is full, if something is.
    fn full(&self) -> Option<(u64, u64)> {
        if self.records >= self.records_max {
            return Some((self.records, self.records_max));
        }
        (self.bytes >= self.bytes_max).then_some((self.bytes, self.bytes_max))
    }
}

impl Store {
    /// Worker: begins the call of this name with this payload, unless it was begun before. `rerun_lost`: a lost one is begun
    /// again.
    ///
    /// # Errors
    /// [`StateError::Full`] and other refusals; nothing is claimed then.
    pub fn begin_call<'s, 'n>(
        &'s self,
        name: &'n CallName,
        digest: [u8; 16],
        rerun_lost: bool,
        clock: CallClock,
    ) -> Result<Begun<'s, 'n>, StateError> {
        let key = name.key();
        for _ in 0..CALL_BEGIN_TRIES_MAX {
            let claimed = match self.get(&key)? {
                None => self.claim(name, digest, Condition::Absent, clock),
                Some(guard) => {
                    let (record, version) = (read(&guard)?, guard.version());
                    let again = Condition::Version(version);
                    match record.state {
                        _ if record.is_over(clock.now_unix_ms) => self.claim(name, digest, again, clock),
                        _ if record.digest != digest => return Ok(Begun::OtherPayload),
                        CallState::Finished => return Ok(Begun::Finished(FinishedCall { guard, record })),
                        CallState::Running(owner) if row_owner::lives(self.space(), owner) => {
                            return Ok(Begun::Running);
                        }
                        CallState::Running(_) | CallState::Lost if rerun_lost => self.claim(name, digest, again, clock),
                        CallState::Lost => return Ok(Begun::Lost),
                        CallState::Running(_) => self.mark_lost(&key, record, version, clock).map(|()| Begun::Lost),
                    }
                }
            };
            match claimed {
                Err(StateError::Conflict { .. }) => {}
                ended => return ended,
            }
        }
        // Others came first each time: one of them runs it.
        Ok(Begun::Running)
    }

    /// Figures of the records of calls.
    #[must_use]
    pub fn call_usage(&self) -> CallUsage {
        CallUsage::read(self.space())
    }

    fn claim<'s, 'n>(
        &'s self,
        name: &'n CallName,
        digest: [u8; 16],
        condition: Condition,
        clock: CallClock,
    ) -> Result<Begun<'s, 'n>, StateError> {
        let key = name.key();
        let record = CallRecord::running(self.owner_word(), digest);
        let spare = self.loan(&key, CALL_SPARE_BYTES)?;
        let hashed = self.hashed(&key);
        let claimed = self.with_lock(|locked, pinned| {
            make_room(locked, pinned, clock, CALL_LOOKS)?;
            if condition == Condition::Absent && CallUsage::read(locked.space()).full().is_some() {
                make_room(locked, pinned, clock, CALL_LOOKS_WHEN_FULL)?;
                if let Some(full) = CallUsage::read(locked.space()).full() {
                    return Ok(Err(full));
                }
            }
            put(self, locked, pinned, &hashed, &record.encode(), condition).map(Ok)
        })?;
        Ok(match claimed {
            Ok(version) => Begun::Run(CallClaim { store: self, name, record, version, spare }),
            Err((used, limit)) => Begun::Full { used, limit },
        })
    }

    /// Records that the worker of a call is gone, so that it is remembered from now on for its time.
    fn mark_lost(&self, key: &Key<'_>, record: CallRecord, version: u64, clock: CallClock) -> Result<(), StateError> {
        let lost = record.lost(clock.until()).encode();
        let hashed = self.hashed(key);
        let condition = Condition::Version(version);
        let marked = self.with_lock(|locked, pinned| put(self, locked, pinned, &hashed, &lost, condition));
        match marked {
            // It stays as it is; but it is lost only if nobody finished it since it was read.
            Err(StateError::Full { .. }) => {
                let current = self.header(key)?.map(|header| header.version);
                if current == Some(version) { Ok(()) } else { Err(StateError::Conflict { current }) }
            }
            marked => marked.map(drop),
        }
    }
}

impl CallClaim<'_, '_> {
    /// Records the end of the call. A reply for which there is no room is not kept: then those who ask again get the outcome
    /// `without_reply`, a code and two words of detail.
    ///
    /// # Errors
    /// [`StateError::Busy`], [`StateError::Corrupt`]: the call stays `running` until its worker ends.
    pub fn finish(self, end: &CallEnd<'_>, without_reply: (u32, u32, u32), clock: CallClock) -> Result<(), StateError> {
        let Self { store, name, record, version, mut spare } = self;
        let CallEnd { outcome_code, detail, more, reply } = *end;
        let (state, until_unix_ms) = (CallState::Finished, clock.until());
        let mut finished = CallRecord { state, until_unix_ms, outcome_code, detail, more, ..record };
        let mut kept = reply;
        if HEAD_BYTES + reply.len() > spare.value_bytes() {
            match store.put_finished(name, &finished, reply, version) {
                Err(StateError::Full { .. } | StateError::TooLarge { .. } | StateError::TooManyLoans { .. }) => {}
                ended => return ended,
            }
            (finished.outcome_code, finished.detail, finished.more) = without_reply;
            kept = &[];
        }
        spare.write(0, &finished.encode());
        spare.write(HEAD_BYTES, kept);
        spare.truncate(HEAD_BYTES + kept.len());
        let published = spare.publish_with(META, Condition::Version(version), unix_ms(), account);
        published.map(drop).map_err(|unpublished| unpublished.error)
    }
}

impl Store {
    /// Puts a finished record whose reply is too long for the spare block, if the share of the records has room for it.
    fn put_finished(
        &self,
        name: &CallName,
        finished: &CallRecord,
        reply: &[u8],
        version: u64,
    ) -> Result<(), StateError> {
        let (key, condition) = (name.key(), Condition::Version(version));
        let value_bytes = checked_value_bytes(HEAD_BYTES + reply.len())?;
        let usage = self.call_usage();
        if usage.bytes + u64::from(value_bytes) > usage.bytes_max {
            let free_bytes = usage.bytes_max.saturating_sub(usage.bytes);
            let needed_bytes = u64::from(value_bytes);
            let largest_free_bytes = free_bytes;
            return Err(StateError::Full {
                needed_bytes,
                free_bytes,
                limit_bytes: usage.bytes_max,
                largest_free_bytes,
            });
        }
        if value_bytes as usize <= PUT_WITHIN_LOCK_BYTES_MAX {
            let mut value = [0; PUT_WITHIN_LOCK_BYTES_MAX];
            let value = &mut value[..value_bytes as usize];
            value[..HEAD_BYTES].copy_from_slice(&finished.encode());
            value[HEAD_BYTES..].copy_from_slice(reply);
            let hashed = self.hashed(&key);
            return self.with_lock(|locked, pinned| put(self, locked, pinned, &hashed, value, condition)).map(drop);
        }
        let mut loan = self.loan(&key, value_bytes)?;
        loan.write(0, &finished.encode());
        loan.write(HEAD_BYTES, reply);
        let published = loan.publish_with(META, condition, unix_ms(), account);
        published.map(drop).map_err(|unpublished| unpublished.error)
    }
}

/// The record in an object's value.
fn read(guard: &Guard<'_>) -> Result<CallRecord, StateError> {
    let mut head = [0; HEAD_BYTES];
    let length = guard.value_bytes().min(HEAD_BYTES);
    guard.copy_from(0, &mut head[..length]);
    let word = |at: usize| head[8 * at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    CallRecord::decode(guard.header().meta, guard.value_bytes(), word)
        .ok_or_else(|| StateError::corrupt("record of a call", CALLS_OLDEST))
}

/// The same under the lock.
fn read_placed(space: Space<'_>, object: &Placed) -> Result<CallRecord, StateError> {
    let first = object.value().offset / 8;
    CallRecord::decode(object.header(space).meta, object.value().bytes, |at| space.words.load(first + at))
        .ok_or_else(|| StateError::corrupt("record of a call", object.place.at()))
}

/// Puts a record, short enough to be copied under the lock.
fn put(
    store: &Store,
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    hashed: &Hashed<'_>,
    value: &[u8],
    condition: Condition,
) -> Result<u64, StateError> {
    let value_bytes = checked_value_bytes(value.len())?;
    let publication = Publication { meta: META, value_bytes, modified_unix_ms: unix_ms(), condition };
    let fill = |_, place: super::object::ValuePlace| {
        // SAFETY: the place lies inside the block that was just allocated; nobody sees it yet.
        unsafe { copy::to_shared(value, store.objects().bytes(place.offset, place.bytes)) };
    };
    let hash = hashed.hash;
    write::put_with(locked, pinned, hashed, &publication, fill, |transaction, spot, place| {
        if !matches!(spot, Spot::Held { .. }) {
            push(transaction, hash)?;
        }
        account(transaction, spot, place)
    })
}

/// Counts the granules of a record that takes the place of another, or of none.
fn account(transaction: &mut Transaction<'_>, spot: &Spot, place: Granule) -> Result<(), StateError> {
    let space = transaction.space();
    // The block of a loan became an object's earlier in this transaction.
    let added = u64::from(Block::of_kind(space, place, Kind::Object)?.granules);
    let removed = match spot {
        Spot::Held { object, .. } => u64::from(Block::of_kind(space, object.place, Kind::Object)?.granules),
        Spot::Vacant { .. } | Spot::Behind { .. } => 0,
    };
    count_granules(transaction, added, removed)
}

fn count_granules(transaction: &mut Transaction<'_>, added: u64, removed: u64) -> Result<(), StateError> {
    let granules = transaction.load(CALLS_GRANULES).saturating_add(added).checked_sub(removed);
    transaction.store(CALLS_GRANULES, granules.ok_or_else(|| StateError::corrupt("size of records", CALLS_GRANULES))?)
}

/// Counts a record that comes back from elsewhere. Its slot comes with the others, by [`restore_order`].
pub(crate) fn count_incoming(transaction: &mut Transaction<'_>, place: Granule) -> Result<(), StateError> {
    let added = u64::from(Block::of_kind(transaction.space(), place, Kind::Object)?.granules);
    count_granules(transaction, added, 0)
}

/// The same of one that takes the place of its stub.
pub(crate) fn count_replaced(
    transaction: &mut Transaction<'_>,
    place: Granule,
    stub: &Placed,
) -> Result<(), StateError> {
    let space = transaction.space();
    let added = u64::from(Block::at(space, place)?.granules);
    let removed = u64::from(Block::of_kind(space, stub.place, Kind::Object)?.granules);
    count_granules(transaction, added, removed)
}

/// The hashes of all records, in the order in which their calls began.
pub(crate) fn order(space: Space<'_>) -> Result<Vec<u64>, StateError> {
    let (oldest, next) = ends(space)?;
    Ok((oldest..next).map(|number| space.words.load(slot_at(space, number))).collect())
}

/// How many of the records that the order names are there, and how many it names.
pub(crate) fn known(space: Space<'_>) -> Result<(u64, u64), StateError> {
    let (mut known, order) = (0, order(space)?);
    for &hash in &order {
        known += u64::from(index::find_hashed(space, hash, Namespace::CALLS)?.is_some());
    }
    Ok((known, order.len() as u64))
}

/// Gives records that come back their slots. There were none.
pub(crate) fn restore_order(locked: &Locked<'_>, hashes: &[u64]) -> Result<(), StateError> {
    let space = locked.space();
    if ends(space)? != (0, 0) || hashes.len() > space.layout.call_slots {
        return Err(StateError::corrupt("ring of records that come back", CALLS_NEXT));
    }
    for (number, &hash) in (0..).zip(hashes) {
        space.words.store(slot_at(space, number), hash);
    }
    space.words.store(CALLS_NEXT, hashes.len() as u64);
    Ok(())
}

/// The numbers of the oldest slot and of the next one, checked.
fn ends(space: Space<'_>) -> Result<(u64, u64), StateError> {
    let (oldest, next) = (space.words.load(CALLS_OLDEST), space.words.load(CALLS_NEXT));
    match next.checked_sub(oldest) {
        Some(count) if count <= space.layout.call_slots as u64 => Ok((oldest, next)),
        _ => Err(StateError::corrupt("ring of records", CALLS_OLDEST)),
    }
}

/// The word of slot `number`. The ring has slots, for it holds one or is about to.
fn slot_at(space: Space<'_>, number: u64) -> usize {
    let slots = space.layout.call_slots as u64;
    space.layout.calls + usize::try_from(number % slots).unwrap_or(0)
}

/// Gives a new record its slot.
fn push(transaction: &mut Transaction<'_>, hash: u64) -> Result<(), StateError> {
    let space = transaction.space();
    let (oldest, next) = ends(space)?;
    if next - oldest >= space.layout.call_slots as u64 {
        return Err(StateError::corrupt("ring of records, which has no room", CALLS_NEXT));
    }
    transaction.store(slot_at(space, next), hash)?;
    transaction.store(CALLS_NEXT, next + 1)
}

/// Looks at some of the oldest records, and ends those whose time is over.
fn make_room(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    clock: CallClock,
    looks: usize,
) -> Result<(), StateError> {
    for _ in 0..looks {
        if !look_at_oldest(locked, pinned, clock)? {
            break;
        }
    }
    Ok(())
}

/// False if there is none, or its time is not over: those behind it began later.
fn look_at_oldest(locked: &Locked<'_>, pinned: &mut PinnedScratch, clock: CallClock) -> Result<bool, StateError> {
    let space = locked.space();
    let (oldest, next) = ends(space)?;
    if oldest == next {
        return Ok(false);
    }
    let hash = space.words.load(slot_at(space, oldest));
    let found = index::find_hashed(space, hash, Namespace::CALLS)?;
    if found.is_none() && restoring::ensure_in(space, hash).is_ok() {
        return Err(StateError::corrupt("slot of a record", slot_at(space, oldest)));
    }
    // Of what did not come back yet nobody knows whether its time is over.
    let Some((at, object)) = found.filter(|(_, object)| !object.is_stub()) else {
        return pass_over(locked, oldest, next, hash).map(|()| true);
    };
    let record = read_placed(space, &object)?;
    if record.is_over(clock.now_unix_ms) {
        write::delete_with(locked, pinned, at, &object, |transaction| {
            let granules = u64::from(Block::of_kind(space, object.place, Kind::Object)?.granules);
            count_granules(transaction, 0, granules)?;
            transaction.store(CALLS_OLDEST, oldest + 1)
        })?;
        return Ok(true);
    }
    let CallState::Running(owner) = record.state else { return Ok(false) };
    if !row_owner::lives(space, owner) {
        mark_lost_in_passing(locked, pinned, &object, record, clock)?;
    }
    pass_over(locked, oldest, next, hash).map(|()| true)
}

/// The oldest slot goes to the end, so that those behind it are seen.
fn pass_over(locked: &Locked<'_>, oldest: u64, next: u64, hash: u64) -> Result<(), StateError> {
    let mut transaction = Transaction::begin(locked)?;
    transaction.store(slot_at(locked.space(), next), hash)?;
    transaction.store(CALLS_OLDEST, oldest + 1)?;
    transaction.store(CALLS_NEXT, next + 1)?;
    transaction.commit();
    Ok(())
}

/// As [`Store::mark_lost`], by whoever comes along. For want of room it stays as it is.
fn mark_lost_in_passing(
    locked: &Locked<'_>,
    pinned: &mut PinnedScratch,
    object: &Placed,
    record: CallRecord,
    clock: CallClock,
) -> Result<(), StateError> {
    let space = locked.space();
    let at = object.place.at();
    let text = object.key_text(space).ok_or_else(|| StateError::corrupt("key of an object", at))?;
    let key = Key::new(Namespace::CALLS, &text).map_err(|_| StateError::corrupt("key of an object", at))?;
    let hashed = Hashed { key, hash: object.hash(space) };
    let lost = record.lost(clock.until()).encode();
    let value_bytes = checked_value_bytes(lost.len())?;
    let condition = Condition::Version(object.version);
    let publication = Publication { meta: META, value_bytes, modified_unix_ms: unix_ms(), condition };
    let fill = |_, place: super::object::ValuePlace| {
        for (index, word) in lost.chunks_exact(8).enumerate() {
            let word = word.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            space.words.store_private(place.offset / 8 + index, word);
        }
    };
    match write::put_with(locked, pinned, &hashed, &publication, fill, account) {
        Ok(_) | Err(StateError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Checker: whether ring and counts agree with the records that the index has.
pub(crate) fn check(space: Space<'_>, records: u64, granules: u64) -> Result<(), StateError> {
    let (oldest, next) = ends(space)?;
    let is_restoring = Restoring::load(space)?.is_some();
    for number in oldest..next {
        let at = slot_at(space, number);
        let hash = space.words.load(at);
        if index::find_hashed(space, hash, Namespace::CALLS)?.is_none() && restoring::ensure_in(space, hash).is_ok() {
            return Err(StateError::corrupt("slot of a record", at));
        }
    }
    if is_restoring {
        let is_right = next - oldest >= records && space.words.load(CALLS_GRANULES) == granules;
        return if is_right { Ok(()) } else { Err(StateError::corrupt("count of records", CALLS_OLDEST)) };
    }
    if next - oldest == records && space.words.load(CALLS_GRANULES) == granules {
        Ok(())
    } else {
        Err(StateError::corrupt("count of records", CALLS_OLDEST))
    }
}
