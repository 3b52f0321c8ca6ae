//! The records of a random life of a process make, up to each position, what its segment held there.
#![cfg(not(loom))]
#![allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]

#[path = "support/logged.rs"]
mod logged;

use std::collections::BTreeMap;

use logged::{Logged, put_message, records, user};
use praas_protocol::message::Accepted;
use praas_shm::WorkerTag;
use praas_shm::log_ring::{Contents, Records, Replay};
use praas_shm::mailbox::{MailError, Wanted};
use praas_shm::objects::{CallClock, CallEnd, CallName, Condition, Encoding, Meta, StateError};
use proptest::prelude::*;

const LIMIT_BYTES: u64 = 1 << 20;
const KEYS: [&str; 5] = ["a", "exactly8", "a key that is longer than two words", "counts/1", "counts/2"];
const SOURCES: [&str; 3] = ["alice", "bob", "carol"];

#[derive(Debug, Clone)]
enum Operation {
    Put { key: usize, bytes: usize, is_new: bool },
    Loan { key: usize, bytes: usize, cut: usize },
    Delete { key: usize },
    Call { key: u8, reply: usize },
    Message { source: usize, key: usize, bytes: usize, repeats: bool, gap: u64 },
    Repeat { source: usize },
    Take { worker: usize, key: usize, accept: bool },
    AcceptAll { worker: usize },
    ReleaseAll { worker: usize },
    Die { worker: usize },
}

fn operations() -> impl Strategy<Value = Operation> {
    let sizes = || prop_oneof![6 => 0..300_usize, 2 => 300..9000_usize, 1 => 60_000..140_000_usize];
    let key = || 0..KEYS.len();
    prop_oneof![
        6 => (key(), sizes(), any::<bool>()).prop_map(|(key, bytes, is_new)| Operation::Put { key, bytes, is_new }),
        2 => (key(), sizes(), 0..100_usize).prop_map(|(key, bytes, cut)| Operation::Loan { key, bytes, cut }),
        3 => key().prop_map(|key| Operation::Delete { key }),
        2 => (0..4_u8, 0..600_usize).prop_map(|(key, reply)| Operation::Call { key, reply }),
        8 => (0..SOURCES.len(), key(), sizes(), any::<bool>(), prop_oneof![9 => 1..3_u64, 1 => 1..3000_u64])
            .prop_map(|(source, key, bytes, repeats, gap)| Operation::Message { source, key, bytes, repeats, gap }),
        1 => (0..SOURCES.len()).prop_map(|source| Operation::Repeat { source }),
        8 => (0..2_usize, key(), any::<bool>())
            .prop_map(|(worker, key, accept)| Operation::Take { worker, key, accept }),
        2 => (0..2_usize).prop_map(|worker| Operation::AcceptAll { worker }),
        1 => (0..2_usize).prop_map(|worker| Operation::ReleaseAll { worker }),
        1 => (0..2_usize).prop_map(|worker| Operation::Die { worker }),
    ]
}

/// Everything that is put is told from everything else.
fn filled(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) ^ seed.wrapping_mul(7)) as u8).collect()
}

