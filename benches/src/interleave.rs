//! Measures several things in one run, in turns, so that whatever else the machine does meets all of them.
//!
//! Round `n` runs every series once; even rounds forwards, odd ones backwards, so that a drift during the run cancels.
//! The first series of a comparison is its floor by convention; the ratios are made by [`Comparison`].

use crate::floors::{Batch, Samples};

/// Why a series could not be measured; floors and figures fail in their own ways.
pub type SeriesError = Box<dyn std::error::Error + Send + Sync>;

/// Something that is measured in rounds. Between its rounds it must leave the machine alone.
pub trait Series {
    /// Its name, for people.
    fn label(&self) -> String;

    /// One round.
    ///
    /// # Errors
    /// Whatever prevents it; the run ends there.
    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError>;
}

/// A series made of a label and a closure: most figures.
pub struct Measured<F> {
    label: String,
    round: F,
}

impl<F> Measured<F>
where
    F: FnMut(Batch) -> Result<Samples, SeriesError>,
{
    /// `round` measures one batch, as a rule through [`crate::floors::timed`].
    pub fn new(label: impl Into<String>, round: F) -> Self {
        Self { label: label.into(), round }
    }
}

impl<F> std::fmt::Debug for Measured<F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Measured").field("label", &self.label).finish_non_exhaustive()
    }
}

impl<F> Series for Measured<F>
where
    F: FnMut(Batch) -> Result<Samples, SeriesError>,
{
    fn label(&self) -> String {
        self.label.clone()
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        (self.round)(batch)
    }
}

/// One series of a run, and how much of it each round measures.
pub struct Turn<'a> {
    series: &'a mut dyn Series,
    batch: Batch,
}

impl<'a> Turn<'a> {
    /// `batch` operations of `series` in every round.
    pub fn new(series: &'a mut dyn Series, batch: Batch) -> Self {
        Self { series, batch }
    }
}

impl std::fmt::Debug for Turn<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Turn").field("series", &self.series.label()).field("batch", &self.batch).finish()
    }
}

/// A series that failed.
#[derive(Debug, thiserror::Error)]
#[error("round {round} of `{label}` failed: {source}")]
pub struct RoundError {
    /// The series.
    pub label: String,
    /// Which round, from 1.
    pub round: u32,
    /// Why.
    #[source]
    pub source: SeriesError,
}

/// A round's own figures, kept because a burst of foreign work spoils rounds, not whole runs.
#[derive(Clone, Copy, Debug)]
pub struct RoundFigures {
    /// Median, nanoseconds an operation.
    pub p50_ns: f64,
    /// 99th percentile, nanoseconds an operation.
    pub p99_ns: f64,
    /// Operations a second.
    pub per_second: f64,
}

/// What a run found about one series.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The series' name.
    pub label: String,
    /// All rounds together.
    pub samples: Samples,
    /// Each round by itself, in the order measured.
    pub rounds: Vec<RoundFigures>,
}

impl Outcome {
    /// The median over the rounds of a figure of each round.
    ///
    /// # Panics
    /// Without rounds, which [`interleave`] never returns.
    #[must_use]
    pub fn median_of_rounds(&self, figure: impl Fn(&RoundFigures) -> f64) -> f64 {
        median(self.of_rounds(figure))
    }

    /// A figure of each round, in the order measured.
    #[must_use]
    pub fn of_rounds(&self, figure: impl Fn(&RoundFigures) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }
}

/// Runs `rounds` rounds of all `turns`; `on_round` hears of each finished one, for a progress bar.
///
/// # Errors
/// The first round that fails ends the run.
///
/// # Panics
/// Without rounds there is nothing to report.
pub fn interleave(
    rounds: u32,
    turns: &mut [Turn<'_>],
    mut on_round: impl FnMut(u32),
) -> Result<Vec<Outcome>, RoundError> {
    assert!(rounds > 0, "a run has at least one round");
    let mut found: Vec<Vec<Samples>> = turns.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        let mut order: Vec<usize> = (0..turns.len()).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for index in order {
            let Turn { series, batch } = &mut turns[index];
            let samples = series.round(*batch).map_err(|source| RoundError { label: series.label(), round, source })?;
            found[index].push(samples);
        }
        on_round(round);
    }
    let outcomes = turns.iter().zip(&found).map(|(turn, rounds)| outcome(turn.series.label(), rounds)).collect();
    Ok(outcomes)
}

fn outcome(label: String, rounds: &[Samples]) -> Outcome {
    let mut samples = Samples::empty(rounds[0].operations_per_sample());
    rounds.iter().for_each(|round| samples.merge(round));
    Outcome {
        label,
        samples,
        rounds: rounds
            .iter()
            .map(|round| RoundFigures {
                p50_ns: round.p50_ns(),
                p99_ns: round.p99_ns(),
                per_second: round.per_second(),
            })
            .collect(),
    }
}

