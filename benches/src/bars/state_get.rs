//! `state-get`: a function reads an object of its process's state, the first and the last line of it: alone, and while another
//! worker of the process replaces the object as fast as it can. Beside a GET of Redis, asked over its Unix socket by a client
//! that does nothing else.
//!
//! Gets are timed one by one, so each is charged one reading of the clock, as are Redis' answers; and in groups, which shows
//! them without that. While an object of 64 MiB
//! is being replaced, gets are spread over many replacements by a pause before each, which is not counted.

use std::time::Duration;

use super::{Bar, BarError, Settings};
use crate::floors::{Config, FloorError, Placement, RedisGet};
use crate::interleave::{Measured, Outcome, Turn};
use crate::report::{Case, Condition, Row, readable_ns};
use crate::subject::{GETS_PER_SAMPLE, Objects, Replacements, RunningServer, StateProcess};

pub(super) const BAR: Bar =
    Bar { id: "state-get", summary: "an object of the state read by a function, also while it is replaced", run };

const SAMPLES: u64 = 50_000;
/// Each comes after a pause.
const SAMPLES_SPREAD: u64 = 4_000;
const SAMPLES_REDIS: u64 = 3_000;
/// So a quick round spans several replacements of 64 MiB.
const PAUSE: Duration = Duration::from_micros(100);

const SMALL: Objects = Objects { first: 0, count: 1, value_bytes: 64 };
const LARGE: Objects = Objects { first: 1, count: 1, value_bytes: 64 << 20 };
/// As large as what Redis is asked for.
const MIDDLE: Objects = Objects { first: 2, count: 1, value_bytes: 1 << 10 };

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let placement = Placement::two_cores()?;
    let state = StateProcess::open(&server, placement)?;
    for objects in [SMALL, LARGE, MIDDLE] {
        state.fill(objects)?;
    }
    let one_core = Placement::one_core()?;
    let (mut redis, absent) = match redis_on([placement, one_core]) {
        Ok(redis) => (redis, String::new()),
        Err(error @ FloorError::NotInstalled { .. }) => (Vec::new(), error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let get = |objects, batch| state.get(objects, batch);
    let mut group = Measured::new("gets in groups", |batch| Ok(state.get_groups(SMALL, batch)?));
    let quiet = |objects| Measured::new("get", move |batch| Ok(get(objects, batch)?));
    let (mut small, mut large, mut middle) = (quiet(SMALL), quiet(LARGE), quiet(MIDDLE));
    let (mut small_times, mut large_times) = (Vec::new(), Vec::new());
    let mut small_replaced = Measured::new("get of 64 B, replaced", |batch| {
        let (samples, replacements) = state.get_replaced(SMALL, batch, Duration::ZERO)?;
        small_times.push(replacements);
        Ok(samples)
    });
    let mut large_replaced = Measured::new("get of 64 MiB, replaced", |batch| {
        let (samples, replacements) = state.get_replaced(LARGE, batch, PAUSE)?;
        large_times.push(replacements);
        Ok(samples)
    });
    let mut turns = vec![
        Turn::new(&mut group, settings.batch(SAMPLES / GETS_PER_SAMPLE)),
        Turn::new(&mut small, settings.batch(SAMPLES)),
        Turn::new(&mut large, settings.batch(SAMPLES)),
        Turn::new(&mut middle, settings.batch(SAMPLES)),
        Turn::new(&mut small_replaced, settings.batch(SAMPLES)),
        Turn::new(&mut large_replaced, settings.batch(SAMPLES_SPREAD)),
    ];
    turns.extend(redis.iter_mut().map(|redis| Turn::new(redis, settings.batch(SAMPLES_REDIS))));
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    drop(turns);
    let [group, small, large, middle, small_replaced, large_replaced, redis @ ..] = outcomes.as_slice() else {
        unreachable!("six turns and those of Redis")
    };

    let [alone, both] = placements(placement);
    let within = |case: &str, placement: &str, outcome: &Outcome, limit_ns| {
        let case = Case { id: BAR.id, case, placement, unit: "ns" };
        case.judge(outcome.median_of_rounds(|round| round.p50_ns), None, Condition::AtMost(limit_ns))
    };
    let replaced = |size: &str, times: &[Replacements]| {
        format!("{size}, first and last line, p50, replaced every {}", readable_ns(every_ns(times)))
    };
    let together = format!("64 B, first and last line, p50 of {GETS_PER_SAMPLE} timed together, quiet");
    let mut rows = vec![
        within(&together, &alone, group, 60.0),
        within("64 B, first and last line, p50, quiet", &alone, small, 60.0),
        within("64 MiB, first and last line, p50, quiet", &alone, large, 60.0),
        within(&replaced("64 B", &small_times), &both, small_replaced, 120.0),
        within(&replaced("64 MiB", &large_times), &both, large_replaced, 120.0),
    ];
    rows.push(beside_redis(middle, redis, [placement, one_core], &alone, &absent));
    Ok(rows)
}

fn redis_on(placements: [Placement; 2]) -> Result<Vec<RedisGet>, FloorError> {
    let value_bytes = usize::try_from(MIDDLE.value_bytes).expect("a kilobyte");
    placements.into_iter().map(|placement| RedisGet::open(&Config::new(placement), value_bytes)).collect()
}

/// Against the placement in which Redis answers sooner.
fn beside_redis(figure: &Outcome, redis: &[Outcome], placements: [Placement; 2], alone: &str, absent: &str) -> Row {
    let condition = Condition::TimesFasterThanFloor(150.0);
    let p50s = |outcome: &Outcome| outcome.of_rounds(|round| round.p50_ns);
    let median = |outcome: &Outcome| outcome.median_of_rounds(|round| round.p50_ns);
    let soonest = redis.iter().zip(placements).min_by(|(one, _), (other, _)| median(one).total_cmp(&median(other)));
    let what = "1 KiB, first and last line, p50, quiet; floor: Redis GET of 1 KiB over its Unix socket";
    let case = |case| Case { id: BAR.id, case, placement: alone, unit: "ns" };
    match soonest {
        Some((floor, at)) => case(&format!("{what}, {at}, p50")).judge_rounds(&p50s(figure), &p50s(floor), condition),
        None => case(what).without_floor(&p50s(figure), condition, absent),
    }
}

fn placements(placement: Placement) -> [String; 2] {
    let core = |cpu: Option<usize>| cpu.map_or_else(String::new, |cpu| format!(" on core {cpu}"));
    let reader = format!("worker{}", core(placement.caller_cpu()));
    let both = format!("{reader}, the other{}", core(placement.peer_cpu()));
    [reader, both]
}

/// Nanoseconds from one replacement to the next, over all rounds.
fn every_ns(times: &[Replacements]) -> f64 {
    let total = |figure: fn(&Replacements) -> u64| times.iter().map(figure).sum::<u64>() as f64;
    total(|times| times.span_ns) / total(|times| times.count).max(1.0)
}
