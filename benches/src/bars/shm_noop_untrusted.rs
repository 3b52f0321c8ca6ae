//! `shm-noop-untrusted`: the no-op across a trust boundary, where payloads are copied before they are read, beside the same
//! within one.

use super::{Bar, BarError, Settings};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, call_noop};

pub(super) const BAR: Bar =
    Bar { id: "shm-noop-untrusted", summary: "a no-op call across a trust boundary, both sides spin", run };

const SAMPLES: u64 = 50_000;
/// What the boundary may add.
const ALLOWANCE_NS: f64 = 100.0;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let plan = LanePlan::spinning()?;
    let (inside, across) = (Lane::open(&server, plan)?, Lane::open(&server, plan.untrusted())?);
    let mut number = 0;
    let mut floor = Measured::new("no-op", |batch| {
        inside.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let mut other_number = 0;
    let mut figure = Measured::new("no-op, untrusted", |batch| {
        across.measure(batch, |process| {
            other_number += 1;
            call_noop(process, other_number)
        })
    });
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let placement = across.placement().to_string();
    let case = "no-op 64 B, untrusted, p50; floor: trusted, p50";
    Ok(vec![Case { id: BAR.id, case, placement: &placement, unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostFloorPlus(ALLOWANCE_NS),
    )])
}
