//! `create`: from the wish for a process to its first reply (worker started in its sandbox, lane brokered, one call), no
//! worker started beforehand, beside starting and ending a trivial program.
//!
//! The worker is the smallest function binary where that was built, else this program itself: what a larger one adds is
//! the loading of it.

use praas_client::{Client, ProcessId, WaitMode};

use super::{Bar, BarError, Settings};
use crate::floors::{Clock, Config, Placement, Spawn, TRIVIAL_PROGRAM, timed_spans};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{RunningServer, SubjectError, Trust, call_noop};

pub(super) const BAR: Bar =
    Bar { id: "create", summary: "a process created and its first reply, against vfork and exec", run };

const SAMPLES: u64 = 40;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let client = server.connect(Trust::Trusted)?;
    let config = Config::new(Placement::Free);
    let mut floor = Spawn::open(&config, TRIVIAL_PROGRAM.as_ref())?;
    let new_id = || server.new_small_id().unwrap_or_else(|| server.new_id(WaitMode::Adaptive));
    let worker = if server.new_small_id().is_some() { "smallest worker" } else { "this program as worker" };
    let mut figure = Measured::new("process created", |batch| {
        Ok(timed_spans(batch, |clock| create_call_and_stop(&client, new_id(), clock))?)
    });
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let case =
        format!("created to first reply, sandboxed, {worker}, p50; floor: vfork + exec of {TRIVIAL_PROGRAM}, p50");
    Ok(vec![Case { id: BAR.id, case: &case, placement: &config.placement_label(), unit: "ns" }.judge_rounds(
        &figure.of_rounds(|round| round.p50_ns),
        &floor.of_rounds(|round| round.p50_ns),
        Condition::AtMostTimesFloor(3.0),
    )])
}

/// The ticks from the wish to the reply; ending the process again is not counted.
fn create_call_and_stop(client: &Client, id: ProcessId, clock: Clock) -> Result<u64, SubjectError> {
    let start = clock.ticks();
    client.create(id)?;
    let process = client.process(id)?;
    call_noop(&process, start)?;
    let ticks = clock.ticks().saturating_sub(start);
    drop(process);
    client.stop(id)?;
    Ok(ticks)
}
