//! The mixed load between two servers: messages and nested calls go over links that are cut, held up and cut in the middle of what
//! they carry, while workers and servers are killed. What was acknowledged is there, nothing happens twice, messages come in
//! order, and every call ends. The seed is printed; `TEST_SEED` repeats it as far as a machine can.

mod common;

use std::time::Duration;

use common::hosts::{Hosts, play_host};
use common::mixed::harm::Harm;
use common::mixed::{Load, Progress, Site, await_connection, functions, mixing};
use common::proxy::{Proxy, Way};
use common::random::Random;
use common::stage::process;
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::Client;

/// Times that a link is cut or held up, unless the environment says otherwise.
const CUTS: usize = 40;

/// Servers killed, unless the environment says otherwise.
const SERVER_KILLS: usize = 6;

/// The processes of the two servers.
const NAMES: [&[&str]; 2] = [&["alice", "carol"], &["bob", "dave"]];

/// Bytes that pass before a cut that comes in the middle of something, at most.
const BYTES_BEFORE_CUT: u64 = 400_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => functions::serve(),
        Ok("host") if !is_keeper_socket(&std::io::stdin()) => play_host(),
        _ => stage::play(),
    }
}

fn times(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |times| times.parse().unwrap())
}

/// Waits until processes of each server can call those of the other one.
fn await_each_other(clients: [&Client; 2]) {
    for (here, there) in [(0, 1), (1, 0)] {
        for (from, to) in NAMES[here].iter().zip(NAMES[there]) {
            let from = clients[here].process(process(from)).unwrap();
            let input = format!("invoke {to} warm");
            let call = || from.call("bump-there").payload(input.as_bytes()).deadline(PATIENCE).send();
            eventually("the servers know each other's processes", || call().is_ok());
        }
    }
}

/// Cuts or holds up what lies between two servers.
fn disturb(proxy: &Proxy, random: &mut Random) {
    let way = if random.below(2) == 0 { Way::There } else { Way::Back };
    match random.below(4) {
        0 => proxy.cut(),
        1 => {
            proxy.hold(way, true);
            std::thread::sleep(Duration::from_millis(random.below(150)));
            proxy.hold(way, false);
        }
        2 => {
            // What is held up is lost with its connection.
            proxy.hold(way, true);
            std::thread::sleep(Duration::from_millis(random.below(30)));
            proxy.cut();
            proxy.hold(way, false);
        }
        _ => proxy.cut_after(way, random.below(BYTES_BEFORE_CUT)),
    }
}

fn await_more_of(progress: &Progress<'_>, proxies: [&Proxy; 2]) {
    // A cut that has not come yet comes while others work.
    progress.await_more();
    proxies.into_iter().for_each(Proxy::cut_no_more);
}

#[test]
fn links_cut_and_workers_killed_under_a_mixed_load_lose_and_double_nothing() {
    let cuts = times("PRAAS_LINK_CUTS", CUTS);
    let mut random = Random::printed("cut links");
    let hosts = Hosts::linked_with(|options| options.applications = vec![mixing(3)]);
    let clients = [hosts.a.client(), hosts.b.client()];
    let addresses = [&hosts.a, &hosts.b].map(|host| host.server().network().unwrap().addresses()[0].to_string());
    let sites = [
        Site { directory: hosts.a.path(), address: &addresses[0], names: NAMES[0] },
        Site { directory: hosts.b.path(), address: &addresses[1], names: NAMES[1] },
    ];
    let mut load = Load::new(&sites, Random::new(random.next()));
    await_each_other([&clients[0], &clients[1]]);
    let proxies = [&hosts.a.proxy, &hosts.b.proxy];
    let mut harm = Harm::default();
    load.run(|progress| {
        for turn in 0..cuts {
            disturb(proxies[usize::try_from(random.below(2)).unwrap()], &mut random);
            if random.below(3) == 0 {
                harm.once(progress, &mut random);
            }
            std::thread::sleep(Duration::from_millis(random.below(200)));
            if turn.is_multiple_of(5) {
                await_more_of(progress, proxies);
            }
        }
        await_more_of(progress, proxies);
    });
    load.check();
    println!("{} cuts, {harm:?}\n{}", proxies.map(Proxy::cuts).iter().sum::<u64>(), load.summary());
    drop((load, clients));
    hosts.end();
}

#[test]
fn servers_killed_while_others_send_to_them_lose_and_double_nothing() {
    let kills = times("PRAAS_SERVER_KILLS", SERVER_KILLS);
    let mut random = Random::printed("killed servers with peers");
    let mut hosts = Hosts::idle();
    let peers = [hosts.b.as_peer(), hosts.a.as_peer()];
    if !hosts.a.start_apart(&peers[0]) || !hosts.b.start_apart(&peers[1]) {
        return hosts.end();
    }
    let clients = [hosts.a.client(), hosts.b.client()];
    // Clients over TCP follow a server that comes back elsewhere, as its peer does.
    let addresses = [&hosts.a, &hosts.b].map(|host| host.proxy.address.to_string());
    let directories = [hosts.a.path().to_owned(), hosts.b.path().to_owned()];
    let sites = [
        Site { directory: &directories[0], address: &addresses[0], names: NAMES[0] },
        Site { directory: &directories[1], address: &addresses[1], names: NAMES[1] },
    ];
    let mut load = Load::new(&sites, Random::new(random.next()));
    await_each_other([&clients[0], &clients[1]]);
    let mut harm = Harm::default();
    load.run(|progress| {
        for _ in 0..kills {
            progress.await_more();
            for _ in 0..random.below(3) {
                harm.once(progress, &mut random);
            }
            std::thread::sleep(Duration::from_millis(random.below(400)));
            let victim = usize::try_from(random.below(2)).unwrap();
            let before = clients[victim].server_incarnation();
            let host = if victim == 0 { &mut hosts.a } else { &mut hosts.b };
            host.kill();
            assert!(host.start_apart(&peers[victim]));
            await_connection(&clients[victim], before);
        }
        progress.await_more();
    });
    load.check();
    println!("{kills} servers killed, {harm:?}\n{}", load.summary());
    drop((load, clients));
    hosts.end();
}
