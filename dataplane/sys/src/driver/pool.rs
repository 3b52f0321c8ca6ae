//! Receive buffers, shared by all connections of a driver, and lent out with bytes in them.
//!
//! A buffer is in one pair of hands: free here, with the kernel (io_uring), or a [`ReceivedBytes`]'. The memory outlives
//! the driver as long as bytes are lent.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use super::DriverLimits;

/// The buffers.
pub(super) struct ReceivePool {
    /// One allocation, addressed only by `buffer`; a raw pointer, because the kernel writes it.
    memory: NonNull<u8>,
    memory_bytes: usize,
    buffer_bytes: usize,
    free: RefCell<Vec<u16>>,
}

impl ReceivePool {
    pub(super) fn new(limits: &DriverLimits) -> Rc<Self> {
        let buffer_bytes = limits.receive_buffer_bytes as usize;
        let memory_bytes = usize::from(limits.receive_buffers) * buffer_bytes;
        // Zeroed pages come from the kernel untouched: they take memory only once bytes have come.
        let memory = Box::into_raw(vec![0_u8; memory_bytes].into_boxed_slice());
        let memory = NonNull::new(memory.cast()).unwrap_or(NonNull::dangling());
        // The last one freed is the first to be used again: it is in the cache.
        let free = RefCell::new((0..limits.receive_buffers).rev().collect());
        Rc::new(Self { memory, memory_bytes, buffer_bytes, free })
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    pub(super) fn buffers(&self) -> u16 {
        u16::try_from(self.memory_bytes / self.buffer_bytes).unwrap_or(u16::MAX)
    }

    /// Where a buffer starts.
    pub(super) fn buffer(&self, index: u16) -> NonNull<u8> {
        let offset = usize::from(index) * self.buffer_bytes;
        assert!(offset < self.memory_bytes, "a buffer of this pool");
        // SAFETY: inside the allocation, as just asserted.
        unsafe { self.memory.add(offset) }
    }

    pub(super) fn take(&self) -> Option<u16> {
        self.free.borrow_mut().pop()
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.borrow().is_empty()
    }

    pub(super) fn give_back(&self, index: u16) {
        self.free.borrow_mut().push(index);
    }

    /// # Safety
    /// The buffer must be in the caller's hands, and nobody may write it any more.
    pub(super) unsafe fn lend(self: &Rc<Self>, index: u16, bytes: usize) -> ReceivedBytes {
        assert!(bytes <= self.buffer_bytes, "as many bytes as a buffer has");
        ReceivedBytes { pool: Rc::clone(self), index, start: 0, end: bytes }
    }
}

impl Drop for ReceivePool {
    fn drop(&mut self) {
        let memory = std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), self.memory_bytes);
        // SAFETY: made by `Box::into_raw` with this length in `new`; nothing lent is left, or it would keep the pool, and
        // the driver keeps it until the kernel is done (its drop leaks it otherwise).
        drop(unsafe { Box::from_raw(memory) });
    }
}

impl fmt::Debug for ReceivePool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ReceivePool").field("free", &self.free.borrow().len()).finish_non_exhaustive()
    }
}

/// Received bytes, in a buffer that goes back to its driver when they are dropped. Keep them briefly: while all buffers
/// are lent out, nothing is received but by [`receive_into`](super::Driver::receive_into).
pub struct ReceivedBytes {
    pool: Rc<ReceivePool>,
    index: u16,
    start: usize,
    end: usize,
}

impl ReceivedBytes {
    /// Forgets the first `bytes`.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }
}

impl Deref for ReceivedBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: inside the buffer (`lend` checks; `skip` only shrinks), initialised (zeroed in `new`), and in this
        // value's hands alone until its drop gives the buffer back (`lend` demands it).
        unsafe {
            std::slice::from_raw_parts(self.pool.buffer(self.index).add(self.start).as_ptr(), self.end - self.start)
        }
    }
}

impl Drop for ReceivedBytes {
    fn drop(&mut self) {
        self.pool.give_back(self.index);
    }
}

impl fmt::Debug for ReceivedBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReceivedBytes({} bytes)", self.len())
    }
}
