//! What another server brings to the processes of this one: messages exactly once and in their order, calls in the name of its
//! processes, and what it is told of those here.

mod common;

use std::io::Write;
use std::time::Duration;

use common::bringing::{Fate, Watcher, message};
use common::lingering::end_cleanly;
use common::mails::{self, ask, mailing, processes};
use common::network::{listening, token, with_each_driver};
use common::remote::Remote;
use common::stage::{DIRECTORY, Played, Stage, options, process, status};
use common::{ROLE, eventually, is_keeper_socket, signals, stage};
use praas_function::{Call, FunctionResult};
use praas_protocol::control::ProcessState;
use praas_protocol::message::{AWAIT_ROOM_FUNCTION, DELIVER_FUNCTION, PUT_HEAD_BYTES_MAX, encode_room};
use praas_protocol::wire::{Cancel, Close, GoawayReason, Request};
use praas_protocol::{Durability, FunctionId, Outcome};
use praas_server::{DriverChoice, MemoryLog, Server};

/// The largest message that another server brings: a payload holds its head, too.
const LARGEST_BYTES: usize = (1 << 20) - PUT_HEAD_BYTES_MAX;

/// Entries of a message lane.
const LANE_ENTRIES: u64 = 1024;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => mails::functions(praas_function::Application::new())
            .function("caller", |call: &mut Call<'_>| {
                let context = call.context();
                format!("{} {}", context.principal(), context.is_caller_trusted())
            })
            .function("recv-bytes", |call: &mut Call<'_>| {
                let message = call.context().recv("alice", "k", Duration::ZERO)?;
                FunctionResult::Ok(message.bytes().to_vec())
            })
            .run(),
        Ok("listening server") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose keeper outlives it, with its address in a file.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory: std::path::PathBuf = std::env::var_os(DIRECTORY).unwrap().into();
    let mut options = options(&directory, mailing());
    options.keeper_linger = Duration::from_secs(60);
    listening(DriverChoice::Auto)(&mut options);
    let server = Server::start(options).unwrap();
    let address = server.network().unwrap().addresses()[0];
    std::fs::write(directory.join("address"), address.to_string()).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

fn listening_stage(driver: DriverChoice) -> Stage {
    Stage::new(mailing(), listening(driver))
}

/// Bytes that tell a message's number and length.
fn letter(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

#[test]
fn messages_of_all_sizes_are_accepted_once_and_received_in_their_order() {
    with_each_driver(|driver| {
        let stage = listening_stage(driver);
        let client = stage.client();
        let [bob] = processes(&client, ["bob"]);
        let mut remote = Remote::connect(&stage);
        let handle = remote.open_as("alice", "bob");
        let texts = ["one", "two", "three"];
        for (sequence, text) in (1..).zip(texts) {
            assert_eq!(remote.deliver(handle, &message("alice", sequence, "words", text.as_bytes())), Fate::Accepted);
        }
        assert_eq!(ask(&bob, "all", "alice words").unwrap(), "alice:one alice:two alice:three");
        // Of each way that a payload takes: inline, in a block, gathered from pieces, received into its block.
        for (sequence, bytes) in
            (10_u8..).zip([0, 100, 300, 5000, 16_000, 17_000, 65_000, 66_000, 500_000, LARGEST_BYTES])
        {
            let payload = message("alice", sequence.into(), "pictures", &vec![sequence; bytes]);
            assert_eq!(remote.deliver(handle, &payload), Fate::Accepted, "{bytes} bytes");
            match bytes {
                0 => assert_eq!(ask(&bob, "recv", "alice pictures 0").unwrap(), "alice:"),
                _ => {
                    let received = ask(&bob, "recv-large", "alice pictures").unwrap();
                    assert_eq!(received, format!("{bytes} of {sequence} true"));
                }
            }
        }
        // Everything that was accepted is known when it is repeated, received or not.
        assert_eq!(remote.deliver(handle, &message("alice", 20, "words", b"last")), Fate::Accepted);
        for sequence in (1..=3).chain(10..=20) {
            assert_eq!(remote.put(handle, &message("alice", sequence, "words", b"again")), Fate::Before, "{sequence}");
        }
        assert_eq!(remote.put(handle, &message("alice", 21, "words", b"put")), Fate::Accepted);
        assert_eq!(ask(&bob, "all", "* words").unwrap(), "alice:last alice:put");
        drop((remote, bob, client));
        stage.end();
    });
}

#[test]
fn payloads_that_come_in_pieces_are_whole_wherever_they_are_cut() {
    with_each_driver(|driver| {
        let stage = listening_stage(driver);
        let client = stage.client();
        let [bob] = processes(&client, ["bob"]);
        let mut remote = Remote::connect(&stage);
        let handle = remote.open_as("alice", "bob");
        assert_eq!(remote.deliver(handle, &message("alice", 1, "k", b"")), Fate::Accepted);
        assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), "alice:");
        let mut sequence = 1;
        for bytes in [50, 3000, 40_000] {
            for cut in [16, 17, 60, 100, 123, 130, 148, 149, 150, 165, 200, 400] {
                sequence += 1;
                let request_id = remote.id();
                let mut frame = Vec::new();
                let payload = message("alice", sequence, "k", &letter(sequence, bytes));
                Request::new(request_id, handle, FunctionId::of(DELIVER_FUNCTION), 0).encode(&payload, &mut frame);
                let (first, rest) = frame.split_at(cut.min(frame.len()));
                remote.stream.write_all(first).unwrap();
                // Whether or not the first piece is read alone, the outcome is the same.
                std::thread::sleep(Duration::from_millis(1));
                let (second, third) = rest.split_at(rest.len() / 2);
                remote.stream.write_all(second).unwrap();
                std::thread::sleep(Duration::from_millis(1));
                remote.stream.write_all(third).unwrap();
                let fate = remote.fate_of(request_id);
                assert_eq!(fate, Fate::Accepted, "{bytes} bytes, cut at {cut}");
                let received = bob.call("recv-bytes").deadline(common::PATIENCE).send().unwrap();
                assert!(received.as_slice() == letter(sequence, bytes), "{bytes} bytes, cut at {cut}");
            }
        }
        drop((remote, bob, client));
        stage.end();
    });
}

