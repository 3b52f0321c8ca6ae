//! Servers that break the protocol, the stream, or the caller's patience: every call ends, typed and in time, and the next
//! one goes over a new connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Client};
use praas_protocol::wire::{Done, Goaway, GoawayReason};
use praas_protocol::{FunctionId, Outcome};

use super::wire_server::{Reaction, Script, WireServer, react, response};
use crate::futures::block_on;
use crate::scripted::{alice, eventually};

const LONG: Duration = Duration::from_secs(20);

/// A server that does something once, for the function "bad", and is good otherwise.
fn bad_once(bad: impl Fn(u64, &[u8]) -> Reaction + Send + Sync + 'static) -> (WireServer, Arc<AtomicUsize>) {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&times);
    let script = Script {
        react: Arc::new(move |shared, request, payload| {
            if request.function != FunctionId::of("bad") {
                return react(shared, request, payload);
            }
            counted.fetch_add(1, Ordering::SeqCst);
            bad(request.request_id, payload)
        }),
        ..Script::default()
    };
    (WireServer::start(script), times)
}

/// The bad call ends as lost, alone and beside others, blocking and as a future; then all is well again.
fn ends_as_lost(bad: impl Fn(u64, &[u8]) -> Reaction + Send + Sync + 'static) {
    let (server, times) = bad_once(bad);
    let process = server.process();
    let lost = CallError::ConnectionLost { may_have_run: true };
    assert_eq!(process.call("bad").deadline(LONG).send().unwrap_err(), lost);
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(block_on(async { process.call("bad").deadline(LONG).await }).unwrap_err(), lost);
    let beside = process.start("silent", b"x").unwrap();
    assert_eq!(process.call("bad").deadline(LONG).send().unwrap_err(), lost);
    assert_eq!(beside.wait().unwrap_err(), lost);
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(times.load(Ordering::SeqCst), 3, "a call that may have run is not repeated");
}

#[test]
fn an_answer_to_nothing_ends_the_connection() {
    ends_as_lost(|id, _| Reaction::Raw(response(id + 1, Outcome::Ok, 0, b"")));
    ends_as_lost(|id, _| Reaction::Raw(response(id + (1 << 16), Outcome::Ok, 0, b"")));
    ends_as_lost(|_, _| Reaction::Raw(response(1 << 20, Outcome::Ok, 0, b"")));
}

#[test]
fn a_question_cannot_be_answered_by_a_call_nor_a_call_by_a_question() {
    ends_as_lost(|id, _| {
        let mut frame = Vec::new();
        Done { request_id: id }.encode(&mut frame);
        Reaction::Raw(frame)
    });
}

#[test]
fn junk_ends_the_connection() {
    ends_as_lost(|_, _| Reaction::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    ends_as_lost(|_, _| Reaction::Raw(vec![0xff; 64]));
    ends_as_lost(|_, _| Reaction::Raw(vec![0; 64]));
}

#[test]
fn an_announced_payload_over_the_limit_is_not_waited_for() {
    ends_as_lost(|id, _| {
        let mut frame = response(id, Outcome::Ok, 0, b"");
        frame[..4].copy_from_slice(&(u32::MAX / 2).to_le_bytes());
        Reaction::Raw(frame)
    });
}

#[test]
fn a_farewell_that_covers_what_was_never_asked_is_not_believed() {
    ends_as_lost(|id, _| {
        let mut frame = Vec::new();
        let last_request_id = id + 1000;
        Goaway { last_request_id, reason: GoawayReason::Idle, may_reconnect: true, message: "" }.encode(&mut frame);
        Reaction::Raw(frame)
    });
}

#[test]
fn a_reset_ends_calls_at_once() {
    ends_as_lost(|_, _| Reaction::Reset);
}

#[test]
fn a_second_answer_hurts_only_the_connection() {
    let (server, _) = bad_once(|id, payload| {
        let mut frames = response(id, Outcome::Ok, 0, payload);
        frames.extend(response(id, Outcome::Ok, 0, b"again"));
        Reaction::Raw(frames)
    });
    let process = server.process();
    for _ in 0..5 {
        // The first answer came before the connection was found to be broken.
        assert_eq!(process.invoke("bad", b"x").unwrap().as_slice(), b"x");
    }
}

#[test]
fn an_unknown_outcome_is_a_malformed_reply_and_nothing_more() {
    let (server, _) = bad_once(|id, _| {
        let mut frame = response(id, Outcome::Ok, 0, b"");
        frame[16..20].copy_from_slice(&99_u32.to_le_bytes());
        Reaction::Raw(frame)
    });
    let process = server.process();
    let malformed = process.invoke("bad", b"").unwrap_err();
    assert!(matches!(malformed, CallError::MalformedReply { .. }), "{malformed}");
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1);
}

