//! `state-put`: a function puts objects into its process's state: 1 KiB under one key and under many, and 1 MiB under enough
//! keys in turn that the place of each is in no cache any more, beside a plain copy of the same block to as many places of
//! shared memory, touched beforehand.
//!
//! At how many places the values lie in turn is found out by looking.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Placement, RotatingCopy};
use crate::interleave::{Measured, Turn, median};
use crate::report::{Case, Condition, Row};
use crate::subject::{Objects, RunningServer, StateProcess};

pub(super) const BAR: Bar =
    Bar { id: "state-put", summary: "objects put by a function, 1 MiB against a plain copy", run };

const SAMPLES: u64 = 20_000;
const SAMPLES_LARGE: u64 = 300;
const LARGE_BYTES: usize = 1 << 20;

const ONE: Objects = Objects { first: 0, count: 1, value_bytes: 1 << 10 };
const MANY: Objects = Objects { first: 1, count: 4096, value_bytes: 1 << 10 };
/// With what waits for readers more than any last-level cache that a core has for itself.
const LARGE: Objects = Objects { first: 10_000, count: 64, value_bytes: LARGE_BYTES as u64 };

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    // The worker and the copy have the same core.
    let placement = Placement::one_core()?;
    let state = StateProcess::open(&server, placement)?;
    state.fill(ONE)?;
    state.fill(MANY)?;
    let places = state.places(LARGE)?;
    let mut copy = RotatingCopy::open(&Config::new(placement), LARGE_BYTES, places)?;
    let put_all = |objects, batch| state.put(objects, batch);
    let put = |label: &str, objects| Measured::new(label, move |batch| Ok(put_all(objects, batch)?));
    let (mut one, mut many, mut large) =
        (put("put of 1 KiB", ONE), put("put of 1 KiB, many keys", MANY), put("put of 1 MiB", LARGE));
    let mut turns = [
        Turn::new(&mut one, settings.batch(SAMPLES)),
        Turn::new(&mut many, settings.batch(SAMPLES)),
        Turn::new(&mut copy, settings.batch(SAMPLES_LARGE)),
        Turn::new(&mut large, settings.batch(SAMPLES_LARGE)),
    ];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [one, many, copy, large] = [0, 1, 2, 3].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));

    let placement = format!("worker on {placement}");
    let within = |case: &str, figures: Vec<f64>| {
        let case = Case { id: BAR.id, case, placement: &placement, unit: "ns" };
        case.judge(median(figures), None, Condition::AtMost(600.0))
    };
    let large_case = format!("1 MiB, {} keys in turn, p50; floor: memcpy to {places} places in turn, p50", LARGE.count);
    Ok(vec![
        within("1 KiB, one key, p50", one),
        within(&format!("1 KiB, {} keys in turn, p50", MANY.count), many),
        Case { id: BAR.id, case: &large_case, placement: &placement, unit: "ns" }.judge_rounds(
            &large,
            &copy,
            Condition::AtMostTimesFloor(1.3),
        ),
    ])
}
