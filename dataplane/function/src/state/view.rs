//! What functions hold of objects: in view, or on loan to be filled.

use std::any::type_name;
use std::fmt;
use std::ops::{Deref, DerefMut};

use praas_protocol::state::Condition;
use praas_shm::objects::{ArchivedGuard, Guard, Loan, Meta};
use rkyv::Archive;

use super::StateObject;
use super::error::StateError;
use super::room::native;

/// An object in view: its archived value, where it lies. It stays as it is while newer versions appear, until it is dropped;
/// it is bound to its call and its thread.
pub struct State<'call, T: Archive> {
    object: ArchivedGuard<'call, T::Archived>,
}

impl<'call, T: Archive> State<'call, T> {
    pub(super) fn new(object: ArchivedGuard<'call, T::Archived>) -> Self {
        Self { object }
    }

    /// The object's version, by which [`Context::put_if`](crate::Context::put_if) knows it again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.object.guard().version()
    }
}

impl<T: StateObject> State<'_, T> {
    /// The value as one of its own, which may be kept and changed.
    ///
    /// # Errors
    /// [`StateError::Undecodable`] when the archive, though valid, makes no value.
    pub fn to_value(&self) -> Result<T, StateError> {
        native::<T>(self).map_err(|reason| StateError::Undecodable { object: type_name::<T>().into(), reason })
    }
}

impl<T: Archive> Deref for State<'_, T> {
    type Target = T::Archived;

    #[inline]
    fn deref(&self) -> &T::Archived {
        &self.object
    }
}

impl<T: Archive> fmt::Debug for State<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("State").field("type", &type_name::<T>()).field("version", &self.version()).finish()
    }
}

/// An object in view: the bytes of its value, where they lie, aligned to 16 and from 1 KiB on to 64.
#[derive(Debug)]
pub struct StateBytes<'call> {
    object: Guard<'call>,
}

impl<'call> StateBytes<'call> {
    pub(super) fn new(object: Guard<'call>) -> Self {
        Self { object }
    }

    /// The object's version, by which [`Context::put_bytes_if`](crate::Context::put_bytes_if) knows it again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.object.version()
    }

    pub(crate) fn guard(&self) -> &Guard<'call> {
        &self.object
    }
}

impl Deref for StateBytes<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.object.in_place().unwrap_or(&[])
    }
}

/// A place in the process's state for a value that is built where it will lie. Dropped without being published, it is given
/// back.
#[derive(Debug)]
pub struct StateLoan<'call, 'key> {
    loan: Loan<'call, 'key>,
}

impl<'call, 'key> StateLoan<'call, 'key> {
    pub(super) fn new(loan: Loan<'call, 'key>) -> Self {
        Self { loan }
    }

    /// Makes the bytes the object of the key that the loan was taken for. Returns its version.
    ///
    /// # Errors
    /// [`StateError::Memory`], with `Conflict` among others when the condition does not hold.
    pub fn publish(self, condition: Condition) -> Result<u64, StateError> {
        self.loan.publish(Meta::RAW, condition).map_err(|unpublished| unpublished.error.into())
    }
}

impl Deref for StateLoan<'_, '_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.loan.bytes()
    }
}

impl DerefMut for StateLoan<'_, '_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.loan.in_place().unwrap_or_default()
    }
}
