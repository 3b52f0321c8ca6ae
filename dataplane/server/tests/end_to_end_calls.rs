//! Calls from the client library to real workers, up to every limit that a caller can meet: each refusal is typed, names
//! its figures, costs nobody else, and is over when its reason is.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::stage::{FEW_FILES, Played, Stage, application, connect, process, status};
use common::{PATIENCE, eventually, signals, stage};
use praas_client::{CallError, Client, ConnectError, ConnectOptions, ControlError, Process, RequestError};
use praas_protocol::token::{Claims, Rights, Scope, Secret};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Calls until the process is there and takes calls.
fn insist(process: &Process, function: &str, payload: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    eventually(function, || match process.invoke(function, payload) {
        Ok(reply) => {
            answer = reply.into_vec();
            true
        }
        Err(_) => false,
    });
    answer
}

#[test]
fn what_does_not_exist_is_named() {
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    let nobody = client.process(process("nobody")).unwrap_err();
    assert!(matches!(nobody, RequestError::Refused(ControlError::UnknownProcess { .. })), "{nobody}");
    let unserved = client.create("other/alice".parse().unwrap()).unwrap_err();
    assert!(
        matches!(&unserved, RequestError::Refused(ControlError::UnknownApplication { known, .. }) if known == "hello"),
        "{unserved}"
    );
    let alice = client.process(process("alice")).unwrap();
    let unheard = alice.invoke("unheard-of", "").unwrap_err();
    assert_eq!(unheard, CallError::UnknownFunction { function: "unheard-of".into() });
    assert!(
        matches!(alice.invoke("panic", ""), Err(CallError::FunctionPanicked { message }) if message.contains("as asked"))
    );
    client.stop(process("alice")).unwrap();
    assert_eq!(alice.invoke("echo", "").unwrap_err(), CallError::UnknownProcess { process: process("alice") });
    client.create(process("alice")).unwrap();
    assert_eq!(insist(&alice, "echo", b"the same handle"), b"the same handle");
    drop((alice, client));
    stage.end();
}

#[test]
fn payloads_at_the_limit_pass_and_one_byte_more_is_refused_both_ways() {
    const LIMIT: usize = 100_000;
    let mut application = application();
    application.limits.payload_bytes_max = 100_000;
    let stage = Stage::new(application, |_| ());
    stage.with_process("alice");
    let secret: [u8; 32] = std::fs::read(stage.path().join("secret")).unwrap().try_into().unwrap();
    let secret = Secret::from_bytes(secret);
    let too_large = CallError::PayloadTooLarge { limit_bytes: 100_000, actual_bytes: 100_001 };
    for rights in [Rights::INVOKE, Rights::INVOKE.with(Rights::TRUSTED)] {
        let claims = Claims { principal: "bob".parse().unwrap(), scope: Scope::Any, rights, expires_unix_s: None };
        let options = ConnectOptions::new().data_directory(stage.path()).token(secret.sign(&claims));
        let alice = Client::connect(options).unwrap().process(process("alice")).unwrap();
        for bytes in [0, 1, 64, 65, 96, 97, LIMIT - 1, LIMIT] {
            let payload = vec![5; bytes];
            assert_eq!(alice.invoke("echo", &payload).unwrap().as_slice(), payload, "{bytes}");
            assert_eq!(alice.invoke("grow", bytes.to_string().as_str()).unwrap().len(), bytes);
        }
        let mut loan = alice.loan(LIMIT).unwrap();
        loan.write_at(0, &vec![5; LIMIT]).unwrap();
        assert_eq!(alice.invoke("echo", loan).unwrap().len(), LIMIT);
        assert_eq!(alice.invoke("echo", vec![5; LIMIT + 1]).unwrap_err(), too_large);
        assert_eq!(alice.loan(LIMIT + 1).unwrap_err(), too_large);
        assert_eq!(alice.invoke("grow", "100001").unwrap_err(), too_large);
        // A reply that no segment could hold either.
        assert!(matches!(alice.invoke("grow", "50000000"), Err(CallError::PayloadTooLarge { .. })));
        assert_eq!(alice.invoke("echo", "on").unwrap().as_slice(), b"on");
    }
    stage.end();
}

