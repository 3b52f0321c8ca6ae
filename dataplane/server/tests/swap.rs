//! Processes that are swapped out and come back: with all they knew, whoever calls or sends meanwhile, in this server and the next.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::correspondence::{Correspondence, correspond};
use common::mails::{ask, processes};
use common::network::{address, listening};
use common::random::Random;
use common::sleeping::{Sum, put_to_sleep, put_to_sleep_for, sleeping, sleeps};
use common::stage::{Stage, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, is_running, stage};
use praas_client::{CallError, Client, ConnectOptions, ProcessState, RequestError, Route, Transport};
use praas_protocol::control::ControlError;
use praas_server::{Application, DriverChoice, Server, ServerHandle, TestClock};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, BlobName, Folder, MemoryBackend};

/// Swaps under load, unless the environment says otherwise.
const SWAPS: usize = 60;

/// A server on this storage.
fn start_on(stage: &Stage, backend: &Arc<MemoryBackend>) -> ServerHandle {
    let mut options = options(stage.path(), sleeping());
    options.storage = Some(Arc::clone(backend) as Arc<dyn Backend>);
    Server::start(options).unwrap()
}

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

/// A server inside this test whose processes sleep in memory that outlives it.
fn with_storage(application: Application) -> (Stage, Arc<MemoryBackend>) {
    let backend = Arc::new(MemoryBackend::new());
    let storage: Arc<dyn Backend> = Arc::clone(&backend) as _;
    (Stage::new(application, |options| options.storage = Some(storage)), backend)
}

#[test]
fn a_process_that_slept_has_all_it_knew_and_goes_on() {
    let (stage, backend) = with_storage(sleeping());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    for (key, bytes, fill) in [("small", 5, 1), ("page", 4096, 2), ("large", 700_000, 3), ("empty", 0, 0)] {
        ask(&alice, "keep", &format!("{key} {bytes} {fill}")).unwrap();
    }
    ask(&alice, "keep", "gone 100 9").unwrap();
    assert_eq!(ask(&alice, "forget", "gone").unwrap(), "true");
    let keys = ["small", "page", "large", "empty", "gone"];
    let known = |process| keys.map(|key| ask(process, "kept", key).unwrap());
    let before = known(&alice);
    assert!(before[2].starts_with("700000 of 3 true"), "{before:?}");
    let uid = ask(&alice, "uid", "").unwrap();
    for round in 0..4 {
        let pids = status(&client, "alice").worker_pids;
        client.swap(process("alice")).unwrap();
        assert!(sleeps(&client, "alice"));
        assert!(!pids.is_empty() && pids.iter().all(|pid| !is_running(*pid)), "its workers have ended");
        assert!(backend.used_bytes() > 0);
        // Again: it sleeps, and that is all that was wanted.
        client.swap(process("alice")).unwrap();
        if round % 2 == 0 {
            client.restore(process("alice")).unwrap();
            assert_eq!(status(&client, "alice").state, ProcessState::Active);
        }
        assert_eq!(known(&alice), before, "round {round}");
        assert_eq!(ask(&alice, "uid", "").unwrap(), uid);
        assert_eq!(ask(&alice, "add", "").unwrap(), (round + 1).to_string());
        // In its own mailbox, in a lane to it, and from one who slept meanwhile.
        ask(&bob, "send", &format!("alice numbers {round}")).unwrap();
        client.swap(process("bob")).unwrap();
    }
    assert_eq!(
        ask(&alice, "all", "bob numbers").unwrap(),
        "bob:0 bob:1 bob:2 bob:3",
        "messages that lay in lanes or mailbox came in their order"
    );
    let metrics = stage.server().metrics().unwrap();
    assert_eq!((metrics.swaps_out, metrics.swaps_failed, metrics.restores_failed), (8, 0, 0));
    drop((alice, bob, client));
    stage.end();
}

#[test]
fn of_many_objects_of_which_few_were_replaced_the_rest_stays_as_it_is_stored() {
    let (stage, backend) = with_storage(sleeping());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    let key = |number: usize| format!("object-{number:04}");
    let mut fills = vec![1; 300];
    for (number, fill) in fills.iter().enumerate() {
        ask(&alice, "keep", &format!("{} 40 {fill}", key(number))).unwrap();
    }
    client.swap(process("alice")).unwrap();
    let storage: Arc<dyn Backend> = Arc::clone(&backend) as _;
    let folder = backend.folders(None).unwrap()[0];
    for round in 2..5 {
        for number in [round, 100 + round, 7] {
            fills[number] = round;
            ask(&alice, "keep", &format!("{} 40 {round}", key(number))).unwrap();
        }
        client.swap(process("alice")).unwrap();
        let snapshot = Snapshot::open(&storage, &folder).unwrap().unwrap();
        let replaced: usize =
            (0..snapshot.pages()).map(|page| snapshot.stored_page(page).unwrap().replaced.len()).sum();
        assert_eq!(replaced, 2 * (round - 1) + 1, "round {round}");
        for (number, fill) in fills.iter().enumerate() {
            let kept = ask(&alice, "kept", &key(number)).unwrap();
            assert!(kept.starts_with(&format!("40 of {fill} true")), "{kept}");
        }
    }
    drop((alice, client));
    stage.end();
}

