//! The latency table: the demo's two kinds of call beside what this machine can do at best, in alternating rounds of one
//! run, timed by the same code.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use praas_benches::floors::{
    Batch, Config, FloorError, MessageQueue, PingPong, Placement, Samples, TcpEcho, UnixSocket, Waiting, timed,
};
use praas_benches::interleave::{Measured, Series, SeriesError, Turn, interleave};
use praas_client::Process;
use serde::Serialize;

use super::interruption::Interruption;
use crate::demo::application::{NOOP, SEARCH};
use crate::demo::messages::{SearchQuery, SearchResult};
use crate::failure::Failure;
use crate::latency::LatencyFigures;
use crate::limits::{DEMO_HITS_MEASURED, DEMO_MEASURE_MAX, DEMO_ROUNDS_MAX, DEMO_ROUNDS_MIN};

/// Bytes of a no-op's payload and of its answer, as the floors send.
const NOOP_BYTES: usize = 64;

/// Rows of the table, each with its figures or the reason why it has none.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LatencyTable {
    /// Calls of the demo, then floors.
    pub(super) latency: Vec<LatencyRow>,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct LatencyRow {
    /// A name for programs.
    pub(super) id: &'static str,
    /// A name for people.
    pub(super) name: &'static str,
    /// Whether this is the machine's, not praas'.
    pub(super) floor: bool,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) figures: Option<LatencyFigures>,
    /// Why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) skipped: Option<String>,
}

impl LatencyTable {
    /// The median of a row.
    pub(super) fn p50_ns(&self, id: &str) -> Option<f64> {
        self.latency.iter().find(|row| row.id == id)?.figures.map(|figures| figures.p50_ns)
    }
}

/// What is measured, and how much of it in each round.
struct Plan<'a> {
    id: &'static str,
    name: &'static str,
    floor: bool,
    batch: Batch,
    series: Result<Box<dyn Series + 'a>, String>,
}

/// Measures everything.
pub(super) fn measure(
    process: &Process,
    remote: &Result<Process, String>,
    queries: &[String],
    interruption: &Interruption,
) -> Result<LatencyTable, Failure> {
    let mut plans = calls(Ok(process), [NOOP_ROW, SEARCH_ROW], queries, interruption);
    let remote = remote.as_ref().map_err(Clone::clone);
    plans.extend(calls(remote, [TCP_NOOP_ROW, TCP_SEARCH_ROW], queries, interruption));
    plans.extend(floors(interruption));
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for plan in &mut plans {
        if let Ok(series) = &mut plan.series {
            turns.push(Turn::new(series.as_mut(), plan.batch));
        }
    }
    let samples = alternate(&mut turns, interruption)?;
    drop(turns);
    let mut measured = samples.iter().map(LatencyFigures::from);
    let mut row = |plan: Plan<'_>| {
        let (figures, skipped) = match plan.series {
            Ok(_) => (measured.next(), None),
            Err(reason) => (None, Some(reason)),
        };
        LatencyRow { id: plan.id, name: plan.name, floor: plan.floor, figures, skipped }
    };
    Ok(LatencyTable { latency: plans.into_iter().map(&mut row).collect() })
}

