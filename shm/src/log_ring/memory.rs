//! The segment of a log ring.
//!
//! ```text
//! page of words: magic, version │ committed, bell, who waits for room │ consumed     then the ring's bytes, a power of two
//! ```
//!
//! Positions in it are bytes since its beginning, multiples of 8, and wrap around the ring by their low bits.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::bell::Bell;
use crate::copy;
use crate::segment::{AttachError, Segment};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

use super::limits::{LOG_BYTES_MAX, LOG_BYTES_MIN};

const PAGE_BYTES: usize = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"praaslog");
const VERSION: u32 = 2;
const KIND: &str = "log ring";

#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Words {
    magic: AtomicU64,
    version: AtomicU32,
    reserved: [AtomicU32; 29],
    /// Writers: bytes that are committed.
    pub(super) committed: AtomicU64,
    bell: AtomicU32,
    /// Writers: not 0 while somebody sleeps for room.
    pub(super) waits_for_room: AtomicU32,
    writers_reserved: [AtomicU64; 14],
    /// Server: bytes that it has copied and that are no longer needed.
    pub(super) consumed: AtomicU64,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Words>() <= PAGE_BYTES);
    assert!(offset_of!(Words, committed) == 128 && offset_of!(Words, consumed) == 256);
};

/// A mapped ring.
#[derive(Debug)]
pub(super) struct Ring {
    segment: Segment,
    bytes: u64,
}

impl Ring {
    /// Server: a ring of `bytes`.
    ///
    /// # Panics
    /// If that is no power of two within the limits.
    pub(super) fn create(bytes: u64) -> io::Result<Self> {
        assert!(are_allowed(bytes), "a log ring has no {bytes} bytes");
        let ring = Self { segment: Segment::create("praas-log", segment_bytes(bytes))?, bytes };
        ring.words().version.store(VERSION, Ordering::Relaxed);
        // Release pairs with the Acquire in `attach`.
        ring.words().magic.store(MAGIC, Ordering::Release);
        Ok(ring)
    }

    /// The ring of `bytes` behind a descriptor.
    pub(super) fn attach(fd: OwnedFd, bytes: u64) -> Result<Self, AttachError> {
        if !are_allowed(bytes) {
            return Err(AttachError::Size { actual_bytes: bytes, expected_bytes: LOG_BYTES_MIN });
        }
        let ring = Self { segment: Segment::attach(fd, segment_bytes(bytes))?, bytes };
        let magic = ring.words().magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        let version = ring.words().version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(AttachError::Version { kind: KIND, actual: version, expected: VERSION });
        }
        Ok(ring)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Bytes of the ring.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    pub(super) fn words(&self) -> &Words {
        // SAFETY: `Words` is atomics only and the only type in this page.
        unsafe { self.segment.place(0) }
    }

    #[inline]
    pub(super) fn bell(&self) -> Bell<'_> {
        Bell(&self.words().bell)
    }

    #[allow(clippy::cast_possible_truncation, reason = "below the ring's size, which an address counts")]
    fn offset(&self, at: u64) -> usize {
        (at & (self.bytes - 1)) as usize
    }

    /// The word at position `at`, a multiple of 8.
    #[inline]
    pub(super) fn word(&self, at: u64) -> &AtomicU64 {
        // SAFETY: behind the page there are only words, which writers store as such or copy bytes over; readers copy.
        unsafe { self.segment.place(PAGE_BYTES + self.offset(at)) }
    }

    /// The two ranges that `bytes` from position `at` on are: the second is empty unless they wrap.
    fn ranges(&self, at: u64, bytes: usize) -> [(NonNull<u8>, usize); 2] {
        let start = self.offset(at);
        let ring_bytes = self.segment.bytes() - PAGE_BYTES;
        assert!(bytes <= ring_bytes, "no more than the ring has");
        let first = bytes.min(ring_bytes - start);
        let rest = bytes - first;
        [(self.segment.at(PAGE_BYTES + start, first), first), (self.segment.at(PAGE_BYTES, rest), rest)]
    }

    /// Copies private bytes in.
    pub(super) fn write(&self, at: u64, bytes: &[u8]) {
        let [(first, first_bytes), (second, _)] = self.ranges(at, bytes.len());
        let (one, other) = bytes.split_at(first_bytes);
        // SAFETY: both ranges lie inside the segment (`ranges` asks it) and are as long as their parts.
        unsafe {
            copy::to_shared(one, first);
            copy::to_shared(other, second);
        }
    }

    /// Copies bytes of other shared memory in.
    ///
    /// # Safety
    /// `source` must be mapped and readable for `bytes`, and not lie in this ring.
    pub(super) unsafe fn write_shared(&self, at: u64, source: NonNull<u8>, bytes: usize) {
        let [(first, first_bytes), (second, second_bytes)] = self.ranges(at, bytes);
        // SAFETY: both ranges lie inside the segment; the source is as long as they are together (the caller's promise).
        unsafe {
            copy::between_shared(source, first, first_bytes);
            copy::between_shared(source.add(first_bytes), second, second_bytes);
        }
    }

    /// Copies bytes out.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        let [(first, first_bytes), (second, _)] = self.ranges(at, into.len());
        let (one, other) = into.split_at_mut(first_bytes);
        // SAFETY: both ranges lie inside the segment and are as long as their parts.
        unsafe {
            copy::from_shared(first, one);
            copy::from_shared(second, other);
        }
    }
}

fn are_allowed(bytes: u64) -> bool {
    bytes.is_power_of_two() && (LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&bytes)
}

fn segment_bytes(bytes: u64) -> usize {
    PAGE_BYTES + usize::try_from(bytes).expect("addresses are 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_written_wherever_they_wrap() {
        let ring = Ring::create(LOG_BYTES_MIN).unwrap();
        let there = Ring::attach(ring.fd().try_clone_to_owned().unwrap(), LOG_BYTES_MIN).unwrap();
        let bytes: Vec<u8> = (0..4096_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for before in [0, 8, 2048, 4088, 4096, 5000 / 8 * 8] {
            let at = 7 * LOG_BYTES_MIN - before;
            ring.write(at, &bytes);
            let mut back = vec![0; bytes.len()];
            there.read(at, &mut back);
            assert_eq!(back, bytes, "{before} before the end");
        }
    }

    #[test]
    fn other_sizes_and_other_segments_are_refused() {
        let ring = Ring::create(LOG_BYTES_MIN).unwrap();
        let fd = || ring.fd().try_clone_to_owned().unwrap();
        for bytes in [0, 1, LOG_BYTES_MIN - 1, LOG_BYTES_MIN + 8, 2 * LOG_BYTES_MIN, 2 * LOG_BYTES_MAX] {
            assert!(Ring::attach(fd(), bytes).is_err(), "{bytes}");
        }
        let other = Segment::create("other", segment_bytes(LOG_BYTES_MIN)).unwrap();
        let error = Ring::attach(other.fd().try_clone_to_owned().unwrap(), LOG_BYTES_MIN).unwrap_err();
        assert!(matches!(error, AttachError::Magic { .. }));
    }
}
