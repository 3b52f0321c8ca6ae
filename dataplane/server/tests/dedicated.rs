//! Network sessions, their lanes, and dedicated connections: a real server, keeper and workers.
//!
//! The server runs inside the test, so the test may open network sessions to it, as the server's own shards do.

mod common;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::client::{Client, Lane};
use common::random::Random;
use common::stage::{DIRECTORY, Stage, application, process};
use common::wire_peer::{Said, WirePeer, request, tcp_pair};
use common::{PATIENCE, ROLE, eventually, kill, own_command, stage};
use praas_protocol::control::{ControlError, WaitMode};
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_protocol::wire::{Cancel, GoawayReason, Ping};
use praas_protocol::{Outcome, Phase};
use praas_server::Application;

/// What a process that is not the server and claims to be its network side ends with.
const REFUSED: i32 = 43;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    if std::env::var(ROLE).as_deref() == Ok("impostor") {
        let directory = std::env::var_os(DIRECTORY).unwrap();
        let token = std::fs::read_to_string(Path::new(&directory).join("token")).unwrap();
        let refused = Client::network(Path::new(&directory), token).err();
        let code = if matches!(refused, Some(ControlError::Protocol { .. })) { REFUSED } else { 1 };
        std::process::exit(code);
    }
    stage::play();
}

fn own_token(stage: &Stage) -> String {
    std::fs::read_to_string(stage.path().join("token")).unwrap()
}

fn token(stage: &Stage, principal: &str, rights: Rights, expires_unix_s: Option<u64>) -> String {
    let secret: [u8; 32] = std::fs::read(stage.path().join("secret")).unwrap().try_into().unwrap();
    let claims = Claims { principal: principal.parse().unwrap(), scope: Scope::Any, rights, expires_unix_s };
    Secret::from_bytes(secret).sign(&claims)
}

fn session(stage: &Stage) -> Client {
    Client::network(stage.path(), own_token(stage)).unwrap()
}

fn stage_with(application: Application) -> (Stage, Client) {
    let stage = Stage::new(application, |_| ());
    let mut session = session(&stage);
    session.create(process("alice")).unwrap();
    (stage, session)
}

/// A connection that a worker of alice owns.
fn dedicated(session: &mut Client) -> WirePeer {
    dedicated_with(session, None)
}

fn dedicated_with(session: &mut Client, payload_bytes_max: Option<u32>) -> WirePeer {
    let (near, far) = tcp_pair();
    session.give(process("alice"), 7, &far, payload_bytes_max).unwrap();
    let mut peer = WirePeer::new(near);
    match peer.next() {
        Said::HandedOver(limits) => {
            assert_eq!((limits.request_id, limits.phase), (7, Phase::Active));
            assert_eq!(limits.payload_bytes_max, payload_bytes_max.unwrap_or(1 << 20));
        }
        other => panic!("{other:?}"),
    }
    peer
}

/// Waits for an answer as a reactor does: on the reply doorbell.
fn answer_by_doorbell(lane: &Lane, function: &str, payload: &[u8]) -> (Outcome, Vec<u8>) {
    let replies = lane.replies.as_ref().expect("a reply doorbell came with the lane");
    let ticket = lane.submit(function, payload);
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = lane.lane.begin_look();
        if lane.lane.is_answered(&ticket) {
            let answer = lane.lane.take(ticket);
            let payload = answer.payload.unwrap();
            let mut bytes = vec![0; payload.len()];
            payload.copy_to(&mut bytes);
            return (Outcome::from_code(answer.outcome_code).unwrap(), bytes);
        }
        assert!(Instant::now() < end, "no answer");
        if lane.lane.arm(seen) {
            let mut polled = [rustix::event::PollFd::new(replies, rustix::event::PollFlags::IN)];
            let most = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut polled, Some(&most)), Ok(1), "nobody rang");
            praas_sys::doorbell::drain(std::os::fd::AsFd::as_fd(replies));
        }
    }
}

#[test]
fn a_network_session_gets_lanes_that_ring_and_are_used_in_place_whatever_its_token_says() {
    let (stage, session) = stage_with(application());
    for (rights, trusted) in [(Rights::INVOKE, "false"), (Rights::INVOKE.with(Rights::TRUSTED), "true")] {
        let token = token(&stage, "bob", rights, None);
        let mut remote = Client::network(stage.path(), token).unwrap();
        let lane = remote.open(process("alice"), 1 << 20).unwrap();
        assert!(!lane.lane.trusted(), "the server reads nothing in place that workers may write");
        assert_eq!(answer_by_doorbell(&lane, "echo", &[3; 300_000]), (Outcome::Ok, vec![3; 300_000]));
        for round in 0..100_u8 {
            assert_eq!(answer_by_doorbell(&lane, "echo", &[round]), (Outcome::Ok, vec![round]));
        }
        let who = format!("bob {trusted}");
        assert_eq!(answer_by_doorbell(&lane, "caller", b""), (Outcome::Ok, who.into_bytes()));
        drop(lane);
    }
    drop(session);
    stage.end();
}

