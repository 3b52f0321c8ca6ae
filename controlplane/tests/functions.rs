//! Functions that print, fail, panic and dawdle, seen through the command line. The function binary is this very test
//! binary: its worker is the test called `worker`.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use praas_function::{Application, Call, FunctionError, FunctionResult, is_worker};
use praas_sys::Signal;
use serde_json::Value;
use support::{PATIENCE, Running, TestServer, eventually, manifest_of, praas, scratch};

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    let mut calls = 0;
    Application::new()
        .function("say", |call: &mut Call| {
            // Past the test harness, which keeps what `print!` prints.
            let mut stdout = std::io::stdout();
            let _ = stdout.write_all(call.input()).and_then(|()| stdout.flush());
        })
        .function("count", move |_: &mut Call| {
            calls += 1;
            calls.to_string()
        })
        .function("fail", |_: &mut Call| -> FunctionResult { Err(FunctionError::new(7, "it is Monday")) })
        .function("panic", |_: &mut Call| -> FunctionResult { panic!("nobody expected this") })
        .function("dawdle", |call: &mut Call| {
            println!("dawdling");
            // Bounded, and ended by the caller's deadline or cancel before that.
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end && !call.context().is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .run()
}

fn serve(directory: &std::path::Path) -> TestServer {
    TestServer::start_with(directory, &manifest_of(directory, "test", ""))
}

#[test]
fn what_functions_print_is_in_the_logs() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    server.praas(&["invoke", "test/alice", "say", "first words\n"]).succeeded();
    eventually(|| {
        let logs = server.praas(&["process", "logs", "test/alice"]).succeeded();
        if logs.out().contains("first words\n") { Ok(()) } else { Err(logs) }
    });
    let json = server.praas(&["--json", "process", "logs", "test/alice"]).succeeded();
    let line: Value = serde_json::from_str(json.out().lines().next().unwrap()).unwrap();
    assert!(line["output"]["text"].as_str().unwrap().contains("first words"), "{line}");
    let all = server.praas(&["process", "logs", "test/alice"]).succeeded().stdout;
    let rest = server.praas(&["process", "logs", "test/alice", "--from", "10"]).succeeded().stdout;
    assert_eq!(rest, all[10..]);
    assert!(server.end().status.success());
}

#[test]
fn followed_logs_show_what_comes_and_end_with_their_process() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let mut follower = Running::start(praas(&server.data).args(["process", "logs", "--follow", "test/alice"]));
    server.praas(&["invoke", "test/alice", "say", "one\n"]).succeeded();
    server.praas(&["invoke", "test/alice", "say", "two\n"]).succeeded();
    server.praas(&["process", "stop", "test/alice"]).succeeded();
    let ended = follower.wait();
    // A follower that starts only after the stop finds no process; on a busy machine that happens.
    if ended.err().contains("there is no process") {
        println!("skipped: the process had ended before its output was followed");
    } else {
        assert!(ended.status.success() && ended.out().contains("one\ntwo\n"), "{ended:?}");
    }
    assert!(server.end().status.success());
}

#[test]
fn a_function_that_fails_or_panics_ends_with_4() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let failed = server.praas(&["--json", "invoke", "test/alice", "fail"]);
    assert_eq!((failed.code(), &failed.failure()["kind"]), (4, &"function_failed".into()));
    assert_eq!(failed.failure()["code"], 7);
    let in_words = server.praas(&["invoke", "test/alice", "fail"]);
    assert!(in_words.err().contains("it is Monday"), "{in_words:?}");
    let panicked = server.praas(&["--json", "invoke", "test/alice", "panic"]);
    assert_eq!((panicked.code(), &panicked.failure()["kind"]), (4, &"function_panicked".into()));
    assert!(panicked.failure()["message"].as_str().unwrap().contains("nobody expected this"));
    assert!(server.end().status.success());
}

#[test]
fn a_deadline_that_passes_ends_with_5() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let late = server.praas(&["--json", "invoke", "test/alice", "dawdle", "--deadline", "50ms"]);
    assert_eq!((late.code(), &late.failure()["kind"]), (5, &"deadline_exceeded".into()));
    assert!(server.end().status.success());
}

#[test]
fn a_worker_that_is_killed_costs_its_call_and_is_replaced() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let listed = server.praas(&["--json", "process", "list"]).succeeded().json();
    let worker = u32::try_from(listed["processes"][0]["worker_pids"][0].as_u64().unwrap()).unwrap();
    let mut call = Running::start(praas(&server.data).args(["--json", "invoke", "test/alice", "dawdle"]));
    eventually(|| {
        let logs = server.praas(&["process", "logs", "test/alice"]).succeeded();
        if logs.out().contains("dawdling") { Ok(()) } else { Err(logs) }
    });
    praas_sys::Pidfd::open(worker).unwrap().send_signal(Signal::KILL).unwrap();
    let ended = call.wait();
    assert_eq!((ended.code(), &ended.failure()["kind"]), (4, &"worker_lost".into()));
    server.praas(&["invoke", "test/alice", "say", "alive\n"]).succeeded();
    assert!(server.end().status.success());
}

