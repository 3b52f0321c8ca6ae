//! Two servers in network namespaces of their own, with a cable between them that is pulled: nobody says that a connection ended,
//! packets are just gone. Messages arrive once and in order all the same, calls end and say how, and all of it comes back.

mod common;

use std::time::{Duration, Instant};

use common::correspondence::{Correspondence, correspond};
use common::hosts::{Hosts, RIGHTS_OF_PEERS, ask, await_line};
use common::namespaces::Cable;
use common::nesting::FAILED;
use common::random::Random;
use common::{PATIENCE, eventually, far};
use praas_client::Process;
use praas_server::Peer;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

/// Two servers with a cable between them, and a process on each.
struct Wired {
    alice: Process,
    bob: Process,
    cable: Cable,
    hosts: Hosts,
}

impl Wired {
    /// `None`, and said why, where this host does not let us.
    fn new() -> Option<Self> {
        let mut hosts = Hosts::idle();
        let cable = Cable::new()?;
        let peer = |end: usize, token| Peer { address: cable.address(end).to_string(), token };
        let to_a = peer(0, hosts.a.token(RIGHTS_OF_PEERS, None));
        let to_b = peer(1, hosts.b.token(RIGHTS_OF_PEERS, None));
        for (end, host, to) in [(0, &mut hosts.a, to_b), (1, &mut hosts.b, to_a)] {
            if !host.start_inside(&cable.namespace(end), cable.address(end), &to) {
                return None;
            }
        }
        let (alice, bob) = (hosts.a.with_process("alice"), hosts.b.with_process("bob"));
        let wired = Self { alice, bob, cable, hosts };
        wired.await_each_other();
        Some(wired)
    }

    fn await_each_other(&self) {
        await_line(&self.alice, "bob active");
        await_line(&self.bob, "alice active");
    }

    /// Pulls the cable, and waits until both servers have noticed by themselves.
    fn pull_until_noticed(&self, end: usize) {
        self.cable.pull(end);
        await_line(&self.alice, "bob unreachable");
        await_line(&self.bob, "alice unreachable");
    }

    /// Streams of numbers both ways.
    fn both_ways(&self) -> [Correspondence; 2] {
        let alice = || self.hosts.a.client().process(common::stage::process("alice")).unwrap();
        let bob = || self.hosts.b.client().process(common::stage::process("bob")).unwrap();
        let there = Correspondence::between(alice(), bob(), ["alice", "bob"], "there");
        [there, Correspondence::between(bob(), alice(), ["bob", "alice"], "back")]
    }

    fn end(self) {
        let Self { alice, bob, cable, hosts } = self;
        drop((alice, bob, cable));
        hosts.end();
    }
}

/// Waits until some more messages were acknowledged both ways.
fn await_more(both: &[Correspondence; 2]) {
    let before: Vec<_> = both.iter().map(Correspondence::acknowledged).collect();
    eventually("messages go both ways", || {
        both.iter().zip(&before).all(|(one, before)| one.acknowledged() > before + 20)
    });
}

#[test]
fn messages_arrive_once_and_in_order_although_the_cable_is_pulled() {
    let mut random = Random::printed("the cable");
    let Some(wired) = Wired::new() else { return };
    let both = wired.both_ways();
    correspond(&both, || {
        // Shorter than anybody notices: what was lost is sent again by the hosts.
        for pull in 0..6 {
            await_more(&both);
            wired.cable.pull(pull % 2);
            std::thread::sleep(Duration::from_millis(random.below(600)));
            wired.cable.put_in(pull % 2);
        }
        await_more(&both);
        wired.pull_until_noticed(usize::try_from(random.below(2)).unwrap());
        [0, 1].into_iter().for_each(|end| wired.cable.put_in(end));
        wired.await_each_other();
        await_more(&both);
    });
    drop(both);
    wired.end();
}

#[test]
fn calls_between_hosts_end_and_say_how_when_the_cable_is_pulled() {
    let Some(wired) = Wired::new() else { return };
    let (alice, bob) = (&wired.alice, &wired.bob);
    assert_eq!(ask(alice, "relay", "bob,alice,bob|done"), "alice bob alice bob done");
    assert_eq!(ask(bob, "ask", "alice echo 0 hello"), "hello");
    let failed = |from: &Process, input: &str| {
        let told = ask(from, "ask", input);
        assert!(told.starts_with(FAILED), "{input}: {told}");
        told
    };
    let patience_ms = (PATIENCE - Duration::from_secs(4)).as_millis();
    std::thread::scope(|scope| {
        let alice_too = wired.hosts.a.client().process(common::stage::process("alice")).unwrap();
        let running = scope.spawn(move || ask(&alice_too, "ask", &format!("bob until-unwanted {patience_ms} x")));
        let watching = wired.hosts.b.client();
        eventually("the call runs at bob", || watching.stats(common::stage::process("bob")).unwrap().running == 1);
        wired.cable.pull(1);
        // Nobody knows yet that the cable is gone, but each call has its deadline.
        let begun = Instant::now();
        let told = failed(alice, "bob echo 300 x");
        assert!(told.contains("DeadlineExceeded") || told.contains("Unavailable"), "{told}");
        assert!(begun.elapsed() < PATIENCE / 2, "it ended at its deadline");
        wired.pull_until_noticed(1);
        let told = running.join().unwrap();
        assert!(told.contains("ConnectionLost { may_have_run: true }"), "a call that ran over there: {told}");
    });
    for (from, input) in [(alice, "bob echo 300 x"), (bob, "alice echo 300 x")] {
        let told = failed(from, input);
        assert!(told.contains("DeadlineExceeded") || told.contains("Unavailable"), "{told}");
    }
    // A call that has time waits for the cable.
    std::thread::scope(|scope| {
        let alice_too = wired.hosts.a.client().process(common::stage::process("alice")).unwrap();
        let waiting = scope.spawn(move || ask(&alice_too, "ask", &format!("bob echo {patience_ms} waited")));
        wired.cable.put_in(1);
        assert_eq!(waiting.join().unwrap(), "waited");
    });
    wired.await_each_other();
    assert_eq!(ask(bob, "relay", "alice,bob|again"), "bob alice bob again");
    wired.end();
}

#[test]
fn a_worn_cable_loses_and_reorders_packets_but_no_messages() {
    let Some(wired) = Wired::new() else { return };
    if let Err(reason) = wired.cable.wear() {
        println!("skipped: packets cannot be dropped here: {reason}");
        return wired.end();
    }
    let both = wired.both_ways();
    correspond(&both, || (0..5).for_each(|_| await_more(&both)));
    assert_eq!(ask(&wired.alice, "ask", "bob grow 0 300000").len(), 300_000);
    drop(both);
    wired.end();
}
