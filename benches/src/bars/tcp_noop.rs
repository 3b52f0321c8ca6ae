//! `tcp-noop`: a no-op of 64 bytes over one TCP connection on loopback, everything as it is by default, beside a raw echo
//! whose sides block, on the same cores. Brokered by a shard of the server, and dedicated to the worker.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Placement, TcpEcho, Waiting};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Remote, RemotePlan, Route, call_noop};

pub(super) const BAR: Bar =
    Bar { id: "tcp-noop", summary: "a no-op call over TCP with default settings, against a raw blocking echo", run };

const SAMPLES: u64 = 4_000;

/// The ways of a call, and how many raw echoes it may take.
pub(super) const LIMITS: [(Route, f64); 2] = [(Route::Brokered, 1.6), (Route::Dedicated, 1.15)];

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let mut rows = Vec::new();
    for placement in [Placement::two_cores()?, Placement::one_core()?, Placement::Free] {
        for (route, limit) in LIMITS {
            let plan = RemotePlan { route, spins: false, placement };
            rows.push(beside_echo(BAR.id, plan, settings.batch(SAMPLES), limit, settings)?);
        }
    }
    Ok(rows)
}

/// The row for the no-op as `plan` has it, beside an echo that waits likewise.
pub(super) fn beside_echo(
    id: &str,
    plan: RemotePlan,
    batch: crate::floors::Batch,
    limit: f64,
    settings: Settings,
) -> Result<Row, BarError> {
    let (waiting, echo) =
        if plan.spins { (Waiting::Spin, "raw spinning echo") } else { (Waiting::Park, "raw blocking echo") };
    let config = Config::new(plan.placement);
    let mut floor = TcpEcho::open(waiting, &config)?;
    let remote = Remote::open(plan)?;
    let mut number = 0;
    let mut figure = Measured::new(format!("no-op over TCP, {}", plan.route.name()), |batch| {
        remote.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let case = format!("no-op 64 B over TCP, {}, p50; floor: {echo}, p50", plan.route.name());
    Ok(Case { id, case: &case, placement: &config.placement_label(), unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostTimesFloor(limit),
    ))
}
