//! Servers of durable processes, as OS processes of their own, that are killed together with their keepers: only what is in storage
//! and in logs is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use praas_client::Client;
use praas_protocol::Durability;
use praas_server::{Application, DiskLog, Server};
use praas_storage::{Backend, DiskBackend};

use crate::common::stage::{DIRECTORY, Played, Stage, options};
use crate::common::{eventually, is_running, kill};

/// How durable the processes of such a server are.
const DURABILITY: &str = "TEST_DURABILITY";

/// Milliseconds between two checkpoints.
const CHECKPOINT_INTERVAL_MS: u64 = 100;

pub(crate) fn logs(directory: &Path) -> PathBuf {
    directory.join("logs")
}

/// A server of processes that sleep on disk, and are logged there or not, and whose keeper would outlive it.
pub(crate) fn play_server(mut application: Application) {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let directory = Path::new(&directory);
    application.durability = match std::env::var(DURABILITY).as_deref() {
        Ok("logged") => Durability::Logged,
        Ok("checkpoint") => Durability::Checkpoint,
        _ => Durability::Memory,
    };
    application.checkpoint_interval_ms = CHECKPOINT_INTERVAL_MS;
    let mut options = options(directory, application);
    options.keeper_linger = Duration::from_secs(60);
    options.disk_log = Some(DiskLog::open(&logs(directory)).unwrap());
    options.storage = Some(Arc::new(DiskBackend::open(&directory.join("swapped")).unwrap()) as Arc<dyn Backend>);
    let server = Server::start(options).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    std::process::exit(42);
}

/// Starts one in the role "durable server".
pub(crate) fn start(stage: &Stage, durability: Durability) -> Option<Played> {
    Played::start("durable server", stage.path(), &[(DURABILITY, Path::new(&durability.to_string()))])
}

/// The keepers that listen in this directory, whichever server started them.
fn keepers(directory: &Path) -> Vec<u32> {
    let socket = directory.join("keeper.sock");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let own = sockets.lines().filter(|line| line.ends_with(socket.to_str().unwrap()));
    let own: Vec<_> = own.filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(6)?))).collect();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let stdin = |pid: &u32| std::fs::read_link(format!("/proc/{pid}/fd/0")).unwrap_or_default();
    processes.filter(|pid| own.iter().any(|socket| stdin(pid).to_str() == Some(socket))).collect()
}

/// Kills a server, and its keeper before that can hand anything over.
pub(crate) fn kill_all(server: &mut Played, stage: &Stage) {
    let keepers = keepers(stage.path());
    assert_eq!(keepers.len(), 1, "a server has a keeper");
    server.child.kill().unwrap();
    kill(keepers[0]);
    server.child.wait().unwrap();
    eventually("the keeper is dead", || !is_running(keepers[0]));
}

pub(crate) fn await_server(client: &Client) {
    eventually("the client is connected again", || client.list().is_ok());
}
