//! `shm-noop-adaptive`: the no-op as it is by default, on no core in particular, beside the better of what spinning on two
//! cores and sleeping on two cores or on one give.

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::Placement;
use crate::interleave::{Measured, Outcome, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, Trust, call_noop};

pub(super) const BAR: Bar = Bar {
    id: "shm-noop-adaptive",
    summary: "a no-op call with default settings, unpinned, against spin and park",
    run,
};

const SAMPLES: u64 = 20_000;
/// Sleeping sides take ten times as long.
const SAMPLES_PARKED: u64 = 4_000;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let open = |wait, placement| Lane::open(&server, LanePlan { wait, trust: Trust::Trusted, placement });
    let lanes = [
        (open(WaitMode::Spin, Placement::two_cores()?)?, SAMPLES),
        (open(WaitMode::Park, Placement::two_cores()?)?, SAMPLES_PARKED),
        (open(WaitMode::Park, Placement::one_core()?)?, SAMPLES_PARKED),
        (open(WaitMode::Adaptive, Placement::Free)?, SAMPLES),
    ];
    let mut series = lanes.each_ref().map(|(lane, _)| {
        let mut number = 0;
        Measured::new(format!("no-op, {}", lane.id()), move |batch| {
            lane.measure(batch, |process| {
                number += 1;
                call_noop(process, number)
            })
        })
    });
    let samples = lanes.each_ref().map(|(_, samples)| *samples);
    let mut turns: Vec<Turn<'_>> =
        series.iter_mut().zip(samples).map(|(series, samples)| Turn::new(series, settings.batch(samples))).collect();
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [others @ .., figure] = outcomes.as_slice() else { unreachable!("there are four turns") };

    let case = "no-op 64 B, p50; floor: the better of spin and park, p50";
    let placement = Placement::Free.to_string();
    Ok(vec![Case { id: BAR.id, case, placement: &placement, unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &best_of_each_round(others),
        Condition::AtMostTimesFloor(1.5),
    )])
}

fn best_of_each_round(outcomes: &[Outcome]) -> Vec<f64> {
    let rounds = outcomes.first().map_or(0, |outcome| outcome.rounds.len());
    let best = |round: usize| outcomes.iter().map(|outcome| outcome.rounds[round].p50_ns).fold(f64::INFINITY, f64::min);
    (0..rounds).map(best).collect()
}
