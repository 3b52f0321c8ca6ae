//! The life of processes under everything at once, in an order that a seed decides: a real loop, keeper, workers, segments and sockets, with
//! storage and time that the test moves, all in one thread. See `run` for who is moved and `model` for what has to hold.
//!
//! `PRAAS_SIMULATION_SEEDS=1000` runs as many seeds, from `PRAAS_SIMULATION_SEED` (or 1) on; a seed that fails is printed with
//! what happened. `PRAAS_SIMULATION_LOG=1` shows the server's own words beside it.
//!
//! Of these faults, put into the code by hand, it is known that some seed finds each; whoever changes an actor or the model should see
//! that it still does:
//!
//! | fault | found by |
//! |---|---|
//! | a drain that does not sweep the lanes once more after it has closed its process (`drain.rs`) | a client that announces its requests late |
//! | generations of workers that are forgotten where a process sleeps (`swap/life.rs`) | tags, which never come again |
//! | each sleep taken for one that its server has heard of (`swap/returning.rs`) | tags, and versions of objects |
//! | a call with a key whose end is not recorded (`idempotency.rs` of the SDK) | clients that repeat a key after its success |
//! | a farewell that does not name what was not stored (`preemption.rs`) | what storage has, compared with what was done |

mod client;
mod ending;
mod functions;
#[path = "../common/lane_parts.rs"]
mod lane_parts;
mod model;
mod notice;
#[path = "../common/random.rs"]
#[allow(dead_code, reason = "a module of `tests/common`, of which the simulation uses a part")]
mod random;
mod run;
mod storage;
mod wish;
mod wishes;
mod workers;

use std::process::Command;
use std::time::{Duration, Instant};

use run::Run;

/// Seeds that run unless the environment says otherwise, as far as there is time.
const SEEDS: u64 = 150;

/// Seeds that one OS process runs at most: what workers have mapped that were killed while they waited stays until its end.
const SEEDS_TOGETHER_MAX: u64 = 40;

/// Time after which no other seed is begun, unless the environment names their number.
const TIME_MAX: Duration = Duration::from_secs(20);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_runs_twice() {
    let first = number("PRAAS_SIMULATION_SEED").unwrap_or(1);
    let asked = number("PRAAS_SIMULATION_SEEDS");
    if let Some(count) = asked.filter(|count| *count > SEEDS_TOGETHER_MAX) {
        return run_in_parts(first, count);
    }
    let (start, mut all) = (Instant::now(), Vec::new());
    for seed in first..first + asked.unwrap_or(SEEDS) {
        if asked.is_none() && start.elapsed() > TIME_MAX {
            break;
        }
        let mut run = Run::new(seed);
        if let Err(wrong) = run.carry_out() {
            panic!("PRAAS_SIMULATION_SEED={seed} PRAAS_SIMULATION_SEEDS=1 repeats this:\n{wrong}");
        }
        all.push(run.counts);
    }
    let sum = |of: fn(&run::Counts) -> u64| all.iter().map(of).sum::<u64>();
    println!(
        "{} seeds from {first}: {} calls, {} deaths of workers, {} of servers, {} losses of all memory, {} faults of storage, \
         {} swaps out, {} in, {} that failed, {} checkpoints, {} objects and pages fetched, {} late writes, {} notices, with {} \
         processes left behind",
        all.len(),
        sum(|counts| counts.calls),
        sum(|counts| counts.worker_deaths),
        sum(|counts| counts.server_deaths),
        sum(|counts| counts.memory_losses),
        sum(|counts| counts.storage_faults),
        sum(|counts| counts.swaps_out),
        sum(|counts| counts.swaps_in),
        sum(|counts| counts.swaps_failed),
        sum(|counts| counts.checkpoints),
        sum(|counts| counts.fetches),
        sum(|counts| counts.late_writes),
        sum(|counts| counts.notices),
        sum(|counts| counts.left_behind),
    );
    // A run in which nothing happens proves nothing.
    assert!(all.is_empty() || sum(|counts| counts.calls) > 20 * all.len() as u64);
    assert!(all.len() < 20 || sum(|counts| counts.swaps_in) > all.len() as u64);
}

#[test]
fn a_seed_always_does_the_same() {
    let record = || {
        let mut run = Run::new(7);
        run.carry_out().unwrap_or_else(|wrong| panic!("{wrong}"));
        run.record.iter().map(|line| without_random_names(line)).collect::<Vec<_>>()
    };
    let (once, again) = (record(), record());
    let differing = once.iter().zip(&again).position(|(one, other)| one != other);
    assert!(once.len() > 100);
    if let Some(index) = differing {
        let around = index.saturating_sub(20)..(index + 3).min(once.len()).min(again.len());
        panic!("line {index} differs:\n{}\n--- and:\n{}", once[around.clone()].join("\n"), again[around].join("\n"));
    }
    assert_eq!(once.len(), again.len());
}

/// What an error says without names that are drawn anew in each run: those of blobs, checksums over them, and which bytes of a blob
/// are meant: some of the names have a byte less.
fn without_random_names(line: &str) -> String {
    let line = line.split(", bytes ").next().unwrap_or_default();
    let words = line.split(|mark: char| !mark.is_ascii_alphanumeric());
    words.filter(|word| word.len() < 16).collect::<Vec<_>>().join(" ")
}

/// Runs as many seeds in OS processes of their own, one after the other.
fn run_in_parts(first: u64, count: u64) {
    let program = std::env::current_exe().expect("this test has a path");
    for part in (first..first + count).step_by(usize::try_from(SEEDS_TOGETHER_MAX).expect("small")) {
        let ended = Command::new(&program)
            .args(["--exact", "nothing_acknowledged_is_lost_and_nothing_runs_twice", "--nocapture"])
            .env("PRAAS_SIMULATION_SEED", part.to_string())
            .env("PRAAS_SIMULATION_SEEDS", SEEDS_TOGETHER_MAX.min(first + count - part).to_string())
            .status();
        let ended = ended.expect("this test can be started again");
        assert!(ended.success(), "one of the seeds from {part} on failed, as told above");
    }
}
