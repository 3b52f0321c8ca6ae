//! Messages of clients' sessions to processes to which no message lane leads: those whose changes are logged, and those into
//! whose mailbox many sessions have a lane already.

mod common;

use std::time::Duration;

use common::mails::{self, ask, mailing, processes};
use common::sessions::Session;
use common::stage::{Stage, process};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_protocol::limits::MESSAGE_LANES_MAX;
use praas_protocol::message::{Accepted, Address, codes};
use praas_protocol::{Durability, Outcome};
use praas_server::MemoryLog;

/// Clients that come, send one message and go: more than the lanes that a mailbox takes.
const VISITORS: usize = MESSAGE_LANES_MAX + 44;

/// More than any test writes.
const LOG_BYTES: usize = 64 << 20;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::serve(),
        _ => stage::play(),
    }
}

/// A server whose processes are logged, of as many workers each.
fn logged_stage(workers: u32) -> (Stage, MemoryLog) {
    let mut application = mailing();
    application.durability = Durability::Logged;
    (application.workers_min, application.workers_max) = (workers, workers);
    let log = MemoryLog::new(LOG_BYTES);
    let stage = Stage::new(application, |options| options.memory_log = Some(log.clone()));
    (stage, log)
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

/// What was received, without its senders, whose names have spaces.
fn bare(texts: &str) -> Vec<&str> {
    texts.split(' ').filter_map(|word| Some(word.split_once(':')?.1)).collect()
}

#[test]
fn clients_that_come_send_and_go_keep_nobody_else_out_of_a_mailbox_that_nobody_empties() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice, carol] = processes(&client, ["alice", "carol"]);
    let mut early = Session::begin(stage.path());
    early.send(address("alice"), "early", "first");
    for number in 0..VISITORS {
        let mut visitor = Session::begin(stage.path());
        visitor.send(address("alice"), "k", &number.to_string());
        visitor.end();
    }
    let opened = stage.server().metrics().unwrap().message_lanes_opened;
    assert!(opened < MESSAGE_LANES_MAX as u64 / 2, "{opened} lanes lead into the mailbox");
    // A process has a lane of its own, and one that was there before needs another for what is large.
    ask(&carol, "send", "alice k carol").unwrap();
    let large = "L".repeat(700_000);
    early.send(address("alice"), "early", &large);
    early.send(address("alice"), "early", "last");
    for (sequence, text) in [(1, "first"), (2, large.as_str()), (3, "last")] {
        let again = early.send_as(sequence, address("alice"), "early", text);
        assert_eq!(again.0, Outcome::Ok, "{again:?}");
    }
    for text in ["first", &large, "last"] {
        let received = ask(&alice, "recv", "* early 0").unwrap();
        assert!(received.split_once(':').unwrap().1 == text, "{} bytes", received.len());
    }
    let received = ask(&alice, "all", "* k").unwrap();
    let mut numbers: Vec<_> = bare(&received).iter().filter_map(|text| text.parse::<usize>().ok()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..VISITORS), "{received}");
    assert!(received.contains("carol:carol"));
    assert_eq!(ask(&alice, "all", "* early").unwrap(), "");
    drop((alice, carol, client, early));
    stage.end();
}

#[test]
fn a_message_that_is_sent_again_is_never_there_twice_however_many_numbers_have_passed() {
    let stage = Stage::new(mailing(), |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let session = Session::begin(stage.path());
    for (sequence, text) in [(1, "first"), (1 << 40, "second")] {
        assert_eq!(session.send_as(sequence, address("alice"), "k", text).0, Outcome::Ok);
    }
    assert_eq!(bare(&ask(&alice, "all", "* k").unwrap()), ["first", "second"]);
    let forgotten = session.send_again_as(1, address("alice"), "k", "first");
    assert_eq!((forgotten.0, forgotten.1), (Outcome::FunctionFailed, codes::TOO_OLD), "{forgotten:?}");
    let known = session.send_again_as(1 << 40, address("alice"), "k", "second");
    assert_eq!(Accepted::from_answer(&known.2), Some(Accepted::Before), "{known:?}");
    let fresh = session.send_again_as(2 << 40, address("alice"), "k", "third");
    assert_eq!(Accepted::from_answer(&fresh.2), Some(Accepted::Now), "{fresh:?}");
    assert_eq!(bare(&ask(&alice, "all", "* k").unwrap()), ["third"]);
    drop((alice, client, session));
    stage.end();
}

#[test]
fn a_message_to_a_logged_process_is_accepted_when_it_is_durable_and_known_when_it_is_repeated() {
    let (stage, log) = logged_stage(1);
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut session = Session::begin(stage.path());
    session.send(address("alice"), "k", "first");
    log.hold();
    let before = log.appended(process("alice")).unwrap();
    let sent = session.start_send(address("alice"), "k", b"second", PATIENCE);
    eventually("it is in the mailbox", || log.appended(process("alice")) > Some(before));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!session.lane.is_answered(&sent), "it was accepted before it is durable");
    assert_eq!(log.durable(process("alice")), Some(before));
    log.release();
    let answer = session.answer(sent);
    assert_eq!((answer.0, Accepted::from_answer(&answer.2)), (Outcome::Ok, Some(Accepted::Now)), "{answer:?}");
    assert!(log.durable(process("alice")) > Some(before));
    let again = session.send_as(2, address("alice"), "k", "second");
    assert_eq!(Accepted::from_answer(&again.2), Some(Accepted::Before), "{again:?}");
    assert_eq!(bare(&ask(&alice, "all", "* k").unwrap()), ["first", "second"]);
    drop((alice, client, session));
    stage.end();
}

#[test]
fn messages_to_a_logged_process_keep_their_order_however_many_are_under_way() {
    let (stage, log) = logged_stage(2);
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut sessions = [(); 3].map(|()| Session::begin(stage.path()));
    for round in 0..5 {
        let sent: Vec<_> = (0..20)
            .flat_map(|number| {
                let text = |index| format!("{index}.{}", round * 20 + number);
                let start = |(index, session): (usize, &mut Session)| {
                    (index, session.start_send(address("alice"), "k", text(index).as_bytes(), PATIENCE))
                };
                sessions.iter_mut().enumerate().map(start).collect::<Vec<_>>()
            })
            .collect();
        for (index, ticket) in sent {
            let answer = sessions[index].answer(ticket);
            assert_eq!((answer.0, Accepted::from_answer(&answer.2)), (Outcome::Ok, Some(Accepted::Now)), "{answer:?}");
        }
    }
    let received = ask(&alice, "all", "* k").unwrap();
    for index in 0..sessions.len() {
        let start = format!("{index}.");
        let numbers = bare(&received).into_iter().filter_map(|text| text.strip_prefix(&start)?.parse::<usize>().ok());
        assert!(numbers.eq(0..100), "{received}");
    }
    // What nobody is told of in time may have been accepted; its repetition tells.
    log.hold();
    let late = sessions[0].start_send(address("alice"), "k", b"late", PATIENCE);
    let next = sessions[0].start_send(address("alice"), "k", b"next", PATIENCE);
    sessions[0].leave();
    log.release();
    drop((late, next));
    let ticket = sessions[0].ticket;
    let resumed = Session::resume(stage.path(), ticket).unwrap();
    for (sequence, text) in [(101, "late"), (102, "next")] {
        let answer = resumed.send_as(sequence, address("alice"), "k", text);
        assert_eq!(answer.0, Outcome::Ok, "{answer:?}");
    }
    assert_eq!(bare(&ask(&alice, "all", "* k").unwrap()), ["late", "next"]);
    drop((alice, client, sessions, resumed));
    stage.end();
}