#[test]
fn only_the_servers_own_process_is_believed_to_be_its_network_side() {
    let (stage, session) = stage_with(application());
    let own = own_command();
    let mut impostor = std::process::Command::new(&own[0]);
    let impostor = impostor.args(&own[1..]).env(ROLE, "impostor").env(DIRECTORY, stage.path());
    assert_eq!(impostor.status().unwrap().code(), Some(REFUSED));
    // And who did not say so gives no descriptors.
    let mut plain = Client::connect(stage.path());
    let (near, far) = tcp_pair();
    assert!(matches!(plain.give_or_be_cut_off(process("alice"), &far), Err(ControlError::Protocol { .. })));
    drop((plain, session, near, far));
    stage.end();
}

#[test]
fn calls_of_every_kind_go_over_a_dedicated_connection_in_every_wait_mode() {
    for wait in [WaitMode::Park, WaitMode::Adaptive, WaitMode::Spin] {
        let mut application = application();
        application.wait = wait;
        let (stage, mut session) = stage_with(application);
        let mut peer = dedicated(&mut session);
        assert_eq!(peer.answered(8, "echo", b"hello"), (Outcome::Ok, 0, b"hello".to_vec()), "{wait:?}");
        assert_eq!(peer.answered(9, "caller", b"").2, b"local true");
        assert_eq!(peer.answered(10, "no such function", b"").0, Outcome::UnknownFunction);
        assert_eq!(peer.answered(11, "panic", b"").0, Outcome::FunctionPanicked);
        assert_eq!(peer.answered(12, "grow", b"2000000").0, Outcome::PayloadTooLarge);
        let mut random = Random::printed("payloads");
        let mut id = 12;
        for bytes in [0, 1, 63, 64, 65, 4096, 8192, 65_500, 65_536, 200_000, 300_001, 1 << 20] {
            let payload = random.bytes(bytes);
            id += 1;
            assert!(peer.answered(id, "echo", &payload) == (Outcome::Ok, 0, payload), "{bytes} bytes");
        }
        peer.send(&ping(77));
        assert!(matches!(peer.next(), Said::Pong(pong) if pong.opaque == 77 && pong.sent_ns >= pong.received_ns));
        // Lanes are served beside it.
        let lane = session.open(process("alice"), 1 << 16).unwrap();
        for round in 0..50_u8 {
            assert_eq!(answer_by_doorbell(&lane, "echo", &[round]).1, [round]);
            id += 1;
            assert_eq!(peer.answered(id, "echo", &[round]).2, [round]);
        }
        drop((lane, session, peer));
        stage.end();
    }
}

fn ping(opaque: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Ping { opaque }.encode(&mut bytes);
    bytes
}

#[test]
fn many_calls_in_flight_are_answered_once_each_and_in_order_however_the_stream_is_cut() {
    let (stage, mut session) = stage_with(application());
    let mut peer = dedicated(&mut session);
    let mut random = Random::printed("cuts of the stream");
    let mut id = 7;
    for round in 0..20 {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..100 {
            id += 1;
            let bytes = if random.below(20) == 0 { 5_000 } else { random.below(100) };
            let payload = random.bytes(usize::try_from(bytes).unwrap());
            stream.extend(request(id, "echo", &payload));
            expected.push((id, payload));
        }
        if round == 0 {
            peer.send(&stream);
        } else {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let piece = usize::try_from(1 + random.below(if round % 2 == 0 { 40_000 } else { 900 }))
                    .unwrap()
                    .min(rest.len());
                peer.send(&rest[..piece]);
                rest = &rest[piece..];
            }
        }
        for (id, payload) in expected {
            assert_eq!(peer.next(), Said::Answer { id, outcome: Outcome::Ok, detail: 0, payload });
        }
    }
    drop((peer, session));
    stage.end();
}

