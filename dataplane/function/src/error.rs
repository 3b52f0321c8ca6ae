//! [`FunctionError`]: what a function returns when it does not succeed, and the codes that the SDK itself uses.
//!
//! Any `std::error::Error` turns into one by `?`. For that reason `FunctionError` is not itself a `std::error::Error`:
//! nobody handles it but the SDK, which sends it to the caller.

use std::borrow::Cow;
use std::fmt;

use praas_protocol::Outcome;
use praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX;

use crate::durability::NotDurable;
use crate::messages::{RecvError, SendError};
use crate::process_list::ProcessListError;

/// Codes of [`FunctionError`]s that the SDK makes. Codes of your own are below [`codes::RESERVED`].
pub mod codes {
    /// The first code that belongs to the SDK: all codes from here to `u32::MAX`.
    pub const RESERVED: u32 = 0xffff_0000;
    /// An error turned into a [`FunctionError`](super::FunctionError) by `?`, which gives no code.
    pub const UNCODED: u32 = RESERVED;
    /// The bytes of the input are not a valid archive of the function's input type. The function did not run.
    pub const UNDECODABLE_INPUT: u32 = RESERVED + 1;
    /// The output of a typed function could not be serialised. The function ran.
    pub const UNENCODABLE_OUTPUT: u32 = RESERVED + 2;
}

/// What a function returns: its answer, or why there is none.
pub type FunctionResult<T = ()> = Result<T, FunctionError>;

/// Why a function has no answer; the caller gets the code and the message.
///
/// ```
/// use praas_function::{FunctionError, FunctionResult};
///
/// const EMPTY: u32 = 1;
///
/// fn mean(numbers: &[f64]) -> FunctionResult<f64> {
///     if numbers.is_empty() {
///         return Err(FunctionError::new(EMPTY, "there is no mean of no numbers"));
///     }
///     Ok(numbers.iter().sum::<f64>() / numbers.len() as f64)
/// }
///
/// fn parsed(text: &[u8]) -> FunctionResult<u32> {
///     Ok(std::str::from_utf8(text)?.parse()?) // any error will do
/// }
///
/// assert_eq!(mean(&[]).unwrap_err().code(), Some(EMPTY));
/// assert!(parsed(b"seven").is_err());
/// ```
pub struct FunctionError {
    reason: Reason,
}

enum Reason {
    Failed { code: u32, message: Cow<'static, str> },
    OutputTooLarge { limit_bytes: usize, actual_bytes: usize },
    Cancelled,
    DeadlineExceeded,
    Interrupted,
    Unauthorized,
}

impl FunctionError {
    /// An error with a code of your own and a message for people, which is cut at
    /// [`ERROR_MESSAGE_BYTES_MAX`](praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX) bytes.
    ///
    /// # Panics
    /// When `code` is [`codes::RESERVED`] or above: callers tell the SDK's errors from yours by it.
    #[must_use]
    pub fn new(code: u32, message: impl Into<Cow<'static, str>>) -> Self {
        assert!(
            code < codes::RESERVED,
            "code {code:#x} of a FunctionError belongs to the SDK: use one below {:#x}",
            codes::RESERVED
        );
        Self::of_sdk(code, message)
    }

    /// The function saw the caller cancel, and stopped. [`Context::ensure_wanted`](crate::Context::ensure_wanted) makes
    /// this error where it belongs.
    #[must_use]
    pub fn cancelled() -> Self {
        Self { reason: Reason::Cancelled }
    }

    /// The function saw the caller's deadline pass, and stopped.
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        Self { reason: Reason::DeadlineExceeded }
    }

    /// The function saw its process drain, and stopped waiting.
    #[must_use]
    pub fn interrupted() -> Self {
        Self { reason: Reason::Interrupted }
    }

    /// The code that the caller gets, if this error has one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self.reason {
            Reason::Failed { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn of_sdk(code: u32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: Reason::Failed { code, message: message.into() } }
    }

    /// The caller lacks the right for what it asked.
    pub(crate) fn unauthorized() -> Self {
        Self { reason: Reason::Unauthorized }
    }

