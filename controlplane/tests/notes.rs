//! `examples/notes` under a real server: its processes sleep when they are told to and when nobody calls, are woken by whatever
//! needs them, and keep every note; and what the command line shows of all that. The function binary is this very test
//! binary: its worker is the test called `worker`.

mod support;

use std::fs;
use std::path::Path;

use notes::Page;
use praas_client::{Client, ConnectOptions, Process};
use praas_function::is_worker;
use serde_json::Value;
use support::{Running, TestServer, eventually, manifest_of, praas, run_praas, scratch};

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    notes::application().run()
}

/// A server of the application `notes`, with further settings of its processes' state.
fn serve(directory: &Path, settings: &str, arguments: &[&str]) -> TestServer {
    let manifest = manifest_of(directory, "notes", &format!("[state]\n{settings}"));
    TestServer::start_with_arguments(directory, &manifest, arguments)
}

fn client(server: &TestServer) -> Client {
    Client::connect(ConnectOptions::new().data_directory(&server.data)).unwrap()
}

fn write(process: &Process, title: &str, text: &str) -> u64 {
    let page = Page { title: title.to_owned(), text: text.to_owned() };
    process.invoke_typed::<_, u64>("write", &page).unwrap().to_value().unwrap()
}

fn read(process: &Process, title: &str) -> String {
    String::from_utf8(process.invoke("read", title).unwrap().into_vec()).unwrap()
}

fn until_state(server: &TestServer, process: &str, state: &str) {
    eventually(|| {
        let status = server.status(process);
        if status["state"] == state { Ok(()) } else { Err(status) }
    });
}

#[test]
fn a_process_is_swapped_out_listed_and_woken_by_a_call() {
    let scratch = scratch();
    let server = serve(scratch.path(), "", &[]);
    server.praas(&["process", "create", "notes/alice"]).succeeded();
    let alice = client(&server).process("notes/alice".parse().unwrap()).unwrap();
    assert_eq!(write(&alice, "shopping", "bread and butter"), 1);
    let nothing = server.praas(&["storage", "usage"]).succeeded().out();
    assert!(nothing.contains("nothing is stored in"), "{nothing}");

    let swapped = server.praas(&["--json", "process", "swap", "notes/alice"]).succeeded().json();
    assert_eq!((&swapped["state"], &swapped["changed"]), (&"swapped".into(), &true.into()), "{swapped}");
    assert!(swapped["bytes"].as_u64().unwrap() > 0, "{swapped}");
    let status = server.status("notes/alice");
    assert_eq!((&status["state"], &status["workers"]), (&"swapped".into(), &0.into()), "{status}");
    assert!(status["stored_bytes"].as_u64().unwrap() > 0 && status["last_swap_unix_ms"].is_u64(), "{status}");
    let again = server.praas(&["process", "swap", "notes/alice"]).succeeded().out();
    assert!(again.contains("sleeps already"), "{again}");
    let usage = server.praas(&["--json", "storage", "usage"]).succeeded().json();
    let stored = &usage["processes"][0];
    assert_eq!((&stored["process"], &stored["state"]), (&"notes/alice".into(), &"swapped".into()), "{usage}");
    assert!(stored["blobs"].as_u64().unwrap() > 0 && usage["bytes"] == stored["bytes"], "{usage}");

    assert_eq!(read(&alice, "shopping"), "bread and butter");
    assert_eq!(write(&alice, "shopping", "butter"), 2, "versions go on");
    let awake = server.praas(&["process", "restore", "notes/alice"]).succeeded().out();
    assert!(awake.contains("awake already"), "{awake}");

    server.praas(&["process", "swap", "notes/alice"]).succeeded();
    let restored = server.praas(&["--json", "process", "restore", "notes/alice"]).succeeded().json();
    assert_eq!((&restored["state"], &restored["changed"]), (&"active".into(), &true.into()), "{restored}");
    assert_eq!(read(&alice, "shopping"), "butter");

    server.praas(&["process", "swap", "notes/alice"]).succeeded();
    server.praas(&["process", "stop", "notes/alice"]).succeeded();
    let usage = server.praas(&["--json", "storage", "usage"]).succeeded().json();
    assert_eq!(usage["processes"], serde_json::json!([]), "nothing is stored of what was stopped");
    drop(alice);
    assert!(server.end().status.success());
}

