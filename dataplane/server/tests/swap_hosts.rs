//! Two servers over the same storage: a process that one has put to sleep is woken by the other, which owns it from then on; and
//! neither removes what is the other one's.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::deadly::open;
use common::mails::{ask, processes};
use common::sleeping::{sleeping, told};
use common::stage::{self, Stage, connect, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, private_directory};
use praas_client::{Client, ProcessState, RequestError};
use praas_protocol::control::ControlError;
use praas_server::{Server, ServerHandle};
use praas_storage::Backend;
use praas_storage::faulty::{Fault, Faulty, Operation, When};
use praas_storage::snapshot::Snapshot;
use tempfile::TempDir;

/// Bytes of the object that the process keeps: more than is read before it runs.
const LARGE_BYTES: usize = 5_000_000;

/// Data directories of two servers, and what they share.
struct Hosts {
    first: Stage,
    second: TempDir,
    shared: TempDir,
    storage: Arc<dyn Backend>,
}

impl Hosts {
    fn new() -> Self {
        let first = Stage::empty();
        let (second, shared) = (private_directory(), private_directory());
        let storage: Arc<dyn Backend> = Arc::new(open(shared.path()));
        Self { first, second, shared, storage }
    }

    fn open(&self) -> Arc<dyn Backend> {
        Arc::new(open(self.shared.path()))
    }

    fn start(directory: &Path, storage: Arc<dyn Backend>) -> ServerHandle {
        let mut application = sleeping();
        application.limits.state_bytes_max = 64 << 20;
        let mut options = options(directory, application);
        options.storage = Some(storage);
        Server::start(options).unwrap()
    }

    fn start_first(&self, storage: Arc<dyn Backend>) -> ServerHandle {
        Self::start(self.first.path(), storage)
    }

    fn start_second(&self) -> ServerHandle {
        Self::start(self.second.path(), self.open())
    }

    fn clients(&self) -> (Client, Client) {
        (connect(self.first.path()), connect(self.second.path()))
    }

    /// Whether nothing is stored, soon.
    fn is_empty(&self) {
        eventually("nothing is stored", || self.storage.folders(None).unwrap().is_empty());
    }

    fn end(self) {
        let Self { first, second, shared, storage } = self;
        drop((storage, shared, second));
        first.end();
    }
}

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

