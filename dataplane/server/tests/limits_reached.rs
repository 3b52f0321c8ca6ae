//! What has no room left, end to end: a mailbox, the state of a process, its records of calls with keys. Whatever is refused is
//! refused with figures and has not happened, whatever was accepted is there, in order, and all goes on when there is room.

mod common;

use std::path::Path;
use std::time::Duration;

use common::mixed::{await_connection, functions, mixing};
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client, IdempotencyKey, Process, StateError};
use praas_protocol::limits::{MAILBOX_MESSAGES_MAX, MESSAGE_LANE_ENTRIES};
use praas_server::{Application, Server};
use praas_sys::SignalQueue;

/// The state of each process in these tests, in bytes.
const STATE_BYTES: u64 = 8 << 20;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => functions::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => {
            let signals = SignalQueue::termination().unwrap();
            let directory = std::env::var_os(DIRECTORY).unwrap();
            let mut options = options(Path::new(&directory), small(2));
            options.keeper_linger = Duration::from_secs(60);
            let server = Server::start(options).unwrap();
            println!("\nplaying");
            server.run(signals).unwrap();
            std::process::exit(42);
        }
        _ => stage::play(),
    }
}

/// An application of so many workers a process, whose state is soon full.
fn small(workers: u32) -> Application {
    let mut application = mixing(workers);
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

fn processes<const COUNT: usize>(client: &Client, names: [&str; COUNT]) -> [Process; COUNT] {
    names.map(|name| {
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap()
    })
}

fn bytes(process: &Process, function: &str, input: &str) -> Vec<u8> {
    let end = process.call(function).payload(input.as_bytes()).deadline(PATIENCE).send();
    end.unwrap_or_else(|error| panic!("{function} {input}: {error}")).as_slice().to_vec()
}

/// A count and the words behind it.
fn counted(process: &Process, function: &str, input: &str) -> (u64, String) {
    let answer = String::from_utf8(bytes(process, function, input)).unwrap();
    let (count, words) = answer.split_once(' ').unwrap();
    (count.parse().unwrap(), words.to_owned())
}

/// Sends numbers without waiting, until all are sent or one is refused.
fn send(process: &Process, to: &str, from: u64, count: u64) -> (u64, String) {
    counted(process, "send-numbers", &format!("{to} numbers {from} {count} 0"))
}

fn take(process: &Process, source: &str, count: u64) -> Vec<u64> {
    let numbers = bytes(process, "take-numbers", &format!("{source} numbers {count}"));
    numbers.chunks_exact(8).map(|number| u64::from_le_bytes(number.try_into().unwrap())).collect()
}

#[test]
fn a_full_mailbox_refuses_with_figures_and_gives_all_that_it_accepted_in_order() {
    let stage = Stage::new(small(2), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    let most = u64::from(MAILBOX_MESSAGES_MAX) * 2 + 8 * u64::from(MESSAGE_LANE_ENTRIES);
    let mut sent = 0;
    // The lane becomes full first; what is taken out of it into the mailbox makes room, until that is full as well.
    let mut refusals_in_a_row = 0;
    while refusals_in_a_row < 4 {
        let (taken, why) = send(&alice, "bob", sent, 2000);
        sent += taken;
        assert!(sent <= most, "{sent} messages were taken by a mailbox of {MAILBOX_MESSAGES_MAX}");
        if why != "-" {
            assert!(why.contains("full") && why.chars().any(|one| one.is_ascii_digit()), "{why}");
            refusals_in_a_row = if taken == 0 { refusals_in_a_row + 1 } else { 0 };
            // Moves what has arrived, and finds nothing.
            for _ in 0..20 {
                assert!(take(&bob, "carol", 1).is_empty());
            }
        }
    }
    assert!(sent >= u64::from(MAILBOX_MESSAGES_MAX), "{sent} messages were taken");
    // Whoever waits for room waits for just so long.
    let (taken, why) = counted(&alice, "send-numbers", &format!("bob numbers {sent} 1 30"));
    assert_eq!(taken, 0, "{why}");
    assert!(why.contains("30ms"), "{why}");
    // Nobody else is kept from anything: not another sender to bob, nor alice from sending elsewhere.
    assert_eq!(send(&carol, "bob", 7, 1).0, 1);
    assert_eq!(send(&alice, "carol", 8, 1).0, 1);
    assert_eq!(take(&carol, "alice", 2), [8]);
    // A message that a call waits for is received from a full mailbox.
    assert_eq!(take(&bob, "carol", 2), [7]);
    // To itself it is full, too, and says so.
    let (taken, why) = send(&bob, "bob", 0, 1);
    assert!(taken == 0 && why.contains("full"), "{taken} {why}");
    let mut arrived = Vec::new();
    while arrived.len() as u64 != sent {
        let some = take(&bob, "alice", 1500);
        assert!(!some.is_empty(), "{} of {sent} messages arrived", arrived.len());
        arrived.extend(some);
        // There is room again, behind what is there.
        if arrived.len() < 3000 {
            let (taken, _) = send(&alice, "bob", sent, 100);
            sent += taken;
        }
    }
    assert!(arrived.iter().copied().eq(0..sent), "the order of {sent} messages was changed");
    assert!(take(&bob, "alice", 1).is_empty());
    assert_eq!(send(&bob, "bob", 0, 1).0, 1);
    drop((alice, bob, carol, client));
    stage.end();
}

#[test]
fn a_slow_receiver_keeps_its_sender_waiting_and_nobody_else() {
    let stage = Stage::new(small(2), |_| ());
    let client = stage.client();
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    // What bob collects when it looks for other messages goes into its mailbox, which becomes full, too.
    let all = u64::from(MAILBOX_MESSAGES_MAX) + 3 * u64::from(MESSAGE_LANE_ENTRIES);
    let waiting = format!("bob numbers 0 {all} {}", PATIENCE.as_millis());
    let sending = alice.call("send-numbers").payload(waiting.as_bytes()).deadline(PATIENCE * 2).start().unwrap();
    eventually("alice sends", || client.stats(process("alice")).unwrap().running == 1);
    // Another worker of alice has a lane of its own, carol is another process, and bob itself serves calls.
    for number in 0..200 {
        assert_eq!(send(&alice, "carol", number, 1).0, 1);
        assert_eq!(send(&carol, "bob", number, 1).0, 1);
        assert_eq!(take(&carol, "alice", 5), [number]);
        assert_eq!(take(&bob, "carol", 5), [number]);
    }
    assert!(!sending.is_done(), "the sender does not wait");
    let mut arrived = Vec::new();
    eventually("everything has arrived", || {
        arrived.extend(take(&bob, "alice", 1000));
        arrived.len() as u64 == all
    });
    assert!(arrived.into_iter().eq(0..all));
    assert_eq!(sending.wait().unwrap().as_slice(), format!("{all} -").as_bytes());
    drop((alice, bob, carol, client));
    stage.end();
}

#[test]
fn a_full_state_refuses_puts_and_calls_with_keys_and_loses_no_message_even_with_its_server() {
    let stage = Stage::empty();
    let start = || Played::start("lingering server", stage.path(), &[]);
    let Some(mut server) = start() else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    assert_eq!(send(&alice, "bob", 0, 10).0, 10);
    // A look for others moves all of them into the mailbox.
    assert!(take(&bob, "bob", 1).is_empty());
    assert_eq!(take(&bob, "alice", 3), [0, 1, 2]);
    bytes(&bob, "bump", "counted");
    // Ever smaller ones, until not even the smallest fits.
    let mut filled = 0;
    for bytes in [200_000, 4000, 200, 8] {
        let (count, why) = counted(&bob, "fill", &bytes.to_string());
        assert!(why.contains("full") && why.contains(&STATE_BYTES.to_string()), "{why}");
        filled = count.max(filled);
    }
    let full = bob.state().put("another", [1; 3000]).unwrap_err();
    assert!(matches!(full, StateError::Full { .. }), "{full}");
    let key: IdempotencyKey = "in a full state".parse().unwrap();
    let keyed = || bob.call("bump").payload(b"counted").deadline(PATIENCE).idempotency_key(key).send();
    assert!(matches!(keyed(), Err(CallError::Overloaded { .. })), "{:?}", keyed());
    assert_eq!(send(&alice, "bob", 10, 10).0, 10, "the lane has room");
    let before = client.server_incarnation();
    server.kill();
    server = start().unwrap();
    await_connection(&client, before);
    // The state is as full as it was, nothing of it is lost, and what was refused has not happened.
    assert!(matches!(bob.state().put("another", [1; 3000]), Err(StateError::Full { .. })));
    assert_eq!(bob.state().get("another").unwrap().map(|value| value.version()), None);
    assert!(matches!(keyed(), Err(CallError::Overloaded { .. })));
    assert_eq!(bob.state().list("fill/").unwrap().count() as u64, filled);
    // Messages that are in the mailbox are received without any room, those in the lane when there is some.
    let mut arrived = take(&bob, "alice", 7);
    assert_eq!(arrived, (3..10).collect::<Vec<_>>());
    for number in 0..filled {
        assert!(bob.state().delete(&format!("fill/{number}")).unwrap());
    }
    arrived.extend(take(&bob, "alice", 100));
    assert_eq!(arrived, (3..20).collect::<Vec<_>>());
    assert_eq!(keyed().unwrap().as_slice(), b"2");
    assert_eq!(keyed().unwrap().as_slice(), b"2", "it ran once");
    bob.state().put("another", [1; 3000]).unwrap();
    assert_eq!(status(&client, "bob").worker_restarts, 0);
    drop((alice, bob, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

#[test]
fn records_of_calls_that_are_full_refuse_new_ones_remember_the_old_ones_and_make_room_in_time() {
    let mut application = small(1);
    application.limits.state_bytes_max = 1 << 20;
    application.environment.insert(functions::KEPT_MS.into(), "3000".into());
    let stage = Stage::new(application, |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let call = |number: usize| {
        let key: IdempotencyKey = format!("call {number}").parse().unwrap();
        let name = format!("runs/{}", number % 10);
        alice.call("bump").payload(name.as_bytes()).deadline(PATIENCE).idempotency_key(key).send()
    };
    let mut answers = Vec::new();
    let refused = loop {
        match call(answers.len()) {
            Ok(answer) => answers.push(answer.as_slice().to_vec()),
            Err(error) => break error,
        }
        assert!(answers.len() < 4096, "more records than a mebibyte has room for");
    };
    let CallError::Overloaded { used, limit, .. } = refused else { panic!("{refused}") };
    assert!(used >= limit && limit > 0, "{used} of {limit}");
    println!("{} records in a mebibyte of state", answers.len());
    // Those that are remembered are answered, not run; others without keys, and objects, have their room.
    let newest = answers.len() - 1;
    assert_eq!(call(newest).unwrap().as_slice(), answers[newest]);
    bytes(&alice, "bump", "without a key");
    alice.state().put("object", [1; 1000]).unwrap();
    let mut again = None;
    eventually("records whose time is over make room", || {
        again = call(answers.len()).ok();
        again.is_some()
    });
    let before: u64 = std::str::from_utf8(&answers[answers.len() - 10]).unwrap().parse().unwrap();
    assert_eq!(again.unwrap().as_slice(), (before + 1).to_string().as_bytes(), "what was refused had not run");
    drop((alice, client));
    stage.end();
}
