//! `density`: what idle processes take of the machine, and how quickly one of many answers.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use praas_benches::floors::{Batch, FloorError, Placement, Samples, allow_connections, timed};
use praas_benches::interleave::{Measured, SeriesError};
use praas_benches::subject::{CpuTime, Footprint, RunningServer, SubjectError, call_noop, descendants_of};
use praas_client::{Client, Process, ProcessId, WaitMode};

use super::{Plot, small_lanes};
use crate::harness::{Entry, Key, Run};
use crate::report::build::{Axes, lines_by_x};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "density";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "Many idle processes on one host", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "Processes of one worker each are created until so many are alive; each is called once over a lane (for \
    payloads up to 64 KiB) that stays open, and then nobody calls. Memory is the kernel's proportional share (PSS) of server, keeper and all workers, and \
    their shared segments once more (so pages of segments that are mapped count twice: an upper bound), less what the server \
    took without processes, divided by the processes. Processor time is the scheduler's account of all of them over some \
    seconds without calls. Calls go to a process drawn at random for each (64 B, checked), one at a time, over shared memory \
    with default settings: a worker that was called a moment ago still spins, any other one sleeps. The worker is this very \
    program; where the workspace's smallest function binary was built (`cargo build --release -p praas-benches`) its memory is \
    measured as well, because every page of a program that the loader has to change is each process's own. The floor is a \
    process of `sleep`, which is not sandboxed, watched, or callable.";

const MEMORY: &str = "praas, memory of each process";
const SMALL_MEMORY: &str = "praas, memory of each process, smallest worker";
const FLOOR_MEMORY: &str = "idle process of sleep";
const PROCESSOR: &str = "praas, processor time of all while idle";
const CALL: &str = "praas, call to a random process";

const COUNTS: [u32; 7] = [1, 10, 50, 100, 200, 350, 500];
/// At these, processor time is looked at.
const WATCHED_COUNTS: [u32; 2] = [100, 500];
/// Between the last call and the first look: whatever follows a call is over then.
const SETTLING: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(10);
const WATCHED_QUICK: Duration = Duration::from_secs(3);
/// Calls of a full round.
const SAMPLES: u64 = 5_000;
/// Processes of the floor.
const SLEEPERS: u32 = 50;
/// How long those live at most, in case this program is killed.
const SLEEPER_SECONDS: &str = "60";
/// Descriptors that a server and its client each keep for a process, at most.
const DESCRIPTORS_PER_PROCESS: usize = 12;
/// Of the generator that chooses processes: the same ones in every run.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn measure(run: &mut Run) {
    // Before the server starts, which inherits the limit.
    let last = COUNTS[COUNTS.len() - 1] as usize;
    let allowed = allow_connections(last * DESCRIPTORS_PER_PROCESS).map_err(|error| error.to_string());
    add_floor(run);
    for (worker, series) in [(Worker::ThisProgram, MEMORY), (Worker::Smallest, SMALL_MEMORY)] {
        let opened = allowed.clone().and_then(|_| Population::open(worker).map_err(|error| error.to_string()));
        match opened {
            Ok(Some(population)) => population.measure(run, series),
            // Nobody built it.
            Ok(None) => eprintln!("{ID}: {series} is left out: build it by `cargo build --release -p praas-benches`"),
            Err(reason) => run.absent(&Key::ours(ID, series), reason),
        }
    }
}

