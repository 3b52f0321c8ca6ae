//! `allocation`: how long it takes until a new process answers its first call, while others are alive. The paper's section 6.6.

use std::rc::Rc;

use praas_benches::floors::{Batch, Clock, Config, Placement, Samples, Spawn, TRIVIAL_PROGRAM};
use praas_benches::interleave::SeriesError;
use praas_benches::subject::{RunningServer, SubjectError, Trust, call_noop};
use praas_client::{Client, Process, ProcessId, WaitMode};

use super::{Plot, small_lanes};
use crate::harness::one_way::halves;
use crate::harness::{Entry, Key, Run};
use crate::report::build::{Axes, lines_by_x};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "allocation";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "A new process, while others are alive", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "The clock runs from a client's wish for a process to the reply of its first call (64 B, checked): the \
    server starts a worker in its sandbox, the client gets a lane to it, and calls. No worker is started beforehand. The first \
    call alone is shown as well. Stopping the process again is not counted. Beside it 0 to 120 processes of the same server are \
    alive, each of which was called once over a lane that stays open, and sleeps. The worker is this very program, which is \
    large; where the workspace's smallest function binary was built (`cargo build --release -p praas-benches`) it is measured as \
    well: the difference is the loading of a program. The paper's figures are medians of five allocations of a pod of Kubernetes, \
    over the number of pods.";

const TOTAL: &str = "praas create to first reply";
const FIRST_CALL: &str = "praas, first call only";
const SMALL_TOTAL: &str = "praas create to first reply, smallest worker";
const SMALL_FIRST_CALL: &str = "praas, first call only, smallest worker";
const FLOOR: &str = "vfork + exec of /bin/true";

/// Live processes of the last group.
const LIVE_MAX: u32 = 120;
/// Between one group and the next.
const LIVE_STEP: u32 = 10;
/// Processes created in a full round.
const SAMPLES: u64 = 10;
/// Trivial programs in a full round.
const FLOOR_SAMPLES: u64 = 40;

fn measure(run: &mut Run) {
    let fleet = match Fleet::start() {
        Ok(fleet) => Rc::new(fleet),
        Err(error) => {
            for series in [TOTAL, FIRST_CALL] {
                run.absent(&Key::ours(ID, series), error.to_string());
            }
            return;
        }
    };
    let mut alive = Vec::new();
    for live in (0..=LIVE_MAX).step_by(LIVE_STEP as usize) {
        let grown = fleet.grow(&mut alive, live);
        let at = |key: Key| key.placement(&Placement::Free).x("live processes", f64::from(live));
        let ours = |series: &str| at(Key::ours(ID, series)).wait("adaptive (default)").payload_bytes(64);
        if let Err(error) = grown {
            let reason = format!("only {} processes could be kept alive: {error}", alive.len());
            run.next_group();
            run.absent(&ours(TOTAL), reason.clone());
            run.absent(&ours(FIRST_CALL), reason);
            continue;
        }
        let batch = run.settings().batch(SAMPLES);
        let floor = Spawn::open(&Config::new(Placement::Free), TRIVIAL_PROGRAM.as_ref());
        let key = at(Key::floor(ID, FLOOR)).wait("the parent sleeps until the child has ended");
        let mut entries = vec![Entry::opened(key, run.settings().batch(FLOOR_SAMPLES), floor)];
        let mut add = |names: [&str; 2], worker: Worker| {
            let fleet = Rc::clone(&fleet);
            let measured = halves(names[0], move |batch| fleet.allocations(worker, batch));
            for (name, half) in names.into_iter().zip(measured) {
                entries.push(Entry::new(ours(name).note(worker.note()), batch, half));
            }
        };
        add([TOTAL, FIRST_CALL], Worker::ThisProgram);
        if fleet.server.new_small_id().is_some() {
            add([SMALL_TOTAL, SMALL_FIRST_CALL], Worker::Smallest);
        }
        run.measure(&format!("{ID}, {live} live"), entries);
    }
}

/// What a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    ThisProgram,
    Smallest,
}

impl Worker {
    fn note(self) -> String {
        let program = match self {
            Self::ThisProgram => std::env::current_exe(),
            Self::Smallest => std::env::current_exe().map(|program| program.with_file_name("noop-worker")),
        };
        let bytes = program.and_then(std::fs::metadata).map_or(0, |file| file.len());
        format!("The worker is a program of {}.", readable::figure(bytes as f64, "bytes"))
    }
}

