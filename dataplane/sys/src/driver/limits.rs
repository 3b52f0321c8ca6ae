//! Bounds of a driver.

use super::OpenError;

/// Most iovecs in one send; what is beyond goes with the next. A reply from lane memory takes two, so that 32 of them
/// leave in one call, and the header stays near one page.
pub(super) const SEND_PARTS_MAX: usize = 64;

/// Connections accepted from one listener in a turn: a burst does not keep established connections waiting.
pub(super) const ACCEPTS_PER_TURN: usize = 32;

/// Bytes that one connection may receive or send in a turn of the epoll driver before the others have theirs.
pub(super) const BYTES_PER_TURN: usize = 1024 * 1024;

/// Largest length in one call to the kernel, below its own limit of 2 GiB less a page.
pub(super) const CALL_BYTES_MAX: usize = 1 << 30;

/// Turns of the epoll driver between two looks at the kernel while it has work at hand anyway.
pub(super) const TURNS_PER_LOOK: u32 = 4;

/// Milliseconds for which dropping a driver waits for the kernel to let go of the buffers. Cancelling takes microseconds.
pub(super) const DRAIN_MS: u64 = 2_000;

/// Bytes of the memory into which doorbells are drained; what they say is not looked at.
pub(super) const DRAIN_BYTES: usize = 512;

/// Bounds of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverLimits {
    /// Connections, listeners and watches together.
    pub sources_max: u32,
    /// Receive buffers, a power of two: connections that may have bytes to be looked at in one turn.
    pub receive_buffers: u16,
    /// Bytes of a receive buffer.
    pub receive_buffer_bytes: u32,
    /// Operations handed to io_uring in one call, a power of two.
    pub submission_entries: u32,
    /// Completions that io_uring keeps in its ring, a power of two; it keeps what is beyond in kernel memory.
    pub completion_entries: u32,
    /// Events taken from the kernel in one turn; each is one completion, or a burst of accepted connections.
    pub completions_per_turn: u32,
}

impl Default for DriverLimits {
    fn default() -> Self {
        Self {
            // More connections than one host has ports towards another, and a table that grows only as it is used.
            sources_max: 65_536,
            // 4 MiB, touched only as far as bytes come. One buffer takes 16 calls of 96 bytes many times over; longer
            // payloads are received where they belong.
            receive_buffers: 256,
            receive_buffer_bytes: 16 * 1024,
            submission_entries: 256,
            completion_entries: 4096,
            completions_per_turn: 256,
        }
    }
}

impl DriverLimits {
    /// Largest number of sources: an identifier's index has 28 bits on its way through the kernel.
    const SOURCES_MAX: u32 = 1 << 28;
    /// Largest number of receive buffers, which the kernel sets.
    const RECEIVE_BUFFERS_MAX: u16 = 1 << 15;

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let refuse = |limit, actual: u64, wanted| Err(OpenError::Limit { limit, actual, wanted });
        if !(1..=Self::SOURCES_MAX).contains(&self.sources_max) {
            return refuse("sources_max", self.sources_max.into(), "1 to 268435456");
        }
        if !self.receive_buffers.is_power_of_two() || self.receive_buffers > Self::RECEIVE_BUFFERS_MAX {
            return refuse("receive_buffers", self.receive_buffers.into(), "a power of two up to 32768");
        }
        if !(1..=1 << 24).contains(&self.receive_buffer_bytes) {
            return refuse("receive_buffer_bytes", self.receive_buffer_bytes.into(), "1 to 16777216");
        }
        for (limit, entries) in
            [("submission_entries", self.submission_entries), ("completion_entries", self.completion_entries)]
        {
            if !entries.is_power_of_two() || entries > 1 << 15 {
                return refuse(limit, entries.into(), "a power of two up to 32768");
            }
        }
        if self.completion_entries < self.submission_entries {
            return refuse("completion_entries", self.completion_entries.into(), "at least submission_entries");
        }
        if self.completions_per_turn == 0 {
            return refuse("completions_per_turn", 0, "at least 1");
        }
        Ok(())
    }
}
