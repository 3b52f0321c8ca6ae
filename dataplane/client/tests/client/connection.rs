//! Hello, loss of the server, reconnection, and requests on the control socket.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Client, ConnectError, ConnectOptions, ControlError, RequestError};
use praas_protocol::control::CONTROL_VERSION;

use crate::scripted::{Installation, Script, ScriptedServer, alice, eventually, options};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn without_a_server_the_error_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let no_token = Client::connect(options(directory.path())).unwrap_err();
    assert!(matches!(no_token, ConnectError::TokenUnreadable { .. }), "{no_token}");
    let nobody = Client::connect(options(directory.path()).token("praas1.00.00")).unwrap_err();
    assert!(matches!(nobody, ConnectError::NoServer { .. }), "{nobody}");
    assert!(nobody.to_string().contains("praas serve"));
    let missing = Client::connect(ConnectOptions::new().socket("/nonexistent/x").token("t")).unwrap_err();
    assert!(matches!(missing, ConnectError::NoServer { .. }), "{missing}");
}

#[test]
fn a_refused_hello_and_a_wrong_version_are_typed() {
    let directory = tempfile::tempdir().unwrap();
    let error = ControlError::TokenRefused { reason: "the token expired 5 s ago".into() };
    let script = Script { refuse_hello: Some(error.clone()), ..Script::default() };
    let server = ScriptedServer::start(directory.path(), script);
    match Client::connect(options(directory.path())) {
        Err(ConnectError::Refused(refused)) => assert_eq!(refused, error),
        other => panic!("{other:?}"),
    }
    server.shared().rewrite(|script| *script = Script { version: CONTROL_VERSION + 1, ..Script::default() });
    match Client::connect(options(directory.path())) {
        Err(ConnectError::Refused(ControlError::WrongVersion { server, client })) => {
            assert_eq!((server, client), (CONTROL_VERSION + 1, CONTROL_VERSION));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_process_is_refused_when_it_is_opened() {
    let here = Installation::new(Script::default());
    match here.client.process("hello/bob".parse().unwrap()) {
        Err(RequestError::Refused(ControlError::UnknownProcess { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_dies_ends_calls_in_flight_at_once() {
    let here = Installation::new(Script { workers: 1, ..Script::default() });
    let Installation { process, client, server, directory } = here;
    let taken = process.start("hold", b"taken").unwrap();
    eventually("the call is taken", || server.shared().held.load(Ordering::SeqCst) == 1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| taken.wait().unwrap_err());
        server.kill();
        assert_eq!(waiting.join().unwrap(), CallError::ConnectionLost { may_have_run: true });
    });
    // Nobody answers any more: later calls try to reconnect until their own deadline.
    let later = process.call("echo").deadline(SHORT).send().unwrap_err();
    assert_eq!(later, CallError::ConnectionLost { may_have_run: false });
    assert_eq!(client.server_incarnation(), None);
    drop(directory);
}

#[test]
fn the_same_process_goes_on_after_the_server_came_back() {
    let here = Installation::new(Script::default());
    let Installation { process, client, server, directory } = here;
    assert_eq!(process.invoke("echo", b"before").unwrap().as_slice(), b"before");
    let taken = process.start("hold", b"taken").unwrap();
    eventually("the call is taken", || server.shared().held.load(Ordering::SeqCst) == 1);
    // Published, and certainly never claimed: the only worker is held.
    let waiting = process.start("echo", b"never claimed").unwrap();
    server.kill();
    let server = ScriptedServer::start(directory.path(), Script::default());
    assert_eq!(taken.wait().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    assert_eq!(waiting.wait().unwrap().as_slice(), b"never claimed");
    assert_eq!(process.invoke("echo", b"after").unwrap().as_slice(), b"after");
    assert_eq!(client.server_incarnation(), Some(7));
    assert_eq!(server.shared().lanes_opened(), 1, "calls share the one lane that was opened anew");
}

#[test]
fn futures_survive_a_server_that_comes_back() {
    let here = Installation::new(Script::default());
    let Installation { process, server, directory, client } = here;
    let taken = process.start("hold", b"taken").unwrap();
    eventually("the call is taken", || server.shared().held.load(Ordering::SeqCst) == 1);
    thread::scope(|scope| {
        let awaiting = scope.spawn(|| crate::futures::block_on(async { process.call("echo").payload(b"again").await }));
        let lost = scope.spawn(|| crate::futures::block_on(taken));
        server.kill();
        let _server = ScriptedServer::start(directory.path(), Script::default());
        assert_eq!(awaiting.join().unwrap().unwrap().as_slice(), b"again");
        assert_eq!(lost.join().unwrap().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    });
    drop(client);
}

#[test]
fn a_refusal_that_nothing_will_change_ends_calls_before_their_deadline() {
    let here = Installation::new(Script::default());
    here.shared().rewrite(|script| script.known.clear());
    here.shared().disconnect();
    let gone = CallError::UnknownProcess { process: alice() };
    eventually("the loss is noticed", || here.client.server_incarnation().is_none());
    assert_eq!(here.process.invoke("echo", b"").unwrap_err(), gone);
    assert_eq!(crate::futures::block_on(async { here.process.call("echo").await }).unwrap_err(), gone);
    let refusal = ControlError::TokenRefused { reason: "withdrawn".into() };
    here.shared().rewrite(|script| script.refuse_hello = Some(refusal));
    here.shared().disconnect();
    eventually("the loss is noticed", || here.client.server_incarnation().is_none());
    assert!(matches!(here.process.invoke("echo", b"").unwrap_err(), CallError::Unauthorized { .. }));
}

#[test]
fn many_threads_reconnect_with_one_lane() {
    let here = Installation::new(Script::default());
    here.shared().disconnect();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(here.process.invoke("echo", b"x").unwrap().as_slice(), b"x"));
        }
    });
    assert!(here.shared().lanes_opened() <= 3, "{} lanes", here.shared().lanes_opened());
}

#[test]
fn requests_that_are_never_answered_end_by_their_limit_or_by_the_loss() {
    let here = Installation::with_options(Script::default(), |options| options.lifecycle_deadline(SHORT));
    match here.client.restart(alice()) {
        Err(RequestError::TimedOut { waited_ms }) => assert_eq!(waited_ms, 50),
        other => panic!("{other:?}"),
    }
    let mut follower = here.client.follow_output(alice(), 0);
    let chunk = follower.next(SHORT * 100).unwrap().unwrap();
    assert_eq!((chunk.bytes.as_slice(), follower.position()), (&b"output"[..], 6));
    assert!(follower.next(SHORT).unwrap().is_none());
    here.shared().disconnect();
    assert!(matches!(follower.next(SHORT * 100), Err(RequestError::ConnectionLost)));
}

#[test]
fn requests_are_answered_by_number() {
    let here = Installation::new(Script::default());
    here.client.create(alice()).unwrap();
    here.client.stop(alice()).unwrap();
    assert_eq!(here.client.applications().unwrap(), ["hello".parse().unwrap()]);
    assert_eq!(here.client.output(alice(), 3).unwrap().position, 3);
    match here.client.list() {
        Err(RequestError::Unexpected { .. }) => {}
        other => panic!("the script answers lists with something else: {other:?}"),
    }
}

#[test]
fn dropping_everything_closes_lanes_and_ends_the_session() {
    let here = Installation::new(Script::default());
    let Installation { process, client, server, directory } = here;
    let clone = process.clone();
    drop((process, client));
    assert_eq!(clone.invoke("echo", b"still").unwrap().as_slice(), b"still");
    drop(clone);
    eventually("the lane is closed", || server.shared().lanes_closed.load(Ordering::SeqCst) == 1);
    drop(directory);
}

#[test]
fn a_lane_that_comes_after_its_request_timed_out_is_given_back() {
    let here = Installation::new(Script::default());
    let shared = here.shared();
    let before = shared.lanes_open();
    assert_eq!((before, shared.lanes_opened()), (1, 1));
    // A closed process has its next call ask for another lane, which does not come in time.
    shared.rewrite(|script| script.lanes_come_late = true);
    shared.close();
    let refused = here.process.call("echo").deadline(SHORT).send().unwrap_err();
    assert!(matches!(refused, CallError::Unavailable { .. }), "{refused}");
    assert_eq!(shared.lanes_opened(), 1);
    shared.rewrite(|script| script.lanes_come_late = false);
    eventually("the late lane is closed", || {
        shared.lanes_opened() == 2 && shared.lanes_closed.load(Ordering::SeqCst) == 1
    });
    assert_eq!(shared.lanes_open(), before);
    // The connection is as good as before, and the next lane that somebody waits for is kept.
    shared.activate();
    assert_eq!(here.client.applications().unwrap().len(), 1);
    assert_eq!(here.process.invoke("echo", b"after").unwrap().as_slice(), b"after");
    assert_eq!(here.client.server_incarnation(), Some(7));
}
