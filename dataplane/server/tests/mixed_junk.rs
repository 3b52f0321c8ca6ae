//! A process whose own worker writes junk over whatever it maps, beside others that work: it may fail, and can be stopped and
//! created again; the others lose nothing, wait for nothing, and do not even notice. `TEST_SEED` repeats a run, `PRAAS_SPOILED_ROUNDS`
//! sets its length.

mod common;

use std::time::Duration;

use common::mixed::{Load, Progress, Site, functions, mixing};
use common::network::{address, listening};
use common::random::Random;
use common::stage::{Stage, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, kill, stage};
use praas_client::{CallError, Client, ProcessState};
use praas_server::DriverChoice;

/// Rounds of junk, unless the environment says otherwise.
const ROUNDS: u64 = 8;

/// The processes that must not notice.
const NAMES: &[&str] = &["alice", "bob", "carol"];

/// The process that spoils what it has.
const MALLORY: &str = "mallory";

/// Time in which a call of that process ends, one way or another: what it has spoiled may be the lane of the call itself.
const SPOILED_CALL: Duration = Duration::from_millis(300);

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => functions::serve(),
        _ => stage::play(),
    }
}

/// Any end but that of a test's patience will do.
fn call_mallory(client: &Client, function: &str, input: &str) -> Option<String> {
    let mallory = client.process(process(MALLORY)).ok()?;
    let end = mallory.call(function).payload(input.as_bytes()).deadline(SPOILED_CALL).send();
    end.ok().map(|reply| String::from_utf8_lossy(&reply).into_owned())
}

/// Stops and creates it; both must be possible whatever it did.
fn begin_anew(client: &Client) {
    client.stop(process(MALLORY)).unwrap();
    client.create(process(MALLORY)).unwrap();
}

/// Where junk is written, and how much.
fn order(random: &mut Random) -> String {
    const SEGMENTS: [&str; 10] = [
        "praas-objects",
        "praas-objects",
        "praas-objects",
        "praas-objects",
        "praas-messages",
        "praas-messages",
        "praas-lane",
        "praas-ledger",
        "praas-worker",
        "praas-bell",
    ];
    let segment = SEGMENTS[usize::try_from(random.below(SEGMENTS.len() as u64)).unwrap()];
    // The head of a segment, somewhere among its tables, or all of it.
    let (from, bytes) = match random.below(4) {
        0 => (random.below(512) * 8, 8),
        1 => (random.below(20) * 4096, 4096),
        2 => (random.below(1 << 20), random.below(1 << 16)),
        _ => (0, 32 << 20),
    };
    format!("{segment} {from} {bytes} {}", random.next())
}

/// One round: mallory has objects and messages, spoils something, goes on with that, perhaps dies, and is judged.
fn spoil_once(progress: &Progress<'_>, random: &mut Random, reached: &mut u64, failed: &mut u64) {
    let client = progress.client();
    for number in 0..20 {
        call_mallory(client, "store", &format!("mine/{number} {}", 10 + number));
    }
    call_mallory(client, "send-junk", "20 alice bob mallory");
    let alice = client.process(process("alice")).unwrap();
    let ask_alice = |function: &str, input: &str| {
        let end = alice.call(function).payload(input.as_bytes()).deadline(PATIENCE).send();
        end.unwrap_or_else(|error| panic!("{function} of alice: {error}"));
    };
    ask_alice("send-junk", "20 mallory");
    let order = order(random);
    println!("{order}");
    if let Some(words) = call_mallory(client, "spoil", &order) {
        *reached += u64::from(words.starts_with("spoiled") && !words.ends_with(" 0"));
    }
    // Both go on with what was spoiled.
    for function in ["read-junk", "fetch", "remove"] {
        call_mallory(client, function, "mine/3");
    }
    call_mallory(client, "send-junk", "5 alice bob mallory");
    ask_alice("send-junk", "5 mallory");
    ask_alice("read-junk", "");
    match random.below(3) {
        0 => status(client, MALLORY).worker_pids.into_iter().for_each(kill),
        1 => {
            status(client, MALLORY).worker_pids.first().copied().into_iter().for_each(kill);
            call_mallory(client, "store", "mine/1 1");
        }
        _ => {}
    }
    let is_judged = |state| matches!(state, ProcessState::Failed | ProcessState::Active | ProcessState::Idle);
    eventually("mallory lives or has failed", || is_judged(status(client, MALLORY).state));
    *failed += u64::from(status(client, MALLORY).state == ProcessState::Failed);
    begin_anew(client);
    let fresh = client.process(process(MALLORY)).unwrap();
    let call =
        |function: &'static str, input: &'static [u8]| fresh.call(function).payload(input).deadline(PATIENCE).send();
    assert_eq!(call("store", b"mine/0 5").map(drop), Ok(()), "after {order}");
    let found: Result<Vec<u8>, CallError> = call("fetch", b"mine/3").map(|reply| reply.as_slice().to_vec());
    assert_eq!(found, Ok(Vec::new()), "after {order}");
    progress.await_more();
}

#[test]
fn junk_that_a_worker_writes_costs_its_own_process_alone() {
    let rounds = std::env::var("PRAAS_SPOILED_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut random = Random::printed("junk");
    let mut application = mixing(2);
    application.limits.drain_ms = 300;
    let stage = Stage::new(application, listening(DriverChoice::Auto));
    let site = Site { directory: stage.path(), address: &address(&stage).to_string(), names: NAMES };
    let mut load = Load::new(&[site], Random::new(random.next()));
    load.client().create(process(MALLORY)).unwrap();
    let (mut reached, mut failed) = (0, 0);
    load.run(|progress| {
        for _ in 0..rounds {
            spoil_once(progress, &mut random, &mut reached, &mut failed);
        }
    });
    load.check();
    println!("{reached} of {rounds} orders were reported as carried out, {failed} times the process failed");
    println!("{}", load.summary());
    assert!(reached > 0, "the worker reached none of its segments");
    assert_eq!(load.unsure(), 0, "a call of another process ended as unknown");
    for name in NAMES {
        assert_eq!(status(load.client(), name).worker_restarts, 0, "{name}");
    }
    load.client().stop(process(MALLORY)).unwrap();
    drop(load);
    stage.end();
}
