//! Migrations: how objects of an older schema become objects of a newer one, when they are first looked at.
//!
//! A migrated object is put back if nobody changed it meanwhile, so each is migrated once, and by one worker. What it was
//! before is gone then: an older program that reads it is refused with the versions.

use praas_protocol::Key;
use praas_protocol::state::Condition;
use praas_shm::objects::{Guard, ObjectHeader};

use super::error::StateError;
use super::room::{StateRoom, is_of, native, undecodable};
use super::{StateObject, StateValue};

/// Reads an object, makes the new one, puts it.
type Run = Box<dyn Fn(&StateRoom, Key<'_>, Guard<'_>) -> Result<u64, StateError>>;

/// One step from a schema to another.
pub(crate) struct Migration {
    takes: fn(&ObjectHeader) -> bool,
    run: Run,
}

impl Migration {
    pub(crate) fn new<Old, New>(change: impl Fn(Old) -> New + 'static) -> Self
    where
        Old: StateObject,
        New: StateValue,
    {
        let run = move |room: &StateRoom, key: Key<'_>, guard: Guard<'_>| {
            let version = guard.version();
            let old = guard.archived::<Old::Archived>();
            let old = old.map_err(|error| undecodable(key.as_str())(error.to_string()))?;
            let new = change(native::<Old>(&old).map_err(undecodable(key.as_str()))?);
            room.put(key, &new, Condition::Version(version))
        };
        Self { takes: is_of::<Old>, run: Box::new(run) }
    }

    /// Whether it is for objects of this kind.
    pub(super) fn takes(&self, header: &ObjectHeader) -> bool {
        (self.takes)(header)
    }

    pub(super) fn run(&self, room: &StateRoom, key: Key<'_>, guard: Guard<'_>) -> Result<u64, StateError> {
        (self.run)(room, key, guard)
    }
}
