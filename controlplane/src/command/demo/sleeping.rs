//! The index is put to sleep, and answers the same search when it is woken.

use std::time::Instant;

use praas_client::{Client, Process, ProcessState};
use serde::Serialize;

use super::interruption::Interruption;
use super::own_server::OwnServer;
use super::searching::{self, Searched};
use crate::failure::Failure;
use crate::limits::TRANSITION_LOOK_MAX;

/// What it cost to put the process to sleep and to wake it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Slept {
    /// From the order to the answer that it sleeps: nothing of it is in memory then.
    pub(super) swapped_ms: f64,
    /// What was stored for it.
    pub(super) stored_bytes: u64,
    /// Its workers while it slept.
    pub(super) workers_asleep: u32,
    /// From the search to its answer: the search wakes the process.
    pub(super) answered_after_ms: f64,
    /// The search.
    pub(super) query: String,
    /// Documents found before and after.
    pub(super) documents_before: u32,
    /// See there.
    pub(super) documents_after: u32,
}

/// Puts the process to sleep and repeats a search; `None` where there is nothing to search for.
pub(super) fn swap_and_search(
    server: &OwnServer,
    process: &Process,
    before: Option<&Searched>,
    interruption: &Interruption,
) -> Result<Option<Slept>, Failure> {
    let Some(before) = before else { return Ok(None) };
    interruption.check()?;
    let client = Client::connect(super::options(server))?;
    let mut transitions = client.watch(Some(process.id()))?;
    let start = Instant::now();
    client.swap(process.id())?;
    let swapped_ms = start.elapsed().as_secs_f64() * 1e3;
    let news = transitions.next(TRANSITION_LOOK_MAX)?.unwrap_or_default();
    let asleep = news.transitions.iter().rfind(|transition| transition.to == Some(ProcessState::Swapped));
    let status = client.list()?.into_iter().find(|status| status.process == process.id());
    let start = Instant::now();
    let after = searching::search(process, &before.query, interruption)?;
    Ok(Some(Slept {
        swapped_ms,
        stored_bytes: asleep.map_or(0, |transition| transition.bytes),
        workers_asleep: status.map_or(0, |status| status.workers),
        answered_after_ms: start.elapsed().as_secs_f64() * 1e3,
        query: after.query,
        documents_before: before.documents,
        documents_after: after.documents,
    }))
}
