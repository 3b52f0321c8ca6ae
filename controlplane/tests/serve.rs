//! What `praas serve` does with its options: a rebuilt program, a host that cannot confine, memory that is not there.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use support::{TestServer, demo_manifest, eventually, praas, processes_mentioning, run, scratch};

/// The manifest of the demo's application, whose program is a copy in `directory`.
fn manifest_of_a_copy(directory: &Path) -> std::path::PathBuf {
    let (original, program) = (env!("CARGO_BIN_EXE_praas"), directory.join("program"));
    fs::copy(original, &program).unwrap();
    let manifest = directory.join("praas.toml");
    let text = demo_manifest()
        .replace(&Value::from(original).to_string(), &Value::from(program.to_str().unwrap()).to_string());
    assert!(text.contains(program.to_str().unwrap()), "{text}");
    fs::write(&manifest, text).unwrap();
    manifest
}

/// What a build does to a program: another file takes its place at once.
fn rebuild(directory: &Path) {
    let rebuilt = directory.join("rebuilt");
    fs::copy(env!("CARGO_BIN_EXE_praas"), &rebuilt).unwrap();
    fs::rename(rebuilt, directory.join("program")).unwrap();
}

#[test]
fn a_rebuilt_program_restarts_its_processes_and_calls_go_on() {
    let scratch = scratch();
    let directory = scratch.path();
    let server = TestServer::start_with_arguments(directory, &manifest_of_a_copy(directory), &["--watch"]);
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let before = server.status("demo/alice")["worker_pids"].clone();
    let (stop, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let invoke = ["invoke", "demo/alice", "noop", "all the while", "--repeat", "200"];
                server.praas(&invoke).succeeded();
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
        eventually(|| if calls.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err("no call was answered") });
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            rebuild(directory);
            eventually(|| {
                let status = server.status("demo/alice");
                let replaced = status["worker_pids"] != before && status["workers"] == 1;
                if replaced { Ok(()) } else { Err(status) }
            });
            let seen = calls.load(Ordering::Relaxed);
            eventually(|| if calls.load(Ordering::Relaxed) > seen + 1 { Ok(()) } else { Err("calls do not go on") });
        }));
        stop.store(true, Ordering::Relaxed);
        caller.join().unwrap();
        restarted.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let after = server.status("demo/alice");
    assert_eq!(after["worker_restarts"], 0, "a restart was taken for a failure: {after}");
    let ended = server.end();
    assert!(ended.status.success() && ended.err().contains("was rebuilt"), "{ended:?}");
}

#[test]
fn without_watch_a_rebuilt_program_is_left_for_the_next_worker() {
    let scratch = scratch();
    let directory = scratch.path();
    let server = TestServer::start_with(directory, &manifest_of_a_copy(directory));
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let before = server.status("demo/alice")["worker_pids"].clone();
    rebuild(directory);
    // Long enough for several calls and their connections; a watching server looks three times a second.
    server.praas(&["invoke", "demo/alice", "noop", "x", "--repeat", "1000"]).succeeded();
    assert_eq!(server.status("demo/alice")["worker_pids"], before);
    server.praas(&["process", "restart", "demo/alice"]).succeeded();
    assert_ne!(server.status("demo/alice")["worker_pids"], before);
    server.praas(&["invoke", "demo/alice", "noop", "x"]).succeeded();
    assert!(server.end().status.success());
}

