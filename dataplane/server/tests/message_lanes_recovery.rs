//! Messages outlive the server program: what lies in lanes and mailboxes is there when the next server has started.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::correspondence::{Correspondence, correspond};
use common::lingering::{self, end_cleanly, start_server, with_held};
use common::mails::{self, ask, mailing, processes};
use common::stage::{Stage, process, status};
use common::{ROLE, children_with, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client};

/// Servers killed under load, unless the environment says otherwise.
const SERVER_KILLS: usize = 10;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => {
            let mut application = mailing();
            (application.workers_min, application.workers_max) = (2, 2);
            lingering::play_server(application);
        }
        _ => stage::play(),
    }
}

/// What the keeper holds for message lanes after a server was killed.
fn held_lanes(stage: &Stage) -> Vec<String> {
    with_held(stage, |held| {
        held.iter().map(|held| held.name.clone()).filter(|name| name.starts_with("lane/")).collect()
    })
}

fn await_connection(client: &Client, before: Option<u64>) {
    // A client without calls finds out when it asks for something.
    eventually("the client is connected again", || {
        client.list().is_ok() && client.server_incarnation().is_some_and(|now| Some(now) != before)
    });
}

#[test]
fn messages_in_lanes_and_mailboxes_are_there_after_a_killed_server_once_and_in_order() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    ask(&alice, "send-many", "bob numbers 0 4").unwrap();
    // Collected, not taken: the call with another key has moved all that was in the lanes into the mailbox.
    assert_eq!(ask(&bob, "all", "alice other").unwrap(), "");
    assert_eq!(ask(&bob, "recv", "alice numbers 0").unwrap(), "alice:0");
    ask(&alice, "send-large", "bob pictures 700000 9").unwrap();
    ask(&alice, "send-many", "bob numbers 4 2").unwrap();
    ask(&carol, "send", "bob numbers beside").unwrap();
    ask(&bob, "send", "bob notes mine").unwrap();
    let held = bob.call("recv-hold").payload(b"alice numbers").start().unwrap();
    eventually("the call holds a message", || {
        String::from_utf8_lossy(&client.output(process("bob"), 0).unwrap().bytes).contains("holding alice:1.")
    });
    let before = client.server_incarnation();
    server.kill();
    assert_eq!(held.wait().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    let next = start_server(&stage).unwrap();
    await_connection(&client, before);
    // Whatever is sent now comes behind what was sent to the server before.
    ask(&alice, "send", "bob numbers 6").unwrap();
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:1! alice:2 alice:3 alice:4 alice:5 alice:6");
    assert_eq!(ask(&bob, "recv-large", "alice pictures").unwrap(), "700000 of 9 true");
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "carol:beside");
    assert_eq!(ask(&bob, "all", "* notes").unwrap(), "bob:mine");
    for key in ["numbers", "pictures", "notes"] {
        assert_eq!(ask(&bob, "all", &format!("* {key}")).unwrap(), "");
    }
    drop((alice, bob, carol, client));
    end_cleanly(next, stage);
}

#[test]
fn lanes_of_dead_senders_are_kept_until_they_are_drained_and_no_longer() {
    let stage = Stage::empty();
    let Some(mut server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send", "bob numbers 0").unwrap();
    for turn in 1..=3 {
        let before = client.server_incarnation();
        server.kill();
        assert_eq!(held_lanes(&stage).len(), turn, "one of each server, unread");
        server = start_server(&stage).unwrap();
        await_connection(&client, before);
        ask(&alice, "send", &format!("bob numbers {turn}")).unwrap();
    }
    assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), "alice:0 alice:1 alice:2 alice:3");
    // The lanes of the servers before go; the one of this server is still in use.
    let mut lanes = 0;
    eventually("drained lanes are removed", || {
        let before = client.server_incarnation();
        std::thread::sleep(std::time::Duration::from_millis(200));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        lanes = held_lanes(&stage).len();
        server = start_server(&stage).unwrap();
        await_connection(&client, before);
        lanes <= 1
    });
    client.stop(process("bob")).unwrap();
    drop((alice, bob, client));
    server.kill();
    assert!(held_lanes(&stage).is_empty(), "the lanes of a stopped process are still held");
    let last = start_server(&stage).unwrap();
    end_cleanly(last, stage);
}

#[test]
fn a_keeper_that_died_is_replaced_and_lanes_are_safe_again() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let keepers = children_with(server.child.id(), "role");
    assert_eq!(keepers.len(), 1, "a server without processes has one child");
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "send", "bob numbers 0").unwrap();
    common::kill(keepers[0]);
    // A lane is there when the new keeper has it, and it is told of it after all that were there before.
    processes(&client, ["carol"]);
    ask(&alice, "send", "carol numbers 1").unwrap();
    let before = client.server_incarnation();
    server.kill();
    assert_eq!(held_lanes(&stage).len(), 2);
    let next = start_server(&stage).unwrap();
    await_connection(&client, before);
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "alice:0");
    drop((alice, bob, client));
    end_cleanly(next, stage);
}

#[test]
fn a_lane_that_was_damaged_costs_its_messages_and_nothing_else() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    ask(&alice, "send", "bob numbers lost").unwrap();
    ask(&carol, "send", "bob numbers found").unwrap();
    let before = client.server_incarnation();
    server.kill();
    with_held(&stage, |held| {
        let lane = held.iter().find(|held| held.name.starts_with("lane/hello/bob/") && held.name.ends_with("/alice"));
        File::from(lane.unwrap().fd.try_clone().unwrap()).write_all_at(&[0x5a; 4096], 0).unwrap();
    });
    let next = start_server(&stage).unwrap();
    await_connection(&client, before);
    assert_eq!(ask(&bob, "all", "* numbers").unwrap(), "carol:found");
    ask(&alice, "send", "bob numbers again").unwrap();
    assert_eq!(ask(&bob, "recv", "* numbers 0").unwrap(), "alice:again");
    assert_eq!(status(&client, "bob").worker_restarts, 0);
    drop((alice, bob, carol, client));
    end_cleanly(next, stage);
}

#[test]
fn servers_killed_under_puts_sends_and_receives_lose_and_double_nothing() {
    let kills = std::env::var("PRAAS_SERVER_KILLS").map_or(SERVER_KILLS, |kills| kills.parse().unwrap());
    let stage = Stage::empty();
    let Some(mut server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let names = ["alice", "bob", "carol"];
    processes(&client, names);
    let correspondences: Vec<_> = [("alice", "bob"), ("bob", "carol"), ("carol", "alice"), ("alice", "carol")]
        .map(|(from, to)| Correspondence::new(&client, from, to, &format!("{from}-to-{to}")))
        .into();
    correspond(&correspondences, || {
        for _ in 0..kills {
            let before: Vec<_> = correspondences.iter().map(|one| (one.acknowledged(), one.noted())).collect();
            eventually("messages are sent and received", || {
                let now = correspondences.iter().map(|one| (one.acknowledged(), one.noted()));
                now.zip(&before).all(|(now, before)| now.0 > before.0 + 10 && now.1 > before.1 + 10)
            });
            let before = client.server_incarnation();
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            server = start_server(&stage).unwrap();
            await_connection(&client, before);
            assert_eq!(client.list().unwrap().len(), names.len());
        }
    });
    drop((correspondences, client));
    end_cleanly(server, stage);
}
