//! Processes whose state has no room for what lies in their message lanes: they sleep and wake all the same, with everything, in
//! this server, in the next, and in the one after it.

mod common;

use common::lingering::{play_lasting_server, start_lasting_server};
use common::mails::{ask, processes};
use common::sleeping::{put_to_sleep, sleeping, sleeps};
use common::stage::{Stage, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client, Process, ProcessState};
use praas_server::Application;

/// The state of a process here: a few hundred objects fill it.
const STATE_BYTES: u64 = 1 << 20;

/// Bytes of a message that lies in a lane: four of them fit one.
const LARGE_BYTES: usize = 900_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        Ok("lasting server") if !is_keeper_socket(&std::io::stdin()) => play_lasting_server(small()),
        _ => stage::play(),
    }
}

fn small() -> Application {
    let mut application = sleeping();
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

/// Fills a state to the last byte; how many objects that took.
fn fill(process: &Process) -> usize {
    let mut objects = 0;
    for bytes in [100_000, 3000, 100, 1] {
        loop {
            match ask(process, "keep", &format!("key-{objects} {bytes} {}", objects % 250)) {
                Ok(_) => objects += 1,
                Err(CallError::FunctionFailed { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    objects
}

/// Sends as much as a lane takes.
fn fill_lane(from: &Process, to: &str) -> usize {
    let sent =
        (0..100).take_while(|number| ask(from, "send-large", &format!("{to} much {LARGE_BYTES} {number}")).is_ok());
    let sent = sent.count();
    assert!((2..100).contains(&sent), "{sent} messages fit a lane");
    sent
}

fn await_client(client: &Client) {
    eventually("the client is connected again", || client.list().is_ok());
}

#[test]
fn a_full_process_with_messages_in_its_lanes_sleeps_and_wakes_in_every_way_and_loses_nothing() {
    let stage = Stage::empty();
    let Some(mut server) = start_lasting_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    // Some are taken out of their lane, and lie in it all the same.
    let mut expected: Vec<usize> = (0..2).collect();
    for number in &expected {
        ask(&bob, "send-large", &format!("alice much {LARGE_BYTES} {number}")).unwrap();
    }
    assert_eq!(ask(&alice, "all", "* nothing").unwrap(), "");
    let objects = fill(&alice);
    let known = |process: &Process| -> Vec<String> {
        (0..objects).map(|number| ask(process, "kept", &format!("key-{number}")).unwrap()).collect()
    };
    let before = known(&alice);
    expected.extend(0..fill_lane(&bob, "alice"));

    // By itself, and woken by whoever calls.
    for _ in 0..2 {
        assert!(put_to_sleep(&client, "alice"));
        assert!(sleeps(&client, "alice"));
        assert_eq!(known(&alice), before);
    }
    // With what came back lying in memory, the server is killed: keeper and next server have it.
    server.kill();
    server = start_lasting_server(&stage).unwrap();
    await_client(&client);
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    assert_eq!(known(&alice), before);
    // The server ends: storage has it, the state as well as the messages.
    server.terminate();
    assert_eq!(server.end(), Some(42));
    server = start_lasting_server(&stage).unwrap();
    await_client(&client);
    assert!(sleeps(&client, "alice"));
    // Whoever sends later comes later.
    ask(&bob, "send-large", "alice much 5 77").unwrap();
    for number in expected {
        assert_eq!(ask(&alice, "recv-large", "bob much").unwrap(), format!("{LARGE_BYTES} of {number} true"));
    }
    assert_eq!(ask(&alice, "recv-large", "bob much").unwrap(), "5 of 77 true");
    assert_eq!(ask(&alice, "all", "* much").unwrap(), "");
    assert_eq!(known(&alice), before);
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    drop((alice, bob, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
