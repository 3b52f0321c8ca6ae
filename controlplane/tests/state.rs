//! `praas state`: objects put, read, listed and deleted through the command line, on the host and over the network; and
//! `examples/counter` under a real server whose workers are killed while they count. The function binary is this very test
//! binary: its worker is the test called `worker`.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use praas_client::{CallError, Client, ConnectOptions, Process};
use praas_function::is_worker;
use praas_sys::{Pidfd, Signal};
use serde_json::Value;
use support::{Ended, PATIENCE, TestServer, eventually, manifest_of, praas, run_praas, run_with_input, scratch};

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    counter::application().run()
}

/// A server with the process `counter/alice`, whose two workers share its objects.
fn serve(directory: &Path) -> TestServer {
    let more = "[workers]\nmin = 2\nmax = 2\n[limits]\npayload_bytes_max = \"4MiB\"";
    let manifest = manifest_of(directory, "counter", more);
    let server = TestServer::start_with_arguments(directory, &manifest, &["--listen", "127.0.0.1:0"]);
    server.praas(&["process", "create", "counter/alice"]).succeeded();
    server
}

fn state(server: &TestServer, words: &[&str]) -> Ended {
    server.praas(&[&["state"], words].concat())
}

fn ended_with(ended: &Ended) -> (i32, String) {
    (ended.code(), ended.failure()["kind"].as_str().unwrap().to_owned())
}

#[test]
fn objects_are_put_read_listed_and_deleted() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let empty = state(&server, &["list", "counter/alice"]).succeeded();
    assert!(empty.out().contains("praas state put counter/alice"), "{empty:?}");

    let put = state(&server, &["put", "counter/alice", "greeting", "--value", "good day"]).succeeded();
    assert!(put.out().contains("greeting has version"), "{put:?}");
    assert_eq!(state(&server, &["get", "counter/alice", "greeting"]).succeeded().stdout, b"good day");

    // Bytes are bytes: from standard input, to standard output.
    let binary: Vec<u8> = (0..100_000_u32).map(|index| u8::try_from(index % 256).unwrap()).collect();
    let piped = run_with_input(praas(&server.data).args(["state", "put", "counter/alice", "binary"]), &binary);
    piped.succeeded();
    assert!(state(&server, &["get", "counter/alice", "binary"]).succeeded().stdout == binary);

    // From a file, to a file.
    let (from, to) = (scratch.path().join("from"), scratch.path().join("to"));
    fs::write(&from, &binary[..5000]).unwrap();
    state(&server, &["put", "counter/alice", "of/a/file", "--file", from.to_str().unwrap()]).succeeded();
    let got = state(&server, &["get", "counter/alice", "of/a/file", "--output", to.to_str().unwrap()]).succeeded();
    assert!(got.out().contains("5000 bytes") && fs::read(&to).unwrap() == binary[..5000], "{got:?}");

    // An empty object is there.
    run_with_input(praas(&server.data).args(["state", "put", "counter/alice", "empty"]), b"").succeeded();
    assert!(state(&server, &["get", "counter/alice", "empty"]).succeeded().stdout.is_empty());

    let listed = state(&server, &["list", "counter/alice"]).succeeded().out();
    let keys: Vec<&str> = listed.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(keys, ["KEY", "binary", "empty", "greeting", "of/a/file"], "{listed}");
    assert!(listed.lines().nth(1).unwrap().trim_start().starts_with("100000 "), "{listed}");
    let some = state(&server, &["list", "counter/alice", "of/"]).succeeded().out();
    assert_eq!(some.lines().count(), 2, "{some}");
    let none = state(&server, &["list", "counter/alice", "nothing"]).succeeded().out();
    assert!(none.contains("nothing"), "{none}");

    let deleted = state(&server, &["delete", "counter/alice", "empty"]).succeeded();
    assert!(deleted.out().contains("empty is removed"), "{deleted:?}");
    assert_eq!(state(&server, &["list", "counter/alice"]).succeeded().out().lines().count(), 4);
    assert!(server.end().status.success());
}

