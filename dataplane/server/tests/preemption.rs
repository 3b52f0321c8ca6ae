//! The end of a server: everything is stored within its grace period, most valuable first, and what cannot be is named and kept.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use common::mails::{ask, processes};
use common::sleeping::sleeping;
use common::stage::{Stage, options, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, is_running, stage};
use praas_client::ProcessState;
use praas_server::{Farewell, Server, ServerHandle, ServerOptions};
use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::{Backend, Folder, Layer, MemoryBackend, Revision, StorageError};

/// How long keepers of these tests hold what a server has left: longer than any test.
const LINGER: Duration = Duration::from_secs(600);

/// Processes that a server writes at once.
const WRITTEN_AT_ONCE: usize = 4;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

fn start(stage: &Stage, storage: &Arc<dyn Backend>, change: impl FnOnce(&mut ServerOptions)) -> ServerHandle {
    let mut options = options(stage.path(), sleeping());
    options.storage = Some(Arc::clone(storage));
    options.keeper_linger = LINGER;
    change(&mut options);
    Server::start(options).unwrap()
}

fn names(farewell: &Farewell) -> Vec<String> {
    let mut names: Vec<_> = farewell.unsaved.iter().map(|unsaved| unsaved.process.process.to_string()).collect();
    names.sort();
    names
}

#[test]
fn what_storage_refuses_is_named_and_the_next_server_has_it_all_the_same() {
    let stage = Stage::empty();
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()));
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut server = start(&stage, &storage, |_| ());
    let client = stage.client();
    let [alice, bob] = processes(&client, ["alice", "bob"]);
    ask(&alice, "keep", "large 300000 7").unwrap();
    ask(&bob, "send", "alice notes before").unwrap();
    client.swap(process("bob")).unwrap();
    for round in 1..=3 {
        assert_eq!(ask(&alice, "add", "").unwrap(), round.to_string());
        faulty.plan(When::Every(Operation::Publish), Fault::Refuse(Refusal::Full));
        let farewell = server.shutdown().unwrap();
        assert_eq!(names(&farewell), ["alice"], "round {round}");
        let unsaved = &farewell.unsaved[0];
        assert!(unsaved.reason.contains("no room is left"), "{unsaved:?}");
        assert!(unsaved.is_kept && unsaved.unsaved_changes > 0 && unsaved.state_bytes > 300_000, "{unsaved:?}");
        assert_eq!((farewell.saved, farewell.reason.as_str()), (0, "it was told to end"), "bob slept before");
        faulty.heal();
        server = start(&stage, &storage, |_| ());
        assert_ne!(status(&client, "alice").state, ProcessState::Swapped, "it was not stored");
    }
    assert!(ask(&alice, "kept", "large").unwrap().starts_with("300000 of 7 true"));
    assert_eq!(ask(&alice, "recv", "bob notes 1000").unwrap(), "bob:before");
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.saved, names(&farewell).len()), (1, 0), "{farewell:?}");
    assert!(farewell.saved_bytes > 0);
    let server = start(&stage, &storage, |_| ());
    assert_eq!(status(&client, "alice").state, ProcessState::Swapped);
    assert_eq!(ask(&alice, "sum", "").unwrap(), "3");
    drop((alice, bob, client));
    assert_eq!(names(&server.shutdown().unwrap()).len(), 0);
    stage.end();
}

#[test]
fn a_server_whose_storage_stalls_ends_with_its_grace_period_and_loses_nothing() {
    let stage = Stage::empty();
    let backend = Arc::new(MemoryBackend::new());
    let faulty = Faulty::new(Arc::clone(&backend) as Arc<dyn Backend>);
    let storage: Arc<dyn Backend> = Arc::new(faulty.clone());
    let server = start(&stage, &storage, |options| options.grace = Duration::from_millis(1500));
    let client = stage.client();
    let all = ["p0", "p1", "p2", "p3", "p4", "p5"];
    let opened = processes(&client, all);
    for process in &opened {
        assert_eq!(ask(process, "add", "").unwrap(), "1");
    }
    faulty.plan(When::Every(Operation::Put), Fault::Stall);
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.saved, names(&farewell)), (0, all.map(String::from).to_vec()));
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    farewell.unsaved.iter().for_each(|unsaved| *reasons.entry(&unsaved.reason).or_default() += 1);
    let reasons: Vec<_> = reasons.into_iter().collect();
    let waited = ("it was not its turn within the grace period", all.len() - WRITTEN_AT_ONCE);
    assert_eq!(reasons, [waited, ("storage did not take it within the grace period", WRITTEN_AT_ONCE)]);
    // The next server has them, and what comes of the writes that were under way is nothing.
    let next: Arc<dyn Backend> = Arc::clone(&backend) as _;
    let server = start(&stage, &next, |_| ());
    for process in &opened {
        assert_eq!(ask(process, "add", "").unwrap(), "2");
    }
    faulty.heal();
    faulty.release();
    let folders = backend.folders(None).unwrap();
    assert!(folders.iter().all(|folder| backend.manifest(folder).unwrap().is_none()), "nothing is published late");
    for process in &opened {
        assert_eq!(ask(process, "add", "").unwrap(), "3");
    }
    drop((opened, client));
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.saved, names(&farewell).len()), (all.len() as u64, 0));
    stage.end();
}

