//! Typed calls from function to function: rkyv archives in, rkyv archives out.
//!
//! An output is checked when it is read, with bounded depth. Flat types cost a few nanoseconds, whatever their size.

use std::any::type_name;
use std::marker::PhantomData;

use praas_protocol::CallError;
use rkyv::api::high::{HighDeserializer, HighSerializer, to_bytes_in};
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Archived, Deserialize, Serialize};

use super::output::Output;
use crate::typed::{TypedInput, checked};

/// What an argument is serialised into.
pub type ArgumentWriter<'arena> = HighSerializer<AlignedVec, ArenaHandle<'arena>, Error>;

/// A value that a typed function can be called with: every `T` that derives `rkyv::Archive` and `rkyv::Serialize`.
pub trait TypedArgument: for<'arena> Serialize<ArgumentWriter<'arena>> {}

impl<T> TypedArgument for T where T: for<'arena> Serialize<ArgumentWriter<'arena>> {}

/// A type that an answer can be read as: every `T` that derives `rkyv::Archive`.
pub trait TypedResult: Archive<Archived: TypedInput> {}

impl<T> TypedResult for T where T: Archive<Archived: TypedInput> {}

/// The answer of a typed function.
#[derive(Debug)]
pub struct TypedAnswer<Out> {
    output: Output,
    of: PhantomData<fn() -> Out>,
}

impl<Out: TypedResult> TypedAnswer<Out> {
    pub(super) fn new(output: Output) -> Self {
        Self { output, of: PhantomData }
    }

    /// The answer, checked and read where it lies.
    ///
    /// # Errors
    /// [`CallError::Undecodable`] when the bytes are not an `Out`.
    pub fn get(&self) -> Result<&Archived<Out>, CallError> {
        checked::<Archived<Out>>(&self.output)
            .map_err(|error| undecodable::<Out>(self.output.len(), error.as_reply().3.to_owned()))
    }

    /// The answer as a value of its own.
    ///
    /// # Errors
    /// [`CallError::Undecodable`] when the bytes are not an `Out`.
    pub fn to_value(&self) -> Result<Out, CallError>
    where
        Archived<Out>: Deserialize<Out, HighDeserializer<Error>>,
    {
        rkyv::deserialize::<Out, Error>(self.get()?)
            .map_err(|error| undecodable::<Out>(self.output.len(), error.to_string()))
    }

    /// The bytes.
    #[must_use]
    pub fn into_output(self) -> Output {
        self.output
    }
}

/// The archive of an argument.
pub(super) fn archive_of<In: TypedArgument>(input: &In) -> Result<AlignedVec, CallError> {
    to_bytes_in::<_, Error>(input, AlignedVec::new())
        .map_err(|error| undecodable::<In>(0, format!("it could not be serialised: {error}")))
}

fn undecodable<T>(actual_bytes: usize, reason: String) -> CallError {
    CallError::Undecodable { type_name: type_name::<T>(), actual_bytes: actual_bytes as u64, reason }
}
