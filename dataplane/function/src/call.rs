//! [`Call`]: the input of a running function and the place for its output.
//!
//! Where the output lies until the reply is published (the invariant behind [`Staged`]):
//! * small ones (at most [`REPLY_INLINE_BYTES`]) and all of a lane that is not written in place: in the worker's private buffer, from which
//!   the reply copies them; the buffer is cleared before a function sees it, so no caller reads another's bytes;
//! * larger ones of a lane that is: in a block of the lane, where the caller reads them without a copy. When the lane has
//!   no block free, or the function wants more than it asked for first, in the private buffer: there may be one by the time
//!   of the reply;
//! * an answer that is the beginning of the input stays where it is, if that is a block of a lane that is read in place and not the
//!   network shard's: the caller reads it in its own request. On a dedicated connection any part of the input does, and is sent
//!   from there: a copy of 1 MiB would add a seventh to its round trip.

use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_shm::running_call::RunningCall;
use rkyv::util::AlignedVec;

use crate::context::Context;
use crate::error::{FunctionError, FunctionResult};
use crate::limits::PRIVATE_OUTPUT_BYTES_START;

/// Where the output of a call lies, and how long it is.
#[derive(Debug)]
pub(crate) enum Staged {
    Private {
        bytes: usize,
    },
    InPlace {
        bytes: usize,
    },
    /// A part of the input.
    OfInput {
        start: usize,
        bytes: usize,
    },
    Owned(Vec<u8>),
}

/// A running call: its input, and the place for its output.
///
/// ```
/// use praas_function::{Application, Call, FunctionResult};
///
/// fn reverse(call: &mut Call) -> FunctionResult {
///     let input = call.input();
///     let output = call.output(input.len())?;
///     for (to, from) in output.iter_mut().zip(input.iter().rev()) {
///         *to = *from;
///     }
///     Ok(())
/// }
///
/// let application = Application::new().function("reverse", reverse);
/// # let _ = application;
/// ```
#[derive(Debug)]
pub struct Call<'call> {
    input: &'call [u8],
    context: Context<'call>,
    /// The lane's call, where the output may be written in place.
    in_place: Option<&'call RunningCall<'call>>,
    /// The lane's block for the output, once one is reserved; a call gets one.
    block: Option<&'call mut [u8]>,
    private: &'call mut AlignedVec,
    staged: Staged,
    payload_bytes_max: usize,
}

impl<'call> Call<'call> {
    pub(crate) fn new(
        input: &'call [u8],
        context: Context<'call>,
        private: &'call mut AlignedVec,
        payload_bytes_max: usize,
    ) -> Self {
        let staged = Staged::Private { bytes: 0 };
        let in_place = context.running().filter(|running| running.in_place());
        Self { input, context, in_place, block: None, private, staged, payload_bytes_max }
    }

    /// The same call with its output in private memory, whatever its size: for an answer that is kept, too.
    pub(crate) fn in_private(mut self) -> Self {
        self.in_place = None;
        self
    }