#[test]
fn a_process_sleeps_when_nobody_calls_and_others_never() {
    let scratch = scratch();
    let server = serve(scratch.path(), "idle_swap_ms = 200", &[]);
    server.praas(&["process", "create", "notes/alice"]).succeeded();
    server.praas(&["process", "create", "notes/bob", "--idle-swap", "0"]).succeeded();
    let client = client(&server);
    let [alice, bob] = ["alice", "bob"].map(|name| client.process(format!("notes/{name}").parse().unwrap()).unwrap());
    for round in 1..=3 {
        assert_eq!(write(&alice, "round", &round.to_string()), round);
        write(&bob, "round", &round.to_string());
        until_state(&server, "notes/alice", "swapped");
        assert_eq!(read(&alice, "round"), round.to_string());
    }
    assert_ne!(server.status("notes/bob")["state"], "swapped");
    assert_eq!(server.status("notes/bob")["last_swap_unix_ms"], Value::Null, "nobody wanted that");
    let past = server.praas(&["--json", "process", "watch", "notes/alice", "--past", "--count", "4"]).succeeded();
    let reasons: Vec<Value> = past.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(reasons.iter().any(|transition| transition["reason"] == "idle"), "{reasons:?}");
    drop((alice, bob, client));
    assert!(server.end().status.success());
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let scratch = scratch();
    let server = serve(scratch.path(), "", &[]);
    let mut watching = Running::start(praas(&server.data).args(["process", "watch", "notes/alice", "--past"]));
    server.praas(&["process", "create", "notes/alice"]).succeeded();
    server.praas(&["process", "swap", "notes/alice"]).succeeded();
    server.praas(&["process", "restore", "notes/alice"]).succeeded();
    server.praas(&["process", "stop", "notes/alice"]).succeeded();
    // It ends with the process.
    let told = watching.wait().succeeded().out();
    let mut lines = told.lines();
    for step in
        ["new → creating", "creating → active", "→ swapping", "→ swapped", "swapped → restoring", "→ active", "→ ended"]
    {
        assert!(lines.any(|line| line.contains("notes/alice") && line.contains(step)), "{step}:\n{told}");
    }
    assert!(server.end().status.success());
}

#[test]
fn a_server_without_storage_says_so() {
    let scratch = scratch();
    let server = serve(scratch.path(), "idle_swap_ms = 50", &["--no-storage"]);
    server.praas(&["process", "create", "notes/alice"]).succeeded();
    for words in [&["process", "swap", "notes/alice"][..], &["storage", "usage"]] {
        let refused = server.praas(&[&["--json"], words].concat());
        assert_eq!((refused.code(), &refused.failure()["kind"]), (1, &"no_storage".into()), "{words:?}");
    }
    server.praas(&["process", "stop", "notes/alice"]).succeeded();
    assert!(server.end().status.success());
}

#[test]
fn processes_sleep_in_the_directory_that_was_named_and_over_the_death_of_their_server() {
    let scratch = scratch();
    let place = scratch.path().join("elsewhere");
    let arguments = ["--storage", place.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let server = serve(scratch.path(), "", &arguments);
    server.praas(&["process", "create", "notes/alice"]).succeeded();
    let alice = client(&server).process("notes/alice".parse().unwrap()).unwrap();
    write(&alice, "kept", "in the drawer");
    // From another host: what an address and a token are enough for.
    let token_file = scratch.path().join("token");
    let token = ["token", "create", "--process", "notes/alice", "--rights", "manage", "--expires", "1h"];
    fs::write(&token_file, server.praas(&token).succeeded().out()).unwrap();
    let address = server.announced["addresses"][0].as_str().unwrap().to_owned();
    let far = ["--server", &address, "--token-file", token_file.to_str().unwrap(), "--json"];
    let far = |words: &[&str]| run_praas(&scratch.path().join("nowhere"), &[&far[..], words].concat());
    far(&["process", "swap", "notes/alice"]).succeeded();
    let usage = far(&["storage", "usage"]).succeeded().json();
    assert_eq!(usage["place"].as_str(), place.to_str(), "{usage}");
    assert_eq!(usage["processes"][0]["process"], "notes/alice", "{usage}");
    drop(alice);
    assert!(server.end().status.success());
    assert!(fs::read_dir(&place).unwrap().count() > 0);

    let server = serve(scratch.path(), "", &arguments[..2]);
    assert_eq!(server.status("notes/alice")["state"], "swapped");
    let alice = client(&server).process("notes/alice".parse().unwrap()).unwrap();
    assert_eq!(read(&alice, "kept"), "in the drawer");
    drop(alice);
    server.praas(&["process", "stop", "notes/alice"]).succeeded();
    assert!(server.end().status.success());
}
