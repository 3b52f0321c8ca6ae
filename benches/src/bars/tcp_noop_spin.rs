//! `tcp-noop-spin`: the no-op over TCP where client and server side spin, beside a raw echo whose sides do. Brokered, the
//! shard spins and the worker sleeps on the shard's core; dedicated, the worker spins.

use super::tcp_noop::{LIMITS, beside_echo};
use super::{Bar, BarError, Settings};
use crate::floors::Placement;
use crate::report::Row;
use crate::subject::RemotePlan;

pub(super) const BAR: Bar =
    Bar { id: "tcp-noop-spin", summary: "a no-op call over TCP, both sides spin, against a raw spinning echo", run };

const SAMPLES: u64 = 4_000;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let placement = Placement::two_cores()?;
    let row = |(route, limit)| {
        let plan = RemotePlan { route, spins: true, placement };
        beside_echo(BAR.id, plan, settings.batch(SAMPLES), limit, settings)
    };
    LIMITS.into_iter().map(row).collect()
}
