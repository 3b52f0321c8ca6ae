//! The connections between two servers are cut: at every byte of a message and of its acknowledgement, and at random under load.
//! What was sent arrives exactly once, in order, whatever was on its way.

mod common;

use std::time::{Duration, Instant};

use common::correspondence::{Correspondence, correspond};
use common::far;
use common::hosts::{Hosts, ask, await_line};
use common::proxy::{Proxy, Way};
use common::random::Random;
use praas_client::Process;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

fn send(alice: &Process, number: u64) {
    // As a single call: the function's send returns when the message is accepted.
    ask(alice, "send-many", &format!("bob news {number} 1"));
}

/// Sends numbered messages, cutting each second one's connection after one byte more than the last time.
fn cut_at_each_byte(way: Way) {
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    let proxy = &hosts.b.proxy;
    let mut number = 0;
    let mut next = || {
        number += 1;
        number - 1
    };
    // Bytes that a message, or its answer, takes on a link that has sent one before; pings and the like only add to it.
    let mut bytes = u64::MAX;
    for _ in 0..5 {
        send(&alice, next());
        let before = proxy.passed(way);
        send(&alice, next());
        bytes = bytes.min(proxy.passed(way) - before);
    }
    let mut missed = 0;
    for at in 0..bytes {
        send(&alice, next());
        let cuts = proxy.cuts();
        proxy.cut_after(way, at);
        send(&alice, next());
        missed += u64::from(proxy.cuts() == cuts);
        proxy.cut_no_more();
    }
    println!("{bytes} bytes {way:?}, {missed} times nothing was cut");
    assert!(bytes > 20 && missed < bytes / 2, "{bytes} bytes, {missed} not cut");
    let expected: Vec<_> = (0..next()).map(|number| format!("alice:{number}")).collect();
    let mut arrived = ask(&bob, "all", "alice news");
    while arrived.split(' ').count() < expected.len() {
        let more = ask(&bob, "all", "alice news");
        assert!(!more.is_empty(), "{} of {} arrived", arrived.split(' ').count(), expected.len());
        arrived = format!("{arrived} {more}");
    }
    assert_eq!(arrived, expected.join(" "));
    drop((alice, bob));
    hosts.end();
}

#[test]
fn a_message_cut_at_any_byte_is_accepted_once_and_in_order() {
    cut_at_each_byte(Way::There);
}

#[test]
fn a_message_whose_acknowledgement_is_cut_at_any_byte_is_accepted_once_and_in_order() {
    cut_at_each_byte(Way::Back);
}

#[test]
fn large_messages_cut_anywhere_arrive_whole_and_once() {
    const BYTES: u64 = 300_000;
    let mut random = Random::printed("cuts");
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    for fill in 0..20 {
        hosts.b.proxy.cut_after(Way::There, random.below(BYTES + 1000));
        ask(&alice, "send-large", &format!("bob large {BYTES} {fill}"));
        hosts.b.proxy.cut_no_more();
        assert_eq!(ask(&bob, "recv-large", "alice large"), format!("{BYTES} of {fill} true"));
    }
    assert_eq!(ask(&bob, "all", "* large"), "", "none of them came twice");
    drop((alice, bob));
    hosts.end();
}

/// Cuts at random times and bytes, for a while.
fn cut_for(proxies: [&Proxy; 2], time: Duration, random: &mut Random) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let proxy = proxies[usize::try_from(random.below(2)).unwrap()];
        match random.below(3) {
            0 => proxy.cut(),
            1 => proxy.cut_after(Way::There, random.below(20_000)),
            _ => proxy.cut_after(Way::Back, random.below(5_000)),
        }
        std::thread::sleep(Duration::from_millis(20 + random.below(200)));
    }
    proxies.iter().for_each(|proxy| proxy.cut_no_more());
}

#[test]
fn correspondences_both_ways_lose_and_repeat_nothing_while_the_links_are_cut() {
    let mut random = Random::printed("cuts");
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&bob, "alice active");
    let clients = [hosts.a.client(), hosts.b.client()];
    let open = |host: usize, name| clients[host].process(common::stage::process(name)).unwrap();
    let there = Correspondence::between(open(0, "alice"), open(1, "bob"), ["alice", "bob"], "there");
    let back = Correspondence::between(open(1, "bob"), open(0, "alice"), ["bob", "alice"], "back");
    let both = [there, back];
    let proxies = [&hosts.a.proxy, &hosts.b.proxy];
    correspond(&both, || cut_for(proxies, Duration::from_secs(6), &mut random));
    println!("{} and {} cuts", hosts.a.proxy.cuts(), hosts.b.proxy.cuts());
    assert!(both.iter().all(|one| one.acknowledged() > 20), "something was sent between the cuts");
    drop((both, clients, alice, bob));
    hosts.end();
}
