//! Nested calls while processes drain, are restarted or stopped, and while workers die.

mod common;

use std::time::Duration;

use common::stage::{Stage, application, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, kill, nesting, open_descriptors, stage};
use praas_client::{CallError, Client, Process};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => nesting::serve(),
        _ => stage::play(),
    }
}

/// A server whose processes have one worker each, and these processes.
fn stage_of(processes: &[&str]) -> (Stage, Client) {
    let stage = Stage::new(application(), |_| ());
    let client = stage.client();
    processes.iter().for_each(|name| client.create(process(name)).unwrap());
    (stage, client)
}

fn say(process: &Process, function: &str, input: &str) -> String {
    let reply = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send().unwrap();
    String::from_utf8(reply.into_vec()).unwrap()
}

/// The ends that an "insist" told of: how many were good, and the others.
fn ends(answer: &str) -> (u64, Vec<&str>) {
    let (good, others) = answer.split_once('\n').unwrap();
    (good.parse().unwrap(), others.lines().collect())
}

/// The OS process that runs a "hold" of this process, once it says so.
fn holder(client: &Client, name: &str) -> u32 {
    let mut pid = None;
    eventually("the call says where it runs", || {
        let said = client.output(process(name), 0).unwrap().bytes;
        let said = String::from_utf8_lossy(&said).into_owned();
        let word = said.rsplit_once("holding in ").and_then(|(_, rest)| rest.split_once('.'));
        pid = word.and_then(|(pid, _)| pid.parse::<u32>().ok());
        pid.is_some()
    });
    pid.unwrap()
}

#[test]
fn a_draining_process_admits_what_its_running_calls_make_and_nothing_else() {
    let (stage, client) = stage_of(&["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    let bob = client.process(process("bob")).unwrap();
    // Warm: a call that is refused is refused by the process, not for want of a lane.
    assert_eq!(say(&bob, "relay", "alice|warm"), "bob alice warm");
    let callers = ["insist", "relay-later", "relay-later"];
    let inputs = ["@ relay 1500 |x", "300 @,bob,alice|x", "300 bob,@,alice,@|x"];
    let running: Vec<_> =
        callers.iter().zip(inputs).map(|(function, input)| alice.start(*function, input).unwrap()).collect();
    // Each of them has a worker: those that wait make room for the next.
    eventually("all three run", || {
        client.stats(process("alice")).unwrap().running >= 1 && client.stats(process("alice")).unwrap().queued == 0
    });
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| client.stop(process("alice")));
        let refused = stage.client();
        eventually("it drains", || status(&refused, "alice").state == praas_client::ProcessState::Draining);
        // A worker that is idle may claim such a call before the server sees it; one that nobody claims at once is refused.
        eventually("a call of bob's own is refused", || say(&bob, "ask", "alice echo 50 x").contains("Unavailable"));
        let mut answers: Vec<_> =
            running.into_iter().map(|call| String::from_utf8(call.wait().unwrap().into_vec()).unwrap()).collect();
        assert_eq!(answers.pop().unwrap(), "alice bob bob alice alice x");
        assert_eq!(answers.pop().unwrap(), "alice alice bob alice x");
        let (good, others) = ends(&answers[0]);
        assert!(good > 10 && others.is_empty(), "{answers:?}");
        stopping.join().unwrap().unwrap();
    });
    let gone = say(&bob, "ask", "alice echo 0 x");
    assert!(gone.contains("UnknownProcess"), "{gone}");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_restart_of_the_called_process_is_waited_for_and_its_end_is_told() {
    let (stage, client) = stage_of(&["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    let insisting = alice.start("insist", "bob sleep 1500 2").unwrap();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(150));
        client.restart(process("bob")).unwrap();
    }
    let answer = String::from_utf8(insisting.wait().unwrap().into_vec()).unwrap();
    let (good, others) = ends(&answer);
    assert!(good > 10 && others.is_empty(), "{answer}");
    // One that is running when bob is stopped ends well; the next ones find nobody.
    let insisting = alice.start("insist", "bob sleep 1000 100").unwrap();
    std::thread::sleep(Duration::from_millis(250));
    client.stop(process("bob")).unwrap();
    let answer = String::from_utf8(insisting.wait().unwrap().into_vec()).unwrap();
    let (good, others) = ends(&answer);
    assert!(good >= 1 && others.iter().all(|end| end.contains("UnknownProcess")), "{answer}");
    // A new process of the same name is reached.
    client.create(process("bob")).unwrap();
    assert_eq!(say(&alice, "relay", "bob|back"), "alice bob back");
    drop((alice, client));
    stage.end();
}

#[test]
fn the_death_of_a_called_worker_is_told_and_the_next_call_meets_another() {
    let (stage, client) = stage_of(&["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    for round in 1..=3 {
        let asking = alice.start("ask", "bob hold 0 20000").unwrap();
        kill(holder(&client, "bob"));
        let end = String::from_utf8(asking.wait().unwrap().into_vec()).unwrap();
        assert_eq!(end, format!("{}WorkerLost", nesting::FAILED), "round {round}");
        eventually("the worker is replaced", || status(&client, "bob").worker_restarts == 1);
        assert_eq!(say(&alice, "relay", "bob,alice|on"), "alice bob alice on");
        // What it printed goes with it.
        client.stop(process("bob")).unwrap();
        client.create(process("bob")).unwrap();
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn the_death_of_a_calling_worker_takes_its_lanes_along() {
    let (stage, client) = stage_of(&["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    let mut before = None;
    for _ in 0..4 {
        let asking = alice.start("ask", "bob sleep 0 1500").unwrap();
        eventually("the nested call runs", || client.stats(process("bob")).unwrap().running == 1);
        status(&client, "alice").worker_pids.iter().for_each(|pid| kill(*pid));
        assert_eq!(asking.wait().unwrap_err(), CallError::WorkerLost);
        eventually("no lane is left", || status(&client, "bob").lanes == 0);
        eventually("alice is back", || status(&client, "alice").workers == 1);
        assert_eq!(say(&alice, "relay", "bob,alice|on"), "alice bob alice on");
        assert!(status(&client, "bob").lanes == 1);
        eventually("only what the new worker needs is open", || {
            open_descriptors() <= *before.get_or_insert(open_descriptors())
        });
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn a_server_that_ends_ends_whatever_calls_whatever() {
    let (stage, client) = stage_of(&["alice", "bob"]);
    let alice = client.process(process("alice")).unwrap();
    let bob = client.process(process("bob")).unwrap();
    let running = [
        alice.start("insist", "bob relay 3000 alice|x").unwrap(),
        bob.start("insist", "alice relay 3000 bob|x").unwrap(),
        alice.start("relay-later", "200 bob,alice|x").unwrap(),
    ];
    std::thread::sleep(Duration::from_millis(100));
    drop(running);
    drop((alice, bob, client));
    stage.end();
}
