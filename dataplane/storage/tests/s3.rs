//! The backend in a bucket, on real servers: SeaweedFS, which honours conditional writes, and rclone, which does not.
#![cfg(feature = "s3")]

mod buckets;
mod conformance;
mod servers;

use std::net::TcpListener;
use std::sync::Arc;

use buckets::{KEY, READER_KEY, READER_SECRET, SECRET, rclone, seaweedfs, settings};
use praas_storage::s3::{S3Backend, S3Settings};
use praas_storage::{Backend, BlobName, Folder, StorageError};
use servers::free_ports;

#[test]
fn seaweedfs_does_what_every_backend_must() {
    let Some((_server, port)) = seaweedfs() else { return };
    let open = |room: &str| -> Arc<dyn Backend> {
        Arc::new(S3Backend::open(settings(port, &format!("rooms/{room}"))).expect("it opens"))
    };
    conformance::check("s3", &open, &[SECRET, KEY]);
}

#[test]
fn what_is_wrong_with_bucket_credentials_or_address_is_told_when_it_is_opened() {
    let Some((_server, port)) = seaweedfs() else { return };
    let refused = |settings: S3Settings| S3Backend::open(settings).map(drop).expect_err("it is refused");
    let right = settings(port, "wrong");
    let error = refused(S3Settings { bucket: "no-such-bucket".to_owned(), ..right.clone() });
    assert!(matches!(error, StorageError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("no bucket no-such-bucket"), "{error}");
    for (access_key, secret_key) in [(KEY, "wrong"), ("nobody", SECRET), (READER_KEY, READER_SECRET)] {
        let error = refused(S3Settings {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            ..right.clone()
        });
        assert!(matches!(error, StorageError::Denied { .. }), "{access_key}: {error}");
        assert!(!error.to_string().contains(SECRET), "{error}");
    }
    // A port that nobody listens on.
    let [nobody] = free_ports();
    let quick = |settings: S3Settings| S3Settings { operation_limit_ms: 1500, ..settings };
    let error = refused(quick(settings(nobody, "")));
    assert!(matches!(error, StorageError::Unusable { .. } | StorageError::Late { .. }), "{error}");
    // One that accepts and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it is bound").port();
    let error = refused(quick(settings(port, "")));
    assert!(matches!(error, StorageError::Late { limit_ms: 1500, .. }), "{error}");
}

#[test]
fn a_server_that_ends_in_between_is_told_and_comes_to_no_harm() {
    let Some((server, port)) = seaweedfs() else { return };
    // A server that has just started is slow with its first writes.
    drop(S3Backend::open(settings(port, "first")).expect("it opens"));
    let settings = S3Settings { operation_limit_ms: 5000, ..settings(port, "ends") };
    let backend = S3Backend::open(settings).expect("it opens");
    let folder = Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 };
    let blob = BlobName { folder, number: 1 };
    backend.put(&blob, b"bytes").expect("it is written");
    drop(server);
    let unreachable = |error: StorageError| {
        let is_it =
            matches!(error, StorageError::Unusable { .. } | StorageError::Late { .. } | StorageError::Failed { .. });
        assert!(is_it, "{error}");
    };
    unreachable(backend.put(&blob, b"bytes").expect_err("nobody is there"));
    unreachable(backend.read(&blob, 0, &mut [0; 5]).expect_err("nobody is there"));
    unreachable(backend.manifest(&folder).expect_err("nobody is there"));
    unreachable(backend.publish(&folder, None, b"manifest").expect_err("nobody is there"));
    unreachable(backend.blobs(&folder, None).expect_err("nobody is there"));
    unreachable(backend.remove_folder(&folder).expect_err("nobody is there"));
}

#[test]
fn a_server_that_ignores_conditions_is_refused() {
    let Some((_server, port)) = rclone() else { return };
    let error = S3Backend::open(settings(port, "ignored")).map(drop).expect_err("it is refused");
    assert!(matches!(error, StorageError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("honours conditional writes"), "{error}");
}
