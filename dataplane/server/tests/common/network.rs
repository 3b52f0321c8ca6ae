//! Stages whose servers listen on the network, and what tests ask of such a server.

use std::net::SocketAddr;

use praas_protocol::Outcome;
use praas_server::{DriverChoice, NetworkMetrics, ServerOptions};
use praas_sys::driver;

use crate::common::remote::Remote;
use crate::common::stage::{Stage, application, process};

/// Where the server of `stage` listens.
pub(crate) fn address(stage: &Stage) -> SocketAddr {
    stage.server().network().expect("it listens").addresses()[0]
}

/// Has a server listen on loopback.
pub(crate) fn listening(driver: DriverChoice) -> impl Fn(&mut ServerOptions) {
    move |options| {
        options.listen = vec!["127.0.0.1:0".parse().unwrap()];
        options.network_driver = driver;
        options.network_shards = 2;
    }
}

/// Runs a test with each driver that this host grants.
pub(crate) fn with_each_driver(test: impl Fn(DriverChoice)) {
    test(DriverChoice::Epoll);
    match driver::probe() {
        Ok(_) => test(DriverChoice::IoUring),
        Err(refusal) => println!("skipped with io_uring: {refusal}"),
    }
}

/// A server with the process `alice`.
pub(crate) fn stage_with_alice(driver: DriverChoice) -> Stage {
    let stage = Stage::new(application(), listening(driver));
    drop(stage.with_process("alice"));
    stage
}

/// The local token of `stage`'s server.
pub(crate) fn token(stage: &Stage) -> String {
    std::fs::read_to_string(stage.path().join("token")).unwrap().trim().to_owned()
}

pub(crate) fn metrics(stage: &Stage) -> NetworkMetrics {
    stage.server().network().expect("it listens").metrics()
}

/// That a client which keeps to the rules is served by alice.
pub(crate) fn assert_serves(stage: &Stage) {
    let mut remote = Remote::connect(stage);
    let alice = remote.open(process("alice"));
    assert_eq!(remote.call(alice, "echo", b"still here"), (Outcome::Ok, b"still here".to_vec()));
}

/// Memory of this process, with its servers.
pub(crate) fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
