//! `perf/setup` says what there is, refuses what there is not, and touches nothing meanwhile.

use std::path::Path;
use std::process::{Command, Output};

const PARTS: [&str; 5] = ["redis", "seaweedfs", "rclone", "workerd", "ray"];

fn setup(servers: &Path, argument: &str) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup");
    let mut command = Command::new("bash");
    command.arg(script).arg(argument).env("PRAAS_PERF_SERVERS", servers).output().expect("bash runs")
}

#[test]
fn the_parts_are_listed_with_what_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let servers = directory.path().join("servers");
    let output = setup(&servers, "--list");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for part in PARTS {
        assert!(text.lines().any(|line| line.starts_with(&format!("{part}: "))), "{part} is not in {text}");
    }
    assert!(text.contains("seaweedfs: not in the folder"), "{text}");
    assert!(!servers.exists(), "a list makes nothing");
}

#[test]
fn an_unknown_part_is_refused_with_the_known_ones() {
    let directory = tempfile::tempdir().expect("a directory");
    let servers = directory.path().join("servers");
    let output = setup(&servers, "memcached");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("`memcached`") && PARTS.iter().all(|part| text.contains(part)), "{text}");
    assert!(!servers.exists());
}
