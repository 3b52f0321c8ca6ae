//! How a call ended: the code in a reply cell or frame, and the error that a caller gets.
//!
//! [`Outcome`] is what travels: a small number, with two words of detail and bytes that it gives a meaning to.
//! [`CallError`] is what a caller sees.

use crate::ProcessId;
use crate::phase::Phase;

/// The code of a reply. Numbers are part of the lane's layout and never change meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// The function returned; the payload is its output.
    Ok = 0,
    /// The function returned an error: detail is its code, the payload its message.
    FunctionFailed = 1,
    /// The function panicked: the payload is the panic's message.
    FunctionPanicked = 2,
    /// The worker that ran the call died before it answered.
    WorkerLost = 3,
    /// The application has no such function.
    UnknownFunction = 4,
    /// The request or the reply is too large: detail is the limit in bytes, the second word the actual size.
    PayloadTooLarge = 5,
    /// A limit of the process was reached; nothing ran.
    Overloaded = 6,
    /// The process does not take calls now; detail is the phase's number. Nothing ran: the client may resubmit.
    Unavailable = 7,
    /// The lane's rights were withdrawn; nothing ran.
    Unauthorized = 8,
    /// The function saw the caller's deadline pass and stopped.
    DeadlineExceeded = 9,
    /// The function saw the caller's cancel and stopped.
    Cancelled = 10,
    /// A wait inside the function was ended by a drain.
    Interrupted = 11,
    /// The request is not readable: its lengths or offsets lie outside its lane. Nothing ran.
    Malformed = 12,
    /// The function ran, but its reply could not be stored: detail is the free space in bytes, the second word the need.
    ReplyLost = 13,
    /// The process lives on another server: the payload is its address. Only a server says this; nothing ran.
    Moved = 14,
    /// The idempotency key was used for a call with another payload. Nothing ran.
    KeyReused = 15,
    /// The way to the process called broke, which lies on another server: detail is 1 if the call may have run, 0 if it certainly
    /// never did. Only servers say this.
    ConnectionLost = 16,
    /// There is no such process, or it has ended: what the server that was called knows of it. Nothing ran. Only servers say this.
    UnknownProcess = 17,
}

