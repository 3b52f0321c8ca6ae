//! S3 servers of our own, each with a bucket, and two who are known there.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs;

use praas_storage::StorageError;
use praas_storage::s3::S3Settings;

use crate::servers::{Server, free_ports, program};

const BUCKET: &str = "praas-tests";
pub(crate) const KEY: &str = "praas-test-key";
pub(crate) const SECRET: &str = "praas-test-secret";
/// One who may read and not write.
pub(crate) const READER_KEY: &str = "praas-reader-key";
pub(crate) const READER_SECRET: &str = "praas-reader-secret";

/// Our bucket of the server on this port.
pub(crate) fn settings(port: u16, prefix: &str) -> S3Settings {
    S3Settings::of_server(&format!("http://127.0.0.1:{port}"), BUCKET, prefix, KEY, SECRET)
}

/// Makes the bucket. A server that is just starting may make it and say that it could not.
fn bucket_is_there(port: u16) -> Result<(), StorageError> {
    match settings(port, "").create_bucket() {
        Err(error) if error.to_string().contains("BucketAlready") => Ok(()),
        made => made,
    }
}

/// SeaweedFS with a bucket in it, and its port.
pub(crate) fn seaweedfs() -> Option<(Server, u16)> {
    let weed = program("weed", "seaweedfs")?;
    let ports: [u16; 10] = free_ports();
    let options = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port.grpc",
        "s3.port",
        // These have fixed ports otherwise, which another server may have.
        "s3.port.iceberg",
        "s3.port.lance",
    ];
    let port = ports[7];
    let arguments = |directory: &std::path::Path| {
        let (data, identities) = (directory.join("data"), directory.join("identities.json"));
        fs::create_dir(&data).expect("a directory");
        let identity = |name: &str, key: &str, secret: &str, actions: &str| {
            format!(
                r#"{{"name":"{name}","credentials":[{{"accessKey":"{key}","secretKey":"{secret}"}}],"actions":[{actions}]}}"#
            )
        };
        let all = [
            identity("owner", KEY, SECRET, r#""Admin","Read","Write","List","Tagging""#),
            identity("reader", READER_KEY, READER_SECRET, r#""Read","List""#),
        ];
        fs::write(&identities, format!(r#"{{"identities":[{}]}}"#, all.join(","))).expect("a file");
        let mut arguments = vec!["server".to_owned()];
        arguments.extend(options.iter().zip(ports).map(|(option, port)| format!("-{option}={port}")));
        arguments.extend(
            ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"].map(str::to_owned),
        );
        arguments.push(format!("-dir={}", data.display()));
        arguments.push(format!("-s3.config={}", identities.display()));
        arguments
    };
    let (server, ()) = Server::start(&weed, arguments, || bucket_is_there(port));
    Some((server, port))
}

/// rclone serving a directory with a bucket in it, and its port.
pub(crate) fn rclone() -> Option<(Server, u16)> {
    let rclone = program("rclone", "rclone")?;
    let [port] = free_ports();
    let arguments = |directory: &std::path::Path| {
        let files = directory.join("files");
        fs::create_dir(&files).expect("a directory");
        let [config, cache] = ["rclone.conf", "cache"].map(|name| directory.join(name).display().to_string());
        let arguments =
            ["serve", "s3", "--addr", &format!("127.0.0.1:{port}"), "--auth-key", &format!("{KEY},{SECRET}")];
        let paths = ["--config", &config, "--cache-dir", &cache, &files.display().to_string()];
        arguments.into_iter().chain(paths).map(str::to_owned).collect()
    };
    let (server, ()) = Server::start(&rclone, arguments, || bucket_is_there(port));
    Some((server, port))
}
