//! Calls of remote clients, over real sockets, through shards and lanes to real workers, with either driver.

mod common;

use common::network::{address, listening, stage_with_alice, with_each_driver};
use common::random::Random;
use common::remote::Remote;
use common::stage::{Stage, application, process};
use common::{eventually, functions, stage};
use praas_protocol::wire::{Cancel, Close, Frame, GoawayReason, Ping, Request};
use praas_protocol::{FunctionId, Outcome};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

#[test]
fn a_remote_client_is_welcomed_opens_a_process_and_is_answered() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let (mut remote, welcomed) = Remote::greeted(&stage);
        assert_eq!(welcomed.payload_bytes_max, 1 << 20);
        assert!(welcomed.window_bytes >= u64::from(welcomed.payload_bytes_max) && welcomed.in_flight_max >= 64);
        assert_eq!(welcomed.socket_path, stage.server().socket_path().to_str().unwrap());
        assert_ne!(welcomed.host_id, [0; 16]);
        let alice = remote.open(process("alice"));
        for bytes in [0, 1, 64, 65, 96, 97, 1000, 20_000] {
            let sent = vec![7; bytes];
            assert_eq!(remote.call(alice, "echo", &sent), (Outcome::Ok, sent), "{bytes} bytes");
        }
        assert_eq!(remote.call(alice, "no such function", b"").0, Outcome::UnknownFunction);
        assert_eq!(remote.call(alice, "panic", b"").0, Outcome::FunctionPanicked);
        remote.send(|out| Ping { opaque: 77 }.encode(out));
        let pong = remote.next().unwrap();
        assert!(matches!(pong.frame(), Frame::Pong(pong) if pong.opaque == 77 && pong.sent_ns >= pong.received_ns));
        drop(remote);
        stage.end();
    });
}

#[test]
fn calls_sent_at_once_are_all_answered_and_slow_ones_hold_up_nobody() {
    with_each_driver(|driver| {
        let mut application = application();
        (application.workers_min, application.workers_max) = (2, 2);
        let stage = Stage::new(application, listening(driver));
        drop(stage.with_process("alice"));
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        let slow = remote.start(alice, "sleep", b"300");
        let mut burst = Vec::new();
        let ids: Vec<u64> = (0..200).map(|_| remote.id()).collect();
        for id in &ids {
            Request::new(*id, alice, FunctionId::of("echo"), 0).encode(&id.to_le_bytes(), &mut burst);
        }
        remote.send(|out| *out = burst);
        for id in ids {
            let (response, payload) = remote.end_of(id);
            assert_eq!((response.outcome(), payload), (Some(Outcome::Ok), id.to_le_bytes().to_vec()));
        }
        assert_eq!(remote.end_of(slow).0.outcome(), Some(Outcome::Ok));
        drop(remote);
        stage.end();
    });
}

#[test]
fn large_payloads_arrive_whole_both_ways_whatever_their_neighbours() {
    with_each_driver(|driver| {
        let mut random = Random::printed("payloads");
        let mut application = application();
        application.limits.payload_bytes_max = 8 << 20;
        let stage = Stage::new(application, listening(driver));
        drop(stage.with_process("alice"));
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        for bytes in [16_384, 65_536, 1 << 20, (1 << 20) + 1, 8 << 20] {
            let sent = random.bytes(bytes);
            let before = remote.start(alice, "echo", b"before");
            let call = remote.start(alice, "echo", &sent);
            let after = remote.start(alice, "echo", b"after");
            assert_eq!(remote.end_of(before).1, b"before");
            let (response, payload) = remote.end_of(call);
            assert_eq!(response.outcome(), Some(Outcome::Ok), "{bytes} bytes");
            assert!(payload == sent, "{bytes} bytes came back changed");
            assert_eq!(remote.end_of(after).1, b"after");
        }
        let too_large = remote.start(alice, "grow", b"9000000");
        assert_eq!(remote.end_of(too_large).0.outcome(), Some(Outcome::PayloadTooLarge));
        drop(remote);
        stage.end();
    });
}

