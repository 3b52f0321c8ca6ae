//! `shm-steady`: after warm-up neither end of a spinning lane makes a system call or allocates. Both calling threads are
//! trapped by a seccomp filter and counted by the allocator, over a million calls.

use super::{Bar, BarError, Settings};
use crate::progress::Progress;
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, steady_calls};

pub(super) const BAR: Bar =
    Bar { id: "shm-steady", summary: "no system call and no allocation over a million calls", run };

const CALLS: u64 = 1_000_000;
const CALLS_QUICK: u64 = 200_000;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let calls = if settings.quick { CALLS_QUICK } else { CALLS };
    let _progress = Progress::new(BAR.id, 1);
    let server = RunningServer::start()?;
    let lane = Lane::open(&server, LanePlan::spinning()?)?;
    let found = steady_calls(&server, &lane, calls)?;

    let placement = lane.placement().to_string();
    let judge = |case: String, unit, count: u64| {
        let figure = count as f64;
        Case { id: BAR.id, case: &case, placement: &placement, unit }.judge(figure, None, Condition::AtMost(0.0))
    };
    let mut rows = Vec::new();
    for (end, counted) in [("client", found.caller), ("worker", found.worker)] {
        let calls_made = match counted.system_calls {
            0 => format!("{end}'s system calls in {calls} calls"),
            _ => format!("{end}'s system calls in {calls} calls (the last: number {})", counted.last_system_call),
        };
        rows.push(judge(calls_made, "system calls", counted.system_calls));
        rows.push(judge(format!("{end}'s heap allocations in {calls} calls"), "allocations", counted.allocations));
    }
    Ok(rows)
}
