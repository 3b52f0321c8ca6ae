//! Results go from process to process as messages; the receiver is killed before it has read them, and nothing is lost.

use std::time::Instant;

use praas_client::{Client, Process, ProcessId};
use serde::Serialize;

use super::interruption::Interruption;
use super::killing;
use super::own_server::OwnServer;
use super::searching::Searched;
use crate::demo::application::{RECEIVE, SEND};
use crate::demo::messages::{ReceivedResults, SearchQuery, SendOrder};
use crate::failure::Failure;
use crate::limits::DEMO_HITS_SHOWN;

/// The process that gets the results.
const READER: &str = "reader";

/// What became of results that were sent from one process to another.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sent {
    /// The process that was to have them.
    pub(super) to: ProcessId,
    /// How many results were sent.
    pub(super) sent: u32,
    /// Its worker, which was killed with all messages unread; none where that could not be done.
    pub(super) killed_pid: Option<u32>,
    /// The process that the messages said they came from.
    pub(super) from: Vec<String>,
    /// The searches whose results came, in the order in which they came, each with the number of documents.
    pub(super) received: Vec<(String, u32)>,
    /// From the call that asks for them to its answer.
    pub(super) answered_after_ms: f64,
}

/// Has the results of `searches` sent to a second process, kills that one's worker, and asks it for what it got.
pub(super) fn send_and_receive(
    server: &OwnServer,
    library: &Process,
    searches: &[Searched],
    interruption: &Interruption,
) -> Result<Option<Sent>, Failure> {
    if searches.is_empty() {
        return Ok(None);
    }
    interruption.check()?;
    let client = Client::connect(super::options(server))?;
    let id = super::process_id(READER)?;
    client.create(id)?;
    let reader = client.process(id)?;
    for search in searches {
        interruption.check()?;
        let query = SearchQuery { text: search.query.clone(), limit: DEMO_HITS_SHOWN };
        library.invoke_typed::<_, u32>(SEND, &SendOrder { query, to: READER.to_owned() })?;
    }
    let killed_pid = killing::kill_worker(server, &client, id)?;
    let count = u32::try_from(searches.len()).unwrap_or(u32::MAX);
    let start = Instant::now();
    let received = reader.invoke_typed::<_, ReceivedResults>(RECEIVE, &count)?.to_value()?;
    let answered_after_ms = start.elapsed().as_secs_f64() * 1e3;
    let (from, received): (Vec<_>, Vec<_>) =
        received.results.into_iter().map(|(from, sent)| (from, (sent.query, sent.result.matches_total))).unzip();
    client.stop(id)?;
    Ok(Some(Sent { to: id, sent: count, killed_pid, from, received, answered_after_ms }))
}
