//! `state-million`: a state of a million objects. A get of one chosen at random, whose first and last line are read, beside one
//! dependent random load over as much shared memory as the state takes; and the memory that a key takes beyond itself and its
//! value.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Placement, PointerChase};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{KEY_BYTES, Objects, RunningServer, StateProcess, SubjectError};

pub(super) const BAR: Bar =
    Bar { id: "state-million", summary: "a million objects: a get of any of them, and the memory of each", run };

const SAMPLES: u64 = 50_000;
const OBJECTS: Objects = Objects { first: 0, count: 1_000_000, value_bytes: 64 };

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    // The worker and the floor have the same core.
    let placement = Placement::one_core()?;
    let mut state = StateProcess::open(&server, placement)?;
    let before_bytes = state.memory_bytes()?;
    state.fill(OBJECTS)?;
    let memory_bytes = state.memory_bytes()?;
    let footprint_bytes = usize::try_from(memory_bytes).map_err(|_| no_size(memory_bytes))?;
    let mut load = PointerChase::open(&Config::new(placement), footprint_bytes)?;
    let mut get = Measured::new("get of any of a million", |batch| Ok(state.get_random(OBJECTS, batch)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut load, batch), Turn::new(&mut get, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [load, get] = outcomes.as_slice() else { unreachable!("there are two turns") };

    let placement = format!("worker on {placement}");
    let megabytes = memory_bytes >> 20;
    let get_case =
        format!("1,000,000 keys, uniform, 64 B, p50; floor: one dependent random load over {megabytes} MiB, p50");
    let memory_case = format!("memory a key, beyond {KEY_BYTES} B of key and 64 B of value");
    let case = |case, unit| Case { id: BAR.id, case, placement: &placement, unit };
    Ok(vec![
        case(&get_case, "ns").judge_rounds(
            &get.of_rounds(|round| round.p50_ns),
            &load.of_rounds(|round| round.p50_ns),
            Condition::AtMostTimesFloor(2.5),
        ),
        case(&memory_case, "B").judge(beyond_bytes(memory_bytes - before_bytes), None, Condition::AtMost(128.0)),
    ])
}

/// Bytes that each object takes beyond key and value.
fn beyond_bytes(memory_bytes: u64) -> f64 {
    memory_bytes as f64 / OBJECTS.count as f64 - (KEY_BYTES as u64 + OBJECTS.value_bytes) as f64
}

fn no_size(bytes: u64) -> SubjectError {
    SubjectError::WrongAnswer {
        function: "the kernel",
        expected: "the size of a state".to_owned(),
        actual: format!("{bytes} bytes"),
    }
}
