//! Functions that call functions: of other processes, of their own one, of one that calls back; and how such calls end.

mod common;

use std::time::{Duration, Instant};

use common::stage::{Stage, application, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, nesting, stage};
use praas_client::{Client, Process};
use praas_protocol::control::WaitMode;
use praas_protocol::limits::WORKERS_MAX;
use praas_server::Application;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => nesting::serve(),
        _ => stage::play(),
    }
}

/// A server whose processes have one worker each, and these processes.
fn stage_of(wait: WaitMode, processes: &[&str]) -> (Stage, Client) {
    let mut application = application();
    application.wait = wait;
    let stage = Stage::new(application, |_| ());
    let client = stage.client();
    processes.iter().for_each(|name| client.create(process(name)).unwrap());
    (stage, client)
}

fn say(process: &Process, function: &str, input: &str) -> String {
    let reply = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send().unwrap();
    String::from_utf8(reply.into_vec()).unwrap()
}

#[test]
fn a_process_of_one_worker_calls_itself_and_is_called_back() {
    for wait in [WaitMode::Park, WaitMode::Adaptive] {
        let (stage, client) = stage_of(wait, &["alice", "bob"]);
        let alice = client.process(process("alice")).unwrap();
        assert_eq!(say(&alice, "relay", "@|done"), "alice alice done");
        assert_eq!(say(&alice, "relay", "bob,alice|done"), "alice bob alice done");
        assert_eq!(say(&alice, "relay", "@,bob,@,alice,@|done"), "alice alice bob bob alice alice done");
        // What is there now serves the next ones: nothing more is started.
        let workers = (status(&client, "alice").workers, status(&client, "bob").workers);
        for _ in 0..50 {
            assert_eq!(say(&alice, "relay", "bob,alice|again"), "alice bob alice again");
        }
        assert_eq!((status(&client, "alice").workers, status(&client, "bob").workers), workers, "{wait:?}");
        drop((alice, client));
        stage.end();
    }
}

#[test]
fn chains_go_deep_and_end_as_overloaded_where_every_worker_waits() {
    let (stage, client) = stage_of(WaitMode::Park, &["alice"]);
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(say(&alice, "descend", "8"), "8");
    let end = say(&alice, "descend", "1000");
    assert!(end.contains("Overloaded"), "{end}");
    assert_eq!(status(&client, "alice").workers as usize, WORKERS_MAX);
    // It costs nobody else anything, and is over with that call.
    assert_eq!(say(&alice, "echo", "still here"), "still here");
    assert_eq!(say(&alice, "descend", "8"), "8");
    drop((alice, client));
    stage.end();
}

#[test]
fn two_processes_that_call_each_other_from_many_calls_at_once_never_deadlock() {
    for wait in [WaitMode::Park, WaitMode::Adaptive] {
        let (stage, client) = stage_of(wait, &["alice", "bob"]);
        std::thread::scope(|scope| {
            for (here, there) in [("alice", "bob"), ("bob", "alice")] {
                for thread in 0..3 {
                    let stage = &stage;
                    scope.spawn(move || {
                        let client = stage.client();
                        let one = client.process(process(here)).unwrap();
                        for call in 0..20 {
                            let said = say(&one, "relay", &format!("{there},{here},{there}|{thread} {call}"));
                            assert_eq!(said, format!("{here} {there} {here} {there} {thread} {call}"));
                        }
                    });
                }
            }
        });
        drop(client);
        stage.end();
    }
}

#[test]
fn a_gathering_has_an_end_for_each_member_in_their_order() {
    let (stage, client) = stage_of(WaitMode::Park, &["alice", "bob", "carol"]);
    let alice = client.process(process("alice")).unwrap();
    let ends = say(&alice, "gather", "echo hi bob nobody carol @ Not-a-name bob");
    let ends: Vec<&str> = ends.split('\n').collect();
    assert_eq!((ends.len(), ends[0], ends[2], ends[3], ends[5]), (6, "hi", "hi", "hi", "hi"), "{ends:?}");
    assert!(ends[1].contains("UnknownProcess") && ends[4].contains("NotAProcess"), "{ends:?}");
    let ends = say(&alice, "gather", "panic - bob carol");
    assert_eq!(ends.matches("FunctionPanicked").count(), 2, "{ends}");
    drop((alice, client));
    stage.end();
}

