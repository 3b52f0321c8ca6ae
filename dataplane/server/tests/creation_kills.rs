//! A server that is killed just after it has said that a process could not be created: it never was, for the next server too.

mod common;

use std::path::Path;
use std::time::Duration;

use common::stage::{self, DIRECTORY, Played, Stage, application, options, process};
use common::{ROLE, eventually, is_keeper_socket};
use praas_client::RequestError;
use praas_protocol::control::ControlError;
use praas_server::Server;

/// How long a keeper waits for the next server.
const LINGER: Duration = Duration::from_secs(60);

/// Servers that are killed.
const ROUNDS: u32 = 12;

/// Workers of a process: while one of them has failed, others still start.
const WORKERS: u32 = 4;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("server of failures") if !is_keeper_socket(&std::io::stdin()) => play_server(),
        _ => stage::play(),
    }
}

/// A server whose workers all fail.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let mut application = application();
    (application.workers_min, application.workers_max) = (WORKERS, WORKERS);
    application.binary = "/bin/false".into();
    let mut options = options(Path::new(&directory), application);
    options.keeper_linger = LINGER;
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

#[test]
fn a_process_that_could_not_be_created_does_not_come_back_with_the_next_server() {
    let stage = Stage::empty();
    let start = || Played::start("server of failures", stage.path(), &[]);
    let Some(mut server) = start() else { return stage.end() };
    let client = stage.client();
    for round in 0..ROUNDS {
        let failed = client.create(process("alice")).unwrap_err();
        server.kill();
        assert!(matches!(failed, RequestError::Refused(ControlError::WorkersFailed { .. })), "{failed}");
        server = start().unwrap();
        eventually("the client is connected again", || client.list().is_ok());
        let listed = client.list().unwrap();
        assert!(listed.is_empty(), "round {round}: {listed:?}");
    }
    drop(client);
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}
