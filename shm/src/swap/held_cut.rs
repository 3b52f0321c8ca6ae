//! What a process has at one position, while it goes on.
//!
//! ```text
//! lock: begin the hold at p, copy the remainder │ lock: a slice of the index │ lock: … │ lock: what was kept meanwhile │ no lock
//! ```
//!
//! 1. The lock is held once for as long as the remainder takes: at most [`HELD_MAIL_BYTES_MAX`] of payloads, and the filter and the
//!    order of keyed calls, which have limits of their own. Then for slices of [`SLICE_BUCKETS`] buckets, some 300 objects, each one
//!    cache miss or two; in between it is free for longer.
//! 2. An object of the cut is met in the index or among the kept blocks, sometimes in both: splits move entries to buckets that come
//!    later, and what is replaced behind the walk is kept. They are told apart by their versions, of which no two are alike.
//! 3. Messages that lie in lanes have no position yet and are not in the cut; nothing is done to the lanes. Messages in the queues are,
//!    those that calls hold included, with payloads that lie in lanes copied; those come back in lanes.
//! 4. Values are read without the lock, from any thread. Each read looks afterwards whether the hold has lasted: what is answered is of
//!    this position, or an error.
//!
//! Memory of the process: whatever is replaced or deleted while the cut is held stays until it is let go, within the limit of the state.

use std::sync::Arc;
use std::time::Duration;

use crate::mailbox::in_lanes::InLanes;
use crate::mailbox::{InboundLane, MailError};
use crate::objects::block::{KIND_AND_LINK, link_of};
use crate::objects::bucket::{Bucket, chain};
use crate::objects::entry::{Buckets, block_of};
use crate::objects::granule::Granule;
use crate::objects::hold::{self, Hold};
use crate::objects::layout::header::{HASH_SEED, KEPT_HEAD, KEYS, LOCK};
use crate::objects::lock::{self, Locked};
use crate::objects::object::Placed;
use crate::objects::restoring::Restoring;
use crate::objects::retire::{self, Retired};
use crate::objects::words::Space;
use crate::objects::{Key, LockOwner, Objects, StateError, stub};

use super::cut::{CutObject, CutValue, copy_value};
use super::remainder::Remainder;

