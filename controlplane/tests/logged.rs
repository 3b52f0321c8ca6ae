//! `durability = "logged"` under `praas serve`: server, keeper and workers are killed at once while clients put and send, round after
//! round, and whatever was acknowledged is there. The function binary is this very test binary: its worker is the test called
//! `worker`.

mod support;

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use praas_client::{Client, ConnectOptions, Process};
use praas_function::{Application, Call, FunctionResult, Sources, is_worker};
use praas_sys::{Pidfd, Signal};
use support::{PATIENCE, TestServer, eventually, manifest_of, praas, processes_mentioning, run, scratch};

/// Times that everything is killed.
const KILLS: usize = 4;

/// Threads that put, each an object of its own.
const PUTTERS: usize = 3;

/// Not a test but a worker, when a server starts it.
#[test]
fn worker() {
    if !is_worker() {
        println!("skipped: this is the worker of the other tests");
        return;
    }
    Application::new()
        .function("put", |call: &mut Call<'_>| {
            let text = String::from_utf8_lossy(call.input()).into_owned();
            let (key, value) = text.split_once(' ').expect("a key and a value");
            call.context().put_bytes(key, value.as_bytes())?;
            FunctionResult::Ok(())
        })
        .function("get", |call: &mut Call<'_>| {
            let key = String::from_utf8_lossy(call.input()).into_owned();
            FunctionResult::Ok(call.context().state_bytes(&key)?.map_or_else(Vec::new, |value| value.to_vec()))
        })
        .function("send", |call: &mut Call<'_>| {
            call.context().send("bob", "numbers", call.input())?;
            FunctionResult::Ok(())
        })
        .function("take", |call: &mut Call<'_>| {
            let mut taken = Vec::new();
            while let Some(message) = call.context().try_recv(Sources::Any, "numbers")? {
                taken.push(String::from_utf8_lossy(message.bytes()).into_owned());
            }
            FunctionResult::Ok(taken.join(" "))
        })
        .run()
}

fn manifest(directory: &Path, durability: &str) -> PathBuf {
    let state = format!("[state]\ndurability = \"{durability}\"\ncheckpoint_interval_ms = 200");
    manifest_of(directory, "kept", &format!("[workers]\nmin = 2\nmax = 2\n{state}"))
}

fn serve(directory: &Path) -> TestServer {
    TestServer::start_with(directory, &manifest(directory, "logged"))
}

fn processes(server: &TestServer) -> (Client, [Process; 2]) {
    let client = Client::connect(ConnectOptions::new().data_directory(&server.data)).unwrap();
    let processes = ["alice", "bob"].map(|name| client.process(format!("kept/{name}").parse().unwrap()).unwrap());
    (client, processes)
}

