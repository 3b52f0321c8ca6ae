//! `swap-out-disk`: how fast a process is put to sleep on a disk, from the request to the answer that it sleeps: its worker ended,
//! every object written and synced, its manifest published. Beside one file of as many bytes, written directly and synced.
//!
//! Each round has a process of its own, so that nothing of it is stored yet.

use super::sleeping::{ONCE, heavy_rounds, large, mebibytes_a_second, one, words};
use super::{Bar, BarError, Settings};
use crate::floors::SequentialFile;
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{RunningServer, Sleeper, StoragePlace};

pub(super) const BAR: Bar =
    Bar { id: "swap-out-disk", summary: "a process put to sleep on a disk, against a raw sequential write", run };

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let state = large(settings);
    let mut floor = SequentialFile::writes(server.data_directory(), state.bytes())?;
    let mut figure = Measured::new("put to sleep", |_| {
        let sleeper = Sleeper::create(&server, state)?;
        Ok(one(sleeper.fall_asleep()?))
    });
    let mut turns = [Turn::new(&mut floor, ONCE), Turn::new(&mut figure, ONCE)];
    let outcomes = settings.interleave_rounds(BAR.id, heavy_rounds(settings), &mut turns)?;
    let [floor, figure] =
        [0, 1].map(|index: usize| mebibytes_a_second(state.bytes(), &outcomes[index].of_rounds(|round| round.p50_ns)));

    let case = format!("{}; floor: sequential direct write of 1 MiB at a time, fsync", words(state));
    let placement = server.sleeper_words();
    Ok(vec![Case { id: BAR.id, case: &case, placement, unit: "MiB/s" }.judge_rounds(
        &figure,
        &floor,
        Condition::AtLeastTimesFloor(0.85),
    )])
}
