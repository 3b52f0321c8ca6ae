//! Ratios of two rows, with their intervals of confidence. Only rows that were measured in turns have one: of one run, of
//! one group, in one unit, and round for round.
//!
//! A ratio is the median of the rounds' own ratios: a burst of foreign work, or a machine that changes its pace, meets both
//! rows of a round alike. Its interval is the bootstrap's over the same pairs of rounds.

use std::fmt;

use super::bootstrap;
use crate::row::Row;

/// How many times the one is the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the rounds' own ratios.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub ci_low: f64,
    /// Upper end.
    pub ci_high: f64,
}

impl Ratio {
    /// The ratio the other way round.
    #[must_use]
    pub fn inverted(self) -> Self {
        Self { value: 1.0 / self.value, ci_low: 1.0 / self.ci_high, ci_high: 1.0 / self.ci_low }
    }

    /// Whether the interval leaves 1 out: whether there is a difference at all.
    #[must_use]
    pub fn excludes_one(self) -> bool {
        self.ci_low > 1.0 || self.ci_high < 1.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [value, low, high] = [self.value, self.ci_low, self.ci_high].map(digits);
        write!(formatter, "{value} × [{low}, {high}]")
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Why two rows have no ratio.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RatioError {
    /// Runs differ in everything that nobody looked at.
    #[error("{numerator} and {denominator} were measured in different runs; measure both in one: {command}")]
    DifferentRuns {
        /// The one row.
        numerator: String,
        /// The other one.
        denominator: String,
        /// What measures the first one's plot.
        command: String,
    },
    /// They were not measured in turns.
    #[error("{numerator} and {denominator} were not measured in turns (groups {groups:?}): they have no ratio")]
    DifferentGroups {
        /// The one row.
        numerator: String,
        /// The other one.
        denominator: String,
        /// Their groups.
        groups: (u64, u64),
    },
    /// One has other units.
    #[error("{numerator} is in `{}`, {denominator} in `{}`: they have no ratio", .units.0, .units.1)]
    DifferentUnits {
        /// The one row.
        numerator: String,
        /// The other one.
        denominator: String,
        /// Their units.
        units: (String, String),
    },
    /// One was measured in other rounds.
    #[error("{numerator} has {} rounds, {denominator} has {}: they cannot be paired", .rounds.0, .rounds.1)]
    DifferentRounds {
        /// The one row.
        numerator: String,
        /// The other one.
        denominator: String,
        /// Their numbers of rounds.
        rounds: (usize, usize),
    },
    /// Nothing was measured.
    #[error("{row} was not measured: {reason}")]
    NotMeasured {
        /// The row.
        row: String,
        /// Why.
        reason: String,
    },
}

/// How many times `numerator` is `denominator`.
///
/// # Errors
/// [`RatioError`] unless both are of one run, one group and one unit, and were measured round by round.
pub fn ratio(numerator: &Row, denominator: &Row) -> Result<Ratio, RatioError> {
    let (over, under) = (numerator, denominator);
    for row in [over, under] {
        if let Some(reason) = why_unmeasured(row) {
            return Err(RatioError::NotMeasured { row: name(row), reason });
        }
    }
    let (numerator, denominator) = (name(over), name(under));
    if over.run != under.run {
        return Err(RatioError::DifferentRuns { numerator, denominator, command: over.source.clone() });
    }
    if over.group != under.group {
        return Err(RatioError::DifferentGroups { numerator, denominator, groups: (over.group, under.group) });
    }
    if over.unit != under.unit {
        let units = (over.unit.clone(), under.unit.clone());
        return Err(RatioError::DifferentUnits { numerator, denominator, units });
    }
    let rounds = (over.rounds.len(), under.rounds.len());
    if rounds.0 != rounds.1 {
        return Err(RatioError::DifferentRounds { numerator, denominator, rounds });
    }
    Ok(of_rounds(&over.rounds, &under.rounds))
}

fn why_unmeasured(row: &Row) -> Option<String> {
    let no_rounds = || row.rounds.is_empty().then(|| "it has no rounds".to_owned());
    row.absent.clone().or_else(no_rounds)
}

/// The ratio of paired rounds.
fn of_rounds(numerators: &[f64], denominators: &[f64]) -> Ratio {
    let ratios: Vec<f64> = numerators.iter().zip(denominators).map(|(over, under)| over / under).collect();
    let (ci_low, ci_high) = bootstrap::median_interval(&ratios);
    Ratio { value: bootstrap::median(ratios), ci_low, ci_high }
}

/// A row, for people.
pub(crate) fn name(row: &Row) -> String {
    use std::fmt::Write;

    let mut name = format!("`{}: {}", row.plot, row.series);
    if let Some(bytes) = row.payload_bytes {
        let _ = write!(name, ", {bytes} B");
    }
    for (axis, value) in [(&row.x_name, row.x), (&row.y_name, row.y)] {
        if let (Some(axis), Some(value)) = (axis, value) {
            let _ = write!(name, ", {axis} {value}");
        }
    }
    name.push('`');
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::samples_of_rows::row;

    #[test]
    fn the_ratio_is_of_rounds_and_not_of_medians() {
        // The machine slows down tenfold in the third of five rounds and stays there.
        let slow = row("a", &[200.0, 210.0, 2_000.0, 2_100.0, 2_050.0]);
        let fast = row("b", &[100.0, 105.0, 1_000.0, 1_050.0, 1_025.0]);
        let found = ratio(&slow, &fast).expect("both are of one group");
        assert!((found.value - 2.0).abs() < 1e-9 && found.ci_low <= found.value && found.value <= found.ci_high);
        assert!((found.ci_high - found.ci_low).abs() < 1e-9, "{found}: each round has the same ratio");
        assert!(found.excludes_one());
        assert!((found.inverted().value - 0.5).abs() < 1e-9);
    }

    #[test]
    fn an_interval_holds_the_ratio_and_widens_with_noise() {
        let steady = ratio(&row("a", &[30.0, 31.0, 30.5, 30.2, 30.8]), &row("b", &[10.0; 5])).expect("one group");
        let noisy = ratio(&row("a", &[30.0, 61.0, 15.0, 30.2, 44.0]), &row("b", &[10.0; 5])).expect("one group");
        assert!(noisy.ci_high - noisy.ci_low > 5.0 * (steady.ci_high - steady.ci_low), "{noisy}, {steady}");
        assert!(noisy.ci_low <= noisy.value && noisy.value <= noisy.ci_high, "{noisy}");
    }

    #[test]
    fn rows_that_were_not_measured_in_turns_are_refused() {
        let (here, there) = (row("a", &[1.0, 2.0]), row("b", &[1.0, 2.0]));
        let refusal = |change: fn(&mut Row)| {
            let mut other = there.clone();
            change(&mut other);
            ratio(&here, &other).expect_err("they have no ratio").to_string()
        };
        assert!(refusal(|row| row.run = "yesterday".into()).contains("different runs"));
        assert!(refusal(|row| row.group += 1).contains("not measured in turns (groups (1, 2))"));
        assert!(refusal(|row| row.unit = "1/s".into()).contains("`ns`"));
        assert!(refusal(|row| row.rounds.push(1.0)).contains("2 rounds"));
        assert!(refusal(|row| row.rounds.clear()).contains("was not measured"));
        assert!(refusal(|row| row.absent = Some("no redis".into())).ends_with("was not measured: no redis"));
    }

    #[test]
    fn a_row_is_named_by_its_place() {
        let mut heat = row("a", &[1.0]);
        heat.payload_bytes = None;
        (heat.x_name, heat.x) = (Some("invocations".into()), Some(10.0));
        assert_eq!(name(&heat), "`plot: a, invocations 10`");
        assert_eq!(name(&row("a", &[1.0])), "`plot: a, 64 B`");
    }
}
