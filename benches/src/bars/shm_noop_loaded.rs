//! `shm-noop-loaded`: the no-op as it is by default, while an unrelated program keeps the first core busy, beside a bare
//! futex ping-pong under the same load. Both are free to run where the scheduler likes.

use std::path::Path;

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::{Background, Config, PingPong, Placement, Waiting, allowed_cpus};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, Trust, call_noop};

pub(super) const BAR: Bar = Bar {
    id: "shm-noop-loaded",
    summary: "a no-op call with default settings while another program takes a core",
    run,
};

/// Few: each may take many scheduling periods.
const SAMPLES: u64 = 4_000;
/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let plan = LanePlan { wait: WaitMode::Adaptive, trust: Trust::Trusted, placement: Placement::Free };
    let lane = Lane::open(&server, plan)?;
    let busy_cpu = allowed_cpus()?.first().copied().unwrap_or(0);
    let config = Config::new(Placement::Free).beside_spinner(busy_cpu);
    let mut floor = PingPong::open(Waiting::Park, &config)?;
    let mut background = Background::start(Path::new(THIS_PROGRAM), busy_cpu)?;
    let mut number = 0;
    let mut figure = Measured::new("no-op", |batch| {
        let _spinning = background.spin()?;
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
    let placement = config.placement_label();
    Ok(vec![Case { id: BAR.id, case, placement: &placement, unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostTimesFloor(1.5),
    )])
}
