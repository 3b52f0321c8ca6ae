//! Reply cells and the bell: no wake-up is lost, and whoever sees an answer sees all of it.

use std::time::Duration;

use loom::sync::Arc;
use loom::thread;

use super::check;
use crate::bell::Bell;
use crate::cell::{Cell, Stale, Wake};
use crate::sync::{AtomicU32, Ordering};

/// Ignored by the models' sleep, which ends by a wake-up alone.
const FOREVER: Duration = Duration::MAX;

fn fill(value: u64) -> impl FnOnce(&Cell) {
    move |cell| {
        cell.outcome.store(u32::try_from(value).unwrap(), Ordering::Relaxed);
        cell.inline[0].store(value * 1000, Ordering::Relaxed);
    }
}

fn assert_holds(cell: &Cell, value: u64) {
    assert_eq!(u64::from(cell.outcome.load(Ordering::Relaxed)), value);
    assert_eq!(cell.inline[0].load(Ordering::Relaxed), value * 1000);
}

fn park_until_done(cell: &Cell, generation: u32) {
    while !cell.is_done(generation) {
        cell.park(generation, FOREVER);
    }
}

#[test]
fn a_caller_that_parks_is_woken_by_its_answer() {
    check(5, || {
        let cell = Arc::new(Cell::new());
        cell.arm(1);
        let worker = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.answer(1, fill(7)).unwrap())
        };
        park_until_done(&cell, 1);
        assert_holds(&cell, 7);
        assert_ne!(worker.join().unwrap(), Wake::Bell);
    });
}

#[test]
fn an_abandoned_call_is_answered_once_all_the_same() {
    check(5, || {
        let cell = Arc::new(Cell::new());
        cell.arm(1);
        let worker = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || {
                let seen_abandoned = cell.is_abandoned(1);
                (seen_abandoned, cell.answer(1, fill(7)))
            })
        };
        let abandoned = cell.abandon(1);
        if !abandoned {
            assert!(cell.is_done(1));
            assert_holds(&cell, 7);
        }
        let (seen, answered) = worker.join().unwrap();
        assert_eq!(answered, Ok(Wake::Nobody));
        assert!(abandoned || !seen);
        assert!(cell.is_done(1), "the cell would stay in quarantine for ever");
    });
}

/// Two tasks wait, two workers answer, one reactor sleeps on the bell for both.
#[test]
fn the_reactor_sees_every_answer() {
    check(2, || {
        let cells: Arc<[Cell; 2]> = Arc::new([Cell::new(), Cell::new()]);
        let word = Arc::new(AtomicU32::new(0));
        cells.iter().for_each(|cell| cell.arm(1));
        let workers = [0, 1].map(|index| {
            let (cells, word) = (Arc::clone(&cells), Arc::clone(&word));
            thread::spawn(move || {
                if cells[index].answer(1, fill(index as u64)) == Ok(Wake::Bell) {
                    Bell(&word).ring();
                }
            })
        });
        for (index, cell) in cells.iter().enumerate() {
            if !cell.ask_for_bell(1) {
                assert!(cell.is_done(1));
                assert_holds(cell, index as u64);
            }
        }
        loop {
            let seen = Bell(&word).begin_look();
            if cells.iter().all(|cell| cell.is_done(1)) {
                break;
            }
            Bell(&word).sleep(seen, FOREVER);
        }
        cells.iter().enumerate().for_each(|(index, cell)| assert_holds(cell, index as u64));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

/// A worker answered and died before the end of its claim. While the server settles that claim, the client reads the
/// answer, uses the cell for its next call, and another worker answers that.
#[test]
fn settling_a_dead_workers_claim_spoils_neither_its_answer_nor_the_next() {
    check(4, || {
        let cell = Arc::new(Cell::new());
        cell.arm(1);
        cell.answer(1, fill(1)).unwrap();
        let server = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || assert_eq!(cell.answer_instead(1, fill(9)), Err(Stale)))
        };
        assert!(cell.is_done(1));
        assert_holds(&cell, 1);
        cell.arm(2);
        let worker = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.answer(2, fill(2)).unwrap())
        };
        park_until_done(&cell, 2);
        assert_holds(&cell, 2);
        server.join().unwrap();
        worker.join().unwrap();
    });
}

/// The same claim when the worker died before its answer: the caller is told, whether it parks before or after.
#[test]
fn a_dead_workers_caller_is_answered_and_woken() {
    check(5, || {
        let cell = Arc::new(Cell::new());
        cell.arm(1);
        let server = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.answer_instead(1, fill(9)).unwrap())
        };
        park_until_done(&cell, 1);
        assert_holds(&cell, 9);
        server.join().unwrap();
    });
}
