//! Calls with rkyv types instead of bytes.
//!
//! A value is serialised straight to where it travels from: the stack when it is small, a loan of the lane when it is
//! large and the lane is trusted. Its size is found by a first pass that counts beyond what the stack holds. A reply is
//! checked before it is read, with bounded depth: unbounded validation of a deeply nested archive overflows the stack.

use std::any::type_name;
use std::marker::PhantomData;
use std::num::NonZeroUsize;

use praas_protocol::CallError;
use rkyv::api::access_with_context;
use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Writer};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Archived, Deserialize, Portable, Serialize};

use crate::function::Function;
use crate::limits::{ARCHIVE_DEPTH_MAX, TYPED_STACK_BYTES};
use crate::payload::Payload;
use crate::process::Process;
use crate::reply::Reply;

/// Values that can be sent: whatever derives `rkyv::Archive` and `rkyv::Serialize`.
pub trait Encode: for<'w, 'a> Serialize<HighSerializer<ArchiveWriter<'w>, ArenaHandle<'a>, Error>> {}

impl<T> Encode for T where T: for<'w, 'a> Serialize<HighSerializer<ArchiveWriter<'w>, ArenaHandle<'a>, Error>> + ?Sized {}

/// Types that a reply can be read as: whatever derives `rkyv::Archive` (with validation, the default).
pub trait Decode: Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>> {}

impl<T> Decode for T where T: Archive<Archived: Portable + for<'a> CheckBytes<HighValidator<'a, Error>>> {}

impl Process {
    /// Calls a typed function and waits for its reply.
    ///
    /// ```no_run
    /// use rkyv::{Archive, Deserialize, Serialize};
    ///
    /// #[derive(Archive, Serialize)]
    /// struct Query { words: Vec<String> }
    /// #[derive(Archive, Serialize, Deserialize)]
    /// struct Found { documents: Vec<u64> }
    ///
    /// # let client = praas_client::Client::connect_default()?;
    /// let index = client.process("search/index".parse()?)?;
    /// let reply = index.invoke_typed::<_, Found>("search", &Query { words: vec!["lane".into()] })?;
    /// // Read where it lies ...
    /// println!("{} documents", reply.get()?.documents.len());
    /// // ... or as a value of its own.
    /// let found: Found = reply.to_value()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: how the call ended. What the reply holds is checked when it is read.
    pub fn invoke_typed<'a, In: Encode, Out: Decode>(
        &self,
        function: impl Into<Function<'a>>,
        input: &In,
    ) -> Result<TypedReply<Out>, CallError> {
        let function = function.into();
        let mut stack = StackBuffer::default();
        let bytes = archive_into(input, &mut stack.0)?;
        let reply = match stack.0.get(..bytes) {
            Some(archived) => self.invoke(function, archived)?,
            None => self.invoke(function, self.archive_of(input, bytes)?)?,
        };
        Ok(TypedReply { reply, output: PhantomData })
    }

    /// The archive of `input`, which has `bytes` bytes, where the lane wants it.
    fn archive_of<In: Encode>(&self, input: &In, bytes: usize) -> Result<Payload<'static>, CallError> {
        let limit_bytes = u64::from(self.payload_bytes_max());
        if bytes as u64 > limit_bytes {
            return Err(CallError::PayloadTooLarge { limit_bytes, actual_bytes: bytes as u64 });
        }
        if self.is_trusted() {
            let mut loan = self.loan(bytes)?;
            if let Some(target) = loan.as_mut_slice() {
                same_size(archive_into(input, target)?, bytes, type_name::<In>())?;
                return Ok(loan.into());
            }
        }
        let mut private = vec![0; bytes];
        same_size(archive_into(input, &mut private)?, bytes, type_name::<In>())?;
        Ok(private.into())
    }
}

/// The reply of a typed call.
#[derive(Debug)]
pub struct TypedReply<Out> {
    reply: Reply,
    output: PhantomData<fn() -> Out>,
}

