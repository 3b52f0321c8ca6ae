//! Remote peers that mean harm or mean nothing: each ends its own connection, is told why as far as it listens, and costs
//! the others nothing. With either driver.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use common::network::{
    address, assert_serves, listening, metrics, resident_bytes, stage_with_alice, token, with_each_driver,
};
use common::random::Random;
use common::remote::{Remote, hello};
use common::stage::{FEW_FILES, Stage, application, process};
use common::{PATIENCE, eventually, functions, open_descriptors, stage};
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_protocol::wire::{Goaway, GoawayReason, Hello, Kind, Open, Request};
use praas_protocol::{FunctionId, Outcome};

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Closes with a reset instead of an end of stream.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Hello, OPEN, and two calls, one of them with a payload that fills no single buffer.
fn conversation(stage: &Stage) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello(&token(stage)).encode(&mut bytes).unwrap();
    Open { request_id: 1, process: process("alice"), payload_bytes_max: 0, in_flight_max: 0 }.encode(&mut bytes);
    Request::new(2, 1, FunctionId::of("echo"), 0).encode(b"small", &mut bytes);
    Request::new(3, 1, FunctionId::of("digest"), 0).encode(&[7; 300], &mut bytes);
    bytes
}

#[test]
fn a_conversation_may_be_cut_at_every_byte_and_goes_on_from_there() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let bytes = conversation(&stage);
        let hello_bytes = {
            let mut bytes = Vec::new();
            hello(&token(&stage)).encode(&mut bytes).unwrap();
            bytes.len()
        };
        let open_bytes = hello_bytes + 16 + 8 + 2 + "hello/alice".len();
        for cut in (1..bytes.len()).step_by(3).chain([hello_bytes, open_bytes]) {
            let mut remote = Remote::silent(address(&stage));
            let mut sent = 0;
            // The client waits for welcome and handle, as it must, and pauses once, at the cut.
            for end in [hello_bytes, open_bytes, bytes.len()] {
                if (sent + 1..end).contains(&cut) {
                    assert!(remote.try_send(&bytes[sent..cut]));
                    std::thread::sleep(Duration::from_micros(300));
                    sent = cut;
                }
                assert!(remote.try_send(&bytes[sent..end]));
                sent = end;
                if end != bytes.len() {
                    remote.next().expect("a welcome, or a handle");
                }
            }
            remote.last_id = 3;
            assert_eq!(remote.end_of(2).1, b"small", "cut at {cut}");
            assert_eq!(remote.end_of(3).1, functions::digest(&[7; 300]).to_le_bytes(), "cut at {cut}");
        }
        stage.end();
    });
}

