//! Sessions of clients whose processes, or whose partners, are on another server: as if all were here, while the links between
//! the servers are cut and the servers are killed.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::answering::{self, told};
use common::hosts::{self, Host, Hosts, ask};
use common::random::Random;
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{Process, SendError, Session, SessionId, Sources};

/// Servers killed in each test, unless the environment says otherwise.
const SERVER_KILLS: u64 = 4;

/// More would take more messages than a lane holds.
const SERVER_KILLS_MAX: u64 = 20;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        _ if is_keeper_socket(&std::io::stdin()) => stage::play(),
        Ok("worker") => answering::serve(),
        Ok("host") => hosts::play_host(),
        _ => stage::play(),
    }
}

fn begin(host: &Host) -> Session {
    host.client().session("hello".parse().unwrap()).unwrap()
}

/// A process of one host that a session of the other one knows.
fn known_process(host: &Host, name: &str, session: &Session) -> Process {
    let process = host.with_process(name);
    eventually("the other server knows the process", || match session.send(name, "known", b"") {
        Ok(_) => true,
        Err(SendError::UnknownDestination { .. }) => false,
        Err(error) => panic!("{error}"),
    });
    process
}

/// Waits until the server of `from` has heard of a session on the other one.
fn await_session(from: &Session, to: SessionId) {
    eventually("the other server knows the session", || match from.send(to, "known", b"") {
        Ok(_) => true,
        Err(SendError::UnknownDestination { .. }) => false,
        Err(error) => panic!("{error}"),
    });
}

#[test]
fn a_session_and_a_process_of_another_server_answer_each_other() {
    let hosts = Hosts::linked();
    let session = begin(&hosts.a);
    let bob = known_process(&hosts.b, "bob", &session);
    for bytes in [0, 3, 1000, 70_000, 900_000] {
        let answering = bob.call("answer").payload(b"questions").deadline(PATIENCE).start().unwrap();
        let question: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
        session.send("bob", "questions", &question).unwrap();
        let answer = session.recv("bob", "answers", PATIENCE).unwrap();
        assert!(answer.bytes() == question, "{bytes} bytes");
        answer.accept().unwrap();
        answering.wait().unwrap();
    }
    let nobody = session.send("nobody", "k", b"x").unwrap_err();
    assert!(matches!(nobody, SendError::UnknownDestination { .. }), "{nobody}");
    drop((session, bob));
    hosts.end();
}

#[test]
fn sessions_of_two_servers_exchange_messages_in_order() {
    let hosts = Hosts::linked();
    let (here, there) = (begin(&hosts.a), begin(&hosts.b));
    await_session(&here, there.id());
    await_session(&there, here.id());
    for (from, to) in [(&here, &there), (&there, &here)] {
        for number in 0..200 {
            from.send_within(to.id(), "numbers", format!("{number}").as_bytes(), PATIENCE).unwrap();
        }
        for number in 0..200 {
            let message = to.recv(from.id(), "numbers", PATIENCE).unwrap();
            assert_eq!(message.bytes(), format!("{number}").as_bytes());
            message.accept().unwrap();
        }
    }
    let gone = there.id();
    there.end().unwrap();
    eventually("the end is known", || matches!(here.send(gone, "k", b"x"), Err(SendError::UnknownDestination { .. })));
    drop((here, there));
    hosts.end();
}

/// Messages that are sent between two disturbances: nobody takes them meanwhile, and all together they must fit a lane.
const MESSAGES_A_ROUND: u64 = 40;

/// How far the sender may go, and how far it has come.
#[derive(Default)]
struct Pace {
    allowed: AtomicU64,
    sent: AtomicU64,
}

impl Pace {
    /// Lets some messages be sent, and waits until the first of them were.
    fn go_on(&self) {
        let before = self.sent.load(Ordering::SeqCst);
        self.allowed.store(before + MESSAGES_A_ROUND, Ordering::SeqCst);
        eventually("messages are sent", || self.sent.load(Ordering::SeqCst) > before + 10);
    }
}