/// A figure beside the floor of the same run.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// The floor's median over all samples.
    pub floor_p50_ns: f64,
    /// The floor's 99th percentile: the median of the rounds' own, which one burst of foreign work does not move.
    pub floor_p99_ns: f64,
    /// The figure's median over all samples.
    pub figure_p50_ns: f64,
    /// The figure's 99th percentile, as the floor's.
    pub figure_p99_ns: f64,
    /// Figure's over floor's median.
    pub ratio_of_medians: f64,
    /// The median over the rounds of the ratio within each. It holds where the ratio of medians does not: when the
    /// machine changed its pace in the middle of the run, as a virtual one does when its cores are moved.
    pub median_of_ratios: f64,
    /// The quartiles of the ratios within the rounds: how steady the comparison was.
    pub ratio_quartiles: (f64, f64),
}

impl Comparison {
    /// Compares two outcomes of one run.
    #[must_use]
    pub fn of(floor: &Outcome, figure: &Outcome) -> Self {
        let (floor_p50_ns, figure_p50_ns) = (floor.samples.p50_ns(), figure.samples.p50_ns());
        let pairs = floor.rounds.iter().zip(&figure.rounds);
        let mut ratios: Vec<f64> = pairs.map(|(floor, figure)| figure.p50_ns / floor.p50_ns).collect();
        ratios.sort_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        Self {
            floor_p50_ns,
            floor_p99_ns: floor.median_of_rounds(|round| round.p99_ns),
            figure_p50_ns,
            figure_p99_ns: figure.median_of_rounds(|round| round.p99_ns),
            ratio_of_medians: figure_p50_ns / floor_p50_ns,
            ratio_quartiles: (ratios[quarter], ratios[ratios.len() - 1 - quarter]),
            median_of_ratios: median(ratios),
        }
    }
}

/// The median; of an even number, the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const BATCH: Batch = Batch { warm_up: 0, samples: 1 };

    fn constant(span_ns: u64) -> Samples {
        let mut samples = Samples::empty(1);
        for _ in 0..100 {
            samples.record(span_ns);
        }
        samples
    }

    #[test]
    fn rounds_alternate_and_turn_round() {
        let order = RefCell::new(String::new());
        let mut first = Measured::new("a", |_| {
            order.borrow_mut().push('a');
            Ok(constant(1))
        });
        let mut second = Measured::new("b", |_| {
            order.borrow_mut().push('b');
            Ok(constant(1))
        });
        let mut heard = Vec::new();
        let mut turns = [Turn::new(&mut first, BATCH), Turn::new(&mut second, BATCH)];
        interleave(3, &mut turns, |round| heard.push(round)).expect("nothing fails");
        assert_eq!(*order.borrow(), "abbaab");
        assert_eq!(heard, [1, 2, 3]);
    }

    #[test]
    fn histograms_of_rounds_are_merged() {
        let mut span_ns = 0;
        let mut series = Measured::new("growing", |_| {
            span_ns += 100;
            Ok(constant(span_ns))
        });
        let outcomes = interleave(3, &mut [Turn::new(&mut series, BATCH)], |_| {}).expect("nothing fails");
        let outcome = &outcomes[0];
        assert_eq!(outcome.samples.count(), 300);
        assert!((outcome.samples.p50_ns() - 200.0).abs() < 1.0, "{outcome:?}");
        assert_eq!(outcome.rounds.len(), 3);
        assert!((outcome.median_of_rounds(|round| round.p99_ns) - 200.0).abs() < 1.0, "{outcome:?}");
    }

    #[test]
    fn a_slow_spell_that_meets_both_leaves_the_median_of_ratios() {
        // In the second of three rounds everything takes ten times as long.
        let spell = |base_ns: u64| {
            let mut round = 0;
            move |_| {
                round += 1;
                Ok(constant(if round == 2 { base_ns * 10 } else { base_ns }))
            }
        };
        let mut floor = Measured::new("floor", spell(100));
        let mut figure = Measured::new("figure", spell(150));
        let mut turns = [Turn::new(&mut floor, BATCH), Turn::new(&mut figure, BATCH)];
        let outcomes = interleave(3, &mut turns, |_| {}).expect("nothing fails");
        let comparison = Comparison::of(&outcomes[0], &outcomes[1]);
        assert!((comparison.median_of_ratios - 1.5).abs() < 0.02, "{comparison:?}");
        assert!((comparison.ratio_of_medians - 1.5).abs() < 0.02, "{comparison:?}");
        assert!(comparison.figure_p99_ns < 200.0, "{comparison:?}");
        let (low, high) = comparison.ratio_quartiles;
        assert!(low <= comparison.median_of_ratios && comparison.median_of_ratios <= high, "{comparison:?}");
    }

    #[test]
    fn a_failure_names_series_and_round() {
        let mut rounds = 0;
        let mut series = Measured::new("fragile", |_| {
            rounds += 1;
            if rounds == 2 { Err("broke".into()) } else { Ok(constant(1)) }
        });
        let error = interleave(3, &mut [Turn::new(&mut series, BATCH)], |_| {}).expect_err("the second round fails");
        assert_eq!(error.to_string(), "round 2 of `fragile` failed: broke");
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