#[test]
fn a_conversation_that_ends_or_breaks_anywhere_leaves_nothing_behind() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let before = open_descriptors();
        let bytes = conversation(&stage);
        for cut in (0..bytes.len()).step_by(5) {
            for breaks in [false, true] {
                let mut remote = Remote::silent(address(&stage));
                let _ = remote.try_send(&bytes[..cut]);
                if breaks {
                    reset(remote.stream);
                }
            }
        }
        eventually("connections and lanes are gone", || {
            let metrics = metrics(&stage);
            metrics.connections_open == 0 && metrics.lanes_open == 0 && open_descriptors() <= before
        });
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_with_the_reason() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let call = |id, handle| {
            let mut bytes = Vec::new();
            Request::new(id, handle, FunctionId::of("echo"), 0).encode(b"x", &mut bytes);
            bytes
        };
        let frame = |length: u32, kind: u8, flags: u8, id: u64| {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend([kind, flags, 0, 0]);
            bytes.extend(id.to_le_bytes());
            bytes
        };
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("an unknown kind", frame(0, 0x7f, 0, 0)),
            ("a frame of the server's", frame(20, Kind::Opened.code(), 0, 1)),
            ("a length beyond the table", frame(5000, Kind::Ping.code(), 0, 0)),
            ("a payload beyond the limit", frame(20 + (1 << 20) + 1, Kind::Request.code(), 0, 9)),
            ("the largest length", frame(u32::MAX, Kind::Request.code(), 0, 9)),
            ("a flag that does not exist", frame(8, Kind::Ping.code(), 0x80, 0)),
            ("a second hello", {
                let mut bytes = Vec::new();
                hello("x").encode(&mut bytes).unwrap();
                bytes
            }),
            ("a handle that was never given", call(9, 77)),
            ("an id that was used", [call(9, 1), call(9, 1)].concat()),
            ("an id that is smaller", [call(9, 1), call(8, 1)].concat()),
            ("the id 0", call(0, 1)),
            ("a cancel of what was never asked", frame(0, Kind::Cancel.code(), 0, 99)),
            ("bytes after DEDICATE", {
                let mut bytes = Vec::new();
                let wish = praas_protocol::wire::Dedicate {
                    request_id: 9,
                    process: process("alice"),
                    payload_bytes_max: 0,
                    in_flight_max: 0,
                };
                wish.encode(&mut bytes);
                [bytes, call(10, 1)].concat()
            }),
        ];
        for (what, bytes) in cases {
            let mut remote = Remote::connect(&stage);
            assert_eq!(remote.open(process("alice")), 1);
            assert!(remote.try_send(&bytes));
            assert_eq!(remote.farewell().0, GoawayReason::Protocol, "{what}");
            remote.await_end();
        }
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn random_bytes_and_spoiled_conversations_harm_nobody() {
    with_each_driver(|driver| {
        let mut random = Random::printed("spoiled conversations");
        let stage = stage_with_alice(driver);
        let conversation = conversation(&stage);
        for _ in 0..150 {
            let mut bytes = conversation.clone();
            for _ in 0..=random.below(3) {
                let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            let mut remote = Remote::silent(address(&stage));
            remote.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = remote.try_send(&bytes);
            let _ = remote.stream.read(&mut [0; 4096]);
        }
        assert_serves(&stage);
        eventually("connections are gone", || metrics(&stage).connections_open == 0);
        stage.end();
    });
}

#[test]
fn wrong_versions_and_tokens_are_refused_with_their_reason() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let good = token(&stage);
        let refused = |hello: Hello<'_>| {
            let mut remote = Remote::silent(address(&stage));
            remote.send(|out| hello.encode(out).unwrap());
            let code = remote.next().expect("a refusal").refused_code();
            remote.await_end();
            code
        };
        assert_eq!(refused(Hello { version_min: 7, version_max: 9, ..hello(&good) }), 1);
        assert_eq!(refused(hello("")), 2);
        assert_eq!(refused(hello(&good[..good.len() - 1])), 2);
        let other = Secret::generate().unwrap();
        let claims =
            |rights, scope, expires_unix_s| Claims { principal: "eve".parse().unwrap(), scope, rights, expires_unix_s };
        assert_eq!(refused(hello(&other.sign(&claims(Rights::ALL, Scope::Any, None)))), 2);
        let own = praas_server::read_secret(stage.path()).unwrap();
        assert_eq!(refused(hello(&own.sign(&claims(Rights::ALL, Scope::Any, Some(1))))), 2);
        // Not this protocol at all.
        let mut remote = Remote::silent(address(&stage));
        assert!(remote.try_send(b"GET / HTTP/1.1\r\nHost: praas\r\n\r\n"));
        assert_eq!(remote.next().expect("a refusal").kind(), Kind::Refused);
        remote.await_end();
        drop(remote);

        // What a good token does not allow is refused question by question.
        let bob = Scope::Process(process("bob"));
        let (mut remote, _) = Remote::with_token(address(&stage), &own.sign(&claims(Rights::INVOKE, bob, None)));
        assert_eq!(remote.try_open(process("alice")).unwrap_err().refused_code(), 3);
        assert_eq!(remote.try_open(process("bob")).unwrap_err().refused_code(), 5);
        drop(remote);
        let alice = Scope::Process(process("alice"));
        let (mut remote, _) = Remote::with_token(address(&stage), &own.sign(&claims(Rights::INVOKE, alice, None)));
        let handle = remote.open(process("alice"));
        assert_eq!(remote.call(handle, "echo", b"").0, Outcome::Ok);
        let request_id = remote.id();
        let mut request = Request::new(request_id, handle, FunctionId::of("echo"), 0);
        request.principal = Some("mallory".parse().unwrap());
        remote.send(|out| request.encode(&[5; 40_000], out));
        assert_eq!(remote.end_of(request_id).0.outcome(), Some(Outcome::Unauthorized));
        assert_eq!(remote.call(handle, "echo", b"").0, Outcome::Ok);
        drop(remote);
        stage.end();
    });
}

