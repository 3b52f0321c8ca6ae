//! `praas demo`: the main job on real input, told step by step, with latencies beside the machine's own floors.
//!
//! 1. The server is a real one: a child of this process, with a data directory of its own in the directory for temporary
//!    files. The workers run this very program again, as `praas demo-worker`.
//! 2. Nothing is left behind, whichever way this ends: the server ends with its standard input, which this process holds,
//!    and removes its directory; workers and floors' peers die with whoever started them.
//! 3. Ctrl-C is seen between calls and between rounds of measurement, and ends the demo the same way as its end does.

mod indexing;
mod interruption;
mod killing;
mod measuring;
mod own_server;
mod searching;
mod sending;
mod sleeping;
mod story;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use praas_client::{Client, ConnectOptions, Process, ProcessId, Transport};
use serde::Serialize;

use crate::command::Context;
use crate::command::new::checkout;
use crate::demo::application::APPLICATION;
use crate::demo::queries::WordCensus;
use crate::failure::Failure;
use crate::limits::{DEMO_CALL_MAX, DEMO_QUERIES_MEASURED, DEMO_START_MAX};

use indexing::Indexed;
use interruption::Interruption;
use killing::Killed;
use measuring::LatencyTable;
use own_server::OwnServer;
use searching::Searched;
use sending::Sent;
use sleeping::Slept;
use story::Story;

/// The process of the demo within its application.
const PROCESS: &str = "library";

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Shows what praas does on real input, and how fast. It starts a server for itself alone, creates a process, fills it with a \
full-text index over the text files below PATH with one function, searches it with another, kills the worker to show that \
nothing is lost, sends results to a second process as messages, measures calls beside what this machine can do at best, and puts \
the process to sleep and searches it again, which wakes it. It leaves nothing behind.";

const EXAMPLES: &str = "\
Examples:
  praas demo                           praas' own sources when run among them, else the current directory
  praas demo ~/documents
  praas demo --json | jq .latency";

/// Arguments of `praas demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArguments {
    /// A directory with text files, or one text file
    pub path: Option<PathBuf>,
}

/// Everything the demo found, for programs.
#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    process_created_ms: f64,
    indexed: Indexed,
    searches: Vec<Searched>,
    killed: Option<Killed>,
    sent: Option<Sent>,
    #[serde(flatten)]
    latency: LatencyTable,
    slept: Option<Slept>,
    left_behind: Vec<String>,
}

/// Runs the demo.
///
/// # Errors
/// [`Failure`]; also then nothing is left behind.
pub fn demo(context: &Context, arguments: &DemoArguments) -> Result<(), Failure> {
    // Before any thread starts: all of them are to leave these signals to the queue.
    let interruption = Interruption::watch()?;
    let path = arguments.path.clone().map_or_else(default_path, Ok)?;
    let story = Story::new(context.output());
    let found = tell(&story, &interruption, path);
    // Ctrl-C reaches the floors' peers too; what they then do is not the reason.
    let mut report =
        found.map_err(|failure| if interruption.came_by_now() { Failure::Interrupted } else { failure })?;
    report.left_behind = story.end()?;
    context.output().value(&report)
}

fn tell(story: &Story, interruption: &Interruption, path: PathBuf) -> Result<Report, Failure> {
    story.title()?;
    let corpus = indexing::list(&path)?;
    let mut server = OwnServer::start(interruption)?;
    story.server(&server)?;
    let (process, process_created_ms) = create_process(&server)?;
    story.process(process.id(), process_created_ms)?;
    let mut census = WordCensus::new();
    let indexed = indexing::index(&process, corpus, &mut census, interruption)?;
    story.indexed(&path, &indexed)?;
    if indexed.documents == 0 {
        return Err(Failure::NothingToIndex { path });
    }
    let queries = census.queries(DEMO_QUERIES_MEASURED);
    let searches = searching::show(&process, &queries, interruption)?;
    story.searched(&searches)?;
    let killed = killing::kill_and_search(&server, &process, searches.first(), interruption)?;
    story.killed(killed.as_ref())?;
    let sent = sending::send_and_receive(&server, &process, &searches, interruption)?;
    story.sent(process.id(), sent.as_ref())?;
    let remote = remote_process(&server, process.id());
    let latency = measuring::measure(&process, &remote, &queries, interruption)?;
    story.latency(&latency)?;
    let slept = sleeping::swap_and_search(&server, &process, searches.first(), interruption)?;
    story.slept(process.id(), slept.as_ref())?;
    drop(process);
    server.stop()?;
    story.note_leftovers(server.leftovers());
    Ok(Report { path, process_created_ms, indexed, searches, killed, sent, latency, slept, left_behind: Vec::new() })
}

fn create_process(server: &OwnServer) -> Result<(Process, f64), Failure> {
    let client = Client::connect(options(server))?;
    let id = process_id(PROCESS)?;
    let start = Instant::now();
    client.create(id)?;
    let took_ms = start.elapsed().as_secs_f64() * 1e3;
    Ok((client.process(id)?, took_ms))
}

/// A process of the demo.
fn process_id(name: &str) -> Result<ProcessId, Failure> {
    format!("{APPLICATION}/{name}")
        .parse()
        .map_err(|error: praas_client::NameError| Failure::Usage { message: error.to_string() })
}

fn options(server: &OwnServer) -> ConnectOptions {
    ConnectOptions::new()
        .data_directory(server.data_directory())
        .call_deadline(DEMO_CALL_MAX)
        .lifecycle_deadline(DEMO_START_MAX)
}

/// The same process as a client on another host reaches it; why not, if not.
fn remote_process(server: &OwnServer, id: ProcessId) -> Result<Process, String> {
    let address = server.address().ok_or("the server serves no network")?;
    let client = Client::connect(options(server).address(address).transport(Transport::Network));
    client.map_err(|error| error.to_string())?.process(id).map_err(|error| error.to_string())
}

/// The sources of praas when this is run among them, else the current directory.
fn default_path() -> Result<PathBuf, Failure> {
    let current = std::env::current_dir().map_err(Failure::host("finding the current directory"))?;
    Ok(checkout().filter(|checkout| current.starts_with(checkout)).unwrap_or(current))
}
