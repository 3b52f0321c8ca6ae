//! Checkpoints of processes that go on: nobody notices them, they survive the end of server and keeper, and those that fail are tried
//! again.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::mails::{ask, processes};
use common::sleeping::{sleeping, sleeps};
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{PATIENCE, ROLE, children_with, eventually, is_keeper_socket, is_running, stage};
use praas_client::{CallError, ProcessState};
use praas_protocol::Durability;
use praas_server::{Application, Server, StartError};
use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, DiskBackend, MemoryBackend};

/// Milliseconds between two checkpoints in these tests.
const INTERVAL_MS: u64 = 100;

/// Lives of a server that is killed with its keeper.
const LIVES: usize = 4;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        Ok("server with checkpoints") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

fn with_checkpoints() -> Application {
    let mut application = sleeping();
    application.durability = Durability::Checkpoint;
    application.checkpoint_interval_ms = INTERVAL_MS;
    application
}

fn on_disk(directory: &Path) -> Arc<dyn Backend> {
    Arc::new(DiskBackend::open(&directory.join("stored")).unwrap())
}

fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut options = options(Path::new(&directory), with_checkpoints());
    // It would keep the memory for the next server, if it lived.
    options.keeper_linger = Duration::from_secs(60);
    options.storage = Some(on_disk(Path::new(&directory)));
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// Kills a server and its keeper: the memory of all processes is lost.
fn kill_all(server: Played) {
    let keepers = children_with(server.child.id(), "role");
    server.kill();
    for keeper in keepers {
        let pid = rustix::process::Pid::from_raw(keeper.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        eventually("the keeper is gone", || !is_running(keeper));
    }
}

/// The position of what is stored of alice; 0 before the first time.
fn stored_position(backend: &Arc<dyn Backend>) -> u64 {
    let folders = backend.folders(None).unwrap();
    let folder = folders.iter().find(|folder| folder.process == process("alice"));
    let snapshot = folder.and_then(|folder| Snapshot::open(backend, folder).unwrap());
    snapshot.map_or(0, |snapshot| snapshot.facts().position)
}

fn number(answer: Result<String, CallError>) -> u64 {
    answer.unwrap().parse().unwrap()
}

#[test]
fn what_was_there_at_the_last_checkpoint_survives_the_end_of_server_and_keeper() {
    let stage = Stage::empty();
    let mut lost = 0;
    let (mut version, mut sequence) = (0, 0);
    for life in 0..LIVES {
        let Some(server) = Played::start("server with checkpoints", stage.path(), &[]) else { return };
        let client = stage::connect(stage.path());
        let backend = on_disk(stage.path());
        let [alice, bob] = if life == 0 {
            processes(&client, ["alice", "bob"])
        } else {
            assert!(sleeps(&client, "alice"), "it is found asleep");
            ["alice", "bob"].map(|name| client.process(process(name)).unwrap())
        };
        let before = number(ask(&alice, "sum", ""));
        let over = AtomicBool::new(false);
        let attempted = AtomicU64::new(0);
        let (sure, position) = std::thread::scope(|scope| {
            // Two objects, one always put before the other.
            scope.spawn(|| {
                for turn in (0..).map(|turn: usize| turn % 256) {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    for key in ["first", "second"] {
                        let _ = ask(&alice, "keep", &format!("{key} {} {turn}", 1 + turn * 50));
                    }
                }
            });
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    attempted.fetch_add(1, Ordering::Relaxed);
                    let _ = ask(&alice, "add", "");
                }
            });
            let mut position = stored_position(&backend);
            let mut await_another = || {
                let before = position;
                eventually("another checkpoint", || {
                    position = stored_position(&backend);
                    position > before
                });
                position
            };
            await_another();
            sequence += 1;
            ask(&bob, "send", &format!("alice numbers {sequence}")).unwrap();
            // Messages have a position when whoever they are for has looked for any.
            let _ = ask(&alice, "recv", "bob others 1");
            let sure = number(ask(&alice, "sum", ""));
            // The first of these may have been begun before the sum was read.
            await_another();
            let position = await_another();
            over.store(true, Ordering::Relaxed);
            (sure, position)
        });
        let last = number(ask(&alice, "sum", ""));
        assert!(position > version, "positions never come twice: {position} after {version}");
        version = position;
        drop((alice, bob, client));
        kill_all(server);

        let Some(server) = Played::start("server with checkpoints", stage.path(), &[]) else { return };
        let client = stage::connect(stage.path());
        assert!(sleeps(&client, "alice"), "it is found asleep");
        let alice = client.process(process("alice")).unwrap();
        let sum = number(ask(&alice, "sum", ""));
        assert!(sure <= sum && sum <= before + attempted.load(Ordering::Relaxed), "{sure} <= {sum} <= {last}");
        lost += last.saturating_sub(sum);
        let [first, second] = ["first", "second"].map(|key| {
            let kept = ask(&alice, "kept", key).unwrap();
            let words: Vec<_> = kept.split(' ').collect();
            assert_eq!(words.get(3), Some(&"true"), "a value of one turn: {kept}");
            (words[2].parse::<u8>().unwrap(), words[5].parse::<u64>().unwrap())
        });
        let ahead = first.0.wrapping_sub(second.0);
        assert!(ahead <= 1, "one instant: the first is at {}, the second at {}", first.0, second.0);
        assert!((first.1 > second.1) == (ahead == 1), "versions {first:?} and {second:?}");
        // It goes on, and gives no version out twice.
        assert_eq!(number(ask(&alice, "add", "")), sum + 1);
        assert!(ask(&alice, "keep", "first 1 0").is_ok());
        let kept = ask(&alice, "kept", "first").unwrap();
        let given: u64 = kept.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(given > version + (1 << 35), "it skips what may have been given out: {given}");
        // What it had received before the checkpoint and not accepted, it has.
        let all = ask(&alice, "all", "bob numbers").unwrap();
        assert!(all.split(' ').any(|word| word == format!("bob:{sequence}")), "{all}");
        eventually("that is stored too", || stored_position(&backend) > given);
        drop((alice, client));
        kill_all(server);
    }
    // The next one ends cleanly, and tidies up.
    let Some(server) = Played::start("server with checkpoints", stage.path(), &[]) else { return };
    server.terminate();
    assert_eq!(server.end(), Some(42));
    println!("{lost} additions after the last checkpoints were lost in {LIVES} lives");
    stage.end();
}

