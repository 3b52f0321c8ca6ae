//! What a round of measurement yields, and the one way to take it: a stamp after every operation, kept in memory that
//! was touched beforehand, turned into a histogram when the round is over. So an operation is charged one reading of
//! the clock and one store, nothing else.

use std::fmt;
use std::iter;

use hdrhistogram::Histogram;

use super::Clock;

/// The longest span that is told apart: one minute, in nanoseconds. Longer ones count as this.
const SPAN_NS_MAX: u64 = 60_000_000_000;
/// Significant digits kept: finer than any run repeats.
const SIGNIFICANT_DIGITS: u8 = 3;

/// How much one round measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Operations before the first sample, in samples: they bring caches, schedulers and peers into their stride.
    pub warm_up: u64,
    /// Samples to take.
    pub samples: u64,
}

impl Batch {
    /// All operations of a round whose every sample is one operation.
    #[must_use]
    pub fn operations(self) -> u64 {
        self.warm_up + self.samples
    }
}

/// Spans of one or several rounds.
#[derive(Clone)]
pub struct Samples {
    histogram: Histogram<u64>,
    operations_per_sample: u64,
}

impl Samples {
    /// No spans yet. `operations_per_sample` is 1 for a round trip; a pipelined floor times many calls at once.
    ///
    /// # Panics
    /// If `operations_per_sample` is zero.
    #[must_use]
    pub fn empty(operations_per_sample: u64) -> Self {
        assert!(operations_per_sample > 0, "a sample spans at least one operation");
        Self {
            histogram: Histogram::new_with_bounds(1, SPAN_NS_MAX, SIGNIFICANT_DIGITS)
                .expect("constant bounds are valid"),
            operations_per_sample,
        }
    }

    /// Adds one span in nanoseconds.
    pub fn record(&mut self, span_ns: u64) {
        self.histogram.saturating_record(span_ns.max(1));
    }

    /// Adds another round of the same measurement.
    ///
    /// # Panics
    /// If the two time different numbers of operations.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(
            self.operations_per_sample, other.operations_per_sample,
            "only rounds of one measurement are merged"
        );
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
    }

    /// As words of 8 bytes, for another process: operations a sample, then each span that occurred with its count.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let spans = self.histogram.iter_recorded();
        let spans = spans.flat_map(|span| [span.value_iterated_to(), span.count_at_value()]);
        iter::once(self.operations_per_sample).chain(spans).flat_map(u64::to_le_bytes).collect()
    }

    /// What [`Samples::to_bytes`] made; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let (operations, spans) = words.split_first()?;
        let (spans, odd) = spans.as_chunks::<2>();
        let operations_per_sample = u64::from_le_bytes(*operations);
        if operations_per_sample == 0 || !rest.is_empty() || !odd.is_empty() {
            return None;
        }
        let mut samples = Self::empty(operations_per_sample);
        for [span_ns, count] in spans {
            samples.histogram.saturating_record_n(u64::from_le_bytes(*span_ns), u64::from_le_bytes(*count));
        }
        Some(samples)
    }

    /// The spans in nanoseconds, one for every `operations_per_sample` operations.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// Operations that one span covers.
    #[must_use]
    pub fn operations_per_sample(&self) -> u64 {
        self.operations_per_sample
    }

    /// How many spans there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Nanoseconds an operation at a quantile between 0 and 1 (of the spans' means where a span covers several).
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / self.operations_per_sample as f64
    }

    /// The median.
    #[must_use]
    pub fn p50_ns(&self) -> f64 {
        self.quantile_ns(0.5)
    }

    /// The 99th percentile.
    #[must_use]
    pub fn p99_ns(&self) -> f64 {
        self.quantile_ns(0.99)
    }

    /// The 99.9th percentile.
    #[must_use]
    pub fn p999_ns(&self) -> f64 {
        self.quantile_ns(0.999)
    }

    /// Operations a second, over the sum of all spans; zero without spans.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let total_ns = self.histogram.mean() * self.count() as f64;
        if total_ns > 0.0 { (self.count() * self.operations_per_sample) as f64 * 1e9 / total_ns } else { 0.0 }
    }
}

impl fmt::Debug for Samples {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Samples")
            .field("count", &self.count())
            .field("operations_per_sample", &self.operations_per_sample)
            .field("p50_ns", &self.p50_ns())
            .field("p99_ns", &self.p99_ns())
            .finish()
    }
}

