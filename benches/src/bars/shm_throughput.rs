//! `shm-throughput`: calls a second of one client thread that keeps 32 calls of 64 bytes in flight in a [`Window`], beside a
//! bare ring of a lane's geometry with as many.

use super::{Bar, BarError, Settings};
use crate::floors::{BareRing, CALLS_PER_SAMPLE, Config, IN_FLIGHT, timed_groups};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, Window};

pub(super) const BAR: Bar =
    Bar { id: "shm-throughput", summary: "calls a second with 32 in flight, against a bare ring", run };

/// Each spans [`CALLS_PER_SAMPLE`] calls.
const SAMPLES: u64 = 500;
/// What a lane must give however slow the bare ring is.
const CALLS_PER_SECOND_MIN: f64 = 4e6;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let lane = Lane::open(&server, LanePlan::spinning()?)?;
    let mut floor = BareRing::open(&Config::new(lane.placement()))?;
    let mut window = Window::new(lane.process(), IN_FLIGHT);
    let mut figure = Measured::new("no-op, 32 in flight", |batch| {
        let _awake = lane.wake()?;
        let samples = timed_groups(batch, CALLS_PER_SAMPLE, || (0..CALLS_PER_SAMPLE).try_for_each(|_| window.call()))?;
        window.drain()?;
        Ok(samples)
    });
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let placement = lane.placement().to_string();
    let case = |case| Case { id: BAR.id, case, placement: &placement, unit: "calls/s" };
    // Of the median sample: a core that is taken away for a moment is not the lane's slowness, nor the ring's.
    let figures = figure.of_rounds(|round| 1e9 / round.p50_ns);
    let floors = floor.of_rounds(|round| 1e9 / round.p50_ns);
    let absolute = case("no-op 64 B, 32 in flight, one client thread").judge(
        figure.median_of_rounds(|round| 1e9 / round.p50_ns),
        None,
        Condition::AtLeast(CALLS_PER_SECOND_MIN),
    );
    let share = case("no-op 64 B, 32 in flight; floor: bare ring, 32 in flight").judge_rounds(
        &figures,
        &floors,
        Condition::AtLeastTimesFloor(0.5),
    );
    Ok(vec![share, absolute])
}