    /// The caller's bytes, aligned to 16. From a trusted caller they are read where it wrote them, else they are a private
    /// copy; either way they do not change while the function runs.
    #[must_use]
    pub fn input(&self) -> &'call [u8] {
        self.input
    }

    /// What is known about the call: cancel flag, time remaining, who calls.
    #[must_use]
    pub fn context(&self) -> Context<'call> {
        self.context
    }

    /// Room for an output of `bytes` bytes, aligned to 16, to be filled in any order; what it contains at first means
    /// nothing. A caller in the trust domain reads it from this very place. Called again, it starts the output anew.
    ///
    /// # Errors
    /// When `bytes` is over the application's payload limit; return that error to tell the caller.
    pub fn output(&mut self, bytes: usize) -> FunctionResult<&mut [u8]> {
        self.ensure_within_limit(bytes)?;
        let room = self.room(bytes);
        if room.is_private {
            room.bytes.fill(0);
        }
        Ok(room.bytes)
    }

    /// Answers with `bytes`, unless the function goes on to return others. They are copied, but for the beginning of a large
    /// [`Call::input`] from a caller in the trust domain, who reads it where it wrote it.
    ///
    /// # Errors
    /// When `bytes` is longer than the application's payload limit; return that error to tell the caller.
    pub fn reply(&mut self, bytes: &[u8]) -> FunctionResult {
        self.ensure_within_limit(bytes.len())?;
        if let Some(start) = place_within(self.input, bytes) {
            let stays = match self.context.running() {
                None => true,
                Some(running) => {
                    start == 0
                        && bytes.len() > REPLY_INLINE_BYTES
                        && self.in_place.is_some()
                        && running.may_answer_with_input()
                }
            };
            if stays {
                self.staged = Staged::OfInput { start, bytes: bytes.len() };
                return Ok(());
            }
        }
        self.room(bytes.len()).bytes.copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn reply_owned(&mut self, bytes: Vec<u8>) -> FunctionResult {
        self.ensure_within_limit(bytes.len())?;
        self.staged = Staged::Owned(bytes);
        Ok(())
    }

    /// Room for `bytes` bytes, which are within the limit; whatever was staged before is forgotten.
    pub(crate) fn room(&mut self, bytes: usize) -> Room<'_> {
        if bytes > REPLY_INLINE_BYTES
            && let Some(running) = self.in_place
        {
            if self.block.is_none() {
                // No block free: the private buffer serves, and the reply looks again.
                self.block = running.output_in_place(bytes).ok().flatten();
            }
            if let Some(block) = self.block.as_deref_mut().and_then(|block| block.get_mut(..bytes)) {
                self.staged = Staged::InPlace { bytes };
                return Room { bytes: block, is_private: false };
            }
        }
        self.staged = Staged::Private { bytes };
        if self.private.len() < bytes {
            self.private.resize(bytes.next_multiple_of(PRIVATE_OUTPUT_BYTES_START), 0);
        }
        Room { bytes: &mut self.private[..bytes], is_private: true }
    }

    /// Declares that only the first `bytes` bytes of the room are the output.
    pub(crate) fn shorten(&mut self, bytes: usize) {
        match &mut self.staged {
            Staged::Private { bytes: staged }
            | Staged::InPlace { bytes: staged }
            | Staged::OfInput { bytes: staged, .. } => *staged = bytes.min(*staged),
            Staged::Owned(_) => {}
        }
    }

    pub(crate) fn is_in_place(&self) -> bool {
        matches!(self.staged, Staged::InPlace { .. })
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    pub(crate) fn into_staged(self) -> Staged {
        self.staged
    }

    fn ensure_within_limit(&self, bytes: usize) -> FunctionResult {
        if bytes > self.payload_bytes_max {
            return Err(FunctionError::output_too_large(self.payload_bytes_max, bytes));
        }
        Ok(())
    }
}

/// Where `part` begins in `whole`, if it is a part of that very memory.
fn place_within(whole: &[u8], part: &[u8]) -> Option<usize> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (!part.is_empty() && end <= whole.len()).then_some(start)
}

/// Room for an output.
#[derive(Debug)]
pub(crate) struct Room<'room> {
    pub(crate) bytes: &'room mut [u8],
    /// Whether it is the worker's buffer, which may hold bytes of an earlier call.
    pub(crate) is_private: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_found_where_it_lies_and_equal_bytes_elsewhere_are_not() {
        let whole: Vec<u8> = (0..100).collect();
        assert_eq!(place_within(&whole, &whole), Some(0));
        assert_eq!(place_within(&whole, &whole[40..]), Some(40));
        assert_eq!(place_within(&whole, &whole[99..]), Some(99));
        assert_eq!(place_within(&whole, &whole[5..5]), None);
        assert_eq!(place_within(&whole[..50], &whole[49..51]), None);
        assert_eq!(place_within(&whole[50..], &whole[49..51]), None);
        assert_eq!(place_within(&whole, &whole.clone()), None);
    }
}
