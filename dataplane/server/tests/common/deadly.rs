//! Servers that are killed at one operation of their storage, a disk, in turn, as processes of their own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use praas_client::Client;
use praas_server::{Application, Server};
use praas_storage::{Backend, DiskBackend, Layer, StorageError};

use crate::common::stage::{DIRECTORY, Played, Stage, options};
use crate::common::{PATIENCE, eventually};

/// The instant at which a server role is killed, two for each operation of storage, counted from 1; 0 for none.
const KILLED_AT: &str = "TEST_KILLED_AT";

/// How long a keeper waits for the next server.
const LINGER: Duration = Duration::from_secs(60);

/// Where the processes of these servers sleep.
pub(crate) fn open(directory: &Path) -> DiskBackend {
    DiskBackend::open(&directory.join("swapped")).unwrap()
}

/// A server whose processes sleep on disk, and which is killed where the environment says.
pub(crate) fn play_server(application: Application) {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    let mut options = options(directory, application);
    options.keeper_linger = LINGER;
    let disk = open(directory);
    let deadly = Arc::new(Deadly { disk, left: AtomicU64::new(0) });
    options.storage = Some(Arc::clone(&deadly) as Arc<dyn Backend>);
    let server = Server::start(options).unwrap();
    // Not of what the start itself does.
    deadly.left.store(std::env::var(KILLED_AT).unwrap().parse().unwrap(), Ordering::SeqCst);
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// Storage whose server is killed just before and just after each operation in turn.
#[derive(Debug)]
struct Deadly {
    disk: DiskBackend,
    /// Instants that are left until it is killed: two for each operation, 0 for ever.
    left: AtomicU64,
}

impl Deadly {
    fn instant(&self) {
        let lives = |left: u64| left.checked_sub(1);
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lives) == Ok(1) {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
            std::thread::sleep(PATIENCE);
        }
    }
}

impl Layer for Deadly {
    fn inner(&self) -> &dyn Backend {
        &self.disk
    }

    fn pass<T>(&self, operation: impl FnOnce(&dyn Backend) -> Result<T, StorageError>) -> Result<T, StorageError> {
        self.instant();
        let outcome = operation(&self.disk);
        self.instant();
        outcome
    }
}

pub(crate) fn start(stage: &Stage, killed_at: u64) -> Option<Played> {
    let killed_at = killed_at.to_string();
    Played::start("killed server", stage.path(), &[(KILLED_AT, Path::new(&killed_at))])
}

/// Starts the next server; when this returns, the client talks to it.
pub(crate) fn start_again(stage: &Stage, client: &Client, killed_at: u64) -> Played {
    let server = start(stage, killed_at).unwrap();
    eventually("the client is connected again", || client.list().is_ok());
    server
}

/// Lets a server end that puts its processes to sleep.
pub(crate) fn end(server: Played) {
    server.terminate();
    assert_eq!(server.end(), Some(42));
}

/// Waits for the end of a server that is killed.
pub(crate) fn await_end(mut server: Played) {
    eventually("the server is killed", || server.child.try_wait().unwrap().is_some());
}
