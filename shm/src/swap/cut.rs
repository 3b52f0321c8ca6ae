//! What a process has while it stands still.
//!
//! Invariants:
//! 1. The writers' lock is the server's from the beginning of the cut to its end, so objects and messages stay as they are.
//!    It is taken once, and given back by whoever drops the cut.
//! 2. A token is believed only as far as the object's header fits its block: it names the same object for as long as the cut
//!    lasts, and values are copied.
//! 3. What lies in its message lanes is read there: nothing of the segment changes, however full it is. A cut that is dropped leaves
//!    behind closed lanes, in which everything lies that did.

use std::sync::Arc;
use std::time::Duration;

use crate::copy;
use crate::mailbox::claim;
use crate::mailbox::in_lanes::InLanes;
use crate::mailbox::{InboundLane, MailError};
use crate::objects::granule::Granule;
use crate::objects::index::{self, Spot};
use crate::objects::layout::header::{HASH_SEED, LOCK, POSITION};
use crate::objects::lock::{self, Locked};
use crate::objects::object::Placed;
use crate::objects::restoring::Restoring;
use crate::objects::words::Space;
use crate::objects::{
    Key, LockOwner, Namespace, ObjectHeader, Objects, RecoverError, StateError, everything, hash, row_owner, stub,
};

use super::{Remainder, StoredAt};

/// An object of the cut.
#[derive(Debug, Clone, Copy)]
pub struct CutObject<'c> {
    /// Its hash in this segment.
    pub hash: u64,
    /// Its key.
    pub key: Key<'c>,
    /// What is known of it without its value.
    pub header: ObjectHeader,
    /// Its value.
    pub value: CutValue,
}

/// What is seen of an object at first glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutGlimpse {
    /// Its hash in this segment.
    pub hash: u64,
    /// Which kind of key it has.
    pub namespace: Namespace,
    /// Its version.
    pub version: u64,
    /// Bytes of its value.
    pub value_bytes: u32,
}

/// Where a value of the cut is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutValue {
    /// In the segment: [`QuietCut::read`] copies it.
    Here {
        /// What names it there.
        token: u64,
    },
    /// Where it was left when the process woke: it was not fetched since.
    Stored(StoredAt),
}

/// Everything of a process that stands still; see the module's text.
#[derive(Debug)]
pub struct QuietCut {
    objects: Arc<Objects>,
    lanes: InLanes,
}

