//! What a process knows outlives its server: servers are killed, and the next one brings every process back.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::lingering::{self, end_cleanly, start_server, with_held};
use common::stage::{Played, Stage, block_on, process, status};
use common::sums::{self, Known, add_until, stateful, sum_of};
use common::{PATIENCE, ROLE, children_with, eventually, is_keeper_socket, signals, stage};
use praas_client::{CallError, ProcessState, RequestError};
use praas_protocol::control::ControlError;
use praas_server::Level;

/// Name of the application that a server role serves, if not the usual one.
const SERVED: &str = "TEST_SERVED";

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => sums::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server of two workers a process.
fn play_server() {
    let served = std::env::var(SERVED).unwrap_or_else(|_| "hello".into());
    let mut application = stateful(&served);
    (application.workers_min, application.workers_max) = (2, 2);
    lingering::play_server(application);
}

#[test]
fn ten_servers_killed_under_calls_lose_no_process_and_no_client() {
    let stage = Stage::empty();
    let Some(mut server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let names = ["alice", "bob", "carol", "dave"];
    let processes = names.map(|name| {
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap()
    });
    let known: [Known; 4] = Default::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = processes
            .iter()
            .zip(&known)
            .map(|(process, known)| {
                let over = &over;
                scope.spawn(move || add_until(over, process, known))
            })
            .collect();
        let body = || {
            for _ in 0..10 {
                let before: Vec<u64> = known.iter().map(|known| known.added.load(Ordering::Relaxed)).collect();
                eventually("every process answers", || {
                    known.iter().zip(&before).all(|(known, before)| known.added.load(Ordering::Relaxed) > before + 10)
                });
                let incarnation = client.server_incarnation();
                server.child.kill().unwrap();
                server.child.wait().unwrap();
                server = start_server(&stage).unwrap();
                eventually("the client is connected again", || {
                    client.server_incarnation().is_some_and(|now| Some(now) != incarnation)
                });
                assert_eq!(client.list().unwrap().len(), names.len());
            }
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        over.store(true, Ordering::Relaxed);
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    for (process, known) in processes.iter().zip(&known) {
        known.check(sum_of(process));
    }
    drop((processes, client));
    end_cleanly(server, stage);
}

#[test]
fn a_call_without_a_server_ends_at_its_deadline_and_the_next_server_serves_the_same_handles() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    alice.invoke("add", &[3]).unwrap();
    let uid = alice.invoke("uid", &[]).unwrap().as_slice().to_vec();
    let held = alice.start("hold", &[]).unwrap();
    eventually("the call runs", || client.stats(process("alice")).unwrap().running == 1);
    server.kill();
    assert_eq!(held.wait().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    let call = || alice.call("sum").deadline(Duration::from_millis(200));
    for end in [call().send(), call().send(), block_on(call(), PATIENCE)] {
        assert_eq!(end.unwrap_err(), CallError::ConnectionLost { may_have_run: false });
    }
    assert!(matches!(client.ping(Duration::from_millis(200)), Err(RequestError::Connect(_))));
    let next = start_server(&stage).unwrap();
    assert_eq!(sum_of(&alice), 3);
    assert_eq!(alice.invoke("uid", &[]).unwrap().as_slice(), uid, "its files would belong to somebody else");
    let mut pipeline = alice.pipeline(4);
    pipeline.send("add", &[4]).unwrap();
    pipeline.receive().unwrap().unwrap();
    assert_eq!(sum_of(&alice), 7);
    assert_eq!(status(&client, "alice").state, ProcessState::Active);
    // A worker's death after that is as any other.
    common::kill(status(&client, "alice").worker_pids[0]);
    assert_eq!(sum_of(&alice), 7);
    drop((pipeline, alice, client));
    end_cleanly(next, stage);
}

#[test]
fn a_stopped_process_leaves_nothing_with_the_keeper_and_never_comes_back() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    for name in ["alice", "bob"] {
        client.create(process(name)).unwrap();
    }
    client.stop(process("alice")).unwrap();
    drop(client);
    server.kill();
    let names = with_held(&stage, |held| held.iter().map(|held| held.name.clone()).collect::<Vec<_>>());
    assert!(names.len() == 2 && names.iter().all(|name| name.contains("/hello/bob/")), "{names:?}");
    let next = start_server(&stage).unwrap();
    let client = stage.client();
    let listed: Vec<_> = client.list().unwrap().into_iter().map(|status| status.process).collect();
    assert_eq!(listed, [process("bob")]);
    client.stop(process("bob")).unwrap();
    drop(client);
    next.kill();
    eventually("a keeper that holds nothing goes", || !stage.path().join("keeper.sock").exists());
    let last = start_server(&stage).unwrap();
    assert!(stage.client().list().unwrap().is_empty());
    end_cleanly(last, stage);
}

#[test]
fn a_process_with_a_damaged_ledger_is_listed_as_failed_and_no_other_is_touched() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    let names = ["alice", "bob", "carol"];
    for name in names {
        client.create(process(name)).unwrap();
        client.process(process(name)).unwrap().invoke("add", &[5]).unwrap();
    }
    server.kill();
    with_held(&stage, |held| {
        let ledger_of = |name: &str| {
            let held = held.iter().find(|held| held.name.starts_with(&format!("ledger/hello/{name}/"))).unwrap();
            File::from(held.fd.try_clone().unwrap())
        };
        ledger_of("alice").write_all_at(&[0x5a; 4096], 0).unwrap();
        // One that holds together, and is another's.
        let mut carols = vec![0; 4096];
        ledger_of("carol").read_exact_at(&mut carols, 0).unwrap();
        ledger_of("bob").write_all_at(&carols, 0).unwrap();
    });
    let next = start_server(&stage).unwrap();
    for name in ["alice", "bob"] {
        assert_eq!(status(&client, name).state, ProcessState::Failed, "{name}");
        let refused = client.process(process(name)).map(drop).unwrap_err().to_string();
        assert!(refused.contains("ledger") && refused.contains("praas process stop"), "{refused}");
        assert!(client.restart(process(name)).unwrap_err().to_string().contains("ledger"));
    }
    let carol = client.process(process("carol")).unwrap();
    assert_eq!(sum_of(&carol), 5);
    // Damaged memory is given up by a stop, and its name is free then.
    client.stop(process("alice")).unwrap();
    client.create(process("alice")).unwrap();
    assert_eq!(sum_of(&client.process(process("alice")).unwrap()), 0);
    drop((carol, client));
    next.kill();
    let last = start_server(&stage).unwrap();
    let client = stage.client();
    let states: BTreeMap<_, _> =
        client.list().unwrap().into_iter().map(|status| (status.process.to_string(), status.state)).collect();
    let expected = [
        ("hello/alice".to_owned(), ProcessState::Active),
        ("hello/bob".to_owned(), ProcessState::Failed),
        ("hello/carol".to_owned(), ProcessState::Active),
    ];
    assert_eq!(states, expected.into());
    drop(client);
    end_cleanly(last, stage);
}

