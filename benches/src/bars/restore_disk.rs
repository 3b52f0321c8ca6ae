//! `restore-disk`: how fast a process that sleeps on a disk is in memory again with all it knew: from a call that wakes it to the
//! answer of one that has seen the beginning and the end of every object. Beside one file of as many bytes, read directly.

use super::sleeping::{ONCE, asleep, heavy_rounds, large, make_cold, mebibytes_a_second, one, words};
use super::{Bar, BarError, Settings};
use crate::floors::SequentialFile;
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{RunningServer, StoragePlace};

pub(super) const BAR: Bar =
    Bar { id: "restore-disk", summary: "all of a process back from a disk, against a raw sequential read", run };

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let state = large(settings);
    let mut sleeper = asleep(&server, state)?;
    let mut floor = SequentialFile::reads(server.data_directory(), state.bytes())?;
    let mut figure = Measured::new("restored", |_| {
        make_cold(&server)?;
        let (_, whole) = sleeper.wake_whole()?;
        sleeper.fall_asleep()?;
        Ok(one(whole))
    });
    let mut turns = [Turn::new(&mut floor, ONCE), Turn::new(&mut figure, ONCE)];
    let outcomes = settings.interleave_rounds(BAR.id, heavy_rounds(settings), &mut turns)?;
    let [floor, figure] =
        [0, 1].map(|index: usize| mebibytes_a_second(state.bytes(), &outcomes[index].of_rounds(|round| round.p50_ns)));

    let case = format!("{}, cold, until all were seen; floor: sequential direct read of 1 MiB at a time", words(state));
    let placement = server.sleeper_words();
    Ok(vec![Case { id: BAR.id, case: &case, placement, unit: "MiB/s" }.judge_rounds(
        &figure,
        &floor,
        Condition::AtLeastTimesFloor(0.85),
    )])
}
