//! The order of messages does not depend on how soon a worker hears of the lanes that they come by: a server that stands still
//! before it has told a worker everything keeps that worker from taking anything, not from taking it in order.

mod common;

use std::time::Duration;

use common::client::Client as RawClient;
use common::lingering::{end_cleanly, play_server, start_server};
use common::mixed::{functions, mixing};
use common::random::Random;
use common::stage::{Stage, process};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, signals, stage};
use praas_client::{Client, Process};
use praas_protocol::codec::encode;
use praas_protocol::control::ClientMessage;

/// Rings of a client, each of which the server passes on to every worker: more than the socket of one that reads nothing takes.
const RINGS: usize = 2000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => functions::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => play_server(mixing(2)),
        _ => stage::play(),
    }
}

fn open(client: &Client, name: &str) -> Process {
    client.create(process(name)).unwrap();
    client.process(process(name)).unwrap()
}

fn ask(process: &Process, function: &str, input: &str) -> String {
    let end = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send();
    String::from_utf8(end.unwrap_or_else(|error| panic!("{function} {input}: {error}")).as_slice().to_vec()).unwrap()
}

/// Has one of the two workers of a process send a number.
fn send_by(process: &Process, worker: u8, number: u64, bytes: usize) {
    let input = format!("{worker} bob {number} {bytes}");
    let mut is_occupied = false;
    eventually("this very worker takes a call", || {
        // Every other time one of them is busy.
        is_occupied = !is_occupied;
        let occupied = is_occupied.then(|| process.call("occupy").deadline(PATIENCE).start().unwrap());
        let sent = ask(process, "send-by", &input) == "sent";
        occupied.into_iter().for_each(|call| drop(call.wait().unwrap()));
        sent
    });
}

#[test]
fn a_worker_that_was_not_told_of_every_lane_yet_takes_nothing_out_of_order() {
    let mut random = Random::printed("order of messages");
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = ["alice", "bob"].map(|name| open(&client, name));
    let mut raw = RawClient::connect(stage.path());
    let lane = raw.open(process("bob"), 1000).unwrap();
    let early = u8::try_from(random.below(2)).unwrap();
    // Both workers of bob know the lane of one worker of alice.
    send_by(&alice, early, 0, 8);
    let busy = bob.call("take-at-gate").payload(b"alice").deadline(PATIENCE).start().unwrap();
    eventually("one worker of bob is busy", || client.stats(process("bob")).unwrap().running == 1);
    // The socket of that worker is full, and what the server has for it waits in the server. The other worker reads on.
    let ring = encode(&ClientMessage::Ring { lane: lane.id, process: process("bob") }).unwrap();
    (0..RINGS).for_each(|_| raw.send_bytes(&ring));
    eventually("the server has passed the rings on", || raw.list().len() == 2);
    // By a lane that it has not heard of, and then by the one that it knows.
    send_by(&alice, 1 - early, 1, 8);
    send_by(&alice, early, 2, 8);
    signals::stop(server.child.id());
    bob.state().put("gate", "open").unwrap();
    // Time to take what it should not.
    std::thread::sleep(Duration::from_millis(100));
    signals::resume(server.child.id());
    let taken = busy.wait().unwrap().as_slice().to_vec();
    assert_eq!(String::from_utf8_lossy(&taken), "0 1 2", "one worker of alice sent 0 and 2, the other one 1 between");
    drop((alice, bob, client, lane, raw));
    end_cleanly(server, stage);
}
