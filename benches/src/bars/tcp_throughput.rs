//! `tcp-throughput`: calls a second of 64 bytes on 64 connections with 16 in flight on each, beside Redis under the same
//! load and beside a raw echo of as many frames.
//!
//! The load is one thread over bare sockets that speaks the network protocol, as `redis-benchmark` speaks Redis' own: all
//! calls of a connection leave in one write, and the next ones when all are answered. Servers and workers have the other
//! core. Redis has the value of 64 bytes that is asked for, so that its answers are as long.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Crowd, EchoServer, FloorError, Pinned, Placement, Redis, TcpCrowd, timed_groups};
use crate::interleave::{Measured, Outcome, Series, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Remote, RemotePlan, Route, SubjectError, wire_crowd, wire_load};

pub(super) const BAR: Bar =
    Bar { id: "tcp-throughput", summary: "calls a second over 64 connections, against Redis and a raw echo", run };

/// Each spans [`Crowd::calls_per_sample`] calls: about 2 ms.
const SAMPLES: u64 = 60;
const CROWD: Crowd = Crowd::THROUGHPUT;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let placement = Placement::two_cores()?;
    let config = Config::new(placement);
    let mut floor = TcpCrowd::open(EchoServer::Epoll, CROWD, &config)?;
    let (mut redis, absent) = match Redis::start(&config) {
        Ok(redis) => (Some(redis), String::new()),
        Err(error @ FloorError::NotInstalled { .. }) => (None, error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let open = |route| Remote::open(RemotePlan { route, spins: false, placement });
    let (brokered, dedicated) = (open(Route::Brokered)?, open(Route::Dedicated)?);
    let mut brokered = calls_of(&brokered, Route::Brokered, placement)?;
    let mut dedicated = calls_of(&dedicated, Route::Dedicated, placement)?;
    let batch = settings.batch(SAMPLES);
    let mut turns =
        vec![Turn::new(&mut floor, batch), Turn::new(&mut brokered, batch), Turn::new(&mut dedicated, batch)];
    turns.extend(redis.iter_mut().map(|redis| Turn::new(redis, batch)));
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, brokered, dedicated, redis @ ..] = outcomes.as_slice() else { unreachable!("three turns or four") };

    let placement = config.placement_label();
    let against = |route: Route, outcome: &Outcome, what: &str, floor: Option<&Outcome>, factor| {
        let load = format!("{} × {} in flight, load of one thread", CROWD.connections, CROWD.in_flight);
        let case = format!("no-op 64 B over TCP, {}, {load}; floor: {what}", route.name());
        let case = Case { id: BAR.id, case: &case, placement: &placement, unit: "calls/s" };
        let condition = Condition::AtLeastTimesFloor(factor);
        match floor {
            Some(floor) => case.judge_rounds(&per_second(outcome), &per_second(floor), condition),
            None => case.without_floor(&per_second(outcome), condition, &absent),
        }
    };
    let command = Redis::command();
    Ok(vec![
        against(Route::Dedicated, dedicated, &command, redis.first(), 2.5),
        against(Route::Dedicated, dedicated, "raw batched echo", Some(floor), 0.5),
        against(Route::Brokered, brokered, &command, redis.first(), 1.5),
    ])
}

/// Rounds of calls to a remote process.
fn calls_of(remote: &Remote, route: Route, placement: Placement) -> Result<impl Series, SubjectError> {
    let token = remote.server().token()?;
    let connections = wire_crowd(CROWD, remote.address(), &token, remote.id(), route)?;
    let mut load = wire_load(connections, CROWD.in_flight)?;
    let calls = CROWD.calls_per_sample();
    Ok(Measured::new(format!("no-op over TCP, {}", route.name()), move |batch| {
        let _pinned = Pinned::to(placement.caller_cpu())?;
        load.begin(batch.operations() * calls)?;
        Ok(timed_groups(batch, calls, || load.run(calls, |_| {}))?)
    }))
}

/// Over whole rounds: that is what `redis-benchmark` says too.
fn per_second(outcome: &Outcome) -> Vec<f64> {
    outcome.of_rounds(|round| round.per_second)
}
