//! The ring: every request is taken once, and whoever takes it sees its content.

use loom::sync::Arc;
use loom::thread;

use super::{Bytes, check};
use crate::ring::{self, Entry, Polled, Producer};
use crate::sync::Ordering;
use crate::tag::WorkerTag;

const FIRST: WorkerTag = WorkerTag::new(0, 1);
const SECOND: WorkerTag = WorkerTag::new(1, 1);

/// A ring, and beside each entry the bytes of a block that its requests use.
struct Ring {
    entries: Vec<Entry>,
    blocks: Vec<Bytes>,
}

impl Ring {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entries: (0..2).map(|_| Entry::new(0)).collect(),
            blocks: (0..2).map(|_| Bytes::new()).collect(),
        })
    }

    fn block(&self, entry: &Entry) -> &Bytes {
        let index = self.entries.iter().position(|other| std::ptr::eq(other, entry)).unwrap();
        &self.blocks[index]
    }

    /// The number of an entry that is held, after a look at its content.
    fn read(&self, entry: &Entry) -> u64 {
        let number = entry.function.load(Ordering::Relaxed);
        assert_eq!(entry.inline[0].load(Ordering::Relaxed), number * 1000, "the content is another request's");
        assert_eq!(self.block(entry).get(), number);
        number
    }
}

/// Publishes request `number`, whose content is derived from it.
fn publish(producer: &mut Producer, ring: &Ring, number: u64) -> Option<u64> {
    let fill = |entry: &Entry| {
        ring.block(entry).set(number);
        entry.function.store(number, Ordering::Relaxed);
        entry.inline[0].store(number * 1000, Ordering::Relaxed);
    };
    producer.publish(&ring.entries, fill).ok()
}

/// What a worker finds in up to `polls` polls.
fn claim_some(ring: &Ring, cursor: &mut u64, tag: WorkerTag, polls: usize) -> Vec<u64> {
    let mut taken = Vec::new();
    for _ in 0..polls {
        match ring::claim(&ring.entries, cursor, tag) {
            Polled::Taken(held) => {
                taken.push(ring.read(held.entry));
                held.free();
            }
            Polled::Empty | Polled::Unsure => break,
        }
    }
    taken
}

/// More positions than entries, two workers, and a third that comes late and takes the rest.
#[test]
fn each_request_is_taken_once_with_its_content() {
    check(5, || {
        let ring = Ring::new();
        let mut producer = Producer::default();
        let published = |number| move |_: u64| number;
        let mut sent: Vec<u64> =
            (1..=2).filter_map(|number| publish(&mut producer, &ring, number).map(published(number))).collect();
        let workers = [FIRST, SECOND].map(|tag| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || claim_some(&ring, &mut 0, tag, 2))
        });
        sent.extend((3..=4).filter_map(|number| publish(&mut producer, &ring, number).map(published(number))));
        let mut taken: Vec<u64> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
        taken.extend(claim_some(&ring, &mut 0, WorkerTag::new(2, 1), 4));
        taken.sort_unstable();
        assert_eq!(taken, sent);
        assert_eq!(ring::unclaimed(&ring.entries), 0);
    });
}

/// A worker that joins while another one takes and the client publishes.
#[test]
fn a_worker_that_joins_misses_nothing() {
    check(4, || {
        let ring = Ring::new();
        let mut producer = Producer::default();
        let mut cursor = 0;
        for number in 1..=5 {
            publish(&mut producer, &ring, number).unwrap();
            assert_eq!(claim_some(&ring, &mut cursor, FIRST, 1), [number]);
        }
        publish(&mut producer, &ring, 6).unwrap();
        let late = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut cursor = ring::oldest_unclaimed(&ring.entries);
                let taken = claim_some(&ring, &mut cursor, SECOND, 2);
                (taken, cursor)
            })
        };
        let sent_last = publish(&mut producer, &ring, 7).is_some();
        let mut taken = claim_some(&ring, &mut cursor, FIRST, 1);
        let (theirs, mut late_cursor) = late.join().unwrap();
        taken.extend(theirs);
        taken.extend(claim_some(&ring, &mut late_cursor, SECOND, 3));
        taken.sort_unstable();
        assert!(sent_last && taken == [6, 7], "{taken:?}");
    });
}

/// A worker claims, the client retracts, the server refuses: one of them gets the request, and the entry's next turn is
/// clean.
#[test]
fn claim_retract_and_refusal_exclude_each_other() {
    check(4, || {
        let ring = Ring::new();
        let mut producer = Producer::default();
        let position = publish(&mut producer, &ring, 1).unwrap();
        let worker = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || claim_some(&ring, &mut 0, FIRST, 1).len())
        };
        let server = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let Some(turn) = ring::published_turn(&ring.entries[0]) else { return 0 };
                let Some(held) = ring::take_published(&ring.entries[0], turn, ring::SERVER) else { return 0 };
                // Its first request, or the one of the next lap.
                assert!([1, 3].contains(&ring.read(held.entry)));
                held.free();
                1
            })
        };
        let retracted = usize::from(ring::retract(&ring.entries, position));
        // The ring's next lap: the entry that was fought for is used again as soon as its holder lets go.
        publish(&mut producer, &ring, 2).unwrap();
        let third = publish(&mut producer, &ring, 3);
        let (claimed, refused) = (worker.join().unwrap(), server.join().unwrap());
        let rest = claim_some(&ring, &mut 0, SECOND, 3);
        let expected = 1 + 1 + usize::from(third.is_some());
        assert_eq!(retracted + claimed + refused + rest.len(), expected, "taken twice, or by nobody");
    });
}
