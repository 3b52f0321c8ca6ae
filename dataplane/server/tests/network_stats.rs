//! What is counted of processes, asked for over the network.

mod common;

use common::network::{address, listening};
use common::stage::{Stage, application, process};
use common::{eventually, stage};
use praas_client::{Client, ConnectOptions, ControlError, RequestError, Transport};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_server::DriverChoice;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

#[test]
fn counts_are_the_same_over_the_network_and_on_the_host() {
    let stage = Stage::new(application(), listening(DriverChoice::Epoll));
    let local = stage.with_process("alice");
    let options = ConnectOptions::new().address(address(&stage).to_string()).transport(Transport::Network);
    let remote = Client::connect(options.clone().data_directory(stage.path())).unwrap();
    let alice = remote.process(process("alice")).unwrap();
    for function in ["echo", "digest"] {
        for _ in 0..130 {
            alice.invoke(function, b"counted").unwrap();
        }
    }
    alice.invoke("panic", b"").unwrap_err();
    eventually("every call is counted", || {
        let stats = remote.stats(process("alice")).unwrap();
        let calls: Vec<_> = stats.functions.iter().map(|row| (row.function.as_str(), row.calls, row.failed)).collect();
        calls == [("digest", 130, 0), ("echo", 130, 0), ("panic", 1, 1)] && stats.running == 0
    });
    let stats = remote.stats(process("alice")).unwrap();
    assert_eq!(stats, local.stats(process("alice")).unwrap());
    assert!(stats.lanes >= 1 && stats.functions.iter().all(|row| row.p50_ns <= row.max_ns));

    let nobody = remote.stats(process("nobody")).unwrap_err();
    assert!(matches!(nobody, RequestError::Refused(ControlError::UnknownProcess { .. })), "{nobody}");
    let claims = Claims {
        principal: "caller".parse().unwrap(),
        scope: Scope::Any,
        rights: Rights::INVOKE,
        expires_unix_s: None,
    };
    let token = praas_server::read_secret(stage.path()).unwrap().sign(&claims);
    let caller = Client::connect(options.token(token)).unwrap();
    let refused = caller.stats(process("alice")).unwrap_err();
    assert!(matches!(refused, RequestError::Refused(ControlError::Unauthorized { .. })), "{refused}");
    drop((alice, remote, local, caller));
    stage.end();
}