/// A host confines fully, or it does not: a server that was told to insist serves on the one and refuses on the other.
#[test]
fn a_server_that_requires_the_sandbox_serves_with_all_of_it_or_not_at_all() {
    let scratch = scratch();
    let directory = scratch.path();
    let manifest = directory.join("praas.toml");
    fs::write(&manifest, demo_manifest()).unwrap();
    let lenient = TestServer::start_with(directory, &manifest).end();
    assert!(lenient.status.success(), "{lenient:?}");
    let lacks: Vec<String> =
        lenient.err().lines().filter(|line| line.contains("workers run without")).map(str::to_owned).collect();
    if lacks.is_empty() {
        println!("skipped: the refusal, since this host confines workers fully");
        let strict = TestServer::start_with_arguments(directory, &manifest, &["--require-sandbox"]);
        strict.praas(&["process", "create", "demo/alice"]).succeeded();
        strict.praas(&["invoke", "demo/alice", "noop", "x"]).succeeded();
        assert!(strict.end().status.success());
        return;
    }
    println!("skipped: serving, since this host lacks {} kinds of confinement", lacks.len());
    let data = directory.join("data");
    let refused = run(praas(&data).args(["--json", "serve", "--require-sandbox"]).arg(&manifest));
    assert_eq!((refused.code(), &refused.failure()["kind"]), (1, &"sandbox_incomplete".into()), "{lacks:?}");
    assert!(refused.err().contains("--require-sandbox"), "it does not say what to do: {refused:?}");
    assert!(!data.join("praas.sock").exists());
    let needle = directory.display().to_string();
    eventually(|| {
        let left = processes_mentioning(&needle);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_server_says_how_it_ended_and_what_it_could_not_store() {
    let scratch = scratch();
    let directory = scratch.path();
    let (manifest, storage) = (directory.join("praas.toml"), directory.join("storage"));
    fs::write(&manifest, demo_manifest()).unwrap();
    let report =
        || -> Value { serde_json::from_slice(&fs::read(directory.join("data/last-end.json")).unwrap()).unwrap() };
    let start = || {
        let place = storage.display().to_string();
        TestServer::start_with_arguments(directory, &manifest, &["--grace", "20s", "--storage", &place])
    };
    let server = start();
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let ended = server.end().succeeded();
    assert_eq!(report()["unsaved"], serde_json::json!([]));
    assert_eq!((&report()["saved"], &report()["grace_ms"]), (&1.into(), &20_000.0.into()));
    assert!(ended.out().contains("\"saved\":1"), "{ended:?}");
    let server = start();
    server.praas(&["process", "restore", "demo/alice"]).succeeded();
    // Nothing can be written there any more, whoever the server is.
    fs::remove_dir_all(&storage).unwrap();
    fs::write(&storage, "a file").unwrap();
    let ended = server.end();
    assert_eq!((ended.code(), &ended.failure()["kind"]), (8, &"unsaved".into()), "{ended:?}");
    let unsaved = &report()["unsaved"][0];
    assert_eq!((&unsaved["process"], &unsaved["held_by_keeper"]), (&"demo/alice".into(), &false.into()), "{unsaved}");
    assert!(unsaved["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{unsaved}");
}

#[test]
fn memory_beyond_the_budget_is_refused_with_figures() {
    /// Room for what is admitted of a process's state, 4 MiB, and one lane of the demo, whose halves hold 4 MiB each, and not
    /// for two.
    const BUDGET: &str = "16MiB";
    const BUDGET_BYTES: u64 = 16 << 20;
    let scratch = scratch();
    let directory = scratch.path();
    let manifest = directory.join("praas.toml");
    fs::write(&manifest, demo_manifest()).unwrap();
    let server = TestServer::start_with_arguments(directory, &manifest, &["--memory-budget", BUDGET]);
    server.praas(&["process", "create", "demo/alice"]).succeeded();
    let invoke = ["--json", "invoke", "demo/alice", "noop", "x"];
    // One after the other: each gives its lane back, and has it taken back soon after.
    let serves = || {
        let called = server.praas(&invoke);
        if called.status.success() { Ok(()) } else { Err(called) }
    };
    for _ in 0..3 {
        eventually(serves);
    }
    let holder =
        praas_client::Client::connect(praas_client::ConnectOptions::new().data_directory(&server.data)).unwrap();
    let mut held = None;
    eventually(|| {
        held = Some(holder.process("demo/alice".parse().unwrap())?);
        Ok::<(), praas_client::RequestError>(())
    });
    let held = held.unwrap();
    let refused = server.praas(&invoke);
    assert_eq!((refused.code(), &refused.failure()["kind"]), (1, &"limit_reached".into()), "{refused:?}");
    let words = refused.failure()["message"].as_str().unwrap_or_default().to_owned();
    for figure in [BUDGET_BYTES.to_string(), "in use".into(), "more asked for".into(), "--memory-budget".into()] {
        assert!(words.contains(&figure), "{figure} is not in: {words}");
    }
    // What is held serves on, and the room comes back with it.
    assert_eq!(held.invoke("noop", b"held").unwrap().as_slice(), b"held");
    drop((held, holder));
    eventually(serves);
    assert!(server.end().status.success());
    let unreadable = run(praas(&directory.join("data")).args(["serve", "--memory-budget", "much"]).arg(&manifest));
    assert!(!unreadable.status.success() && unreadable.err().contains("512MiB"), "{unreadable:?}");
}
