//! The whole round with real processes: serve, create, invoke, list, logs, restart, stop, and an end that leaves nothing.

mod support;

use std::fs;
use std::process::Stdio;

use praas_sys::{Pidfd, Signal};
use support::{
    PATIENCE, Running, TestServer, eventually, praas, processes_mentioning, run, run_praas, run_with_input, scratch,
};

#[test]
fn a_process_lives_from_create_to_stop() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    assert_eq!(server.announced["event"], "serving");
    assert_eq!(server.announced["applications"][0]["name"], "demo");

    let none = server.praas(&["process", "list"]).succeeded();
    assert!(none.out().contains("praas process create demo/alice"), "{}", none.out());
    let created = server.praas(&["--json", "process", "create", "demo/alice"]).succeeded();
    assert_eq!(created.json()["process"], "demo/alice");
    let again = server.praas(&["--json", "process", "create", "demo/alice"]);
    assert_eq!((again.code(), &again.failure()["kind"]), (1, &"process_exists".into()));
    let unknown = server.praas(&["--json", "process", "create", "other/alice"]);
    assert_eq!((unknown.code(), &unknown.failure()["kind"]), (1, &"unknown_application".into()));

    let listed = server.praas(&["--json", "process", "list"]).succeeded().json();
    let process = &listed["processes"][0];
    assert_eq!(process["process"], "demo/alice");
    // On a slow machine it may have had nothing to do for a while.
    assert!(process["state"] == "active" || process["state"] == "idle", "{process}");
    let first_pid = process["worker_pids"][0].as_u64().unwrap();
    server.praas(&["process", "restart", "demo/alice"]).succeeded();
    let listed = server.praas(&["--json", "process", "list"]).succeeded().json();
    assert_ne!(listed["processes"][0]["worker_pids"][0].as_u64().unwrap(), first_pid);
    assert_eq!(server.praas(&["invoke", "demo/alice", "noop", "again"]).succeeded().stdout, b"again");

    server.praas(&["process", "stop", "demo/alice"]).succeeded();
    let gone = server.praas(&["--json", "invoke", "demo/alice", "noop"]);
    assert_eq!((gone.code(), &gone.failure()["kind"]), (1, &"unknown_process".into()));
    let ended = server.end();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn payloads_arrive_from_argument_file_and_standard_input_as_they_are() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let invoke = ["invoke", "demo/alice", "noop"];

    assert_eq!(server.praas(&[&invoke[..], &["an argument"]].concat()).succeeded().stdout, b"an argument");
    assert!(server.praas(&invoke).succeeded().stdout.is_empty());
    let binary: Vec<u8> = (0..200_000_u32).map(|index| index.to_le_bytes()[index as usize % 3]).collect();
    let file = scratch.path().join("payload");
    fs::write(&file, &binary).unwrap();
    let from_file = run(praas(&server.data).args(invoke).arg("--file").arg(&file)).succeeded();
    assert!(from_file.stdout == binary, "a file's bytes changed on the way");
    let from_input = run_with_input(praas(&server.data).args(invoke).arg("-"), &binary).succeeded();
    assert!(from_input.stdout == binary, "standard input's bytes changed on the way");

    let text = server.praas(&["--json", "invoke", "demo/alice", "noop", "text"]).succeeded().json();
    assert_eq!(text["output"]["text"], "text");
    let hex = run_with_input(praas(&server.data).args(["--json", "invoke", "demo/alice", "noop", "-"]), &[0xff, 0]);
    assert_eq!(hex.succeeded().json()["output"]["hex"], "ff00");

    let large = run_with_input(praas(&server.data).args(["--json"]).args(invoke).arg("-"), &vec![0; (4 << 20) + 1]);
    assert_eq!((large.code(), &large.failure()["kind"]), (1, &"payload_too_large".into()));
    let missing = server.praas(&["--json", "invoke", "demo/alice", "noop", "--file", "/nonexistent"]);
    assert_eq!((missing.code(), &missing.failure()["kind"]), (1, &"file".into()));
    assert!(server.end().status.success());
}

#[test]
fn a_call_that_fails_has_its_own_exit_code() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let unknown = server.praas(&["--json", "invoke", "demo/alice", "nonesuch"]);
    assert_eq!((unknown.code(), &unknown.failure()["kind"]), (1, &"unknown_function".into()));
    // Not an archive of a query.
    let failed = server.praas(&["--json", "invoke", "demo/alice", "search", "x"]);
    assert_eq!((failed.code(), &failed.failure()["kind"]), (4, &"function_failed".into()));
    assert!(failed.failure()["code"].is_u64(), "{failed:?}");
    assert!(server.end().status.success());
}

