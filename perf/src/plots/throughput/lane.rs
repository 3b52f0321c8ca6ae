//! One thread that keeps calls in flight over a lane of shared memory, both sides spinning.

use std::rc::Rc;

use praas_benches::floors::{BareRing, Batch, CALLS_PER_SAMPLE, Config, IN_FLIGHT, Placement, Samples, timed_groups};
use praas_benches::interleave::{Measured, SeriesError};
use praas_benches::subject::{Lane, LanePlan, RunningServer, SubjectError, Window};

use super::ID;
use crate::harness::{Entry, Key, Run};

pub(super) const SERIES: &str = "praas lane, spin";
pub(super) const FLOOR: &str = "bare ring, spin";
pub(super) const DEPTHS: [u32; 5] = [1, 4, 8, 16, 32];
/// Each spans [`CALLS_PER_SAMPLE`] calls.
const SAMPLES: u64 = 200;

pub(super) fn measure(run: &mut Run) {
    let batch = run.settings().batch(SAMPLES);
    let in_flight = |key: Key, depth: u32| {
        let place = Placement::two_cores().map_or_else(|_| String::new(), |placement| placement.to_string());
        key.placement(&place).wait("spin").payload_bytes(64).x("calls in flight", f64::from(depth))
    };
    let opened = open().map_err(|error| error.to_string());
    let mut entries: Vec<Entry> = DEPTHS
        .into_iter()
        .map(|depth| {
            let key = in_flight(Key::ours(ID, SERIES), depth);
            let loaded = opened.clone().map(|subject| {
                let mut load = LaneLoad::new(subject, depth);
                Measured::new(SERIES, move |batch| load.round(batch))
            });
            Entry::opened(key, batch, loaded)
        })
        .collect();
    let ring = Placement::two_cores().and_then(|placement| BareRing::open(&Config::new(placement)));
    let depth = u32::try_from(IN_FLIGHT).unwrap_or(u32::MAX);
    entries.push(Entry::opened(in_flight(Key::floor(ID, FLOOR), depth), batch, ring));
    run.measure_rates(&format!("{ID}, lane"), entries);
}

/// A lane and its server.
struct Subject {
    // Before the server, which it is connected to.
    lane: Lane,
    _server: RunningServer,
}

fn open() -> Result<Rc<Subject>, SubjectError> {
    let server = RunningServer::start()?;
    Ok(Rc::new(Subject { lane: Lane::open(&server, LanePlan::spinning()?)?, _server: server }))
}

struct LaneLoad {
    // Before the lane, which it goes over.
    window: Window,
    subject: Rc<Subject>,
}

impl LaneLoad {
    fn new(subject: Rc<Subject>, depth: u32) -> Self {
        Self { window: Window::new(subject.lane.process(), depth as usize), subject }
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        let Self { window, subject } = self;
        let _awake = subject.lane.wake()?;
        let samples = timed_groups(batch, CALLS_PER_SAMPLE, || (0..CALLS_PER_SAMPLE).try_for_each(|_| window.call()))?;
        window.drain()?;
        Ok(samples)
    }
}