#[test]
fn running_calls_have_half_of_the_grace_period_and_then_their_process_is_stored() {
    let stage = Stage::empty();
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let server = start(&stage, &storage, |options| options.grace = Duration::from_secs(4));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    let pending = alice.start("pause", "60000").unwrap();
    eventually("it runs", || client.stats(process("alice")).is_ok_and(|stats| stats.running > 0));
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.saved, names(&farewell).len()), (1, 0), "{farewell:?}");
    drop(pending);
    let server = start(&stage, &storage, |_| ());
    assert_eq!(ask(&alice, "sum", "").unwrap(), "1");
    drop((alice, client));
    server.shutdown().unwrap();
    stage.end();
}

#[test]
fn a_notice_of_the_host_ends_the_server_as_a_signal_does() {
    let stage = Stage::empty();
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (program, notice) = (stage.path().join("notice"), stage.path().join("is-taken-away"));
    std::fs::write(&program, format!("#!/bin/sh\nexec test -e '{}'\n", notice.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let watched = |options: &mut ServerOptions| options.notice_program = Some(program.clone().into());
    let server = start(&stage, &storage, watched);
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    std::fs::write(&notice, "").unwrap();
    eventually("the server has ended", || server.metrics().is_none());
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.reason.as_str(), farewell.saved), ("the host has given notice", 1));
    std::fs::remove_file(&notice).unwrap();
    let server = start(&stage, &storage, watched);
    assert_eq!(ask(&alice, "add", "").unwrap(), "2");
    drop((alice, client));
    let farewell = server.shutdown().unwrap();
    assert_eq!(farewell.reason, "it was told to end");
    stage.end();
}

/// Storage in which publishing waits for leave, one manifest at a time.
#[derive(Debug, Default)]
struct Gate {
    inner: MemoryBackend,
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    /// Whose manifests have come, in this order.
    came: Vec<String>,
    leaves: usize,
    is_open: bool,
}

impl Gate {
    /// Waits until so many have come; they in their order.
    fn await_count(&self, count: usize) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let missing = |state: &mut GateState| state.came.len() < count;
        let (state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, missing).unwrap();
        assert!(!timeout.timed_out(), "{count} are to come: {:?}", state.came);
        state.came.clone()
    }

    fn let_one_go(&self) {
        self.state.lock().unwrap().leaves += 1;
        self.changed.notify_all();
    }

    fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.changed.notify_all();
    }
}

impl Layer for Gate {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn pass_publish(
        &self,
        folder: &Folder,
        replaces: Option<&Revision>,
        bytes: &[u8],
    ) -> Result<Revision, StorageError> {
        let mut state = self.state.lock().unwrap();
        state.came.push(folder.process.process.to_string());
        self.changed.notify_all();
        let waits = |state: &mut GateState| !state.is_open && state.leaves == 0;
        let (mut state, _) = self.changed.wait_timeout_while(state, PATIENCE, waits).unwrap();
        state.leaves = state.leaves.saturating_sub(1);
        drop(state);
        self.inner.publish(folder, replaces, bytes)
    }
}

#[test]
fn of_those_that_are_quiet_the_one_with_most_to_lose_is_written_first() {
    let stage = Stage::empty();
    let gate = Arc::new(Gate::default());
    let storage: Arc<dyn Backend> = Arc::clone(&gate) as _;
    let server = start(&stage, &storage, |options| options.grace = PATIENCE);
    let client = stage.client();
    let all = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8"];
    let opened = processes(&client, all);
    for (index, process) in opened.iter().enumerate() {
        for _ in 0..index * 7 % all.len() {
            ask(process, "add", "").unwrap();
        }
    }
    let pids: Vec<_> = all.iter().flat_map(|name| status(&client, name).worker_pids).collect();
    server.stopper().stop();
    gate.await_count(WRITTEN_AT_ONCE);
    eventually("all workers have ended", || !pids.iter().any(|pid| is_running(*pid)));
    // What the server has heard when it answers this is at least that.
    assert!((0..2).all(|_| server.metrics().is_some()));
    for count in WRITTEN_AT_ONCE + 1..=all.len() {
        gate.let_one_go();
        gate.await_count(count);
    }
    gate.open();
    let farewell = server.shutdown().unwrap();
    assert_eq!((farewell.saved, names(&farewell).len()), (all.len() as u64, 0));
    let came = gate.await_count(all.len());
    let changes: Vec<_> = came.iter().map(|name| name[1..].parse::<usize>().unwrap() * 7 % all.len()).collect();
    let in_turn = &changes[WRITTEN_AT_ONCE..];
    assert!(in_turn.is_sorted_by(|one, next| one > next), "{came:?} with {changes:?} changes");
    drop((opened, client));
    stage.end();
}

#[test]
fn a_program_that_gives_notice_and_does_not_work_is_no_notice() {
    let stage = Stage::empty();
    let storage: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let missing = Path::new("/nowhere/at/all");
    let server = start(&stage, &storage, |options| options.notice_program = Some(missing.into()));
    let client = stage.client();
    let [alice] = processes(&client, ["alice"]);
    assert_eq!(ask(&alice, "add", "").unwrap(), "1");
    drop((alice, client));
    assert_eq!(server.shutdown().unwrap().reason, "it was told to end");
    stage.end();
}
