//! The drain handshake: phase word, ring, claim records, cells.
//!
//! The server writes `draining`, sweeps, waits until no claim is left, writes `closed`, waits for the worker's copy of that
//! very word, sweeps again, waits for claims again, and cuts. After the cut it still sweeps when a client rings.
//!
//! What a call does to the state of its process is an unsynchronised cell here: loom fails the model if the cut and a call
//! that runs are not ordered by the protocol's own words.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use praas_protocol::Phase;

use super::check;
use crate::attendance::Attendance;
use crate::cell::Cell;
use crate::claim::Record;
use crate::phase_word;
use crate::ring::{self, Entry, Polled, Producer};
use crate::sync::{AtomicU64, Ordering, pause};
use crate::tag::WorkerTag;

const RAN: u32 = 100;
const REFUSED: u32 = 200;
const WORKER: WorkerTag = WorkerTag::new(0, 1);

/// What the calls of a process have done, and whether the snapshot is taken.
#[derive(Default)]
struct Effects {
    runs: u32,
    cut: bool,
}

/// What reaches the server from its client's connection.
#[derive(Default)]
struct Connection {
    rings: u32,
    closed: bool,
}

struct Process {
    phase: AtomicU64,
    copy: AtomicU64,
    record: Record,
    attendance: Attendance,
    entries: Vec<Entry>,
    cell: Cell,
    effects: UnsafeCell<Effects>,
    connection: Mutex<Connection>,
    arrives: Condvar,
}

// SAFETY: every access to the cell goes through loom, which fails the model where two of them race.
unsafe impl Sync for Process {}
// SAFETY: all fields may be sent.
unsafe impl Send for Process {}

impl Process {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU64::new(Phase::Active.word(1)),
            copy: AtomicU64::new(0),
            record: Record::new(),
            attendance: Attendance::new(),
            entries: (0..2).map(|_| Entry::new(0)).collect(),
            cell: Cell::new(),
            effects: UnsafeCell::new(Effects::default()),
            connection: Mutex::default(),
            arrives: Condvar::new(),
        })
    }

    fn change_effects(&self, change: impl FnOnce(&mut Effects)) {
        // SAFETY: loom checks that no other access is concurrent with this one.
        self.effects.with_mut(|effects| change(unsafe { &mut *effects }));
    }

    // ---- worker ----

    fn work_until_closed(&self) {
        let (mut cursor, mut last, mut sequence) = (0, 0, 0);
        while phase_word::before_claim(&self.phase, &self.copy, &mut last) {
            match ring::claim(&self.entries, &mut cursor, WORKER) {
                Polled::Taken(held) => {
                    sequence += 1;
                    self.record.claim(sequence, 1, held.entry.target.load(Ordering::Relaxed), 0);
                    held.free();
                    self.change_effects(|effects| {
                        assert!(!effects.cut, "a call ran after the cut");
                        effects.runs += 1;
                    });
                    self.cell.answer(1, |cell| cell.outcome.store(RAN, Ordering::Relaxed)).unwrap();
                    self.record.release(sequence).unwrap();
                }
                Polled::Empty | Polled::Unsure => pause(),
            }
        }
    }

    // ---- server ----

    fn refuse_unclaimed(&self) {
        for entry in &self.entries {
            let Some(turn) = ring::published_turn(entry) else { continue };
            let Some(held) = ring::take_published(entry, turn, ring::SERVER) else { continue };
            held.free();
            self.cell.answer_instead(1, |cell| cell.outcome.store(REFUSED, Ordering::Relaxed)).unwrap();
        }
    }

    fn wait_for_claims(&self) {
        while self.record.seen(0).is_some() {
            pause();
        }
    }

    fn drain(&self) {
        phase_word::publish(&self.phase, Phase::Draining);
        self.refuse_unclaimed();
        self.wait_for_claims();
        let closed = phase_word::publish(&self.phase, Phase::Closed);
        while phase_word::copied(&self.copy) != closed {
            pause();
        }
        self.refuse_unclaimed();
        self.wait_for_claims();
        self.change_effects(|effects| effects.cut = true);
    }

    fn serve_rings(&self) {
        let mut connection = self.connection.lock().unwrap();
        loop {
            if connection.rings > 0 {
                connection.rings = 0;
                drop(connection);
                self.refuse_unclaimed();
                connection = self.connection.lock().unwrap();
            } else if connection.closed {
                return;
            } else {
                connection = self.arrives.wait(connection).unwrap();
            }
        }
    }

    // ---- client ----

    /// Whether the request was retracted.
    fn submit(&self) -> bool {
        self.cell.arm(1);
        let position = Producer::default().publish(&self.entries, |_| ()).unwrap();
        // Its fence is what the handshake rests on.
        let _ = self.attendance.after_publish();
        let phase = Phase::from_word(phase_word::after_fence(&self.phase));
        if phase == Some(Phase::Active) {
            return false;
        }
        if phase == Some(Phase::Closed) && ring::retract(&self.entries, position) {
            return true;
        }
        self.connection.lock().unwrap().rings += 1;
        self.arrives.notify_one();
        false
    }

    fn close_connection(&self) {
        self.connection.lock().unwrap().closed = true;
        self.arrives.notify_one();
    }
}

#[test]
fn a_request_that_meets_a_drain_runs_or_is_refused_and_nothing_runs_after_the_cut() {
    check(3, || {
        let process = Process::new();
        let worker = {
            let process = Arc::clone(&process);
            thread::spawn(move || process.work_until_closed())
        };
        let server = {
            let process = Arc::clone(&process);
            thread::spawn(move || {
                process.drain();
                process.serve_rings();
            })
        };
        let retracted = process.submit();
        process.close_connection();
        worker.join().unwrap();
        server.join().unwrap();

        let runs = process.effects.with(|effects| {
            // SAFETY: both threads have ended.
            unsafe { (*effects).runs }
        });
        let answered = process.cell.is_done(1);
        let outcome = process.cell.outcome.load(Ordering::Relaxed);
        assert_eq!(ring::unclaimed(&process.entries), 0, "nobody will ever take the request");
        match (retracted, runs) {
            (true, 0) => assert!(!answered, "retracted and answered"),
            (false, 1) => assert!(answered && outcome == RAN),
            (false, 0) => assert!(answered && outcome == REFUSED),
            _ => panic!("retracted: {retracted}, runs: {runs}"),
        }
    });
}
