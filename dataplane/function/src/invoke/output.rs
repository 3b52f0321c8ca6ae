//! [`Output`]: what a function that was called by another one returned.

use std::fmt;
use std::ops::Deref;

use praas_shm::client_lane::AnswerPayload;

use crate::call::Call;
use crate::error::FunctionResult;
use crate::reply::Reply;

/// The output of a function. A large one is read where it was written; its room is free again when this is dropped. It starts
/// at a multiple of 16 bytes.
pub struct Output(AnswerPayload);

impl Output {
    #[inline]
    pub(super) fn new(payload: AnswerPayload) -> Self {
        Self(payload)
    }

    /// The bytes.
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // Both ends are functions of one application, so there is always one.
        self.0.as_slice().unwrap_or_default()
    }
}

impl Deref for Output {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Output").field("bytes", &self.len()).finish()
    }
}

/// A function may pass on what another one answered.
impl Reply for Output {
    fn into_output(self, call: &mut Call<'_>) -> FunctionResult {
        call.reply(&self)
    }
}
