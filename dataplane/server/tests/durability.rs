//! Logged processes over a log that tests can hold: nobody is told of anything that is not durable, and whoever is told finds it
//! in the log.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::client::Client;
use common::journal::{self, logged};
use common::random::Random;
use common::stage::{Stage, process, status};
use common::wire_peer::{Said, WirePeer, tcp_pair};
use common::{ROLE, eventually, is_keeper_socket, lingering, stage};
use praas_client::{CallError, Pending, Process, ProcessState};
use praas_protocol::limits::CLAIMS_PER_WORKER;
use praas_protocol::{Durability, Outcome};
use praas_server::{Application, MemoryLog, Server, StartError};
use praas_shm::log_ring::Replay;

/// More than any test writes.
const LOG_BYTES: usize = 64 << 20;

/// Deadline of calls that are to find out that their server is gone.
const CALL_MAX: Duration = Duration::from_secs(2);

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") => journal::serve(),
        Ok("lingering server") if !is_keeper_socket(&std::io::stdin()) => lingering::play_server(logged()),
        _ => stage::play(),
    }
}

/// A server with a log, and process `alice`.
fn staged(application: Application) -> (Stage, MemoryLog) {
    let log = MemoryLog::new(LOG_BYTES);
    let stage = Stage::new(application, |options| options.memory_log = Some(log.clone()));
    stage.client().create(process("alice")).unwrap();
    (stage, log)
}

fn alice(stage: &Stage) -> Process {
    stage.client().process(process("alice")).unwrap()
}

fn start(process: &Process, function: &str, input: &str) -> Pending<'static> {
    process.start(function, input.as_bytes().to_vec()).unwrap()
}

fn text(reply: Result<praas_client::Reply, CallError>) -> String {
    String::from_utf8(reply.unwrap().as_slice().to_vec()).unwrap()
}

/// What the records of a process make.
fn replayed(log: &MemoryLog, name: &str) -> Replay {
    let (base, records) = log.records(process(name)).unwrap();
    assert_eq!(base, 0, "the log forgot something");
    let mut replay = Replay::default();
    replay.apply_all(&records).unwrap();
    replay
}

fn logged_value(replay: &Replay, key: &str) -> Option<String> {
    let object = replay.contents().objects.get(&(0, key.to_owned()))?;
    Some(String::from_utf8(object.value.clone()).unwrap())
}

#[test]
fn no_reply_comes_before_what_its_call_saw_is_durable_while_the_worker_goes_on() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    assert_eq!(text(alice.invoke("put", b"a 0")), "0");
    log.hold();
    let before = log.appended(process("alice")).unwrap();
    let puts: Vec<_> = (1..=10).map(|number| start(&alice, "put", &format!("a {number}"))).collect();
    let reads: Vec<_> =
        [("get", "a"), ("fail", ""), ("large", "b 3000")].map(|(name, input)| start(&alice, name, input)).into();
    eventually("one worker has run them all", || log.appended(process("alice")) >= Some(before + 12));
    std::thread::sleep(Duration::from_millis(50));
    assert!(puts.iter().chain(&reads).all(|call| !call.is_done()), "somebody was told of what is not durable");
    assert_eq!(log.durable(process("alice")), Some(before));
    log.release();
    for (number, call) in (1..=10).zip(puts) {
        assert_eq!(text(call.wait()), number.to_string());
    }
    let [get, fail, large] = <[Pending<'_>; 3]>::try_from(reads).ok().unwrap();
    assert_eq!(text(get.wait()), "10");
    assert!(matches!(fail.wait(), Err(CallError::FunctionFailed { code: 7, .. })));
    assert_eq!(large.wait().unwrap().as_slice(), vec![b'y'; 3000]);
    let replay = replayed(&log, "alice");
    assert_eq!(logged_value(&replay, "a").as_deref(), Some("10"));
    assert_eq!(logged_value(&replay, "failed").as_deref(), Some("yes"));
    drop(alice);
    stage.end();
}

#[test]
fn a_call_that_sees_nothing_new_is_answered_at_once_while_the_log_is_held() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    alice.invoke("put", b"a 1").unwrap();
    log.hold();
    assert_eq!(text(alice.invoke("get", b"a")), "1");
    drop(alice);
    stage.end();
}

