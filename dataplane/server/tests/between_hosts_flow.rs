//! Who is slow, and what is large, holds up nobody else between two servers; and a call with a key is carried out once however
//! often it was on its way.

mod common;

use std::time::Duration;

use common::far;
use common::hosts::{Hosts, ask, await_line};
use common::nesting::FAILED;
use common::proxy::{LARGE_BYTES, Way};
use praas_sys::driver;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

#[test]
fn the_sender_to_a_receiver_that_does_not_receive_waits_and_others_do_not() {
    /// More than the lane to a mailbox holds.
    const MANY: usize = 1500;
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let carol = hosts.a.with_process("carol");
    let slow = hosts.b.with_process("slow");
    let quick = hosts.b.with_process("quick");
    for process in [&alice, &carol] {
        await_line(process, "slow active");
        await_line(process, "quick active");
    }
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| ask(&alice, "send-many", &format!("slow news 0 {MANY}")));
        // While that sender waits, or is about to.
        for round in 0..5 {
            ask(&carol, "send-many", &format!("quick news {} 100", round * 100));
            assert_eq!(ask(&carol, "ask", "slow echo 5000 hello"), "hello");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!sends.is_finished(), "the mailbox does not take as much as that");
        let expected: Vec<_> = (0..500).map(|number| format!("carol:{number}")).collect();
        assert_eq!(ask(&quick, "all", "carol news"), expected.join(" "));
        let mut arrived = Vec::new();
        common::eventually("all of them arrive", || {
            let some = ask(&slow, "all", "alice news");
            arrived.extend(some.split_whitespace().map(str::to_owned));
            arrived.len() >= MANY
        });
        let expected: Vec<_> = (0..MANY).map(|number| format!("alice:{number}")).collect();
        assert_eq!(arrived, expected);
        sends.join().unwrap();
    });
    drop((alice, carol, slow, quick));
    hosts.end();
}

#[test]
fn a_large_message_that_is_held_up_holds_no_small_one_up() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let carol = hosts.a.with_process("carol");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&carol, "bob active");
    hosts.b.proxy.hold_large(Way::There, true);
    std::thread::scope(|scope| {
        let large = scope.spawn(|| ask(&alice, "send-large", "bob large 3000000 7"));
        let before = hosts.b.proxy.passed(Way::There);
        common::eventually("a part of it is on its way", || hosts.b.proxy.passed(Way::There) > before + LARGE_BYTES);
        ask(&carol, "send-many", "bob small 0 200");
        assert_eq!(ask(&carol, "ask", "bob echo 5000 hello"), "hello");
        let expected: Vec<_> = (0..200).map(|number| format!("carol:{number}")).collect();
        assert_eq!(ask(&bob, "all", "carol small"), expected.join(" "));
        assert!(!large.is_finished());
        hosts.b.proxy.hold_large(Way::There, false);
        large.join().unwrap();
    });
    assert_eq!(ask(&bob, "recv-large", "alice large"), "3000000 of 7 true");
    drop((alice, carol, bob));
    hosts.end();
}

#[test]
fn a_call_with_a_key_is_carried_out_once_however_often_its_link_was_cut() {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    assert_eq!(ask(&alice, "once", "bob first"), "1");
    assert_eq!(ask(&alice, "once", "bob first"), "1");
    for (number, at) in [(2, 10), (3, 60), (4, 90), (5, 150)] {
        hosts.b.proxy.cut_after(if number % 2 == 0 { Way::There } else { Way::Back }, at);
        let input = format!("bob key-{number}");
        // What its caller was told is that it may have run.
        common::eventually("it is answered", || {
            let reply = alice.call("once").payload(input.as_bytes()).deadline(common::PATIENCE).send();
            reply.is_ok_and(|reply| reply.as_slice() == number.to_string().as_bytes())
        });
        hosts.b.proxy.cut_no_more();
    }
    assert_eq!(ask(&bob, "count", ""), "6");
    drop((alice, bob));
    hosts.end();
}

#[test]
fn links_work_with_io_uring_too() {
    if let Err(refusal) = driver::probe() {
        return println!("skipped: {refusal}");
    }
    let hosts = Hosts::linked_with(|options| options.network_driver = praas_server::DriverChoice::IoUring);
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&bob, "alice active");
    assert_eq!(ask(&alice, "relay", "bob,alice,bob|done"), "alice bob alice bob done");
    ask(&alice, "send-many", "bob news 0 300");
    let expected: Vec<_> = (0..300).map(|number| format!("alice:{number}")).collect();
    assert_eq!(ask(&bob, "all", "alice news"), expected.join(" "));
    ask(&alice, "send-large", "bob large 3000000 9");
    assert_eq!(ask(&bob, "recv-large", "alice large"), "3000000 of 9 true");
    assert_eq!(ask(&alice, "ask", "bob grow 0 3000000").len(), 3_000_000);
    for _ in 0..5 {
        hosts.b.proxy.cut();
        ask(&alice, "send-many", "bob more 0 10");
        assert!(!ask(&alice, "ask", "bob echo 5000 hello").starts_with(FAILED));
    }
    assert_eq!(ask(&bob, "all", "alice more").split(' ').count(), 50);
    drop((alice, bob));
    hosts.end();
}
