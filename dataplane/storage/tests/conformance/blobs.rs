//! Blobs: whole or not at all, and as they were written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use praas_storage::backend::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};
use praas_storage::{BlobName, StorageError};

use super::{Random, Room, blob, folder, on_threads, read};

/// Around sectors, pages, buffers of sockets, parts of uploads, and both ends.
const SIZES: [usize; 16] = [
    0,
    1,
    511,
    512,
    4095,
    4096,
    4097,
    (64 << 10) - 1,
    (64 << 10) + 1,
    (1 << 20) + 3,
    5 << 20,
    8 << 20,
    (8 << 20) + 1,
    (16 << 20) - 1,
    (33 << 20) + 513,
    BLOB_BYTES_MAX,
];

/// Longer than what any backend moves in one piece.
const LONG_BYTES: usize = (20 << 20) + 17;
const RANGES: usize = 60;
/// Blobs that are written while others look at them.
const WATCHED: u128 = 12;
const WATCHED_BYTES: usize = (9 << 20) + 5;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const STEPS_PER_THREAD: usize = 60;
const STEP_BYTES_MAX: usize = 200_000;

pub(crate) fn blobs_of_all_sizes_come_back_as_they_were_written(room: &Room<'_>) {
    let (writer, reader, mut random) = (room.handle(), room.handle(), room.random(0));
    for (number, size) in SIZES.into_iter().enumerate() {
        let (name, bytes) = (blob(number as u128), random.bytes(size));
        writer.put(&name, &bytes).expect("it is written");
        assert!(read(&*reader, &name, 0..size) == bytes, "{size} bytes");
        // The longest are not wanted again.
        if size > LONG_BYTES {
            writer.remove(&[name]).expect("it is removed");
        }
    }
    writer.flush(&blob(0).folder).expect("it lasts");
    let mut random = room.random(0);
    for (number, size) in SIZES.into_iter().enumerate() {
        let bytes = random.bytes(size);
        assert!(size > LONG_BYTES || read(&*reader, &blob(number as u128), 0..size) == bytes, "{size} bytes, later");
    }
}

pub(crate) fn any_range_of_a_blob_can_be_read(room: &Room<'_>) {
    let (backend, mut random) = (room.handle(), room.random(0));
    let bytes = random.bytes(LONG_BYTES);
    backend.put(&blob(1), &bytes).expect("it is written");
    let fixed = [0..0, 0..1, LONG_BYTES - 1..LONG_BYTES, LONG_BYTES..LONG_BYTES, 1..LONG_BYTES, 4095..8193];
    let random_ones = (0..RANGES).map(|_| {
        let end = 2 << random.below(24);
        let length = random.below(end).min(LONG_BYTES);
        let from = random.below(LONG_BYTES - length + 1);
        from..from + length
    });
    for range in fixed.into_iter().chain(random_ones) {
        assert!(read(&*backend, &blob(1), range.clone()) == bytes[range.clone()], "bytes {range:?}");
    }
}

pub(crate) fn a_read_past_the_end_says_how_long_the_blob_is(room: &Room<'_>) {
    let backend = room.handle();
    for (number, size) in [(1, 0_usize), (2, 1), (3, 5000), (4, (10 << 20) + 1)] {
        backend.put(&blob(number), &vec![7; size]).expect("it is written");
        let ends = [(0, size + 1), (size as u64, 1), (size as u64 + 1, 0), (size as u64 + 9000, 3)];
        for (offset, length) in ends.into_iter().chain([(u64::MAX, 1), (1 << 40, 4096), (size as u64 / 2, size + 1)]) {
            let error = backend.read(&blob(number), offset, &mut vec![0; length]);
            let error = error.expect_err("it ends before that");
            let StorageError::Truncated { blob: name, expected, actual, .. } = &error else {
                panic!("{length} bytes at {offset} of {size}: {error}");
            };
            let wanted = (blob(number), offset.saturating_add(length as u64), size as u64);
            assert_eq!((**name, *expected, *actual), wanted, "{error}");
        }
    }
}

pub(crate) fn what_was_never_written_is_missing(room: &Room<'_>) {
    let backend = room.handle();
    let is_missing = |name: &BlobName, length: usize| {
        let error = backend.read(name, 0, &mut vec![0; length]).expect_err("it was never written");
        assert!(matches!(&error, StorageError::Missing { blob, .. } if **blob == *name), "{error}");
        assert!(error.to_string().contains(&name.to_string()), "{error}");
    };
    // In a folder that is not there, and beside what is there.
    is_missing(&blob(1), 10);
    is_missing(&blob(1), 0);
    backend.put(&blob(2), b"here").expect("it is written");
    backend.publish(&blob(1).folder, None, b"a manifest").expect("it is published");
    is_missing(&blob(1), 10);
    is_missing(&blob(1), 0);
    is_missing(&BlobName { folder: folder("notes/alice", 2), number: 2 }, 1);
    is_missing(&BlobName { folder: folder("notes/alic", 1), number: 2 }, 1);
    is_missing(&blob(1), 12 << 20);
    assert_eq!(backend.manifest(&folder("notes/alice", 2)).expect("it answers"), None);
    backend.flush(&folder("notes/nobody", 1)).expect("there is nothing to do");
}

