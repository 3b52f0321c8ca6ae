//! Everything at once, while workers and servers are killed at random: what was acknowledged is there, nothing happens twice, and
//! every call ends. The seed is printed; `TEST_SEED` repeats it as far as a machine can.

mod common;

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use common::mixed::harm::Harm;
use common::mixed::{Load, Site, await_connection, functions, mixing};
use common::network::{address, listening};
use common::random::Random;
use common::stage::{DIRECTORY, Played, Stage, options};
use common::{ROLE, is_keeper_socket, own_command, stage};
use praas_server::{DriverChoice, Server};
use praas_sys::SignalQueue;

/// Workers killed under load, unless the environment says otherwise.
const KILLS: usize = 200;

/// Servers killed under load, unless the environment says otherwise.
const SERVER_KILLS: usize = 10;

/// Workers of each process: many, because replacements of workers that die young are delayed.
const WORKERS: u32 = 5;

/// The processes of the load.
const NAMES: &[&str] = &["alice", "bob", "carol"];

/// Where a server role listens.
const LISTEN: &str = "TEST_LISTEN";

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => functions::serve(),
        Ok("listening server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose keeper outlives it.
fn play_server() {
    let signals = SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut options = options(Path::new(&directory), mixing(WORKERS));
    options.keeper_linger = Duration::from_secs(60);
    options.listen = vec![std::env::var(LISTEN).unwrap().parse().unwrap()];
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

fn start_server(stage: &Stage, listen: &str) -> Option<Played> {
    Played::start("listening server", stage.path(), &[(LISTEN, Path::new(listen))])
}

fn times(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |times| times.parse().unwrap())
}

#[test]
fn workers_killed_under_a_mixed_load_lose_and_double_nothing() {
    let kills = times("PRAAS_KILLS", KILLS);
    let mut random = Random::printed("killed workers");
    let stage = Stage::new(mixing(WORKERS), listening(DriverChoice::Auto));
    let site = Site { directory: stage.path(), address: &address(&stage).to_string(), names: NAMES };
    let mut load = Load::new(&[site], Random::new(random.next()));
    let mut harm = Harm::default();
    load.run(|progress| {
        let mut turn = 0_u64;
        while harm.killed < kills {
            turn += 1;
            if turn.is_multiple_of(20) {
                progress.await_more();
            }
            harm.once(progress, &mut random);
        }
        progress.await_more();
    });
    load.check();
    println!("{harm:?}\n{}", load.summary());
    load.check_room();
    drop(load);
    stage.end();
}

/// An address that nobody listens on, for servers that follow one another.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Starts a server that is killed while it starts.
fn start_and_kill(stage: &Stage, listen: &str, random: &mut Random) {
    let own = own_command();
    let mut command = std::process::Command::new("env");
    command.arg("--block-signal=TERM").args(own).env(ROLE, "listening server").env(DIRECTORY, stage.path());
    command.env(LISTEN, listen).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(random.below(120)));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn servers_killed_under_a_mixed_load_lose_and_double_nothing() {
    let kills = times("PRAAS_SERVER_KILLS", SERVER_KILLS);
    let mut random = Random::printed("killed servers");
    let (stage, listen) = (Stage::empty(), free_address());
    let Some(mut server) = start_server(&stage, &listen) else { return stage.end() };
    let site = Site { directory: stage.path(), address: &listen, names: NAMES };
    let mut load = Load::new(&[site], Random::new(random.next()));
    let mut harm = Harm::default();
    let kill_server = |server: &mut Played, random: &mut Random| {
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        // Recovery may itself be killed, and is begun anew.
        for _ in 0..random.below(3) {
            start_and_kill(&stage, &listen, random);
        }
        *server = start_server(&stage, &listen).unwrap();
    };
    load.run(|progress| {
        for _ in 0..kills {
            progress.await_more();
            for _ in 0..random.below(4) {
                harm.once(progress, &mut random);
            }
            std::thread::sleep(Duration::from_millis(random.below(500)));
            let before = progress.client().server_incarnation();
            kill_server(&mut server, &mut random);
            await_connection(progress.client(), before);
            assert_eq!(progress.client().list().unwrap().len(), NAMES.len());
        }
        progress.await_more();
    });
    load.check();
    println!("{kills} servers killed, {harm:?}\n{}", load.summary());
    // What was there is there again, and there is nothing else.
    let before = load.client().server_incarnation();
    kill_server(&mut server, &mut random);
    await_connection(load.client(), before);
    load.check();
    load.check_room();
    drop(load);
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