#[test]
fn whoever_needs_a_process_that_sleeps_wakes_it() {
    let (stage, _backend) = with_storage(sleeping());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    let sleep = || {
        assert!(put_to_sleep(&client, "alice"));
        assert!(sleeps(&client, "alice"));
    };
    sleep();
    ask(&bob, "send", "alice notes by-message").unwrap();
    eventually("a message has woken it", || status(&client, "alice").state == ProcessState::Active);
    sleep();
    let fresh = client.process(process("alice")).unwrap();
    assert_eq!(ask(&fresh, "recv", "bob notes 1000").unwrap(), "bob:by-message");
    sleep();
    client.restart(process("alice")).unwrap();
    sleep();
    let pending: Vec<_> = (0..8).map(|_| alice.call("add").deadline(PATIENCE).start().unwrap()).collect();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    assert_eq!(ask(&alice, "sum", "").unwrap(), "8");
    drop((alice, bob, fresh, client));
    stage.end();
}

#[test]
fn clients_over_the_network_wake_a_process_on_shared_connections_and_on_their_own() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let stage = Stage::new(sleeping(), |options| {
        listening(DriverChoice::Epoll)(options);
        options.storage = Some(Arc::clone(&backend));
    });
    let options = ConnectOptions::new().address(address(&stage).to_string()).transport(Transport::Network);
    let client = Client::connect(options.data_directory(stage.path())).unwrap();
    client.create(process("alice")).unwrap();
    let brokered = client.process(process("alice")).unwrap();
    let dedicated = client.dedicated_process(process("alice")).unwrap();
    assert_eq!(dedicated.route(), Route::Dedicated);
    let mut sum = 0;
    for _ in 0..3 {
        for alice in [&brokered, &dedicated] {
            sum += 1;
            assert_eq!(ask(alice, "add", "").unwrap(), sum.to_string());
            client.swap(process("alice")).unwrap();
            assert!(sleeps(&client, "alice"));
            sum += 1;
            assert_eq!(ask(alice, "add", "").unwrap(), sum.to_string());
        }
        client.swap(process("alice")).unwrap();
        let another = client.dedicated_process(process("alice")).unwrap();
        assert_eq!(ask(&another, "sum", "").unwrap(), sum.to_string());
    }
    drop((brokered, dedicated, client));
    stage.end();
}

