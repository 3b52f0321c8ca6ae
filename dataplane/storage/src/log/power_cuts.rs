//! The power goes, a call fails, or a block is damaged: at every call and in every block in turn.

use std::path::PathBuf;
use std::sync::Arc;

use praas_sys::Errno;

use super::reader::segment_path as segment_of;
use super::{
    APPEND_BYTES_MAX, Found, LogError, LogPlan, LogWriter, PENDING_BYTES_MAX, SEGMENT_BYTES_MAX, read_log, remove_log,
};
use crate::buffer::BLOCK_BYTES;
use crate::disk::model::{Fault, ModelFiles, root};
use crate::disk::{Access, FileLayer};

/// Seeds of what a cut leaves, for each call at which it comes.
const CUTS_PER_CALL: u64 = 4;

/// Small enough that the script fills several segments.
const PLAN: LogPlan = LogPlan { segment_bytes: 8 * BLOCK_BYTES, ahead_bytes: 4 * BLOCK_BYTES };

/// Records of each group that is synced as one, in bytes: from some to more than a segment has.
const GROUPS: [&[usize]; 12] = [
    &[10],
    &[1000, 8, 16],
    &[4064],
    &[4065],
    &[100; 40],
    &[0],
    &[20_000],
    &[BLOCK_BYTES * 9],
    &[1, 2, 3],
    &[9000, 9000],
    &[5],
    &[6],
];

fn directory() -> PathBuf {
    root().join("log")
}

/// The record of a position: its own bytes.
fn record(position: u64, bytes: usize) -> Vec<u8> {
    let salt = position.to_le_bytes()[0].wrapping_mul(59);
    let mut record: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).map(|byte| byte ^ salt).collect();
    record.extend_from_slice(&position.to_le_bytes());
    record
}

/// All records, one after the other; where each ends by its position.
fn all_records() -> (Vec<u8>, Vec<usize>) {
    let (mut all, mut ends) = (Vec::new(), vec![0]);
    for (index, bytes) in GROUPS.iter().flat_map(|group| group.iter()).enumerate() {
        all.extend(record(index as u64 + 1, *bytes));
        ends.push(all.len());
    }
    (all, ends)
}

fn new_files(seed: u64) -> ModelFiles {
    let files = ModelFiles::new(seed);
    files.make_directory(&directory()).unwrap();
    files.sync_directory(&root()).unwrap();
    files
}

fn begin(files: &ModelFiles, after: u64) -> Result<LogWriter, LogError> {
    LogWriter::begin(Arc::new(files.clone()), &directory(), after, PLAN)
}

/// Writes all groups whose records are not there yet. How far it is durable by the first failure.
fn write(log: &mut LogWriter) -> (u64, Option<LogError>) {
    let mut position = 0;
    for group in GROUPS {
        let first = position + 1;
        position += group.len() as u64;
        for (index, bytes) in group.iter().enumerate() {
            let position = first + index as u64;
            if position > log.durable() {
                log.append(&record(position, *bytes), position).expect("there is room for a group");
            }
        }
        if position > log.durable() {
            match log.sync() {
                Ok(durable) => assert_eq!(durable, position),
                Err(error) => return (log.durable(), Some(error)),
            }
        }
    }
    (log.durable(), None)
}

fn read(files: &ModelFiles) -> (Vec<u8>, Result<Option<Found>, LogError>) {
    let (mut records, mut last) = (Vec::new(), None);
    let found = read_log(files, &directory(), 0, &mut |batch| {
        assert!(last.is_none_or(|last| last == batch.after) && batch.position >= batch.after);
        last = Some(batch.position);
        records.extend_from_slice(batch.records);
    });
    (records, found)
}

/// What is there is the beginning of all records, with everything up to `durable`. How far it goes.
fn check(files: &ModelFiles, durable: u64) -> u64 {
    let (records, found) = read(files);
    let found = found.expect("a torn end is no damage");
    let position = found.map_or(0, |found| found.position);
    let (all, ends) = all_records();
    assert_eq!(found.map_or(0, |found| found.after), 0);
    assert!(position >= durable, "{position} of {durable}");
    assert!(records == all[..ends[usize::try_from(position).unwrap()]], "up to {position}");
    position
}

fn calls_of_script() -> u64 {
    let files = new_files(0);
    let before = files.calls();
    assert!(write(&mut begin(&files, 0).unwrap()).1.is_none());
    files.calls() - before
}

