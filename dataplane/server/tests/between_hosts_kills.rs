//! Servers, and workers, of two linked hosts are killed while messages go both ways: what was acknowledged arrives once and in
//! order, and the links come back by themselves.

mod common;

use std::time::Duration;

use common::correspondence::{Correspondence, correspond};
use common::hosts::{Host, Hosts, ask, await_line};
use common::random::Random;
use common::{eventually, far, kill};

/// Servers killed in each test, unless the environment says otherwise.
const SERVER_KILLS: u64 = 4;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    far::play();
}

fn kills() -> u64 {
    std::env::var("PRAAS_SERVER_KILLS").map_or(SERVER_KILLS, |kills| kills.parse().unwrap())
}

/// Streams of numbers both ways between alice of one host and bob of the other.
fn both_ways(of_alice: &Host, of_bob: &Host) -> [Correspondence; 2] {
    let open = |host: &Host, name| host.client().process(common::stage::process(name)).unwrap();
    let ends = || (open(of_alice, "alice"), open(of_bob, "bob"));
    let ((alice, bob), (alice_too, bob_too)) = (ends(), ends());
    let there = Correspondence::between(alice, bob, ["alice", "bob"], "there");
    let back = Correspondence::between(bob_too, alice_too, ["bob", "alice"], "back");
    [there, back]
}

#[test]
fn a_server_killed_again_and_again_loses_and_doubles_no_message_between_hosts() {
    let mut random = Random::printed("killed servers");
    let mut hosts = Hosts::idle();
    let (to_a, to_b) = (hosts.a.as_peer(), hosts.b.as_peer());
    hosts.a.start_here(vec![to_b], |_| {});
    if !hosts.b.start_apart(&to_a) {
        return;
    }
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&bob, "alice active");
    let both = both_ways(&hosts.a, &hosts.b);
    correspond(&both, || {
        for _ in 0..kills() {
            let before: Vec<_> = both.iter().map(Correspondence::acknowledged).collect();
            eventually("messages go both ways", || {
                both.iter().zip(&before).all(|(one, before)| one.acknowledged() > before + 30)
            });
            std::thread::sleep(Duration::from_millis(random.below(100)));
            hosts.b.kill();
            await_line(&alice, "bob unreachable");
            assert!(hosts.b.start_apart(&to_a));
        }
    });
    await_line(&alice, "bob active");
    assert_eq!(ask(&alice, "ask", "bob echo 0 still"), "still");
    drop((both, alice, bob));
    hosts.end();
}

#[test]
fn workers_killed_on_both_hosts_lose_and_double_no_message_between_them() {
    const KILLS: usize = 20;
    let mut random = Random::printed("killed workers");
    let hosts = Hosts::linked();
    let alice = hosts.a.with_process("alice");
    let bob = hosts.b.with_process("bob");
    await_line(&alice, "bob active");
    await_line(&bob, "alice active");
    let clients = [hosts.a.client(), hosts.b.client()];
    let both = both_ways(&hosts.a, &hosts.b);
    correspond(&both, || {
        for kill_number in 0..KILLS {
            let before: Vec<_> = both.iter().map(Correspondence::acknowledged).collect();
            eventually("messages go both ways", || {
                both.iter().zip(&before).all(|(one, before)| one.acknowledged() > before + 10)
            });
            std::thread::sleep(Duration::from_millis(random.below(30)));
            let workers: Vec<u32> =
                clients[kill_number % 2].list().unwrap().into_iter().flat_map(|one| one.worker_pids).collect();
            if let Some(pid) = workers.get(usize::try_from(random.below(workers.len().max(1) as u64)).unwrap()) {
                kill(*pid);
            }
        }
    });
    drop((both, clients, alice, bob));
    hosts.end();
}
