//! `tcp-1mib`: 1 MiB filled by the client, echoed over TCP and checked, beside a raw echo that receives the whole payload
//! before it answers, filled and checked likewise. Everything is as it is by default.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Placement, TcpBlock, expected_sum, fill, sum};
use crate::interleave::{Measured, Outcome, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{NOOP, Remote, RemotePlan, Route, check};

pub(super) const BAR: Bar =
    Bar { id: "tcp-1mib", summary: "1 MiB filled, echoed over TCP and checked, against a raw echo of the whole", run };

const SAMPLES: u64 = 200;
const BLOCK_BYTES: usize = 1 << 20;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let placement = Placement::two_cores()?;
    let config = Config::new(placement);
    let open = |route| Remote::open(RemotePlan { route, spins: false, placement });
    let (brokered, dedicated) = (open(Route::Brokered)?, open(Route::Dedicated)?);
    let mut floor = TcpBlock::open(BLOCK_BYTES, &config)?;
    let mut figures = [(Route::Brokered, &brokered), (Route::Dedicated, &dedicated)].map(|(route, remote)| {
        let (mut block, mut seed) = (vec![1; BLOCK_BYTES], 0);
        Measured::new(format!("1 MiB over TCP, {}", route.name()), move |batch| {
            remote.measure(batch, |process| {
                seed += 1;
                fill(&mut block, seed);
                let reply = process.invoke(NOOP, &block)?;
                check(NOOP.name(), &expected_sum(BLOCK_BYTES, seed).to_le_bytes(), &sum(&reply).to_le_bytes())
            })
        })
    });
    let batch = settings.batch(SAMPLES);
    let [brokered, dedicated] = &mut figures;
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(brokered, batch), Turn::new(dedicated, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, brokered, dedicated] = outcomes.as_slice() else { unreachable!("there are three turns") };

    let floors = floor.of_rounds(|round| round.p50_ns);
    let judge = |route: Route, outcome: &Outcome| {
        let case = format!("1 MiB over TCP, {}, p50; floor: raw echo of the whole, p50", route.name());
        let case = Case { id: BAR.id, case: &case, placement: &config.placement_label(), unit: "ns" };
        case.judge_rounds(&outcome.of_rounds(|round| round.p50_ns), &floors, Condition::AtMostTimesFloor(1.15))
    };
    Ok(vec![judge(Route::Brokered, brokered), judge(Route::Dedicated, dedicated)])
}