#[test]
fn after_a_loss_of_power_at_any_call_everything_durable_is_read_and_the_log_goes_on() {
    let calls = calls_of_script();
    assert!(calls > 30, "{calls}");
    for at in 0..calls {
        for seed in 0..CUTS_PER_CALL {
            let context = format!("power lost at call {at} of {calls}, seed {seed}");
            let files = new_files(at * 17 + seed);
            files.set_fault(Fault::Cut { at: files.calls() + at });
            let durable = begin(&files, 0).map_or(0, |mut log| write(&mut log).0);
            assert!(files.is_cut(), "{context}");
            let checked = std::panic::catch_unwind(|| {
                // Again and again, each time a little further.
                let (mut files, mut durable) = (files.after_cut(seed), durable);
                for again in 0..4 {
                    let position = check(&files, durable);
                    files.set_fault(Fault::Cut { at: files.calls() + 5 + again * 4 });
                    durable = begin(&files, position).map_or(position, |mut log| write(&mut log).0);
                    files = files.after_cut(seed + again);
                }
                let position = check(&files, durable);
                let mut log = begin(&files, position).unwrap();
                assert!(write(&mut log).1.is_none());
                assert_eq!(check(&files, log.durable()), log.durable());
            });
            assert!(checked.is_ok(), "{context}");
        }
    }
}

#[test]
fn a_call_that_fails_loses_nothing_and_is_tried_again_even_when_power_is_lost_then() {
    let calls = calls_of_script();
    for at in 0..calls {
        for errno in [Errno::IO, Errno::NOSPC] {
            let files = new_files(at);
            files.set_fault(Fault::Fail { at: files.calls() + at, errno });
            let Ok(mut log) = begin(&files, 0) else { continue };
            let (durable, error) = write(&mut log);
            let Some(LogError::Files { errno: told, .. }) = error else { panic!("call {at}: {error:?}") };
            assert_eq!(told, errno);
            check(&files.after_cut(at), durable);
            // The records of the failed sync wait in the log; those that follow join them.
            let group: usize = GROUPS
                .iter()
                .scan(0, |sum, group| {
                    *sum += group.len();
                    Some(*sum)
                })
                .find(|end| *end as u64 > durable)
                .unwrap();
            let (all, ends) = all_records();
            if let Some(end) = ends.get(group + 1) {
                log.append(&all[ends[group]..*end], group as u64 + 1).unwrap();
            }
            let durable = log.sync().expect("it failed once");
            assert_eq!(durable, (group as u64 + 1).min(ends.len() as u64 - 1));
            check(&files.after_cut(at + 1), durable);
            assert!(write(&mut log).1.is_none());
            assert_eq!(check(&files.after_cut(at + 2), log.durable()), ends.len() as u64 - 1);
        }
    }
}

#[test]
fn damage_to_anything_but_the_last_batch_is_told_and_what_is_told_before_is_right() {
    let files = new_files(1);
    let mut log = begin(&files, 0).unwrap();
    write(&mut log);
    let last = log.durable();
    let (all, ends) = all_records();
    let mut damaged_count = 0;
    for number in 0..16 {
        let path = segment_of(&directory(), number);
        let Ok(file) = files.open(&path, Access::Write) else { break };
        for block in 0..usize::try_from(file.bytes().unwrap()).unwrap() / BLOCK_BYTES {
            let at = (block * BLOCK_BYTES) as u64;
            let mut kept = [0; BLOCK_BYTES];
            file.read(at, &mut kept).unwrap();
            let mut damaged = kept;
            damaged[17] ^= 4;
            file.write(at, &damaged).unwrap();
            let (records, found) = read(&files);
            assert!(all.starts_with(&records));
            match found {
                Err(LogError::Damaged { position, .. }) => {
                    damaged_count += 1;
                    assert!(position < last && records.len() <= ends[usize::try_from(position).unwrap()]);
                }
                Ok(Some(found)) if found.position == last => assert_eq!(records, all, "it was padding"),
                Ok(Some(found)) => assert_eq!(found.position, last - 1, "the last batch"),
                other => panic!("block {block} of segment {number}: {other:?}"),
            }
            file.write(at, &kept).unwrap();
        }
    }
    assert!(damaged_count > 20, "{damaged_count}");
    assert_eq!(check(&files, last), last);
}

#[test]
fn what_a_snapshot_has_is_dropped_and_the_rest_is_read() {
    let files = new_files(2);
    let mut log = begin(&files, 0).unwrap();
    write(&mut log);
    let last = log.durable();
    assert_eq!(log.truncate(0).unwrap(), 0);
    let middle = last / 2;
    assert!(log.truncate(middle).unwrap() > 0);
    let (records, found) = read(&files);
    let found = found.unwrap().unwrap();
    assert!(found.after > 0 && found.after <= middle && found.position == last, "{found:?}");
    let (all, ends) = all_records();
    assert!(records == all[ends[usize::try_from(found.after).unwrap()]..]);
    // Another writer knows no better than where it begins.
    let mut next = begin(&files, last).unwrap();
    next.append(b"later", last + 1).unwrap();
    assert_eq!(next.sync().unwrap(), last + 1);
    next.truncate(last).unwrap();
    let (records, found) = read(&files);
    assert_eq!((records, found.unwrap()), (b"later".to_vec(), Some(Found { after: last, position: last + 1 })));
    remove_log(&files, &directory()).unwrap();
    remove_log(&files, &directory()).unwrap();
}

