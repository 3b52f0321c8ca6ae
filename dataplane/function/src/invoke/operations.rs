//! The calls that [`Context`] offers.

use std::borrow::Cow;
use std::time::Duration;

use praas_protocol::CallError;
use praas_protocol::limits::CALL_DEADLINE_NS_DEFAULT;

use super::input::{Input, InputLoan};
use super::nested_call::{NestedCall, Setback};
use super::typed::{TypedAnswer, TypedArgument, TypedResult, archive_of};
use super::{Callee, InvokeOptions, Output, PendingCall, gather};
use crate::context::Context;

impl<'call> Context<'call> {
    /// Calls a function of a process of the same application, or of this process itself, and waits for its output.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult, SELF};
    ///
    /// fn twice(call: &mut Call) -> FunctionResult {
    ///     let doubled = call.context().invoke("calculator", "double", call.input())?;
    ///     let shown = call.context().invoke(SELF, "show", &doubled)?;
    ///     call.reply(&shown)
    /// }
    /// # let _ = twice;
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn invoke<'a>(&self, callee: impl Into<Callee<'a>>, function: &str, input: &[u8]) -> Result<Output, CallError> {
        self.invoke_with(callee, function, input, &InvokeOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn invoke_with<'a>(
        &self,
        callee: impl Into<Callee<'a>>,
        function: &str,
        input: &[u8],
        options: &InvokeOptions,
    ) -> Result<Output, CallError> {
        let process = callee.into().resolve(self.own_id())?;
        let input = Input::Bytes(Cow::Borrowed(input));
        NestedCall::new(*self, process, Cow::Borrowed(function), input, options).finish()
    }

    /// Memory for an input of `bytes` bytes, to be filled where the function that is called will read it: no copy is made on the
    /// way. Worth it for whatever is larger than the 64 bytes that travel with a request itself. A function that [answers](crate::Call::reply) with its input, or the beginning of
    /// it, makes none either: the caller reads the answer in the memory that it filled.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult, SELF};
    ///
    /// fn twice_as_large(call: &mut Call) -> FunctionResult {
    ///     let input = call.input();
    ///     let mut doubled = call.context().loan(SELF, 2 * input.len())?;
    ///     let (left, right) = doubled.split_at_mut(input.len());
    ///     left.copy_from_slice(input);
    ///     right.copy_from_slice(input);
    ///     let checked = doubled.invoke("check")?;
    ///     call.reply(&checked)
    /// }
    /// # let _ = twice_as_large;
    /// ```
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane has no room: let go of earlier outputs and loans first. Otherwise why nothing
    /// can be sent there.
    #[inline]
    pub fn loan<'a>(&self, callee: impl Into<Callee<'a>>, bytes: usize) -> Result<InputLoan<'call>, CallError> {
        let process = callee.into().resolve(self.own_id())?;
        let within = self.time_remaining().unwrap_or(Duration::from_nanos(CALL_DEADLINE_NS_DEFAULT));
        match self.invoke_room().lane_to(process, within) {
            Ok(lane) => InputLoan::new(*self, process, lane, bytes),
            Err(Setback::Later(error) | Setback::End(error)) => Err(error),
        }
    }

    /// Calls a function and goes on at once; its output is waited for later. Several may be on their way, in any order.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult};
    ///
    /// fn both(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     let left = context.start("left", "search", call.input())?;
    ///     let right = context.start("right", "search", call.input())?;
    ///     let (left, right) = (left.wait()?, right.wait()?);
    ///     call.reply(if left.len() > right.len() { &left } else { &right })
    /// }
    /// # let _ = both;
    /// ```
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane has no room: wait for earlier calls first. Otherwise why it never ran.
    pub fn start<'a>(
        &self,
        callee: impl Into<Callee<'a>>,
        function: &str,
        input: &[u8],
    ) -> Result<PendingCall<'call>, CallError> {
        self.start_with(callee, function, input, &InvokeOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Context::start`].
    pub fn start_with<'a>(
        &self,
        callee: impl Into<Callee<'a>>,
        function: &str,
        input: &[u8],
        options: &InvokeOptions,
    ) -> Result<PendingCall<'call>, CallError> {
        let process = callee.into().resolve(self.own_id())?;
        let (function, input) = (Cow::Owned(function.to_owned()), Input::Bytes(Cow::Owned(input.to_vec())));
        PendingCall::begin(NestedCall::new(*self, process, function, input, options))
    }

    /// Calls a function of each process with the same input and waits for all: one end for each, in their order. All are on
    /// their way before the first is waited for. At most [`ADDRESSES_PER_CALL_MAX`] are called.
    ///
    /// ```
    /// use praas_function::{Call, FunctionResult};
    ///
    /// fn count(call: &mut Call) -> FunctionResult<String> {
    ///     let answers = call.context().gather(["one", "two", "three"], "search", call.input());
    ///     let found = answers.iter().flatten().filter(|answer| !answer.is_empty()).count();
    ///     Ok(format!("{found} of {}", answers.len()))
    /// }
    /// # let _ = count;
    /// ```
    ///
    /// [`ADDRESSES_PER_CALL_MAX`]: praas_protocol::limits::ADDRESSES_PER_CALL_MAX
    pub fn gather<'a>(
        &self,
        callees: impl IntoIterator<Item: Into<Callee<'a>>>,
        function: &str,
        input: &[u8],
    ) -> Vec<Result<Output, CallError>> {
        self.gather_with(callees, function, input, &InvokeOptions::default())
    }

    /// The same with options; a deadline is for all of them together.
    pub fn gather_with<'a>(
        &self,
        callees: impl IntoIterator<Item: Into<Callee<'a>>>,
        function: &str,
        input: &[u8],
        options: &InvokeOptions,
    ) -> Vec<Result<Output, CallError>> {
        gather::gather(self, callees.into_iter().map(Into::into), function, input, options)
    }

    /// Calls a typed function and waits for its answer.
    ///
    /// ```
    /// use praas_function::{Context, FunctionResult};
    ///
    /// fn total(context: &Context, numbers: &Vec<u64>) -> FunctionResult<u64> {
    ///     let sum = context.invoke_typed::<_, u64>("adder", "sum", numbers)?;
    ///     Ok(sum.get()?.to_native())
    /// }
    /// # let _ = total;
    /// ```
    ///
    /// # Errors
    /// [`CallError`]: how the call ended. What the answer holds is checked when it is read.
    pub fn invoke_typed<'a, In: TypedArgument, Out: TypedResult>(
        &self,
        callee: impl Into<Callee<'a>>,
        function: &str,
        input: &In,
    ) -> Result<TypedAnswer<Out>, CallError> {
        self.invoke_typed_with(callee, function, input, &InvokeOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Context::invoke_typed`].
    pub fn invoke_typed_with<'a, In: TypedArgument, Out: TypedResult>(
        &self,
        callee: impl Into<Callee<'a>>,
        function: &str,
        input: &In,
        options: &InvokeOptions,
    ) -> Result<TypedAnswer<Out>, CallError> {
        Ok(TypedAnswer::new(self.invoke_with(callee, function, &archive_of(input)?, options)?))
    }
}
