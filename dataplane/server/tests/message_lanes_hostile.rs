//! Workers that misuse message lanes: what they do is refused within limits, and costs nobody else anything.

mod common;

use common::mails::{self, ask, misusing, processes};
use common::stage::{Stage, process, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::CallError;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::serve(),
        _ => stage::play(),
    }
}

#[test]
fn a_worker_that_lies_about_lanes_is_ended_and_nobody_else() {
    let stage = Stage::new(misusing(), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    ask(&carol, "send", "alice unread hello").unwrap();
    ask(&alice, "send", "bob numbers 0").unwrap();
    let others = [status(&client, "bob").worker_pids, status(&client, "carol").worker_pids];
    for lie in [
        "attached bob 77",
        "attached bob 0",
        "failed bob 65535",
        "detached bob 0",
        "detached bob 300",
        "nameless bob 0",
    ] {
        assert_eq!(ask(&alice, "misuse", lie), Err(CallError::WorkerLost), "{lie}");
    }
    // Lanes that it does not have cannot be closed; that is all.
    assert_eq!(ask(&alice, "misuse", "close bob 3000").unwrap(), "done");
    let refused = ask(&alice, "misuse", "large bob 0").unwrap();
    assert!(refused.contains("bytes of a message") && refused.contains("1048576"), "{refused}");
    assert_eq!(ask(&alice, "all", "carol unread").unwrap(), "carol:hello");
    ask(&alice, "send", "bob numbers 1").unwrap();
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0 alice:1");
    assert_eq!([status(&client, "bob").worker_pids, status(&client, "carol").worker_pids], others);
    drop((alice, bob, carol, client));
    stage.end();
}

#[test]
fn a_worker_gets_no_more_lanes_to_one_receiver_than_it_needs() {
    let stage = Stage::new(misusing(), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    let end = ask(&alice, "misuse", "open bob 50").unwrap();
    assert!(end.starts_with("2 opened, then: ") && end.contains("into one mailbox: 2 of 2"), "{end}");
    ask(&carol, "send", "bob numbers 0").unwrap();
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "carol:0");
    drop((alice, bob, carol, client));
    stage.end();
}

#[test]
fn lanes_that_are_left_with_messages_are_bounded_and_come_free_when_these_are_read() {
    let stage = Stage::new(misusing(), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    let end = ask(&alice, "misuse", "orphan bob 300").unwrap();
    assert!(end.starts_with("128 opened, then: ") && end.contains("lanes of one source into one mailbox"), "{end}");
    // Half of the mailbox's lanes are for others.
    ask(&carol, "send", "bob numbers 0").unwrap();
    assert_eq!(ask(&bob, "all", "carol numbers").unwrap(), "carol:0");
    // A new worker is told of all of them.
    common::kill(status(&client, "bob").worker_pids[0]);
    eventually("bob has another worker", || status(&client, "bob").worker_restarts == 1);
    let all = ask(&bob, "all", "alice orphans").unwrap();
    assert_eq!(all.split(' ').count(), 128, "{all}");
    eventually("the lanes are removed", || stage.server().metrics().unwrap().message_lanes_removed == 128);
    ask(&alice, "send", "bob numbers 1").unwrap();
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:1");
    drop((alice, bob, carol, client));
    stage.end();
}

#[test]
fn the_lanes_of_one_process_leave_half_of_the_host_to_others() {
    let stage = Stage::new(misusing(), |options| options.memory_bytes_max = Some(64 << 20));
    let client = stage.client();
    let [alice, bob, carol, dave] = processes(&client, ["alice", "bob", "carol", "dave"]);
    let mut ends = Vec::new();
    for to in ["bob", "carol", "dave", "alice"] {
        ends.push(ask(&alice, "misuse", &format!("open {to} 2")).unwrap());
    }
    let refused: Vec<_> = ends.iter().filter(|end| end.contains("that hello/alice sends on")).collect();
    assert!(!refused.is_empty() && ends[0] == "2 opened", "{ends:?}");
    ask(&bob, "send-large", "carol pictures 1000000 1").unwrap();
    assert_eq!(ask(&carol, "recv-large", "bob pictures").unwrap(), "1000000 of 1 true");
    // Its worker's end gives everything back.
    common::kill(status(&client, "alice").worker_pids[0]);
    eventually("there is room again", || ask(&alice, "misuse", "open dave 2").is_ok_and(|end| end == "2 opened"));
    drop((alice, bob, carol, dave, client));
    stage.end();
}

#[test]
fn a_receiver_that_reads_no_messages_of_the_server_keeps_only_its_own_senders_waiting() {
    let stage = Stage::new(misusing(), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    let busy = bob.call("compute").payload(b"1500").start().unwrap();
    eventually("bob computes", || client.stats(process("bob")).unwrap().running == 1);
    ask(&alice, "send", "carol numbers 0").unwrap();
    ask(&alice, "send", "bob numbers 0").unwrap();
    assert!(!busy.is_done(), "the send waited for the end of the call");
    assert_eq!(ask(&carol, "all", "* numbers").unwrap(), "alice:0");
    drop((busy, alice, bob, carol, client));
    stage.end();
}