impl QuietCut {
    /// Server: begins the cut of a process whose workers have all ended, and were recovered. `inbound` are all lanes that lead to it;
    /// they are closed for their senders, who are told so by their next send, or, where the ring is full, by whoever makes an end of
    /// the lane. It may be tried again.
    ///
    /// # Errors
    /// [`MailError::Busy`] while somebody writes or a worker was not recovered; [`MailError::Corrupt`]; [`MailError::NoSuchSlot`] and
    /// [`MailError::SlotTaken`] for lanes that cannot be.
    pub fn begin(objects: Arc<Objects>, inbound: Vec<InboundLane>) -> Result<Self, MailError> {
        let lanes = InLanes::new(inbound)?;
        let space = objects.space();
        let locked = lock::acquire(space, LockOwner::Server, Duration::ZERO)?;
        // What it says is believed from here on.
        Restoring::load(space)?;
        if let Some(owner) = row_owner::first(space) {
            return Err(RecoverError::Busy { owner }.into());
        }
        claim::settle(&locked)?;
        lanes.close(space)?;
        // From here on `drop` gives it back.
        locked.keep_for_good();
        Ok(Self { objects, lanes })
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Arc<Objects> {
        &self.objects
    }

    /// The position of the last mutation.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.objects.space().words.load(POSITION)
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

    /// Bits of hashes by which its objects are divided into pages, if some did not come back since it was made; the others are
    /// where they were.
    #[must_use]
    pub fn page_bits(&self) -> Option<u32> {
        Restoring::load(self.objects.space()).ok().flatten().map(|restoring| restoring.page_bits)
    }

    /// Whether nothing is known of a page, as it did not come back.
    #[must_use]
    pub fn is_absent(&self, page: u32) -> bool {
        let restoring = Restoring::load(self.objects.space()).ok().flatten();
        restoring.is_some_and(|restoring| !restoring.is_in(self.objects.space(), page))
    }

    /// Shows each object once that came back or is new, in no order that means anything.
    ///
    /// # Errors
    /// Those of `each`; [`StateError::Corrupt`].
    pub fn objects<E: From<StateError>>(&self, each: impl FnMut(&CutObject<'_>) -> Result<(), E>) -> Result<(), E> {
        self.survey((0, 1), |_| true, each)
    }

    /// Gives a glimpse of each object of one of so many parts, and shows those of which `glance` says so; together all parts have
    /// each object once that came back or is new.
    ///
    /// # Errors
    /// Those of `each`; [`StateError::Corrupt`].
    pub fn survey<E: From<StateError>>(
        &self,
        part_of: (u32, u32),
        mut glance: impl FnMut(&CutGlimpse) -> bool,
        mut each: impl FnMut(&CutObject<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let space = self.objects.space();
        let mut refused = None;
        let walked = everything::objects(space, part_of, |object| {
            if !glance(&glimpse_of(space, object)) {
                return Ok(());
            }
            let wrong = || StateError::corrupt("key of an object", object.place.at());
            let text = object.key_text(space).ok_or_else(wrong)?;
            let key = Key::new(object.namespace(), &text).map_err(|_| wrong())?;
            let value = value_of(space, object);
            let shown = CutObject { hash: object.hash(space), key, header: object.header(space), value };
            each(&shown).map_err(|error| {
                refused = Some(error);
                // It ends the walk, and gives way to the other below.
                StateError::corrupt("walk that was ended", LOCK)
            })
        });
        match refused {
            Some(error) => Err(error),
            None => walked.map_err(E::from),
        }
    }

    /// An object by its key; `None` if there is none, or if it lies in a page that did not come back.
    ///
    /// # Errors
    /// [`StateError::Corrupt`].
    pub fn find(&self, key: &Key<'_>) -> Result<Option<(ObjectHeader, CutValue)>, StateError> {
        let space = self.objects.space();
        let Spot::Held { object, .. } = index::find(space, key, hash::of(self.hash_seed(), key))? else {
            return Ok(None);
        };
        Ok(Some((object.header(space), value_of(space, &object))))
    }

    /// How many objects there are.
    #[must_use]
    pub fn object_count(&self) -> u64 {
        self.objects.usage().keys
    }

    /// Copies bytes of the value that a token names, from `offset` on.
    ///
    /// # Errors
    /// [`StateError::Corrupt`], also when the value does not have so many.
    pub fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), StateError> {
        copy_value(&self.objects, token, offset, into)
    }

    /// What it has beside its objects.
    ///
    /// # Errors
    /// [`MailError::LaneMissing`] when a message lies in a lane that was not given; [`MailError::Corrupt`].
    pub fn remainder(&self) -> Result<Remainder, MailError> {
        Remainder::of(&self.objects, &self.lanes)
    }
}

/// Copies bytes of the value that a token names, from `offset` on. What is copied from a block that somebody fills anew meanwhile
/// is bytes that nobody may look at.
pub(super) fn copy_value(objects: &Objects, token: u64, offset: u64, into: &mut [u8]) -> Result<(), StateError> {
    let space = objects.space();
    let place = Granule::checked(token, space.layout, "token of a value", LOCK)?;
    let value = Placed::read(space, place)?.value();
    let from =
        usize::try_from(offset).ok().filter(|from| from.checked_add(into.len()).is_some_and(|end| end <= value.bytes));
    let from = from.ok_or_else(|| StateError::corrupt("length of a value", place.at()))?;
    // SAFETY: `bytes` of the objects checks that the range is inside the segment.
    unsafe { copy::from_shared(objects.bytes(value.offset + from, into.len()), into) };
    Ok(())
}

fn glimpse_of(space: Space<'_>, object: &Placed) -> CutGlimpse {
    CutGlimpse {
        hash: object.hash(space),
        namespace: object.namespace(),
        version: object.version,
        value_bytes: object.value_bytes(),
    }
}

fn value_of(space: Space<'_>, object: &Placed) -> CutValue {
    if object.is_stub() {
        CutValue::Stored(stub::stored_at(space, object))
    } else {
        CutValue::Here { token: object.place.number() }
    }
}

impl Drop for QuietCut {
    fn drop(&mut self) {
        drop(Locked::inherit(self.objects.space()));
    }
}
