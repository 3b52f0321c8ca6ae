//! What is claimed, and what this run found of it: the bars that the project sets itself against other systems, the bars of
//! `praas-benches`, and the claims of the paper.
//!
//! | file | what |
//! |---|---|
//! | `condition.rs` | how a condition over several places of a plot is judged |
//! | `bars.rs` | the bars of this suite: `perf-local` … `perf-peers` |
//! | `benches.rs` | the bars of `praas-benches`, which bring their own verdicts |
//! | `paper.rs` | the paper's claims: what it measured, and what the same comparison gives here |
//!
//! A claim is judged from rows of one run alone, and only from rows that were measured in turns: everything goes through
//! [`ratio`](crate::harness::ratio::ratio), which refuses the rest. What was not measured is not met and says why; nothing is
//! rounded in praas's favour: a median counts, and where its interval holds the bar, the figure says so.

mod bars;
mod benches;
mod condition;
mod paper;

use crate::row::Rows;

/// Whose claim it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A bar of this suite.
    Bar,
    /// A bar of `praas-benches`: praas against the floors of the machine.
    Floor,
    /// The paper's.
    Paper,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds in this run.
    Met,
    /// It does not.
    NotMet,
    /// Nothing was measured that it could be judged by: why.
    NotMeasured(String),
}

/// A claim and this run's figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Its id; several claims may share one, each with a condition of its own.
    pub id: String,
    /// Whose it is.
    pub whose: Whose,
    /// What is claimed.
    pub text: String,
    /// What the paper measured, of its claims.
    pub paper: Option<String>,
    /// What measures it.
    pub command: String,
    /// This run's figures with their intervals; empty if there are none.
    pub figure: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// Judges every claim by the rows of one run.
#[must_use]
pub fn evaluate(rows: &Rows) -> Vec<Claim> {
    [bars::evaluate(rows), paper::evaluate(rows), benches::evaluate(rows)].concat()
}

/// What measures a plot.
fn command_of(plot: &str) -> String {
    format!("cargo run --release -p praas-perf -- {plot}")
}

/// Rows for the tests of this folder.
#[cfg(test)]
mod testing {
    use crate::harness::samples_of_rows;
    use crate::row::{Kind, Row};

    /// A row of five rounds around `median`, measured in turns with all rows of the same payload.
    pub(super) fn row(plot: &str, series: &str, kind: Kind, payload_bytes: Option<u64>, median: f64) -> Row {
        Row {
            plot: plot.to_owned(),
            payload_bytes,
            source: format!("cargo run --release -p praas-perf -- {plot}"),
            kind,
            group: payload_bytes.unwrap_or(0),
            ..samples_of_rows::row(series, &[0.98, 1.02, 1.0, 0.99, 1.01].map(|factor| factor * median))
        }
    }

    /// The same that could not be measured.
    pub(super) fn absent(plot: &str, series: &str, payload_bytes: Option<u64>, reason: &str) -> Row {
        Row {
            p50: None,
            rounds: Vec::new(),
            absent: Some(reason.to_owned()),
            ..row(plot, series, Kind::Baseline, payload_bytes, 1.0)
        }
    }

    /// A row of a heat map.
    pub(super) fn cell(plot: &str, series: &str, kind: Kind, (x, y): (f64, f64), median: f64) -> Row {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A group of its own for each cell.
        let group = (x * 1e6 + y) as u64;
        Row { x: Some(x), y: Some(y), group, ..row(plot, series, kind, None, median) }
    }
}
