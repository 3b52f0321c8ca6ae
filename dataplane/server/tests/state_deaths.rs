//! What becomes of a process's state when its workers die, lock it for ever, or write junk into it.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::stage::{Stage, process, status};
use common::sums::{self, Known, add_until, lock_word, stateful, sum_of};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Process, ProcessState};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => sums::serve(),
        _ => stage::play(),
    }
}

/// A server inside the test, and a process of two workers that has an object.
fn stage_with_two_workers() -> (Stage, praas_client::Client, Process) {
    let mut application = stateful("hello");
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    alice.invoke("add", &[2]).unwrap();
    (stage, client, alice)
}

fn lock(word: u64, dies: bool) -> Vec<u8> {
    [&[u8::from(dies)], &word.to_le_bytes()[..]].concat()
}

#[test]
fn workers_killed_under_calls_leave_no_lock_and_lose_no_sum() {
    let (stage, client, alice) = stage_with_two_workers();
    let known = Known::default();
    known.added.store(2, Ordering::Relaxed);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2).map(|_| scope.spawn(|| add_until(&over, &alice, &known))).collect();
        for _ in 0..20 {
            let before = known.added.load(Ordering::Relaxed);
            eventually("calls are answered", || known.added.load(Ordering::Relaxed) > before + 5);
            if let Some(&pid) = status(&client, "alice").worker_pids.last() {
                common::kill(pid);
            }
        }
        over.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
    });
    known.check(sum_of(&alice));
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    drop((alice, client));
    stage.end();
}

#[test]
fn a_worker_that_dies_with_the_lock_of_the_state_keeps_nobody_waiting() {
    let (stage, client, alice) = stage_with_two_workers();
    let locked = alice.invoke("lock", lock(0, true).as_slice());
    assert_eq!(locked.unwrap_err(), CallError::WorkerLost);
    for _ in 0..4 {
        alice.call("add").payload(&[1]).deadline(PATIENCE).send().unwrap();
    }
    assert_eq!(sum_of(&alice), 6);
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    drop((alice, client));
    stage.end();
}

#[test]
fn a_corrupt_state_ends_its_process_as_failed_and_touches_no_other() {
    let (stage, client, alice) = stage_with_two_workers();
    client.create(process("bob")).unwrap();
    let bob = client.process(process("bob")).unwrap();
    bob.invoke("add", &[7]).unwrap();
    let waiting: Vec<_> = (0..2).map(|_| bob.start("sum", &[]).unwrap()).collect();
    let junk = alice.invoke("lock", lock(u64::MAX, true).as_slice());
    assert!(matches!(junk, Err(CallError::WorkerLost)), "{junk:?}");
    eventually("the process has failed", || status(&client, "alice").state == ProcessState::Failed);
    eventually("its workers are gone", || status(&client, "alice").workers == 0);
    let refused = client.process(process("alice")).map(drop).unwrap_err().to_string();
    assert!(refused.contains("corrupt") && refused.contains("praas process stop"), "{refused}");
    let call = alice.call("sum").deadline(Duration::from_millis(100)).send();
    assert!(matches!(call, Err(CallError::Unavailable { .. })), "{call:?}");
    assert!(client.restart(process("alice")).unwrap_err().to_string().contains("corrupt"));
    for pending in waiting {
        pending.wait().unwrap();
    }
    assert_eq!(sum_of(&bob), 7);
    client.stop(process("alice")).unwrap();
    client.create(process("alice")).unwrap();
    assert_eq!(sum_of(&alice), 0, "the same handle finds the new process");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_worker_that_never_unlocks_the_state_is_killed_when_another_one_has_died() {
    let (stage, client, alice) = stage_with_two_workers();
    // A worker says that it is the one that writes, or that the other is: it looks the same from outside.
    alice.invoke("lock", lock(lock_word(0), false).as_slice()).unwrap();
    let before = status(&client, "alice").worker_pids;
    // The one with index 1, which was started last.
    common::kill(before[1]);
    eventually("both were replaced", || {
        let now = status(&client, "alice").worker_pids;
        now.len() == 2 && !now.iter().any(|pid| before.contains(pid))
    });
    assert_eq!(sum_of(&alice), 2);
    drop((alice, client));
    stage.end();
}