#[test]
fn more_replies_than_a_worker_can_hold_make_it_wait_and_none_is_lost() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    alice.invoke("put", b"a 0").unwrap();
    log.hold();
    let before = log.appended(process("alice")).unwrap();
    let count = CLAIMS_PER_WORKER + 8;
    let calls: Vec<_> = (0..count).map(|number| start(&alice, "put", &format!("k{number} {number}"))).collect();
    let full = Some(before + CLAIMS_PER_WORKER as u64);
    eventually("all records are in use", || log.appended(process("alice")) >= full);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(log.appended(process("alice")), full, "all but one are held, one waits to be");
    assert!(calls.iter().all(|call| !call.is_done()));
    assert_eq!(stage.client().stats(process("alice")).unwrap().running, 1);
    log.release();
    for (number, call) in (0..count).zip(calls) {
        assert_eq!(text(call.wait()), number.to_string());
    }
    let replay = replayed(&log, "alice");
    assert!((0..count).all(|number| logged_value(&replay, &format!("k{number}")) == Some(number.to_string())));
    drop(alice);
    stage.end();
}

#[test]
fn a_log_that_fails_for_a_while_delays_replies_and_nothing_else() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    log.fail_syncs(20);
    for number in 0..5 {
        assert_eq!(text(alice.invoke("put", format!("a {number}").as_bytes())), number.to_string());
    }
    log.refuse(true);
    let call = start(&alice, "put", "a last");
    std::thread::sleep(Duration::from_millis(30));
    assert!(!call.is_done());
    log.refuse(false);
    assert_eq!(text(call.wait()), "last");
    assert_eq!(logged_value(&replayed(&log, "alice"), "a").as_deref(), Some("last"));
    drop(alice);
    stage.end();
}

#[test]
fn a_held_call_does_not_count_as_running_for_longer_than_allowed() {
    let mut application = logged();
    application.limits.call_ms_max = Some(100);
    let (stage, log) = staged(application);
    let alice = alice(&stage);
    let pids = status(&stage.client(), "alice").worker_pids;
    log.hold();
    let call = start(&alice, "put", "a 1");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(500) {
        assert!(!call.is_done());
        std::thread::sleep(Duration::from_millis(20));
    }
    log.release();
    assert_eq!(text(call.wait()), "1");
    assert_eq!(status(&stage.client(), "alice").worker_pids, pids, "its worker was killed");
    drop(alice);
    stage.end();
}

#[test]
fn callers_of_a_worker_that_dies_with_their_replies_are_told_and_nothing_is_lost_in_memory() {
    let (stage, log) = staged(logged());
    let client = stage.client();
    let alice = client.process(process("alice")).unwrap();
    for round in 0..5 {
        let pid = status(&client, "alice").worker_pids[0];
        log.hold();
        let before = log.appended(process("alice")).unwrap();
        let calls: Vec<_> = (0..6).map(|number| start(&alice, "put", &format!("k{number} {round}"))).collect();
        eventually("they have run", || log.appended(process("alice")) >= Some(before + 6));
        common::kill(pid);
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.wait().unwrap_err(), CallError::WorkerLost, "call {number} of round {round}");
        }
        log.release();
        for number in 0..6 {
            assert_eq!(text(alice.invoke("get", format!("k{number}").as_bytes())), round.to_string());
        }
    }
    let replay = replayed(&log, "alice");
    assert!((0..6).all(|number| logged_value(&replay, &format!("k{number}")).as_deref() == Some("4")));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_drain_waits_for_held_replies_and_ends_them_when_its_time_is_over() {
    for (drain_ms, is_released) in [(20_000, true), (300, false)] {
        let mut application = logged();
        application.limits.drain_ms = drain_ms;
        let (stage, log) = staged(application);
        let client = stage.client();
        let alice = client.process(process("alice")).unwrap();
        alice.invoke("put", b"a 0").unwrap();
        log.hold();
        let before = log.appended(process("alice")).unwrap();
        let call = start(&alice, "put", "a 1");
        eventually("it has run", || log.appended(process("alice")) > Some(before));
        std::thread::scope(|scope| {
            let stopping = scope.spawn(|| client.stop(process("alice")));
            eventually("it drains", || {
                status(&client, "alice").state == ProcessState::Draining || stopping.is_finished()
            });
            if is_released {
                std::thread::sleep(Duration::from_millis(50));
                assert!(!call.is_done() && !stopping.is_finished(), "the drain did not wait");
                log.release();
                assert_eq!(text(call.wait()), "1");
            } else {
                assert_eq!(call.wait().unwrap_err(), CallError::WorkerLost);
            }
            stopping.join().unwrap().unwrap();
        });
        drop((alice, client));
        stage.end();
    }
}