#[test]
fn a_token_opens_what_it_names_and_nothing_else() {
    let stage = Stage::new(application(), |_| ());
    let owner = stage.with_process("alice");
    owner.create(process("bob")).unwrap();
    let secret: [u8; 32] = std::fs::read(stage.path().join("secret")).unwrap().try_into().unwrap();
    let token = |secret: &Secret, scope, rights, expires_unix_s| {
        secret.sign(&Claims { principal: "eve".parse().unwrap(), scope, rights, expires_unix_s })
    };
    let own = Secret::from_bytes(secret);
    let connect = |token: &str| Client::connect(ConnectOptions::new().data_directory(stage.path()).token(token));
    let foreign = token(&Secret::generate().unwrap(), Scope::Any, Rights::ALL, None);
    let expired = token(&own, Scope::Any, Rights::ALL, Some(1));
    let mut altered = token(&own, Scope::Process(process("alice")), Rights::INVOKE, None);
    // One character of its signature.
    let last = if altered.pop() == Some('a') { 'b' } else { 'a' };
    altered.push(last);
    for refused in ["", "nonsense", &foreign, &expired, &altered] {
        let error = connect(refused).unwrap_err();
        assert!(matches!(error, ConnectError::Refused(ControlError::TokenRefused { .. })), "{refused:?}: {error}");
    }
    let unauthorized = |error: RequestError| matches!(error, RequestError::Refused(ControlError::Unauthorized { .. }));
    let eve = connect(&token(&own, Scope::Process(process("alice")), Rights::INVOKE, None)).unwrap();
    assert_eq!(eve.process(process("alice")).unwrap().invoke("echo", "hi").unwrap().as_slice(), b"hi");
    assert!(unauthorized(eve.process(process("bob")).unwrap_err()));
    assert!(unauthorized(eve.stop(process("alice")).unwrap_err()));
    assert!(unauthorized(eve.restart(process("alice")).unwrap_err()));
    assert!(unauthorized(eve.create(process("carol")).unwrap_err()));
    assert!(unauthorized(eve.list().unwrap_err()));
    let keeper_of_bob = connect(&token(&own, Scope::Process(process("bob")), Rights::MANAGE, None)).unwrap();
    let seen: Vec<_> = keeper_of_bob.list().unwrap().into_iter().map(|status| status.process).collect();
    assert_eq!(seen, [process("bob")]);
    assert!(unauthorized(keeper_of_bob.stop(process("alice")).unwrap_err()));
    let manager = connect(&token(&own, Scope::Any, Rights::MANAGE, None)).unwrap();
    assert!(unauthorized(manager.process(process("alice")).unwrap_err()));
    manager.stop(process("bob")).unwrap();
    let nobody = connect(&token(&own, Scope::Any, Rights::NONE, None)).unwrap();
    assert!(unauthorized(nobody.process(process("alice")).unwrap_err()));
    drop((eve, keeper_of_bob, manager, nobody, owner));
    stage.end();
}

#[test]
fn concurrent_slow_calls_start_workers_up_to_the_maximum() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 4);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(status(&client, "alice").workers, 1);
    let mut indexes = BTreeSet::new();
    eventually("four workers take calls", || {
        // Each caller waits for its own call, and rings again when nobody has claimed it within the parked check.
        std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..8).map(|_| scope.spawn(|| alice.invoke("index", "250").unwrap().as_slice()[0])).collect();
            indexes.extend(calls.into_iter().map(|call| call.join().unwrap()));
        });
        assert!(status(&client, "alice").workers <= 4);
        indexes.len() == 4
    });
    assert_eq!(indexes, BTreeSet::from([0, 1, 2, 3]));
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    drop((alice, client));
    stage.end();
}

#[test]
fn lanes_that_come_after_their_requests_timed_out_are_given_back() {
    const LATE: u32 = 40;
    let stage = Stage::empty();
    let Some(server) = Played::start("server", stage.path(), &[]) else { return };
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    for round in 0..2 {
        // A closed lane makes the next call ask for another one, of a server that does not answer just now.
        client.stop(process("alice")).unwrap();
        client.create(process("alice")).unwrap();
        signals::stop(server.child.id());
        for _ in 0..LATE {
            let refused = alice.call("echo").deadline(Duration::from_millis(5)).send().unwrap_err();
            assert!(matches!(refused, CallError::Unavailable { .. }), "{refused}");
        }
        signals::resume(server.child.id());
        // All of them, unless some are closed by then already.
        let open = status(&client, "alice").lanes;
        println!("round {round}: {open} of {LATE} late lanes were open when the server first told");
        assert!(open <= LATE);
        eventually("the late lanes are closed", || status(&client, "alice").lanes == 0);
        assert_eq!(alice.invoke("echo", "in time").unwrap().as_slice(), b"in time");
        assert_eq!(status(&client, "alice").lanes, 1);
    }
    drop((alice, client));
    server.terminate();
    assert_eq!(server.end(), Some(42), "the server did not end by itself");
    stage.end();
}

