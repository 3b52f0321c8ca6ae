//! Requests and payload descriptors as they are read once from an entry or a cell, checked, and from then on believed.

use std::sync::atomic::Ordering;

use praas_protocol::FunctionId;
use praas_protocol::limits::{REPLY_INLINE_BYTES, REQUEST_INLINE_BYTES};

use crate::claim::load_root;
use crate::copy;
use crate::ring::Entry;

/// Marks a payload that travels inline.
pub(crate) const INLINE: u32 = u32::MAX;

/// Marks an answer that is the beginning of its request's own block, which stays its client's: no block begins so far up.
pub(crate) const OF_REQUEST: u32 = u32::MAX - 1;

/// Flag in the entry's word of the CPU: the payload begins with an idempotency key.
pub(crate) const KEYED: u64 = 1 << 32;

/// Where a payload lies, checked against the half of the arena that it must lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the entry or cell itself.
    Inline {
        /// Its size.
        bytes: usize,
    },
    /// In a block.
    Block {
        /// Bytes from the start of the half.
        offset: usize,
        /// Its size.
        bytes: usize,
    },
}

/// A payload descriptor that points outside its lane, or above a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfBounds {
    /// Bytes claimed.
    pub(crate) bytes: u32,
}

pub(crate) const fn halves(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
pub(crate) const fn split(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

impl Place {
    /// Checks a descriptor word for a request or reply whose arena half has `half_bytes`.
    #[inline]
    pub(crate) fn check(word: u64, inline_bytes_max: usize, half_bytes: usize) -> Result<Self, OutOfBounds> {
        let (bytes, offset) = split(word);
        let (size, start) = (bytes as usize, offset as usize);
        if offset == INLINE {
            return if size <= inline_bytes_max {
                Ok(Self::Inline { bytes: size })
            } else {
                Err(OutOfBounds { bytes })
            };
        }
        // Blocks are aligned to the smallest block, so that in-place access finds its alignment.
        let aligned = start.is_multiple_of(crate::arena::BLOCK_BYTES_MIN);
        if aligned && start.checked_add(size).is_some_and(|end| end <= half_bytes) {
            Ok(Self::Block { offset: start, bytes: size })
        } else {
            Err(OutOfBounds { bytes })
        }
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Inline { bytes } | Self::Block { bytes, .. } => bytes,
        }
    }
}

/// 16-aligned private copy of an inline payload.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct InlineBytes<const N: usize>(pub(crate) [u8; N]);

pub(crate) type InlineRequest = InlineBytes<REQUEST_INLINE_BYTES>;
pub(crate) type InlineReply = InlineBytes<REPLY_INLINE_BYTES>;

/// A request as its worker sees it: a private copy, with its payload descriptor not yet checked. It is read into the same
/// place again and again: moving it would show in every call.
#[derive(Debug)]
pub(crate) struct RequestCopy {
    pub(crate) function: FunctionId,
    /// Cell and generation, as one word.
    pub(crate) target: u64,
    pub(crate) payload: Result<Place, OutOfBounds>,
    pub(crate) deadline_ns: u64,
    pub(crate) root: u128,
    pub(crate) cpu: u32,
    /// Whether its payload begins with an idempotency key.
    pub(crate) is_keyed: bool,
    /// As many bytes as the payload says are this request's; the rest is left from earlier ones.
    pub(crate) inline: InlineRequest,
}

impl RequestCopy {
    /// No request yet.
    pub(crate) fn none() -> Self {
        Self {
            function: FunctionId(0),
            target: 0,
            payload: Ok(Place::Inline { bytes: 0 }),
            deadline_ns: 0,
            root: 0,
            cpu: u32::MAX,
            is_keyed: false,
            inline: InlineBytes([0; REQUEST_INLINE_BYTES]),
        }
    }

    /// Reads an entry once.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a CPU number; junk means that the client does not spin")]
    pub(crate) fn read(&mut self, entry: &Entry, half_bytes: usize) {
        self.function = FunctionId(entry.function.load(Ordering::Relaxed));
        self.target = entry.target.load(Ordering::Relaxed);
        self.payload = Place::check(entry.payload.load(Ordering::Relaxed), REQUEST_INLINE_BYTES, half_bytes);
        self.deadline_ns = entry.deadline_ns.load(Ordering::Relaxed);
        self.root = load_root(&entry.root);
        let cpu = entry.cpu.load(Ordering::Relaxed);
        self.cpu = cpu as u32;
        self.is_keyed = cpu & KEYED != 0;
        if let Ok(Place::Inline { bytes }) = self.payload {
            copy::load_inline(&entry.inline, &mut self.inline.0[..bytes]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_outside_the_half_are_refused() {
        let half = 1 << 20;
        let check = |bytes, offset| Place::check(halves(bytes, offset), 64, half);
        assert_eq!(check(0, INLINE), Ok(Place::Inline { bytes: 0 }));
        assert_eq!(check(64, INLINE), Ok(Place::Inline { bytes: 64 }));
        assert!(check(65, INLINE).is_err());
        assert_eq!(check(100, 1024), Ok(Place::Block { offset: 1024, bytes: 100 }));
        assert_eq!(check(1 << 20, 0), Ok(Place::Block { offset: 0, bytes: 1 << 20 }));
        for (bytes, offset) in [(1 << 20, 1024), (1, 1 << 20), (u32::MAX, 0), (u32::MAX, u32::MAX - 1), (8, 8)] {
            assert!(check(bytes, offset).is_err(), "{bytes} bytes at {offset}");
        }
    }
}