#[test]
fn a_receiver_that_is_slow_is_waited_for_by_its_own_sender_alone() {
    with_each_driver(|driver| {
        let stage = listening_stage(driver);
        let client = stage.client();
        let [bob, carol] = processes(&client, ["bob", "carol"]);
        let mut remote = Remote::connect(&stage);
        let (to_bob, to_carol) = (remote.open_as("alice", "bob"), remote.open_as("alice", "carol"));
        let mut accepted = 0;
        let of = |sequence: u64| message("alice", sequence, "numbers", sequence.to_string().as_bytes());
        while remote.deliver(to_bob, &of(accepted)) == Fate::Accepted {
            accepted += 1;
            if accepted == LANE_ENTRIES {
                break;
            }
        }
        // Full: what follows is refused, too, even when there is room in between.
        assert_eq!(remote.deliver_once(to_bob, &of(accepted)), Fate::Full);
        let next = remote.start_next(to_bob, &of(accepted + 1));
        assert_eq!(remote.fate_of(next), Fate::Full);
        let waiting = remote.start_within(to_bob, AWAIT_ROOM_FUNCTION, &encode_room(100), common::PATIENCE);
        for sequence in 0..50 {
            assert_eq!(remote.deliver(to_carol, &message("alice", sequence, "k", b"hello")), Fate::Accepted);
        }
        assert_eq!(ask(&bob, "recv", "alice numbers 0").unwrap(), "alice:0");
        let (response, payload) = remote.end_of(waiting);
        assert_eq!((response.outcome(), payload.len()), (Some(Outcome::Ok), 0));
        assert_eq!(ask(&bob, "recv", "alice numbers 0").unwrap(), "alice:1");
        let next = remote.start_next(to_bob, &of(accepted + 1));
        assert_eq!(remote.fate_of(next), Fate::Full, "it would overtake the one that was refused");
        assert_eq!(remote.deliver(to_bob, &of(accepted)), Fate::Accepted);
        let next = remote.start_next(to_bob, &of(accepted + 1));
        assert_eq!(remote.fate_of(next), Fate::Accepted);
        let all: Vec<_> = (2..=accepted + 1).map(|number| format!("alice:{number}")).collect();
        assert_eq!(ask(&bob, "all", "alice numbers").unwrap(), all.join(" "));
        drop((remote, bob, carol, client));
        stage.end();
    });
}