/// Nobody but the worker itself knows that calls wait: the thread that started them waits for none, and they were rung for
/// when a worker slept.
#[test]
fn calls_that_one_thread_has_started_are_shared_with_a_worker_that_comes_for_them() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 2);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    alice.invoke("echo", "").unwrap();
    let mut indexes = BTreeSet::new();
    eventually("two workers take calls", || {
        let only = status(&client, "alice").worker_pids[0];
        signals::stop(only);
        let calls: Vec<_> = (0..8).map(|_| alice.start("index", "100").unwrap()).collect();
        signals::resume(only);
        eventually("a second worker is there", || status(&client, "alice").workers == 2);
        indexes.extend(calls.into_iter().map(|call| call.wait().unwrap().as_slice()[0]));
        indexes.len() == 2
    });
    assert_eq!(indexes, BTreeSet::from([0, 1]));
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    drop((alice, client));
    stage.end();
}

#[test]
fn workers_above_the_minimum_end_when_they_have_had_nothing_to_do_and_come_back() {
    const IDLE: Duration = Duration::from_millis(400);
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 3);
    let stage = Stage::new(application, |options| options.worker_idle = IDLE);
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    // The second time around, workers that have ended are replaced when they are needed.
    for _ in 0..2 {
        eventually("more workers than the minimum", || {
            std::thread::scope(|scope| {
                (0..6).for_each(|_| drop(scope.spawn(|| alice.invoke("sleep", "100").unwrap())));
            });
            status(&client, "alice").workers > 1
        });
        eventually("the minimum is left", || status(&client, "alice").workers == 1);
        assert_eq!(alice.invoke("echo", "one serves").unwrap().as_slice(), b"one serves");
    }
    let end = status(&client, "alice");
    assert_eq!((end.worker_restarts, end.last_exit), (0, None), "an idle worker's end was taken for a failure");
    drop((alice, client));
    stage.end();
}

