//! Orders about processes that are on their way to sleep or back, beside those who need them.

mod common;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::{sleeping, sleeps};
use common::stage::{self, Stage, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket};
use praas_client::{CallError, Client, Process, ProcessState};
use praas_server::{Application, SwapWait};
use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::{Backend, MemoryBackend};

/// Milliseconds without a call after which processes sleep that are idle.
const IDLE_SWAP_MS: u64 = 100;

/// Rounds of a race.
const ROUNDS: u64 = 40;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

fn with_faulty(application: Application) -> (Stage, Faulty) {
    let memory = Arc::new(MemoryBackend::new()) as Arc<dyn Backend>;
    let faulty = Faulty::new(memory).with_stall_limit_ms(60_000);
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    (Stage::new(application, |options| options.storage = Some(storage)), faulty)
}

/// A process that sleeps, and whose waking stalls as soon as somebody needs it.
fn stalling(client: &Client, faulty: &Faulty) -> Process {
    let [alice] = processes(client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    client.swap(process("alice")).unwrap();
    faulty.plan(When::Nth(Operation::Manifest, faulty.calls_of(Operation::Manifest)), Fault::Stall);
    alice
}

/// Whether the call was carried out before the process was stopped; what did not is said to have not run.
fn is_answered(call: Result<String, CallError>) -> bool {
    match call {
        Ok(sum) => sum == "2",
        Err(
            CallError::UnknownProcess { .. }
            | CallError::Unavailable { .. }
            | CallError::ConnectionLost { may_have_run: false },
        ) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_process_that_somebody_waits_for_is_stopped_when_it_is_back_and_at_once_when_it_cannot_be_brought_back() {
    for cannot_be_read in [false, true] {
        let (stage, faulty) = with_faulty(sleeping());
        let client = stage.client();
        let alice = stalling(&client, &faulty);
        let call = thread::spawn(move || ask(&alice, "add", ""));
        assert!(faulty.wait_for_stalled(1, PATIENCE), "the call wakes it");
        let stopping = stage.client();
        let stop = thread::spawn(move || stopping.stop(process("alice")));
        eventually("the order waits too", || stage.server().metrics().unwrap().requests_waited >= 2);
        assert_eq!(status(&client, "alice").state, ProcessState::Restoring);
        assert!(!stop.is_finished() && !call.is_finished());
        if cannot_be_read {
            faulty.plan(When::Every(Operation::Read), Fault::Refuse(Refusal::Failed));
            faulty.release();
        } else {
            faulty.heal();
        }
        stop.join().unwrap().unwrap();
        let answered = is_answered(call.join().unwrap());
        println!("cannot be read: {cannot_be_read}, answered: {answered}");
        assert!(!(cannot_be_read && answered));
        faulty.heal();
        assert!(client.list().unwrap().is_empty());
        assert!(faulty.folders(None).unwrap().is_empty(), "nothing is left of it");
        drop(client);
        stage.end();
    }
}

#[test]
fn where_those_who_need_a_process_that_sleeps_are_refused_those_who_order_it_wait() {
    let mut application = sleeping();
    application.swap_wait = SwapWait::Refuse;
    let (stage, faulty) = with_faulty(application);
    let client = stage.client();
    let alice = stalling(&client, &faulty);
    let refused = || {
        let refused = alice.call("add").deadline(Duration::from_millis(100)).send().unwrap_err();
        let is_it =
            matches!(refused, CallError::Unavailable { .. } | CallError::ConnectionLost { may_have_run: false });
        assert!(is_it, "{refused}");
    };
    refused();
    assert!(faulty.wait_for_stalled(1, PATIENCE), "it is to be woken all the same");
    let ordering = stage.client();
    let restore = thread::spawn(move || ordering.restore(process("alice")));
    refused();
    assert!(!restore.is_finished(), "an order waits");
    faulty.heal();
    restore.join().unwrap().unwrap();
    assert_eq!(ask(&alice, "sum", "").unwrap(), "1", "what was refused did not run");
    // The same of an order to stop it.
    client.swap(process("alice")).unwrap();
    faulty.plan(When::Every(Operation::Manifest), Fault::Stall);
    refused();
    assert!(faulty.wait_for_stalled(1, PATIENCE));
    let ordering = stage.client();
    let stop = thread::spawn(move || ordering.stop(process("alice")));
    eventually("the order waits", || stage.server().metrics().unwrap().requests_waited >= 1);
    refused();
    faulty.heal();
    stop.join().unwrap().unwrap();
    assert!(client.list().unwrap().is_empty() && faulty.folders(None).unwrap().is_empty());
    drop((alice, client));
    stage.end();
}

#[test]
fn who_orders_a_process_to_sleep_that_is_just_falling_asleep_by_itself_is_told_when_it_does() {
    let mut random = Random::printed("orders beside idleness");
    let mut application = sleeping();
    application.idle_swap_ms = Some(IDLE_SWAP_MS);
    let (stage, _faulty) = with_faulty(application);
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let mut met = 0;
    for round in 1..=ROUNDS {
        assert_eq!(ask(&alice, "add", "").unwrap(), round.to_string());
        // Until about when it falls asleep by itself, and a little before or after.
        thread::sleep(Duration::from_millis(IDLE_SWAP_MS / 2 + random.below(2 * IDLE_SWAP_MS)));
        let state = status(&client, "alice").state;
        met += u32::from(state == ProcessState::Swapping || state == ProcessState::Swapped);
        client.swap(process("alice")).unwrap();
        assert!(sleeps(&client, "alice"), "round {round}, it was {state}");
    }
    println!("in {met} of {ROUNDS} rounds it was asleep or on its way");
    assert!(met > 0, "nothing raced");
    assert_eq!(ask(&alice, "sum", "").unwrap(), ROUNDS.to_string());
    drop((alice, client));
    stage.end();
}
