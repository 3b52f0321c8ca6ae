//! Sleep and wake of workers: a published request is found by one that polls, or somebody who sleeps is rung.
//!
//! The doorbell is a count under a lock, which one sleeper at a time finds and drains, as a pipe in an exclusive epoll.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::check;
use crate::attendance::{self, Attendance, Summon};
use crate::ring::{self, Entry, Polled, Producer};
use crate::tag::WorkerTag;

#[derive(Default)]
struct Doorbell {
    rings: Mutex<u32>,
    heard: Condvar,
}

impl Doorbell {
    fn ring(&self) {
        *self.rings.lock().unwrap() += 1;
        self.heard.notify_one();
    }

    fn park(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.heard.wait(rings).unwrap();
        }
        *rings = 0;
    }
}

struct Lane {
    entries: Vec<Entry>,
    attendance: Attendance,
    doorbell: Doorbell,
    /// Calls that have begun; for those that run until others have begun too.
    begun: Mutex<usize>,
    begins: Condvar,
}

impl Lane {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: (0..2).map(|_| Entry::new(0)).collect(),
            attendance: Attendance::new(),
            doorbell: Doorbell::default(),
            begun: Mutex::new(0),
            begins: Condvar::new(),
        })
    }

    /// Client: publishes and summons. All busy: whoever is busy looks again before it sleeps.
    fn submit(&self, producer: &mut Producer) {
        producer.publish(&self.entries, |_| ()).unwrap();
        if self.attendance.after_publish() == Summon::Doorbell {
            self.doorbell.ring();
        }
    }

    /// Worker: the next request, polled for first if `polls`, then slept for.
    fn next(&self, cursor: &mut u64, tag: WorkerTag, polls: bool) {
        if polls {
            self.attendance.start_spinning(tag);
        }
        loop {
            if let Polled::Taken(held) = ring::claim(&self.entries, cursor, tag) {
                held.free();
                return;
            }
            attendance::before_sleep(std::iter::once(&self.attendance), tag);
            if !ring::has_work(&self.entries, cursor) {
                self.doorbell.park();
            }
            self.attendance.stop_parking(tag);
        }
    }

    /// Worker: turns to its call, passing on what is left.
    fn pass_on(&self, cursor: &mut u64, tag: WorkerTag) {
        attendance::before_call(std::iter::once(&self.attendance), tag);
        if ring::has_work(&self.entries, cursor) && self.attendance.others_parked(tag) {
            self.doorbell.ring();
        }
    }

    /// A call that takes as long as it takes for `calls` to begin: a worker that is busy for good, for all that its lane
    /// can know.
    fn run_until_begun(&self, calls: usize) {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        self.begins.notify_all();
        while *begun < calls {
            begun = self.begins.wait(begun).unwrap();
        }
    }
}

#[test]
fn a_worker_that_goes_to_sleep_gets_the_request() {
    check(5, || {
        let lane = Lane::new();
        let worker = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.next(&mut 0, WorkerTag::new(0, 1), false))
        };
        lane.submit(&mut Producer::default());
        worker.join().unwrap();
    });
}

#[test]
fn a_worker_that_stops_polling_to_sleep_gets_the_request() {
    check(5, || {
        let lane = Lane::new();
        let worker = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.next(&mut 0, WorkerTag::new(0, 1), true))
        };
        lane.submit(&mut Producer::default());
        worker.join().unwrap();
    });
}

/// Two requests and two workers, of which one polls. Each call lasts until the other has begun, so whoever takes the
/// first may not be relied on for the second.
#[test]
fn a_worker_that_turns_to_its_call_passes_the_rest_on() {
    check(2, || {
        let lane = Lane::new();
        let workers = [true, false].map(|polls| {
            let lane = Arc::clone(&lane);
            let tag = WorkerTag::new(u8::from(polls), 1);
            thread::spawn(move || {
                let mut cursor = 0;
                lane.next(&mut cursor, tag, polls);
                lane.pass_on(&mut cursor, tag);
                lane.run_until_begun(2);
            })
        });
        let mut producer = Producer::default();
        lane.submit(&mut producer);
        lane.submit(&mut producer);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}
