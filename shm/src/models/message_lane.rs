//! A message lane between a sender and receivers that exclude each other: messages come whole and in order, to a receiver
//! that sleeps too, and a sender without room gets the room that is made.

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{Bytes, check};
use crate::message_lane::entry::{self, Entry};
use crate::message_lane::room::RoomWords;
use crate::parking::Parking;
use crate::sync::{AtomicU64, Ordering};

/// Longer than any model lives: sleeping has no timeout there.
const TIMEOUT: std::time::Duration = std::time::Duration::MAX;

struct Lane {
    entries: Vec<Entry>,
    /// One a position modulo the ring: as a payload in its entry.
    payloads: Vec<Bytes>,
    room: RoomWords,
    bell: Parking,
    /// The receivers' position, under their lock.
    position: Mutex<u64>,
}

impl Lane {
    fn new(entries: usize) -> Arc<Self> {
        Arc::new(Self {
            entries: (0..entries).map(|_| Entry::new()).collect(),
            payloads: (0..entries).map(|_| Bytes::new()).collect(),
            room: RoomWords::new(),
            bell: Parking::new(),
            position: Mutex::new(0),
        })
    }

    fn payload(&self, position: u64) -> &Bytes {
        &self.payloads[usize::try_from(position).unwrap() % self.payloads.len()]
    }

    /// Sender: publishes the message of its next position, sleeping until there is room.
    fn send(&self, tail: u64) {
        let entries = self.entries.len() as u64;
        let has_room = || tail - self.room.consumed() < entries;
        while !has_room() {
            self.room.sleep_for_room(tail + 1 - entries, TIMEOUT, has_room);
        }
        assert!(self.publish(tail), "nobody closes it");
        if self.bell.is_parked_after_exchange() {
            self.bell.wake_parked();
        }
    }

    fn publish(&self, tail: u64) -> bool {
        entry::publish(&self.entries, tail, |entry| {
            entry.sequence.store(tail + 100, Ordering::Relaxed);
            self.payload(tail).set(tail + 200);
        })
    }

    /// Receiver: takes the next message, if there is one, and tells the sender.
    fn try_receive(&self) -> bool {
        let mut position = self.position.lock().unwrap();
        let Some(entry) = entry::arrived(&self.entries, *position) else { return false };
        assert_eq!(entry.sequence.load(Ordering::Relaxed), *position + 100);
        assert_eq!(self.payload(*position).get(), *position + 200);
        *position += 1;
        self.room.publish_consumed(*position);
        true
    }

    /// Receiver: takes the next message, sleeping until there is one.
    fn receive(&self, bit: u64) {
        while !self.try_receive() {
            let seen = self.bell.prepare(bit);
            let found = self.try_receive();
            if !found {
                self.bell.sleep(seen, TIMEOUT);
            }
            self.bell.finish(bit);
            if found {
                return;
            }
        }
    }
}

#[test]
fn messages_come_whole_to_a_receiver_that_sleeps() {
    check(4, || {
        let lane = Lane::new(2);
        let receiver = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || (0..2).for_each(|_| lane.receive(1)))
        };
        (0..2).for_each(|tail| lane.send(tail));
        receiver.join().unwrap();
    });
}

#[test]
fn a_sender_without_room_gets_what_the_receiver_makes() {
    check(4, || {
        let lane = Lane::new(1);
        let receiver = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                (0..2).for_each(|_| {
                    while !lane.try_receive() {
                        crate::sync::pause();
                    }
                })
            })
        };
        (0..2).for_each(|tail| lane.send(tail));
        receiver.join().unwrap();
    });
}

/// Each receiver takes one of two messages; the lock alone says who, and both may sleep.
#[test]
fn two_receivers_take_one_message_each() {
    check(3, || {
        let lane = Lane::new(2);
        let receivers = [1, 2].map(|bit| {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.receive(bit))
        });
        (0..2).for_each(|tail| lane.send(tail));
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
    });
}

/// The sender sleeps for a block, and a receiver releases one. It had wanted more before, and had not slept for it: what it
/// wants now is what counts.
#[test]
fn a_sender_without_a_block_hears_of_a_release() {
    check(4, || {
        let lane = Lane::new(2);
        let released = Arc::new(AtomicU64::new(0));
        let sender = {
            let (lane, released) = (Arc::clone(&lane), Arc::clone(&released));
            thread::spawn(move || {
                lane.send(0);
                assert!(lane.room.sleep_for_room(u64::MAX, TIMEOUT, || true));
                let is_released = || released.load(Ordering::Acquire) == 1;
                while !lane.room.sleep_for_room(0, TIMEOUT, is_released) {}
                // The block is the sender's again.
                lane.payload(0).set(0);
            })
        };
        while !lane.try_receive() {
            crate::sync::pause();
        }
        // The receiver reads the block once more before it accepts the message.
        assert_eq!(lane.payload(0).get(), 200);
        released.store(1, Ordering::Release);
        lane.room.tell_sender();
        sender.join().unwrap();
    });
}

/// The lane is closed while its sender publishes: each message is taken once if its sender was told that it was accepted, and
/// else never.
#[test]
fn what_is_published_against_a_close_is_taken_or_refused() {
    check(4, || {
        let lane = Lane::new(2);
        let sender = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || (0..2).take_while(|&tail| lane.publish(tail)).count() as u64)
        };
        let taken_before = u64::from(lane.try_receive());
        let closed = entry::close(&lane.entries, taken_before);
        let mut taken = taken_before;
        while lane.try_receive() {
            taken += 1;
        }
        match closed {
            entry::Closing::Closed { end } => {
                assert_eq!(end, taken);
                assert_eq!(sender.join().unwrap(), taken);
                assert!(!lane.try_receive(), "what was refused is not there");
                assert_eq!(entry::close(&lane.entries, taken), closed, "it is closed for good");
            }
            // Its ring was full: both were accepted before.
            entry::Closing::Full => assert_eq!((sender.join().unwrap(), taken), (2, 2)),
        }
    });
}