fn with_faults(application: Application) -> (Stage, Faulty) {
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()) as Arc<dyn Backend>);
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    (Stage::new(application, |options| options.storage = Some(storage)), faulty)
}

#[test]
fn checkpoints_that_fail_are_told_of_and_tried_again_and_a_process_that_does_nothing_has_none() {
    let (stage, faulty) = with_faults(with_checkpoints());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let metrics = || stage.server().metrics().unwrap();
    eventually("the first checkpoint", || metrics().checkpoints == 1);
    faulty.plan(When::Every(Operation::Put), Fault::Refuse(Refusal::Full));
    for sum in 1..=3 {
        assert_eq!(number(ask(&alice, "add", "")), sum);
        let failed = metrics().checkpoints_failed;
        eventually("one more fails", || metrics().checkpoints_failed > failed);
    }
    assert_eq!(metrics().checkpoints, 1);
    let shown = || status(&client, "alice").last_exit.unwrap_or_default();
    assert!(shown().contains("no checkpoint was taken"), "{}", shown());
    faulty.heal();
    eventually("the next succeeds", || metrics().checkpoints == 2);
    assert!(shown().is_empty(), "{}", shown());
    assert!(metrics().checkpoint_bytes > 0 && metrics().swaps_out == 0);
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    // Nothing changes: nothing is asked of storage in the time of several.
    let calls = faulty.calls();
    assert_eq!(number(ask(&alice, "sum", "")), 3);
    std::thread::sleep(Duration::from_millis(6 * INTERVAL_MS));
    assert_eq!((faulty.calls(), metrics().checkpoints), (calls, 2));
    // It sleeps and wakes as ever.
    client.swap(process("alice")).unwrap();
    assert_eq!(number(ask(&alice, "sum", "")), 3);
    drop((alice, client));
    stage.end();
}

#[test]
fn whoever_wants_a_process_to_sleep_or_to_end_waits_for_its_checkpoint_and_calls_do_not() {
    let (stage, faulty) = with_faults(with_checkpoints());
    let client = stage.client();
    let mut expected_sum = 0;
    for round in 0..4 {
        let [alice] = processes(&client, ["alice"]);
        let other = stage.client();
        faulty.plan(When::Every(Operation::Publish), Fault::Stall);
        ask(&alice, "add", "").unwrap();
        assert!(faulty.wait_for_stalled(1, PATIENCE), "a checkpoint is under way");
        for _ in 0..50 {
            // Many times over what the cut holds.
            ask(&alice, "keep", &format!("kept {} 3", 1000 * (1 + round))).unwrap();
        }
        expected_sum += 1;
        std::thread::scope(|scope| {
            let stops = round % 2 == 0;
            let wish =
                scope.spawn(move || if stops { other.stop(process("alice")) } else { other.swap(process("alice")) });
            let leaves = |state| matches!(state, ProcessState::Draining | ProcessState::Swapping);
            eventually("it is on its way", || leaves(status(&client, "alice").state));
            assert!(!wish.is_finished());
            faulty.heal();
            faulty.release();
            wish.join().unwrap().unwrap();
            if stops {
                expected_sum = 0;
            }
        });
        drop(alice);
        if round % 2 == 0 {
            assert!(client.process(process("alice")).is_err(), "it has ended");
        } else {
            assert!(sleeps(&client, "alice"));
            let alice = client.process(process("alice")).unwrap();
            assert_eq!(number(ask(&alice, "sum", "")), expected_sum);
            assert!(ask(&alice, "kept", "kept").unwrap().starts_with(&(1000 * (1 + round)).to_string()));
            drop(alice);
            client.stop(process("alice")).unwrap();
            expected_sum = 0;
        }
        assert!(faulty.folders(None).unwrap().is_empty(), "nothing of it is stored any more");
    }
    drop(client);
    stage.end();
}

#[test]
fn a_server_without_storage_says_that_there_are_no_checkpoints() {
    let stage = Stage::empty();
    let refused = Server::start(options(stage.path(), with_checkpoints())).map(drop);
    let Err(error @ StartError::NoStorage { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("checkpoint"), "{error}");
    stage.end();
}
