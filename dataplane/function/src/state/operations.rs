//! What a running function does with the state of its process.

use praas_protocol::Key;
use praas_protocol::control::StateWanted;
use praas_protocol::state::{Condition, ListPage, ListQuestion};

use super::error::StateError;
use super::fetching::of_object;
use super::room::StateRoom;
use super::view::{State, StateBytes, StateLoan};
use super::{StateObject, StateValue};
use crate::context::Context;

/// State: see [`crate::state`]. Keys are 1–255 bytes of UTF-8 without control characters.
impl<'call> Context<'call> {
    /// The object called `key`, in view until it is dropped; `None` if there is no such object. It makes no system call, reads no
    /// clock, takes no lock and copies nothing. A worker holds at most
    /// [`PINS_PER_WORKER`](praas_shm::objects::PINS_PER_WORKER) objects in view.
    ///
    /// ```
    /// use praas_function::{Application, Call, Context, FunctionResult, StateType};
    ///
    /// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Default)]
    /// struct Visits {
    ///     count: u64,
    /// }
    ///
    /// impl StateType for Visits {
    ///     const NAME: &'static str = "visits";
    /// }
    ///
    /// fn visit(call: &mut Call) -> FunctionResult<String> {
    ///     let context = call.context();
    ///     context.update("visits", |visits: Option<Visits>| {
    ///         let mut visits = visits.unwrap_or_default();
    ///         visits.count += 1;
    ///         visits
    ///     })?;
    ///     let visits = context.state::<Visits>("visits")?.expect("it was just put");
    ///     Ok(visits.count.to_string())
    /// }
    ///
    /// # use praas_function::testing::Harness;
    /// let harness = Harness::new(|| Application::new().function("visit", visit))?;
    /// assert_eq!(harness.invoke("visit", b"")?, b"1");
    /// assert_eq!(harness.invoke("visit", b"")?, b"2");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`StateError::WrongType`] or [`StateError::WrongSchema`] for an object of another type or schema,
    /// [`StateError::Undecodable`], [`StateError::Key`], [`StateError::Memory`] with `TooManyGuards`.
    #[inline]
    pub fn state<T: StateObject>(&self, key: &str) -> Result<Option<State<'call, T>>, StateError> {
        let room = self.state_room();
        match room.recall(key) {
            Some(guard) => room.as_object(key, guard),
            None => self.look_for(key, |room| room.get(key)),
        }
    }

    /// A read of what this worker has not found often before; again, if it is in storage. Apart, so that what it has found is read
    /// without any of this.
    #[inline(never)]
    fn look_for<R>(
        &self,
        key: &str,
        read: impl Fn(&'call StateRoom) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        match read(self.state_room()) {
            Err(error) => self.get_away(error, key, read),
            found => found,
        }
    }

    /// A read that was refused, again if its object is in storage.
    #[cold]
    fn get_away<R>(
        &self,
        error: StateError,
        key: &str,
        read: impl Fn(&'call StateRoom) -> Result<R, StateError>,
    ) -> Result<R, StateError> {
        if !error.is_away() {
            return Err(error);
        }
        self.insist_on_state(error, &of_object(Key::new(key)?, true), || read(self.state_room()))
    }

    /// The bytes of the object called `key`, whatever its type, in view until they are dropped; `None` if there is no such
    /// object, which is another thing than an object of no bytes.
    ///
    /// # Errors
    /// [`StateError::Key`], [`StateError::Memory`] with `TooManyGuards`.
    #[inline]
    pub fn state_bytes(&self, key: &str) -> Result<Option<StateBytes<'call>>, StateError> {
        match self.state_room().recall(key) {
            Some(guard) => Ok(Some(StateBytes::new(guard))),
            None => self.look_for(key, |room| room.get_bytes(key)),
        }
    }

    /// Makes `value` the object called `key`, whatever was there. Returns its version; once it does, the object survives this
    /// worker and the server program.
    ///
    /// # Errors
    /// [`StateError::Memory`] with `Full` and its figures, or `Busy`; [`StateError::Key`]; [`StateError::Unencodable`].
    pub fn put<T: StateValue>(&self, key: &str, value: &T) -> Result<u64, StateError> {
        self.put_if(key, value, Condition::Any)
    }

    /// [`Context::put`], if the condition holds at that instant.
    ///
    /// # Errors
    /// As there, and [`StateError::Memory`] with `Conflict` when it does not hold: see [`StateError::as_conflict`].
    pub fn put_if<T: StateValue>(&self, key: &str, value: &T, condition: Condition) -> Result<u64, StateError> {
        let key = Key::new(key)?;
        self.ensure_state_known(key)?;
        self.state_room().put(key, value, condition)
    }

    /// Makes `bytes` the object called `key`, whatever was there. Returns its version.
    ///
    /// # Errors
    /// As [`Context::put`].
    pub fn put_bytes(&self, key: &str, bytes: &[u8]) -> Result<u64, StateError> {
        self.put_bytes_if(key, bytes, Condition::Any)
    }

    /// [`Context::put_bytes`], if the condition holds at that instant.
    ///
    /// # Errors
    /// As [`Context::put_if`].
    pub fn put_bytes_if(&self, key: &str, bytes: &[u8], condition: Condition) -> Result<u64, StateError> {
        let key = Key::new(key)?;
        self.ensure_state_known(key)?;
        self.state_room().put_bytes(key, bytes, condition)
    }

    /// A place of `bytes` bytes for the value of `key`, to be filled where it will lie and then
    /// [published](StateLoan::publish). What it contains at first means nothing. A worker holds at most
    /// [`LOANS_PER_WORKER`](praas_shm::objects::LOANS_PER_WORKER) of them.
    ///
    /// # Errors
    /// As [`Context::put`], and [`StateError::Memory`] with `TooManyLoans` or `TooLarge`.
    pub fn loan_state<'key>(&self, key: &'key str, bytes: usize) -> Result<StateLoan<'call, 'key>, StateError> {
        let key = Key::new(key)?;
        self.ensure_state_known(key)?;
        self.state_room().loan(key, bytes)
    }

    /// Changes the object called `key`: `change` is given its value, or `None` if there is no such object, and returns the new
    /// one. It is called again with the newest value whenever another worker came between, so that no change is lost.
    /// Returns the new version.
    ///
    /// # Errors
    /// As [`Context::state`] and [`Context::put`], and [`StateError::Contended`] when others come between too often.
    pub fn update<T: StateObject + StateValue>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<T>) -> T,
    ) -> Result<u64, StateError> {
        match self.state_room().update(Key::new(key)?, &mut change) {
            Err(error) if error.is_away() => {
                let key = Key::new(key)?;
                self.insist_on_state(error, &of_object(key, true), || self.state_room().update(key, &mut change))
            }
            updated => updated,
        }
    }

    /// Removes the object called `key`. Whether there was one.
    ///
    /// # Errors
    /// [`StateError::Key`], [`StateError::Memory`] with `Busy`.
    pub fn delete(&self, key: &str) -> Result<bool, StateError> {
        self.delete_if(key, Condition::Any)
    }

    /// [`Context::delete`], if the condition holds at that instant.
    ///
    /// # Errors
    /// As there, and [`StateError::Memory`] with `Conflict` when it does not hold.
    pub fn delete_if(&self, key: &str, condition: Condition) -> Result<bool, StateError> {
        let key = Key::new(key)?;
        self.ensure_state_known(key)?;
        Ok(self.state_room().delete(key, condition)?.is_some())
    }

    /// The first objects whose keys begin with `prefix` and come after `after`, in order of the keys' bytes: at most
    /// [`STATE_LIST_PAGE_KEYS`](praas_protocol::limits::STATE_LIST_PAGE_KEYS). Keys that are there all the while are in it;
    /// those put or deleted meanwhile may be. It looks at every object of the process, so it takes time in proportion to
    /// their number.
    ///
    /// # Errors
    /// [`StateError::Key`] when `after` is not a key or `prefix` is longer than one.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StateError> {
        if !prefix.is_empty() {
            Key::new(prefix)?;
        }
        self.list_state(&ListQuestion { prefix, after: after.map(Key::new).transpose()? })
    }

    /// The same of a question that was checked.
    pub(crate) fn list_state(&self, question: &ListQuestion<'_>) -> Result<ListPage, StateError> {
        let list = || self.state_room().list(question);
        list().or_else(|error| self.insist_on_state(error, &StateWanted::AllPages, list))
    }
}
