//! Storage that fails, is full, forgets what it did, or gives back something else: the process goes on, or sleeps on, and says why.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::mails::{ask, processes};
use common::sleeping::{sleeping, sleeps, told};
use common::stage::{Stage, process, status};
use common::{ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client, ProcessState, RequestError};
use praas_protocol::Durability;
use praas_protocol::control::ControlError;
use praas_server::{Server, SwapWait};
use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, MemoryBackend};

/// Calls of storage that a test lets fail at most: far more than a swap has.
const CALLS_MAX: u64 = 40;

/// How long calls stall in tests in which they are to fail by that.
const SHORT_STALL_MS: u64 = 20;

/// Large objects of a process that comes back piece by piece, and bytes of each: more than is read before a process runs.
const LARGE: u64 = 12;
const LARGE_BYTES: usize = 400_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

/// On storage whose calls stall for that long at most.
fn with_faults(stall_limit_ms: u64, change: impl FnOnce(&mut praas_server::Application)) -> (Stage, Faulty) {
    let memory = Arc::new(MemoryBackend::new()) as Arc<dyn Backend>;
    let faulty = Faulty::new(memory).with_stall_limit_ms(stall_limit_ms);
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut application = sleeping();
    change(&mut application);
    (Stage::new(application, |options| options.storage = Some(storage)), faulty)
}