fn add_floor(run: &mut Run) {
    let key = Key::floor(ID, FLOOR_MEMORY).placement(&Placement::Free).wait("asleep");
    let key = key.x("live processes", f64::from(SLEEPERS));
    run.next_group();
    let found = Sleepers::start().map_err(|error| error.to_string()).and_then(|sleepers| {
        // They have loaded their libraries when they sleep.
        thread::sleep(SETTLING);
        Footprint::of(&sleepers.ids()).map_err(|error| error.to_string())
    });
    match found {
        Ok(footprint) => run.add_figures(&key, "bytes", &[footprint.pss_bytes as f64 / f64::from(SLEEPERS)]),
        Err(reason) => run.absent(&key, reason),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    ThisProgram,
    Smallest,
}

/// A server with processes that do nothing.
struct Population {
    worker: Worker,
    processes: Vec<Process>,
    // Before the server, which it is connected to.
    client: Client,
    server: RunningServer,
    /// What server and keeper took before there were processes.
    before_bytes: u64,
}

impl Population {
    /// `None` if there is no such worker.
    fn open(worker: Worker) -> Result<Option<Self>, SubjectError> {
        let server = RunningServer::start()?;
        if worker == Worker::Smallest && server.new_small_id().is_none() {
            return Ok(None);
        }
        let client = small_lanes::connect(&server)?;
        let mut population = Self { worker, processes: Vec::new(), client, server, before_bytes: 0 };
        population.before_bytes = population.bytes()?;
        Ok(Some(population))
    }

    fn measure(mut self, run: &mut Run, memory: &'static str) {
        let is_watched = self.worker == Worker::ThisProgram;
        for count in COUNTS {
            run.next_group();
            let at = |key: Key| {
                let key = key.placement(&Placement::Free).wait("adaptive (default): asleep while idle");
                key.x("live processes", f64::from(count))
            };
            let found = self.grow(count).and_then(|()| {
                thread::sleep(SETTLING);
                Ok((self.bytes()?.saturating_sub(self.before_bytes)) as f64 / f64::from(count))
            });
            let memory = at(Key::ours(ID, memory));
            match found {
                Ok(bytes) => run.add_figures(&memory, "bytes", &[bytes]),
                Err(error) => {
                    let alive = self.processes.len();
                    run.absent(&memory, format!("this host keeps {alive} processes alive, and not more: {error}"));
                    return;
                }
            }
            if is_watched && WATCHED_COUNTS.contains(&count) {
                let watched = if run.settings().quick { WATCHED_QUICK } else { WATCHED };
                let key = at(Key::ours(ID, PROCESSOR));
                match self.processor_percent(watched) {
                    Ok(percent) => run.add_figures(&key, "% of a core", &[percent]),
                    Err(error) => run.absent(&key, error.to_string()),
                }
            }
            if is_watched {
                let processes = self.processes.clone();
                let mut state = SEED;
                let calls = Measured::new(CALL, move |batch| call_random(&processes, &mut state, batch));
                let key = at(Key::ours(ID, CALL)).payload_bytes(64);
                run.measure(
                    &format!("{ID}, {count} live"),
                    vec![Entry::new(key, run.settings().batch(SAMPLES), calls)],
                );
            }
        }
    }

    fn grow(&mut self, count: u32) -> Result<(), SubjectError> {
        while self.processes.len() < count as usize {
            let id = self.new_id();
            self.client.create(id)?;
            let process = self.client.process(id)?;
            call_noop(&process, self.processes.len() as u64)?;
            self.processes.push(process);
        }
        Ok(())
    }

    fn new_id(&self) -> ProcessId {
        let small = || self.server.new_small_id();
        let chosen = if self.worker == Worker::Smallest { small() } else { None };
        chosen.unwrap_or_else(|| self.server.new_id(WaitMode::Adaptive))
    }

    fn bytes(&self) -> Result<u64, SubjectError> {
        let footprint = Footprint::of(&descendants_of(self.server.process_id())?)?;
        Ok(footprint.pss_bytes + footprint.segment_bytes)
    }

    fn processor_percent(&self, watched: Duration) -> Result<f64, SubjectError> {
        let all = descendants_of(self.server.process_id())?;
        let (start, before) = (Instant::now(), CpuTime::of(&all)?);
        thread::sleep(watched);
        let used = CpuTime::of(&all)?.0.saturating_sub(before.0);
        Ok(100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64())
    }
}

/// A round of calls, each to a process drawn by chance.
fn call_random(processes: &[Process], state: &mut u64, batch: Batch) -> Result<Samples, SeriesError> {
    let mut number = 0;
    Ok(timed(batch, || {
        number += 1;
        call_noop(&processes[below(state, processes.len())], number)
    })?)
}

/// A number below `count` (xorshift).
fn below(state: &mut u64, count: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from((u128::from(*state) * count as u128) >> 64).unwrap_or(0)
}

/// Processes that sleep; they end when dropped.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start() -> Result<Self, FloorError> {
        let mut sleepers = Self(Vec::new());
        for _ in 0..SLEEPERS {
            let started = Command::new("sleep").arg(SLEEPER_SECONDS).stdin(Stdio::null()).spawn();
            let started = started.map_err(|source| FloorError::System { action: "start `sleep`", source })?;
            sleepers.0.push(started);
        }
        Ok(sleepers)
    }

    fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Our own child, which nobody has waited for: no other process is meant, and the wait is short.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = |y_label| Axes { x_label: "Live processes", y_label, x_logarithmic: false, y_logarithmic: false };
    let memory = lines_by_x(
        rows,
        ID,
        "Memory of each idle process",
        &axes("Memory of each"),
        &[MEMORY, SMALL_MEMORY, FLOOR_MEMORY],
    );
    let call = lines_by_x(rows, ID, "A call to one of many, drawn by chance", &axes("Round trip"), &[CALL]);
    [memory, call].concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    let at = |series, count: u32| rows.at(ID, series, f64::from(count), None).and_then(|row| row.p50);
    let count = COUNTS.into_iter().rev().find(|count| at(MEMORY, *count).is_some())?;
    let (memory, call) = (at(MEMORY, count)?, at(CALL, count)?);
    let mut words = format!(
        "{count} idle processes take {} each, and a call to one of them drawn by chance takes {}",
        readable::figure(memory, "bytes"),
        readable::span_ns(call),
    );
    if let Some(percent) = at(PROCESSOR, count) {
        words += &format!("; all together they use {} % of a core", readable::digits(percent));
    }
    Some(words + ".")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_process_is_called_sooner_or_later_and_no_other_one() {
        let mut state = SEED;
        let drawn: BTreeSet<usize> = (0..5_000).map(|_| below(&mut state, 100)).collect();
        assert_eq!(drawn, (0..100).collect());
    }

    #[test]
    fn sleepers_end_with_their_owner() {
        let sleepers = Sleepers::start().expect("there is `sleep`");
        let ids = sleepers.ids();
        assert_eq!(ids.len(), SLEEPERS as usize);
        drop(sleepers);
        assert!(ids.iter().all(|id| !std::path::Path::new(&format!("/proc/{id}")).exists()));
    }
}
