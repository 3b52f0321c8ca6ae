//! Typed functions: rkyv archives in, rkyv archives out, no copy in between where the lane allows it.
//!
//! 1. An input is validated before the function sees it, and pointers nest at most [`ARCHIVE_DEPTH_MAX`] deep: validation
//!    recurses, and without a bound a small hostile payload would overflow the worker's stack.
//! 2. The bytes that are validated cannot change meanwhile: [`Call::input`] is a private copy unless the caller shares the
//!    application's trust domain.
//! 3. An output is serialised straight into the place that the reply is published from. Its size is not known before, so
//!    room is made for as much as the function answered last; [`OutputWriter`] counts what does not fit, and one more pass
//!    into room of just that size follows.

use std::any::type_name;

use praas_protocol::limits::REPLY_INLINE_BYTES;
use rkyv::Portable;
use rkyv::Serialize;
use rkyv::api::{access_with_context, serialize_using};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Error, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::sharing::Share;
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;

use crate::call::Call;
use crate::error::{FunctionError, FunctionResult, codes};
use crate::limits::ARCHIVE_DEPTH_MAX;

/// What checks a typed input.
pub type InputValidator<'bytes> = Strategy<Validator<ArchiveValidator<'bytes>, SharedValidator>, Error>;

/// What serialises a typed output.
pub type OutputSerializer<'room> = Strategy<Serializer<OutputWriter<'room>, ArenaHandle<'room>, Share>, Error>;

/// An archived type that a typed function can take: every `ArchivedT` of a `T` that derives `rkyv::Archive`.
pub trait TypedInput: Portable + for<'bytes> CheckBytes<InputValidator<'bytes>> {}

impl<T> TypedInput for T where T: Portable + for<'bytes> CheckBytes<InputValidator<'bytes>> {}

/// A type that a typed function can return: every `T` that derives `rkyv::Archive` and `rkyv::Serialize`.
pub trait TypedOutput: for<'room> Serialize<OutputSerializer<'room>> {}

impl<T> TypedOutput for T where T: for<'room> Serialize<OutputSerializer<'room>> {}

/// Writes what fits into a fixed room and counts the rest, so that a pass that did not fit tells how much would.
#[derive(Debug)]
pub struct OutputWriter<'room> {
    room: &'room mut [u8],
    written_bytes: usize,
}

impl<'room> OutputWriter<'room> {
    /// Nothing is written yet.
    pub(crate) fn new(room: &'room mut [u8]) -> Self {
        Self { room, written_bytes: 0 }
    }

    /// Bytes that were written, or would have been with more room.
    pub(crate) fn written_bytes(&self) -> usize {
        self.written_bytes
    }
}

impl Positional for OutputWriter<'_> {
    fn pos(&self) -> usize {
        self.written_bytes
    }
}

impl<E> Writer<E> for OutputWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.written_bytes + bytes.len();
        if let Some(target) = self.room.get_mut(self.written_bytes..end) {
            target.copy_from_slice(bytes);
        }
        self.written_bytes = end;
        Ok(())
    }
}

/// The archive in `bytes`, checked.
///
/// # Errors
/// A [`FunctionError`] of code [`codes::UNDECODABLE_INPUT`] that names the type and what is wrong.
pub(crate) fn checked<A: TypedInput>(bytes: &[u8]) -> FunctionResult<&A> {
    let archive = ArchiveValidator::with_max_depth(bytes, Some(ARCHIVE_DEPTH_MAX));
    let mut validator = Validator::new(archive, SharedValidator::new());
    access_with_context::<A, _, Error>(bytes, &mut validator).map_err(|error| {
        let reason = error.to_string();
        FunctionError::of_sdk(
            codes::UNDECODABLE_INPUT,
            format!(
                "the input of {} bytes is not a valid {}: {}",
                bytes.len(),
                type_name::<A>(),
                reason.lines().next().unwrap_or("it cannot be read")
            ),
        )
    })
}

/// Serialises the outputs of one function.
#[derive(Default)]
pub(crate) struct OutputEncoder {
    arena: Arena,
    last_bytes: usize,
}

impl OutputEncoder {
    /// Makes `output` the answer of `call`.
    pub(crate) fn answer<Out: TypedOutput>(&mut self, call: &mut Call<'_>, output: &Out) -> FunctionResult {
        let limit_bytes = call.payload_bytes_max();
        let room_bytes = expected_room_bytes(self.last_bytes).min(limit_bytes);
        let needed_bytes = self.attempt(call, output, room_bytes)?;
        if needed_bytes > limit_bytes {
            return Err(FunctionError::output_too_large(limit_bytes, needed_bytes));
        }
        // An output that has become small moves out of its block: in the reply cell it travels faster.
        let belongs_in_cell = call.is_in_place() && needed_bytes <= REPLY_INLINE_BYTES;
        if needed_bytes > room_bytes || belongs_in_cell {
            let again_bytes = self.attempt(call, output, needed_bytes)?;
            if again_bytes != needed_bytes {
                return Err(unencodable("it has another length when it is serialised again"));
            }
        }
        self.last_bytes = needed_bytes;
        call.shorten(needed_bytes);
        Ok(())
    }

    /// Serialises into room for `room_bytes`; the bytes that the output has, which may be more.
    fn attempt<Out: TypedOutput>(
        &mut self,
        call: &mut Call<'_>,
        output: &Out,
        room_bytes: usize,
    ) -> FunctionResult<usize> {
        let writer = OutputWriter::new(call.room(room_bytes).bytes);
        let mut serializer = Serializer::new(writer, self.arena.acquire(), Share::new());
        serialize_using::<_, Error>(output, &mut serializer).map_err(|error| unencodable(&error.to_string()))?;
        Ok(serializer.into_writer().written_bytes())
    }
}

/// Room for an output, when the last one had `last_bytes`. Blocks of a lane are powers of two anyhow.
fn expected_room_bytes(last_bytes: usize) -> usize {
    if last_bytes <= REPLY_INLINE_BYTES { REPLY_INLINE_BYTES } else { last_bytes.next_power_of_two() }
}

fn unencodable(reason: &str) -> FunctionError {
    FunctionError::of_sdk(codes::UNENCODABLE_OUTPUT, format!("the output could not be serialised: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_counts_what_does_not_fit() {
        let mut room = [0; 4];
        let mut writer = OutputWriter::new(&mut room);
        for bytes in [&[1, 2, 3][..], &[4, 5], &[6]] {
            Writer::<Error>::write(&mut writer, bytes).unwrap();
        }
        assert_eq!(writer.pos(), 6);
        assert_eq!(room, [1, 2, 3, 0]);
    }
}
