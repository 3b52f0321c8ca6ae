//! A block lent to the sender's code to build a payload in.
//!
//! A loan knows its lane: its bytes are reached through it alone, also while other messages are sent, and a loan that is
//! dropped goes back by itself: it is put on a list that the sender's end looks at when it lends again.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::MessageLaneMemory;
use crate::arena::Block;

/// A sender's mapping, shared with its loans.
#[derive(Debug)]
pub(super) struct Lender {
    pub(super) memory: MessageLaneMemory,
    given_back: Mutex<Vec<u16>>,
    has_given_back: AtomicBool,
}

impl Lender {
    pub(super) fn new(memory: MessageLaneMemory) -> Self {
        Self { memory, given_back: Mutex::new(Vec::new()), has_given_back: AtomicBool::new(false) }
    }

    fn give_back(&self, descriptor: u16) {
        let mut given_back = self.given_back.lock().unwrap_or_else(PoisonError::into_inner);
        given_back.push(descriptor);
        self.has_given_back.store(true, Ordering::Release);
    }

    /// Descriptors of loans that were dropped since the last call.
    #[inline]
    pub(super) fn take_given_back(&self) -> Vec<u16> {
        if !self.has_given_back.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut given_back = self.given_back.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_given_back.store(false, Ordering::Relaxed);
        std::mem::take(&mut given_back)
    }
}

/// A block of a message lane to build a payload in: dereferences to its bytes. What stands in it at first is undefined, but
/// never of another application. Send it by [`Outbound::send_loan`](super::Outbound::send_loan) of the lane that lent it;
/// dropped, it goes back.
#[must_use = "a loan that is not sent goes back unsent"]
pub struct MessageLoan {
    pub(super) lender: Arc<Lender>,
    pub(super) block: Block,
    pub(super) descriptor: u16,
    pub(super) bytes: u32,
    /// Published: the block is the receiver's.
    pub(super) is_sent: bool,
}

impl MessageLoan {
    /// Sends less than was lent: the first `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes);
    }

    /// Where it lies, and how long it is.
    pub(crate) fn place(&self) -> (NonNull<u8>, usize) {
        (self.lender.memory.arena_bytes(self.block.offset, self.bytes), self.bytes as usize)
    }
}

impl Deref for MessageLoan {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let start = self.lender.memory.arena_bytes(self.block.offset, self.bytes);
        // SAFETY: inside the arena (`arena_bytes` checks), initialised (a memfd is zeroed), lives as long as the lender, and
        // is this loan's alone; receivers, of the same trust domain, leave blocks alone that are not published.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.bytes as usize) }
    }
}

impl DerefMut for MessageLoan {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.lender.memory.arena_bytes(self.block.offset, self.bytes);
        // SAFETY: as above, and the loan is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.bytes as usize) }
    }
}

impl Drop for MessageLoan {
    fn drop(&mut self) {
        if !self.is_sent {
            self.lender.give_back(self.descriptor);
        }
    }
}

impl fmt::Debug for MessageLoan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MessageLoan").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