#[test]
fn several_connections_and_lanes_share_a_worker_fairly() {
    let (stage, mut session) = stage_with(application());
    let mut peers: Vec<_> = (0..20).map(|_| dedicated(&mut session)).collect();
    let lane = session.open(process("alice"), 1 << 16).unwrap();
    for round in 0..30_u64 {
        for peer in &mut peers {
            let burst: Vec<u8> =
                (0..16).flat_map(|one| request(8 + round * 16 + one, "echo", &one.to_le_bytes())).collect();
            peer.send(&burst);
        }
        assert_eq!(answer_by_doorbell(&lane, "echo", b"lane").1, b"lane");
        for peer in &mut peers {
            for one in 0..16_u64 {
                let said = peer.next();
                let id = 8 + round * 16 + one;
                let payload = one.to_le_bytes().to_vec();
                assert_eq!(said, Said::Answer { id, outcome: Outcome::Ok, detail: 0, payload });
            }
        }
    }
    drop((peers, lane, session));
    stage.end();
}

#[test]
fn a_function_sees_that_its_caller_cancelled_or_went_or_ran_out_of_time() {
    let (stage, mut session) = stage_with(application());
    let mut peer = dedicated(&mut session);
    peer.call(8, "until-unwanted", b"");
    let mut cancel = Vec::new();
    Cancel { request_id: 8 }.encode(&mut cancel);
    peer.send(&cancel);
    assert!(matches!(peer.next(), Said::Answer { id: 8, outcome: Outcome::Cancelled, .. }));
    // In the same piece of the stream as its call.
    let mut both = request(9, "until-unwanted", b"");
    Cancel { request_id: 9 }.encode(&mut both);
    peer.send(&both);
    assert!(matches!(peer.next(), Said::Answer { id: 9, outcome: Outcome::Cancelled, .. }));
    let mut late = Vec::new();
    let function = praas_protocol::FunctionId::of("until-unwanted");
    praas_protocol::wire::Request::new(10, 0, function, 20_000_000).encode(b"", &mut late);
    peer.send(&late);
    assert!(matches!(peer.next(), Said::Answer { id: 10, outcome: Outcome::DeadlineExceeded, .. }));
    // The worker is free again soon after its caller has gone.
    peer.call(11, "until-unwanted", b"");
    drop(peer);
    let mut other = dedicated(&mut session);
    assert_eq!(other.answered(8, "echo", b"free").2, b"free");
    drop((other, session));
    stage.end();
}

#[test]
fn what_breaks_the_protocol_ends_its_own_connection_with_the_reason_and_no_other() {
    let (stage, mut session) = stage_with(application());
    let mut good = dedicated(&mut session);
    let mut with_handle = Vec::new();
    praas_protocol::wire::Request::new(8, 1, praas_protocol::FunctionId::of("echo"), 0).encode(b"", &mut with_handle);
    let junk: [(&str, Vec<u8>, GoawayReason); 4] = [
        ("junk", vec![0xee; 64], GoawayReason::Protocol),
        ("an id again", request(7, "echo", b""), GoawayReason::Protocol),
        ("a handle", with_handle, GoawayReason::Protocol),
        ("too large", request(8, "echo", &vec![0; (1 << 20) + 1])[..100].to_vec(), GoawayReason::Limit),
    ];
    for (id, (what, bytes, expected)) in (8..).zip(junk) {
        let mut bad = dedicated(&mut session);
        bad.send(&bytes);
        assert_eq!(bad.next(), Said::Goaway { last_request_id: 7, reason: expected }, "{what}");
        assert_eq!(bad.next(), Said::End, "{what}");
        assert_eq!(good.answered(id, "echo", what.as_bytes()).2, what.as_bytes());
    }
    // A stream that ends in the middle of everything.
    let mut random = Random::printed("cut streams");
    for _ in 0..30 {
        let mut cut = dedicated(&mut session);
        let bytes = request(8, "echo", &random.bytes(70_000));
        cut.send(&bytes[..usize::try_from(random.below(bytes.len() as u64)).unwrap()]);
    }
    assert_eq!(good.answered(100, "echo", b"here").2, b"here");
    drop((good, session));
    stage.end();
}

#[test]
fn a_killed_worker_ends_its_connections_and_the_next_worker_takes_new_ones() {
    let mut application = application();
    application.limits.call_ms_max = Some(300);
    let (stage, mut session) = stage_with(application);
    let (mut idle, mut busy) = (dedicated(&mut session), dedicated(&mut session));
    assert_eq!(idle.answered(8, "echo", b"x").2, b"x");
    busy.call(8, "sleep", b"20000");
    let worker = session.status(process("alice")).worker_pids[0];
    kill(worker);
    assert_eq!((idle.next(), busy.next()), (Said::End, Said::End));
    eventually("there is another worker", || {
        let pids = session.status(process("alice")).worker_pids;
        pids.len() == 1 && pids[0] != worker
    });
    // A call that outlasts its limit ends its worker too.
    let mut stuck = dedicated(&mut session);
    stuck.call(8, "stuck", b"");
    assert_eq!(stuck.next(), Said::End);
    eventually("its end is on record", || {
        session.status(process("alice")).last_exit.is_some_and(|exit| exit.contains("call_ms_max"))
    });
    eventually("there is another worker", || session.status(process("alice")).workers == 1);
    let mut last = dedicated(&mut session);
    assert_eq!(last.answered(8, "echo", b"again").2, b"again");
    drop((idle, busy, stuck, last, session));
    stage.end();
}

