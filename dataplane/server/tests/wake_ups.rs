//! Processes that have asked for a message at a time: they are woken for it, and get it, whatever became of clock, workers and
//! server meanwhile.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::{put_to_sleep, sleeping, sleeps};
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{Process, ProcessState};
use praas_function::{Call, FunctionResult, WakeUpId};
use praas_server::{Server, TestClock};
use praas_storage::{Backend, DiskBackend, MemoryBackend};

/// How long a keeper waits for the next server.
const LINGER: Duration = Duration::from_secs(60);

const MINUTE_MS: i64 = 60_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => serve(),
        Ok("sleeping server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

fn serve() {
    common::sleeping::functions(praas_function::Application::new())
        .function("wake", |call: &mut Call<'_>| {
            let text = String::from_utf8_lossy(call.input()).into_owned();
            let words: Vec<_> = text.split(' ').collect();
            let due = UNIX_EPOCH + Duration::from_millis(words[0].parse()?);
            FunctionResult::Ok(call.context().wake_at(due, words[1], words[2].as_bytes())?.to_string())
        })
        .function("cancel", |call: &mut Call<'_>| {
            let id = WakeUpId(String::from_utf8_lossy(call.input()).parse()?);
            FunctionResult::Ok(call.context().cancel_wake(id)?.to_string())
        })
        .function("to-come", |call: &mut Call<'_>| {
            let all = call.context().wake_ups()?;
            let words = all.iter().map(|one| format!("{}:{}", one.key, String::from_utf8_lossy(&one.bytes)));
            FunctionResult::Ok(words.collect::<Vec<_>>().join(" "))
        })
        .run();
}

/// A server whose processes sleep on disk.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let mut options = options(directory, sleeping());
    options.keeper_linger = LINGER;
    options.storage = Some(Arc::new(DiskBackend::open(&directory.join("swapped")).unwrap()));
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// Milliseconds since 1970 in so many milliseconds.
fn unix_ms_in(ms: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap() + ms
}

/// Asks to be woken in so many milliseconds, by the host's clock; the id.
fn wake_in(process: &Process, ms: i64, key: &str, text: &str) -> String {
    ask(process, "wake", &format!("{} {key} {text}", unix_ms_in(ms))).unwrap()
}

/// The next message under a key, waited for.
fn received(process: &Process, key: &str) -> String {
    ask(process, "recv", &format!("* {key} {}", PATIENCE.as_millis())).unwrap()
}

/// A server inside this test, whose processes sleep in memory and whose wall clock the test can have jump.
fn with_clock() -> (Stage, TestClock) {
    let clock = TestClock::of_host();
    clock.give();
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    (Stage::new(sleeping(), |options| options.storage = Some(storage)), clock)
}

