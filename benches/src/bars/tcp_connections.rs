//! `tcp-connections`: what idle connections take of a server. Each has said hello and holds a handle of a process. Memory is
//! the growth of the server's proportional share; latency is that of 64 active connections, beside a server without idle
//! ones.

use std::thread;
use std::time::Duration;

use super::{Bar, BarError, Settings};
use crate::floors::{Batch, Clock, Config, Crowd, Load, Pinned, Placement, Samples, allow_connections};
use crate::interleave::{Measured, SeriesError, Turn};
use crate::progress::Progress;
use crate::report::{Case, Condition, Row};
use crate::subject::{
    Footprint, Remote, RemotePlan, Route, SubjectError, WireCalls, WireConnection, wire_crowd, wire_load,
};

pub(super) const BAR: Bar =
    Bar { id: "tcp-connections", summary: "memory of 10,000 idle connections, and what they do to active ones", run };

const IDLE: usize = 10_000;
const IDLE_QUICK: usize = 2_000;
/// The ones that call, one call at a time each.
const ACTIVE: Crowd = Crowd { connections: 64, in_flight: 1 };
/// Calls of a round: enough for a 99th percentile.
const SAMPLES: u64 = 10_000;
/// Connections opened between two steps of the progress bar.
const OPENED_AT_ONCE: usize = 500;
/// Descriptors for each connection: a server keeps as many for its processes.
const SHARES: usize = 2;
/// Between the last connection and the look at the memory: whatever follows a greeting is over then.
const SETTLING: Duration = Duration::from_secs(1);
const CONNECTION_KIB_MAX: f64 = 4.0;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let wanted = if settings.quick { IDLE_QUICK } else { IDLE };
    // Before the servers start: they inherit the limit.
    let idle = (allow_connections(SHARES * (wanted + ACTIVE.connections))? / SHARES)
        .saturating_sub(ACTIVE.connections)
        .min(wanted);
    let placement = Placement::two_cores()?;
    let open = || Remote::open(RemotePlan { route: Route::Brokered, spins: false, placement });
    let (quiet, crowded) = (open()?, open()?);
    let (mut without, mut with) = (load_of(&quiet)?, load_of(&crowded)?);
    // What the first calls make once is not the idle connections'.
    round(&mut with, settings.batch(SAMPLES), placement).map_err(BarError::Subject)?;
    let before = Footprint::of(&[crowded.server().process_id()])?.pss_bytes;
    let connections = open_idle(&crowded, idle)?;
    thread::sleep(SETTLING);
    let after = Footprint::of(&[crowded.server().process_id()])?.pss_bytes;

    let mut floor = Measured::new("64 active, none idle", |batch| round(&mut without, batch, placement));
    let mut figure = Measured::new("64 active, others idle", |batch| round(&mut with, batch, placement));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };
    drop(connections);

    let placement = Config::new(placement).placement_label();
    let idle_words = match idle < IDLE {
        true if settings.quick => format!("{idle} idle connections"),
        true => format!("{idle} idle connections (more take a higher limit on open files)"),
        false => format!("{idle} idle connections"),
    };
    let memory = format!("growth of the server's PSS for each of {idle_words}");
    let latency = format!("no-op 64 B, 64 active beside {idle_words}, p99; floor: none idle, p99");
    Ok(vec![
        Case { id: BAR.id, case: &memory, placement: &placement, unit: "KiB" }.judge(
            kib_each(after.saturating_sub(before), idle),
            None,
            Condition::AtMost(CONNECTION_KIB_MAX),
        ),
        Case { id: BAR.id, case: &latency, placement: &placement, unit: "ns" }.judge_rounds(
            &figure.of_rounds(|round| round.p99_ns),
            &floor.of_rounds(|round| round.p99_ns),
            Condition::AtMostTimesFloor(1.5),
        ),
    ])
}

fn load_of(remote: &Remote) -> Result<Load<WireCalls>, SubjectError> {
    let token = remote.server().token()?;
    let connections = wire_crowd(ACTIVE, remote.address(), &token, remote.id(), Route::Brokered)?;
    wire_load(connections, ACTIVE.in_flight)
}

/// The time of each call on its connection.
fn round(load: &mut Load<WireCalls>, batch: Batch, placement: Placement) -> Result<Samples, SeriesError> {
    let _pinned = Pinned::to(placement.caller_cpu())?;
    let (clock, mut samples) = (Clock::calibrated(), Samples::empty(1));
    load.begin(batch.operations())?;
    load.run(batch.warm_up, |_| {})?;
    load.run(batch.samples, |ticks| samples.record(clock.ns(ticks)))?;
    Ok(samples)
}

fn open_idle(remote: &Remote, idle: usize) -> Result<Vec<WireConnection>, SubjectError> {
    let token = remote.server().token()?;
    let progress = Progress::new(format!("{}: opening", BAR.id), (idle / OPENED_AT_ONCE) as u64);
    let mut connections = Vec::with_capacity(idle);
    for number in 1..=idle {
        connections.push(WireConnection::open(remote.address(), &token, remote.id(), Route::Brokered)?);
        if number.is_multiple_of(OPENED_AT_ONCE) {
            progress.advance();
        }
    }
    Ok(connections)
}

fn kib_each(bytes: u64, connections: usize) -> f64 {
    bytes as f64 / 1024.0 / connections.max(1) as f64
}
