//! State from outside: the objects of a process, read and written past the functions of its application.
//!
//! Every operation is one call of a function that each application has, `praas.state.*`, so it goes the way that calls go,
//! ends as they end, and costs what they cost. A worker of the process, which has the objects mapped, does the work.
//!
//! Nothing here trusts an answer: each is checked before it is believed, and a list takes at most one page at a time.

mod error;
mod list;
mod value;

use std::any::type_name;
use std::time::Duration;

use praas_protocol::state::{
    Condition, DELETE_FUNCTION, GET_FUNCTION, PUT_FUNCTION, PutHead, StatePayloadError, Written, encode_delete,
};
use praas_protocol::{CallError, Key, StateType};

use crate::function::Function;
use crate::limits::STATE_COPIED_BYTES;
use crate::payload::Payload;
use crate::process::{Process, Way};
use crate::reply::Reply;
use crate::typed::{Decode, Encode, StackBuffer, archive_into, same_size};

pub use error::StateError;
pub use list::StateList;
pub use value::{StateValue, TypedValue};

const GET: Function<'static> = Function::new(GET_FUNCTION);
const PUT: Function<'static> = Function::new(PUT_FUNCTION);
const DELETE: Function<'static> = Function::new(DELETE_FUNCTION);

/// The objects that a process keeps, read and written from outside: see [`Process::state`].
///
/// An object has a key (1–255 bytes of UTF-8 without control characters), a value, and a version from a counter of its
/// process that never repeats. A put publishes a new version at once and whole: no reader ever sees half of it. A missing
/// object is not an empty one.
///
/// The client's token needs the rights `invoke` and `state`. A value must fit one call: `payload_bytes_max` of the
/// application, less up to 288 bytes of head; functions themselves have no such limit. As with any call, a write that
/// ends as [`CallError::WorkerLost`] or [`CallError::ConnectionLost`] may have been carried out: one on a condition can be
/// repeated without harm.
///
/// ```no_run
/// use praas_client::{Condition, Written};
///
/// # let client = praas_client::Client::connect_default()?;
/// let alice = client.process("notes/alice".parse()?)?;
/// let state = alice.state();
/// state.put("greeting", "hello")?;
/// let Some(greeting) = state.get("greeting")? else { return Ok(()) };
/// assert_eq!(greeting.as_slice(), b"hello");
///
/// // Only if nobody else has written it since.
/// match state.put_if("greeting", "good day", Condition::Version(greeting.version()))? {
///     Written::Done { version } => println!("it has version {version} now"),
///     Written::Refused { current } => println!("somebody was faster: version {current}"),
/// }
/// for object in state.list("notes/")? {
///     let object = object?;
///     println!("{} has {} bytes", object.key, object.attributes.value_bytes);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct State<'process> {
    process: &'process Process,
    deadline: Option<Duration>,
}

impl<'process> State<'process> {
    pub(crate) fn new(process: &'process Process) -> Self {
        Self { process, deadline: None }
    }

    /// The same objects, each operation within `deadline` instead of the client's; of a list, each page.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// The object of this key; `None` when there is none.
    ///
    /// A large value is read where the worker wrote it when the lane is trusted; it holds room of the lane until it is
    /// dropped.
    ///
    /// # Errors
    /// [`StateError`]: a key that is none, a value that does not fit one reply, or however the call ended.
    pub fn get(&self, key: &str) -> Result<Option<StateValue>, StateError> {
        let reply = self.call(GET, Key::new(key)?.as_bytes(), value::HEAD_BYTES)?;
        StateValue::from_reply(reply)
    }

    /// Writes the object of this key, whatever is there; its new version.
    ///
    /// # Errors
    /// [`StateError`]: [`StateError::Full`], a key that is none, a value that does not fit one call, or however the call
    /// ended.
    pub fn put(&self, key: &str, value: impl AsRef<[u8]>) -> Result<u64, StateError> {
        unconditional(self.put_if(key, value, Condition::Any)?)
    }

    /// Writes the object of this key if `condition` holds.
    ///
    /// # Errors
    /// As [`State::put`]. A condition that does not hold is no error: [`Written::Refused`].
    pub fn put_if(&self, key: &str, value: impl AsRef<[u8]>, condition: Condition) -> Result<Written, StateError> {
        let value = value.as_ref();
        let mut payload = PutHead { condition, ..PutHead::default() }.encode(Key::new(key)?);
        let head_bytes = payload.len();
        if value.len() <= STATE_COPIED_BYTES {
            payload.extend_from_slice(value);
            return self.written(PUT, payload, head_bytes);
        }
        let of_value = |error| self.failed(error, head_bytes);
        if let Way::Network(remote) = self.process.way() {
            let reply = remote.invoke_headed(PUT, &payload, value.into(), self.deadline).map_err(of_value)?;
            return Ok(Written::decode(&reply)?);
        }
        let mut loan = self.process.loan(head_bytes.saturating_add(value.len())).map_err(of_value)?;
        loan.write_at(0, &payload).and_then(|()| loan.write_at(head_bytes, value)).map_err(of_value)?;
        self.written(PUT, loan, head_bytes)
    }

    /// Removes the object of this key; whether there was one.
    ///
    /// # Errors
    /// [`StateError`]: a key that is none, or however the call ended.
    pub fn delete(&self, key: &str) -> Result<bool, StateError> {
        Ok(unconditional(self.delete_if(key, Condition::Any)?)? != 0)
    }