#[test]
fn a_process_that_sleeps_is_woken_at_its_time_and_has_the_message_once() {
    let (stage, clock) = with_clock();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    for round in 0..3 {
        wake_in(&alice, 20 * MINUTE_MS, "late", "never");
        wake_in(&alice, 5 * MINUTE_MS, "notes", &format!("round-{round}"));
        client.swap(process("alice")).unwrap();
        assert!(sleeps(&client, "alice"));
        clock.jump_ms(6 * MINUTE_MS);
        eventually("it was woken", || status(&client, "alice").state == ProcessState::Active);
        assert_eq!(received(&alice, "notes"), format!("alice:round-{round}"));
        assert_eq!(ask(&alice, "all", "* notes").unwrap(), "", "it comes once");
        assert_eq!(ask(&alice, "all", "* late").unwrap(), "");
        clock.jump_ms(-6 * MINUTE_MS);
    }
    assert_eq!(ask(&alice, "to-come", "").unwrap(), ["late:never"; 3].join(" "));
    let metrics = stage.server().metrics().unwrap();
    assert_eq!((metrics.alarms_rung, metrics.swaps_in), (3, 3));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_large_process_that_comes_back_piece_by_piece_has_it_too() {
    let (stage, clock) = with_clock();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    for number in 0..8 {
        ask(&alice, "keep", &format!("large-{number} 900000 {number}")).unwrap();
    }
    for round in 1..=3 {
        wake_in(&alice, 5 * MINUTE_MS, "notes", &format!("round-{round}"));
        client.swap(process("alice")).unwrap();
        clock.jump_ms(6 * MINUTE_MS);
        eventually("it was woken", || status(&client, "alice").state == ProcessState::Active);
        assert_eq!(received(&alice, "notes"), format!("alice:round-{round}"));
        // Again before it is whole, with one that it has not looked at since.
        wake_in(&alice, 10 * MINUTE_MS, "later", "x");
        client.swap(process("alice")).unwrap();
        clock.jump_ms(6 * MINUTE_MS);
        assert_eq!(received(&alice, "later"), "alice:x");
        clock.jump_ms(-12 * MINUTE_MS);
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn one_that_is_awake_gets_it_also_in_a_call_that_waits_for_it() {
    let (stage, clock) = with_clock();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    wake_in(&alice, -1, "past", "at-once");
    assert_eq!(received(&alice, "past"), "alice:at-once");
    // The only worker waits for it in a call.
    wake_in(&alice, 5 * MINUTE_MS, "notes", "first");
    let wanted = format!("* notes {}", PATIENCE.as_millis());
    let waits = alice.call("recv").payload(wanted.as_bytes()).deadline(PATIENCE).start().unwrap();
    clock.jump_ms(6 * MINUTE_MS);
    assert_eq!(waits.wait().unwrap().as_slice(), b"alice:first");
    // The only worker is busy with something else.
    wake_in(&alice, 8 * MINUTE_MS, "notes", "second");
    let computes = alice.call("compute").payload(b"300".as_slice()).deadline(PATIENCE).start().unwrap();
    clock.jump_ms(3 * MINUTE_MS);
    assert_eq!(received(&alice, "notes"), "alice:second");
    computes.wait().unwrap();
    drop((alice, client));
    stage.end();
}

#[test]
fn a_clock_that_is_set_back_postpones_and_what_is_cancelled_does_not_come() {
    let (stage, clock) = with_clock();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    wake_in(&alice, 5 * MINUTE_MS, "late", "x");
    let cancelled = wake_in(&alice, MINUTE_MS, "notes", "cancelled");
    wake_in(&alice, 2 * MINUTE_MS, "notes", "fence");
    assert_eq!(ask(&alice, "to-come", "").unwrap(), "notes:cancelled notes:fence late:x");
    assert_eq!(ask(&alice, "cancel", &cancelled).unwrap(), "true");
    assert_eq!(ask(&alice, "cancel", &cancelled).unwrap(), "false");
    clock.jump_ms(-10 * MINUTE_MS);
    client.swap(process("alice")).unwrap();
    // Six minutes forward, and yet before its time.
    clock.jump_ms(6 * MINUTE_MS);
    assert!(sleeps(&client, "alice"));
    clock.jump_ms(7 * MINUTE_MS);
    eventually("it was woken", || status(&client, "alice").state == ProcessState::Active);
    assert_eq!(received(&alice, "notes"), "alice:fence");
    assert_eq!(ask(&alice, "all", "* late").unwrap(), "");
    assert_eq!(ask(&alice, "to-come", "").unwrap(), "late:x");
    clock.jump_ms(60 * MINUTE_MS);
    assert_eq!(received(&alice, "late"), "alice:x");
    drop((alice, client));
    stage.end();
}

#[test]
fn more_than_a_process_may_have_are_refused_and_a_stopped_one_is_not_woken() {
    let (stage, clock) = with_clock();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let limit = praas_protocol::limits::WAKE_UPS_MAX;
    for number in 0..limit {
        wake_in(&alice, 5 * MINUTE_MS, "notes", &number.to_string());
    }
    let refused = ask(&alice, "wake", &format!("{} notes more", unix_ms_in(0))).unwrap_err().to_string();
    assert!(refused.contains(&format!("{limit} wake-ups")), "{refused}");
    client.swap(process("alice")).unwrap();
    clock.jump_ms(6 * MINUTE_MS);
    let all: Vec<_> = (0..limit).map(|_| received(&alice, "notes")).collect();
    let expected: Vec<_> = (0..limit).map(|number| format!("alice:{number}")).collect();
    assert_eq!(all, expected, "all of them, in their order");
    wake_in(&alice, 20 * MINUTE_MS, "notes", "gone");
    client.swap(process("alice")).unwrap();
    client.stop(process("alice")).unwrap();
    let [again, fence] = processes(&client, ["alice", "fence"]);
    wake_in(&fence, 21 * MINUTE_MS, "notes", "fence");
    clock.jump_ms(30 * MINUTE_MS);
    assert_eq!(received(&fence, "notes"), "fence:fence");
    assert_eq!(ask(&again, "all", "* notes").unwrap(), "", "another life of the name has none of it");
    drop((alice, again, fence, client));
    stage.end();
}

#[test]
fn wake_ups_race_with_swaps_and_none_is_lost_or_comes_twice() {
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut application = sleeping();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |options| options.storage = Some(storage));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut random = Random::printed("wake-ups");
    let mut expected = BTreeMap::new();
    for number in 0..200 {
        wake_in(&alice, i64::try_from(random.below(400)).unwrap(), "notes", &number.to_string());
        expected.insert(format!("alice:{number}"), 1);
        if random.below(10) == 0 {
            put_to_sleep(&client, "alice");
        }
    }
    let mut came: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..expected.len() {
        *came.entry(received(&alice, "notes")).or_default() += 1;
    }
    assert_eq!(came, expected);
    assert_eq!(ask(&alice, "all", "* notes").unwrap(), "");
    assert_eq!(ask(&alice, "to-come", "").unwrap(), "");
    println!("{:?}", stage.server().metrics().unwrap());
    drop((alice, client));
    stage.end();
}

#[test]
fn the_next_server_wakes_them_after_a_clean_end_and_after_a_kill() {
    let stage = Stage::empty();
    let start = || Played::start("sleeping server", stage.path(), &[]);
    let Some(mut server) = start() else { return stage.end() };
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    for round in 0..2 {
        let text = format!("clean-{round}");
        wake_in(&alice, 1_000, "notes", &text);
        wake_in(&bob, 60 * MINUTE_MS, "notes", "far");
        server.terminate();
        assert_eq!(server.end(), Some(42));
        server = start().unwrap();
        eventually("it is woken without a call", || {
            client.list().is_ok() && status(&client, "alice").state == ProcessState::Active
        });
        assert_eq!(status(&client, "bob").state, ProcessState::Swapped);
        assert_eq!(received(&alice, "notes"), format!("alice:{text}"));
        // Awake when its server is killed, and asleep.
        for sleeps in [false, true] {
            let text = format!("killed-{round}-{sleeps}");
            wake_in(&alice, 1_000, "notes", &text);
            if sleeps {
                client.swap(process("alice")).unwrap();
            }
            server.kill();
            server = start().unwrap();
            eventually("the client is connected again", || client.list().is_ok());
            eventually("it is awake, or woken", || status(&client, "alice").state == ProcessState::Active);
            assert_eq!(received(&alice, "notes"), format!("alice:{text}"));
            assert_eq!(ask(&alice, "all", "* notes").unwrap(), "");
        }
    }
    assert_eq!(ask(&bob, "to-come", "").unwrap(), ["notes:far"; 2].join(" "));
    drop((alice, bob, client));
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
