//! Reply cells and the bell: no wake-up is lost, and whoever sees an answer sees all of it.

use std::time::Duration;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{Bytes, check};
use crate::bell::Bell;
use crate::cell::{Cell, FirstWait, Stale, Wake};
use crate::sync::{AtomicU32, Ordering};

/// Ignored by the models' sleep, which ends by a wake-up alone.
const FOREVER: Duration = Duration::MAX;

/// A cell, and the bytes of a block that its answers use.
struct Reply {
    cell: Cell,
    block: Bytes,
}

impl Reply {
    /// A cell that waits for the answer of generation 1.
    fn expected() -> Self {
        let reply = Self { cell: Cell::new(), block: Bytes::new() };
        reply.cell.arm(1);
        reply
    }

    fn fill(&self, value: u64) -> impl FnOnce(&Cell) {
        move |cell| {
            self.block.set(value);
            cell.outcome.store(u32::try_from(value).unwrap(), Ordering::Relaxed);
            cell.inline[0].store(value * 1000, Ordering::Relaxed);
        }
    }

    fn answer(&self, generation: u32, value: u64) -> Result<Wake, Stale> {
        self.cell.answer(generation, self.fill(value))
    }

    fn assert_holds(&self, value: u64) {
        assert_eq!(u64::from(self.cell.outcome.load(Ordering::Relaxed)), value);
        assert_eq!(self.cell.inline[0].load(Ordering::Relaxed), value * 1000);
        assert_eq!(self.block.get(), value);
    }

    fn park_until_done(&self, generation: u32) {
        while !self.cell.is_done(generation) {
            self.cell.park(generation, FOREVER);
        }
    }
}

#[test]
fn a_caller_that_parks_is_woken_by_its_answer() {
    check(5, || {
        let reply = Arc::new(Reply::expected());
        let worker = {
            let reply = Arc::clone(&reply);
            thread::spawn(move || reply.answer(1, 7).unwrap())
        };
        reply.park_until_done(1);
        reply.assert_holds(7);
        assert_ne!(worker.join().unwrap(), Wake::Bell);
    });
}

#[test]
fn an_abandoned_call_is_answered_once_all_the_same() {
    check(5, || {
        let reply = Arc::new(Reply::expected());
        let worker = {
            let reply = Arc::clone(&reply);
            thread::spawn(move || {
                let seen_abandoned = reply.cell.is_abandoned(1);
                (seen_abandoned, reply.answer(1, 7))
            })
        };
        let abandoned = reply.cell.abandon(1);
        if !abandoned {
            assert!(reply.cell.is_done(1));
            reply.assert_holds(7);
        }
        let (seen, answered) = worker.join().unwrap();
        assert_eq!(answered, Ok(Wake::Nobody));
        assert!(abandoned || !seen);
        assert!(reply.cell.is_done(1), "the cell would stay in quarantine for ever");
    });
}

