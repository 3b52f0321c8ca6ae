//! `shm-1mib-descriptor`: a loan of 1 MiB that neither side touches costs what 64 bytes cost: only its place travels.

use super::{Bar, BarError, Settings};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{ACCEPT, ANSWER_IN_KIND, Lane, LanePlan, RunningServer, SubjectError, call_noop};

pub(super) const BAR: Bar =
    Bar { id: "shm-1mib-descriptor", summary: "a loan of 1 MiB, untouched, against a call with 64 bytes", run };

const SAMPLES: u64 = 20_000;
const BLOCK_BYTES: usize = 1 << 20;
/// What the loan may add: taking and giving back a block, and its descriptor.
const ALLOWANCE_NS: f64 = 200.0;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let lane = Lane::open(&server, LanePlan::spinning()?)?;
    let mut number = 0;
    let mut floor = Measured::new("no-op", |batch| {
        lane.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let lend = |function, expected_bytes| {
        let lane = &lane;
        move |batch| {
            lane.measure(batch, |process| {
                let reply = process.invoke(function, process.loan(BLOCK_BYTES)?)?;
                if reply.len() == expected_bytes { Ok(()) } else { Err(wrong_length(expected_bytes, reply.len())) }
            })
        }
    };
    let mut passed = Measured::new("1 MiB passed", lend(ACCEPT, 0));
    let mut answered = Measured::new("1 MiB passed and answered", lend(ANSWER_IN_KIND, BLOCK_BYTES));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut floor, batch), Turn::new(&mut passed, batch), Turn::new(&mut answered, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, passed, answered] = outcomes.as_slice() else { unreachable!("there are three turns") };

    let placement = lane.placement().to_string();
    let floors = floor.of_rounds(|round| round.p50_ns);
    let rows = [
        ("1 MiB loan, answered by nothing, p50; floor: 64 B, p50", passed),
        ("1 MiB loan, answered by another 1 MiB, p50; floor: 64 B, p50", answered),
    ];
    let judge = |(case, outcome): (&str, &crate::interleave::Outcome)| {
        let figures = outcome.of_rounds(|round| round.p50_ns);
        let case = Case { id: BAR.id, case, placement: &placement, unit: "ns" };
        case.judge_rounds(&figures, &floors, Condition::AtMostFloorPlus(ALLOWANCE_NS))
    };
    Ok(rows.into_iter().map(judge).collect())
}

#[cold]
fn wrong_length(expected: usize, actual: usize) -> SubjectError {
    let words = |bytes| format!("{bytes} bytes");
    SubjectError::WrongAnswer { function: "a loan's", expected: words(expected), actual: words(actual) }
}