    /// Removes the object of this key if `condition` holds. A deletion takes a number from the counter of versions; it is 0
    /// when there was no object.
    ///
    /// # Errors
    /// As [`State::delete`]. A condition that does not hold is no error: [`Written::Refused`].
    pub fn delete_if(&self, key: &str, condition: Condition) -> Result<Written, StateError> {
        self.written(DELETE, encode_delete(condition, Key::new(key)?), 0)
    }

    /// The objects whose keys begin with `prefix`, all when it is empty, in order of the keys' bytes.
    ///
    /// They are asked for in pages as the iterator goes on, and no more than one page is held. An object that is there all
    /// the time is listed; one that is put or deleted meanwhile may be or not. Each page costs the process a look at all
    /// of its keys.
    ///
    /// # Errors
    /// [`StateError::Key`] when no key can begin so.
    pub fn list(&self, prefix: &str) -> Result<StateList<'process>, StateError> {
        StateList::new(*self, prefix)
    }

    /// The object of this key as a `T`; `None` when there is none.
    ///
    /// ```no_run
    /// use praas_client::StateType;
    /// use rkyv::{Archive, Deserialize, Serialize};
    ///
    /// #[derive(Archive, Serialize, Deserialize)]
    /// struct Counter { count: u64 }
    /// impl StateType for Counter {
    ///     const NAME: &'static str = "counter";
    /// }
    ///
    /// # let client = praas_client::Client::connect_default()?;
    /// let alice = client.process("counter/alice".parse()?)?;
    /// alice.state().put_as("visits", &Counter { count: 7 })?;
    /// let Some(visits) = alice.state().get_as::<Counter>("visits")? else { return Ok(()) };
    /// assert_eq!(visits.get()?.count, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`State::get`], and [`StateError::OtherType`] when it is a value of another type or schema version. What it
    /// holds is checked when it is read.
    pub fn get_as<T: Decode + StateType>(&self, key: &str) -> Result<Option<TypedValue<T>>, StateError> {
        self.get(key)?.map(|value| TypedValue::new(key, value)).transpose()
    }

    /// Writes `value` as the object of this key, whatever is there; its new version.
    ///
    /// # Errors
    /// As [`State::put`], and [`CallError::Undecodable`] when it cannot be serialised.
    pub fn put_as<T: Encode + StateType>(&self, key: &str, value: &T) -> Result<u64, StateError> {
        unconditional(self.put_as_if(key, value, Condition::Any)?)
    }

    /// Writes `value` as the object of this key if `condition` holds.
    ///
    /// # Errors
    /// As [`State::put_as`]. A condition that does not hold is no error: [`Written::Refused`].
    pub fn put_as_if<T: Encode + StateType>(
        &self,
        key: &str,
        value: &T,
        condition: Condition,
    ) -> Result<Written, StateError> {
        let head = PutHead { condition, type_id: T::TYPE_ID, schema_version: T::SCHEMA_VERSION }.encode(Key::new(key)?);
        let head_bytes = head.len();
        let mut stack = StackBuffer::default();
        let value_bytes = archive_into(value, &mut stack.0)?;
        if let Some(archive) = stack.0.get(..value_bytes) {
            return self.written(PUT, [&head, archive].concat(), head_bytes);
        }
        let mut loan = self.process.loan(head_bytes + value_bytes).map_err(|error| self.failed(error, head_bytes))?;
        if let Some(target) = loan.as_mut_slice() {
            target[..head_bytes].copy_from_slice(&head);
            same_size(archive_into(value, &mut target[head_bytes..])?, value_bytes, type_name::<T>())?;
            return self.written(PUT, loan, head_bytes);
        }
        drop(loan);
        // Nothing may be serialised where the other side could rewrite it meanwhile.
        let mut payload = head;
        payload.resize(head_bytes + value_bytes, 0);
        same_size(archive_into(value, &mut payload[head_bytes..])?, value_bytes, type_name::<T>())?;
        self.written(PUT, payload, head_bytes)
    }

    fn written<'a>(
        &self,
        function: Function<'static>,
        payload: impl Into<Payload<'a>>,
        head_bytes: usize,
    ) -> Result<Written, StateError> {
        Ok(Written::decode(&self.call(function, payload, head_bytes)?)?)
    }

    /// Calls a function. `head_bytes` are those of request or answer that are not the value's.
    fn call<'a>(
        &self,
        function: Function<'static>,
        payload: impl Into<Payload<'a>>,
        head_bytes: usize,
    ) -> Result<Reply, StateError> {
        let reply = self.process.invoke_within(function, payload.into(), self.deadline);
        reply.map_err(|error| self.failed(error, head_bytes))
    }

    fn failed(&self, error: CallError, head_bytes: usize) -> StateError {
        StateError::of_call(error, self.process.id(), head_bytes)
    }
}

/// The version that a write without a condition led to.
fn unconditional(written: Written) -> Result<u64, StateError> {
    match written {
        Written::Done { version } => Ok(version),
        Written::Refused { current } => {
            Err(StatePayloadError::Value { what: "a refusal of a write without a condition", value: current }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_without_a_condition_cannot_be_refused() {
        assert_eq!(unconditional(Written::Done { version: 7 }).unwrap(), 7);
        let refused = unconditional(Written::Refused { current: 3 }).unwrap_err();
        assert!(matches!(refused, StateError::Malformed { .. }), "{refused}");
    }
}
