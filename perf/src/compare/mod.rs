//! Two runs beside each other: what became faster or slower, with intervals of confidence.
//!
//! Everywhere else rows of different runs are not compared, because between two runs everything can change that nobody
//! looked at. Here that is the question, so each series is compared twice: its medians, and its ratio to the floor of its
//! group. The floor was measured in turns with it and meets the same machine, so the ratio of ratios leaves the machine's
//! pace of the day out. Where there is a floor it decides; else the medians do.
//!
//! An interval knows how much rounds of one run differ, not how much runs do: a change of a few percent that only the
//! medians show is to be measured again.

mod table;

use serde::Serialize;

pub use table::table_of;

use crate::harness::bootstrap;
use crate::harness::ratio::{Ratio, name};
use crate::row::{Kind, Row, Rows};

/// Rounds below which an interval says nothing.
const ROUNDS_MIN: usize = 5;

/// Two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Series that both have.
    pub changes: Vec<Change>,
    /// Series that only the old run measured.
    pub only_old: Vec<String>,
    /// Series that only the new run measured.
    pub only_new: Vec<String>,
}

/// A series in both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Plot, series and place, for people.
    pub name: String,
    /// The unit of the figures.
    pub unit: String,
    /// The old median.
    pub old: f64,
    /// The new median.
    pub new: f64,
    /// New over old.
    pub ratio: f64,
    /// The 95 % interval of that, where there are rounds enough.
    pub interval: Option<(f64, f64)>,
    /// The same of the series' ratio to its group's floor: value, lower end, upper end.
    pub to_floor: Option<(f64, f64, f64)>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The interval leaves 1 out, on the good side.
    Better,
    /// On the bad side; or a bar that was met is not any more.
    Worse,
    /// The interval holds 1.
    Same,
    /// Too few rounds to say.
    Unjudged,
}

/// Compares two runs.
#[must_use]
pub fn compare(old: &Rows, new: &Rows) -> Comparison {
    let (old, new) = (Side::of(old), Side::of(new));
    let missing = |here: &Side<'_>, there: &Side<'_>| {
        here.measured().filter(|row| there.like(row).is_none()).map(name).collect::<Vec<_>>()
    };
    let pairs = new.measured().filter_map(|row| Some((old.like(row)?, row)));
    Comparison {
        only_old: missing(&old, &new),
        only_new: missing(&new, &old),
        changes: pairs.map(|(before, after)| change(&old, before, &new, after)).collect(),
    }
}

/// The measured rows of a run.
struct Side<'a>(&'a Rows);

impl<'a> Side<'a> {
    fn of(rows: &'a Rows) -> Self {
        Self(rows)
    }

    fn measured(&self) -> impl Iterator<Item = &'a Row> + 'a {
        self.0.all().iter().filter(|row| row.kind != Kind::Paper && row.absent.is_none() && row.p50.is_some())
    }

    /// The row of the same series and place.
    fn like(&self, row: &Row) -> Option<&'a Row> {
        let place = |row: &Row| (row.payload_bytes, row.x, row.y);
        self.measured().find(|other| {
            other.plot == row.plot && other.series == row.series && other.unit == row.unit && place(other) == place(row)
        })
    }

    /// The rounds of a row over those of the first floor of its group.
    fn over_floor(&self, row: &Row) -> Option<(String, Vec<f64>)> {
        let is_floor = |other: &&Row| {
            other.kind == Kind::Floor
                && (&other.run, other.group, &other.unit) == (&row.run, row.group, &row.unit)
                && other.rounds.len() == row.rounds.len()
        };
        let floor = self.measured().find(is_floor).filter(|_| row.kind != Kind::Floor)?;
        let ratios = row.rounds.iter().zip(&floor.rounds).map(|(figure, floor)| figure / floor).collect();
        Some((floor.series.clone(), ratios))
    }
}

fn change(old_side: &Side<'_>, old: &Row, new_side: &Side<'_>, new: &Row) -> Change {
    let (before, after) = (old.p50.unwrap_or(f64::NAN), new.p50.unwrap_or(f64::NAN));
    let of_medians = judged(&old.rounds, &new.rounds);
    let to_floor = match (old_side.over_floor(old), new_side.over_floor(new)) {
        (Some((old_floor, old)), Some((new_floor, new))) if old_floor == new_floor => judged(&old, &new),
        _ => None,
    };
    let lost = [old, new].map(|row| row.verdict.as_ref().is_some_and(|verdict| verdict.met)) == [true, false];
    let outcome = match to_floor.or(of_medians) {
        _ if lost => Outcome::Worse,
        None => Outcome::Unjudged,
        Some(ratio) if !ratio.excludes_one() => Outcome::Same,
        Some(ratio) if (ratio.value < 1.0) == less_is_better(&new.unit) => Outcome::Better,
        Some(_) => Outcome::Worse,
    };
    Change {
        name: name(new).trim_matches('`').to_owned(),
        unit: new.unit.clone(),
        old: before,
        new: after,
        ratio: after / before,
        interval: of_medians.map(|ratio| (ratio.ci_low, ratio.ci_high)),
        to_floor: to_floor.map(|ratio| (ratio.value, ratio.ci_low, ratio.ci_high)),
        outcome,
    }
}

