//! A server that is called does what it may not: it spoils the calls that are made of it, and nothing else.

mod common;

use std::time::{Duration, Instant};

use common::fake_server::{FakeServer, Harm};
use common::hosts::{Hosts, RIGHTS_OF_PEERS, ask, await_line, is_linked};
use common::nesting::FAILED;
use common::{eventually, far};
use praas_protocol::token::Rights;
use praas_server::Peer;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

/// A host that is told to call a server played by the test.
fn with_fake(harm: Harm) -> (Hosts, FakeServer) {
    // The hosts first: other tests, which count descriptors, are over then.
    let mut hosts = Hosts::idle();
    let fake = FakeServer::new();
    fake.do_harm(harm);
    hosts.a.start_here(vec![Peer { address: fake.address.to_string(), token: "any".into() }], |_| {});
    (hosts, fake)
}

fn trouble(hosts: &Hosts) -> String {
    let peers = hosts.a.server().network().unwrap().peers();
    peers[0].trouble.clone().unwrap_or_default()
}

#[test]
fn a_server_that_breaks_the_protocol_spoils_its_own_calls_alone() {
    let (hosts, fake) = with_fake(Harm::None);
    let alice = hosts.a.with_process("alice");
    await_line(&alice, "ghost active");
    assert_eq!(ask(&alice, "ask", "ghost echo 5000 hello"), "hello");
    let in_a_call = [
        Harm::AnswersOther,
        Harm::AnswersTwice,
        Harm::AnswersTooMuch,
        Harm::AnswersHalf,
        Harm::Calls,
        Harm::GoesAway,
        Harm::LeavesFalsely,
    ];
    let on_a_new_link = [
        Harm::Junk,
        Harm::ImpossibleWelcome,
        Harm::WelcomesTwice,
        Harm::ImpossibleState,
        Harm::TellsUnasked,
        Harm::HandleZero,
        Harm::OpensTwice,
    ];
    for harm in on_a_new_link.into_iter().chain(in_a_call) {
        let mut greeted = fake.greeted();
        fake.do_harm(harm);
        if on_a_new_link.contains(&harm) {
            fake.cut();
            greeted += 2;
        }
        let large = "x".repeat(300_000);
        eventually("the link was broken, and dialled again", || {
            for payload in ["hello", &large] {
                let told = ask(&alice, "ask", &format!("ghost echo 300 {payload}"));
                assert!(told.starts_with(FAILED) || told == payload, "{harm:?}: {}", &told[..told.len().min(200)]);
            }
            fake.greeted() >= greeted + 2
        });
        println!("{harm:?}: {}", trouble(&hosts));
        assert_eq!(ask(&alice, "ask", "alice echo 0 still here"), "still here");
        fake.do_harm(Harm::None);
        eventually("all is well again", || ask(&alice, "ask", "ghost echo 5000 again") == "again");
    }
    drop((alice, fake));
    hosts.end();
}

#[test]
fn an_outcome_of_another_version_ends_its_call_and_not_the_link() {
    let (hosts, fake) = with_fake(Harm::None);
    let alice = hosts.a.with_process("alice");
    await_line(&alice, "ghost active");
    assert_eq!(ask(&alice, "ask", "ghost echo 5000 hello"), "hello");
    let greeted = fake.greeted();
    fake.do_harm(Harm::UnknownOutcome);
    assert!(ask(&alice, "ask", "ghost echo 5000 hello").contains("may_have_run: true"));
    fake.do_harm(Harm::None);
    assert_eq!(ask(&alice, "ask", "ghost echo 5000 hello"), "hello");
    assert_eq!(fake.greeted(), greeted);
    drop((alice, fake));
    hosts.end();
}

#[test]
fn a_server_that_says_nothing_delays_nobody_but_its_callers() {
    let (hosts, fake) = with_fake(Harm::Silent);
    let begun = Instant::now();
    let alice = hosts.a.with_process("alice");
    assert_eq!(ask(&alice, "ask", "alice echo 0 hello"), "hello");
    assert!(ask(&alice, "ask", "ghost echo 100 hello").starts_with(FAILED));
    eventually("it is given up", || trouble(&hosts).contains("hello in time") || fake.greeted() > 2);
    println!("given up after {:?}", begun.elapsed());
    drop((alice, fake));
    hosts.end();
}

#[test]
fn a_token_that_is_wrong_expired_or_too_weak_is_named_as_the_reason() {
    let mut hosts = Hosts::idle();
    hosts.b.start_here(Vec::new(), |_| {});
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let address = hosts.b.proxy.address.to_string();
    let tokens = [
        (hosts.a.token(RIGHTS_OF_PEERS, None), "not signed by this server"),
        (hosts.b.token(RIGHTS_OF_PEERS, Some(1)), "expired"),
        ("nonsense".to_owned(), "not a praas token"),
        (hosts.b.token(Rights::INVOKE, None), "trusted"),
    ];
    for (token, expected) in tokens {
        hosts.a.start_here(vec![Peer { address: address.clone(), token }], |_| {});
        eventually("the reason is known", || trouble(&hosts).contains(expected));
        println!("{}", trouble(&hosts));
        assert!(!is_linked(&hosts.a));
        hosts.a.stop();
    }
    // One that ends while it is used.
    let token = hosts.b.token(RIGHTS_OF_PEERS, Some(now_s + 3));
    hosts.a.start_here(vec![Peer { address: address.clone(), token }], |_| {});
    eventually("it is linked", || is_linked(&hosts.a));
    eventually("the token ends", || !is_linked(&hosts.a));
    assert!(trouble(&hosts).contains("expired"), "{}", trouble(&hosts));
    hosts.a.stop();
    // Nobody listens there.
    hosts.b.proxy.lead_to(None);
    hosts.a.start_here(vec![Peer { address: "127.0.0.1:1".into(), token: String::new() }], |_| {});
    eventually("the reason is known", || trouble(&hosts).contains("refused"));
    drop(hosts.a.with_process("alice"));
    hosts.end();
}

#[test]
fn a_server_that_is_told_to_call_itself_says_so() {
    let mut hosts = Hosts::idle();
    let to_itself = hosts.a.as_peer();
    hosts.a.start_here(vec![to_itself], |_| {});
    eventually("the reason is known", || trouble(&hosts).contains("this very server"));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!is_linked(&hosts.a));
    hosts.end();
}

#[test]
fn no_message_overtakes_one_that_was_refused_whatever_the_reason() {
    let (hosts, fake) = with_fake(Harm::RefusesLargeOnce);
    let alice = hosts.a.with_process("alice");
    await_line(&alice, "ghost active");
    ask(&alice, "send-behind", "ghost");
    let accepted = fake.accepted();
    assert_eq!(accepted.len(), 4);
    assert!(accepted.is_sorted(), "{accepted:?}");
    drop((alice, fake));
    hosts.end();
}