/// Why a process did not go to sleep, if it did not.
fn swap(client: &Client) -> Result<(), String> {
    match client.swap(process("alice")) {
        Ok(()) => Ok(()),
        Err(RequestError::Refused(ControlError::SwapFailed { process: id, what, reason })) => {
            assert_eq!((id, what.as_str()), (process("alice"), "swapping out"));
            Err(reason)
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_swap_out_that_fails_at_any_call_of_storage_leaves_the_process_active_and_says_why() {
    let (stage, faulty) = with_faults(SHORT_STALL_MS, |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    let mut sum = 0;
    let faults = [
        Fault::Refuse(Refusal::Failed),
        Fault::Refuse(Refusal::Full),
        Fault::Refuse(Refusal::Denied),
        Fault::Refuse(Refusal::Unusable),
        Fault::LoseAcknowledgement,
        Fault::Stall,
        Fault::Old,
    ];
    for fault in faults {
        let mut is_through = false;
        for nth in 1..=CALLS_MAX {
            sum += 1;
            assert_eq!(ask(&alice, "add", "").unwrap(), sum.to_string(), "{fault:?} at {nth}");
            ask(&bob, "send", &format!("alice numbers {sum}")).unwrap();
            let calls = faulty.calls();
            faulty.plan(When::Call(calls + nth), fault);
            let swapped = swap(&client);
            is_through = swapped.is_ok() && faulty.calls() < calls + nth;
            faulty.heal();
            match swapped {
                // What was to fail did not matter, or there was none such.
                Ok(()) => assert!(sleeps(&client, "alice")),
                Err(reason) => {
                    println!("{fault:?} at {nth}: {reason}");
                    assert!(!reason.is_empty());
                    assert_ne!(status(&client, "alice").state, ProcessState::Swapped);
                }
            }
            assert_eq!(ask(&alice, "sum", "").unwrap(), sum.to_string(), "{fault:?} at {nth}");
            assert_eq!(ask(&alice, "recv", "bob numbers 5000").unwrap().replace('!', ""), format!("bob:{sum}"));
            if is_through {
                break;
            }
        }
        assert!(is_through, "a swap-out has more than {CALLS_MAX} calls");
    }
    assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
    let metrics = stage.server().metrics().unwrap();
    assert!(metrics.swaps_failed > 10 && metrics.restores_failed == 0, "{metrics:?}");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_process_that_cannot_be_read_sleeps_on_says_why_and_wakes_when_storage_is_sound() {
    let (stage, faulty) = with_faults(SHORT_STALL_MS, |_| ());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    let mut failed = 0;
    let faults = [
        Fault::Refuse(Refusal::Failed),
        Fault::Refuse(Refusal::Denied),
        Fault::Truncate,
        Fault::Damage,
        Fault::LoseAcknowledgement,
        Fault::Stall,
        Fault::Old,
    ];
    for fault in faults {
        for nth in 1..=CALLS_MAX {
            client.swap(process("alice")).unwrap();
            let calls = faulty.calls();
            faulty.plan(When::Call(calls + nth), fault);
            let restored = client.restore(process("alice"));
            let was_reached = faulty.calls() >= calls + nth;
            faulty.heal();
            match restored {
                Ok(()) => {}
                Err(RequestError::Refused(ControlError::SwapFailed { what, reason, .. })) => {
                    println!("{fault:?} at {nth}: {reason}");
                    failed += 1;
                    assert_eq!(what, "restoring");
                    assert!(sleeps(&client, "alice"));
                    let status = status(&client, "alice");
                    assert!(status.last_exit.as_ref().is_some_and(|why| why.contains(&reason)), "{status:?}");
                }
                Err(error) => panic!("{error}"),
            }
            // Never a wrong answer.
            assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"), "{fault:?} at {nth}");
            if !was_reached {
                break;
            }
            assert!(nth < CALLS_MAX);
        }
    }
    assert!(failed > 5, "{failed}");
    // Those who call a process that does not wake are told at their deadline that it is unavailable, and nothing ran.
    client.swap(process("alice")).unwrap();
    faulty.plan(When::Every(Operation::Read), Fault::Refuse(Refusal::Denied));
    let refused = alice.call("add").deadline(Duration::from_millis(300)).send().unwrap_err();
    assert!(
        matches!(refused, CallError::Unavailable { .. } | CallError::ConnectionLost { may_have_run: false }),
        "{refused}"
    );
    faulty.heal();
    assert_eq!(ask(&alice, "sum", "").unwrap(), "0");
    drop((alice, client));
    stage.end();
}

#[test]
fn who_stops_a_process_whose_stored_copy_cannot_be_removed_is_told_and_may_try_again() {
    let (stage, faulty) = with_faults(SHORT_STALL_MS, |_| ());
    let client = stage.client();
    for is_awake in [false, true] {
        let [alice] = processes(&client, ["alice"]);
        client.swap(process("alice")).unwrap();
        if is_awake {
            client.restore(process("alice")).unwrap();
        }
        faulty.plan(When::Every(Operation::RemoveFolder), Fault::Refuse(Refusal::Failed));
        let error = client.stop(process("alice")).unwrap_err();
        assert!(matches!(error, RequestError::Refused(ControlError::SwapFailed { .. })), "{error}");
        assert_eq!(client.list().unwrap().len(), 1);
        faulty.heal();
        client.stop(process("alice")).unwrap();
        assert!(client.list().unwrap().is_empty());
        assert!(faulty.folders(None).unwrap().is_empty());
        drop(alice);
    }
    drop(client);
    stage.end();
}

#[test]
fn calls_wait_for_a_stalled_storage_to_their_deadline_and_are_refused_at_once_where_the_application_wants_that() {
    for policy in [SwapWait::Wait, SwapWait::Refuse] {
        let (stage, faulty) = with_faults(60_000, |application| application.swap_wait = policy);
        let client = stage.client();
        let [alice] = processes(&client, ["alice"]);
        client.swap(process("alice")).unwrap();
        faulty.plan(When::Every(Operation::Manifest), Fault::Stall);
        let refused = alice.call("add").deadline(Duration::from_millis(500)).send().unwrap_err();
        assert!(
            matches!(refused, CallError::Unavailable { .. } | CallError::ConnectionLost { may_have_run: false }),
            "{policy:?}: {refused}"
        );
        assert!(faulty.wait_for_stalled(1, common::PATIENCE), "it was to be woken all the same");
        assert_eq!(status(&client, "alice").state, ProcessState::Restoring);
        faulty.heal();
        faulty.release();
        eventually("it is awake", || status(&client, "alice").state == ProcessState::Active);
        assert_eq!(ask(&alice, "sum", "").unwrap(), "0");
        drop((alice, client));
        stage.end();
    }
}

#[test]
fn what_comes_back_piece_by_piece_is_right_or_an_error_whatever_storage_does_from_any_call_on() {
    let (stage, faulty) = with_faults(SHORT_STALL_MS, |application| application.limits.state_bytes_max = 64 << 20);
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    for number in 0..LARGE {
        ask(&alice, "scatter", &format!("large-{number} {LARGE_BYTES} {number}")).unwrap();
    }
    let (mut wrong, mut asked) = (0, 0);
    let faults = [Fault::Refuse(Refusal::Failed), Fault::Truncate, Fault::Damage, Fault::Stall, Fault::Old];
    for fault in faults {
        // Each at first, where the process is claimed and its first pages come; later ones are alike.
        for nth in (1..8).chain((8..=CALLS_MAX).step_by(6)) {
            client.swap(process("alice")).unwrap();
            let calls = faulty.calls();
            // Until it is mended: a single one in the background is only tried again.
            faulty.plan(When::From(calls + nth), fault);
            // Whoever calls wakes it, unless that is what fails.
            let is_awake = client.restore(process("alice")).is_ok();
            for number in (0..LARGE).filter(|_| is_awake) {
                asked += 1;
                match ask(&alice, "scattered", &format!("large-{number}")) {
                    Ok(found) => assert_eq!(found, told(LARGE_BYTES, number), "{fault:?} at {nth}"),
                    Err(error) => {
                        println!("{fault:?} at {nth}: {error}");
                        assert!(matches!(error, CallError::FunctionFailed { .. }), "{error}");
                        wrong += 1;
                    }
                }
            }
            wrong += u64::from(!is_awake);
            let was_reached = faulty.calls() > calls + nth;
            faulty.heal();
            for number in 0..LARGE {
                let found = ask(&alice, "scattered", &format!("large-{number}")).unwrap();
                assert_eq!(found, told(LARGE_BYTES, number), "{fault:?} at {nth}");
            }
            if !was_reached {
                break;
            }
        }
    }
    println!("{wrong} errors in {asked} answers");
    assert!(wrong > 10, "{wrong}");
    drop((alice, client));
    stage.end();
}

#[test]
fn a_checkpoint_that_fails_at_any_call_of_storage_costs_nobody_anything_and_the_next_one_has_it_all() {
    let (stage, faulty) = with_faults(SHORT_STALL_MS, |application| {
        application.durability = Durability::Checkpoint;
        application.checkpoint_interval_ms = 100;
    });
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    let taken = || stage.server().metrics().unwrap().checkpoints;
    let mut sum: u64 = 0;
    // A process in which nothing changes has no checkpoint.
    let mut add_until = |what: &str, is_so: &dyn Fn() -> bool| {
        eventually(what, || {
            sum += 1;
            assert_eq!(ask(&alice, "add", "").unwrap(), sum.to_string(), "{what}");
            is_so()
        });
    };
    let faults = [
        Fault::Refuse(Refusal::Failed),
        Fault::Refuse(Refusal::Full),
        Fault::LoseAcknowledgement,
        Fault::Stall,
        Fault::Old,
    ];
    for fault in faults {
        for nth in 0..6 {
            let calls = faulty.calls();
            faulty.plan(When::Call(calls + nth), fault);
            add_until(&format!("{fault:?} at {nth} has happened"), &|| faulty.calls() > calls + nth);
            faulty.heal();
            let before = taken();
            // The first may have begun before.
            add_until(&format!("two checkpoints are taken after {fault:?} at {nth}"), &|| taken() > before + 1);
        }
    }
    let metrics = stage.server().metrics().unwrap();
    assert!(metrics.checkpoints_failed > 10, "{metrics:?}");
    // What the last one had is there whatever failed before it.
    client.swap(process("alice")).unwrap();
    let [folder] = storage.folders(None).unwrap()[..] else { panic!("one process is stored") };
    assert!(Snapshot::open(&storage, &folder).unwrap().is_some());
    assert_eq!(ask(&alice, "sum", "").unwrap(), sum.to_string());
    drop((alice, client));
    stage.end();
}

#[test]
fn a_damaged_manifest_and_one_of_a_later_version_are_named_and_the_process_wakes_when_they_are_mended() {
    let stage = Stage::empty();
    let memory = Arc::new(MemoryBackend::new());
    let start = || {
        let mut options = stage::options(stage.path(), sleeping());
        options.storage = Some(Arc::clone(&memory) as Arc<dyn Backend>);
        Server::start(options).unwrap()
    };
    let server = start();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    server.shutdown().unwrap();
    let [folder] = memory.folders(None).unwrap()[..] else { panic!("one process sleeps") };
    let sound = memory.manifest(&folder).unwrap().unwrap().bytes;
    let publish = |bytes: &[u8]| {
        let newest = memory.manifest(&folder).unwrap().unwrap().revision;
        memory.publish(&folder, Some(&newest), bytes).unwrap();
    };
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    let (magic, version, middle) = (flipped(0), flipped(8), flipped(sound.len() / 2));
    let short = sound[..sound.len() / 2].to_vec();
    for (what, bytes, word) in [
        ("magic", magic, "damaged"),
        ("version", version, "version"),
        ("middle", middle, "checksum"),
        ("short", short, "damaged"),
        ("empty", Vec::new(), "damaged"),
    ] {
        publish(&bytes);
        let server = start();
        eventually("the client is connected again", || client.list().is_ok());
        let listed = status(&client, "alice");
        assert_eq!(listed.state, ProcessState::Swapped, "{what}");
        let why = listed.last_exit.unwrap_or_default();
        assert!(why.contains(word) && why.contains("manifest"), "{what}: {why}");
        let refused = client.restore(process("alice")).unwrap_err();
        println!("{what}: {refused}");
        let RequestError::Refused(ControlError::SwapFailed { reason, .. }) = refused else { panic!("{refused}") };
        assert!(reason.contains(word) && reason.contains("manifest"), "{what}: {reason}");
        publish(&sound);
        assert_eq!(ask(&alice, "sum", "").unwrap(), "1", "{what}");
        server.shutdown().unwrap();
        let kept = Snapshot::open(&(Arc::clone(&memory) as Arc<dyn Backend>), &folder).unwrap().unwrap();
        assert!(kept.epoch() > 1, "{what}");
        publish(&sound);
    }
    drop((alice, client));
    stage.end();
}