/// New over old rounds, if there are enough.
fn judged(old: &[f64], new: &[f64]) -> Option<Ratio> {
    let enough = old.len() >= ROUNDS_MIN && new.len() >= ROUNDS_MIN;
    enough.then(|| {
        let (value, ci_low, ci_high) = bootstrap::ratio_of_medians(new, old);
        Ratio { value, ci_low, ci_high }
    })
}

/// Of spans, bytes and counts less is better, of rates more.
fn less_is_better(unit: &str) -> bool {
    !unit.ends_with("/s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::samples_of_rows::row;
    use crate::row::Verdict;

    const FLOOR: [f64; 5] = [100.0, 101.0, 99.0, 100.0, 100.5];

    fn of_run(run: &str, rows: Vec<Row>) -> Rows {
        Rows::new(rows.into_iter().map(|row| Row { run: run.into(), ..row }).collect())
    }

    fn floor(rounds: &[f64]) -> Row {
        Row { kind: Kind::Floor, ..row("floor", rounds) }
    }

    fn only(comparison: &Comparison, series: &str) -> Change {
        comparison.changes.iter().find(|change| change.name.contains(series)).expect("both runs have it").clone()
    }

    fn times(rounds: &[f64], factor: f64) -> Vec<f64> {
        rounds.iter().map(|round| round * factor).collect()
    }

    #[test]
    fn a_slower_series_is_worse_and_a_higher_rate_is_better() {
        let rate = |rounds: &[f64]| Row { unit: "1/s".into(), ..row("rate", rounds) };
        let old = of_run("old", vec![row("span", &FLOOR), rate(&FLOOR)]);
        let new = of_run("new", vec![row("span", &times(&FLOOR, 1.5)), rate(&times(&FLOOR, 1.5))]);
        let found = compare(&old, &new);
        let span = only(&found, "span");
        assert!((span.ratio - 1.5).abs() < 1e-9 && span.interval.is_some_and(|(low, _)| low > 1.4), "{span:?}");
        assert_eq!((span.outcome, only(&found, "rate").outcome), (Outcome::Worse, Outcome::Better));
        assert_eq!(only(&compare(&new, &old), "span").outcome, Outcome::Better);
    }

    #[test]
    fn a_slower_machine_changes_the_medians_and_not_what_became_of_a_series() {
        let old = of_run("old", vec![floor(&FLOOR), row("ours", &times(&FLOOR, 2.0))]);
        let slower = times(&FLOOR, 3.0);
        let new = of_run("new", vec![floor(&slower), row("ours", &times(&slower, 2.0))]);
        let found = only(&compare(&old, &new), "ours");
        assert!(found.ratio > 2.9 && found.interval.is_some_and(|(low, _)| low > 2.5), "{found:?}");
        assert!(found.to_floor.is_some_and(|(value, ..)| (value - 1.0).abs() < 0.05), "{found:?}");
        assert_eq!(found.outcome, Outcome::Same);
    }

    #[test]
    fn a_loss_is_seen_through_a_faster_machine() {
        let old = of_run("old", vec![floor(&FLOOR), row("ours", &times(&FLOOR, 2.0))]);
        let faster = times(&FLOOR, 0.5);
        let new = of_run("new", vec![floor(&faster), row("ours", &times(&faster, 3.0))]);
        let found = only(&compare(&old, &new), "ours");
        assert!(found.ratio < 1.0, "{found:?}");
        assert_eq!(found.outcome, Outcome::Worse);
    }

    #[test]
    fn noise_and_too_few_rounds_are_no_change() {
        let old = of_run("old", vec![row("noisy", &[100.0, 140.0, 90.0, 70.0, 120.0]), row("short", &[1.0])]);
        let new = of_run("new", vec![row("noisy", &[105.0, 80.0, 150.0, 101.0, 95.0]), row("short", &[9.0])]);
        let found = compare(&old, &new);
        assert_eq!((only(&found, "noisy").outcome, only(&found, "short").outcome), (Outcome::Same, Outcome::Unjudged));
    }

    #[test]
    fn a_bar_that_is_not_met_any_more_is_worse() {
        let verdict = |met| Verdict { bar: "b".into(), floor: None, ratio: None, condition: "≤ 2".into(), met };
        let bar = |met| Row { verdict: Some(verdict(met)), ..row("bar", &[]) };
        let figures = |met| of_run("run", vec![Row { p50: Some(2.0), ..bar(met) }]);
        assert_eq!(only(&compare(&figures(true), &figures(false)), "bar").outcome, Outcome::Worse);
        assert_eq!(only(&compare(&figures(false), &figures(true)), "bar").outcome, Outcome::Unjudged);
    }

    #[test]
    fn what_only_one_run_has_is_said() {
        let absent = Row { absent: Some("no redis".into()), ..row("redis", &[]) };
        let old = of_run("old", vec![row("gone", &FLOOR), row("redis", &FLOOR)]);
        let new = of_run("new", vec![row("fresh", &FLOOR), absent]);
        let found = compare(&old, &new);
        assert_eq!(found.only_old, ["`plot: gone, 64 B`", "`plot: redis, 64 B`"]);
        assert_eq!(found.only_new, ["`plot: fresh, 64 B`"]);
        assert!(found.changes.is_empty());
    }
}
