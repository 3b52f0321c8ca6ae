//! Servers that are killed, and the keeper that outlives them.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::Durability;
use praas_server::keeper::{HeldDescriptor, KeeperLink, KeeperPlan};

use praas_server::{Application, Farewell, MemoryLog, Server, ServerOptions};
use praas_storage::{Backend, DiskBackend};
use praas_sys::FileLock;

use crate::common::stage::{DIRECTORY, Played, Stage, options};
use crate::common::{eventually, own_command};

/// How long a keeper waits for the next server.
const LINGER: Duration = Duration::from_secs(60);

/// Bytes of the log of such a server, if its application wants one.
const LOG_BYTES: usize = 64 << 20;

/// A server whose keeper outlives it.
pub(crate) fn play_server(application: Application) {
    play(application, |options, _| {
        if options.applications.iter().any(|application| application.durability == Durability::Logged) {
            options.memory_log = Some(MemoryLog::new(LOG_BYTES));
        }
    });
    std::process::exit(42);
}

/// The same, whose processes sleep on disk.
pub(crate) fn play_lasting_server(application: Application) {
    let farewell = play(application, |options, directory| {
        options.storage = Some(Arc::new(DiskBackend::open(&directory.join("stored")).unwrap()) as Arc<dyn Backend>);
    });
    assert!(farewell.unsaved.is_empty(), "{farewell:?}");
    std::process::exit(42);
}

fn play(application: Application, change: impl FnOnce(&mut ServerOptions, &Path)) -> Farewell {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let mut options = options(directory, application);
    options.keeper_linger = LINGER;
    change(&mut options, directory);
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap()
}

pub(crate) fn start_server(stage: &Stage) -> Option<Played> {
    Played::start("lingering server", stage.path(), &[])
}

pub(crate) fn start_lasting_server(stage: &Stage) -> Option<Played> {
    Played::start("lasting server", stage.path(), &[])
}

/// Ends a server cleanly: its keeper goes, with all that it held.
pub(crate) fn end_cleanly(server: Played, stage: Stage) {
    server.terminate();
    assert_eq!(server.end(), Some(42));
    stage.end();
}

/// Plays the next server as far as the keeper goes: what it holds, then gone without a goodbye.
pub(crate) fn with_held<T>(stage: &Stage, look: impl FnOnce(&[HeldDescriptor]) -> T) -> T {
    let mut lock = None;
    // A child that the dead server was just starting holds the lock until it runs its own program.
    eventually("the lock of the dead server is free", || {
        lock = FileLock::try_exclusive(&stage.path().join("lock")).unwrap();
        lock.is_some()
    });
    let lock = lock.expect("it was locked");
    let plan = KeeperPlan {
        command: own_command(),
        socket: stage.path().join("keeper.sock"),
        log: stage.path().join("keeper.log"),
        cgroup_prefix: "praas-test-state".into(),
        linger: LINGER,
    };
    let mut link = KeeperLink::connect(&plan, lock.as_fd()).unwrap().expect("the keeper lives");
    look(&link.take().unwrap())
}