impl<Out: Decode> TypedReply<Out> {
    /// The output, checked and read where it lies. Flat types cost a few nanoseconds, whatever their size.
    ///
    /// # Errors
    /// [`CallError::Undecodable`] when the bytes are not an `Out`.
    pub fn get(&self) -> Result<&Archived<Out>, CallError> {
        access::<Out>(&self.reply)
    }

    /// The output as a value of its own.
    ///
    /// # Errors
    /// [`CallError::Undecodable`] when the bytes are not an `Out`.
    pub fn to_value(&self) -> Result<Out, CallError>
    where
        Archived<Out>: Deserialize<Out, HighDeserializer<Error>>,
    {
        to_value(&self.reply)
    }

    /// The bytes.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        self.reply
    }
}

/// The archive of an `Out` that `bytes`, which begin as replies do, are checked to be.
pub(crate) fn access<Out: Decode>(bytes: &[u8]) -> Result<&Archived<Out>, CallError> {
    let depth = NonZeroUsize::new(ARCHIVE_DEPTH_MAX);
    let mut context = Validator::new(ArchiveValidator::with_max_depth(bytes, depth), SharedValidator::new());
    access_with_context::<Archived<Out>, _, Error>(bytes, &mut context)
        .map_err(|error| undecodable::<Out>(bytes, &error))
}

/// The same as a value of its own.
pub(crate) fn to_value<Out: Decode>(bytes: &[u8]) -> Result<Out, CallError>
where
    Archived<Out>: Deserialize<Out, HighDeserializer<Error>>,
{
    let archived = access::<Out>(bytes)?;
    rkyv::deserialize::<Out, Error>(archived).map_err(|error| undecodable::<Out>(bytes, &error))
}

fn undecodable<Out>(bytes: &[u8], error: &Error) -> CallError {
    CallError::Undecodable {
        type_name: type_name::<Out>(),
        actual_bytes: bytes.len() as u64,
        reason: error.to_string(),
    }
}

/// Aligned as every slot of a lane is, so that an archive's padding is the same wherever it is written.
#[repr(align(16))]
pub(crate) struct StackBuffer(pub(crate) [u8; TYPED_STACK_BYTES]);

impl Default for StackBuffer {
    fn default() -> Self {
        Self([0; TYPED_STACK_BYTES])
    }
}

/// Serialises `input` to the front of `target`; the size of its archive, which may exceed the target: then nothing useful is
/// in it.
pub(crate) fn archive_into<In: Encode>(input: &In, target: &mut [u8]) -> Result<usize, CallError> {
    let writer = to_bytes_in::<_, Error>(input, ArchiveWriter { target, position: 0 });
    match writer {
        Ok(writer) => Ok(writer.position),
        Err(error) => Err(CallError::Undecodable {
            type_name: type_name::<In>(),
            actual_bytes: 0,
            reason: format!("it could not be serialised: {error}"),
        }),
    }
}

pub(crate) fn same_size(found: usize, expected: usize, type_name: &'static str) -> Result<(), CallError> {
    if found == expected {
        return Ok(());
    }
    let reason = format!("its archive had {expected} bytes at first, then {found}: it changes while it is serialised");
    Err(CallError::Undecodable { type_name, actual_bytes: found as u64, reason })
}

/// Writes an archive into a slice, and goes on counting where the slice ends.
#[derive(Debug)]
pub struct ArchiveWriter<'w> {
    target: &'w mut [u8],
    position: usize,
}

impl Positional for ArchiveWriter<'_> {
    fn pos(&self) -> usize {
        self.position
    }
}

impl<E> Writer<E> for ArchiveWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.position + bytes.len();
        if let Some(room) = self.target.get_mut(self.position..end) {
            room.copy_from_slice(bytes);
        }
        self.position = end;
        Ok(())
    }
}
