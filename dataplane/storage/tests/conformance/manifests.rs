//! Manifests: one a folder, replaced only by who names the one that is there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use praas_storage::backend::MANIFEST_BYTES_MAX;
use praas_storage::{Backend, Folder, Published, Revision, StorageError};

use super::{Room, THREADS, folder, on_threads};

const RACES: usize = 10;
const INCREMENTS_PER_THREAD: usize = 3;
const REPLACEMENTS: u8 = 16;
/// As large as manifests of large processes are.
const LARGE_BYTES: usize = 1 << 20;

fn there(backend: &dyn Backend, of: &Folder) -> Published {
    backend.manifest(of).expect("it answers").expect("it is there")
}

fn is_conflict(result: Result<Revision, StorageError>, of: &Folder) {
    let error = result.expect_err("it is not the newest");
    assert!(matches!(&error, StorageError::Conflict { folder, .. } if **folder == *of), "{error}");
}

pub(crate) fn a_manifest_is_replaced_only_by_who_names_it(room: &Room<'_>) {
    let (ours, theirs, mut random) = (room.handle(), room.handle(), room.random(0));
    let of = folder("notes/alice", 1);
    assert_eq!(ours.manifest(&of).expect("it answers"), None);
    is_conflict(ours.publish(&of, Some(&Revision("of nothing".to_owned())), b"x"), &of);
    let first = ours.publish(&of, None, b"first").expect("there is none");
    assert_eq!(there(&*theirs, &of), Published { revision: first.clone(), bytes: b"first".to_vec() });
    is_conflict(theirs.publish(&of, None, b"also first"), &of);
    let second = theirs.publish(&of, Some(&first), b"second").expect("it is the newest");
    is_conflict(ours.publish(&of, Some(&first), b"also second"), &of);
    is_conflict(ours.publish(&of, None, b"first again"), &of);
    assert_eq!(there(&*ours, &of), Published { revision: second.clone(), bytes: b"second".to_vec() });
    let mut last = second;
    for size in [0, 1, LARGE_BYTES, MANIFEST_BYTES_MAX, 3] {
        let bytes = random.bytes(size);
        last = ours.publish(&of, Some(&last), &bytes).expect("it is the newest");
        assert!(there(&*theirs, &of) == Published { revision: last.clone(), bytes }, "{size} bytes");
    }
    // Another life of the process is another folder.
    assert_eq!(ours.manifest(&folder("notes/alice", 2)).expect("it answers"), None);
}

pub(crate) fn a_revision_never_comes_again(room: &Room<'_>) {
    let (backend, of) = (room.handle(), folder("notes/alice", 1));
    let first = backend.publish(&of, None, b"same").expect("there is none");
    let second = backend.publish(&of, Some(&first), b"same").expect("it is the newest");
    assert_ne!(first, second, "the same bytes, published anew, are another revision");
    is_conflict(backend.publish(&of, Some(&first), b"late"), &of);
    backend.remove_folder(&of).expect("it is removed");
    is_conflict(backend.publish(&of, Some(&second), b"late"), &of);
    assert_eq!(backend.manifest(&of).expect("it answers"), None, "a refused publish leaves nothing");
    let third = backend.publish(&of, None, b"same").expect("there is none");
    for older in [&first, &second] {
        assert_ne!(*older, third);
        is_conflict(backend.publish(&of, Some(older), b"late"), &of);
    }
    assert_eq!(there(&*backend, &of).revision, third);
}

/// A handle for each thread, as so many servers would have; opening one takes longer than most races.
fn racers(room: &Room<'_>) -> Vec<Arc<dyn Backend>> {
    (0..THREADS).map(|_| room.handle()).collect()
}

/// All at once; who won, of so many threads.
fn race(racers: &[Arc<dyn Backend>], of: &Folder, replaces: Option<&Revision>) -> (usize, Revision) {
    let start = &Barrier::new(racers.len());
    let results: Vec<_> = thread::scope(|scope| {
        let publishing: Vec<_> = racers
            .iter()
            .enumerate()
            .map(|(thread, backend)| {
                scope.spawn(move || {
                    start.wait();
                    backend.publish(of, replaces, format!("of thread {thread}").as_bytes())
                })
            })
            .collect();
        publishing.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    let mut won = Vec::new();
    for (thread, result) in results.into_iter().enumerate() {
        match result {
            Ok(revision) => won.push((thread, revision)),
            lost => is_conflict(lost, of),
        }
    }
    assert_eq!(won.len(), 1, "one wins: {won:?}");
    won.pop().expect("one won")
}

pub(crate) fn of_racing_first_publishers_one_wins(room: &Room<'_>) {
    let (backend, racers) = (room.handle(), racers(room));
    for round in 0..RACES as u64 {
        let of = folder("notes/alice", round);
        let (thread, revision) = race(&racers, &of, None);
        let expected = Published { revision, bytes: format!("of thread {thread}").into_bytes() };
        assert_eq!(there(&*backend, &of), expected);
    }
}

pub(crate) fn of_racing_publishers_one_wins_and_no_increment_is_lost(room: &Room<'_>) {
    let (backend, of) = (room.handle(), folder("notes/alice", 1));
    let mut last = backend.publish(&of, None, b"start").expect("there is none");
    let racers = racers(room);
    for _ in 0..RACES {
        let (thread, revision) = race(&racers, &of, Some(&last));
        let expected = Published { revision: revision.clone(), bytes: format!("of thread {thread}").into_bytes() };
        assert_eq!(there(&*backend, &of), expected);
        last = revision;
    }
    let counter = folder("notes/counter", 1);
    backend.publish(&counter, None, b"0").expect("there is none");
    let count = |published: &Published| -> usize { String::from_utf8_lossy(&published.bytes).parse().unwrap() };
    on_threads(room, |_, backend| {
        let mut left = INCREMENTS_PER_THREAD;
        while left > 0 {
            let present = there(backend, &counter);
            let next = (count(&present) + 1).to_string();
            match backend.publish(&counter, Some(&present.revision), next.as_bytes()) {
                Ok(_) => left -= 1,
                conflict => is_conflict(conflict, &counter),
            }
        }
    });
    assert_eq!(count(&there(&*backend, &counter)), THREADS * INCREMENTS_PER_THREAD);
}

pub(crate) fn a_manifest_is_read_whole_while_it_is_replaced(room: &Room<'_>) {
    let (backend, of, done) = (room.handle(), folder("notes/alice", 1), AtomicBool::new(false));
    // Of different lengths, each of one byte repeated.
    let manifest = |round: u8| vec![round; LARGE_BYTES + usize::from(round) * 1000];
    let mut last = backend.publish(&of, None, &manifest(0)).expect("there is none");
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (backend, mut newest) = (room.handle(), 0);
                    while !done.load(Ordering::Acquire) {
                        let seen = there(&*backend, &of);
                        assert!(seen.bytes == manifest(seen.bytes[0]), "a manifest was read in parts");
                        assert!(seen.bytes[0] >= newest, "an older manifest came back");
                        newest = seen.bytes[0];
                    }
                })
            })
            .collect();
        for round in 1..REPLACEMENTS {
            last = backend.publish(&of, Some(&last), &manifest(round)).expect("it is the newest");
            assert!(there(&*backend, &of).bytes == manifest(round), "the newest is read once publish has returned");
        }
        done.store(true, Ordering::Release);
        readers.into_iter().for_each(|reader| reader.join().expect("all reads are whole"));
    });
}