#[test]
fn a_message_and_a_nested_call_leave_a_logged_process_only_with_what_they_tell_of() {
    let (stage, log) = staged(logged());
    let client = stage.client();
    client.create(process("bob")).unwrap();
    let (alice, bob) = (client.process(process("alice")).unwrap(), client.process(process("bob")).unwrap());
    bob.invoke("put", b"k seen").unwrap();
    // Lanes are opened before.
    alice.invoke("send", b"bob first").unwrap();
    assert_eq!(text(bob.invoke("recv", b"10000")), "first");
    assert_eq!(text(alice.invoke("ask", b"bob k")), "seen");
    log.hold();
    let bobs = log.appended(process("bob")).unwrap();
    let before = log.appended(process("alice")).unwrap();
    let send = start(&alice, "send", "bob second");
    eventually("it has changed its state", || log.appended(process("alice")) > Some(before));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(log.appended(process("bob")), Some(bobs), "the message is there before what was put before it");
    assert!(!send.is_done());
    log.release();
    send.wait().unwrap();
    assert_eq!(replayed(&log, "bob").contents().messages.len(), 1, "an accepted message is in the receiver's log");
    assert_eq!(text(bob.invoke("recv", b"10000")), "second");
    assert_eq!(replayed(&log, "bob").contents().messages.len(), 0);
    log.hold();
    let ask = start(&alice, "ask", "bob k");
    std::thread::sleep(Duration::from_millis(50));
    assert!(!ask.is_done());
    log.release();
    assert_eq!(text(ask.wait()), "seen");
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn a_barrier_ends_when_all_before_it_is_durable_or_with_figures_at_its_deadline() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    assert_eq!(text(alice.invoke("barrier", b"20000")), "logged");
    log.hold();
    let call = start(&alice, "barrier", "30");
    eventually("it has put", || log.appended(process("alice")) == Some(2));
    std::thread::sleep(Duration::from_millis(60));
    let waits = start(&alice, "barrier", "20000");
    eventually("it has put", || log.appended(process("alice")) == Some(3));
    assert!(!waits.is_done());
    log.release();
    let error = call.wait().unwrap_err().to_string();
    assert!(error.contains("position 1 of 2"), "{error}");
    assert_eq!(text(waits.wait()), "logged");
    drop(alice);
    stage.end();
    // Without a log there is nothing to wait for.
    let mut application = logged();
    application.durability = Durability::Memory;
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    assert_eq!(text(alice.invoke("barrier", b"0")), "memory");
    drop((alice, client));
    stage.end();
}

#[test]
fn under_load_deaths_and_a_log_that_comes_and_goes_every_answer_is_of_what_is_durable() {
    let mut application = logged();
    (application.workers_min, application.workers_max) = (2, 2);
    let (stage, log) = staged(application);
    let client = stage.client();
    let mut random = Random::printed("deaths and a log that comes and goes");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (log, over) = (&log, &over);
                let alice = client.process(process("alice")).unwrap();
                scope.spawn(move || {
                    let (mut told, mut tried, mut lost) = (0_u64, 0_u64, 0);
                    while !over.load(Ordering::Relaxed) {
                        tried += 1;
                        match alice.invoke("bump", format!("k{caller} {tried}").as_bytes()) {
                            Ok(reply) => {
                                let position: u64 = text(Ok(reply)).parse().unwrap();
                                let durable = log.durable(process("alice")).unwrap();
                                assert!(durable >= position, "told of {position}, {durable} is durable");
                                told = tried;
                            }
                            Err(CallError::WorkerLost) => lost += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    (told, tried, lost)
                })
            })
            .collect();
        let (begun, mut kills) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(3) {
            match random.below(4) {
                0 => log.fail_syncs(3),
                1 => log.refuse(true),
                _ => log.hold(),
            }
            std::thread::sleep(Duration::from_millis(random.below(20)));
            if random.below(3) == 0
                && let Some(&pid) = status(&client, "alice").worker_pids.first()
            {
                common::kill(pid);
                kills += 1;
            }
            log.refuse(false);
            log.release();
            std::thread::sleep(Duration::from_millis(random.below(20)));
        }
        over.store(true, Ordering::Relaxed);
        let ends: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        println!("{kills} kills; told, tried, lost: {ends:?}");
        // Whoever sees the end is told of it when all is in the log.
        client.process(process("alice")).unwrap().invoke("get", b"k0").unwrap();
        let replay = replayed(&log, "alice");
        for (caller, (told, tried, _)) in ends.into_iter().enumerate() {
            assert!(told > 10, "{told}");
            let kept: u64 = logged_value(&replay, &format!("k{caller}")).unwrap().parse().unwrap();
            assert!((told..=tried).contains(&kept), "{kept} is kept, {told} was told of, {tried} tried");
            let alice = client.process(process("alice")).unwrap();
            assert_eq!(text(alice.invoke("get", format!("k{caller}").as_bytes())), kept.to_string());
        }
    });
    drop(client);
    stage.end();
}

