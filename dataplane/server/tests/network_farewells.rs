//! The words with which a server ends connections and refuses questions: each reason of the protocol that a server on its own
//! can have is said by one.

mod common;

use std::time::{Duration, Instant};

use common::network::{address, listening, metrics, stage_with_alice, token};
use common::remote::{Remote, hello};
use common::stage;
use common::stage::{Stage, application, process};
use common::{PATIENCE, eventually};
use praas_protocol::wire::{Action, Frame, GoawayReason, Hello, Kind, Order, Request};
use praas_protocol::{FunctionId, Outcome};
use praas_server::DriverChoice;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// How long a worker lets its connection's client not read.
const WORKER_STALL_MAX: Duration = Duration::from_secs(10);

/// A connection with as small a window for unread replies as the server grants.
fn with_small_window(stage: &Stage) -> Remote {
    let mut remote = Remote::silent(address(stage));
    let token = token(stage);
    remote.send(|out| Hello { reply_window_bytes: 1, ..hello(&token) }.encode(out).unwrap());
    assert_eq!(remote.next().unwrap().kind(), Kind::Welcome);
    remote
}

/// Far more replies than the sockets and the window hold.
fn ask_for_more_than_is_read(remote: &mut Remote, handle: u32) {
    let mut burst = Vec::new();
    for _ in 0..100 {
        Request::new(remote.id(), handle, FunctionId::of("grow"), 0).encode(b"200000", &mut burst);
    }
    remote.send(|out| *out = burst);
}

/// Why the stream ends, as far as a client hears it that begins to read only now.
fn last_word(remote: &mut Remote) -> Option<GoawayReason> {
    let mut last = None;
    while let Some(came) = remote.next() {
        if let Frame::Goaway(goaway) = came.frame() {
            last = Some(goaway.reason);
        }
    }
    last
}

/// Runs `round` until it hears these last words: a client that is held up for longer than its last chance hears nothing.
fn assert_heard<const N: usize>(expected: [GoawayReason; N], mut round: impl FnMut(u64) -> [Option<GoawayReason>; N]) {
    let is_heard = (1..=5).any(|number| {
        let heard = round(number);
        println!("round {number}: {heard:?}");
        heard == expected.map(Some)
    });
    assert!(is_heard, "{expected:?}");
}

#[test]
fn who_does_not_read_and_who_sends_half_a_payload_is_told_so_before_the_end() {
    let stage = stage_with_alice(DriverChoice::Epoll);
    assert_heard([GoawayReason::SlowReader, GoawayReason::Idle], |round| {
        let mut deaf = with_small_window(&stage);
        let alice = deaf.open(process("alice"));
        // From here on its replies are known to be large, and no more of them are under way than a small part of the lane:
        // how long a send may stand still depends on its bytes.
        assert_eq!(deaf.call(alice, "grow", b"200000").0, Outcome::Ok);
        let mut half = Remote::connect(&stage);
        let its_alice = half.open(process("alice"));
        let mut frame = Vec::new();
        Request::new(half.id(), its_alice, FunctionId::of("digest"), 0).encode(&[1; 50_000], &mut frame);
        assert!(half.try_send(&frame[..40_000]));
        ask_for_more_than_is_read(&mut deaf, alice);
        let end = Instant::now() + 4 * PATIENCE;
        while metrics(&stage).slow_readers_closed < round {
            assert!(Instant::now() < end, "the slow reader may stay");
            std::thread::sleep(Duration::from_millis(2));
        }
        [&mut deaf, &mut half].map(last_word)
    });
    eventually("connections are gone", || metrics(&stage).connections_open == 0);
    stage.end();
}

#[test]
fn who_does_not_read_what_its_worker_sends_is_told_so_before_the_end() {
    let stage = stage_with_alice(DriverChoice::Epoll);
    assert_heard([GoawayReason::SlowReader], |_| {
        let mut owned = Remote::connect(&stage);
        assert_eq!(owned.dedicate(process("alice")).kind(), Kind::HandedOver);
        ask_for_more_than_is_read(&mut owned, 0);
        // Nothing shows that the worker has given up but its words: who looks for them too early is no slow reader.
        std::thread::sleep(WORKER_STALL_MAX + Duration::from_millis(700));
        [last_word(&mut owned)]
    });
    stage.end();
}

#[test]
fn refusals_say_what_is_unknown_too_much_failing_or_not_now() {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    let client = stage.with_process("alice");
    let mut remote = Remote::connect(&stage);
    let code_of = |remote: &mut Remote, action, name: &str| {
        let request_id = remote.id();
        let process = name.parse().unwrap();
        remote.send(|out| Order { request_id, action, process, idle_swap_ms: None }.encode(out));
        let came = remote.answer_to(request_id);
        if came.kind() == Kind::Done { 0 } else { came.refused_code() }
    };
    assert_eq!(code_of(&mut remote, Action::Create, "nowhere/alice"), 4);
    assert_eq!(code_of(&mut remote, Action::Create, "hello/alice"), 6);
    assert_eq!(code_of(&mut remote, Action::Stop, "hello/bob"), 5);

    let mut greedy = Remote::connect(&stage);
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        assert!(Instant::now() < end, "handles have no limit");
        match greedy.try_open(process("alice")) {
            Ok(opened) => assert!(opened.handle <= 1024),
            Err(came) => break came.refused_code(),
        }
    };
    assert_eq!(refused, 7);

    // While it drains, for as long as a call runs, it does not restart.
    let alice = remote.open(process("alice"));
    let held = remote.start(alice, "sleep", b"2000");
    eventually("the call runs", || client.stats(process("alice")).unwrap().running == 1);
    let stop_id = remote.id();
    remote.send(|out| {
        Order { request_id: stop_id, action: Action::Stop, process: process("alice"), idle_swap_ms: None }.encode(out);
    });
    eventually(
        "it drains",
        || matches!(client.list().unwrap()[..], [ref alice] if alice.state == praas_client::ProcessState::Draining),
    );
    assert_eq!(code_of(&mut greedy, Action::Restart, "hello/alice"), 9);
    assert_eq!(remote.answer_to(stop_id).kind(), Kind::Done);
    assert_eq!(remote.end_of(held).0.outcome_code, 0);

    let mut junk = Remote::silent(address(&stage));
    assert!(junk.try_send(&[7; 16]));
    assert_eq!(junk.next().expect("a refusal").refused_code(), 11);
    drop((client, remote, greedy, junk));
    stage.end();
}

#[test]
fn a_process_whose_workers_do_not_start_is_refused_with_the_reason() {
    let mut failing = application();
    failing.binary = "/bin/false".into();
    let stage = Stage::new(failing, listening(DriverChoice::Epoll));
    let mut remote = Remote::connect(&stage);
    let request_id = remote.id();
    remote.send(|out| {
        Order { request_id, action: Action::Create, process: process("alice"), idle_swap_ms: None }.encode(out);
    });
    assert_eq!(remote.answer_to(request_id).refused_code(), 8);
    drop(remote);
    stage.end();
}
