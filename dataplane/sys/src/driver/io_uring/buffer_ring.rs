//! The ring of receive buffers from which the kernel takes one whenever a connection has bytes.
//!
//! The ring is memory shared with the kernel: entries written here, then the tail, which is published with Release; the
//! kernel takes entries up to it. Its number of entries is that of the pool's buffers, so that it can never be overrun.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use ::io_uring::types::BufRingEntry;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::ring::Ring;
use crate::driver::pool::ReceivePool;
use crate::driver::probe::refusal;
use crate::driver::{IoUringRefusal, ReceivedBytes};

/// The only group of provided buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

pub(in crate::driver) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    mapped_bytes: usize,
    entries_count: u16,
    tail: u16,
    /// Buffers that the kernel has and has not reported as taken.
    with_kernel: usize,
    pool: Rc<ReceivePool>,
    leaked: bool,
}

impl BufferRing {
    pub(in crate::driver) fn register(ring: &Ring, pool: Rc<ReceivePool>) -> Result<Self, IoUringRefusal> {
        let entries_count = pool.buffers();
        let mapped_bytes = usize::from(entries_count) * size_of::<BufRingEntry>();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_bytes, protection, flags) }
            .map_err(|errno| IoUringRefusal::Call { call: "mmap", errno })?;
        let entries = NonNull::new(address.cast()).ok_or(IoUringRefusal::Call { call: "mmap", errno: Errno::NOMEM })?;
        let mut buffers = Self { entries, mapped_bytes, entries_count, tail: 0, with_kernel: 0, pool, leaked: false };
        // SAFETY: page-aligned zeroed memory of that many entries, unmapped only when the ring is unregistered or nothing
        // is in flight.
        unsafe { ring.registrar().register_buf_ring_with_flags(address as u64, entries_count, BUFFER_GROUP, 0) }
            .map_err(|error| refusal("io_uring_register", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        buffers.publish();
        Ok(buffers)
    }

    /// Gives the kernel all buffers that are free; how many it has now.
    pub(super) fn publish(&mut self) -> usize {
        if !self.pool.has_free() {
            return self.with_kernel;
        }
        let buffer_bytes = u32::try_from(self.pool.buffer_bytes()).unwrap_or(u32::MAX);
        while let Some(index) = self.pool.take() {
            let place = usize::from(self.tail & (self.entries_count - 1));
            // SAFETY: inside the ring; the kernel does not look at entries from the tail on. Fields are set one by one: the
            // tail itself lies in a reserved field of the first entry.
            unsafe {
                let entry = self.entries.add(place).as_mut();
                entry.set_addr(self.pool.buffer(index).as_ptr() as u64);
                entry.set_len(buffer_bytes);
                entry.set_bid(index);
            }
            self.tail = self.tail.wrapping_add(1);
            self.with_kernel += 1;
        }
        // SAFETY: the tail's place in the first entry, which is aligned and lives as long as the ring.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        // Pairs with the kernel's acquire of the tail: it sees the entries before it.
        tail.store(self.tail, Ordering::Release);
        self.with_kernel
    }

    /// # Safety
    /// The kernel must have reported that it took this buffer, once for each call, and be done with it.
    pub(super) unsafe fn lend(&mut self, index: u16, bytes: usize) -> ReceivedBytes {
        self.with_kernel -= 1;
        // SAFETY: the caller's promise.
        unsafe { self.pool.lend(index, bytes) }
    }

    /// Takes the ring from the kernel; a failure is met by closing the io_uring, which does the same.
    pub(in crate::driver) fn unregister(&self, ring: &Ring) {
        let _ = ring.registrar().unregister_buf_ring(BUFFER_GROUP);
    }

    /// The kernel may still write to the buffers: they and the ring stay for ever.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
        std::mem::forget(Rc::clone(&self.pool));
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: mapped in `register`, and nothing is in flight that could use it: the kernel holds the pages itself
            // for as long as the ring is registered.
            let _ = unsafe { munmap(self.entries.as_ptr().cast(), self.mapped_bytes) };
        }
    }
}
