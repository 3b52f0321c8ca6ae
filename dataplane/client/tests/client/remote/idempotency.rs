//! Calls with idempotency keys over TCP: what a request says, and that only such a call is sent again when it may have run.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use praas_client::{CallError, IdempotencyKey, Process};
use praas_protocol::{Idempotency, Outcome};

use super::wire_server::{Reaction, Script, WireServer, lock};
use crate::futures::block_on;
use crate::scripted::alice;

const SHORT: Duration = Duration::from_millis(200);

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

/// A server that notes what requests say of their keys, and resets the connection of the first `resets` of them.
fn noting(resets: usize) -> (WireServer, Arc<Mutex<Vec<Option<Idempotency>>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let script = Script {
        react: Arc::new(move |_, request, payload| {
            let mut noted = lock(&noted);
            noted.push(request.idempotency());
            if noted.len() <= resets { Reaction::Reset } else { Reaction::Answer(Outcome::Ok, 0, payload.to_vec()) }
        }),
        ..Script::default()
    };
    (WireServer::start(script), seen)
}

#[test]
fn a_request_says_its_key_and_whether_a_lost_call_runs_again() {
    let (server, seen) = noting(0);
    let process = server.process();
    let call = || process.call("echo").payload(b"x");
    call().send().unwrap();
    call().idempotency_key(key("a")).send().unwrap();
    call().idempotency_key(key("a")).rerun_lost().start().unwrap().wait().unwrap();
    block_on(async { call().idempotency_key(key("b")).await }).unwrap();
    call().rerun_lost().send().unwrap();
    let gathered = Process::call_all(std::slice::from_ref(&process), "echo").idempotency_key(key("c")).send();
    assert!(gathered.iter().all(Result::is_ok));
    let plain = |text| Some(Idempotency { key: key(text), rerun_lost: false });
    let rerun = Some(Idempotency { key: key("a"), rerun_lost: true });
    assert_eq!(*lock(&seen), [None, plain("a"), rerun, plain("b"), None, plain("c")]);
}

#[test]
fn a_call_with_a_key_is_sent_again_after_a_lost_connection_and_one_without_is_not() {
    for dedicated in [false, true] {
        let (server, seen) = noting(4);
        let client = server.client();
        let process =
            if dedicated { client.dedicated_process(alice()).unwrap() } else { client.process(alice()).unwrap() };
        let lost = CallError::ConnectionLost { may_have_run: true };
        assert_eq!(process.invoke("echo", b"x").unwrap_err(), lost);
        let call = || process.call("echo").payload(b"again").idempotency_key(key("a"));
        assert_eq!(call().send().unwrap().as_slice(), b"again");
        let mut expected = vec![None];
        expected.resize(5, Some(Idempotency::from(key("a"))));
        assert_eq!(*lock(&seen), expected);
        assert_eq!(block_on(async { call().await }).unwrap().as_slice(), b"again");
    }
}

#[test]
fn a_call_with_a_key_whose_server_stays_away_may_have_run() {
    let (server, seen) = noting(1);
    let process = server.process();
    let call = || process.call("echo").payload(b"x").idempotency_key(key("a")).deadline(SHORT);
    server.shared().rewrite(|script| script.refuse_hello = Some(praas_protocol::control::ControlError::ShuttingDown));
    assert_eq!(call().send().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    assert_eq!(lock(&seen).len(), 1);
    // This one certainly never ran.
    assert_eq!(call().send().unwrap_err(), CallError::ConnectionLost { may_have_run: false });
}

#[test]
fn a_key_that_was_used_for_another_payload_is_told_as_that() {
    let script =
        Script { react: Arc::new(|_, _, _| Reaction::Answer(Outcome::KeyReused, 0, Vec::new())), ..Script::default() };
    let server = WireServer::start(script);
    let end = server.process().call("echo").idempotency_key(key("a")).send();
    assert_eq!(end.unwrap_err(), CallError::KeyReused);
}