#[test]
fn what_another_server_stores_for_the_first_time_is_not_taken_for_a_crashed_one() {
    let hosts = Hosts::new();
    let faulty = Faulty::new(hosts.open());
    let first = hosts.start_first(Arc::new(faulty.clone()));
    let client = connect(hosts.first.path());
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "scatter", &format!("large {LARGE_BYTES} 1")).unwrap();
    // All its parts are written, and it is just being published, when the other server starts and ends.
    faulty.plan(When::Nth(Operation::Publish, 0), Fault::Stall);
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| client.swap(process("alice")));
        assert!(faulty.wait_for_stalled(1, PATIENCE), "it is being published");
        let second = hosts.start_second();
        second.shutdown().unwrap();
        faulty.release();
        swapping.join().unwrap().unwrap();
    });
    assert_eq!(ask(&alice, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    client.stop(process("alice")).unwrap();
    hosts.is_empty();
    drop((alice, client));
    first.shutdown().unwrap();
    drop(faulty);
    hosts.end();
}

#[test]
fn a_process_that_another_server_has_woken_is_not_stopped_by_who_put_it_to_sleep() {
    let hosts = Hosts::new();
    let (first, second) = (hosts.start_first(hosts.open()), hosts.start_second());
    let (client, elsewhere) = hosts.clients();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    client.swap(process("alice")).unwrap();
    let there = elsewhere.process(process("alice")).unwrap();
    assert_eq!(ask(&there, "add", "").unwrap(), "2");
    for _ in 0..2 {
        let refused = client.stop(process("alice")).unwrap_err();
        let RequestError::Refused(ControlError::SwapFailed { reason, .. }) = refused else { panic!("{refused}") };
        assert!(reason.contains("another server") && reason.contains("praas process restore"), "{reason}");
    }
    elsewhere.swap(process("alice")).unwrap();
    assert_eq!(ask(&there, "add", "").unwrap(), "3");
    elsewhere.swap(process("alice")).unwrap();
    // Now it sleeps, and is nobody's. Who still has it in its table is told when it needs it.
    client.stop(process("alice")).unwrap();
    hosts.is_empty();
    let gone = elsewhere.restore(process("alice")).unwrap_err().to_string();
    assert!(gone.contains("nothing is stored of it"), "{gone}");
    elsewhere.stop(process("alice")).unwrap();
    assert!(elsewhere.list().unwrap().is_empty());
    drop((alice, there, client, elsewhere));
    first.shutdown().unwrap();
    second.shutdown().unwrap();
    hosts.end();
}

#[test]
fn who_does_not_know_a_process_finds_it_asleep_and_leaves_it_alone_while_another_has_it() {
    let hosts = Hosts::new();
    let (first, second) = (hosts.start_first(hosts.open()), hosts.start_second());
    let (client, elsewhere) = hosts.clients();
    let unknown = |name: &str| {
        let refused = elsewhere.process(process(name)).map(drop).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains("no process"), "{refused}");
    };
    unknown("alice");
    let [alice, bob, carol] = processes(&client, ["alice", "bob", "carol"]);
    for user in [&alice, &bob, &carol] {
        ask(user, "scatter", &format!("large {LARGE_BYTES} 1")).unwrap();
        assert_eq!(ask(user, "add", "").unwrap(), "1");
    }
    // In memory it is not to be found.
    unknown("alice");
    for name in ["alice", "bob", "carol"] {
        client.swap(process(name)).unwrap();
    }
    // By its first call, when its absence is forgotten; by an order to restore it; and by one to stop it.
    let mut there = None;
    eventually("it is found", || {
        there = elsewhere.process(process("alice")).ok();
        there.is_some()
    });
    let there = there.unwrap();
    assert_eq!(ask(&there, "add", "").unwrap(), "2");
    assert_eq!(ask(&there, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    elsewhere.restore(process("bob")).unwrap();
    assert_eq!(status(&elsewhere, "bob").state, ProcessState::Active);
    elsewhere.stop(process("carol")).unwrap();
    assert!(hosts.storage.lives(&process("carol")).unwrap().is_empty());
    // One that the other server has woken is not found by a call; an order takes it over.
    let [dave] = processes(&client, ["dave"]);
    assert_eq!(ask(&dave, "add", "").unwrap(), "1");
    client.swap(process("dave")).unwrap();
    assert_eq!(ask(&dave, "add", "").unwrap(), "2");
    let refused = elsewhere.process(process("dave")).map(drop).unwrap_err().to_string();
    assert!(refused.contains("another server") && refused.contains("praas process restore"), "{refused}");
    let refused = elsewhere.stop(process("dave")).unwrap_err().to_string();
    assert!(refused.contains("another server"), "{refused}");
    elsewhere.restore(process("dave")).unwrap();
    assert_eq!(ask(&elsewhere.process(process("dave")).unwrap(), "sum", "").unwrap(), "1", "as it was stored last");
    let refused = client.swap(process("dave")).unwrap_err().to_string();
    assert!(refused.contains("another") && refused.contains("owns"), "{refused}");
    for name in ["alice", "bob", "dave"] {
        elsewhere.stop(process(name)).unwrap();
    }
    hosts.is_empty();
    drop((alice, bob, carol, dave, there, client, elsewhere));
    first.shutdown().unwrap();
    second.shutdown().unwrap();
    hosts.end();
}

#[test]
fn a_process_that_one_server_put_to_sleep_is_woken_by_another_and_the_first_can_write_it_no_more() {
    let hosts = Hosts::new();
    let first = hosts.start_first(hosts.open());
    let client = connect(hosts.first.path());
    let [alice] = processes(&client, ["alice"]);
    ask(&alice, "scatter", &format!("large {LARGE_BYTES} 1")).unwrap();
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    client.swap(process("alice")).unwrap();
    // The other server finds it asleep; the first one wakes it once more and lets it sleep.
    let second = hosts.start_second();
    let elsewhere = connect(hosts.second.path());
    assert_eq!(status(&elsewhere, "alice").state, ProcessState::Swapped);
    assert_eq!(ask(&alice, "add", "").unwrap(), "2");
    client.swap(process("alice")).unwrap();
    let there = elsewhere.process(process("alice")).unwrap();
    assert_eq!(ask(&there, "add", "").unwrap(), "3");
    assert_eq!(ask(&there, "scattered", "large").unwrap(), told(LARGE_BYTES, 1));
    let storage = &hosts.storage;
    let [folder] = storage.folders(None).unwrap()[..] else { panic!("one process is stored") };
    let epoch = || Snapshot::open(storage, &folder).unwrap().unwrap().epoch();
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
    hosts.is_empty();
    elsewhere.stop(process("alice")).unwrap();
    drop((alice, there, client, elsewhere));
    first.shutdown().unwrap();
    second.shutdown().unwrap();
    hosts.end();
}