#[test]
fn frames_of_a_later_version_are_skipped() {
    let (server, _) = bad_once(|id, payload| {
        let mut frames = vec![5, 0, 0, 0, 0x80, 0xff, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5];
        frames.extend(response(id, Outcome::Ok, 0, payload));
        Reaction::Raw(frames)
    });
    assert_eq!(server.process().invoke("bad", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn a_stream_that_ends_at_any_byte_ends_the_call() {
    let payload: Vec<u8> = (0..200).collect();
    let whole = response(1, Outcome::Ok, 0, &payload).len();
    let cut = Arc::new(AtomicUsize::new(0));
    let at = Arc::clone(&cut);
    let (server, _) = bad_once(move |id, payload| {
        let mut frame = response(id, Outcome::Ok, 0, payload);
        frame.truncate(at.load(Ordering::SeqCst));
        Reaction::RawThenClose(frame)
    });
    let client = server.client();
    let process = client.process(alice()).unwrap();
    for bytes in 0..=whole {
        cut.store(bytes, Ordering::SeqCst);
        let end = process.call("bad").payload(&payload).deadline(LONG).send();
        match end {
            Ok(reply) => assert!(bytes == whole && reply.as_slice() == payload),
            Err(error) => assert_eq!(error, CallError::ConnectionLost { may_have_run: true }, "{bytes} bytes"),
        }
    }
    eventually("the server's end is closed", || server.shared().open_connections() == 0);
    thread::sleep(Duration::from_millis(2));
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
}

#[test]
fn a_greeting_that_is_cut_at_any_byte_ends_the_attempt() {
    let server = WireServer::start(Script { socket_path: "/run/praas.sock".into(), ..Script::default() });
    let welcome = 16 + 70 + 15;
    for bytes in 0..welcome {
        server.shared().rewrite(|script| script.cut_after_bytes = Some(bytes));
        Client::connect(server.options()).unwrap_err();
    }
    server.shared().rewrite(|script| script.cut_after_bytes = None);
    Client::connect(server.options()).unwrap();
}

#[test]
fn a_stream_that_drips_is_read_to_its_end() {
    for drip_bytes in [1, 7, 100] {
        let server = WireServer::start(Script { drip_bytes: Some(drip_bytes), ..Script::default() });
        let process = server.process();
        let payload: Vec<u8> = (0..40 * drip_bytes).map(|index| u8::try_from(index % 256).unwrap()).collect();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(process.invoke("echo", &payload).unwrap().as_slice(), payload));
            }
        });
        let large = vec![7; 20_000 / (101 - drip_bytes)];
        assert_eq!(process.invoke("echo", &large).unwrap().as_slice(), large);
    }
}

#[test]
fn a_drip_that_never_ends_does_not_move_a_deadline() {
    let server = WireServer::start(Script { drip_bytes: Some(1), ..Script::default() });
    let process = server.process();
    let late = process.call("echo").payload(&[1; 20_000]).deadline(Duration::from_millis(60)).send().unwrap_err();
    assert!(matches!(late, CallError::DeadlineExceeded { .. }), "{late}");
    // The rest of that answer is thrown away, and what comes after it is read.
    assert_eq!(process.call("echo").payload(b"x").deadline(LONG).send().unwrap().as_slice(), b"x");
}
