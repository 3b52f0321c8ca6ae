//! [`StateError`]: why an operation on the state of a process was not done.

use praas_protocol::KeyError;
use praas_protocol::state::codes;
use praas_shm::objects;

use crate::error::FunctionError;
use crate::limits::UPDATE_TRIES_MAX;

/// Why an operation on state was not done. Nothing of it happened, whatever the variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key is not a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The memory of the state refused: it is full, busy, or damaged; too many objects are in view; or the object has
    /// another version than the condition names.
    #[error(transparent)]
    Memory(#[from] objects::StateError),
    /// The object is of another type.
    #[error("object {key:?} is not a {expected}: its type has id {found_id:#x}, version {found_version}")]
    WrongType {
        /// Its key.
        key: String,
        /// Name of the type that was asked for.
        expected: &'static str,
        /// Id of the type that it has; 0 for raw bytes.
        found_id: u64,
        /// Version of that type's schema.
        found_version: u32,
    },
    /// The object has another schema of its type, and nobody said how to change it.
    #[error(
        "object {key:?} is a {type_name} of schema version {found}, this program reads version {expected}: register \
         Application::migrate from the one to the other"
    )]
    WrongSchema {
        /// Its key.
        key: String,
        /// Name of its type.
        type_name: &'static str,
        /// The version that was asked for.
        expected: u32,
        /// The version that it has.
        found: u32,
    },
    /// The object says that it is of this type, and is not.
    #[error("object {object:?} cannot be read: {reason}")]
    Undecodable {
        /// Its key, or its type where the key is not known.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// A value cannot be serialised.
    #[error("a value for {key:?} could not be serialised: {reason}")]
    Unencodable {
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The object is in storage since the process has slept, and did not come back.
    #[error("{object:?} is still in storage: {reason}; try again")]
    Away {
        /// Its key.
        object: String,
        /// Why it did not come back.
        reason: String,
    },
    /// What is stored of the object is not what was stored when the process went to sleep. Other objects are not affected.
    #[error("{object:?} is damaged in storage: {reason}")]
    Damaged {
        /// Its key.
        object: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// Others changed the object each time that it was read to be changed.
    #[error("object {key:?} was changed by others {UPDATE_TRIES_MAX} times during one update; try again")]
    Contended {
        /// Its key.
        key: String,
    },
}

impl StateError {
    /// Whether a condition did not hold; the version that the object has then, `None` if there is no such object.
    #[must_use]
    pub fn as_conflict(&self) -> Option<Option<u64>> {
        match self {
            Self::Memory(objects::StateError::Conflict { current }) => Some(*current),
            _ => None,
        }
    }

    /// Whether something is to come back before the operation can be done.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Memory(objects::StateError::Away { .. }))
    }

    /// The code by which a caller from outside knows it.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Memory(objects::StateError::Busy { .. }) | Self::Contended { .. } | Self::Away { .. } => codes::BUSY,
            Self::Memory(objects::StateError::Corrupt { .. }) | Self::Damaged { .. } => codes::CORRUPT,
            Self::Memory(objects::StateError::Full { .. } | objects::StateError::IndexFull { .. }) => codes::FULL,
            _ => codes::BAD_REQUEST,
        }
    }

    /// As the answer of a built-in function.
    pub(crate) fn into_answer(self) -> FunctionError {
        FunctionError::of_sdk(self.code(), self.to_string())
    }
}
