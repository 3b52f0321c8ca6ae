//! [`PendingCall`]: a call that a function has made and not waited for yet.

use std::fmt;

use praas_protocol::CallError;

use super::nested_call::NestedCall;
use super::output::Output;

/// A call on its way. Dropping it gives it up: what has not begun by then never runs, and a function that runs can see that
/// nobody waits.
#[must_use = "a call that is dropped is given up"]
pub struct PendingCall<'call> {
    call: NestedCall<'call, 'static>,
}

impl<'call> PendingCall<'call> {
    pub(super) fn begin(mut call: NestedCall<'call, 'static>) -> Result<Self, CallError> {
        call.begin()?;
        Ok(Self { call })
    }

    /// Waits for the answer, to the call's deadline.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended.
    pub fn wait(mut self) -> Result<Output, CallError> {
        self.call.finish()
    }

    /// The end of the call if it is there; it is given once.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended.
    pub fn try_wait(&mut self) -> Option<Result<Output, CallError>> {
        self.call.look()
    }
}

impl fmt::Debug for PendingCall<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PendingCall").field("call", &self.call).finish()
    }
}