#[test]
fn records_beyond_what_may_wait_are_refused_until_a_sync_succeeds() {
    let files = new_files(3);
    let mut log = begin(&files, 0).unwrap();
    assert_eq!(log.sync().unwrap(), 0);
    log.append(&vec![1; PENDING_BYTES_MAX], 1).unwrap();
    assert!(matches!(log.append(&[2], 2), Err(LogError::Pending { .. })));
    assert_eq!(log.sync().unwrap(), 1);
    log.append(&[2], 2).unwrap();
    assert_eq!(log.sync().unwrap(), 2);
    let (records, _) = read(&files);
    assert_eq!(records.len(), PENDING_BYTES_MAX + 1);
}

#[test]
fn parts_without_a_position_are_read_before_what_they_belong_to_over_segments_and_cuts() {
    // Parts that a later record needs fill segments by themselves; a batch may come twice, none is left out.
    let part = |number: u8| vec![number; 3 * BLOCK_BYTES];
    let script = |files: &ModelFiles| -> (u8, bool) {
        let Ok(mut log) = begin(files, 0) else { return (0, false) };
        for number in 1..=9 {
            log.append(&part(number), 0).unwrap();
            if log.sync().is_err() {
                return (number - 1, false);
            }
        }
        log.append(b"the record that they belong to", 1).unwrap();
        (9, log.sync().is_ok())
    };
    let files = new_files(0);
    let before = files.calls();
    assert_eq!(script(&files), (9, true));
    for at in 0..files.calls() - before {
        for seed in 0..CUTS_PER_CALL {
            let files = new_files(at * 13 + seed);
            files.set_fault(Fault::Cut { at: files.calls() + at });
            let (parts, is_whole) = script(&files);
            let files = files.after_cut(seed);
            let mut numbers = Vec::new();
            let found = read_log(&files, &directory(), 0, &mut |batch| {
                if batch.position == 0 {
                    numbers.extend(batch.records.chunks(3 * BLOCK_BYTES).map(|part| part[0]));
                }
            });
            let found = found.expect("a torn end is no damage");
            assert_eq!(
                found.map_or(0, |found| found.position) == 1,
                is_whole || numbers.len() == 9 && found.is_some_and(|found| found.position == 1)
            );
            numbers.dedup();
            assert!(numbers.iter().copied().eq(1..=u8::try_from(numbers.len()).unwrap()), "{numbers:?}");
            assert!(numbers.len() >= usize::from(parts), "{parts} parts were durable, {numbers:?} are there");
        }
    }
}

#[test]
fn whichever_removed_segments_come_back_what_is_needed_is_read() {
    let (all, ends) = all_records();
    let last = ends.len() as u64 - 1;
    let mut left_out = 0;
    for kept in (0..=last).step_by(7) {
        for seed in 0..64 {
            let files = new_files(seed);
            let mut log = begin(&files, 0).unwrap();
            assert!(write(&mut log).1.is_none());
            log.truncate(kept).unwrap();
            drop(log);
            let files = files.after_cut(seed);
            let mut records = Vec::new();
            let found = read_log(&files, &directory(), kept, &mut |batch| records.extend_from_slice(batch.records));
            let found = found.unwrap().expect("the last segment is there");
            assert!(found.after <= kept && found.position == last, "{found:?} of {last}, {kept} are kept elsewhere");
            assert!(records == all[ends[usize::try_from(found.after).unwrap()]..], "from {found:?} on");
            left_out += usize::from(read_log(&files, &directory(), 0, &mut |_| ()).is_err());
        }
    }
    assert!(left_out > 0, "no cut has left a gap");
}

#[test]
fn what_is_longer_than_any_segment_is_refused_and_not_read() {
    let files = new_files(4);
    let mut log = begin(&files, 0).unwrap();
    let error = log.append(&vec![1; APPEND_BYTES_MAX + 1], 1).unwrap_err();
    assert!(matches!(error, LogError::TooLong { .. }), "{error}");
    log.append(&[1], 1).unwrap();
    assert_eq!(log.sync().unwrap(), 1);
    let file = files.open(&segment_of(&directory(), 0), Access::Write).unwrap();
    file.reserve(SEGMENT_BYTES_MAX as u64 + 1).unwrap();
    assert!(matches!(read(&files).1, Err(LogError::Damaged { .. })));
}