#[test]
fn the_state_of_an_application_that_is_not_served_waits_for_a_server_that_serves_it() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    client.process(process("alice")).unwrap().invoke("add", &[9]).unwrap();
    drop(client);
    server.kill();
    let other = Played::start("lingering server", stage.path(), &[(SERVED, Path::new("other"))]).unwrap();
    let client = stage.client();
    assert!(client.list().unwrap().is_empty());
    client.create("other/alice".parse().unwrap()).unwrap();
    drop(client);
    other.kill();
    let back = start_server(&stage).unwrap();
    let client = stage.client();
    assert_eq!(sum_of(&client.process(process("alice")).unwrap()), 9);
    drop(client);
    end_cleanly(back, stage);
}

#[test]
fn a_server_that_ends_cleanly_takes_its_state_with_it() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    drop(client);
    server.terminate();
    assert_eq!(server.end(), Some(42));
    let next = start_server(&stage).unwrap();
    assert!(stage.client().list().unwrap().is_empty());
    end_cleanly(next, stage);
}

#[test]
fn a_full_budget_refuses_a_process_with_figures_and_a_stop_makes_room() {
    let mut roomy = stateful("hello");
    roomy.limits.state_bytes_max = 64 << 20;
    let stage = Stage::new(roomy, |options| {
        options.memory_bytes_max = Some(9 << 20);
        options.log_level = Level::Error;
    });
    let client = stage.client();
    client.create(process("one")).unwrap();
    client.create(process("two")).unwrap();
    let refused = client.create(process("three")).unwrap_err();
    let RequestError::Refused(ControlError::LimitReached { used, limit, asked, advice, .. }) = &refused else {
        panic!("{refused}");
    };
    assert_eq!((*used, *limit, *asked), (8 << 20, 9 << 20, 4 << 20));
    assert!(advice.contains("state_bytes_max") && advice.contains("--memory-budget"), "{advice}");
    assert_eq!(client.list().unwrap().len(), 2, "a refused process left something");
    client.stop(process("one")).unwrap();
    client.create(process("three")).unwrap();
    drop(client);
    stage.end();
}

#[test]
fn a_keeper_that_died_is_replaced_and_what_it_held_is_safe_again() {
    let stage = Stage::empty();
    let Some(server) = start_server(&stage) else { return stage.end() };
    let keepers = children_with(server.child.id(), "role");
    assert_eq!(keepers.len(), 1, "a server without processes has one child");
    let client = stage.client();
    client.create(process("alice")).unwrap();
    client.process(process("alice")).unwrap().invoke("add", &[6]).unwrap();
    common::kill(keepers[0]);
    // A process is ready when the new keeper has its memory, and is told of it after all that were there before.
    client.create(process("bob")).unwrap();
    server.kill();
    let next = start_server(&stage).unwrap();
    assert_eq!(sum_of(&client.process(process("alice")).unwrap()), 6);
    assert_eq!(status(&client, "bob").state, ProcessState::Active);
    drop(client);
    end_cleanly(next, stage);
}

#[test]
fn a_process_is_not_there_before_the_keeper_has_its_memory() {
    let stage = Stage::new(stateful("hello"), |_| ());
    let keepers = children_with(std::process::id(), "role");
    assert_eq!(keepers.len(), 1, "a server without processes has one child");
    let client = stage.client();
    signals::stop(keepers[0]);
    std::thread::scope(|scope| {
        let creating = scope.spawn(|| client.create(process("alice")));
        eventually("its worker runs", || children_with(std::process::id(), "role").len() == 2);
        for _ in 0..20 {
            assert_eq!(status(&client, "alice").state, ProcessState::Creating);
            std::thread::sleep(Duration::from_millis(5));
        }
        signals::resume(keepers[0]);
        creating.join().unwrap().unwrap();
    });
    assert_eq!(sum_of(&client.process(process("alice")).unwrap()), 0);
    drop(client);
    stage.end();
}