pub(crate) fn what_is_too_large_is_refused_and_leaves_nothing(room: &Room<'_>) {
    let backend = room.handle();
    let too_long = vec![0; BLOB_BYTES_MAX + 1];
    let refused = |error: StorageError, bytes: usize| {
        let StorageError::TooLarge { bytes: actual, limit, .. } = error else { panic!("{error}") };
        assert_eq!((actual, limit), (bytes as u64, bytes as u64 - 1));
    };
    refused(backend.put(&blob(1), &too_long).expect_err("it is too long"), too_long.len());
    let manifest = &too_long[..=MANIFEST_BYTES_MAX];
    refused(backend.publish(&blob(1).folder, None, manifest).expect_err("it is too long"), manifest.len());
    assert_eq!(backend.manifest(&blob(1).folder).expect("it answers"), None);
    assert_eq!(backend.blobs(&blob(1).folder, None).expect("it answers"), Vec::new());
    assert_eq!(backend.folders(None).expect("it answers"), Vec::new());
    backend.publish(&blob(1).folder, None, &manifest[1..]).expect("that is not too long");
    let published = backend.manifest(&blob(1).folder).expect("it answers").expect("it is there");
    assert!(published.bytes == manifest[1..]);
}

pub(crate) fn a_blob_is_seen_whole_or_not_at_all(room: &Room<'_>) {
    let done = AtomicBool::new(false);
    let written = |number: u128| Random::new(u64::try_from(number).unwrap()).bytes(WATCHED_BYTES);
    thread::scope(|scope| {
        let watchers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let backend = room.handle();
                    let (mut seen, mut into) = (0, vec![0; WATCHED_BYTES]);
                    while seen < WATCHED {
                        let last_look = done.load(Ordering::Acquire);
                        match backend.read(&blob(seen), 0, &mut into) {
                            Ok(()) => {
                                assert!(into == written(seen), "blob {seen} is not as it was written");
                                seen += 1;
                            }
                            Err(StorageError::Missing { .. }) => {
                                assert!(!last_look, "blob {seen} never came");
                                // Else three who ask take the only core from the one who writes.
                                thread::sleep(LOOK_EVERY);
                            }
                            Err(error) => panic!("blob {seen} was seen in parts: {error}"),
                        }
                    }
                })
            })
            .collect();
        let lister = scope.spawn(|| {
            let backend = room.handle();
            while !done.load(Ordering::Acquire) {
                for entry in backend.blobs(&blob(0).folder, None).expect("it answers") {
                    assert_eq!(entry.bytes, WATCHED_BYTES as u64, "{} is listed in parts", entry.blob);
                }
                thread::sleep(LOOK_EVERY);
            }
        });
        let backend = room.handle();
        for number in 0..WATCHED {
            backend.put(&blob(number), &written(number)).expect("it is written");
        }
        done.store(true, Ordering::Release);
        lister.join().expect("the lists are right");
        watchers.into_iter().for_each(|watcher| watcher.join().expect("the blobs are right"));
    });
}

pub(crate) fn every_number_names_a_blob_of_its_own(room: &Room<'_>) {
    let backend = room.handle();
    let long = "x".repeat(63);
    let numbers = [0, 1, 15, 16, u128::from(u64::MAX), 1 << 64, 1 << 127, u128::MAX];
    let folders = [
        folder("a/b", 0),
        folder("a/b", 1),
        folder("a/b", u64::MAX),
        folder("a.b/c", 0),
        folder("a/b.c", 0),
        folder("a-b/0_9", 0),
        folder(&format!("{long}/{long}"), 0),
    ];
    let all: Vec<_> =
        folders.into_iter().flat_map(|folder| numbers.map(|number| BlobName { folder, number })).collect();
    for name in &all {
        backend.put(name, name.to_string().as_bytes()).expect("it is written");
    }
    for name in &all {
        let text = name.to_string();
        assert_eq!(read(&*backend, name, 0..text.len()), text.as_bytes());
    }
    for folder in folders {
        let listed = backend.blobs(&folder, None).expect("it answers");
        assert_eq!(listed.iter().map(|it| it.blob.number).collect::<Vec<_>>(), numbers, "{folder}");
        backend.flush(&folder).expect("it lasts");
    }
}

/// Each thread has blobs of its own and a model of them; all are in one folder.
pub(crate) fn many_threads_work_at_once(room: &Room<'_>) {
    let models = on_threads(room, |thread, backend| {
        let mut random = room.random(thread as u64 + 1);
        let mut model: BTreeMap<BlobName, Vec<u8>> = BTreeMap::new();
        for step in 0..STEPS_PER_THREAD {
            let known = (!model.is_empty()).then(|| *model.keys().nth(random.below(model.len())).unwrap());
            match (random.below(10), known) {
                (0..6, _) | (_, None) => {
                    let name = blob(((thread as u128) << 64) + step as u128);
                    let length = random.below(STEP_BYTES_MAX);
                    let bytes = random.bytes(length);
                    backend.put(&name, &bytes).expect("it is written");
                    model.insert(name, bytes);
                }
                (6..8, Some(name)) => {
                    let bytes = &model[&name];
                    assert!(read(backend, &name, 0..bytes.len()) == *bytes, "{name}");
                }
                (8, Some(name)) => {
                    backend.remove(&[name]).expect("it is removed");
                    model.remove(&name);
                }
                _ => backend.flush(&blob(0).folder).expect("it lasts"),
            }
        }
        model
    });
    let all: BTreeMap<_, _> = models.into_iter().flatten().collect();
    let backend = room.handle();
    let listed = backend.blobs(&blob(0).folder, None).expect("it answers");
    let expected: Vec<_> = all.iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect();
    assert_eq!(listed.iter().map(|it| (it.blob, it.bytes)).collect::<Vec<_>>(), expected);
    for (name, bytes) in &all {
        assert!(read(&*backend, name, 0..bytes.len()) == *bytes, "{name}");
    }
}
