//! `shm-noop-park`: the no-op between two sides that sleep, beside a bare futex ping-pong of the same placement.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, PingPong, Placement, Waiting};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, Trust, call_noop};
use praas_client::WaitMode;

pub(super) const BAR: Bar =
    Bar { id: "shm-noop-park", summary: "a no-op call, both sides sleep, against a futex ping-pong", run };

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
    let mut floor = PingPong::open(Waiting::Park, &Config::new(placement))?;
    let mut number = 0;
    let mut figure = Measured::new("no-op", |batch| {
        lane.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let case = "no-op 64 B, p50; floor: futex ping-pong, p50";
    Ok(Case { id: BAR.id, case, placement: &placement.to_string(), unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostTimesFloor(1.3),
    ))
}