/// All turns in rounds, the order changing from one to the next, until there are enough of them or the time is up.
fn alternate(turns: &mut [Turn<'_>], interruption: &Interruption) -> Result<Vec<Samples>, Failure> {
    let start = Instant::now();
    let bar = progress_bar();
    let mut all: Vec<Samples> = Vec::new();
    for pair in 1..=DEMO_ROUNDS_MAX / DEMO_ROUNDS_MIN {
        let outcomes = interleave(DEMO_ROUNDS_MIN, turns, |_| bar.inc(1));
        interruption.check()?;
        let found = outcomes?.into_iter().map(|outcome| outcome.samples);
        if pair == 1 {
            all.extend(found);
        } else {
            all.iter_mut().zip(found).for_each(|(samples, more)| samples.merge(&more));
        }
        if start.elapsed() > DEMO_MEASURE_MAX {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(all)
}

/// A kind of call: a name for programs, a name for people, and calls of each round.
type CallRow = (&'static str, &'static str, u64);

const NOOP_ROW: CallRow = ("noop", "no-op call, 64 bytes there and back", 5_000);
const SEARCH_ROW: CallRow = ("search", "search call, up to 10 hits", 1_000);
const TCP_NOOP_ROW: CallRow = ("tcp_noop", "no-op call over TCP, as from another host", 1_000);
const TCP_SEARCH_ROW: CallRow = ("tcp_search", "search call over TCP", 500);

/// Both kinds of call to a process, by whichever way it is reached.
fn calls<'a>(
    process: Result<&'a Process, String>,
    [noop_row, search_row]: [CallRow; 2],
    queries: &[String],
    interruption: &'a Interruption,
) -> Vec<Plan<'a>> {
    let queries: Vec<SearchQuery> =
        queries.iter().map(|text| SearchQuery { text: text.clone(), limit: DEMO_HITS_MEASURED }).collect();
    let plan = |(id, name, samples): CallRow, series: Result<Box<dyn Series + 'a>, String>| Plan {
        id,
        name,
        floor: false,
        batch: Batch { warm_up: samples / 20, samples },
        series: series.map(|series| watched(series, interruption)),
    };
    vec![
        plan(noop_row, process.clone().map(|process| Box::new(noop_series(process)) as Box<dyn Series + 'a>)),
        plan(search_row, process.map(|process| Box::new(search_series(process, queries)) as Box<dyn Series + 'a>)),
    ]
}

fn noop_series(process: &Process) -> impl Series + '_ {
    let payload = [0x5a; NOOP_BYTES];
    let noop = move |batch| timed(batch, || process.invoke(NOOP, &payload).map(drop)).map_err(SeriesError::from);
    Measured::new("noop", noop)
}

fn search_series(process: &Process, queries: Vec<SearchQuery>) -> impl Series + '_ {
    let mut turn = 0;
    let search = move |batch| {
        timed(batch, || {
            turn += 1;
            process.invoke_typed::<_, SearchResult>(SEARCH, &queries[turn % queries.len()]).map(drop)
        })
        .map_err(SeriesError::from)
    };
    Measured::new("search", search)
}

/// The floors, each between two processes with a core each, where calls run too when the machine is idle. On one core,
/// where two sides that spin would measure its time slices, the others run where the scheduler puts them.
fn floors(interruption: &Interruption) -> Vec<Plan<'_>> {
    let spinning = Placement::two_cores().and_then(|cores| PingPong::open(Waiting::Spin, &Config::new(cores)));
    let config = Config::new(Placement::two_cores().unwrap_or(Placement::Free));
    let plan = |id, name, samples, series: Result<Box<dyn Series>, String>| Plan {
        id,
        name,
        floor: true,
        batch: Batch { warm_up: samples / 20, samples },
        series: series.map(|series| watched(series, interruption)),
    };
    vec![
        plan("shared_memory", "shared memory, both sides spin", 5_000, opened(spinning)),
        plan("futex", "shared memory, both sides sleep (futex)", 1_000, opened(PingPong::open(Waiting::Park, &config))),
        plan("message_queue", "POSIX message queue", 1_000, opened(MessageQueue::open(&config))),
        plan("unix_socket", "Unix socket", 1_000, opened(UnixSocket::open(&config))),
        plan("tcp", "TCP on loopback", 1_000, opened(TcpEcho::open(Waiting::Park, &config))),
    ]
}

/// A floor that a host does not have is a row without figures, not a failure.
fn opened<S: Series + 'static>(floor: Result<S, FloorError>) -> Result<Box<dyn Series>, String> {
    floor.map(|floor| Box::new(floor) as Box<dyn Series>).map_err(|error| error.to_string())
}

/// A series whose every round first looks whether the demo was interrupted.
struct Watched<'a> {
    series: Box<dyn Series + 'a>,
    interruption: &'a Interruption,
}

fn watched<'a>(series: Box<dyn Series + 'a>, interruption: &'a Interruption) -> Box<dyn Series + 'a> {
    Box::new(Watched { series, interruption })
}

impl Series for Watched<'_> {
    fn label(&self) -> String {
        self.series.label()
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        self.interruption.check()?;
        self.series.round(batch)
    }
}

/// A bar on standard error, where that is a terminal; drawn between rounds only.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(u64::from(DEMO_ROUNDS_MAX));
    let style = ProgressStyle::with_template("   measuring {bar:40} round {pos} of {len}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.tick();
    bar
}