/// Numbers both ways between a session and a process, until `disturb` has done what it does; each arrives once, in order.
fn exchange(session: &Session, bob: &Process, disturb: impl FnOnce(&Pace)) {
    let (over, pace, heard) = (AtomicBool::new(false), Pace::default(), AtomicU64::new(0));
    let (sent, told_numbers) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let number = pace.sent.load(Ordering::SeqCst);
                if number >= pace.allowed.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                session.send_within("bob", "there", number.to_string().as_bytes(), PATIENCE).unwrap();
                pace.sent.store(number + 1, Ordering::SeqCst);
            }
            pace.sent.load(Ordering::SeqCst)
        });
        let telling = scope.spawn(|| {
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                // One that may not have been sent at all is told again by a call of its own, with the same number: the
                // function is not told twice at a time, and the client drops what it has had.
                let order = format!("{} back {number} 1 1", told(session));
                if bob.call("tell").payload(order).deadline(PATIENCE).send().is_ok() {
                    number += 1;
                }
            }
            number
        });
        let receiving = scope.spawn(|| {
            loop {
                match session.recv("bob", "back", Duration::from_millis(500)) {
                    Ok(message) => {
                        let number: u64 = std::str::from_utf8(&message).unwrap().parse().unwrap();
                        let expected = heard.load(Ordering::SeqCst);
                        // Behind only what was received and not known to be accepted, or told again by another call.
                        assert!(number <= expected, "{number} came before {expected}");
                        message.accept().unwrap();
                        heard.store(expected.max(number + 1), Ordering::SeqCst);
                    }
                    Err(praas_client::RecvError::DeadlineExceeded { .. }) if over.load(Ordering::SeqCst) => return,
                    Err(
                        praas_client::RecvError::DeadlineExceeded { .. } | praas_client::RecvError::Unavailable { .. },
                    ) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        disturb(&pace);
        over.store(true, Ordering::SeqCst);
        let ends = (sending.join().unwrap(), telling.join().unwrap());
        receiving.join().unwrap();
        ends
    });
    assert_eq!(heard.load(Ordering::SeqCst), told_numbers, "all that was told was heard");
    let mut arrived = Vec::new();
    loop {
        let some = ask(bob, "all", "there");
        if some.is_empty() {
            break;
        }
        arrived.extend(some.split(' ').map(|number| number.trim_end_matches('!').parse::<u64>().unwrap()));
    }
    let expected: Vec<_> = (0..sent).collect();
    assert!(arrived == expected, "{} sent, {} arrived: {arrived:?}", sent, arrived.len());
    println!("{sent} sent, {told_numbers} told");
}

#[test]
fn links_that_are_cut_lose_and_double_no_message_of_a_session() {
    let mut random = Random::printed("cuts");
    let hosts = Hosts::linked();
    let session = begin(&hosts.a);
    let bob = known_process(&hosts.b, "bob", &session);
    exchange(&session, &bob, |pace| {
        for cut in 0..12 {
            pace.go_on();
            std::thread::sleep(Duration::from_millis(random.below(50)));
            if cut % 2 == 0 {
                hosts.a.proxy.cut();
            } else {
                hosts.b.proxy.cut();
            }
        }
    });
    drop((session, bob));
    hosts.end();
}

fn kills() -> u64 {
    std::env::var("PRAAS_SERVER_KILLS")
        .map_or(SERVER_KILLS, |kills| kills.parse::<u64>().unwrap().min(SERVER_KILLS_MAX))
}

#[test]
fn servers_that_are_killed_lose_and_double_no_message_of_a_session() {
    let mut random = Random::printed("killed servers");
    let mut hosts = Hosts::idle();
    let (to_a, to_b) = (hosts.a.as_peer(), hosts.b.as_peer());
    if !hosts.a.start_apart(&to_b) || !hosts.b.start_apart(&to_a) {
        return hosts.end();
    }
    let session = begin(&hosts.a);
    let bob = known_process(&hosts.b, "bob", &session);
    exchange(&session, &bob, |pace| {
        for kill in 0..kills() {
            pace.go_on();
            std::thread::sleep(Duration::from_millis(random.below(100)));
            let (host, peer) = if kill % 2 == 0 { (&mut hosts.a, &to_b) } else { (&mut hosts.b, &to_a) };
            host.kill();
            assert!(host.start_apart(peer));
        }
        pace.go_on();
    });
    assert!(session.try_recv(Sources::Any, "back").unwrap().is_none());
    drop((session, bob));
    hosts.end();
}