#[test]
fn what_is_missing_ends_with_6_and_what_was_changed_with_7() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let json = |words: &[&str]| state(&server, &[&["--json"], words].concat());
    let missing = (6, "no_object".to_owned());
    let refused = (7, "condition_refused".to_owned());
    assert_eq!(ended_with(&json(&["get", "counter/alice", "nothing"])), missing);
    assert_eq!(ended_with(&json(&["delete", "counter/alice", "nothing"])), missing);
    assert_eq!(ended_with(&json(&["delete", "counter/alice", "nothing", "--if-version", "3"])), missing);
    // A file that could be overwritten is not, when there is nothing to write.
    let file = scratch.path().join("kept");
    fs::write(&file, "kept").unwrap();
    assert_eq!(state(&server, &["get", "counter/alice", "nothing", "--output", file.to_str().unwrap()]).code(), 6);
    assert_eq!(fs::read(&file).unwrap(), b"kept");

    let put = |value: &str, condition: &str| {
        json(&["put", "counter/alice", "key", "--value", value, "--if-version", condition])
    };
    assert_eq!(ended_with(&put("a", "1")), refused);
    let version = put("b", "absent").succeeded().json()["version"].as_u64().unwrap();
    let ended = put("c", "absent");
    assert_eq!(ended_with(&ended), refused);
    assert_eq!(ended.failure()["version"], version);
    assert!(ended.failure()["message"].as_str().unwrap().contains(&format!("version {version}")), "{ended:?}");
    assert_eq!(state(&server, &["get", "counter/alice", "key"]).succeeded().stdout, b"b");
    let newer = put("d", &version.to_string()).succeeded().json()["version"].as_u64().unwrap();
    assert!(newer > version);
    let delete = |condition: u64| json(&["delete", "counter/alice", "key", "--if-version", &condition.to_string()]);
    assert_eq!(ended_with(&delete(version)), refused);
    assert_eq!(delete(newer).succeeded().json()["key"], "key");
    assert!(server.end().status.success());
}

#[test]
fn programs_get_json() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let json = |words: &[&str]| state(&server, &[&["--json"], words].concat()).succeeded();
    let put = json(&["put", "counter/alice", "key", "--value", "words"]).json();
    assert_eq!(
        (&put["process"], &put["key"], &put["value_bytes"]),
        (&"counter/alice".into(), &"key".into(), &5.into())
    );
    let got = json(&["get", "counter/alice", "key"]).json();
    assert_eq!(
        (&got["value"]["text"], &got["version"], &got["type_id"]),
        (&"words".into(), &put["version"], &Value::Null)
    );
    assert!(got["modified_unix_ms"].as_u64().unwrap() > 1_600_000_000_000, "{got}");
    json(&["put", "counter/alice", "other", "--value", ""]);
    let lines = json(&["list", "counter/alice"]).out();
    let objects: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 2, "{lines}");
    assert_eq!((&objects[0]["key"], &objects[0]["value_bytes"]), (&"key".into(), &5.into()));
    assert_eq!((&objects[1]["key"], &objects[1]["value_bytes"]), (&"other".into(), &0.into()));
    assert!(json(&["list", "counter/alice", "nothing"]).out().is_empty());
    assert!(server.end().status.success());
}

#[test]
fn over_the_network_the_token_needs_the_right_and_the_refusal_says_how_to_get_it() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let address = server.announced["addresses"][0].as_str().unwrap().to_owned();
    let elsewhere = scratch.path().join("elsewhere");
    let token_file = scratch.path().join("token");
    let with_rights = |rights: &str| {
        let token = ["token", "create", "--process", "counter/alice", "--rights", rights, "--expires", "1h"];
        fs::write(&token_file, server.praas(&token).succeeded().out()).unwrap();
    };
    let far = |words: &[&str]| {
        let to_server = ["--server", &address, "--token-file", token_file.to_str().unwrap(), "--json", "state"];
        run_praas(&elsewhere, &[&to_server[..], words].concat())
    };
    for way in [&["--transport", "network"][..], &["--transport", "network", "--dedicated"], &[]] {
        let far = |words: &[&str]| far(&[words, way].concat());
        with_rights("invoke,state");
        far(&["put", "counter/alice", "key", "--value", "from afar"]).succeeded();
        assert_eq!(far(&["get", "counter/alice", "key"]).succeeded().json()["value"]["text"], "from afar", "{way:?}");
        assert_eq!(far(&["list", "counter/alice"]).succeeded().out().lines().count(), 1, "{way:?}");
        with_rights("invoke");
        for words in [
            &["get", "counter/alice", "key"][..],
            &["put", "counter/alice", "key", "--value", "x"],
            &["list", "counter/alice"],
        ] {
            let refused = far(words);
            assert_eq!(ended_with(&refused), (1, "unauthorized".to_owned()), "{way:?}");
            let message = refused.failure()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("--rights invoke,state"), "{message}");
        }
        with_rights("invoke,state");
        far(&["delete", "counter/alice", "key"]).succeeded();
    }
    assert!(server.end().status.success());
}