#[test]
fn calls_and_messages_race_with_swaps_and_none_is_lost_or_comes_twice() {
    let mut application = sleeping();
    (application.workers_min, application.workers_max) = (2, 4);
    let (stage, _backend) = with_storage(application);
    let client = stage.client();
    let names = ["alice", "bob", "carol"];
    let opened = processes(&client, names);
    let correspondences = [
        Correspondence::new(&client, "alice", "bob", "first"),
        Correspondence::new(&client, "bob", "carol", "second"),
        Correspondence::new(&client, "carol", "carol", "third"),
    ];
    let sums: [Sum; 3] = Default::default();
    let over = AtomicBool::new(false);
    let swaps = std::env::var("TEST_SWAPS").map_or(SWAPS, |swaps| swaps.parse().unwrap());
    correspond(&correspondences, || {
        std::thread::scope(|scope| {
            for (sum, process) in sums.iter().zip(&opened) {
                let over = &over;
                scope.spawn(move || sum.add_until(over, process));
            }
            let end = scope.spawn(|| put_to_sleep_for(&client, &names, swaps, &mut Random::printed("swaps"))).join();
            over.store(true, Ordering::Relaxed);
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    });
    sums.iter().zip(&opened).for_each(|(sum, process)| sum.check(process));
    println!("{:?}", stage.server().metrics().unwrap());
    drop((correspondences, opened, client));
    stage.end();
}

#[test]
fn a_stopped_process_leaves_nothing_in_storage_awake_or_asleep() {
    let (stage, backend) = with_storage(sleeping());
    let client = stage.client();
    for is_awake in [false, true] {
        let [alice] = processes(&client, ["alice"]);
        ask(&alice, "keep", "large 300000 7").unwrap();
        client.swap(process("alice")).unwrap();
        if is_awake {
            client.restore(process("alice")).unwrap();
        }
        assert_eq!(backend.folders(None).unwrap().len(), 1);
        client.stop(process("alice")).unwrap();
        assert_eq!((backend.folders(None).unwrap().len(), backend.used_bytes()), (0, 0));
        assert!(client.list().unwrap().is_empty());
        let gone = ask(&alice, "sum", "").unwrap_err();
        assert!(matches!(gone, CallError::UnknownProcess { .. }), "{gone}");
        // A process of the same name knows nothing of it.
        let [again] = processes(&client, ["alice"]);
        assert_eq!(ask(&again, "kept", "large").unwrap(), "nothing");
        client.stop(process("alice")).unwrap();
    }
    drop(client);
    stage.end();
}

#[test]
fn a_server_that_ends_puts_its_processes_to_sleep_and_the_next_one_wakes_them() {
    let stage = Stage::empty();
    let backend = Arc::new(MemoryBackend::new());
    let start = || start_on(&stage, &backend);
    let mut server = start();
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&bob, "send", "alice notes before").unwrap();
    ask(&alice, "keep", "large 300000 7").unwrap();
    client.swap(process("bob")).unwrap();
    for round in 1..=3 {
        assert_eq!(ask(&alice, "add", "").unwrap(), round.to_string());
        server.shutdown().unwrap();
        server = start();
        let states: Vec<_> = client.list().unwrap().into_iter().map(|status| (status.process, status.state)).collect();
        let expected = ["alice", "bob"].map(|name| (process(name), ProcessState::Swapped));
        assert_eq!(states, expected);
    }
    assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
    assert_eq!(ask(&alice, "recv", "bob notes 1000").unwrap(), "bob:before");
    let taken = client.create(process("bob")).unwrap_err();
    assert!(matches!(taken, RequestError::Refused(ControlError::ProcessExists { .. })), "{taken}");
    drop((alice, bob, client));
    server.shutdown().unwrap();
    stage.end();
}

#[test]
fn what_belongs_to_no_process_is_removed_from_storage_at_the_next_start() {
    let stage = Stage::empty();
    let backend = Arc::new(MemoryBackend::new());
    let start = || start_on(&stage, &backend);
    let server = start();
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    server.shutdown().unwrap();
    let [own] = backend.folders(None).unwrap()[..] else { panic!("one process sleeps") };
    // First swap-outs that were cut off, of which one is of an earlier life; that of an application that is not served, and that of
    // another server, which may go on with it.
    let orphan = Folder { process: process("carol"), incarnation: 7 };
    let earlier = Folder { incarnation: own.incarnation - 1, ..own };
    let unserved = Folder { process: "other/alice".parse().unwrap(), incarnation: 7 };
    let anothers = Folder { process: process("dave"), incarnation: 7 };
    let number = backend.blobs(&own, None).unwrap()[0].blob.number + 7;
    for folder in [orphan, earlier, unserved] {
        backend.put(&BlobName { folder, number }, b"left").unwrap();
    }
    backend.put(&BlobName { folder: anothers, number: !number }, b"just written").unwrap();
    let server = start();
    eventually("the next server has removed what belongs to nobody", || {
        backend.folders(None).unwrap() == [own, anothers, unserved]
    });
    assert_eq!(ask(&alice, "add", "").unwrap(), "2");
    assert_eq!(client.list().unwrap().len(), 1);
    assert_eq!(server.metrics().unwrap().orphans_removed, 2);
    drop((alice, client));
    server.shutdown().unwrap();
    stage.end();
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing_of_who_sleeps_and_no_life_begins_before_an_earlier_one() {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    let stage = Stage::empty();
    let backend = Arc::new(MemoryBackend::new());
    let clock = TestClock::of_host();
    clock.give();
    let mut server = start_on(&stage, &backend);
    let client = stage.client();
    let mut lives = Vec::new();
    for jump_ms in [DAY_MS, -3 * DAY_MS, -400 * DAY_MS, 800 * DAY_MS] {
        let [alice] = processes(&client, ["alice"]);
        assert_eq!(ask(&alice, "add", "").unwrap(), "1", "it knows nothing of an earlier one");
        client.swap(process("alice")).unwrap();
        let [folder] = backend.folders(None).unwrap()[..] else { panic!("one process sleeps") };
        lives.push(folder.incarnation);
        clock.jump_ms(jump_ms);
        assert_eq!(ask(&alice, "add", "").unwrap(), "2", "{jump_ms}");
        clock.jump_ms(-jump_ms / 2);
        client.swap(process("alice")).unwrap();
        server.shutdown().unwrap();
        server = start_on(&stage, &backend);
        eventually("the client is connected again", || client.list().is_ok());
        assert_eq!(ask(&alice, "add", "").unwrap(), "3", "{jump_ms}");
        client.stop(process("alice")).unwrap();
        assert_eq!((backend.folders(None).unwrap().len(), backend.used_bytes()), (0, 0));
    }
    assert!(lives.is_sorted_by(|earlier, later| earlier < later), "{lives:?}");
    drop(client);
    server.shutdown().unwrap();
    stage.end();
}
