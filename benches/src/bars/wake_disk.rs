//! `wake-disk`: how long a call takes to a process that sleeps on a disk: it is woken, a worker started, and every byte of one
//! object, drawn at random, looked at. Large states, a small one, and a state of many objects, all cold.

use super::sleeping::{LARGE_BYTES, ONCE, asleep, large, many, one, wake_cold, words};
use super::{Bar, BarError, Settings};
use crate::interleave::{Measured, Turn, median};
use crate::report::{Case, Condition, Row};
use crate::subject::{RunningServer, SleeperState, StoragePlace};

pub(super) const BAR: Bar =
    Bar { id: "wake-disk", summary: "the first reply of a process that sleeps on a disk, large or small", run };

/// The small state.
const LITTLE: SleeperState = SleeperState { objects: 16, value_bytes: LARGE_BYTES };
/// Limits of the first reply: of large objects, and of a million small ones.
const LARGE_NS: f64 = 20e6;
const MANY_NS: f64 = 60e6;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let (large, many) = (large(settings), many(settings));
    let [mut of_little, mut of_large, mut of_many] =
        [asleep(&server, LITTLE)?, asleep(&server, large)?, asleep(&server, many)?];
    let (mut little_woken, mut large_woken, mut many_woken) = (
        Measured::new("little woken", |_| Ok(one(wake_cold(&server, &mut of_little)?))),
        Measured::new("large woken", |_| Ok(one(wake_cold(&server, &mut of_large)?))),
        Measured::new("many woken", |_| Ok(one(wake_cold(&server, &mut of_many)?))),
    );
    let mut turns =
        [Turn::new(&mut little_woken, ONCE), Turn::new(&mut large_woken, ONCE), Turn::new(&mut many_woken, ONCE)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [of_little, of_large, of_many] = [0, 1, 2].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));

    let placement = server.sleeper_words();
    let within = |state: SleeperState, figures: Vec<f64>, limit_ns: f64| {
        let case = format!("{}, cold, to the first reply, p50", words(state));
        Case { id: BAR.id, case: &case, placement, unit: "ns" }.judge(
            median(figures),
            None,
            Condition::AtMost(limit_ns),
        )
    };
    let beside = format!("{}, cold, to the first reply, p50; floor: that of {}", words(large), words(LITTLE));
    let beside = Case { id: BAR.id, case: &beside, placement, unit: "ns" };
    Ok(vec![
        within(large, of_large.clone(), LARGE_NS),
        beside.judge_rounds(&of_large, &of_little, Condition::AtMostTimesFloor(1.5)),
        within(many, of_many, MANY_NS),
    ])
}