#[test]
fn whoever_says_nothing_or_dribbles_is_cut_off_at_the_hello_deadline() {
    with_each_driver(|driver| {
        let stage = Stage::new(application(), |options| {
            listening(driver)(options);
            options.client_hello = Duration::from_millis(200);
        });
        drop(stage.with_process("alice"));
        let mut silent = Remote::silent(address(&stage));
        let mut dribbling = Remote::silent(address(&stage));
        let mut bytes = Vec::new();
        hello(&token(&stage)).encode(&mut bytes).unwrap();
        for byte in bytes.iter().take(40) {
            if !dribbling.try_send(&[*byte]) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        silent.await_end();
        dribbling.await_end();
        drop((silent, dribbling));
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn a_payload_that_dribbles_keeps_its_own_connection_busy_only() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut slow = Remote::connect(&stage);
        let alice = slow.open(process("alice"));
        let payload = vec![9; 20_000];
        let mut bytes = Vec::new();
        let id = slow.id();
        Request::new(id, alice, FunctionId::of("digest"), 0).encode(&payload, &mut bytes);
        for piece in bytes.chunks(997) {
            assert!(slow.try_send(piece));
            assert_serves(&stage);
        }
        assert_eq!(slow.end_of(id).1, functions::digest(&payload).to_le_bytes());
        drop(slow);
        stage.end();
    });
}

#[test]
fn a_client_that_never_reads_is_stopped_then_cut_off_and_gives_back_what_it_held() {
    with_each_driver(|driver| {
        // With so little memory lanes are small: a send of all that one holds may stand still for seconds, not for minutes.
        let stage = Stage::new(application(), |options| {
            listening(driver)(options);
            options.memory_bytes_max = Some(24 << 20);
        });
        drop(stage.with_process("alice"));
        let mut deaf = Remote::silent(address(&stage));
        let token = token(&stage);
        // As small a window for unread replies as the server grants.
        deaf.send(|out| Hello { reply_window_bytes: 1, ..hello(&token) }.encode(out).unwrap());
        assert_eq!(deaf.next().unwrap().kind(), Kind::Welcome);
        let alice = deaf.open(process("alice"));
        // Far more than the sockets, the window and the lane hold.
        let mut burst = Vec::new();
        for _ in 0..200 {
            Request::new(deaf.id(), alice, FunctionId::of("grow"), 0).encode(b"200000", &mut burst);
        }
        deaf.send(|out| *out = burst);
        let mut served = 0;
        eventually("it is cut off", || {
            assert_serves(&stage);
            served += 1;
            metrics(&stage).connections_cut == 1
        });
        println!("{served} others were served meanwhile");
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        // This takes all that a lane holds.
        eventually("what it held is free", || remote.call(alice, "grow", b"1000000").0 == Outcome::Ok);
        drop((deaf, remote));
        eventually("connections are gone", || metrics(&stage).connections_open == 0);
        stage.end();
    });
}

#[test]
fn resets_in_the_middle_of_payloads_free_their_blocks() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let large = vec![3; 1 << 20];
        for round in 0..20 {
            // On the way in: half of a payload that takes the whole half of the lane.
            let mut remote = Remote::connect(&stage);
            let alice = remote.open(process("alice"));
            let mut bytes = Vec::new();
            let id = remote.id();
            Request::new(id, alice, FunctionId::of("digest"), 0).encode(&large, &mut bytes);
            assert!(remote.try_send(&bytes[..bytes.len() / 2 + round]));
            reset(remote.stream);
            // On the way out.
            let mut remote = Remote::connect(&stage);
            let alice = remote.open(process("alice"));
            remote.start(alice, "grow", b"1000000");
            let _ = remote.stream.read(&mut [0; 1000]);
            reset(remote.stream);
        }
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        assert_eq!(remote.call(alice, "digest", &large).1, functions::digest(&large).to_le_bytes());
        assert_eq!(remote.call(alice, "grow", b"1000000").1.len(), 1_000_000);
        drop(remote);
        eventually("connections are gone", || metrics(&stage).connections_open == 0);
        stage.end();
    });
}