#[test]
fn many_clients_share_a_lane_and_get_their_own_answers() {
    with_each_driver(|driver| {
        let mut application = application();
        application.limits.payload_bytes_max = 128 << 10;
        let stage = Stage::new(application, listening(driver));
        drop(stage.with_process("alice"));
        std::thread::scope(|scope| {
            for client in 0..8_u64 {
                let stage = &stage;
                scope.spawn(move || {
                    let mut random = Random::new(client);
                    let mut remote = Remote::connect(stage);
                    let alice = remote.open(process("alice"));
                    for _ in 0..12 {
                        let sent: Vec<_> = (0..8)
                            .map(|_| {
                                let bytes = usize::try_from(random.below(60_000)).unwrap();
                                let sent = random.bytes(bytes);
                                (remote.start(alice, "echo", &sent), sent)
                            })
                            .collect();
                        for (id, sent) in sent {
                            let (response, payload) = remote.end_of(id);
                            assert_eq!(response.outcome(), Some(Outcome::Ok));
                            assert!(payload == sent, "another's answer");
                        }
                    }
                });
            }
        });
        eventually("the lanes are given back", || stage.server().network().unwrap().metrics().lanes_open == 0);
        stage.end();
    });
}

#[test]
fn a_cancelled_call_is_answered_once_and_its_credit_comes_back() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        let running = remote.start(alice, "sleep", b"300");
        let behind = remote.start(alice, "echo", b"behind");
        for id in [behind, running] {
            remote.send(|out| Cancel { request_id: id }.encode(out));
            assert_eq!(remote.end_of(id).0.outcome(), Some(Outcome::Cancelled));
        }
        // Of an answered call, it means nothing.
        remote.send(|out| Cancel { request_id: behind }.encode(out));
        assert_eq!(remote.call(alice, "echo", b"next"), (Outcome::Ok, b"next".to_vec()));
        drop(remote);
        stage.end();
    });
}

#[test]
fn a_client_may_have_as_much_in_flight_as_it_was_told_and_no_more() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let (mut remote, welcomed) = Remote::greeted(&stage);
        let alice = remote.open(process("alice"));
        let slow = remote.start(alice, "sleep", b"200");
        let ids: Vec<_> = (1..welcomed.in_flight_max).map(|_| remote.start(alice, "echo", b"")).collect();
        for id in ids.into_iter().chain([slow]) {
            assert_eq!(remote.end_of(id).0.outcome(), Some(Outcome::Ok));
        }
        let mut burst = Vec::new();
        for _ in 0..=welcomed.in_flight_max {
            Request::new(remote.id(), alice, FunctionId::of("sleep"), 0).encode(b"200", &mut burst);
        }
        remote.send(|out| *out = burst);
        assert_eq!(remote.farewell().0, GoawayReason::Limit);
        remote.await_end();
        drop(remote);
        stage.end();
    });
}

#[test]
fn calls_wait_for_room_in_the_lane_and_are_refused_at_their_deadline() {
    with_each_driver(|driver| {
        let mut application = application();
        application.limits.payload_bytes_max = 1 << 20;
        let stage = Stage::new(application, |options| {
            listening(driver)(options);
            options.network_shards = 1;
        });
        drop(stage.with_process("alice"));
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        // The request half of the lane takes one such payload; its block is free when the call is answered.
        let sleep = remote.start(alice, "hold", b"600");
        let large = vec![1; 1 << 20];
        let first = remote.start(alice, "digest", &large);
        let second = remote.start(alice, "digest", &large);
        let after = remote.start(alice, "echo", b"after");
        let mut hasty = Remote::connect(&stage);
        let handle = hasty.open(process("alice"));
        let request_id = hasty.id();
        hasty.send(|out| Request::new(request_id, handle, FunctionId::of("digest"), 50_000_000).encode(&large, out));
        assert_eq!(hasty.end_of(request_id).0.outcome(), Some(Outcome::Overloaded));
        assert_eq!(hasty.call(handle, "echo", b"and on"), (Outcome::Ok, b"and on".to_vec()));
        for id in [sleep, first, second, after] {
            assert_eq!(remote.end_of(id).0.outcome(), Some(Outcome::Ok));
        }
        drop((remote, hasty));
        stage.end();
    });
}