fn run(operations: &[Operation]) {
    let process = Logged::create(LIMIT_BYTES);
    let mut reader = process.reader();
    let mut lives = [1_u16, 1];
    let tag = |worker: usize, life: u16| WorkerTag::new(worker as u8, life);
    let mut workers: Vec<_> =
        (0..2).map(|worker| Some((process.store(tag(worker, 1)), process.mailbox(tag(worker, 1))))).collect();
    let mut sequences = [0_u64; SOURCES.len()];
    let mut snapshots = BTreeMap::new();
    let mut log = Vec::new();
    for (step, operation) in operations.iter().enumerate() {
        let state = |result: Result<(), StateError>| match result {
            Ok(()) | Err(StateError::Full { .. } | StateError::Conflict { .. }) => {}
            Err(error) => panic!("{operation:?}: {error}"),
        };
        let mail = |result: Result<Accepted, MailError>| match result {
            Ok(_) | Err(MailError::Full { .. } | MailError::TooOld { .. }) => {}
            Err(error) => panic!("{operation:?}: {error}"),
        };
        let worker = |which: usize| workers[which].as_ref().unwrap();
        match *operation {
            Operation::Put { key, bytes, is_new } => {
                let condition = if is_new { Condition::Absent } else { Condition::Any };
                let meta = Meta { type_id: step as u64, schema_version: 3, encoding: Encoding::Archived };
                state(worker(step % 2).0.put(&user(KEYS[key]), &filled(bytes, step), meta, condition).map(drop));
            }
            Operation::Loan { key, bytes, cut } => {
                let key = user(KEYS[key]);
                let lent = worker(0).0.loan(&key, bytes as u32).map(|mut loan| {
                    loan.write(0, &filled(bytes, step));
                    loan.truncate(bytes - cut.min(bytes));
                    loan.publish(Meta::RAW, Condition::Any).map(drop).map_err(|unpublished| unpublished.error)
                });
                state(lent.and_then(|published| published));
            }
            Operation::Delete { key } => {
                state(worker(1).0.delete(&user(KEYS[key]), Condition::Any).map(drop));
            }
            Operation::Call { key, reply } => {
                let clock =
                    CallClock { now_unix_ms: step as u64 * 40, kept_for: std::time::Duration::from_millis(300) };
                let key = praas_protocol::IdempotencyKey::from_bytes([key; 16]);
                let name = CallName::new(&"alice".parse().unwrap(), praas_protocol::FunctionId(7), key);
                let begun = worker(0).0.begin_call(&name, [1; 16], true, clock);
                let ended = begun.and_then(|begun| match begun {
                    praas_shm::objects::Begun::Run(claim) => {
                        let end = CallEnd { outcome_code: 1, detail: 0, more: 0, reply: &filled(reply, step) };
                        claim.finish(&end, (2, 0, 0), clock)
                    }
                    _ => Ok(()),
                });
                state(ended);
            }
            Operation::Message { source, key, bytes, repeats, gap } => {
                sequences[source] += gap;
                let bytes = filled(bytes, step);
                mail(put_message(&worker(step % 2).1, SOURCES[source], KEYS[key], sequences[source], &bytes, repeats));
            }
            Operation::Repeat { source } => {
                mail(put_message(&worker(0).1, SOURCES[source], KEYS[0], sequences[source], b"again", true));
            }
            Operation::Take { worker: which, key, accept } => {
                let key = praas_protocol::Key::new(KEYS[key]).unwrap();
                let taken = worker(which).1.take(Wanted::Any, key).unwrap();
                if let Some(message) = taken.filter(|_| accept) {
                    message.accept().unwrap();
                }
            }
            Operation::AcceptAll { worker } => workers[worker].as_mut().unwrap().1.accept_all().unwrap(),
            Operation::ReleaseAll { worker } => workers[worker].as_mut().unwrap().1.release_all().unwrap(),
            Operation::Die { worker } => {
                // What it holds is given back by the server alone.
                std::mem::forget(workers[worker].take());
                process.objects.recover(tag(worker, lives[worker])).unwrap();
                lives[worker] += 1;
                workers[worker] = None;
            }
        }
        if workers.iter().any(Option::is_none) {
            return finish(&process, &mut reader, &mut log, &snapshots);
        }
        log.extend(take(&mut reader));
        let now = Contents::of(&process.objects).unwrap();
        snapshots.insert(now.position, now);
    }
    drop(workers);
    finish(&process, &mut reader, &mut log, &snapshots);
}

fn take(reader: &mut praas_shm::log_ring::LogReader) -> Vec<u8> {
    let bytes = records(reader);
    reader.release();
    bytes
}

/// Each prefix of the log makes what was there.
fn finish(
    process: &Logged,
    reader: &mut praas_shm::log_ring::LogReader,
    log: &mut Vec<u8>,
    snapshots: &BTreeMap<u64, Contents>,
) {
    log.extend(take(reader));
    process.objects.check().unwrap();
    let end = Contents::of(&process.objects).unwrap();
    let mut replay = Replay::default();
    let mut records = Records::new(log);
    let mut seen = 0;
    loop {
        let position = replay.contents().position;
        if let Some(snapshot) = snapshots.get(&position) {
            assert_eq!(replay.contents(), snapshot, "at {position}");
            seen += 1;
        }
        let Some(record) = records.next_record().unwrap() else { break };
        replay.apply(&record).unwrap();
    }
    assert!(seen >= snapshots.len().saturating_sub(1), "{seen} of {}", snapshots.len());
    assert_eq!(replay.contents(), &end);
    // And from any snapshot on.
    if let Some((&from, snapshot)) = snapshots.iter().nth(snapshots.len() / 2) {
        let mut replay = Replay::new(snapshot.clone());
        let mut records = Records::new(log);
        let mut before = true;
        while let Some(record) = records.next_record().unwrap() {
            before &= record.position().is_none_or(|position| position <= from);
            if !before {
                replay.apply(&record).unwrap();
            } else if record.position().is_none() {
                // Pieces of a record that comes later count, those of an earlier one are begun anew.
                replay.apply(&record).unwrap();
            }
        }
        assert_eq!(replay.contents(), &end, "from {from} on");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn every_prefix_of_the_records_makes_what_the_segment_held(operations in prop::collection::vec(operations(), 1..120)) {
        run(&operations);
    }
}
