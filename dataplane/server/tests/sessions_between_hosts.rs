//! Clients' sessions and two servers: a client of one exchanges messages with processes and clients of the other.

mod common;

use std::time::Duration;

use common::far;
use common::hosts::{Hosts, ask, await_line};
use common::mails;
use common::sessions::Session;
use common::{PATIENCE, ROLE, eventually, is_keeper_socket};
use praas_function::{Call, FunctionResult, Sources};
use praas_protocol::Outcome;
use praas_protocol::message::{Accepted, Address, SessionId, codes};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => {
            mails::functions(praas_function::Application::new())
                .function("post", post)
                .function("answer", answer)
                .function("await", |call: &mut Call<'_>| -> FunctionResult<String> {
                    far::await_line(&call.context(), std::str::from_utf8(call.input())?)
                })
                .run();
        }
        _ => far::play(),
    }
}

/// Sends numbers to a session: its number, the key, from, to.
fn post(call: &mut Call<'_>) -> FunctionResult<()> {
    let text = std::str::from_utf8(call.input())?.to_owned();
    let words: Vec<_> = text.split(' ').collect();
    let session = SessionId(u128::from_str_radix(words[0], 16)?);
    for number in words[2].parse::<u64>()?..words[3].parse()? {
        call.context().send_within(Address::Client(session), words[1], number.to_string().as_bytes(), PATIENCE)?;
    }
    Ok(())
}

/// Receives from whoever sends, and sends the same back.
fn answer(call: &mut Call<'_>) -> FunctionResult<()> {
    let key = std::str::from_utf8(call.input())?.to_owned();
    let context = call.context();
    let (source, bytes) = {
        let message = context.recv(Sources::Any, &key, PATIENCE)?;
        (message.source(), message.bytes().to_vec())
    };
    context.send_within(source, &key, &bytes, PATIENCE)?;
    Ok(())
}

fn address(name: &str) -> Address {
    name.parse().unwrap()
}

/// Sends until the destination is known: what another server has is heard of a moment later.
fn send_once_known(session: &Session, sequence: u64, to: Address, key: &str, text: &str) -> Option<Accepted> {
    let mut answer = session.send_as(sequence, to, key, text);
    eventually("the destination is known", || {
        if answer.0 == Outcome::FunctionFailed && answer.1 == codes::NO_DESTINATION {
            answer = session.send_as(sequence, to, key, text);
            return false;
        }
        true
    });
    assert_eq!(answer.0, Outcome::Ok, "{answer:?}");
    Accepted::from_answer(&answer.2)
}

#[test]
fn a_client_of_one_server_talks_with_a_process_of_the_other() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    let session = Session::begin(hosts.a.path());
    let waiting = bob.call("answer").payload(b"talk").start().unwrap();
    send_once_known(&session, 1, address("bob"), "talk", "hello");
    let back = session.recv("talk", PATIENCE).unwrap();
    assert_eq!((back.text.as_str(), back.source), ("hello", address("bob")));
    waiting.wait().unwrap();
    // A repetition is known there, too, and what is large arrives whole.
    send_once_known(&session, 1, address("bob"), "talk", "hello");
    let large = "w".repeat(500_000);
    send_once_known(&session, 2, address("bob"), "talk", &large);
    ask(&bob, "answer", "talk");
    assert_eq!(session.recv("talk", PATIENCE).unwrap().text, large);
    assert_eq!(ask(&bob, "all", "* talk"), "");
    drop((alice, bob, session));
    hosts.end();
}

#[test]
fn clients_of_two_servers_send_each_other_messages_in_order() {
    let hosts = Hosts::linked();
    let (here, there) = (Session::begin(hosts.a.path()), Session::begin(hosts.b.path()));
    for sequence in 1..=40 {
        send_once_known(&here, sequence, there.address(), "k", &sequence.to_string());
        send_once_known(&there, sequence, here.address(), "k", &sequence.to_string());
    }
    for session in [&here, &there] {
        for sequence in 1..=40_u64 {
            let letter = session.recv("k", PATIENCE).unwrap();
            assert_eq!((letter.text, letter.redelivered), (sequence.to_string(), false));
            assert_eq!(session.call("praas.ping", b"").0, Outcome::Ok);
        }
        assert_eq!(session.recv("k", Duration::ZERO), None);
    }
    // One that has ended is unknown there, too.
    let gone = there.address();
    there.end();
    drop(there);
    eventually("the end is heard of", || {
        let answer = here.send_as(1000, gone, "k", "late");
        answer.0 == Outcome::FunctionFailed && answer.1 == codes::NO_DESTINATION
    });
    drop(here);
    hosts.end();
}

#[test]
fn messages_of_a_client_survive_cuts_of_the_link_once_and_in_order() {
    let hosts = Hosts::linked();
    let (here, there) = (Session::begin(hosts.a.path()), Session::begin(hosts.b.path()));
    send_once_known(&here, 1, there.address(), "first", "known");
    for sequence in 2..=200_u64 {
        if sequence % 40 == 20 {
            hosts.b.proxy.cut();
        }
        // As a client does: what may have arrived is sent again with its number.
        let mut answer = here.send_as(sequence, there.address(), "k", &sequence.to_string());
        eventually("it is accepted", || {
            if answer.0 != Outcome::Ok {
                assert!(matches!(answer.0, Outcome::ConnectionLost | Outcome::Unavailable), "{answer:?}");
                answer = here.send_as(sequence, there.address(), "k", &sequence.to_string());
            }
            answer.0 == Outcome::Ok
        });
    }
    let came: Vec<_> = std::iter::from_fn(|| there.recv("k", Duration::ZERO)).map(|letter| letter.text).collect();
    assert_eq!(came, (2..=200_u64).map(|sequence| sequence.to_string()).collect::<Vec<_>>());
    assert!(hosts.b.proxy.cuts() > 0);
    drop((here, there));
    hosts.end();
}

#[test]
fn messages_to_a_client_of_another_server_survive_cuts_of_the_link_once_and_in_order() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let there = Session::begin(hosts.b.path());
    let here = Session::begin(hosts.a.path());
    send_once_known(&here, 1, there.address(), "first", "known");
    let numbers = format!("{} k 0 400", there.name());
    let posting = alice.call("post").payload(numbers.as_bytes()).deadline(PATIENCE).start().unwrap();
    for next in 0..400_u64 {
        if next % 80 == 40 {
            hosts.b.proxy.cut();
        }
        let letter = there.recv("k", PATIENCE).unwrap();
        assert_eq!((letter.text.as_str(), letter.redelivered), (next.to_string().as_str(), false));
        assert_eq!(there.accept(&letter, "k").0, Outcome::Ok);
    }
    posting.wait().unwrap();
    assert_eq!(there.recv("k", Duration::ZERO), None);
    assert!(hosts.b.proxy.cuts() > 0);
    drop((alice, here, there));
    hosts.end();
}