#[test]
fn large_messages_find_room_as_the_receiver_takes_them() {
    let stage = listening_stage(DriverChoice::Auto);
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    let (mut refused, mut received) = (0, 0);
    for sequence in 1..=60_u8 {
        let payload = message("alice", sequence.into(), "pictures", &vec![sequence; 700_000]);
        loop {
            match remote.deliver_once(handle, &payload) {
                Fate::Accepted => break,
                Fate::Busy => assert_eq!(remote.await_room(handle, payload.len()), Outcome::Ok),
                Fate::Full => {
                    refused += 1;
                    received += 1;
                    let text = ask(&bob, "recv-large", "alice pictures").unwrap();
                    assert_eq!(text, format!("700000 of {received} true"));
                    assert_eq!(remote.await_room(handle, payload.len()), Outcome::Ok);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(refused > 10, "{refused}");
    while received < 60 {
        received += 1;
        assert_eq!(ask(&bob, "recv-large", "alice pictures").unwrap(), format!("700000 of {received} true"));
    }
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn nothing_of_a_link_that_was_replaced_is_published() {
    with_each_driver(|driver| {
        let stage = listening_stage(driver);
        let client = stage.client();
        let [bob] = processes(&client, ["bob"]);
        let (mut old, mut bulk) = (Remote::connect(&stage), Remote::connect(&stage));
        let (small, large) = (old.open_as("alice", "bob"), bulk.open_as("alice", "bob"));
        assert_eq!(old.deliver(small, &message("alice", 1, "k", b"one")), Fate::Accepted);
        let payload = message("alice", 2, "k", &[2; 300_000]);
        assert_eq!(bulk.deliver(large, &payload), Fate::Accepted, "the lane is large enough from here on");
        assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), "alice:one");
        assert_eq!(ask(&bob, "recv-large", "alice k").unwrap(), "300000 of 2 true");
        // Half of a message is there when the link breaks; the next one puts it.
        let request_id = bulk.id();
        let mut frame = Vec::new();
        let payload = message("alice", 3, "k", &[3; 300_000]);
        Request::new(request_id, large, FunctionId::of(DELIVER_FUNCTION), 0).encode(&payload, &mut frame);
        let (half, rest) = frame.split_at(frame.len() / 2);
        bulk.stream.write_all(half).unwrap();
        let mut new = Remote::connect(&stage);
        let handle = new.try_open_as(2, "alice", "bob").unwrap().handle;
        assert_eq!(new.put(handle, &payload), Fate::Accepted);
        bulk.stream.write_all(rest).unwrap();
        assert_eq!(bulk.fate_of(request_id), Fate::Other(Outcome::Unavailable));
        assert_eq!(bulk.farewell().0, GoawayReason::Protocol);
        assert_eq!(old.deliver_once(small, &message("alice", 4, "k", b"late")), Fate::Other(Outcome::Unavailable));
        assert_eq!(old.farewell().0, GoawayReason::Protocol);
        // Nor does it come back.
        let mut late = Remote::connect(&stage);
        assert!(late.try_open_as(1, "alice", "bob").is_err());
        assert_eq!(late.farewell().0, GoawayReason::Protocol);
        assert_eq!(new.deliver(handle, &message("alice", 4, "k", b"four")), Fate::Accepted);
        assert_eq!(ask(&bob, "recv-large", "alice k").unwrap(), "300000 of 3 true");
        assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:four");
        // One connection shows one link.
        assert!(new.try_open_as(3, "alice", "bob").is_err());
        assert_eq!(new.farewell().0, GoawayReason::Protocol);
        drop((old, bulk, new, late, bob, client));
        stage.end();
    });
}

#[test]
fn calls_come_in_the_name_of_the_process_that_they_are_of() {
    with_each_driver(|driver| {
        let stage = listening_stage(driver);
        let client = stage.client();
        drop(processes(&client, ["bob"]));
        let mut remote = Remote::connect(&stage);
        let (alice, carol) = (remote.open_as("alice", "bob"), remote.open_as("carol", "bob"));
        for _ in 0..3 {
            assert_eq!(remote.call(alice, "caller", b""), (Outcome::Ok, b"alice true".to_vec()));
            assert_eq!(remote.call(carol, "caller", b""), (Outcome::Ok, b"carol true".to_vec()));
        }
        // Ordinary handles of the same token are the token's holder's, as ever.
        let plain = remote.open(process("bob"));
        assert_eq!(remote.call(plain, "caller", b""), (Outcome::Ok, b"local true".to_vec()));
        // Many at a time, the lane of one just being opened.
        let dave = remote.open_as("dave", "bob");
        let ids: Vec<_> = (0..100).map(|_| remote.start(dave, "caller", b"")).collect();
        for id in ids {
            assert_eq!(remote.end_of(id).1, b"dave true");
        }
        // A process that is not there, and then is.
        let nobody = remote.open_as("alice", "late");
        assert_eq!(remote.call(nobody, "caller", b"").0, Outcome::UnknownProcess);
        assert_eq!(remote.call(nobody, "caller", &[1; 100_000]).0, Outcome::UnknownProcess);
        client.create(process("late")).unwrap();
        assert_eq!(remote.call(nobody, "caller", b""), (Outcome::Ok, b"alice true".to_vec()));
        client.stop(process("late")).unwrap();
        eventually("the handle finds it gone", || remote.call(nobody, "caller", b"").0 == Outcome::UnknownProcess);
        drop((remote, client));
        stage.end();
    });
}

#[test]
fn calls_to_a_process_that_does_not_answer_keep_up_no_others() {
    let stage = listening_stage(DriverChoice::Auto);
    let client = stage.client();
    let [bob, carol] = processes(&client, ["bob", "carol"]);
    let mut remote = Remote::connect(&stage);
    let (to_bob, to_carol) = (remote.open_as("alice", "bob"), remote.open_as("alice", "carol"));
    // Its only worker attaches no lane while it is stopped.
    let worker = status(&client, "bob").worker_pids[0];
    signals::stop(worker);
    let waiting: Vec<_> = [0, 100, 5000, 60_000].map(|bytes| remote.start(to_bob, "all", &vec![b'x'; bytes])).into();
    let cancelled = remote.start(to_bob, "all", b"* k");
    for _ in 0..20 {
        assert_eq!(remote.call(to_carol, "caller", b""), (Outcome::Ok, b"alice true".to_vec()));
    }
    remote.send(|out| Cancel { request_id: cancelled }.encode(out));
    assert_eq!(remote.end_of(cancelled).0.outcome(), Some(Outcome::Cancelled));
    // More than its lane takes at a time, as soon as it is there.
    let many: Vec<_> = (0..200).map(|_| remote.start(to_bob, "caller", &[0; 20_000])).collect();
    signals::resume(worker);
    for id in waiting {
        assert!(remote.end_of(id).0.outcome().is_some());
    }
    for id in many {
        assert_eq!(remote.end_of(id).1, b"alice true");
    }
    // What is set aside goes with its connection.
    signals::stop(worker);
    let dave = remote.open_as("dave", "bob");
    for _ in 0..50 {
        remote.start(dave, "caller", &[0; 1000]);
    }
    drop(remote);
    signals::resume(worker);
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "");
    drop((bob, carol, client));
    stage.end();
}

#[test]
fn a_message_to_a_process_that_is_not_there_is_refused_by_name_and_one_that_comes_is_reached() {
    let stage = listening_stage(DriverChoice::Auto);
    let client = stage.client();
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    let first = message("alice", 1, "k", b"one");
    assert_eq!(remote.deliver(handle, &first), Fate::Other(Outcome::UnknownProcess));
    assert_eq!(remote.put(handle, &first), Fate::Other(Outcome::UnknownProcess));
    let [bob] = processes(&client, ["bob"]);
    eventually("it is found", || remote.deliver(handle, &first) == Fate::Accepted);
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:one");
    let id = remote.start(handle, AWAIT_ROOM_FUNCTION, &encode_room((1 << 20) + 1));
    assert_eq!(remote.end_of(id).0.outcome(), Some(Outcome::PayloadTooLarge), "no lane takes that");
    assert_eq!(remote.deliver(handle, &message("alice", 3, "k", b"two")), Fate::Accepted);
    client.stop(process("bob")).unwrap();
    eventually("it is gone", || {
        remote.deliver(handle, &message("alice", 4, "k", b"")) == Fate::Other(Outcome::UnknownProcess)
    });
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn who_waits_for_room_is_answered_at_its_deadline_when_it_cancels_and_when_its_handle_goes() {
    // One shard: all connections of a token share their lanes there.
    let stage = Stage::new(mailing(), |options| {
        listening(DriverChoice::Auto)(options);
        options.network_shards = 1;
    });
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    for sequence in 1..=LANE_ENTRIES {
        assert_eq!(remote.deliver(handle, &message("alice", sequence, "k", b"")), Fate::Accepted);
    }
    let soon = remote.start_within(handle, AWAIT_ROOM_FUNCTION, &encode_room(1), Duration::from_millis(30));
    assert_eq!(remote.end_of(soon).0.outcome(), Some(Outcome::DeadlineExceeded));
    let cancelled = remote.start(handle, AWAIT_ROOM_FUNCTION, &encode_room(1));
    let closed = remote.start(handle, AWAIT_ROOM_FUNCTION, &encode_room(1));
    remote.send(|out| Cancel { request_id: cancelled }.encode(out));
    assert_eq!(remote.end_of(cancelled).0.outcome(), Some(Outcome::Cancelled));
    remote.send(|out| Close { handle }.encode(out));
    assert_eq!(remote.end_of(closed).0.outcome(), Some(Outcome::Cancelled));
    // A connection that just ends leaves nothing behind; another goes on, by the same lane.
    let again = remote.open_as("alice", "bob");
    for _ in 0..20 {
        remote.start(again, AWAIT_ROOM_FUNCTION, &encode_room(1));
    }
    drop(remote);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    assert_eq!(remote.deliver_once(handle, &message("alice", 2000, "k", b"")), Fate::Full);
    let waiting = remote.start(handle, AWAIT_ROOM_FUNCTION, &encode_room(1));
    assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), "alice:");
    assert_eq!(remote.end_of(waiting).0.outcome(), Some(Outcome::Ok));
    assert_eq!(remote.deliver(handle, &message("alice", 2000, "k", b"")), Fate::Accepted);
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn another_server_is_told_of_processes_as_they_come_change_and_go() {
    let stage = listening_stage(DriverChoice::Auto);
    let client = stage.client();
    let names: Vec<_> = (0..5).map(|number| format!("p{number}")).collect();
    names.iter().for_each(|name| client.create(process(name)).unwrap());
    let mut remote = Remote::connect(&stage);
    let mut watcher = Watcher::default();
    watcher.look(&mut remote);
    let active = names.iter().map(|name| (name.parse().unwrap(), ProcessState::Active)).collect();
    assert_eq!(watcher.known, active);
    // Nothing is said until something changes.
    let waiting = watcher.ask(&mut remote);
    client.create(process("late")).unwrap();
    let came = remote.answer_to(waiting);
    watcher.hear(&came);
    let mut states = vec![watcher.known[&"late".parse().unwrap()]];
    while states.last() != Some(&ProcessState::Active) {
        watcher.look(&mut remote);
        states.push(watcher.known[&"late".parse().unwrap()]);
    }
    client.stop(process("p0")).unwrap();
    while watcher.known.contains_key(&"p0".parse().unwrap()) {
        watcher.look(&mut remote);
    }
    assert_eq!(watcher.known.len(), 5);
    // A question that waits goes with its connection, and another connection is told all there is.
    for _ in 0..20 {
        let mut other = Remote::connect(&stage);
        let mut stranger = Watcher::default();
        stranger.look(&mut other);
        assert_eq!(stranger.known, watcher.known);
        stranger.ask(&mut other);
    }
    drop((remote, client));
    stage.end();
}

#[test]
fn what_is_brought_to_a_logged_process_is_accepted_when_it_is_durable_once_and_in_order() {
    with_each_driver(|driver| {
        let mut application = mailing();
        application.durability = Durability::Logged;
        let log = MemoryLog::new(64 << 20);
        let stage = Stage::new(application, |options| {
            listening(driver)(options);
            options.memory_log = Some(log.clone());
        });
        let client = stage.client();
        let [bob] = processes(&client, ["bob"]);
        let mut remote = Remote::connect(&stage);
        let handle = remote.open_as("alice", "bob");
        assert_eq!(remote.deliver(handle, &message("alice", 1, "k", b"1")), Fate::Accepted);
        log.hold();
        let before = log.appended(process("bob")).unwrap();
        let id = remote.start(handle, DELIVER_FUNCTION, &message("alice", 2, "k", b"2"));
        eventually("it is in the mailbox", || log.appended(process("bob")) > Some(before));
        // One at a time: what follows is not to overtake it, and is refused for now.
        let next = remote.start_next(handle, &message("alice", 3, "k", b"3"));
        assert_eq!(remote.fate_of(next), Fate::Busy);
        remote.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(remote.stream.peek(&mut [0]).is_err(), "it was accepted before it is durable");
        remote.stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        log.release();
        assert_eq!(remote.fate_of(id), Fate::Accepted);
        assert_eq!(log.durable(process("bob")), log.appended(process("bob")));
        for (sequence, bytes) in (3..).zip([1, 300, 5000, 17_000, 66_000, 500_000]) {
            let payload = message("alice", sequence, "k", &letter(sequence, bytes));
            assert_eq!(remote.deliver(handle, &payload), Fate::Accepted, "{bytes} bytes");
        }
        for sequence in 1..=8 {
            assert_eq!(remote.put(handle, &message("alice", sequence, "k", b"again")), Fate::Before, "{sequence}");
        }
        for text in ["alice:1", "alice:2"] {
            assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), text);
        }
        for (sequence, bytes) in (3..).zip([1, 300, 5000, 17_000, 66_000, 500_000]) {
            let received = bob.call("recv-bytes").deadline(common::PATIENCE).send().unwrap();
            assert!(received.as_slice() == letter(sequence, bytes), "{bytes} bytes");
        }
        assert_eq!(ask(&bob, "all", "* k").unwrap(), "");
        drop((remote, bob, client));
        stage.end();
    });
}

