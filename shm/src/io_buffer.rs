//! Buffers that the kernel reads from or writes into while an operation is in flight.
//!
//! Ownership: a buffer belongs to its operation from the call that starts it until the operation's final completion gives
//! it back. A driver hands the kernel nothing but the raw address; no reference to the bytes exists meanwhile, and none to
//! lane memory is ever formed here, because a peer may write it at any time.
//!
//! What must never happen: that a buffer's bytes move, or are freed or given to someone else, while its value lives. That
//! is the promise of [`IoBuffer`], and the reason why an answer that lies inline in its value is no [`ReplyBuffer`].

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::client_lane::{AnswerPayload, ClientLane, LoanBlock};
use crate::copy;
use crate::gateway_lane::{RequestBuffer, RoomBuffer};
use crate::message_lane::MessageLoan;

/// Bytes with a stable address, owned by a value that may itself move.
///
/// # Safety
/// As long as the value lives (wherever it is moved, and also when it is leaked):
/// 1. [`start`](Self::start) returns the same address each time, and [`bytes`](Self::bytes) the same number, as long as
///    nobody has exclusive access to the value;
/// 2. that many bytes there are mapped, readable and initialised;
/// 3. [`start_mut`](Self::start_mut) returns either `None`, always, or that same address; then the bytes are writable, and
///    nothing else in this process reads or writes them but through this value.
pub unsafe trait IoBuffer: 'static {
    /// Where the bytes start.
    fn start(&self) -> NonNull<u8>;

    /// Where the bytes start if they may be received into; `None` if they may only be sent.
    fn start_mut(&mut self) -> Option<NonNull<u8>>;

    /// How many there are.
    fn bytes(&self) -> usize;

    /// Copies `source` into the buffer from byte `at` on; false, and nothing is written, if it does not fit or the buffer
    /// may only be sent.
    fn store(&mut self, at: usize, source: &[u8]) -> bool {
        let fits = at.checked_add(source.len()).is_some_and(|end| end <= self.bytes());
        let Some(start) = self.start_mut().filter(|_| fits) else { return false };
        // SAFETY: the range lies inside the buffer, which is writable and ours by the trait's contract; `source` is a
        // borrow of other memory, as nothing else refers to the buffer's.
        unsafe { copy::to_shared(source, start.add(at)) };
        true
    }

    /// Whether `range` lies inside the buffer.
    fn contains(&self, range: &Range<usize>) -> bool {
        range.start <= range.end && range.end <= self.bytes()
    }
}

// SAFETY: the heap bytes of a vector stay where they are while it moves; its length changes by exclusive access only, and
// the first `len` bytes are initialised. (A boxed slice is left out: moving a box claims exclusive access to its bytes.)
unsafe impl IoBuffer for Vec<u8> {
    fn start(&self) -> NonNull<u8> {
        NonNull::new(self.as_ptr().cast_mut()).unwrap_or(NonNull::dangling())
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        NonNull::new(self.as_mut_ptr())
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}

/// A block lent by a lane, with the lane, so that it outlives every operation on it; goes back to the lane when dropped.
#[derive(Debug)]
pub struct LoanBuffer {
    lane: Arc<ClientLane>,
    /// There until the buffer is taken apart or dropped.
    loan: Option<LoanBlock>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the address is into the lane's mapping, which `lane` (itself Send and Sync) keeps; the block is this value's.
unsafe impl Send for LoanBuffer {}

impl LoanBuffer {
    /// Joins a block with its lane.
    ///
    /// # Panics
    /// If another lane lent it.
    #[must_use]
    pub fn new(lane: Arc<ClientLane>, loan: LoanBlock) -> Self {
        let start = lane.loan_place(&loan);
        let bytes = loan.bytes();
        Self { lane, loan: Some(loan), start, bytes }
    }

    /// The lane.
    #[must_use]
    pub fn lane(&self) -> &Arc<ClientLane> {
        &self.lane
    }

    /// The block, to be submitted.
    ///
    /// # Panics
    /// Never: the block leaves by this call or by the drop, each of which ends the buffer.
    pub fn into_loan(mut self) -> (Arc<ClientLane>, LoanBlock) {
        let loan = self.loan.take().expect("the block is there until the buffer ends");
        (Arc::clone(&self.lane), loan)
    }
}

impl Drop for LoanBuffer {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.lane.return_loan(loan);
        }
    }
}

