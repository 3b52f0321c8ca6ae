//! [`Reply`]: what a function may return besides an error.

use crate::call::Call;
use crate::error::{FunctionError, FunctionResult};

/// A value that a raw function can return. Implement it for types of your own, such as a response in JSON.
///
/// | returned | the caller gets |
/// |---|---|
/// | `()` | what was written with [`Call::output`] or [`Call::reply`]; else zero bytes |
/// | `Vec<u8>`, `String`, `[u8; N]`, `&'static [u8]`, `&'static str` | these bytes |
/// | `Result<any of these, FunctionError>` | the bytes, or the error |
pub trait Reply {
    /// Makes this value the call's answer.
    ///
    /// # Errors
    /// The error to answer the call with instead.
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult;
}

impl Reply for () {
    fn into_output(self, _: &mut Call<'_>) -> FunctionResult {
        Ok(())
    }
}

impl Reply for Vec<u8> {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply_owned(self)
    }
}

impl Reply for String {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply_owned(self.into_bytes())
    }
}

impl Reply for &'static [u8] {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply(self)
    }
}

impl Reply for &'static str {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply(self.as_bytes())
    }
}

impl<const N: usize> Reply for [u8; N] {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply(&self)
    }
}

impl<R: Reply> Reply for Result<R, FunctionError> {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        self?.into_output(call)
    }
}