#[test]
fn messages_to_a_logged_process_wait_for_no_calls_and_follow_none_that_was_not_put() {
    let mut application = mailing();
    application.durability = Durability::Logged;
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |options| {
        listening(DriverChoice::Auto)(options);
        options.memory_log = Some(MemoryLog::new(64 << 20));
    });
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::connect(&stage);
    let handle = remote.open_as("alice", "bob");
    // A call of the same sender, which ends with the message that it waits for.
    let call = remote.start(handle, "recv", b"alice k 20000");
    for sequence in 1..=3 {
        assert_eq!(remote.deliver(handle, &message("alice", sequence, "k", b"word")), Fate::Accepted, "{sequence}");
    }
    let (response, payload) = remote.end_of(call);
    assert_eq!((response.outcome(), payload.as_slice()), (Some(Outcome::Ok), &b"alice:word"[..]));
    // What is sent behind one that could not be put is refused until its sender knows.
    let spoiled = remote.start(handle, DELIVER_FUNCTION, b"no message");
    assert!(matches!(remote.fate_of(spoiled), Fate::Failed(_)));
    let behind = remote.start_next(handle, &message("alice", 4, "k", b"word"));
    assert_eq!(remote.fate_of(behind), Fate::Full);
    assert_eq!(remote.deliver(handle, &message("alice", 4, "k", b"word")), Fate::Accepted);
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:word alice:word alice:word");
    drop((remote, bob, client));
    stage.end();
}

