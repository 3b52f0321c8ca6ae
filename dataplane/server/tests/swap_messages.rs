//! Processes that no message wakes: it is kept, through sleeps, servers that are killed and servers that end, and is there once
//! somebody calls.

mod common;

use std::sync::Arc;

use common::lingering::{play_lasting_server, start_lasting_server};
use common::mails::{ask, processes};
use common::sleeping::{put_to_sleep, sleeping, sleeps};
use common::stage::{Stage, process, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client, ProcessState};
use praas_server::Application;
use praas_storage::{Backend, MemoryBackend};

/// Bytes of a message of which a lane takes a few.
const LARGE_BYTES: usize = 900_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        Ok("lasting server") if !is_keeper_socket(&std::io::stdin()) => play_lasting_server(undisturbed()),
        _ => stage::play(),
    }
}

fn undisturbed() -> Application {
    let mut application = sleeping();
    application.wake_on_message = false;
    application
}

fn await_client(client: &Client) {
    eventually("the client is connected again", || client.list().is_ok());
}

#[test]
fn messages_wait_for_a_call_however_often_they_come_and_start_no_worker() {
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let stage = Stage::new(undisturbed(), |options| options.storage = Some(storage));
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "keep", "object 1000 7").unwrap();
    assert!(put_to_sleep(&client, "alice"));
    let mut expected = Vec::new();
    let swaps = || stage.server().metrics().unwrap().swaps_out;
    for round in 0..12 {
        let before = swaps();
        for number in 0..3 {
            let text = format!("{round}-{number}");
            ask(&bob, "send", &format!("alice notes {text}")).unwrap();
            expected.push(format!("bob:{text}"));
            let status = status(&client, "alice");
            let is_awake = matches!(status.state, ProcessState::Active | ProcessState::Idle);
            assert!(status.worker_pids.is_empty() && !is_awake, "{status:?}");
        }
        eventually("it is in storage again", || swaps() > before && sleeps(&client, "alice"));
    }
    assert_eq!(ask(&alice, "all", "bob notes").unwrap(), expected.join(" "));
    assert!(ask(&alice, "kept", "object").unwrap().starts_with("1000 of 7 true"));
    assert_eq!(status(&client, "alice").state, ProcessState::Active);

    // A call that comes while it takes messages finds it awake; so does who orders it back.
    for way in 0..3 {
        assert!(put_to_sleep(&client, "alice"));
        ask(&bob, "send", &format!("alice notes {way}")).unwrap();
        match way {
            0 => assert_eq!(ask(&alice, "recv", "bob notes 0").unwrap(), "bob:0"),
            1 => {
                client.restore(process("alice")).unwrap();
                assert_eq!(status(&client, "alice").state, ProcessState::Active);
                assert_eq!(ask(&alice, "recv", "bob notes 0").unwrap(), "bob:1");
            }
            _ => {
                client.stop(process("alice")).unwrap();
                assert!(client.list().unwrap().iter().all(|status| status.process != process("alice")));
            }
        }
    }
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn what_was_accepted_outlives_servers_that_are_killed_or_end_and_who_finds_no_room_is_told() {
    let stage = Stage::empty();
    let Some(mut server) = start_lasting_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let mut expected = Vec::new();
    for round in 0..6 {
        assert!(put_to_sleep(&client, "alice"));
        ask(&bob, "send", &format!("alice notes {round}")).unwrap();
        expected.push(format!("bob:{round}"));
        if round % 2 == 0 {
            // It may have been on its way back to storage.
            std::thread::sleep(std::time::Duration::from_millis(300 * round));
            server.kill();
        } else {
            server.terminate();
            assert_eq!(server.end(), Some(42));
        }
        server = start_lasting_server(&stage).unwrap();
        await_client(&client);
    }
    assert!(put_to_sleep(&client, "alice"));
    let mut sent = 0;
    let refused = loop {
        match ask(&bob, "send-large", &format!("alice much {LARGE_BYTES} {sent}")) {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 200, "it takes no end of messages");
    };
    let CallError::FunctionFailed { message, .. } = &refused else { panic!("{refused}") };
    assert!(message.contains("alice"), "{message}");
    assert!(sent >= 2, "{sent}");
    server.kill();
    server = start_lasting_server(&stage).unwrap();
    await_client(&client);
    for number in 0..sent {
        assert_eq!(ask(&alice, "recv-large", "bob much").unwrap(), format!("{LARGE_BYTES} of {number} true"));
    }
    assert_eq!(ask(&alice, "all", "bob notes").unwrap().replace('!', ""), expected.join(" "));
    drop((alice, bob, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
