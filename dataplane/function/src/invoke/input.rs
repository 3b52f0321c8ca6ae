//! The input of a call that a function makes: bytes of its own, or a block of the lane in which it was built.
//!
//! Invariants
//! 1. A block is in one pair of hands: a [`Lent`]'s, or a ticket's while its request is on its way. Whoever ends with it gives it
//!    back to the lane that lent it.
//! 2. A block is sent over its own lane alone. Over another one, and behind an idempotency key, its content is.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use praas_protocol::{CallError, Name};
use praas_shm::client_lane::{ClientLane, LoanBlock};

use super::call_lane::CallLane;
use super::nested_call::NestedCall;
use super::{InvokeOptions, Output, PendingCall};
use crate::context::Context;

/// What a call is sent with.
#[derive(Debug)]
pub(super) enum Input<'input> {
    /// To be copied into a lane.
    Bytes(Cow<'input, [u8]>),
    /// In a lane.
    Lent(Lent),
}

impl Input<'_> {
    /// The bytes, as long as no request is on its way with them.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Lent(lent) => lent.bytes(),
        }
    }

    /// The block, to be sent over `lane`; `None` where it lies in none, or in another lane.
    #[inline]
    pub(super) fn take_block(&mut self, lane: &Rc<CallLane>) -> Option<LoanBlock> {
        match self {
            Self::Bytes(_) => None,
            Self::Lent(lent) => lent.block.take_if(|_| Rc::ptr_eq(&lent.lane, lane)),
        }
    }

    /// The block of a request over `lane` has come back: it is the input's own again, or is not needed any more.
    #[inline]
    pub(super) fn put_back(&mut self, lane: &ClientLane, block: Option<LoanBlock>) {
        match (self, block) {
            // Such an input was sent over the lane that lent it: over another it was a copy.
            (Self::Lent(lent), Some(block)) if lent.block.is_none() => lent.block = Some(block),
            (_, Some(block)) => lane.return_loan(block),
            (_, None) => {}
        }
    }
}

/// A block that a lane has lent. Given back when dropped.
#[derive(Debug)]
pub(super) struct Lent {
    lane: Rc<CallLane>,
    /// `None` while a request is on its way with it, or after its end.
    block: Option<LoanBlock>,
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        // Both ends of the lane are functions of one application, so there is always a slice.
        self.block.as_ref().and_then(|block| self.lane.lane().loan_bytes(block)).unwrap_or_default()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.block.as_mut().and_then(|block| self.lane.lane().loan_bytes_mut(block)).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.lane.lane().return_loan(block);
        }
    }
}

/// Memory in which the input of one call is built, where the function that is called will read it: see [`Context::loan`].
/// Dropped, it is given back. It starts at a multiple of 16 bytes; what it contains at first means nothing.
///
/// ```
/// use praas_function::{Call, FunctionResult, SELF};
///
/// fn shade(call: &mut Call) -> FunctionResult {
///     let mut picture = call.context().loan(SELF, 1 << 20)?;
///     picture.fill(0x7f);
///     // Read where it was written: no copy is made of it, nor of the answer.
///     let shaded = picture.invoke("shade-rows")?;
///     call.reply(&shaded[..64])
/// }
/// # let _ = shade;
/// ```
#[derive(Debug)]
#[must_use = "a loan that is not sent is given back"]
pub struct InputLoan<'call> {
    context: Context<'call>,
    process: Name,
    lent: Lent,
}

impl<'call> InputLoan<'call> {
    /// A block of `bytes` bytes of `lane`, which leads to `process`.
    pub(super) fn new(
        context: Context<'call>,
        process: Name,
        lane: Rc<CallLane>,
        bytes: usize,
    ) -> Result<Self, CallError> {
        let block = lane.lane().loan(bytes).map_err(|error| crate::call_end::of_submit_error(&error))?;
        Ok(Self { context, process, lent: Lent { lane, block: Some(block) } })
    }

    /// Calls a function of the process that it is for, and waits for its output.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn invoke(self, function: &str) -> Result<Output, CallError> {
        self.invoke_with(function, &InvokeOptions::default())
    }

    /// The same with options. With an idempotency key the input is copied, because the key travels before it.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn invoke_with(self, function: &str, options: &InvokeOptions) -> Result<Output, CallError> {
        let Self { context, process, lent } = self;
        NestedCall::new(context, process, Cow::Borrowed(function), Input::Lent(lent), options).finish()
    }

    /// Calls a function and goes on at once, as [`Context::start`] does.
    ///
    /// # Errors
    /// As there.
    pub fn start(self, function: &str) -> Result<PendingCall<'call>, CallError> {
        self.start_with(function, &InvokeOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Context::start`].
    pub fn start_with(self, function: &str, options: &InvokeOptions) -> Result<PendingCall<'call>, CallError> {
        let Self { context, process, lent } = self;
        let function = Cow::Owned(function.to_owned());
        PendingCall::begin(NestedCall::new(context, process, function, Input::Lent(lent), options))
    }
}

impl Deref for InputLoan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.lent.bytes()
    }
}

impl DerefMut for InputLoan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.lent.bytes_mut()
    }
}