/// A server and its client.
struct Fleet {
    // Before the server, which both are connected to.
    client: Client,
    /// The client of those that stay alive.
    keeper: Client,
    server: RunningServer,
}

impl Fleet {
    fn start() -> Result<Self, SubjectError> {
        let server = RunningServer::start()?;
        Ok(Self { client: server.connect(Trust::Trusted)?, keeper: small_lanes::connect(&server)?, server })
    }

    /// Makes processes until so many are alive.
    fn grow(&self, alive: &mut Vec<Process>, live: u32) -> Result<(), SubjectError> {
        while alive.len() < live as usize {
            let id = self.server.new_id(WaitMode::Adaptive);
            self.keeper.create(id)?;
            let process = self.keeper.process(id)?;
            call_noop(&process, alive.len() as u64)?;
            alive.push(process);
        }
        Ok(())
    }

    fn new_id(&self, worker: Worker) -> Result<ProcessId, SeriesError> {
        match worker {
            Worker::ThisProgram => Ok(self.server.new_id(WaitMode::Adaptive)),
            Worker::Smallest => {
                self.server.new_small_id().ok_or_else(|| "the smallest worker has gone from beside this program".into())
            }
        }
    }

    /// Processes made one after the other: to the first reply, and the first call alone.
    fn allocations(&self, worker: Worker, batch: Batch) -> Result<[Samples; 2], SeriesError> {
        let (clock, mut samples) = (Clock::calibrated(), [Samples::empty(1), Samples::empty(1)]);
        for number in 0..batch.operations() {
            let id = self.new_id(worker)?;
            let wished = clock.ticks();
            self.client.create(id).map_err(SubjectError::from)?;
            let process = self.client.process(id).map_err(SubjectError::from)?;
            let called = clock.ticks();
            call_noop(&process, number)?;
            let answered = clock.ticks();
            drop(process);
            self.client.stop(id).map_err(SubjectError::from)?;
            if number >= batch.warm_up {
                samples[0].record(clock.ns_between(wished, answered));
                samples[1].record(clock.ns_between(called, answered));
            }
        }
        Ok(samples)
    }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = Axes {
        x_label: "Live processes (the paper's: pods)",
        y_label: "Until the first reply",
        x_logarithmic: false,
        y_logarithmic: true,
    };
    let title = "Allocation, by what is alive (medians)";
    lines_by_x(rows, ID, title, &axes, &[TOTAL, SMALL_TOTAL, FIRST_CALL, FLOOR])
}

fn meaning(rows: &Rows) -> Option<String> {
    let at = |series, live: u32| rows.at(ID, series, f64::from(live), None)?.p50;
    let (alone, crowded) = (at(TOTAL, 0)?, at(TOTAL, LIVE_MAX)?);
    let floor = at(FLOOR, 0)?;
    let mut words = format!(
        "A new process answers its first call {} after it was asked for, and {} beside {LIVE_MAX} others: {} the time of \
         starting and ending {TRIVIAL_PROGRAM}",
        readable::span_ns(alone),
        readable::span_ns(crowded),
        readable::times(alone / floor),
    );
    if let Some(small) = at(SMALL_TOTAL, 0) {
        words += &format!("; of a small program {}", readable::span_ns(small));
    }
    Some(words + ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Kind, Row};

    fn row(series: &str, live: u32, p50: f64) -> Row {
        let mut run = Run::new("test".to_owned(), praas_benches::bars::Settings { quick: true });
        run.add_figures(&Key::ours(ID, series).x("live processes", f64::from(live)), "ns", &[p50]);
        let row = run.finish().0.all()[0].clone();
        if series == FLOOR { Row { kind: Kind::Floor, ..row } } else { row }
    }

    #[test]
    fn the_sentence_needs_both_ends_and_the_floor() {
        let mut rows = vec![row(TOTAL, 0, 1.5e6), row(FLOOR, 0, 0.5e6)];
        assert_eq!(meaning(&Rows::new(rows.clone())), None);
        rows.push(row(TOTAL, LIVE_MAX, 1.6e6));
        let words = meaning(&Rows::new(rows)).expect("all is there");
        assert!(
            words.contains("1.50 ms") && words.contains("1.60 ms beside 120") && words.contains("3.00 ×"),
            "{words}"
        );
    }
}
