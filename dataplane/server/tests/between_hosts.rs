//! Two servers that call each other: functions call functions of the other one, processes send each other messages, and each
//! sees the other one's processes, as if all were here.

mod common;

use std::time::{Duration, Instant};

use common::far;
use common::hosts::{Hosts, ask, await_line};
use common::nesting::FAILED;
use common::proxy::Way;
use common::{PATIENCE, eventually};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

#[test]
fn functions_call_functions_of_another_server_and_are_called_back() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&bob, "alice active");
    assert_eq!(ask(&alice, "ask", "bob echo 0 hello"), "hello");
    assert_eq!(ask(&bob, "ask", "alice echo 5000 hello"), "hello");
    // In whose name, and how much is believed.
    assert_eq!(ask(&alice, "ask", "bob caller 0 "), "alice true");
    // alice → bob → alice → bob, each in a call of the one before.
    assert_eq!(ask(&alice, "relay", "bob,alice,bob|done"), "alice bob alice bob done");
    assert_eq!(ask(&bob, "relay", "bob,alice,@,bob|done"), "bob bob alice alice bob done");
    assert_eq!(ask(&alice, "later", "bob bob alice bob"), "3 2 1 0");
    assert_eq!(ask(&alice, "gather", "echo hi bob alice bob nobody").lines().take(3).collect::<Vec<_>>(), ["hi"; 3]);
    assert!(ask(&alice, "sum-there", "bob").starts_with("500500"));
    drop((alice, bob));
    hosts.end();
}

#[test]
fn a_call_ends_on_the_other_server_as_it_would_here() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    let failed = |input: &str| {
        let told = ask(&alice, "ask", input);
        assert!(told.starts_with(FAILED), "{input}: {told}");
        told
    };
    assert!(failed("nobody echo 0 x").contains("UnknownProcess"));
    assert!(failed("bob no-such-function 0 x").contains("UnknownFunction"));
    assert!(failed("bob panic 0 x").contains("as asked"));
    let begun = Instant::now();
    assert!(failed("bob until-unwanted 300 x").contains("DeadlineExceeded"));
    assert!(begun.elapsed() < PATIENCE / 2, "it ended at its deadline");
    assert_eq!(ask(&alice, "forsake", "bob until-unwanted x"), "forsaken");
    // The worker is free again: it saw that nobody waits.
    assert_eq!(ask(&alice, "ask", "bob echo 0 still"), "still");
    drop((alice, bob));
    hosts.end();
}

#[test]
fn large_payloads_go_both_ways_and_hold_small_ones_up_no_longer_than_they_must() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    for bytes in [100, 70_000, 3_000_000] {
        assert_eq!(ask(&alice, "ask", &format!("bob grow 0 {bytes}")).len(), bytes);
        let text = "x".repeat(bytes);
        assert_eq!(ask(&alice, "ask", &format!("bob echo 0 {text}")), text);
        assert_eq!(ask(&alice, "send-large", &format!("bob large {bytes} 5")), "");
        assert_eq!(ask(&bob, "recv-large", "alice large"), format!("{bytes} of 5 true"));
    }
    drop((alice, bob));
    hosts.end();
}

#[test]
fn messages_arrive_in_order_both_ways_and_from_several_senders() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let carol = hosts.a.with_process("carol");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&carol, "bob active");
    await_line(&bob, "alice active");
    ask(&alice, "send-many", "bob news 0 500");
    ask(&carol, "send-many", "bob news 1000 300");
    ask(&bob, "send-many", "alice back 0 200");
    let numbers = |from: &str, range: std::ops::Range<u32>| {
        range.map(|number| format!("{from}:{number}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ask(&bob, "all", "alice news"), numbers("alice", 0..500));
    assert_eq!(ask(&bob, "all", "carol news"), numbers("carol", 1000..1300));
    assert_eq!(ask(&alice, "all", "bob back"), numbers("bob", 0..200));
    // Here and there in one go.
    assert_eq!(
        ask(&alice, "broadcast", "tidings hello bob carol alice nobody").lines().take(3).collect::<Vec<_>>(),
        ["ok"; 3]
    );
    for process in [&bob, &carol, &alice] {
        assert_eq!(ask(process, "recv", &format!("alice tidings {}", PATIENCE.as_millis() / 2)), "alice:hello");
    }
    drop((alice, bob, carol));
    hosts.end();
}

#[test]
fn a_receiver_that_waits_is_woken_by_a_message_of_another_server() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    for round in 0..10 {
        std::thread::scope(|scope| {
            let received = scope.spawn(|| ask(&bob, "recv", "* wake 20000"));
            std::thread::sleep(Duration::from_millis(round));
            ask(&alice, "send", &format!("bob wake {round}"));
            assert_eq!(received.join().unwrap(), format!("alice:{round}"));
        });
    }
    drop((alice, bob));
    hosts.end();
}

#[test]
fn each_server_s_list_shows_the_other_one_s_processes_and_whether_they_can_be_reached() {
    let mut hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    let names: Vec<_> = (0..150).map(|number| format!("p{number}")).collect();
    let client = hosts.b.client();
    for name in &names {
        client.create(common::stage::process(name)).unwrap();
    }
    eventually("all of them are listed", || ask(&alice, "list", "").lines().count() == names.len() + 2);
    client.stop(common::stage::process("p7")).unwrap();
    await_line(&alice, "!p7 ");
    // A name of this server hides the other one's.
    let here = hosts.a.with_process("p8");
    assert_eq!(ask(&alice, "list", "").lines().filter(|line| line.starts_with("p8 ")).count(), 1);
    assert_eq!(ask(&alice, "ask", "p8 caller 0 "), "alice true");
    hosts.a.client().stop(common::stage::process("p8")).unwrap();
    await_line(&alice, "p8 active");
    drop(here);
    hosts.b.proxy.lead_to(None);
    hosts.b.proxy.cut();
    await_line(&alice, "bob unreachable");
    let address = hosts.b.server().network().unwrap().addresses()[0];
    hosts.b.proxy.lead_to(Some(address));
    await_line(&alice, "bob active");
    drop((client, bob));
    hosts.b.stop();
    await_line(&alice, "bob unreachable");
    drop(alice);
    hosts.end();
}

#[test]
fn calls_and_messages_wait_for_a_link_that_is_down_until_their_deadlines() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    assert_eq!(ask(&alice, "ask", "bob echo 0 before"), "before");
    let address = hosts.b.server().network().unwrap().addresses()[0];
    hosts.b.proxy.lead_to(None);
    hosts.b.proxy.cut();
    await_line(&alice, "bob unreachable");
    let told = ask(&alice, "ask", "bob echo 200 late");
    assert!(told.starts_with(FAILED), "{told}");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| ask(&alice, "ask", "bob echo 20000 patient"));
        let sends = scope.spawn(|| ask(&alice, "send-many", "bob news 0 20"));
        std::thread::sleep(Duration::from_millis(100));
        hosts.b.proxy.lead_to(Some(address));
        assert_eq!(call.join().unwrap(), "patient");
        sends.join().unwrap();
    });
    let expected: Vec<_> = (0..20).map(|number| format!("alice:{number}")).collect();
    assert_eq!(ask(&bob, "all", "alice news"), expected.join(" "));
    assert!(hosts.b.proxy.passed(Way::There) > 0);
    drop((alice, bob));
    hosts.end();
}
