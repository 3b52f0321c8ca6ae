//! `msg-local`: half an exchange of messages of 64 bytes between functions of two processes of one application: receive, accept,
//! send. Beside half a bare ping-pong that waits in the same way, and beside Redis: two clients that push and pop, asleep in
//! between, over its Unix socket, in the placement in which it is quickest.

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::{Config, FloorError, PingPong, Placement, RedisPlacement, RedisQueue, Waiting};
use crate::interleave::{Measured, Outcome, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{MessagePair, RunningServer};

pub(super) const BAR: Bar =
    Bar { id: "msg-local", summary: "messages between two processes, against a bare ping-pong and Redis", run };

const SAMPLES_SPIN: u64 = 50_000;
const SAMPLES_PARK: u64 = 10_000;
const SAMPLES_REDIS: u64 = 2_000;

/// How a pair waits, where it runs, and what it must fulfil.
struct Plan {
    name: &'static str,
    wait: WaitMode,
    floor: Waiting,
    placement: Placement,
    samples: u64,
    beside_floor: Condition,
    times_faster_than_redis: f64,
}

fn plans() -> Result<[Plan; 3], FloorError> {
    let spin = Plan {
        name: "spin",
        wait: WaitMode::Spin,
        floor: Waiting::Spin,
        placement: Placement::two_cores()?,
        samples: SAMPLES_SPIN,
        beside_floor: Condition::AtMostTimesFloorPlus { factor: 1.5, allowance: 200.0 },
        times_faster_than_redis: 20.0,
    };
    let park = |placement| Plan {
        name: "park",
        wait: WaitMode::Park,
        floor: Waiting::Park,
        placement,
        samples: SAMPLES_PARK,
        beside_floor: Condition::AtMostTimesFloor(1.5),
        times_faster_than_redis: 1.5,
    };
    Ok([spin, park(Placement::two_cores()?), park(Placement::one_core()?)])
}

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let plans = plans()?;
    let (mut pairs, mut floors) = (Vec::new(), Vec::new());
    for plan in &plans {
        let pair = MessagePair::open(&server, plan.wait, plan.placement)?;
        pairs.push(Measured::new(plan.name, move |batch| Ok(pair.exchange(batch)?)));
        floors.push(PingPong::open(plan.floor, &Config::new(plan.placement))?);
    }
    let (mut redis, absent) = match redis() {
        Ok(redis) => (redis, String::new()),
        Err(error @ FloorError::NotInstalled { .. }) => (Vec::new(), error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let mut turns = Vec::new();
    for (plan, (pair, floor)) in plans.iter().zip(pairs.iter_mut().zip(&mut floors)) {
        turns.push(Turn::new(floor, settings.batch(plan.samples)));
        turns.push(Turn::new(pair, settings.batch(plan.samples)));
    }
    turns.extend(redis.iter_mut().map(|redis| Turn::new(redis, settings.batch(SAMPLES_REDIS))));
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    drop(turns);

    let (own, redis) = outcomes.split_at(2 * plans.len());
    let redis = quickest(redis);
    let rows = plans.iter().zip(own.chunks_exact(2)).flat_map(|(plan, pair)| rows_of(plan, pair, redis, &absent));
    Ok(rows.collect())
}

fn redis() -> Result<Vec<RedisQueue>, FloorError> {
    let placements = RedisPlacement::on_two_cores()?;
    placements.into_iter().map(|placement| RedisQueue::open(&Config::new(placement.clients), placement)).collect()
}

fn quickest(outcomes: &[Outcome]) -> Option<&Outcome> {
    let median = |outcome: &Outcome| outcome.median_of_rounds(|round| round.p50_ns);
    outcomes.iter().min_by(|one, other| median(one).total_cmp(&median(other)))
}

fn rows_of(plan: &Plan, pair: &[Outcome], redis: Option<&Outcome>, absent: &str) -> Vec<Row> {
    let [floor, figure] = pair else { unreachable!("a floor and a figure") };
    let one_way = |outcome: &Outcome| outcome.of_rounds(|round| round.p50_ns / 2.0);
    let (name, placement) = (plan.name, plan.placement.to_string());
    let case = |case| Case { id: BAR.id, case, placement: &placement, unit: "ns" };
    let (figures, times) = (one_way(figure), Condition::TimesFasterThanFloor(plan.times_faster_than_redis));
    let what = format!("64 B one way, {name}, p50");
    let beside_floor = format!("{what}; floor: half a {name} ping-pong, p50");
    let beside_redis =
        redis.map_or_else(|| what.clone(), |redis| format!("{what}; floor: half of {}, p50", redis.label));
    let beside_redis = case(&beside_redis);
    vec![
        case(&beside_floor).judge_rounds(&figures, &one_way(floor), plan.beside_floor),
        match redis {
            Some(redis) => beside_redis.judge_rounds(&figures, &one_way(redis), times),
            None => beside_redis.without_floor(&figures, times, absent),
        },
    ]
}