#[test]
fn repeated_calls_are_summed_up() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    for mode in ["spin", "adaptive", "park"] {
        let arguments = ["--json", "invoke", "demo/alice", "noop", "x", "--repeat", "500", "--wait-mode", mode];
        let summary = server.praas(&arguments).succeeded().json();
        let latency = &summary["latency"];
        assert_eq!(latency["calls"], 500, "{summary}");
        let [p50, p99, p999] = ["p50_ns", "p99_ns", "p999_ns"].map(|name| latency[name].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p999, "{summary}");
        assert!(latency["calls_per_second"].as_f64().unwrap() > 0.0, "{summary}");
    }
    let text = server.praas(&["invoke", "demo/alice", "noop", "--repeat", "100"]).succeeded().out();
    assert!(text.contains("p99.9") && text.contains("calls/s"), "{text}");
    assert!(server.end().status.success());
}

#[test]
fn logs_end_by_themselves_and_followed_ones_with_their_process() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    server.praas(&["process", "logs", "demo/alice"]).succeeded();
    let mut follower = Running::start(praas(&server.data).args(["process", "logs", "--follow", "demo/alice"]));
    server.praas(&["process", "stop", "demo/alice"]).succeeded();
    // It saw the process end, or came too late to find it.
    let ended = follower.wait();
    assert!(ended.status.success() || ended.err().contains("there is no process"), "{ended:?}");
    assert!(server.end().status.success());
}

#[test]
fn a_second_server_on_the_same_directory_is_refused() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    let second = run(praas(&server.data).args(["--json", "serve"]).arg(scratch.path()));
    assert_eq!((second.code(), &second.failure()["kind"]), (1, &"in_use".into()));
    assert_eq!(run_praas(&server.data, &["process", "list"]).code(), 0);
    assert!(server.end().status.success());
}

#[test]
fn two_manifests_of_one_name_are_refused() {
    let scratch = scratch();
    let manifest = scratch.path().join("praas.toml");
    fs::write(&manifest, support::demo_manifest()).unwrap();
    let data = scratch.path().join("data");
    let ended = run(praas(&data).args(["--json", "serve"]).arg(&manifest).arg(scratch.path()));
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"same_application".into()));
}

#[test]
fn a_server_told_to_end_leaves_no_process_and_no_socket() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    server.praas(&["process", "create", "demo/bob"]).succeeded();
    let listed = server.praas(&["--json", "process", "list"]).succeeded().json();
    let pids = listed["processes"].as_array().unwrap().iter();
    let workers: Vec<Pidfd> = pids
        .flat_map(|process| process["worker_pids"].as_array().unwrap())
        .map(|pid| Pidfd::open(u32::try_from(pid.as_u64().unwrap()).unwrap()).unwrap())
        .collect();
    assert_eq!(workers.len(), 2);
    let data = server.data.clone();
    assert!(server.end().status.success());
    for worker in &workers {
        assert!(worker.wait_gone(PATIENCE).unwrap(), "a worker outlives its server");
    }
    let needle = scratch.path().display().to_string();
    eventually(|| {
        let left = processes_mentioning(&needle);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    for socket in ["praas.sock", "keeper.sock"] {
        eventually(|| if data.join(socket).exists() { Err(socket) } else { Ok(()) });
    }
}

#[test]
fn a_temporary_server_ends_with_its_standard_input_and_takes_its_directory_along() {
    let scratch = scratch();
    let manifest = scratch.path().join("praas.toml");
    fs::write(&manifest, support::demo_manifest()).unwrap();
    let data = scratch.path().join("data");
    let mut command = praas(&data);
    command.args(["serve", "--temporary", "--keeper-linger", "0"]).arg(&manifest).stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    eventually(|| run_praas(&data, &["process", "list"]).status.success().then_some(()).ok_or("it does not serve"));
    run_praas(&data, &["process", "create", "demo/alice"]).succeeded();
    drop(running.child.stdin.take());
    assert!(running.wait().status.success());
    assert!(!data.exists(), "its data directory is left");
}

#[test]
fn an_interrupted_server_ends_as_one_that_is_told_to() {
    let scratch = scratch();
    let server = TestServer::start(scratch.path());
    let pidfd = Pidfd::open(server.pid()).unwrap();
    pidfd.send_signal(Signal::INT).unwrap();
    assert!(pidfd.wait_gone(PATIENCE).unwrap());
}