    pub(crate) fn output_too_large(limit_bytes: usize, actual_bytes: usize) -> Self {
        Self { reason: Reason::OutputTooLarge { limit_bytes, actual_bytes } }
    }

    /// The outcome, its two words of detail, and the message, as a reply carries them.
    pub(crate) fn as_reply(&self) -> (Outcome, u32, u32, &str) {
        match &self.reason {
            Reason::Failed { code, message } => (Outcome::FunctionFailed, *code, 0, cut(message)),
            Reason::OutputTooLarge { limit_bytes, actual_bytes } => {
                (Outcome::PayloadTooLarge, saturated(*limit_bytes), saturated(*actual_bytes), "")
            }
            Reason::Cancelled => (Outcome::Cancelled, 0, 0, ""),
            Reason::DeadlineExceeded => (Outcome::DeadlineExceeded, 0, 0, ""),
            Reason::Interrupted => (Outcome::Interrupted, 0, 0, ""),
            Reason::Unauthorized => (Outcome::Unauthorized, 0, 0, ""),
        }
    }
}

impl<E: std::error::Error + 'static> From<E> for FunctionError {
    /// The error and all its causes as the message, with the code [`codes::UNCODED`]. Errors of messages keep their own codes
    /// and outcomes.
    fn from(error: E) -> Self {
        if let Some(answer) = of_messages(&error).or_else(|| of_processes(&error)).or_else(|| of_log(&error)) {
            return answer;
        }
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            if message.len() > ERROR_MESSAGE_BYTES_MAX {
                break;
            }
            message = format!("{message}: {error}");
            cause = error.source();
        }
        Self::of_sdk(codes::UNCODED, message)
    }
}

/// What an error of sending or receiving becomes.
fn of_messages(error: &(dyn std::error::Error + 'static)) -> Option<FunctionError> {
    let of_send = || error.downcast_ref().map(SendError::to_answer);
    error.downcast_ref().map(RecvError::to_answer).or_else(of_send)
}

/// What becomes of a wait for processes that was ended.
fn of_processes(error: &(dyn std::error::Error + 'static)) -> Option<FunctionError> {
    match error.downcast_ref()? {
        ProcessListError::Interrupted => Some(FunctionError::interrupted()),
        ProcessListError::Cancelled => Some(FunctionError::cancelled()),
        _ => None,
    }
}

/// What becomes of a wait for the log that was too long.
fn of_log(error: &(dyn std::error::Error + 'static)) -> Option<FunctionError> {
    error.downcast_ref().copied().map(NotDurable::to_answer)
}

impl fmt::Display for FunctionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Failed { code, message } => write!(formatter, "code {code}: {message}"),
            Reason::OutputTooLarge { limit_bytes, actual_bytes } => {
                write!(formatter, "the output has {actual_bytes} bytes, the limit is {limit_bytes}")
            }
            Reason::Cancelled => formatter.write_str("cancelled by the caller"),
            Reason::DeadlineExceeded => formatter.write_str("the caller's deadline has passed"),
            Reason::Interrupted => formatter.write_str("interrupted by a drain"),
            Reason::Unauthorized => formatter.write_str("the caller lacks the right for this"),
        }
    }
}

impl fmt::Debug for FunctionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FunctionError({self})")
    }
}

/// `text` up to the last character that ends within [`ERROR_MESSAGE_BYTES_MAX`].
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX)]
}

pub(crate) fn saturated(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        let text = "é".repeat(ERROR_MESSAGE_BYTES_MAX);
        assert_eq!(cut(&text).len(), ERROR_MESSAGE_BYTES_MAX);
        let shifted = format!("x{text}");
        assert_eq!(cut(&shifted).len(), ERROR_MESSAGE_BYTES_MAX - 1);
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn an_error_brings_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not load the index")]
        struct Outer(#[source] std::num::ParseIntError);
        let error = FunctionError::from(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(error.as_reply().3, "could not load the index: invalid digit found in string");
        assert_eq!(error.code(), Some(codes::UNCODED));
    }

    #[test]
    #[should_panic(expected = "belongs to the SDK")]
    fn codes_of_the_sdk_are_refused() {
        let _ = FunctionError::new(codes::RESERVED, "mine");
    }
}
