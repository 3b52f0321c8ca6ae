//! The worker is killed, and the next one knows what it knew.

use std::time::Instant;

use praas_client::{Client, Process, ProcessId};
use praas_sys::Pidfd;
use serde::Serialize;

use super::interruption::Interruption;
use super::own_server::OwnServer;
use super::searching::{self, Searched};
use crate::failure::Failure;

/// What became of the process whose worker was killed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Killed {
    /// The worker's operating-system process.
    pub(super) pid: u32,
    /// From the decision to kill it to the answer of another worker.
    pub(super) answered_after_ms: f64,
    /// The search that was repeated.
    pub(super) query: String,
    /// Documents found before and after.
    pub(super) documents_before: u32,
    /// See there.
    pub(super) documents_after: u32,
}

/// Kills the worker and repeats a search; `None` where there is nothing to search for, or the worker cannot be killed.
pub(super) fn kill_and_search(
    server: &OwnServer,
    process: &Process,
    before: Option<&Searched>,
    interruption: &Interruption,
) -> Result<Option<Killed>, Failure> {
    let Some(before) = before else { return Ok(None) };
    let client = Client::connect(super::options(server))?;
    let start = Instant::now();
    let Some(pid) = kill_worker(server, &client, process.id())? else { return Ok(None) };
    let after = searching::search(process, &before.query, interruption)?;
    Ok(Some(Killed {
        pid,
        answered_after_ms: start.elapsed().as_secs_f64() * 1e3,
        query: after.query,
        documents_before: before.documents,
        documents_after: after.documents,
    }))
}

/// Kills the worker of a process; `None` where it cannot be found or killed.
pub(super) fn kill_worker(server: &OwnServer, client: &Client, id: ProcessId) -> Result<Option<u32>, Failure> {
    let status = client.list()?.into_iter().find(|status| status.process == id);
    let Some(pid) = status.and_then(|status| status.worker_pids.first().copied()) else { return Ok(None) };
    let Ok(worker) = Pidfd::open(pid) else { return Ok(None) };
    // A number may have passed to somebody else by now; what the descriptor means is a child of the server, or is spared.
    let is_worker = parent_of(pid) == Some(server.pid()) && worker.is_alive();
    Ok((is_worker && worker.kill().is_ok()).then_some(pid))
}

/// The parent of an operating-system process, as the kernel tells it.
fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