#[test]
fn a_client_that_has_said_its_last_is_let_go_with_its_calls() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let mut remote = Remote::connect(&stage);
        let alice = remote.open(process("alice"));
        remote.start(alice, "sleep", b"100");
        remote.stream.shutdown(std::net::Shutdown::Write).unwrap();
        remote.await_end();
        drop(remote);
        eventually("it is let go", || metrics(&stage).connections_open == 0);
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn thousands_of_connections_come_and_go_and_nothing_of_them_stays() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let before = open_descriptors();
        assert_serves(&stage);
        let memory = resident_bytes();
        let token = token(&stage);
        for round in 0..50 {
            let held: Vec<Remote> = (0..100)
                .map(|number| {
                    if number % 10 == 0 {
                        let (mut remote, _) = Remote::with_token(address(&stage), &token);
                        remote.ask_to_open(process("alice"));
                        remote
                    } else {
                        Remote::silent(address(&stage))
                    }
                })
                .collect();
            if round % 2 == 0 {
                held.into_iter().for_each(|remote| reset(remote.stream));
            }
        }
        eventually("connections, lanes and descriptors are given back", || {
            let metrics = metrics(&stage);
            metrics.connections_open == 0 && metrics.lanes_open == 0 && open_descriptors() <= before
        });
        assert!(metrics(&stage).connections_accepted >= 5000);
        let grown = resident_bytes().saturating_sub(memory);
        assert!(grown < 24 << 20, "{grown} bytes more than before");
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn when_descriptors_run_out_connections_wait_and_the_others_are_served() {
    if std::env::var_os("TEST_FEW").is_none() {
        // The limit is the whole process's: a child of its own has it. No other test counts descriptors meanwhile.
        let _alone = Stage::empty();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["when_descriptors_run_out_connections_wait_and_the_others_are_served", "--exact", "--nocapture"])
            .env("TEST_FEW", "1")
            .output()
            .unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    let few = 4 * FEW_FILES;
    let limit = rustix::process::Rlimit { current: Some(few), maximum: Some(few) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        // Clients and server share the limit here: the clients' ends take some, the server's as many, as each waits until the
        // server has its own. Otherwise most would lie in the backlog, before whoever comes later.
        let mut held = Vec::new();
        let has_run_out = || std::fs::File::open("/dev/null").is_err();
        while let Ok(stream) = TcpStream::connect(address(&stage)) {
            held.push(stream);
            eventually("the connection is accepted, or no descriptor is left", || {
                metrics(&stage).connections_accepted == held.len() as u64 || has_run_out()
            });
        }
        assert!(held.len() > 100, "{} connections", held.len());
        held.truncate(held.len() - 10);
        held.drain(..20);
        eventually("a client is served", || {
            let Ok(mut stream) = TcpStream::connect(address(&stage)) else { return false };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            hello(&token(&stage)).encode(&mut bytes).unwrap();
            stream.write_all(&bytes).is_ok() && stream.read(&mut [0; 16]).is_ok_and(|count| count == 16)
        });
        drop(held);
        eventually("connections are gone", || metrics(&stage).connections_open == 0);
        assert_serves(&stage);
        stage.end();
    });
}

#[test]
fn a_token_that_ends_ends_its_connections() {
    with_each_driver(|driver| {
        let stage = stage_with_alice(driver);
        let own = praas_server::read_secret(stage.path()).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let claims = Claims {
            principal: "guest".parse().unwrap(),
            scope: Scope::Any,
            rights: Rights::INVOKE,
            expires_unix_s: Some(now + 3),
        };
        let (mut remote, _) = Remote::with_token(address(&stage), &own.sign(&claims));
        let alice = remote.open(process("alice"));
        assert_eq!(remote.call(alice, "echo", b"").0, Outcome::Ok);
        let came = remote.next().expect("a farewell");
        assert!(matches!(
            came.frame(),
            praas_protocol::wire::Frame::Goaway(Goaway { reason: GoawayReason::TokenEnded, .. })
        ));
        remote.await_end();
        drop(remote);
        stage.end();
    });
}
