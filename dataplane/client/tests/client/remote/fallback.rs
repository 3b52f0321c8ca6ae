//! From shared memory back to the network, when the server's socket answers no more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use praas_client::{CallError, Client, Process, Route, Sources, Transport};
use praas_protocol::Outcome;

use super::wire_server::{Reaction, Script, WireServer, lock};
use crate::futures::block_on;
use crate::scripted::{PATIENCE, SESSION, ScriptedServer, alice};

/// A server on the network that says that it lives in `directory`.
fn at_home_in(directory: &std::path::Path) -> WireServer {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let path = directory.canonicalize().unwrap();
    let host_id = praas_protocol::wire::host_id(boot_id.trim(), &path);
    let socket_path = path.join("praas.sock").to_str().unwrap().to_owned();
    WireServer::start(Script { socket_path, host_id, ..Script::default() })
}

fn echoes(process: &Process) -> bool {
    process.invoke("echo", b"x").unwrap().as_slice() == b"x"
}

#[test]
fn when_the_socket_answers_no_more_calls_and_requests_go_over_the_network() {
    let directory = tempfile::tempdir().unwrap();
    let network = at_home_in(directory.path());
    let local = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    let client = Client::connect(network.options().transport(Transport::Automatic)).unwrap();
    let (called, started, awaited) =
        (client.process(alice()).unwrap(), client.process(alice()).unwrap(), client.process(alice()).unwrap());
    assert!(!client.is_remote() && echoes(&called) && echoes(&started) && echoes(&awaited));
    drop(local);

    // Handles that were opened before follow: a blocking call by itself, others as calls that never ran.
    assert!(echoes(&called) && called.route() == Route::Network { not_dedicated: None });
    let never_ran = CallError::ConnectionLost { may_have_run: false };
    match started.start("echo", b"x").and_then(praas_client::Pending::wait) {
        Ok(reply) => assert_eq!(reply.as_slice(), b"x"),
        Err(error) => assert_eq!(error, never_ran),
    }
    assert_eq!(started.start("echo", b"x").unwrap().wait().unwrap().as_slice(), b"x");
    if let Err(error) = block_on(async { awaited.call("echo").payload(b"x").await }) {
        assert_eq!(error, never_ran);
    }
    assert_eq!(block_on(async { awaited.call("echo").payload(b"x").await }).unwrap().as_slice(), b"x");
    assert!(client.is_remote() && echoes(&client.process(alice()).unwrap()));
    assert_eq!(client.list().unwrap().len(), 2);
    assert!(client.ping(Duration::from_secs(10)).unwrap().in_server.is_some());
    assert_eq!(network.shared().open_connections(), 1, "all share one connection");
}

#[test]
fn a_session_goes_on_over_the_network_with_the_ticket_that_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let network = at_home_in(directory.path());
    // A room that accepts whatever is sent, and has no message.
    network.shared().rewrite(|script| {
        script.react = std::sync::Arc::new(|_, _, payload| {
            Reaction::Answer(Outcome::Ok, 0, if payload.ends_with(b"x") { vec![1] } else { Vec::new() })
        });
    });
    let local = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    let client = Client::connect(network.options().transport(Transport::Automatic)).unwrap();
    let session = client.session("hello".parse().unwrap()).unwrap();
    session.send("alice", "k", b"x").unwrap();
    // Its lane's payloads lie in memory that is gone then: they are built anew.
    let large = vec![b'x'; 100_000];
    assert_eq!(lock(&network.shared().resumed).len(), 0);
    drop(local);
    session.send_within("alice", "k", &large, PATIENCE).unwrap();
    assert!(session.try_recv(Sources::Any, "k").unwrap().is_none() && client.is_remote());
    session.send("alice", "k", b"x").unwrap();
    assert_eq!(*lock(&network.shared().resumed), [Some(SESSION)]);
}

#[test]
fn a_socket_that_comes_back_is_taken_before_the_network() {
    let directory = tempfile::tempdir().unwrap();
    let network = at_home_in(directory.path());
    let local = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    let client = Client::connect(network.options().transport(Transport::Automatic)).unwrap();
    let process = client.process(alice()).unwrap();
    assert!(echoes(&process));
    drop(local);
    let again = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    assert!(echoes(&process) && !client.is_remote());
    assert_eq!(process.route(), Route::SharedMemory);
    assert_eq!(network.shared().connections.load(Ordering::SeqCst), 1, "nobody asked the network again");
    drop(again);
}

#[test]
fn without_a_server_anywhere_calls_wait_as_long_as_they_may() {
    let directory = tempfile::tempdir().unwrap();
    let network = at_home_in(directory.path());
    let local = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    let client = Client::connect(network.options().transport(Transport::Automatic)).unwrap();
    let process = client.process(alice()).unwrap();
    drop((local, network));
    let lost = process.call("echo").deadline(Duration::from_millis(50)).send().unwrap_err();
    assert_eq!(lost, CallError::ConnectionLost { may_have_run: false });
    let back = ScriptedServer::start(directory.path(), crate::scripted::Script::default());
    assert!(echoes(&process) && process.route() == Route::SharedMemory);
    drop(back);
}
