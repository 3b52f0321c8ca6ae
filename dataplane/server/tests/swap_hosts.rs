//! Two servers over the same storage: a process that one has put to sleep is woken by the other, which owns it from then on.

mod common;

use std::sync::Arc;

use common::deadly::open;
use common::mails::{ask, processes};
use common::sleeping::{sleeping, told};
use common::stage::{self, Stage, connect, options, process, status};
use common::{ROLE, eventually, is_keeper_socket, private_directory};
use praas_client::{ProcessState, RequestError};
use praas_protocol::control::ControlError;
use praas_server::Server;
use praas_storage::Backend;
use praas_storage::snapshot::Snapshot;

/// Bytes of the object that the process keeps: more than is read before it runs.
const LARGE_BYTES: usize = 5_000_000;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

#[test]
fn a_process_that_one_server_put_to_sleep_is_woken_by_another_and_the_first_can_write_it_no_more() {
    let stage = Stage::empty();
    let (shared, other) = (private_directory(), private_directory());
    let storage: Arc<dyn Backend> = Arc::new(open(shared.path()));
    let start = |directory| {
        let mut application = sleeping();
        application.limits.state_bytes_max = 64 << 20;
        let mut options = options(directory, application);
        options.storage = Some(Arc::new(open(shared.path())));
        Server::start(options).unwrap()
    };
    let first = start(stage.path());
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "scatter", &format!("large {LARGE_BYTES} 1")).unwrap();
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    client.swap(process("alice")).unwrap();
    // The other server finds it asleep; the first one wakes it once more and lets it sleep.
    let second = start(other.path());
    let elsewhere = connect(other.path());
    assert_eq!(status(&elsewhere, "alice").state, ProcessState::Swapped);
    assert_eq!(ask(&alice, "add", "").unwrap(), "2");
    client.swap(process("alice")).unwrap();
    let there = elsewhere.process(process("alice")).unwrap();
    assert_eq!(ask(&there, "add", "").unwrap(), "3");
    assert_eq!(ask(&there, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    let [folder] = storage.folders(None).unwrap()[..] else { panic!("one process is stored") };
    let epoch = || Snapshot::open(&storage, &folder).unwrap().unwrap().epoch();
    let owned = epoch();
    // The first server wakes it too, because nobody tells it: what the second one then writes is late, and refused.
    assert_eq!(ask(&alice, "sum", "").unwrap(), "2", "as it was stored last");
    assert!(epoch() > owned, "who wakes it later owns it");
    let owned = epoch();
    assert_eq!(ask(&there, "add", "").unwrap(), "4");
    for _ in 0..2 {
        let refused = elsewhere.swap(process("alice")).unwrap_err();
        let RequestError::Refused(ControlError::SwapFailed { reason, .. }) = refused else { panic!("{refused}") };
        println!("{reason}");
        assert!(reason.contains("another") && reason.contains("owns"), "{reason}");
        assert_eq!(epoch(), owned);
    }
    // It has lost nothing in memory, and has told nobody that it was stored.
    assert_eq!(ask(&there, "sum", "").unwrap(), "4");
    assert_eq!(ask(&alice, "add", "").unwrap(), "3");
    client.swap(process("alice")).unwrap();
    assert_eq!(ask(&alice, "sum", "").unwrap(), "3");
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    client.stop(process("alice")).unwrap();
    eventually("nothing is stored of it", || storage.folders(None).unwrap().is_empty());
    elsewhere.stop(process("alice")).unwrap();
    drop((alice, there, client, elsewhere));
    first.shutdown().unwrap();
    second.shutdown().unwrap();
    drop((storage, shared, other));
    stage.end();
}
