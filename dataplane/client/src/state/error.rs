//! Why an operation on state from outside failed.

use praas_protocol::state::{Attributes, StatePayloadError, codes};
use praas_protocol::{CallError, KeyError, ProcessId, StateType};

/// Why an object was not read or written. A condition that does not hold is no error, nor is a missing object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key, or the prefix of a list, is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The token does not allow it.
    #[error(
        "the token does not allow to read and write the state of {process}: it needs the rights \"invoke\" and \"state\", such as from `praas token create --process {process} --rights invoke,state --expires 12h`"
    )]
    Unauthorized {
        /// The process.
        process: ProcessId,
    },
    /// The process has no such functions.
    #[error(
        "the functions of {process} were built with a release of praas that has no state: build them anew and restart the process"
    )]
    Unsupported {
        /// The process.
        process: ProcessId,
    },
    /// The value does not fit one call.
    #[error(
        "the value has {actual_bytes} bytes, from outside one of {limit_bytes} can pass: raise payload_bytes_max in praas.toml, or let a function of the application read and write it"
    )]
    TooLarge {
        /// Most bytes of a value.
        limit_bytes: u64,
        /// Bytes of this one.
        actual_bytes: u64,
    },
    /// There is no room for the object. Nothing was changed.
    #[error("{message}")]
    Full {
        /// The process's own words, with the figures.
        message: String,
    },
    /// Another writer took too long. Nothing was changed.
    #[error("{message}")]
    Busy {
        /// The process's own words.
        message: String,
    },
    /// The memory of the objects is damaged.
    #[error("{message}")]
    Damaged {
        /// The process's own words.
        message: String,
    },
    /// The object is a value of another type, or of another version of it.
    #[error(
        "{key:?} holds {}, not a {type_name} of schema version {schema_version}: read it as what it is, or let the application migrate it", holding(.found)
    )]
    OtherType {
        /// The object's key.
        key: String,
        /// Name of the type that was asked for.
        type_name: &'static str,
        /// Its schema version.
        schema_version: u32,
        /// What is there.
        found: Attributes,
    },
    /// The answer is none that the function gives.
    #[error(
        "the answer of the process is malformed: {reason}; its workers may be damaged: `praas process restart` replaces them"
    )]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The call ended otherwise.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl StateError {
    /// What the end of a call means. `head_bytes` of what was too large are not the value's.
    pub(super) fn of_call(error: CallError, process: ProcessId, head_bytes: usize) -> Self {
        match error {
            CallError::Unauthorized { .. } => Self::Unauthorized { process },
            CallError::UnknownFunction { .. } => Self::Unsupported { process },
            CallError::PayloadTooLarge { limit_bytes, actual_bytes } => Self::TooLarge {
                limit_bytes: limit_bytes.saturating_sub(head_bytes as u64),
                actual_bytes: actual_bytes.saturating_sub(head_bytes as u64),
            },
            // Codes of the SDK: no function of an application fails with one.
            CallError::FunctionFailed { code: codes::FULL, message } => Self::Full { message },
            CallError::FunctionFailed { code: codes::BUSY, message } => Self::Busy { message },
            CallError::FunctionFailed { code: codes::CORRUPT, message } => Self::Damaged { message },
            other => Self::Call(other),
        }
    }

    pub(super) fn other_type<T: StateType>(key: &str, found: Attributes) -> Self {
        Self::OtherType { key: key.to_owned(), type_name: T::NAME, schema_version: T::SCHEMA_VERSION, found }
    }

    pub(super) fn malformed(reason: impl Into<String>) -> Self {
        Self::Malformed { reason: reason.into() }
    }
}

impl From<StatePayloadError> for StateError {
    fn from(error: StatePayloadError) -> Self {
        Self::malformed(error.to_string())
    }
}

fn holding(found: &Attributes) -> String {
    match found.type_id {
        0 => "raw bytes".to_owned(),
        id => format!("a value of type {id:016x} of schema version {}", found.schema_version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_call(error: CallError) -> StateError {
        StateError::of_call(error, "hello/alice".parse().unwrap(), 48)
    }

    #[test]
    fn each_end_of_a_call_says_what_it_means_for_state() {
        let failed = |code| of_call(CallError::FunctionFailed { code, message: "words".into() });
        assert_eq!(failed(codes::FULL), StateError::Full { message: "words".into() });
        assert_eq!(failed(codes::BUSY), StateError::Busy { message: "words".into() });
        assert_eq!(failed(codes::CORRUPT), StateError::Damaged { message: "words".into() });
        assert!(matches!(failed(codes::BAD_REQUEST), StateError::Call(CallError::FunctionFailed { .. })));
        let other = CallError::FunctionFailed { code: 1, message: "words".into() };
        assert_eq!(of_call(other.clone()), StateError::Call(other));
        assert_eq!(of_call(CallError::WorkerLost), StateError::Call(CallError::WorkerLost));
        let unknown = CallError::UnknownFunction { function: "praas.state.get".into() };
        assert!(matches!(of_call(unknown), StateError::Unsupported { .. }));
        let too_large = CallError::PayloadTooLarge { limit_bytes: 1000, actual_bytes: 1001 };
        assert_eq!(of_call(too_large), StateError::TooLarge { limit_bytes: 952, actual_bytes: 953 });
    }

    #[test]
    fn who_lacks_the_right_reads_how_to_get_it() {
        let words = of_call(CallError::Unauthorized { right: "invoke" }).to_string();
        assert!(words.contains("praas token create --process hello/alice --rights invoke,state"), "{words}");
    }

    #[test]
    fn another_type_is_named_by_what_is_known_of_it() {
        struct Counter;
        impl StateType for Counter {
            const NAME: &'static str = "counter";
            const SCHEMA_VERSION: u32 = 2;
        }
        let raw = StateError::other_type::<Counter>("k", Attributes::default()).to_string();
        assert!(raw.contains("\"k\" holds raw bytes, not a counter of schema version 2"), "{raw}");
        let found = Attributes { type_id: Counter::TYPE_ID, schema_version: 1, ..Attributes::default() };
        let old = StateError::other_type::<Counter>("k", found).to_string();
        assert!(old.contains(&format!("{:016x} of schema version 1", Counter::TYPE_ID)), "{old}");
    }
}
