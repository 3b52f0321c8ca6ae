//! `logged-single` and `logged-group`: puts of 1 KiB by a process whose changes are logged, each counted when nothing can take it away
//! any more. Beside one block of 4 KiB written and synced after the other, in a file beside the log.

use super::{Bar, BarError, Settings};
use crate::floors::{IN_FLIGHT, SyncedWrites};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{LOGGED_WORKERS, Objects, RunningServer, StateProcess, StoragePlace};

pub(super) const SINGLE: Bar = Bar {
    id: "logged-single",
    summary: "a logged put, from put to barrier passed, against a write and fsync",
    run: single,
};

pub(super) const GROUP: Bar = Bar {
    id: "logged-group",
    summary: "logged puts a second with 32 in flight, against a write and fsync each",
    run: group,
};

const VALUE_BYTES: usize = 1 << 10;
const OBJECTS: Objects = Objects { first: 0, count: 64, value_bytes: VALUE_BYTES as u64 };
/// Each a put, or a write.
const SAMPLES: u64 = 1000;
/// Each as many puts as are in flight.
const GROUP_SAMPLES: u64 = 200;
const PLACEMENT: &str = "anywhere";

fn single(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let state = StateProcess::open_logged(&server, 1)?;
    let mut floor = SyncedWrites::open(server.data_directory())?;
    let mut figure = Measured::new("logged put", |batch| Ok(state.put_safely(OBJECTS, batch)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(SINGLE.id, &mut turns)?;
    let [floor, figure] = [0, 1].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));
    let case = "1 KiB, one writer, from put to barrier passed, p50; floor: write of 4 KiB and fsync, p50";
    let case = Case { id: SINGLE.id, case, placement: PLACEMENT, unit: "ns" };
    Ok(vec![case.judge_rounds(&figure, &floor, Condition::AtMostTimesFloor(1.3))])
}

fn group(settings: Settings) -> Result<Vec<Row>, BarError> {
    LOGGED_WORKERS.into_iter().map(|workers| group_of(settings, workers)).collect()
}

/// One worker is how the bar is met best; more share two cores with all that wakes them.
fn group_of(settings: Settings, workers: u32) -> Result<Row, BarError> {
    let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
    let state = StateProcess::open_logged(&server, workers)?;
    let mut floor = SyncedWrites::open(server.data_directory())?;
    let mut figure =
        Measured::new("logged puts, 32 in flight", |batch| Ok(state.put_in_flight(VALUE_BYTES, IN_FLIGHT, batch)?));
    let mut turns =
        [Turn::new(&mut floor, settings.batch(SAMPLES)), Turn::new(&mut figure, settings.batch(GROUP_SAMPLES))];
    let outcomes = settings.interleave(GROUP.id, &mut turns)?;
    let [floor, figure] = [0, 1].map(|index: usize| outcomes[index].of_rounds(|round| round.per_second));
    let case = format!(
        "1 KiB, 32 in flight, workers: {workers}, each counted when its reply says that it is durable; floor: write of 4 KiB and \
         fsync each"
    );
    let case = Case { id: GROUP.id, case: &case, placement: PLACEMENT, unit: "puts/s" };
    Ok(case.judge_rounds(&figure, &floor, Condition::AtLeastTimesFloor(10.0)))
}