/// Times one operation after another, with one reading of the clock between two: the end of one is the start of the
/// next. Floors and figures are both taken by this function.
///
/// # Errors
/// The first error of `operation` ends the round.
#[inline]
pub fn timed<E>(batch: Batch, operation: impl FnMut() -> Result<(), E>) -> Result<Samples, E> {
    timed_groups(batch, 1, operation)
}

/// As [`timed`], where one call of `group` performs `operations_per_sample` operations.
///
/// # Errors
/// The first error of `group` ends the round.
#[inline]
pub fn timed_groups<E>(
    batch: Batch,
    operations_per_sample: u64,
    mut group: impl FnMut() -> Result<(), E>,
) -> Result<Samples, E> {
    let clock = Clock::calibrated();
    let mut stamps = touched_stamps(batch.samples);
    for _ in 0..batch.warm_up {
        group()?;
    }
    let mut earlier = clock.ticks();
    for stamp in &mut stamps {
        group()?;
        let later = clock.ticks();
        *stamp = later.saturating_sub(earlier);
        earlier = later;
    }
    Ok(collect(clock, operations_per_sample, &stamps))
}

/// As [`timed`], for operations with a part that is not to be counted: `operation` returns the ticks that are.
///
/// # Errors
/// The first error of `operation` ends the round.
#[inline]
pub fn timed_spans<E>(batch: Batch, mut operation: impl FnMut(Clock) -> Result<u64, E>) -> Result<Samples, E> {
    let clock = Clock::calibrated();
    let mut stamps = touched_stamps(batch.samples);
    for _ in 0..batch.warm_up {
        operation(clock)?;
    }
    for stamp in &mut stamps {
        *stamp = operation(clock)?;
    }
    Ok(collect(clock, 1, &stamps))
}

/// Room for the spans whose pages exist already: a fresh page costs 2 µs, more than most operations here.
fn touched_stamps(samples: u64) -> Vec<u64> {
    let count = usize::try_from(samples).expect("a round's samples fit in memory");
    let mut stamps = vec![0; count];
    stamps.fill(1);
    std::hint::black_box(&mut stamps);
    stamps
}

fn collect(clock: Clock, operations_per_sample: u64, spans: &[u64]) -> Samples {
    let mut samples = Samples::empty(operations_per_sample);
    for &span in spans {
        samples.record(clock.ns(span));
    }
    samples
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn warm_up_is_performed_and_not_recorded() {
        let mut performed = 0;
        let samples = timed(Batch { warm_up: 3, samples: 5 }, || {
            performed += 1;
            Ok::<(), Infallible>(())
        })
        .expect("cannot fail");
        assert_eq!(performed, 8);
        assert_eq!(samples.count(), 5);
    }

    #[test]
    fn the_first_error_ends_a_round() {
        let mut performed = 0;
        let outcome = timed(Batch { warm_up: 0, samples: 5 }, || {
            performed += 1;
            if performed == 2 { Err("second") } else { Ok(()) }
        });
        assert_eq!(outcome.expect_err("the second fails"), "second");
        assert_eq!(performed, 2);
    }

    #[test]
    fn a_group_is_shared_among_its_operations() {
        let mut samples = Samples::empty(10);
        samples.record(1000);
        samples.record(1000);
        assert!((samples.p50_ns() - 100.0).abs() < 1.0, "{samples:?}");
        let millions = samples.per_second() / 1e6;
        assert!((millions - 10.0).abs() < 0.1, "{millions}");
    }

    #[test]
    fn samples_travel_as_bytes() {
        let mut samples = Samples::empty(4);
        for span_ns in [7, 7, 1_000, 123_456_789] {
            samples.record(span_ns);
        }
        let back = Samples::from_bytes(&samples.to_bytes()).expect("its own bytes");
        assert_eq!(back.histogram(), samples.histogram());
        assert_eq!(back.operations_per_sample(), 4);
        for bytes in [&[][..], &[0; 8], &[1; 12], &[1; 16]] {
            assert!(Samples::from_bytes(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn merged_rounds_count_together() {
        let mut all = Samples::empty(1);
        let mut round = Samples::empty(1);
        round.record(100);
        all.merge(&round);
        all.merge(&round);
        assert_eq!(all.count(), 2);
    }
}
