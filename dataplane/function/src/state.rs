//! The state of a process: named objects that its functions keep, read in nanoseconds where they lie.
//!
//! All workers of a process share its objects. An object is immutable by version: a put publishes a new version at once and
//! whole, at whatever instant a worker may die, and those who look at an older one go on seeing it. What a put returned for
//! survives workers, and the server program; it ends with the process.
//!
//! | to | see |
//! |---|---|
//! | read, write and change typed objects | [`Context::state`](crate::Context::state), [`Context::put`](crate::Context::put), [`Context::update`](crate::Context::update) |
//! | keep bytes | [`Context::state_bytes`](crate::Context::state_bytes), [`Context::put_bytes`](crate::Context::put_bytes) |
//! | build bytes where they will lie | [`Context::loan_state`](crate::Context::loan_state) |
//! | go on with objects of an older schema | [`Application::migrate`](crate::Application::migrate) |

mod error;
pub(crate) mod fetching;
mod migration;
mod operations;
pub(crate) mod room;
mod view;

use praas_protocol::StateType;
use praas_shm::objects::ArchivedObject;
use rkyv::api::high::HighDeserializer;
use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};

pub use error::StateError;
pub(crate) use migration::Migration;
pub(crate) use room::StateRoom;
pub use room::StateSerializer;
pub use view::{State, StateBytes, StateLoan};

/// A type that objects can be read as: it derives `rkyv::Archive` and `rkyv::Deserialize`, borrows nothing, and says by
/// [`StateType`] what it is called.
pub trait StateObject:
    StateType + Archive<Archived: ArchivedObject + Deserialize<Self, HighDeserializer<Error>>> + Sized
{
}

impl<T> StateObject for T where
    T: StateType + Archive<Archived: ArchivedObject + Deserialize<T, HighDeserializer<Error>>> + Sized
{
}

/// A type that objects can be written as: it derives `rkyv::Archive` and `rkyv::Serialize`, and says by [`StateType`] what it
/// is called.
pub trait StateValue: StateType + for<'room> Serialize<StateSerializer<'room>> {}

impl<T> StateValue for T where T: StateType + for<'room> Serialize<StateSerializer<'room>> {}
