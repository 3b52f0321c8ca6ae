//! The backend in a bucket, on a way to a real server on which things go wrong.
#![cfg(feature = "s3")]

mod buckets;
mod proxy;
mod servers;

use std::thread;

use buckets::{seaweedfs, settings};
use praas_storage::s3::{S3Backend, S3Settings};
use praas_storage::{Backend, BlobName, Folder, StorageError};
use proxy::{Proxy, Trouble};

/// Longer than what travels in one piece.
const LONG_BYTES: usize = (20 << 20) + 11;
/// A limit that a test waits for.
const SHORT_LIMIT_MS: u64 = 1500;

/// The one of which it must be known that nobody knows.
const PUBLISH: &str = "publish";

type Operation<'o> = &'o (dyn Fn() -> Result<(), StorageError> + Sync);

/// What comes of an operation that may be late a few times, on a host that does much else.
fn in_time<T>(operation: impl Fn() -> Result<T, StorageError>) -> T {
    let done = (0..20).find_map(|_| match operation() {
        Err(StorageError::Late { .. }) => None,
        done => Some(done.expect("it succeeds")),
    });
    done.expect("it succeeds in time once")
}

fn blob(number: u128) -> BlobName {
    BlobName { folder: Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 }, number }
}

fn bytes(count: usize, salt: u8) -> Vec<u8> {
    (0..count).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1] ^ at.to_le_bytes()[2] ^ salt).collect()
}

fn holds(backend: &S3Backend, number: u128, expected: &[u8]) {
    let mut read = vec![0; expected.len()];
    backend.read(&blob(number), 0, &mut read).expect("it is there");
    assert!(read == expected, "blob {number} is not as it was written");
}

#[test]
fn what_a_server_fails_at_for_a_moment_is_done_again() {
    let Some((_server, port)) = seaweedfs() else { return };
    let proxy = Proxy::to(port);
    let backend = S3Backend::open(settings(proxy.port(), "moments")).expect("it opens");
    let (short, long) = (bytes(1000, 1), bytes(LONG_BYTES, 2));
    let of = blob(0).folder;
    let mut revision = None;
    let moments = [
        Trouble { busy: 2, ..Trouble::default() },
        Trouble { lost: 2, ..Trouble::default() },
        Trouble { cut: 2, ..Trouble::default() },
    ];
    for (round, trouble) in (0_u8..).zip(moments) {
        let number = u128::from(round) * 10;
        let step = |what: &str, done: &mut dyn FnMut()| {
            proxy.set(trouble);
            done();
            let left = proxy.left();
            // All of it met this step, but that only long answers are cut.
            assert!(left == Trouble::default() || trouble.cut > 0, "{what} after {trouble:?}, left {left:?}");
            assert!(left.cut == 0 || what != "read long", "{what} after {trouble:?}, left {left:?}");
            proxy.set(Trouble::default());
        };
        step("put", &mut || backend.put(&blob(number), &short).expect("it is written"));
        step("put long", &mut || backend.put(&blob(number + 1), &long).expect("it is written"));
        step("read", &mut || holds(&backend, number, &short));
        step("read long", &mut || holds(&backend, number + 1, &long));
        step("publish", &mut || {
            let published = backend.publish(&of, revision.as_ref(), &[round; 70_000]);
            revision = Some(published.expect("it is published, and that is known"));
        });
        step("manifest", &mut || {
            let present = backend.manifest(&of).expect("it answers").expect("it is there");
            assert_eq!(Some(&present.revision), revision.as_ref());
            assert!(present.bytes == [round; 70_000]);
        });
        step("list", &mut || {
            let listed = backend.blobs(&of, None).expect("it answers");
            assert_eq!(listed.last().map(|it| (it.blob, it.bytes)), Some((blob(number + 1), LONG_BYTES as u64)));
        });
        step("remove", &mut || backend.remove(&[blob(number)]).expect("it is removed"));
        assert!(matches!(backend.read(&blob(number), 0, &mut [0]), Err(StorageError::Missing { .. })));
    }
}

#[test]
fn what_a_server_fails_at_all_the_time_ends_typed_and_within_the_limit() {
    let Some((_server, port)) = seaweedfs() else { return };
    let proxy = Proxy::to(port);
    let patient = S3Backend::open(settings(port, "always")).expect("it opens");
    patient.put(&blob(1), b"bytes").expect("it is written");
    // Opened with more patience than it has later, as a server that has just started may need it.
    let settings = S3Settings { operation_limit_ms: SHORT_LIMIT_MS, ..settings(proxy.port(), "always") };
    let backend = in_time(|| S3Backend::open(settings.clone()));
    let long = bytes(LONG_BYTES, 3);
    let troubles = [
        Trouble { busy: u32::MAX, ..Trouble::default() },
        Trouble { lost: u32::MAX, ..Trouble::default() },
        Trouble { held: true, ..Trouble::default() },
    ];
    for trouble in troubles {
        proxy.set(trouble);
        // All at once: each of them waits for its limit.
        let operations: [(&str, Operation<'_>); 7] = [
            ("put", &|| backend.put(&blob(2), &long)),
            ("read", &|| backend.read(&blob(1), 0, &mut [0; 5])),
            ("manifest", &|| backend.manifest(&blob(1).folder).map(drop)),
            ("blobs", &|| backend.blobs(&blob(1).folder, None).map(drop)),
            ("folders", &|| backend.folders(None).map(drop)),
            ("remove", &|| backend.remove(&[blob(1)])),
            (PUBLISH, &|| backend.publish(&blob(1).folder, None, b"manifest").map(drop)),
        ];
        thread::scope(|scope| {
            for (what, operation) in operations {
                scope.spawn(move || {
                    let error = operation().expect_err("nothing comes through");
                    let is_late = matches!(error, StorageError::Late { limit_ms: SHORT_LIMIT_MS, .. });
                    let is_typed = is_late || (what != PUBLISH && matches!(error, StorageError::Failed { .. }));
                    assert!(is_typed, "{what} under {trouble:?}: {error}");
                });
            }
        });
        proxy.set(Trouble::default());
        // What was late may have happened, or happen yet; what is there is whole, and what comes next goes on from it.
        loop {
            let present = patient.manifest(&blob(1).folder).expect("it answers again");
            assert!(present.as_ref().is_none_or(|present| present.bytes == b"manifest"));
            let revision = present.map(|present| present.revision);
            match patient.publish(&blob(1).folder, revision.as_ref(), b"next") {
                Ok(_) => break,
                Err(StorageError::Conflict { .. }) => println!("the late publish came in between"),
                Err(error) => panic!("{error}"),
            }
        }
        let again = in_time(|| backend.manifest(&blob(1).folder));
        assert_eq!(again.map(|published| published.bytes).as_deref(), Some(b"next".as_slice()));
        patient.remove_folder(&blob(1).folder).expect("it is removed");
        assert_eq!(patient.blobs(&blob(1).folder, None).expect("it answers"), Vec::new());
        patient.put(&blob(1), b"bytes").expect("it is written again");
    }
}