#[test]
fn calls_are_started_now_and_awaited_later_in_any_order() {
    let (stage, client) = stage_of(WaitMode::Park, &["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(say(&alice, "later", "bob bob @ bob @"), "4 3 2 1 0");
    assert_eq!(say(&alice, "sum-there", "bob"), "500500 500500");
    assert_eq!(say(&alice, "ask", "bob grow 0 500000").len(), 500_000);
    drop((alice, client));
    stage.end();
}

#[test]
fn a_nested_call_has_the_process_as_principal_and_the_root_of_its_first_caller() {
    let (stage, client) = stage_of(WaitMode::Park, &["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(say(&alice, "ask", "bob caller 0 -"), "alice true");
    let roots = say(&alice, "roots", "");
    let [before, nested, after] = roots.split('\n').collect::<Vec<_>>()[..] else { panic!("{roots}") };
    assert_eq!(before, "None");
    assert!(nested.starts_with("Some(") && nested == after, "{roots}");
    assert_ne!(say(&alice, "roots", ""), roots, "another client's call has another root");
    drop((alice, client));
    stage.end();
}

#[test]
fn deadlines_bound_nested_calls_and_whoever_gives_up_is_followed() {
    let (stage, client) = stage_of(WaitMode::Park, &["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    let bob = client.process(process("bob")).unwrap();
    let started = Instant::now();
    let late = say(&alice, "ask", "bob until-unwanted 30 -");
    assert!(late.contains("DeadlineExceeded { deadline_ns: 30000000 }"), "{late}");
    let left = alice.call("ask").payload(b"bob left 0 -").deadline(Duration::from_secs(7)).send().unwrap();
    let left: u64 = std::str::from_utf8(&left).unwrap().parse().unwrap();
    assert!(left <= 7000, "{left} ms of 7 s");
    // The caller cancels: the nested call's caller hears of it, gives up, and the one that it called hears of that.
    let cancelled = alice.start("ask", "bob until-unwanted 0 -").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(cancelled);
    assert_eq!(say(&alice, "forsake", "bob until-unwanted -"), "forsaken");
    for one in [&alice, &bob] {
        assert_eq!(say(one, "echo", "idle"), "idle");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "no function ran to its own end");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_process_of_another_application_is_out_of_reach() {
    let mut other = application();
    other.name = "other".parse().unwrap();
    let stage = Stage::new(application(), |options| options.applications.push(other));
    let client = stage.with_process("alice");
    client.create("other/bob".parse().unwrap()).unwrap();
    let alice = client.process(process("alice")).unwrap();
    for (target, refusal) in [("bob", "UnknownProcess"), ("other/bob", "Unauthorized"), ("hello/bob", "UnknownProcess")]
    {
        let end = say(&alice, "ask", &format!("{target} echo 0 x"));
        assert!(end.contains(refusal), "{target}: {end}");
    }
    assert_eq!(say(&alice, "ask", "hello/alice echo 0 x"), "x");
    drop((alice, client));
    stage.end();
}

#[test]
fn workers_that_were_started_in_the_stead_of_others_end_when_they_are_idle() {
    let stage = Stage::new(application(), |options| options.worker_idle = Duration::from_millis(100));
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(say(&alice, "descend", "5"), "5");
    eventually("one worker is left", || status(&client, "alice").workers == 1);
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    assert_eq!(say(&alice, "descend", "2"), "2");
    drop((alice, client));
    stage.end();
}

#[test]
fn a_waiting_worker_counts_toward_no_limit_but_a_running_one_does() {
    let mut application: Application = application();
    (application.workers_min, application.workers_max) = (1, 2);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    client.create(process("bob")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    let waiting: Vec<_> = (0..3).map(|_| alice.start("ask", "bob sleep 0 1000").unwrap()).collect();
    let busy: Vec<_> = (0..3).map(|_| alice.start("sleep", "300").unwrap()).collect();
    busy.into_iter().for_each(|call| drop(call.wait().unwrap()));
    assert!(status(&client, "alice").workers <= 5, "three that wait and two that run");
    waiting.into_iter().for_each(|call| drop(call.wait().unwrap()));
    drop((alice, client));
    stage.end();
}