#[test]
fn a_key_or_a_value_that_cannot_be_says_why() {
    let scratch = scratch();
    let server = serve(scratch.path());
    let long = "x".repeat(256);
    for key in ["", "a\nb", &long] {
        let refused = state(&server, &["--json", "put", "counter/alice", key, "--value", "v"]);
        assert_eq!(ended_with(&refused), (2, "usage".to_owned()), "{key:?}");
    }
    let large = scratch.path().join("large");
    fs::File::create(&large).unwrap().set_len(5 << 20).unwrap();
    let refused = state(&server, &["--json", "put", "counter/alice", "large", "--file", large.to_str().unwrap()]);
    assert_eq!(ended_with(&refused), (1, "payload_too_large".to_owned()));
    // Less than a payload, but not with its head.
    fs::File::create(&large).unwrap().set_len(4 << 20).unwrap();
    let refused = state(&server, &["--json", "put", "counter/alice", "large", "--file", large.to_str().unwrap()]);
    assert_eq!(ended_with(&refused), (1, "payload_too_large".to_owned()));
    assert_eq!(state(&server, &["put", "counter/nobody", "key", "--value", "v"]).code(), 1);
    assert!(server.end().status.success());
}

#[test]
fn objects_outlive_the_worker_that_put_them() {
    let scratch = scratch();
    let server = serve(scratch.path());
    state(&server, &["put", "counter/alice", "key", "--value", "kept"]).succeeded();
    let worker = u32::try_from(server.status("counter/alice")["worker_pids"][0].as_u64().unwrap()).unwrap();
    Pidfd::open(worker).unwrap().send_signal(Signal::KILL).unwrap();
    eventually(|| {
        let got = state(&server, &["get", "counter/alice", "key"]);
        // The call that the killed worker had taken may be lost.
        if got.code() == 4 {
            Err(got)
        } else {
            assert_eq!(got.succeeded().stdout, b"kept");
            Ok(())
        }
    });
    server.praas(&["process", "restart", "counter/alice"]).succeeded();
    assert_eq!(state(&server, &["get", "counter/alice", "key"]).succeeded().stdout, b"kept");
    assert!(server.end().status.success());
}

#[test]
fn no_count_that_was_answered_is_lost_when_workers_are_killed() {
    const KILLS: usize = 10;
    let scratch = scratch();
    let server = serve(scratch.path());
    let client = Client::connect(ConnectOptions::new().data_directory(&server.data)).unwrap();
    let process = client.process("counter/alice".parse().unwrap()).unwrap();
    let stop = AtomicBool::new(false);
    let (answered, lost) = std::thread::scope(|scope| {
        let counting = [0, 1].map(|_| scope.spawn(|| count_until(&stop, &process)));
        for kill in 0..KILLS {
            std::thread::sleep(Duration::from_millis(20));
            let mut workers = Vec::new();
            eventually(|| {
                workers = client.list().unwrap()[0].worker_pids.clone();
                if workers.is_empty() { Err("no worker") } else { Ok(()) }
            });
            // It may have ended since it was listed.
            if let Ok(worker) = Pidfd::open(workers[kill % workers.len()]) {
                let _ = worker.send_signal(Signal::KILL);
            }
        }
        stop.store(true, Ordering::Relaxed);
        let ends = counting.map(|thread| thread.join().unwrap());
        (ends[0].0 + ends[1].0, ends[0].1 + ends[1].1)
    });
    let counted = server.praas(&["invoke", "counter/alice", "read", "visitors"]).succeeded().out();
    let counted: u64 = counted.trim().parse().unwrap();
    assert!((answered..=answered + lost).contains(&counted), "{counted} counted, {answered} answered, {lost} lost");
    println!("{counted} counted, {answered} answered, {lost} lost");
    drop((process, client));
    assert!(server.end().status.success());
}

/// Counts; how many counts were answered, and how many calls were lost with their workers.
fn count_until(stop: &AtomicBool, process: &Process) -> (u64, u64) {
    let (mut answered, mut lost, mut last) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        match process.call("count").payload("visitors").deadline(PATIENCE).send() {
            Ok(count) => {
                let count: u64 = std::str::from_utf8(&count).unwrap().parse().unwrap();
                assert!(count > last, "{count} after {last}");
                (answered, last) = (answered + 1, count);
            }
            // It may have been counted before its worker died.
            Err(CallError::WorkerLost) => lost += 1,
            Err(error) => panic!("{error}"),
        }
    }
    (answered, lost)
}
