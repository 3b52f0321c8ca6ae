//! The payloads of a gateway's calls as buffers that a driver sends from and receives into.
//!
//! Each keeps the lane's mapping, so it may outlive the lane's table entry. Nothing is borrowed from the memory: the client
//! writes it when it likes, and spoils its own call.

use std::ptr::NonNull;
use std::sync::{Arc, PoisonError};

use crate::arena::Block;
use crate::copy;
use crate::io_buffer::IoBuffer;
use crate::request::split;

use super::Shared;

/// The payload of a request in its lane's arena, to be sent from there. It stays the request's until the call is answered.
#[derive(Debug)]
pub struct RequestBuffer {
    _lane: Arc<Shared>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the address is into the mapping of the lane, which the value keeps and which may be shared between threads.
unsafe impl Send for RequestBuffer {}

impl RequestBuffer {
    /// Of a range that was checked to lie inside the lane's request half.
    pub(super) fn new(lane: &Arc<Shared>, start: NonNull<u8>, bytes: usize) -> Self {
        Self { _lane: Arc::clone(lane), start, bytes }
    }

    /// Copies the first `destination.len()` bytes.
    ///
    /// # Panics
    /// If it is shorter than that.
    pub fn copy_to(&self, destination: &mut [u8]) {
        assert!(destination.len() <= self.bytes, "the payload has {} bytes", self.bytes);
        // SAFETY: inside the mapping, as checked when this was made; the destination is private.
        unsafe { copy::from_shared(self.start, destination) }
    }

    /// A copy of all of it, aligned as any vector is.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes];
        self.copy_to(&mut bytes);
        bytes
    }
}

// SAFETY: the range lies in the lane's mapping (checked where this is made), which the value keeps; it may only be sent, and
// memory of a mapping is always initialised. That the client may write it meanwhile changes what is sent, nothing else.
unsafe impl IoBuffer for RequestBuffer {
    fn start(&self) -> NonNull<u8> {
        self.start
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        None
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Room for the reply to one call, to be received into; given back when it is dropped.
#[derive(Debug)]
pub struct RoomBuffer {
    pub(super) lane: Arc<Shared>,
    pub(super) target: u64,
    pub(super) block: Block,
    start: NonNull<u8>,
    bytes: usize,
    /// Whether its call was answered with it.
    pub(super) is_answered: bool,
}

// SAFETY: as for `RequestBuffer`.
unsafe impl Send for RoomBuffer {}

impl RoomBuffer {
    pub(super) fn new(lane: &Arc<Shared>, target: u64, block: Block, start: NonNull<u8>, bytes: usize) -> Self {
        Self { lane: Arc::clone(lane), target, block, start, bytes, is_answered: false }
    }

    /// The call that it was made for.
    #[must_use]
    pub fn target(&self) -> u64 {
        self.target
    }
}

// SAFETY: the block lies in the lane's mapping (checked where this is made), which the value keeps, and is reserved for this value
// alone until it is dropped (invariant 2 of `rooms`). The client reads it only after it was answered with, which consumes
// this value.
unsafe impl IoBuffer for RoomBuffer {
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

impl Drop for RoomBuffer {
    fn drop(&mut self) {
        let (cell, generation) = split(self.target);
        let mut rooms = self.lane.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_answered {
            rooms.answered(cell as usize, generation);
        } else {
            rooms.give_back(cell as usize);
        }
    }
}
