//! An object in view, read as an archive: checked once a version, then used where it lies.
//!
//! Invariants:
//! 1. The root was found inside the value, aligned, by a check of the whole archive as `A`: now, or before by this very worker
//!    for this very version, as the store's private memory of validated versions says. Versions never repeat and objects
//!    never change, so what was valid stays so.
//! 2. It is remembered by Rust's own type of `A`, not by the id in the header: two types of one name never meet.
//! 3. Workers of a process are one trust domain: one that writes a published object spoils what is its own.

use std::any::{TypeId, type_name};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::ptr::NonNull;

use praas_protocol::limits::ARCHIVE_DEPTH_MAX;
use rkyv::Portable;
use rkyv::api::{access_with_context, root_position};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error, Strategy};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;

use super::guard::Guard;

/// What checks an archive.
pub type StateValidator<'bytes> = Strategy<Validator<ArchiveValidator<'bytes>, SharedValidator>, Error>;

/// An archived type that objects can be read as: every `ArchivedT` of a `T` that derives `rkyv::Archive` and borrows nothing.
pub trait ArchivedObject: Portable + for<'bytes> CheckBytes<StateValidator<'bytes>> + 'static {}

impl<A> ArchivedObject for A where A: Portable + for<'bytes> CheckBytes<StateValidator<'bytes>> + 'static {}

/// Why a value is no archive of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value of {value_bytes} bytes is not a valid {type_name}: {reason}")]
pub struct NotAnArchive {
    /// Bytes of the value.
    pub value_bytes: usize,
    /// The type.
    pub type_name: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// An object in view, as an archive of type `A`. Not `Send`.
pub struct ArchivedGuard<'s, A> {
    guard: Guard<'s>,
    root: NonNull<A>,
}

impl<'s> Guard<'s> {
    /// The value as an archive, where it lies; for workers. The first look at a version checks it, pointers nesting at most
    /// [`ARCHIVE_DEPTH_MAX`] deep, which takes nanoseconds for flat types and more for many strings; later looks are free.
    ///
    /// # Errors
    /// [`NotAnArchive`] when the value is not an `A`; the server, which reads nothing in place, always gets it.
    #[inline]
    pub fn archived<A: ArchivedObject>(self) -> Result<ArchivedGuard<'s, A>, NotAnArchive> {
        let (version, type_id) = (self.version(), TypeId::of::<A>());
        let root = if self.store().has_validated(version, type_id) && self.value_bytes() >= size_of::<A>() {
            let bytes = self.value_bytes();
            // SAFETY: the root lies inside the value, which is not shorter than it.
            unsafe { NonNull::new_unchecked(self.value_ptr().cast_mut()).add(root_position::<A>(bytes)).cast() }
        } else {
            let root = self.checked::<A>()?;
            self.store().set_validated(version, type_id);
            root
        };
        Ok(ArchivedGuard { guard: self, root })
    }

    #[cold]
    fn checked<A: ArchivedObject>(&self) -> Result<NonNull<A>, NotAnArchive> {
        let refusal = |reason: String| NotAnArchive {
            value_bytes: self.value_bytes(),
            type_name: type_name::<A>(),
            reason: reason.lines().next().unwrap_or("it cannot be read").to_owned(),
        };
        let bytes = self.in_place().ok_or_else(|| refusal("the server does not read objects in place".into()))?;
        let depth = NonZeroUsize::new(ARCHIVE_DEPTH_MAX);
        let mut validator = Validator::new(ArchiveValidator::with_max_depth(bytes, depth), SharedValidator::new());
        let root = access_with_context::<A, _, Error>(bytes, &mut validator);
        root.map(NonNull::from_ref).map_err(|error| refusal(error.to_string()))
    }
}

impl<'s, A> ArchivedGuard<'s, A> {
    /// The object without its type.
    #[inline]
    #[must_use]
    pub fn guard(&self) -> &Guard<'s> {
        &self.guard
    }
}

impl<A> Deref for ArchivedGuard<'_, A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        // SAFETY: the root was checked as an `A` (invariant 1), and the guard keeps the block as it is.
        unsafe { self.root.as_ref() }
    }
}

impl<A> fmt::Debug for ArchivedGuard<'_, A> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ArchivedGuard").field("guard", &self.guard).field("type", &type_name::<A>()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rkyv::rend::u32_le;
    use rkyv::vec::ArchivedVec;

    use super::super::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, Store};
    use crate::WorkerTag;

    fn store() -> Store {
        let objects = Arc::new(Objects::create(ObjectsLayout::for_limit(1 << 20).unwrap()).unwrap());
        objects.worker_store(WorkerTag::new(0, 1)).unwrap()
    }

    #[test]
    fn an_archive_is_read_in_place_at_every_look() {
        let (store, key) = (store(), Key::new(Namespace::USER, "numbers").unwrap());
        let value = rkyv::to_bytes::<super::Error>(&vec![1_u32, 2, 3]).unwrap();
        store.put(&key, &value, Meta::RAW, Condition::Any).unwrap();
        for _ in 0..3 {
            let numbers = store.get(&key).unwrap().unwrap().archived::<ArchivedVec<u32_le>>().unwrap();
            assert_eq!(numbers.as_slice(), [1, 2, 3]);
        }
    }

    #[test]
    fn a_value_of_another_type_is_refused_whatever_it_was_found_valid_as_before() {
        let (store, key) = (store(), Key::new(Namespace::USER, "text").unwrap());
        store.put(&key, b"no archive at all", Meta::RAW, Condition::Any).unwrap();
        let look = || store.get(&key).unwrap().unwrap();
        assert!(look().archived::<u8>().is_ok(), "any byte is a u8");
        let refused = look().archived::<ArchivedVec<u32_le>>().unwrap_err();
        assert_eq!(refused.value_bytes, 17);
        assert!(refused.to_string().contains("17 bytes is not a valid"), "{refused}");
        store.put(&key, b"", Meta::RAW, Condition::Any).unwrap();
        assert!(look().archived::<u8>().is_err(), "nothing is no u8");
    }
}