impl Outcome {
    /// The outcome with this number, if there is one.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        const ALL: [Outcome; 18] = [
            Outcome::Ok,
            Outcome::FunctionFailed,
            Outcome::FunctionPanicked,
            Outcome::WorkerLost,
            Outcome::UnknownFunction,
            Outcome::PayloadTooLarge,
            Outcome::Overloaded,
            Outcome::Unavailable,
            Outcome::Unauthorized,
            Outcome::DeadlineExceeded,
            Outcome::Cancelled,
            Outcome::Interrupted,
            Outcome::Malformed,
            Outcome::ReplyLost,
            Outcome::Moved,
            Outcome::KeyReused,
            Outcome::ConnectionLost,
            Outcome::UnknownProcess,
        ];
        ALL.get(usize::try_from(code).ok()?).copied()
    }
}

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The function returned an error of its own.
    #[error("the function failed with code {code}: {message}")]
    FunctionFailed {
        /// The function's own code.
        code: u32,
        /// The function's own words.
        message: String,
    },
    /// The function panicked; its worker goes on.
    #[error("the function panicked: {message}. Its worker lives on; see `praas process logs`")]
    FunctionPanicked {
        /// The panic's message.
        message: String,
    },
    /// The worker died while it ran the call. Whether its effects happened is unknown.
    #[error(
        "the worker that ran the call died (crash, kill or memory limit); the process has a new one. See `praas process logs`"
    )]
    WorkerLost,
    /// The connection to the server broke while the call was in flight.
    #[error("the connection to the server was lost{}", if *may_have_run { " while the call was in flight; it may have run" } else { " before the call was taken; it did not run" })]
    ConnectionLost {
        /// False when the request was certainly never claimed.
        may_have_run: bool,
    },
    /// The application has no function of this name.
    #[error("the application has no function {function:?}; `praas check` lists the functions it names")]
    UnknownFunction {
        /// The name that was called.
        function: String,
    },
    /// The server has no such process.
    #[error("there is no process {process}; create it with `praas process create {process}`")]
    UnknownProcess {
        /// The process that was called.
        process: ProcessId,
    },
    /// What was to be called is no process.
    #[error("{name:?} cannot be called: {reason}")]
    NotAProcess {
        /// How it was named.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The caller's deadline passed. The call may still run to its end; its reply is dropped.
    #[error("the call was not answered within its deadline of {deadline_ns} ns; it may still run")]
    DeadlineExceeded {
        /// The deadline, as time from the start of the call.
        deadline_ns: u64,
    },
    /// The caller cancelled the call. It may still run to its end; its reply is dropped.
    #[error("the call was cancelled by its caller; it may still run")]
    Cancelled,
    /// A wait inside the function was ended because its process drains.
    #[error("the function's wait was interrupted because its process is being drained")]
    Interrupted,
    /// A queue, table, arena or quarantine is full. Nothing ran.
    #[error("{what} is full ({used} of {limit} in use); try again when calls have finished, or raise the limit")]
    Overloaded {
        /// What is full.
        what: &'static str,
        /// How much of it is in use.
        used: u64,
        /// How much there is.
        limit: u64,
    },
    /// The process does not take calls now. Nothing ran.
    #[error("the process is {phase} and takes no calls; nothing ran, so the call can be repeated")]
    Unavailable {
        /// The phase of the process.
        phase: Phase,
    },
    /// The token does not give the right, or was withdrawn.
    #[error("the token does not allow this: it needs the right {right:?} for this process")]
    Unauthorized {
        /// The right that is missing.
        right: &'static str,
    },
    /// The payload or the reply is larger than allowed.
    #[error(
        "the payload has {actual_bytes} bytes, the limit is {limit_bytes}: raise payload_bytes_max in praas.toml or send less"
    )]
    PayloadTooLarge {
        /// The limit in bytes.
        limit_bytes: u64,
        /// The actual size in bytes.
        actual_bytes: u64,
    },
    /// The process lives on another server.
    #[error("the process moved to {to}")]
    Moved {
        /// Where it lives now.
        to: String,
    },
    /// The idempotency key was given before for a call of this function with another payload. Nothing ran.
    #[error(
        "the idempotency key was used before for a call with another payload; nothing ran. Repeat a call with the same payload, \
         or give another call a key of its own"
    )]
    KeyReused,
    /// The function ran, but its reply did not fit what was free in the lane's reply arena.
    #[error(
        "the function ran, but its reply of {actual_bytes} bytes found only {free_bytes} bytes free in the lane: drop replies sooner or raise payload_bytes_max"
    )]
    ReplyLost {
        /// Largest free block of the lane's reply arena, in bytes.
        free_bytes: u64,
        /// Bytes of the reply.
        actual_bytes: u64,
    },
    /// A typed payload did not decode as the type that was asked for.
    #[error("the payload of {actual_bytes} bytes is not a valid {type_name}: {reason}")]
    Undecodable {
        /// The Rust type that was expected.
        type_name: &'static str,
        /// Bytes of the payload.
        actual_bytes: u64,
        /// What the check found.
        reason: String,
    },
    /// The worker's answer is not readable: its code, lengths or offsets are outside the lane's.
    #[error(
        "the worker's answer is malformed ({what}); the process may be damaged: `praas process restart` replaces its workers"
    )]
    MalformedReply {
        /// What was wrong.
        what: &'static str,
    },
}

impl CallError {
    /// The end of a call that was sent several times under one idempotency key, when the last attempt ended so and an earlier
    /// one was lost: that the last one never ran says nothing of the earlier one.
    #[must_use]
    pub fn of_repeated_call(self) -> Self {
        match self {
            Self::ConnectionLost { .. }
            | Self::Unavailable { .. }
            | Self::Overloaded { .. }
            | Self::UnknownProcess { .. }
            | Self::Unauthorized { .. }
            | Self::Moved { .. } => Self::ConnectionLost { may_have_run: true },
            ended => ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_as_its_outcome() {
        let mut code = 0;
        while let Some(outcome) = Outcome::from_code(code) {
            assert_eq!(outcome as u32, code);
            code += 1;
        }
        assert_eq!(code, Outcome::UnknownProcess as u32 + 1);
        assert_eq!(Outcome::from_code(u32::MAX), None);
    }
}
