//! `msg-remote`: half an exchange of messages of 64 bytes between functions of two processes on two servers, which are linked
//! over TCP on loopback: receive, accept, send. Beside what it is made of, measured in the same placement and the same
//! rounds: half a raw echo over TCP, and two hops within a host, from the worker to the shard of its server that has the
//! link and from the other server's shard to its worker, each half a ping-pong of two processes that sleep on one core.

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::{Config, PingPong, Placement, TcpEcho, Waiting};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{LinkedPlan, MessagePair};

pub(super) const BAR: Bar = Bar {
    id: "msg-remote",
    summary: "messages between processes of two servers, against half a TCP echo and two hops within a host",
    run,
};

const SAMPLES: u64 = 4_000;
const LIMIT: f64 = 1.3;

/// How the two servers wait, each with its worker on a core of its own.
struct Plan {
    name: &'static str,
    shards: WaitMode,
    echo: Waiting,
}

const PLANS: [Plan; 2] = [
    Plan { name: "all blocking", shards: WaitMode::Park, echo: Waiting::Park },
    Plan { name: "shards spin, workers park beside them", shards: WaitMode::Spin, echo: Waiting::Spin },
];

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    PLANS.iter().map(|plan| row(plan, settings)).collect()
}

fn row(plan: &Plan, settings: Settings) -> Result<Row, BarError> {
    let placement = Placement::two_cores()?;
    let mut echo = TcpEcho::open(plan.echo, &Config::new(placement))?;
    let mut hops = PingPong::open(Waiting::Park, &Config::new(Placement::one_core()?))?;
    let pair = MessagePair::open_linked(LinkedPlan { shards: plan.shards, workers: WaitMode::Park, placement })?;
    let mut figure = Measured::new(plan.name, |batch| Ok(pair.volley(batch)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut echo, batch), Turn::new(&mut hops, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [echo, hops, figure] = [0, 1, 2].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));
    let floors: Vec<f64> = echo.iter().zip(&hops).map(|(echo, hops)| echo / 2.0 + hops).collect();
    let figures: Vec<f64> = figure.iter().map(|exchange| exchange / 2.0).collect();
    let case = format!(
        "64 B one way between two servers, {}, p50; floor: half a raw TCP echo and two same-host hops, p50",
        plan.name
    );
    let case = Case { id: BAR.id, case: &case, placement: &placement.to_string(), unit: "ns" };
    Ok(case.judge_rounds(&figures, &floors, Condition::AtMostTimesFloor(LIMIT)))
}
