//! What every backend must do, checked on a real one: the invariants at the head of `praas_storage::backend`, one function a
//! sentence. A backend's own test file opens it and calls [`check`]; what only that backend can go wrong at is tested there.
//!
//! Each sentence has a *room* of its own: a store with nothing in it. Opening a room again gives another handle on the same
//! store, as a second server would have it.

mod blobs;
mod lists;
mod manifests;
mod random;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use praas_storage::{Backend, BlobName, Folder};

pub(crate) use self::random::Random;

/// Threads that work at once, where a sentence is about several.
const THREADS: usize = 8;

/// Sentences that are checked at once, each in its room: a disk and a bucket are waited for most of the time.
const SENTENCES_AT_ONCE: usize = 3;

/// What makes handles on stores.
pub(crate) type Open<'a> = &'a (dyn Fn(&str) -> Arc<dyn Backend> + Sync);

/// A room, and the randomness of one sentence.
pub(crate) struct Room<'a> {
    open: Open<'a>,
    name: &'static str,
    seed: u64,
}

impl Room<'_> {
    /// Another handle on the room's store.
    pub(crate) fn handle(&self) -> Arc<dyn Backend> {
        (self.open)(self.name)
    }

    /// Numbers that the printed seed makes again; `stream` tells threads apart.
    pub(crate) fn random(&self, stream: u64) -> Random {
        Random::new(self.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Sets the seed of a run, to repeat one that failed.
const SEED_VARIABLE: &str = "PRAAS_SEED";

type Sentence = (&'static str, fn(&Room<'_>));

const SENTENCES: &[Sentence] = &[
    ("blobs-of-all-sizes", blobs::blobs_of_all_sizes_come_back_as_they_were_written),
    ("any-range", blobs::any_range_of_a_blob_can_be_read),
    ("past-the-end", blobs::a_read_past_the_end_says_how_long_the_blob_is),
    ("missing", blobs::what_was_never_written_is_missing),
    ("too-large", blobs::what_is_too_large_is_refused_and_leaves_nothing),
    ("whole-or-not", blobs::a_blob_is_seen_whole_or_not_at_all),
    ("numbers", blobs::every_number_names_a_blob_of_its_own),
    ("many-threads", blobs::many_threads_work_at_once),
    ("manifest", manifests::a_manifest_is_replaced_only_by_who_names_it),
    ("no-return", manifests::a_revision_never_comes_again),
    ("first-race", manifests::of_racing_first_publishers_one_wins),
    ("race", manifests::of_racing_publishers_one_wins_and_no_increment_is_lost),
    ("never-torn", manifests::a_manifest_is_read_whole_while_it_is_replaced),
    ("blobs-listed", lists::blobs_are_listed_in_order_and_in_pages),
    ("folders-listed", lists::folders_are_listed_in_order_and_in_pages),
    ("removed", lists::removed_blobs_are_gone_and_others_stay),
    ("folder-removed", lists::a_removed_folder_is_gone_and_its_neighbours_stay),
];

/// Checks all sentences, several at once; `secrets` are texts that must never be shown.
pub(crate) fn check(backend: &str, open: Open<'_>, secrets: &[&str]) {
    let mut seeds = random::from_the_system();
    let given = std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("PRAAS_SEED is a number"));
    let seeded = SENTENCES.iter().map(|sentence| (sentence, given.unwrap_or_else(|| seeds.next())));
    let left = Mutex::new(seeded.collect::<Vec<_>>().into_iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(((name, sentence), seed)) = next() {
            println!("{backend}: {name} ({SEED_VARIABLE}={seed})");
            let began = Instant::now();
            let room = Room { open, name, seed };
            sentence(&room);
            shows_no_secrets(&*room.handle(), secrets);
            println!("{backend}: {name} holds ({} ms)", began.elapsed().as_millis());
        }
    };
    thread::scope(|scope| {
        for _ in 1..SENTENCES_AT_ONCE {
            scope.spawn(work);
        }
        work();
    });
}

/// A backend's name, its `Debug` and its errors say where it is, and nothing that is secret.
fn shows_no_secrets(backend: &dyn Backend, secrets: &[&str]) {
    let place = backend.place();
    assert!(!place.is_empty());
    let absent = BlobName { folder: folder("nowhere/to-be-found", 1), number: 1 };
    let error = backend.read(&absent, 0, &mut [0]).expect_err("there is no such blob");
    for shown in [place, format!("{backend:?}"), error.to_string(), format!("{error:?}")] {
        for secret in secrets {
            assert!(!shown.contains(secret), "`{shown}` shows a secret");
        }
    }
}

fn folder(process: &str, incarnation: u64) -> Folder {
    Folder { process: process.parse().expect("a process id"), incarnation }
}

fn blob(number: u128) -> BlobName {
    BlobName { folder: folder("notes/alice", 1), number }
}

/// Reads a range of a blob.
fn read(backend: &dyn Backend, blob: &BlobName, range: Range<usize>) -> Vec<u8> {
    let mut bytes = vec![0xee; range.len()];
    backend.read(blob, range.start as u64, &mut bytes).expect("it is there");
    bytes
}

/// The same on as many threads as [`THREADS`] says, each with a handle of its own; what each made.
fn on_threads<T: Send>(room: &Room<'_>, work: impl Fn(usize, &dyn Backend) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..THREADS)
            .map(|index| {
                scope.spawn(move || {
                    let backend = room.handle();
                    work(index, &*backend)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}
