//! `swap-incremental`: how long a process takes to fall asleep again when one of a hundred objects, drawn at random, was changed,
//! beside the first time, when all of it was written. Both from the request to the answer that it sleeps.
//!
//! Between them it was woken and had all its objects in memory. Each round has a process of its own.

use std::time::Duration;

use super::sleeping::{ONCE, heavy_rounds, large, many, one, words};
use super::{Bar, BarError, Settings};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{RunningServer, Sleeper, SleeperState, StoragePlace, SubjectError};

pub(super) const BAR: Bar =
    Bar { id: "swap-incremental", summary: "a process that has changed little, put to sleep again", run };

/// Of so many objects one is changed.
const CHANGED_OF: u64 = 100;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    [large(settings), many(settings)].into_iter().map(|state| judge(settings, &server, state)).collect()
}

fn judge(settings: Settings, server: &RunningServer, state: SleeperState) -> Result<Row, BarError> {
    let mut seconds = Vec::new();
    let mut first = Measured::new("put to sleep twice", |_| {
        let (first, again) = twice(server, state)?;
        seconds.push(again.as_secs_f64() * 1e9);
        Ok(one(first))
    });
    let mut turns = [Turn::new(&mut first, ONCE)];
    let outcomes = settings.interleave_rounds(BAR.id, heavy_rounds(settings), &mut turns)?;
    let firsts = outcomes[0].of_rounds(|round| round.p50_ns);

    let case = format!("{}, 1 % of them changed; floor: the first time", words(state));
    let case = Case { id: BAR.id, case: &case, placement: server.sleeper_words(), unit: "ns" };
    Ok(case.judge_rounds(&seconds, &firsts, Condition::AtMostTimesFloor(0.05)))
}

fn twice(server: &RunningServer, state: SleeperState) -> Result<(Duration, Duration), SubjectError> {
    let mut sleeper = Sleeper::create(server, state)?;
    let first = sleeper.fall_asleep()?;
    sleeper.wake_whole()?;
    sleeper.change(state.objects / CHANGED_OF)?;
    let second = sleeper.fall_asleep()?;
    // What was changed has been kept, and nothing else has changed.
    sleeper.check_changed()?;
    sleeper.wake()?;
    Ok((first, second))
}
