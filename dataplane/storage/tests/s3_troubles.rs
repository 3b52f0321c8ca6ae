//! The backend in a bucket, on a way to a real server on which things go wrong.
#![cfg(feature = "s3")]

mod buckets;
mod proxy;
mod servers;

use std::time::Instant;

use buckets::{seaweedfs, settings};
use praas_storage::s3::{S3Backend, S3Settings};
use praas_storage::{Backend, BlobName, Folder, StorageError};
use proxy::{Proxy, Trouble};

/// Longer than what travels in one piece.
const LONG_BYTES: usize = (20 << 20) + 11;
/// A limit that a test waits for.
const SHORT_LIMIT_MS: u64 = 4000;

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
            println!("{what} after {trouble:?}, left {:?}", proxy.left());
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
    // A server that has just started is slow with its first writes.
    drop(S3Backend::open(settings(port, "first")).expect("it opens"));
    let settings = S3Settings { operation_limit_ms: SHORT_LIMIT_MS, ..settings(proxy.port(), "always") };
    let backend = S3Backend::open(settings).expect("it opens");
    backend.put(&blob(1), b"bytes").expect("it is written");
    let troubles = [
        Trouble { busy: u32::MAX, ..Trouble::default() },
        Trouble { lost: u32::MAX, ..Trouble::default() },
        Trouble { held: true, ..Trouble::default() },
    ];
    for trouble in troubles {
        proxy.set(trouble);
        let results = [
            ("put", backend.put(&blob(2), &bytes(LONG_BYTES, 3))),
            ("read", backend.read(&blob(1), 0, &mut [0; 5])),
            ("manifest", backend.manifest(&blob(1).folder).map(drop)),
            ("blobs", backend.blobs(&blob(1).folder, None).map(drop)),
            ("folders", backend.folders(None).map(drop)),
            ("remove", backend.remove(&[blob(1)])),
        ];
        for (what, result) in results {
            let error = result.expect_err("nothing comes through");
            let is_typed = matches!(error, StorageError::Late { .. } | StorageError::Failed { .. });
            assert!(is_typed, "{what} under {trouble:?}: {error}");
        }
        let began = Instant::now();
        let error = backend.publish(&blob(1).folder, None, b"manifest").expect_err("nothing comes through");
        assert!(matches!(error, StorageError::Late { limit_ms: SHORT_LIMIT_MS, .. }), "{trouble:?}: {error}");
        println!("publish under {trouble:?} gave up after {} ms", began.elapsed().as_millis());
        proxy.set(Trouble::default());
        // What was late may have happened, or happen yet; what is there is whole, and what comes next goes on from it.
        loop {
            let present = backend.manifest(&blob(1).folder).expect("it answers again");
            assert!(present.as_ref().is_none_or(|present| present.bytes == b"manifest"));
            let revision = present.map(|present| present.revision);
            match backend.publish(&blob(1).folder, revision.as_ref(), b"next") {
                Ok(_) => break,
                Err(StorageError::Conflict { .. }) => println!("the late publish came in between"),
                Err(error) => panic!("{error}"),
            }
        }
        backend.remove_folder(&blob(1).folder).expect("it is removed");
        assert_eq!(backend.blobs(&blob(1).folder, None).expect("it answers"), Vec::new());
        backend.put(&blob(1), b"bytes").expect("it is written again");
    }
}