#[test]
fn what_follows_a_call_that_waits_for_room_is_neither_lost_nor_changed() {
    with_each_driver(|driver| {
        let mut random = Random::printed("what follows");
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        // Nothing is claimed for a while: soon the lane is full of payloads.
        let mut bytes = Vec::new();
        Request::new(remote.id(), alice, FunctionId::of("sleep"), 0).encode(b"300", &mut bytes);
        let mut sums = Vec::new();
        for _ in 0..120 {
            let count = usize::try_from(random.below(40_000)).unwrap();
            let payload = random.bytes(count);
            let id = remote.id();
            Request::new(id, alice, FunctionId::of("digest"), 0).encode(&payload, &mut bytes);
            sums.push((id, functions::digest(&payload).to_le_bytes()));
            let id = remote.id();
            Request::new(id, alice, FunctionId::of("digest"), 0).encode(b"small", &mut bytes);
            sums.push((id, functions::digest(b"small").to_le_bytes()));
        }
        let mut writer = remote.stream.try_clone().unwrap();
        let written = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes).is_ok());
        for (id, sum) in sums {
            let (response, payload) = remote.end_of(id);
            assert_eq!((response.outcome(), payload), (Some(Outcome::Ok), sum.to_vec()), "call {id}");
        }
        assert!(written.join().unwrap());
        drop(remote);
        stage.end();
    });
}

#[test]
fn handles_are_given_back_and_a_process_that_was_made_anew_is_opened_anew() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let client = stage.client();
        let mut remote = Remote::connect(&stage);
        let first = remote.open(process("alice"));
        let second = remote.open(process("alice"));
        assert_ne!(first, second);
        remote.send(|out| Close { handle: first }.encode(out));
        assert_eq!(remote.call(second, "echo", b"2").0, Outcome::Ok);
        client.stop(process("alice")).unwrap();
        let id = remote.start(second, "echo", b"");
        let (response, _) = remote.end_of(id);
        assert_eq!((response.outcome(), response.detail), (Some(Outcome::Unavailable), 3));
        assert_eq!(remote.try_open(process("alice")).unwrap_err().refused_code(), 5);
        client.create(process("alice")).unwrap();
        let third = remote.open(process("alice"));
        assert_eq!(remote.call(third, "echo", b"3"), (Outcome::Ok, b"3".to_vec()));
        assert_eq!(remote.call(second, "echo", b"").0, Outcome::Unavailable);
        remote.start(first, "echo", b"");
        assert_eq!(remote.farewell().0, GoawayReason::Protocol);
        drop((remote, client));
        stage.end();
    });
}

#[test]
fn shards_that_poll_and_shards_that_sleep_answer_alike() {
    use praas_protocol::control::WaitMode;
    with_each_driver(|driver| {
        for wait in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park] {
            let stage = Stage::new(application(), |options| {
                listening(driver)(options);
                (options.network_shards, options.network_wait) = (1, wait);
            });
            drop(stage.with_process("alice"));
            let mut remote = Remote::connect(&stage);
            let alice = remote.open(process("alice"));
            for number in 0..100_u64 {
                let sent = number.to_le_bytes();
                assert_eq!(remote.call(alice, "echo", &sent), (Outcome::Ok, sent.to_vec()), "{wait:?}");
            }
            drop(remote);
            stage.end();
        }
    });
}

#[test]
fn both_families_of_addresses_are_served_by_one_server() {
    with_each_driver(|driver| {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            return println!("skipped: this host has no IPv6");
        }
        let stage = Stage::new(application(), |options| {
            listening(driver)(options);
            options.listen.push("[::1]:0".parse().unwrap());
        });
        drop(stage.with_process("alice"));
        let token = std::fs::read_to_string(stage.path().join("token")).unwrap();
        let addresses = stage.server().network().unwrap().addresses().to_vec();
        assert_eq!((addresses.len(), addresses[0]), (2, address(&stage)));
        for address in addresses {
            let (mut remote, _) = Remote::with_token(address, &token);
            let alice = remote.open(process("alice"));
            assert_eq!(remote.call(alice, "echo", b"here").0, Outcome::Ok, "{address}");
        }
        stage.end();
    });
}