#[test]
fn abandoned_calls_fill_the_quarantine_with_figures_and_empty_it_when_they_end() {
    let stage = Stage::new(application(), |_| ());
    stage.with_process("alice");
    let client = Client::connect(ConnectOptions::new().data_directory(stage.path()).calls_in_flight(8)).unwrap();
    let alice = client.process(process("alice")).unwrap();
    for round in 0..3 {
        let first = alice.start("sleep", "150").unwrap();
        // Each holds memory of the lane, too, which must come back.
        let rest: Vec<_> = (0..7).map(|_| alice.start("digest", vec![1; 100_000]).unwrap()).collect();
        let full = alice.start("echo", "").unwrap_err();
        assert!(matches!(full, CallError::Overloaded { used: 8, limit: 8, .. }), "{full:?}");
        first.cancel();
        drop(rest);
        let full = alice.start("echo", "").unwrap_err();
        let CallError::Overloaded { what, used, limit } = full else { panic!("{full:?}") };
        assert!(what.contains("quarantine") && limit == 8 && (1..=8).contains(&used), "round {round}: {what} {used}");
        let mut last = None;
        eventually("there is room again", || {
            last = alice.start("echo", "back").ok();
            last.is_some()
        });
        assert_eq!(last.unwrap().wait().unwrap().as_slice(), b"back");
        let mut loan = None;
        eventually("the memory is free again", || {
            loan = alice.loan(1 << 20).ok();
            loan.is_some()
        });
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn a_deadline_ends_the_wait_and_not_the_lane() {
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    for _ in 0..5 {
        let late = alice.call("sleep").payload("120").deadline(Duration::from_millis(10)).send().unwrap_err();
        assert_eq!(late, CallError::DeadlineExceeded { deadline_ns: 10_000_000 });
        assert_eq!(alice.invoke("echo", "next").unwrap().as_slice(), b"next");
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn the_host_budget_refuses_lanes_with_figures_and_gets_them_back() {
    let stage = Stage::new(application(), |options| options.memory_bytes_max = Some(12 << 20));
    let client = stage.with_process("alice");
    for _ in 0..3 {
        let mut lanes = Vec::new();
        let refused = loop {
            match client.process(process("alice")) {
                Ok(lane) => lanes.push(lane),
                Err(error) => break error,
            }
            assert!(lanes.len() < 100, "the budget has no end");
        };
        let RequestError::Refused(ControlError::LimitReached { used, limit, asked, .. }) = refused else {
            panic!("{refused}");
        };
        assert!(limit == 12 << 20 && used <= limit && used + asked > limit, "{used} + {asked} of {limit}");
        assert_eq!(lanes.last().unwrap().invoke("echo", "full").unwrap().as_slice(), b"full");
        lanes.pop();
        eventually("the room of a dropped lane is free", || client.process(process("alice")).is_ok());
        drop(lanes);
        eventually("the room of all is free", || status(&client, "alice").lanes == 0);
    }
    drop(client);
    stage.end();
}

/// The server makes it beforehand; its segment and its ledger are mapped in this process, where the server runs.
#[test]
fn the_lane_that_a_creator_is_expected_to_ask_for_is_taken_back_if_it_does_not() {
    let prepared = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd:praas-lane")).count()
    };
    let stage = Stage::new(application(), |_| ());
    let client = stage.with_process("alice");
    assert_eq!(status(&client, "alice").lanes, 0, "nobody has asked for it");
    eventually("it is taken back", || prepared() == 0);
    client.create(process("bob")).unwrap();
    let expected = client.process(process("bob")).unwrap();
    let further = client.process(process("bob")).unwrap();
    for lane in [&expected, &further] {
        assert_eq!(lane.invoke("echo", vec![7; 5000]).unwrap().len(), 5000);
    }
    assert_eq!(status(&client, "bob").lanes, 2, "what was asked for stays");
    drop((expected, further));
    eventually("all are gone", || status(&client, "bob").lanes == 0 && prepared() == 0);
    drop(client);
    stage.end();
}

#[test]
fn a_server_without_descriptors_refuses_lanes_and_workers_and_recovers() {
    let stage = Stage::empty();
    let Some(played) = Played::start("poor server", stage.path(), &[]) else { return stage.end() };
    let client = connect(stage.path());
    client.create(process("alice")).unwrap();
    let mut lanes = Vec::new();
    let refused = loop {
        match client.process(process("alice")) {
            Ok(lane) => lanes.push(lane),
            Err(error) => break error,
        }
        assert!(lanes.len() < 200, "{FEW_FILES} descriptors made {} lanes", lanes.len());
    };
    assert!(
        matches!(refused, RequestError::Refused(ControlError::Host { .. } | ControlError::LimitReached { .. })),
        "{refused}"
    );
    for lane in &lanes {
        assert_eq!(lane.invoke("echo", "served").unwrap().as_slice(), b"served");
    }
    // No worker can be started either; the process is refused with the reason, or made once there is room.
    let created = client.create(process("bob"));
    assert!(created.is_ok() || matches!(created, Err(RequestError::Refused(_))), "{created:?}");
    let last = lanes.pop().unwrap();
    drop(lanes);
    eventually("lanes are opened again", || client.process(process("alice")).is_ok());
    eventually("processes are created again", || client.create(process("carol")).is_ok());
    assert_eq!(last.invoke("echo", "still").unwrap().as_slice(), b"still");
    drop((last, client));
    played.terminate();
    assert_eq!(played.end(), Some(42));
    stage.end();
}

#[test]
fn futures_and_threads_share_one_lane_to_several_workers() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let alice = &alice;
            scope.spawn(move || {
                for call in 0..200 {
                    let payload = format!("{thread}/{call}");
                    let answer = if thread % 2 == 0 {
                        alice.invoke("echo", payload.as_str())
                    } else {
                        stage::block_on(alice.call("echo").payload(payload.as_bytes()), PATIENCE)
                    };
                    assert_eq!(answer.unwrap().as_slice(), payload.as_bytes());
                }
            });
        }
    });
    drop((alice, client));
    stage.end();
}
