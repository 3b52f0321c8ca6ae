//! What a sender without room sleeps on: how far the receiver is, how far the sender wants it to be, and a place to park.
//!
//! The receiver tells the sender after whatever makes room (an entry consumed, a block released), and wakes it only if it
//! sleeps and the room is what it wants: a sender whose ring was full sleeps until a good part of it is free, so that a
//! receiver that takes message by message does not wake it for each. The argument why no wake-up is lost is that of
//! [`crate::parking`]; here the sender alone parks.
//!
//! `consumed` and `wanted` are claims for their readers: the sender believes a `consumed` only between what it believed
//! before and what it has published.

use std::time::Duration;

use crate::parking::Parking;
use crate::sync::{AtomicU64, Ordering};

/// The sender's bit, the only one.
const SENDER: u64 = 1;

/// The words by which a receiver tells the sender of room.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct RoomWords {
    /// Position up to which the receiver is done with entries.
    consumed: AtomicU64,
    /// What `consumed` must reach for the sender to be woken; 0 for any room.
    wanted: AtomicU64,
    reserved: [AtomicU64; 6],
    parking: Parking,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RoomWords>() == 128);
    assert!(offset_of!(RoomWords, wanted) == 8);
    assert!(offset_of!(RoomWords, parking) == 64);
};

impl RoomWords {
    /// Position up to which the receiver says it is done.
    #[inline]
    pub(crate) fn consumed(&self) -> u64 {
        // Acquire pairs with the Release in `publish_consumed`: the receiver has finished reading those entries.
        self.consumed.load(Ordering::Acquire)
    }

    /// Receiver: is done with all entries before `position`. Costs a load when that was said before.
    #[inline]
    pub(crate) fn publish_consumed(&self, position: u64) {
        if self.consumed.load(Ordering::Relaxed) != position {
            self.note_consumed(position);
            self.tell_sender();
        }
    }

    /// Receiver: the same without waking anybody: [`RoomWords::tell_sender_after_exchange`] is to follow.
    #[inline]
    pub(crate) fn note_consumed(&self, position: u64) {
        // Release pairs with the Acquire in `consumed`.
        self.consumed.store(position, Ordering::Release);
    }

    /// Receiver: made room of any kind, and has exchanged a word since, as when it gave a lock back.
    #[inline]
    pub(crate) fn tell_sender_after_exchange(&self) {
        if self.parking.is_parked_after_exchange() && self.is_wanted() {
            self.parking.wake_parked();
        }
    }

    /// Receiver: made room of any kind. Wakes the sender if it sleeps and wants this much.
    #[inline]
    pub(crate) fn tell_sender(&self) {
        if self.parking.is_parked() && self.is_wanted() {
            self.parking.wake_parked();
        }
    }

    #[inline]
    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) <= self.consumed.load(Ordering::Relaxed)
    }

    /// Sender: sleeps until it is told of room, unless there is some; at most for `timeout`, and not always that long.
    /// Returns whether there is room now.
    pub(crate) fn sleep_for_room(&self, wanted: u64, timeout: Duration, mut has_room: impl FnMut() -> bool) -> bool {
        // Ordered before the bit by the Release of `prepare`.
        self.wanted.store(wanted, Ordering::Relaxed);
        let seen = self.parking.prepare(SENDER);
        let found = has_room();
        if !found {
            self.parking.sleep(seen, timeout);
        }
        self.parking.finish(SENDER);
        found || has_room()
    }

    #[cfg(any(test, loom))]
    #[allow(dead_code, reason = "used by the models")]
    pub(crate) fn new() -> Self {
        Self {
            consumed: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
            parking: Parking::new(),
        }
    }
}