// SAFETY: the block lies in the lane's mapping (`loan_place` checks), which `lane` keeps, and is allocated to this loan alone
// until it is returned, which only consuming or dropping this value does (`loan_place` also refuses a loan of another lane).
// Memory of a mapping is always initialised.
unsafe impl IoBuffer for LoanBuffer {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        Some(self.start)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A block lent by a message lane, to receive a message's payload into; goes back to the lane when dropped.
#[derive(Debug)]
pub struct MessageLoanBuffer {
    loan: MessageLoan,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the address is into the lane's mapping, which the loan (itself Send) keeps; the block is this value's.
unsafe impl Send for MessageLoanBuffer {}

impl MessageLoanBuffer {
    /// The bytes of a loan.
    #[must_use]
    pub fn new(loan: MessageLoan) -> Self {
        let (start, bytes) = loan.place();
        Self { loan, start, bytes }
    }

    /// The loan, to be sent.
    pub fn into_loan(self) -> MessageLoan {
        self.loan
    }
}

// SAFETY: the block lies in the mapping of a lane that the loan keeps (`place` checks), and is allocated to this loan alone
// until it is sent or dropped, which only consuming or dropping this value does. Nothing here derefs the loan. Memory of a
// mapping is always initialised.
unsafe impl IoBuffer for MessageLoanBuffer {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        Some(self.start)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// An answer whose bytes lie in its lane, to be sent from there; its block is free again when this is dropped.
#[derive(Debug)]
pub struct ReplyBuffer {
    payload: AnswerPayload,
    start: NonNull<u8>,
}

// SAFETY: the address is into the mapping of a lane that `payload` (itself Send) keeps.
unsafe impl Send for ReplyBuffer {}

impl ReplyBuffer {
    /// `payload` comes back if it lies inline in its value: copy it into the message's head.
    ///
    /// # Errors
    /// The payload, when it is inline.
    pub fn new(payload: AnswerPayload) -> Result<Self, AnswerPayload> {
        match payload.block_place() {
            Some(start) => Ok(Self { payload, start }),
            None => Err(payload),
        }
    }
}

// SAFETY: the block lies in the mapping of a lane that the payload keeps, and stays reserved until the payload is dropped.
// It is never written through this value.
unsafe impl IoBuffer for ReplyBuffer {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        None
    }

    fn bytes(&self) -> usize {
        self.payload.len()
    }
}

/// Any of the buffers that a shard has in flight.
#[derive(Debug)]
pub enum LaneBuffer {
    /// Private memory.
    Private(Vec<u8>),
    /// A block to receive a request's payload into.
    Loan(LoanBuffer),
    /// An answer to be sent.
    Reply(ReplyBuffer),
    /// The payload of a request that goes to another server.
    Request(RequestBuffer),
    /// Room to receive an answer of another server into.
    Room(RoomBuffer),
    /// A block of a message lane to receive a message into.
    Message(MessageLoanBuffer),
}

// SAFETY: each variant keeps the promise, and only exclusive access changes which one it is.
unsafe impl IoBuffer for LaneBuffer {
    fn start(&self) -> NonNull<u8> {
        match self {
            Self::Private(buffer) => buffer.start(),
            Self::Loan(buffer) => buffer.start(),
            Self::Reply(buffer) => buffer.start(),
            Self::Request(buffer) => buffer.start(),
            Self::Room(buffer) => buffer.start(),
            Self::Message(buffer) => buffer.start(),
        }
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        match self {
            Self::Private(buffer) => buffer.start_mut(),
            Self::Loan(buffer) => buffer.start_mut(),
            Self::Reply(buffer) => buffer.start_mut(),
            Self::Request(buffer) => buffer.start_mut(),
            Self::Room(buffer) => buffer.start_mut(),
            Self::Message(buffer) => buffer.start_mut(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Private(buffer) => buffer.bytes(),
            Self::Loan(buffer) => IoBuffer::bytes(buffer),
            Self::Reply(buffer) => IoBuffer::bytes(buffer),
            Self::Request(buffer) => IoBuffer::bytes(buffer),
            Self::Room(buffer) => IoBuffer::bytes(buffer),
            Self::Message(buffer) => IoBuffer::bytes(buffer),
        }
    }
}
