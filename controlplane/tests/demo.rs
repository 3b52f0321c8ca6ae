//! `praas demo` on a small directory: it finds what is there, measures, and leaves nothing, however it ends.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use praas_sys::{Pidfd, Signal};
use support::{Running, eventually, praas, processes_mentioning, scratch};

/// A few files, enough for words that some documents have and others do not.
fn write_corpus(directory: &Path) {
    fs::create_dir_all(directory.join("notes")).unwrap();
    for index in 0..40_u32 {
        let animal = ["badger", "heron", "lynx", "otter", "marten"][index as usize % 5];
        let place = ["river", "forest", "meadow"][index as usize % 3];
        let text = format!("The {animal} number {index} lives\nnear the {place} and sleeps\n");
        fs::write(directory.join(format!("notes/{index}.txt")), text).unwrap();
    }
    fs::write(directory.join("picture.bin"), [0_u8, 1, 2]).unwrap();
}

/// The demo over `directory`, with temporary files below `temporary`.
fn demo(temporary: &Path, directory: &Path) -> Command {
    let mut command = praas(&temporary.join("no-server-here"));
    command.env("TMPDIR", temporary).args(["demo", "--json"]).arg(directory);
    command
}

/// Nothing below `temporary` and no process that mentions it.
fn assert_nothing_left(temporary: &Path) {
    let needle = temporary.display().to_string();
    eventually(|| {
        let processes = processes_mentioning(&needle);
        let files: Vec<_> = fs::read_dir(temporary).unwrap().flatten().map(|entry| entry.path()).collect();
        if processes.is_empty() && files.is_empty() { Ok(()) } else { Err((processes, files)) }
    });
}

fn directories() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let scratch = scratch();
    let (corpus, temporary) = (scratch.path().join("corpus"), scratch.path().join("t"));
    fs::create_dir(&temporary).unwrap();
    write_corpus(&corpus);
    (scratch, corpus, temporary)
}

#[test]
fn it_indexes_searches_measures_and_leaves_nothing() {
    let (_scratch, corpus, temporary) = directories();
    let ended = Running::start(&mut demo(&temporary, &corpus)).wait().succeeded();
    let report = ended.json();
    assert_eq!(report["indexed"]["documents"], 40, "{report}");
    assert_eq!(report["left_behind"], serde_json::json!([]), "{report}");
    let searches = report["searches"].as_array().unwrap();
    assert!(!searches.is_empty(), "{report}");
    for search in searches {
        assert!(search["documents"].as_u64().unwrap() > 0, "{search}");
        assert!(search["hits"][0]["path"].as_str().unwrap().starts_with("notes/"), "{search}");
    }
    let sent = report["sent"]["received"].as_array().unwrap();
    let expected = searches.iter().map(|search| serde_json::json!([search["query"], search["documents"]]));
    assert_eq!(*sent, expected.collect::<Vec<_>>(), "{report}");
    assert!(report["sent"]["killed_pid"].is_u64(), "{report}");
    let slept = &report["slept"];
    assert_eq!(slept["documents_before"], slept["documents_after"], "{report}");
    assert!(slept["stored_bytes"].as_u64().unwrap() > 0 && slept["workers_asleep"] == 0, "{report}");
    let rows = report["latency"].as_array().unwrap();
    let ids: Vec<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(
        ids,
        ["noop", "search", "tcp_noop", "tcp_search", "shared_memory", "futex", "message_queue", "unix_socket", "tcp"]
    );
    for row in rows {
        let measured = row["figures"]["p50_ns"].as_f64().is_some_and(|p50| p50 > 0.0);
        assert!(measured || row["skipped"].is_string(), "{row}");
    }
    assert!(rows[0]["figures"].is_object() && rows[1]["figures"].is_object(), "{report}");
    assert_nothing_left(&temporary);
}

#[test]
fn people_are_told_a_story() {
    let (_scratch, corpus, temporary) = directories();
    let mut command = praas(&temporary.join("no-server-here"));
    command.env("TMPDIR", &temporary).arg("demo").arg(&corpus);
    let text = Running::start(&mut command).wait().succeeded().out();
    for word in [
        "1. A server",
        "2. A process",
        "3. ",
        "40 files",
        "4. ",
        "5. ",
        "demo/reader",
        "no-op",
        "POSIX message queue",
        "8. Nobody needs demo/library",
        "which wakes it",
        "nothing is left",
    ] {
        assert!(text.contains(word), "{word:?} is missing:\n{text}");
    }
    assert_nothing_left(&temporary);
}

#[test]
fn a_path_without_text_fails_in_words_and_leaves_nothing() {
    let (scratch, _, temporary) = directories();
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let ended = Running::start(&mut demo(&temporary, &empty)).wait();
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"nothing_to_index".into()), "{ended:?}");
    assert_nothing_left(&temporary);
    let ended = Running::start(&mut demo(&temporary, &scratch.path().join("missing"))).wait();
    assert_eq!((ended.code(), &ended.failure()["kind"]), (1, &"path".into()), "{ended:?}");
    assert_nothing_left(&temporary);
}

/// The demo's own server: the child of the demo.
fn server_of(demo: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{demo}/task/{demo}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let (_scratch, corpus, temporary) = directories();
    let mut running = Running::start(demo(&temporary, &corpus).stdin(Stdio::null()));
    let demo_pid = running.child.id();
    eventually(|| server_of(demo_pid).map(drop).ok_or("it has no server yet"));
    running.signal(Signal::INT);
    let ended = running.wait();
    // On a fast machine it may have been done before the signal came.
    assert!([0, 130].contains(&ended.code()), "{ended:?}");
    if ended.code() == 130 {
        assert_eq!(ended.failure()["kind"], "interrupted");
    }
    assert_nothing_left(&temporary);
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_either() {
    let (_scratch, corpus, temporary) = directories();
    let mut running = Running::start(demo(&temporary, &corpus).stdin(Stdio::null()));
    let demo_pid = running.child.id();
    eventually(|| server_of(demo_pid).map(drop).ok_or("it has no server yet"));
    running.signal(Signal::KILL);
    running.wait();
    assert_nothing_left(&temporary);
}

#[test]
fn a_demo_whose_server_is_killed_says_so_and_leaves_nothing() {
    let (_scratch, corpus, temporary) = directories();
    let mut running = Running::start(demo(&temporary, &corpus).stdin(Stdio::null()));
    let demo_pid = running.child.id();
    let mut server = None;
    eventually(|| {
        server = server_of(demo_pid);
        server.map(drop).ok_or("it has no server yet")
    });
    if let Ok(server) = Pidfd::open(server.unwrap()) {
        server.kill().unwrap();
    }
    let ended = running.wait();
    assert!(!ended.status.success(), "{ended:?}");
    assert!(ended.failure()["message"].is_string());
    assert_nothing_left(&temporary);
}