/// Two tasks wait, two workers answer, one reactor sleeps on the bell for both.
#[test]
fn the_reactor_sees_every_answer() {
    check(3, || {
        let replies = Arc::new([Reply::expected(), Reply::expected()]);
        let word = Arc::new(AtomicU32::new(0));
        let workers = [0, 1].map(|index| {
            let (replies, word) = (Arc::clone(&replies), Arc::clone(&word));
            thread::spawn(move || {
                if replies[index].answer(1, index as u64) == Ok(Wake::Bell) && Bell(&word).ring() {
                    Bell(&word).wake();
                }
            })
        });
        for (index, reply) in replies.iter().enumerate() {
            if !reply.cell.ask_for_bell(1) {
                assert!(reply.cell.is_done(1));
                reply.assert_holds(index as u64);
            }
        }
        loop {
            let seen = Bell(&word).begin_look();
            if replies.iter().all(|reply| reply.cell.is_done(1)) {
                break;
            }
            Bell(&word).sleep(seen, FOREVER);
        }
        replies.iter().enumerate().for_each(|(index, reply)| reply.assert_holds(index as u64));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// The same with a reactor that sleeps among other things until a pipe is readable: a count under a lock. Cells are armed for
/// the bell at once, and of the workers that find the reactor asleep, one writes.
#[test]
fn a_reactor_that_sleeps_on_a_doorbell_sees_every_answer_and_is_woken_once_a_sleep() {
    check(3, || {
        let replies = Arc::new([Reply::expected(), Reply::expected()]);
        replies.iter().for_each(|reply| reply.cell.arm_as(1, FirstWait::Bell));
        let word = Arc::new(AtomicU32::new(0));
        let pipe = Arc::new((Mutex::new(0_u32), Condvar::new()));
        let workers = [0, 1].map(|index| {
            let (replies, word, pipe) = (Arc::clone(&replies), Arc::clone(&word), Arc::clone(&pipe));
            thread::spawn(move || {
                assert_eq!(replies[index].answer(1, index as u64), Ok(Wake::Bell));
                let sleeps = Bell(&word).ring();
                if sleeps {
                    *pipe.0.lock().unwrap() += 1;
                    pipe.1.notify_one();
                }
                u32::from(sleeps)
            })
        });
        let mut sleeps = 0;
        loop {
            let seen = Bell(&word).begin_look();
            if replies.iter().all(|reply| reply.cell.is_done(1)) {
                break;
            }
            if Bell(&word).arm(seen) {
                sleeps += 1;
                let mut written = pipe.0.lock().unwrap();
                while *written == 0 {
                    written = pipe.1.wait(written).unwrap();
                }
                *written = 0;
            }
        }
        replies.iter().enumerate().for_each(|(index, reply)| reply.assert_holds(index as u64));
        let wakes: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert!(wakes <= sleeps, "{wakes} wakes for {sleeps} sleeps");
    });
}

/// A worker that answers two calls, and holds the ring for the first back if the reactor seemed to sleep.
#[test]
fn a_reactor_hears_of_an_answer_whose_ring_was_held_back_for_the_next() {
    check(4, || {
        let replies = Arc::new([Reply::expected(), Reply::expected()]);
        replies.iter().for_each(|reply| reply.cell.arm_as(1, FirstWait::Bell));
        let word = Arc::new(AtomicU32::new(0));
        let pipe = Arc::new((Mutex::new(0_u32), Condvar::new()));
        let worker = {
            let (replies, word, pipe) = (Arc::clone(&replies), Arc::clone(&word), Arc::clone(&pipe));
            thread::spawn(move || {
                let ring = || {
                    if Bell(&word).ring() {
                        *pipe.0.lock().unwrap() += 1;
                        pipe.1.notify_one();
                    }
                };
                assert_eq!(replies[0].answer(1, 0), Ok(Wake::Bell));
                if !Bell(&word).is_asleep() {
                    ring();
                }
                assert_eq!(replies[1].answer(1, 1), Ok(Wake::Bell));
                ring();
            })
        };
        loop {
            let seen = Bell(&word).begin_look();
            if replies.iter().all(|reply| reply.cell.is_done(1)) {
                break;
            }
            if Bell(&word).arm(seen) {
                let mut written = pipe.0.lock().unwrap();
                while *written == 0 {
                    written = pipe.1.wait(written).unwrap();
                }
                *written = 0;
            }
        }
        replies.iter().enumerate().for_each(|(index, reply)| reply.assert_holds(index as u64));
        worker.join().unwrap();
    });
}

/// A worker answered and died before the end of its claim. While the server settles that claim, the client reads the
/// answer, uses the cell for its next call, and another worker answers that.
#[test]
fn settling_a_dead_workers_claim_spoils_neither_its_answer_nor_the_next() {
    check(4, || {
        let reply = Arc::new(Reply::expected());
        reply.answer(1, 1).unwrap();
        let server = {
            let reply = Arc::clone(&reply);
            thread::spawn(move || assert_eq!(reply.cell.answer_instead(1, reply.fill(9)), Err(Stale)))
        };
        assert!(reply.cell.is_done(1));
        reply.assert_holds(1);
        reply.cell.arm(2);
        let worker = {
            let reply = Arc::clone(&reply);
            thread::spawn(move || reply.answer(2, 2).unwrap())
        };
        reply.park_until_done(2);
        reply.assert_holds(2);
        server.join().unwrap();
        worker.join().unwrap();
    });
}

/// The same claim when the worker died before its answer: the caller is told, whether it parks before or after.
#[test]
fn a_dead_workers_caller_is_answered_and_woken() {
    check(5, || {
        let reply = Arc::new(Reply::expected());
        let server = {
            let reply = Arc::clone(&reply);
            thread::spawn(move || reply.cell.answer_instead(1, reply.fill(9)).unwrap())
        };
        reply.park_until_done(1);
        reply.assert_holds(9);
        server.join().unwrap();
    });
}
