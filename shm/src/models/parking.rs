//! Sleep and wake over a [`Parking`]: whatever changes, no sleeper misses it, whoever takes its bit.

use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::parking::Parking;
use crate::sync::{AtomicU32, Ordering};

/// Longer than any model lives: sleeping has no timeout there.
const TIMEOUT: std::time::Duration = std::time::Duration::MAX;

struct House {
    parking: Parking,
    /// Things to take, each by one sleeper.
    things: AtomicU32,
}

impl House {
    fn new() -> Arc<Self> {
        Arc::new(Self { parking: Parking::new(), things: AtomicU32::new(0) })
    }

    /// Changer: publishes something, and rings if somebody sleeps.
    fn bring(&self) {
        self.things.fetch_add(1, Ordering::Relaxed);
        if self.parking.is_parked() {
            self.parking.wake_parked();
        }
    }

    fn take_one(&self) -> bool {
        self.things.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |things| things.checked_sub(1)).is_ok()
    }

    /// Sleeper: takes one thing, sleeping until there is one.
    fn await_one(&self, bit: u64) {
        while !self.take_one() {
            let seen = self.parking.prepare(bit);
            let found = self.take_one();
            if !found {
                self.parking.sleep(seen, TIMEOUT);
            }
            self.parking.finish(bit);
            if found {
                return;
            }
        }
    }
}

#[test]
fn a_sleeper_gets_what_is_brought() {
    check(6, || {
        let house = House::new();
        let sleeper = {
            let house = Arc::clone(&house);
            thread::spawn(move || house.await_one(1))
        };
        house.bring();
        sleeper.join().unwrap();
    });
}

/// Each takes one, so each must be told of what the other leaves, though one ring may take the bits of both.
#[test]
fn two_sleepers_get_what_two_bring() {
    check(3, || {
        let house = House::new();
        let sleeper = {
            let house = Arc::clone(&house);
            thread::spawn(move || house.await_one(1))
        };
        let changer = {
            let house = Arc::clone(&house);
            thread::spawn(move || house.bring())
        };
        house.bring();
        house.await_one(2);
        sleeper.join().unwrap();
        changer.join().unwrap();
    });
}

/// Who polls the count of rings and finds it moved finds what moved it, whether the one that rang met a sleeper or not.
#[test]
fn who_polls_the_count_sees_what_was_rung_for() {
    for sleeper in [false, true] {
        check(4, move || {
            let house = House::new();
            if sleeper {
                house.parking.prepare(1);
            }
            let poller = {
                let house = Arc::clone(&house);
                thread::spawn(move || {
                    let seen = house.parking.rings();
                    if !house.take_one() && house.parking.rings() != seen {
                        assert!(house.take_one(), "rung for nothing");
                    }
                })
            };
            let before = house.parking.rings();
            house.things.fetch_add(1, Ordering::Relaxed);
            house.parking.ring();
            assert_ne!(house.parking.rings(), before);
            poller.join().unwrap();
        });
    }
}

/// A sleeper among others that poll: what always rings wakes it, too.
#[test]
fn a_sleeper_hears_a_ring_for_anything() {
    check(4, || {
        let house = House::new();
        let sleeper = {
            let house = Arc::clone(&house);
            thread::spawn(move || house.await_one(1))
        };
        house.things.fetch_add(1, Ordering::Relaxed);
        house.parking.ring();
        sleeper.join().unwrap();
    });
}
