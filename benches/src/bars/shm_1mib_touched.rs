//! `shm-1mib-touched`: 1 MiB filled by the client, summed by the function, answered and checked, beside the same over a
//! bare mapping; and across a trust boundary, where the worker reads a private copy, beside that plus a plain copy.
//!
//! The floors rotate over as many blocks as the lane does, which is found out by looking.

use std::collections::BTreeSet;

use praas_client::{Loan, Process};

use super::{Bar, BarError, Settings};
use crate::floors::{Blocks, Config, Copy, Touched, expected_sum, fill};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, SUM, SubjectError, check};

pub(super) const BAR: Bar =
    Bar { id: "shm-1mib-touched", summary: "1 MiB filled, summed and answered, against a bare mapping", run };

const SAMPLES: u64 = 300;
const BLOCK_BYTES: usize = 1 << 20;
/// Calls from which the lane's rotation is learnt: far more than it has blocks of this size.
const CALLS_LOOKED_AT: u64 = 256;
/// A client outside the trust domain cannot write a loan in place. It fills pieces that stay in its first-level cache and
/// copies each.
const PIECE_BYTES: usize = 16 << 10;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(PIECE_BYTES));

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let plan = LanePlan::spinning()?;
    let (inside, across) = (Lane::open(&server, plan)?, Lane::open(&server, plan.untrusted())?);
    let sources = blocks_in_rotation(&inside)?;
    // The worker copies to one private buffer, which it keeps.
    let blocks = Blocks { block_bytes: BLOCK_BYTES, sources, destinations: 1 };
    let config = Config::new(plan.placement);
    let mut bare = Touched::open(&config, blocks)?;
    let mut copy = Copy::open(&config, blocks)?;
    let mut seed = 0;
    let mut trusted = Measured::new("1 MiB, trusted", |batch| {
        inside.measure(batch, |process| {
            seed += 1;
            let mut loan = process.loan(BLOCK_BYTES)?;
            fill(in_place(&mut loan)?, seed);
            sum_and_check(process, loan, seed)
        })
    });
    let mut other_seed = 0;
    let mut piece = vec![0; PIECE_BYTES];
    let mut untrusted = Measured::new("1 MiB, untrusted", |batch| {
        across.measure(batch, |process| {
            other_seed += 1;
            let mut loan = process.loan(BLOCK_BYTES)?;
            fill_by_pieces(&mut loan, &mut piece, other_seed)?;
            sum_and_check(process, loan, other_seed)
        })
    });
    let batch = settings.batch(SAMPLES);
    let mut turns = [
        Turn::new(&mut bare, batch),
        Turn::new(&mut trusted, batch),
        Turn::new(&mut untrusted, batch),
        Turn::new(&mut copy, batch),
    ];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [bare, trusted, untrusted, copy] =
        [0, 1, 2, 3].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));

    let placement = plan.placement.to_string();
    let case = |case| Case { id: BAR.id, case, placement: &placement, unit: "ns" };
    let inside_case = format!("1 MiB touched, p50; floor: bare mapping, {sources} block(s), p50");
    let across_case = "1 MiB touched, untrusted, p50; floor: 1.2 × bare mapping + 1.3 × memcpy, p50";
    let allowed: Vec<f64> = bare.iter().zip(&copy).map(|(bare, copy)| 1.2 * bare + 1.3 * copy).collect();
    Ok(vec![
        case(&inside_case).judge_rounds(&trusted, &bare, Condition::AtMostTimesFloor(1.2)),
        case(across_case).judge_rounds(&untrusted, &allowed, Condition::AtMostTimesFloor(1.0)),
    ])
}

/// How many different blocks a row of calls gets.
fn blocks_in_rotation(lane: &Lane) -> Result<usize, SubjectError> {
    let _awake = lane.wake()?;
    let mut places = BTreeSet::new();
    for seed in 0..CALLS_LOOKED_AT {
        let mut loan = lane.process().loan(BLOCK_BYTES)?;
        let block = in_place(&mut loan)?;
        places.insert(block.as_ptr());
        fill(block, seed);
        sum_and_check(lane.process(), loan, seed)?;
    }
    Ok(places.len())
}

fn in_place(loan: &mut Loan) -> Result<&mut [u8], SubjectError> {
    let untrusted = || SubjectError::WrongAnswer {
        function: "lending",
        expected: "a loan within the trust domain".to_owned(),
        actual: "one across its boundary".to_owned(),
    };
    loan.as_mut_slice().ok_or_else(untrusted)
}

/// The same bytes as [`fill`] writes.
fn fill_by_pieces(loan: &mut Loan, piece: &mut [u8], seed: u64) -> Result<(), SubjectError> {
    for offset in (0..BLOCK_BYTES).step_by(piece.len()) {
        fill(piece, seed.wrapping_add(offset as u64 / 8));
        loan.write_at(offset, piece)?;
    }
    Ok(())
}

fn sum_and_check(process: &Process, loan: Loan, seed: u64) -> Result<(), SubjectError> {
    let reply = process.invoke(SUM, loan)?;
    check(SUM.name(), &expected_sum(BLOCK_BYTES, seed).to_le_bytes(), &reply)
}