#[test]
fn a_call_with_an_idempotency_key_runs_once_however_often_it_is_repeated() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let order = |payload: &str, key: &str| {
        server.praas(&["--json", "invoke", "test/alice", "count", payload, "--idempotency-key", key])
    };
    for _ in 0..3 {
        assert_eq!(order("x", "order/1").succeeded().json()["output"]["text"], "1");
    }
    // The digits of a key that nobody made of a text.
    assert_eq!(order("x", &"0a".repeat(16)).succeeded().json()["output"]["text"], "2");
    let other = order("y", "order/1");
    assert_eq!((other.code(), &other.failure()["kind"]), (1, &"key_reused".into()));
    for _ in 0..2 {
        let failed = server.praas(&["--json", "invoke", "test/alice", "fail", "--idempotency-key", "order/1"]);
        assert_eq!((failed.code(), &failed.failure()["kind"]), (4, &"function_failed".into()));
    }
    let stats = server.praas(&["--json", "stats", "test/alice"]).succeeded().json();
    let calls: Vec<_> =
        stats["processes"][0]["functions"].as_array().unwrap().iter().map(|one| &one["calls"]).collect();
    assert_eq!(calls, [2, 1], "{stats}");
    for wrong in [&["--idempotency-key", ""][..], &["--rerun-lost"], &["--idempotency-key", "a", "--repeat", "2"]] {
        assert_eq!(server.praas(&[&["invoke", "test/alice", "count"], wrong].concat()).code(), 2, "{wrong:?}");
    }
    assert!(server.end().status.success());
}

#[test]
fn counts_of_calls_and_failures_survive_the_workers_that_counted_them() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    server.praas(&["invoke", "test/alice", "say", "x", "--repeat", "200"]).succeeded();
    assert_eq!(server.praas(&["invoke", "test/alice", "fail"]).code(), 4);
    let functions = |server: &TestServer| {
        server.praas(&["--json", "stats", "test/alice"]).succeeded().json()["processes"][0]["functions"].clone()
    };
    let before = functions(&server);
    assert_eq!(
        (&before[0]["function"], &before[0]["calls"], &before[0]["failed"]),
        (&"fail".into(), &1.into(), &1.into())
    );
    assert_eq!((&before[1]["function"], &before[1]["failed"]), (&"say".into(), &0.into()));
    let said = before[1]["calls"].as_u64().unwrap();
    // The summary of `--repeat` is preceded by a few calls that are not part of it.
    assert!(said >= 200 && before[1]["timed"].as_u64().unwrap() >= said / 64, "{before}");
    assert!(before[1]["p50_ns"].as_u64().unwrap() <= before[1]["max_ns"].as_u64().unwrap() * 17 / 16, "{before}");

    server.praas(&["process", "restart", "test/alice"]).succeeded();
    assert_eq!(functions(&server), before);
    server.praas(&["invoke", "test/alice", "say", "x"]).succeeded();
    assert_eq!(functions(&server)[1]["calls"], said + 1);
    let text = server.praas(&["stats"]).succeeded().out();
    assert!(text.contains("test/alice") && text.contains("say"), "{text}");
    assert!(server.end().status.success());
}

#[test]
fn a_ping_shows_where_the_time_of_a_call_goes() {
    let scratch = scratch();
    let server = serve(scratch.path());
    server.praas(&["process", "create", "test/alice"]).succeeded();
    let text = server.praas(&["ping", "test/alice", "--count", "3", "--interval", "1ms"]).succeeded().out();
    assert!(text.contains("test/alice call 3:") && text.contains("worker") && !text.contains("call 4"), "{text}");
    let json = server.praas(&["--json", "ping", "test/alice", "--count", "2", "--interval", "1ms"]).succeeded().out();
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let part = |name: &str| line[name].as_u64().unwrap();
        assert_eq!(part("all_ns"), part("there_ns") + part("worker_ns") + part("back_ns"), "{line}");
    }
    // It is no function of the application's own.
    let stats = server.praas(&["--json", "stats", "test/alice"]).succeeded().json();
    assert_eq!(stats["processes"][0]["functions"], serde_json::json!([]), "{stats}");
    assert!(server.end().status.success());
}