#[test]
fn what_was_accepted_outlives_the_server_and_is_known_to_the_next_one() {
    let stage = Stage::empty();
    let Some(server) = Played::start("listening server", stage.path(), &[]) else { return stage.end() };
    let address = || std::fs::read_to_string(stage.path().join("address")).unwrap().parse().unwrap();
    let client = stage.client();
    let [bob] = processes(&client, ["bob"]);
    let mut remote = Remote::with_token(address(), &token(&stage)).0;
    let handle = remote.open_as("alice", "bob");
    for sequence in 1..=5 {
        let text = sequence.to_string();
        assert_eq!(remote.deliver(handle, &message("alice", sequence, "k", text.as_bytes())), Fate::Accepted);
    }
    assert_eq!(remote.deliver(handle, &message("alice", 6, "k", &[6; 100_000])), Fate::Accepted);
    // The first is taken, the second noted with it; the others lie in lanes.
    assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), "alice:1");
    for sequence in 7..=9 {
        assert_eq!(remote.deliver(handle, &message("alice", sequence, "k", b"late")), Fate::Accepted);
    }
    let before = client.server_incarnation();
    server.kill();
    drop(remote);
    let next = Played::start("listening server", stage.path(), &[]).unwrap();
    eventually("the client is connected again", || client.list().is_ok() && client.server_incarnation() != before);
    let mut remote = Remote::with_token(address(), &token(&stage)).0;
    let handle = remote.open_as("alice", "bob");
    // Its sender does not know what became of the last ones: none of them comes twice.
    for sequence in 7..=10 {
        let fate = remote.put(handle, &message("alice", sequence, "k", b"late"));
        assert_eq!(fate, if sequence == 10 { Fate::Accepted } else { Fate::Before }, "{sequence}");
    }
    assert_eq!(remote.deliver(handle, &message("alice", 11, "k", b"new")), Fate::Accepted);
    for sequence in 2..=5 {
        assert_eq!(ask(&bob, "recv", "alice k 0").unwrap(), format!("alice:{sequence}"));
    }
    assert_eq!(ask(&bob, "recv-large", "alice k").unwrap(), "100000 of 6 true");
    assert_eq!(ask(&bob, "all", "* k").unwrap(), "alice:late alice:late alice:late alice:late alice:new");
    drop((remote, bob, client));
    end_cleanly(next, stage);
}
