//! `self-invoke`: a function calls the no-op of its own process, which another worker answers; both sleep while they wait.
//! Beside the same no-op called by a client that sleeps, in the same placement.

use super::{Bar, BarError, Settings};
use crate::floors::Placement;
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, SelfInvoke, Trust, call_noop};
use praas_client::WaitMode;

pub(super) const BAR: Bar =
    Bar { id: "self-invoke", summary: "a function calls its own process, against a client's call, both sleep", run };

const SAMPLES: u64 = 10_000;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let mut rows = Vec::new();
    for placement in [Placement::two_cores()?, Placement::one_core()?] {
        rows.push(at(&server, placement, settings)?);
    }
    Ok(rows)
}

fn at(server: &RunningServer, placement: Placement, settings: Settings) -> Result<Row, BarError> {
    let lane = Lane::open(server, LanePlan { wait: WaitMode::Park, trust: Trust::Trusted, placement })?;
    let nested = SelfInvoke::open(server, placement)?;
    let mut number = 0;
    let mut floor = Measured::new("no-op of a client", |batch| {
        lane.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let mut figure = Measured::new("no-op of the own process", |batch| Ok(nested.round(batch)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let case = "a function's call of its own process, 64 B, p50; floor: shm-noop-park, p50";
    Ok(Case { id: BAR.id, case, placement: &placement.to_string(), unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostTimesFloor(2.0),
    ))
}