#[test]
fn a_drain_answers_what_was_taken_once_says_how_far_that_was_and_ends_the_connection() {
    for function in ["sleep", "echo"] {
        let (stage, mut session) = stage_with(application());
        let mut peer = dedicated(&mut session);
        let calls = 2_000_u64;
        let stream: Vec<u8> = (0..calls).flat_map(|call| request(8 + call, function, b"2")).collect();
        let mut writer = peer.stream.try_clone().unwrap();
        // The worker stops reading, so this may fail: that is not what is looked at.
        let writing = std::thread::spawn(move || drop(writer.write_all(&stream)));
        assert!(matches!(peer.next(), Said::Answer { id: 8, outcome: Outcome::Ok, .. }));
        let stop = session.ask(praas_protocol::control::ClientRequest::ProcessStop { process: process("alice") });
        let (mut next, mut goaway) = (9, None);
        loop {
            match peer.next() {
                Said::Answer { id, outcome: Outcome::Ok, .. } => {
                    assert!(goaway.is_none(), "an answer after the farewell");
                    assert_eq!(id, next, "answered once, in order");
                    next += 1;
                }
                Said::Goaway { last_request_id, reason: GoawayReason::Draining } => goaway = Some(last_request_id),
                Said::End => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(goaway, Some(next - 1), "everything up to the last id was answered, {function}");
        if function == "sleep" {
            assert!(next < 8 + calls, "it would have taken seconds");
        }
        drop(peer);
        writing.join().unwrap();
        session.await_answer(stop);
        drop(session);
        stage.end();
    }
}

#[test]
fn a_client_that_never_reads_holds_nobody_up_and_is_cut_off() {
    let (stage, mut session) = stage_with(application());
    let mut good = dedicated(&mut session);
    let lazy = dedicated(&mut session);
    lazy.stream.set_nonblocking(true).unwrap();
    let started = Instant::now();
    let mut cut_off = false;
    for call in 8.. {
        // As many large answers as the sockets hold, and then some.
        if let Err(error) = (&lazy.stream).write(&request(call, "grow", b"1000000"))
            && error.kind() != std::io::ErrorKind::WouldBlock
        {
            cut_off = true;
            break;
        }
        assert_eq!(good.answered(call, "echo", b"served").2, b"served");
        if started.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(cut_off, "it was never cut off");
    drop((good, lazy, session));
    stage.end();
}

#[test]
fn an_expired_token_ends_its_connections_and_a_closed_session_does_not() {
    let (stage, mut session) = stage_with(application());
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let soon = token(&stage, "brief", Rights::INVOKE, Some(now_s + 3));
    let mut brief = Client::network(stage.path(), soon).unwrap();
    let mut expiring = dedicated(&mut brief);
    let mut lasting = dedicated(&mut session);
    assert_eq!(expiring.answered(8, "caller", b"").2, b"brief false");
    drop((session, brief));
    assert_eq!(expiring.next(), Said::End);
    assert_eq!(lasting.answered(8, "echo", b"still here").2, b"still here");
    drop((expiring, lasting));
    stage.end();
}

#[test]
fn what_is_no_connection_is_given_in_vain_and_rights_are_asked_for() {
    let (stage, mut session) = stage_with(application());
    let null = std::fs::File::open("/dev/null").unwrap();
    session.give(process("alice"), 7, &null, None).unwrap();
    let mut good = dedicated(&mut session);
    assert_eq!(good.answered(8, "echo", b"x").2, b"x");
    let (near, far) = tcp_pair();
    let nobody = process("nobody");
    assert!(matches!(session.give(nobody, 7, &far, None), Err(ControlError::UnknownProcess { .. })));
    let weak = token(&stage, "weak", Rights::MANAGE, None);
    let mut weak = Client::network(stage.path(), weak).unwrap();
    let refused = weak.give(process("alice"), 7, &far, None);
    assert!(matches!(refused, Err(ControlError::Unauthorized { .. })), "{refused:?}");
    let mut small = dedicated_with(&mut session, Some(1000));
    assert_eq!(small.answered(8, "grow", b"1001").0, Outcome::PayloadTooLarge);
    assert_eq!(small.answered(9, "grow", b"1000").0, Outcome::Ok);
    drop((good, small, weak, session, null, near, far));
    stage.end();
}