#[test]
fn a_full_ring_delays_puts_and_they_go_on_when_the_log_does() {
    let (stage, log) = staged(logged());
    let alice = alice(&stage);
    log.refuse(true);
    // More than a ring has; values longer than a piece among them.
    let calls: Vec<_> = (0..12).map(|number| start(&alice, "fill", &format!("k{number} 500000"))).collect();
    std::thread::sleep(Duration::from_millis(200));
    assert!(calls.iter().all(|call| !call.is_done()));
    log.refuse(false);
    for call in calls {
        call.wait().unwrap();
    }
    let replay = replayed(&log, "alice");
    assert_eq!(replay.contents().objects.len(), 12);
    assert!(replay.contents().objects.values().all(|object| object.value == vec![b'x'; 500_000]));
    drop(alice);
    stage.end();
}

#[test]
fn junk_in_a_ring_fails_its_process_and_no_other() {
    let (stage, log) = staged(logged());
    let client = stage.client();
    client.create(process("bob")).unwrap();
    let (alice, bob) = (client.process(process("alice")).unwrap(), client.process(process("bob")).unwrap());
    alice.invoke("put", b"a 1").unwrap();
    bob.invoke("put", b"b 1").unwrap();
    let pid = status(&client, "alice").worker_pids[0];
    let ring = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("praas-log")));
    let Some(ring) = ring else {
        println!("skipped: this user may not look at the worker's descriptors");
        drop((alice, bob, client));
        return stage.end();
    };
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(ring).unwrap();
    file.write_all_at(&u64::MAX.to_le_bytes(), 128).unwrap();
    eventually("it has failed", || status(&client, "alice").state == ProcessState::Failed);
    let refused = client.process(process("alice")).map(drop).unwrap_err().to_string();
    assert!(refused.contains("log ring") && refused.contains("praas process stop"), "{refused}");
    assert_eq!(text(bob.invoke("put", b"b 2")), "2");
    assert_eq!(logged_value(&replayed(&log, "bob"), "b").as_deref(), Some("2"));
    client.stop(process("alice")).unwrap();
    drop((alice, bob, client, file));
    stage.end();
}

#[test]
fn an_answer_on_a_connection_of_the_workers_own_waits_for_the_log_too() {
    let (stage, log) = staged(logged());
    let token = std::fs::read_to_string(stage.path().join("token")).unwrap();
    let mut session = Client::network(stage.path(), token).unwrap();
    let (near, far) = tcp_pair();
    session.give(process("alice"), 7, &far, None).unwrap();
    drop(far);
    let mut peer = WirePeer::new(near);
    assert!(matches!(peer.next(), Said::HandedOver(_)));
    assert_eq!(peer.answered(8, "put", b"a 1"), (Outcome::Ok, 0, b"1".to_vec()));
    log.hold();
    let before = log.appended(process("alice")).unwrap();
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| peer.answered(9, "put", b"a 2"));
        eventually("it has run", || log.appended(process("alice")) > Some(before));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!caller.is_finished(), "somebody was told of what is not durable");
        log.release();
        assert_eq!(caller.join().unwrap(), (Outcome::Ok, 0, b"2".to_vec()));
    });
    drop((peer, session));
    stage.end();
}

#[test]
fn a_server_without_a_log_refuses_a_logged_application() {
    let stage = Stage::empty();
    let error = Server::start(stage::options(stage.path(), logged())).map(drop).unwrap_err();
    assert!(matches!(&error, StartError::NoLog { application } if application == "hello"), "{error}");
    assert!(error.to_string().contains("durability"), "{error}");
    stage.end();
}

#[test]
fn a_killed_server_loses_no_change_that_was_told_of_and_the_next_one_logs_on() {
    let stage = Stage::empty();
    let Some(mut server) = lingering::start_server(&stage) else { return stage.end() };
    let client = stage.client();
    client.create(process("alice")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    let mut told = 0_u64;
    for _ in 0..3 {
        let told_before = told;
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let mut told = told_before;
                loop {
                    match alice.call("put").payload(format!("a {}", told + 1).into_bytes()).deadline(CALL_MAX).send() {
                        Ok(_) => told += 1,
                        Err(_) => return told,
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(150));
            server.child.kill().unwrap();
            server.child.wait().unwrap();
            told = caller.join().unwrap();
        });
        server = lingering::start_server(&stage).unwrap();
        let mut found = 0;
        eventually("it answers again", || match alice.invoke("get", b"a") {
            Ok(reply) => {
                found = std::str::from_utf8(reply.as_slice()).unwrap().parse().unwrap();
                true
            }
            Err(_) => false,
        });
        assert!(found == told || found == told + 1, "{found} is there, {told} were told of");
        told = found;
    }
    assert!(told > 3, "{told}");
    drop((alice, client));
    lingering::end_cleanly(server, stage);
}