/// Bytes of messages' payloads that are copied under the lock: a tenth of a second without writers at most.
pub const HELD_MAIL_BYTES_MAX: u64 = 128 << 20;
/// Buckets that are walked under the lock at a time: about 50 microseconds, of which a writer that polls waits a part.
const SLICE_BUCKETS: usize = 64;
/// Kept blocks that are walked at a time, and retired ones that are freed: as many as there are objects in as many buckets.
const SLICE_BLOCKS: usize = 256;
/// For how long the lock is free between two slices: longer than it is held.
const SLICE_PAUSE: Duration = Duration::from_micros(100);
/// The longest wait for the lock. Critical sections take microseconds; a worker that died in one is settled within this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no cut of a process that runs, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeldCutError {
    /// Its writers had no room for what the cut keeps: it is over.
    #[error(
        "the state had no room to keep what was replaced while it was copied, and went on without; it needs up to {bytes} free \
         bytes for that: raise state_bytes_max, or change less at a time"
    )]
    Over {
        /// Bytes of all that was not free when it began.
        bytes: u64,
    },
    /// Part of its objects did not come back yet since the process has slept.
    #[error("{absent_pages} pages of its objects are still in storage: try again when they are back")]
    Restoring {
        /// How many.
        absent_pages: u64,
    },
    /// Its mailbox is too large to be copied while nobody writes.
    #[error(
        "the messages in its mailbox have {bytes} bytes, more than the {limit_bytes} that are copied while it runs: receive \
         messages, and try again"
    )]
    MailTooLarge {
        /// Bytes of payloads up to the one that was too much.
        bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The mailbox says why not.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The state says why not.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Everything of a process at one position; see the module's text. Whoever drops it lets go.
#[derive(Debug)]
pub struct HeldCut {
    objects: Arc<Objects>,
    hold: Hold,
    used_bytes: u64,
    remainder: Remainder,
    /// Version and block of each object, by versions.
    held: Vec<(u64, u64)>,
    stubs: u64,
}

impl HeldCut {
    /// Server: cuts a process whose workers go on. `lanes` are all that it has; nothing is done to them. There is one such cut of a
    /// process at a time: it ends the one before.
    ///
    /// # Errors
    /// [`HeldCutError`]. Nothing is held then, but for what a server that cannot get the lock leaves to the next cut.
    pub fn begin(objects: Arc<Objects>, lanes: Vec<InboundLane>) -> Result<Self, HeldCutError> {
        let payloads = InLanes::new(lanes)?;
        let locked = lock::acquire(objects.space(), LockOwner::Server, PATIENCE)?;
        if let Some(restoring) = Restoring::load(objects.space())? {
            return Err(HeldCutError::Restoring { absent_pages: restoring.absent_pages });
        }
        let remainder = Remainder::of_running(&objects, &payloads, HELD_MAIL_BYTES_MAX)?;
        let used_bytes = objects.usage().used_bytes;
        let hold = hold::begin(&locked)?;
        drop(locked);
        // From here on `drop` lets go.
        let mut cut = Self { objects, hold, used_bytes, remainder, held: Vec::new(), stubs: 0 };
        cut.gather()?;
        Ok(cut)
    }

    /// Notes every object of the position.
    fn gather(&mut self) -> Result<(), HeldCutError> {
        let objects = Arc::clone(&self.objects);
        let space = objects.space();
        self.held.reserve(usize::try_from(space.words.load_acquire(KEYS)).unwrap_or(0).min(1 << 24));
        let mut number = 0;
        while self.walk_buckets(space, &mut number)? {
            std::thread::sleep(SLICE_PAUSE);
        }
        let mut next = KeptWalk::default();
        while self.walk_kept(space, &mut next)? {
            std::thread::sleep(SLICE_PAUSE);
        }
        self.held.sort_unstable();
        self.held.dedup_by_key(|(version, _)| *version);
        Ok(())
    }

    /// The lock, while the hold lasts.
    fn locked<'s>(&self, space: Space<'s>) -> Result<Locked<'s>, HeldCutError> {
        let locked = lock::acquire(space, LockOwner::Server, PATIENCE)?;
        if self.hold.lasts(space) { Ok(locked) } else { Err(self.over()) }
    }

    /// Walks one slice of the index; false behind its end.
    fn walk_buckets(&mut self, space: Space<'_>, number: &mut usize) -> Result<bool, HeldCutError> {
        let _locked = self.locked(space)?;
        let count = Buckets::load(space)?.count();
        let end = count.min(*number + SLICE_BUCKETS);
        while *number < end {
            for bucket in chain(space, Bucket::new(space, *number)) {
                for at in bucket?.entries() {
                    let entry = space.words.load(at);
                    if entry != 0 {
                        let place = Granule::checked(block_of(entry), space.layout, "entry of the index", at)?;
                        self.note(space, place)?;
                    }
                }
            }
            *number += 1;
        }
        Ok(*number < count)
    }

    /// Walks one slice of what is kept; false behind its end.
    fn walk_kept(&mut self, space: Space<'_>, walk: &mut KeptWalk) -> Result<bool, HeldCutError> {
        let _locked = self.locked(space)?;
        for _ in 0..SLICE_BLOCKS {
            // A block that is kept stays where it is in the list, and others come behind it.
            let number = space.words.load(walk.last.map_or(KEPT_HEAD, |place| place.at() + KIND_AND_LINK));
            let number = if walk.last.is_some() { link_of(number) } else { number };
            if number == 0 {
                return Ok(false);
            }
            walk.blocks += 1;
            if walk.blocks > space.layout.heap_granules() {
                return Err(StateError::corrupt("list of kept blocks", KEPT_HEAD).into());
            }
            let place = Granule::checked(number, space.layout, "kept block", KEPT_HEAD)?;
            self.note(space, place)?;
            walk.last = Some(place);
        }
        Ok(true)
    }

    /// Notes an object, if it is of the position.
    fn note(&mut self, space: Space<'_>, place: Granule) -> Result<(), StateError> {
        let object = Placed::read_any(space, place)?;
        if object.version <= self.hold.position {
            self.stubs += u64::from(object.is_stub());
            self.held.push((object.version, place.number()));
        }
        Ok(())
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// The position of the last mutation that is in the cut.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.hold.position
    }

    /// The seed of the hash of its keys.
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.objects.space().words.load(HASH_SEED)
    }

    /// Bytes of the segment: the limit of the state.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.objects.layout().segment_bytes() as u64
    }

    /// How many objects there are.
    #[must_use]
    pub fn object_count(&self) -> u64 {
        self.held.len() as u64
    }

    /// Whether the values of some may still be where they were left when the process woke: nobody may move them there.
    #[must_use]
    pub fn has_stubs(&self) -> bool {
        self.stubs > 0
    }

    /// What it has beside its objects.
    #[must_use]
    pub fn remainder(&self) -> &Remainder {
        &self.remainder
    }

    /// Shows each object once, by their versions.
    ///
    /// # Errors
    /// Those of `each`; [`HeldCutError::Over`], [`HeldCutError::State`].
    pub fn objects<E: From<HeldCutError>>(
        &self,
        mut each: impl FnMut(&CutObject<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let space = self.objects.space();
        for &(version, number) in &self.held {
            let wrong = || HeldCutError::State(StateError::corrupt("object that is held", LOCK));
            let looked = self.look(space, version, number);
            // What is read of a block that is no more may be anything.
            if !self.hold.lasts(space) {
                return Err(self.over().into());
            }
            let (object, text) = looked.map_err(HeldCutError::State)?;
            let key = Key::new(object.namespace(), &text).map_err(|_| wrong())?;
            let value = if object.is_stub() {
                CutValue::Stored(stub::stored_at(space, &object))
            } else {
                CutValue::Here { token: number }
            };
            let shown = CutObject { hash: object.hash(space), key, header: object.header(space), value };
            if !self.hold.lasts(space) {
                return Err(self.over().into());
            }
            each(&shown)?;
        }
        Ok(())
    }

    fn look(&self, space: Space<'_>, version: u64, number: u64) -> Result<(Placed, String), StateError> {
        let place = Granule::checked(number, space.layout, "block of an object that is held", LOCK)?;
        let object = Placed::read_any(space, place)?;
        let wrong = || StateError::corrupt("object that is held", place.at());
        let text = object.key_text(space).filter(|_| object.version == version).ok_or_else(wrong)?;
        Ok((object, text))
    }

    /// Copies bytes of the value that a token names, from `offset` on.
    ///
    /// # Errors
    /// [`HeldCutError::Over`]; [`HeldCutError::State`], also when the value does not have so many.
    pub fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), HeldCutError> {
        let space = self.objects.space();
        let copied = copy_value(&self.objects, token, offset, into);
        if self.hold.lasts(space) { copied.map_err(HeldCutError::State) } else { Err(self.over()) }
    }

    fn over(&self) -> HeldCutError {
        HeldCutError::Over { bytes: self.used_bytes }
    }

    /// Lets go, and frees what was kept: a put looks at a few blocks alone, and the next may come late.
    fn let_go(&self) -> Result<(), StateError> {
        let space = self.objects.space();
        self.hold.let_go(&lock::acquire(space, LockOwner::Server, PATIENCE)?)?;
        let mut pinned = Vec::new();
        // What is pinned goes to the end of the list: once round is enough.
        let mut left = Retired::load(space).blocks;
        while left > 0 {
            let looked = left.min(SLICE_BLOCKS as u64);
            retire::reclaim(&lock::acquire(space, LockOwner::Server, PATIENCE)?, SLICE_BLOCKS, &mut pinned)?;
            left -= looked;
            std::thread::sleep(SLICE_PAUSE);
        }
        Ok(())
    }
}

/// How far a walk over the kept blocks is.
#[derive(Debug, Default)]
struct KeptWalk {
    last: Option<Granule>,
    blocks: u64,
}

impl Drop for HeldCut {
    fn drop(&mut self) {
        // One that finds no way in, behind a worker that died, leaves it to the next cut, to whoever needs the room, or to the next
        // server. What is corrupt is found by others too.
        let _ = self.let_go();
    }
}