/// Kills everything that belongs to a server.
fn kill_all(server: TestServer, directory: &Path) {
    let needle = directory.to_str().unwrap();
    let found = processes_mentioning(needle);
    assert!(found.contains(&server.pid()) && found.len() >= 6, "server, keeper and four workers: {found:?}");
    for pid in found {
        // One that has just ended is as good.
        let _ = Pidfd::open(pid).map(|process| process.send_signal(Signal::KILL));
    }
    drop(server);
    eventually(|| {
        let left = processes_mentioning(needle);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Calls with the numbers that follow, until one of them is not answered. The numbers that it may have got to; all but the last of
/// them were acknowledged.
fn count_up(process: &Process, function: &str, prefix: &str, last: u64) -> RangeInclusive<u64> {
    let until = Instant::now() + PATIENCE;
    for number in last + 1.. {
        assert!(Instant::now() < until, "nobody has killed the server");
        let payload = format!("{prefix}{number}");
        if process.call(function).payload(payload.as_bytes()).deadline(PATIENCE).send().is_err() {
            return number - 1..=number;
        }
    }
    unreachable!("there are more numbers than time")
}

#[test]
fn what_was_acknowledged_is_there_when_everything_was_killed_under_load() {
    let scratch = scratch();
    let mut server = serve(scratch.path());
    for name in ["kept/alice", "kept/bob"] {
        server.praas(&["process", "create", name]).succeeded();
    }
    let mut values = [0; PUTTERS];
    let (mut sent, mut unsure) = (0, Vec::new());
    for kill in 0..KILLS {
        let (client, [alice, bob]) = processes(&server);
        let (put, forwarded) = std::thread::scope(|scope| {
            let putters: Vec<_> = (0..PUTTERS)
                .map(|index| {
                    let (process, last) = (if index == 0 { &bob } else { &alice }, values[index]);
                    scope.spawn(move || count_up(process, "put", &format!("key-{index} "), last))
                })
                .collect();
            let sender = scope.spawn(|| count_up(&alice, "send", "", sent));
            std::thread::sleep(Duration::from_millis(400 + 150 * kill as u64));
            kill_all(server, scratch.path());
            let put: Vec<_> = putters.into_iter().map(|putter| putter.join().unwrap()).collect();
            (put, sender.join().unwrap())
        });
        drop((alice, bob, client));
        server = serve(scratch.path());
        let (client, [alice, bob]) = processes(&server);
        for (index, possible) in put.iter().enumerate() {
            let process = if index == 0 { &bob } else { &alice };
            let found = process.invoke("get", format!("key-{index}").as_bytes()).unwrap();
            let found: u64 = std::str::from_utf8(&found).unwrap().parse().unwrap();
            assert!(possible.contains(&found), "{found} of {possible:?} is there");
            values[index] = found;
        }
        sent = *forwarded.end();
        unsure.push(sent);
        println!("killed {}: {put:?} were put, {forwarded:?} sent", kill + 1);
        drop((alice, bob, client));
    }
    let (client, [alice, bob]) = processes(&server);
    let taken = bob.invoke("take", b"").unwrap();
    let mut taken: Vec<u64> =
        std::str::from_utf8(&taken).unwrap().split(' ').map(|word| word.parse().unwrap()).collect();
    assert!(taken.is_sorted(), "in the order in which they were sent: {taken:?}");
    // What nobody was told of may have come.
    let expected: Vec<u64> = (1..=sent).filter(|number| !unsure.contains(number) || taken.contains(number)).collect();
    assert_eq!(taken, expected, "{unsure:?} may be missing");
    taken.dedup();
    assert_eq!(taken.len(), expected.len());
    assert!(values.iter().all(|value| *value > 10) && sent > 10, "{values:?} and {sent} are no load");
    drop((alice, bob, client));
    for name in ["kept/alice", "kept/bob"] {
        server.praas(&["process", "stop", name]).succeeded();
    }
    let left = fs::read_dir(server.data.join("logs")).unwrap().count();
    assert_eq!(left, 0, "a log is left of what was stopped");
    assert!(server.end().status.success());
}

#[test]
fn an_application_that_is_no_longer_logged_has_what_its_logs_have() {
    let scratch = scratch();
    let server = serve(scratch.path());
    for name in ["kept/alice", "kept/bob"] {
        server.praas(&["process", "create", name]).succeeded();
    }
    let (client, [alice, bob]) = processes(&server);
    alice.invoke("put", b"key good day").unwrap();
    drop((alice, bob, client));
    kill_all(server, scratch.path());
    let server = TestServer::start_with(scratch.path(), &manifest(scratch.path(), "memory"));
    let (client, [alice, bob]) = processes(&server);
    assert_eq!(alice.invoke("get", b"key").unwrap().as_slice(), b"good day");
    eventually(|| {
        let left = fs::read_dir(server.data.join("logs")).unwrap().count();
        if left == 0 { Ok(()) } else { Err(left) }
    });
    drop((alice, bob, client));
    assert!(server.end().status.success());
}

#[test]
fn without_storage_nothing_is_logged_and_the_refusal_says_so() {
    let scratch = scratch();
    let manifest = manifest(scratch.path(), "logged");
    let refused = run(praas(&scratch.path().join("data")).args(["serve", "--no-storage"]).arg(manifest));
    assert!(!refused.status.success() && refused.err().contains("start it with storage"), "{refused:?}");
}
