//! A condition over several places of a plot: at each of them a series of praas is compared with others that were measured
//! in turns with it, and the hardest of them counts.

use std::fmt;

use crate::claims::Verdict;
use crate::harness::ratio::{Ratio, ratio};
use crate::report::readable;
use crate::row::{Row, Rows};

/// Places that are all written out; of more only the hardest is.
const WRITTEN_OUT: usize = 6;

/// What has to hold at each place, of ours and another's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    /// The other's is at least so many times ours.
    AtLeastTimes(f64),
    /// The other's is more than ours.
    Ahead,
    /// Ours is shorter than the other's by at least this share of it.
    ReducedBy(f64),
    /// Ours is at most so many times the other's.
    AtMostTimes(f64),
}

/// Where on the axes of a plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// At this payload.
    Payload(u64),
    /// At these two values.
    Cell(f64, f64),
}

/// The condition.
#[derive(Clone, Debug)]
pub(super) struct Condition<'a> {
    /// The plot.
    pub(super) plot: &'a str,
    /// Our series.
    pub(super) ours: &'a str,
    /// What it is compared with: of those that were measured, the hardest to beat counts.
    pub(super) others: &'a [&'a str],
    /// The places.
    pub(super) places: Vec<Place>,
    /// What has to hold at each.
    pub(super) bound: Bound,
}

/// What was found at one place.
struct Found {
    place: Place,
    /// The other's time over ours; of [`Bound::AtMostTimes`], ours over the other's.
    ratio: Ratio,
    other: String,
}

/// The figures in words and what they mean for the condition.
pub(super) fn judge(rows: &Rows, condition: &Condition<'_>) -> (String, Verdict) {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for place in &condition.places {
        match at(rows, condition, *place) {
            Ok(figure) => found.push(figure),
            Err(reason) => missing.push(reason),
        }
    }
    if condition.places.is_empty() {
        missing.push(format!("no row of `{}: {}`", condition.plot, condition.ours));
    }
    let figure = in_words(condition, &found);
    let verdict = if found.iter().any(|figure| !condition.bound.holds(figure.ratio.value)) {
        Verdict::NotMet
    } else if let Some(reason) = missing.first() {
        Verdict::NotMeasured(match missing.len() {
            1 => reason.clone(),
            count => format!("{reason} (and {} more)", count - 1),
        })
    } else {
        Verdict::Met
    };
    (figure, verdict)
}

/// The payloads at which a series stands in its plot, measured or not.
pub(super) fn payloads(rows: &Rows, plot: &str, series: &str) -> Vec<Place> {
    let mut sizes: Vec<u64> =
        rows.of_plot(plot).filter(|row| row.series == series).filter_map(|row| row.payload_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes.into_iter().map(Place::Payload).collect()
}

/// The cells of a heat map that a series has, measured or not.
pub(super) fn cells(rows: &Rows, plot: &str, series: &str) -> Vec<Place> {
    let of_series = rows.of_plot(plot).filter(|row| row.series == series);
    of_series.filter_map(|row| Some(Place::Cell(row.x?, row.y?))).collect()
}

/// The ratio of the other's median to ours at a place, if both were measured in turns.
pub(super) fn times_at(rows: &Rows, condition: &Condition<'_>, place: Place) -> Option<f64> {
    at(rows, condition, place).ok().map(|found| found.ratio.value)
}

fn at(rows: &Rows, condition: &Condition<'_>, place: Place) -> Result<Found, String> {
    let ours = row_at(rows, condition.plot, condition.ours, place)?;
    let mut hardest: Option<Found> = None;
    let mut reason = None;
    for other in condition.others {
        let compared = row_at(rows, condition.plot, other, place).and_then(|row| {
            let (over, under) = if condition.bound.is_upper() { (ours, row) } else { (row, ours) };
            ratio(over, under).map_err(|error| error.to_string())
        });
        match compared {
            Ok(ratio) => {
                let harder = hardest.as_ref().is_none_or(|known| {
                    if condition.bound.is_upper() {
                        ratio.value > known.ratio.value
                    } else {
                        ratio.value < known.ratio.value
                    }
                });
                if harder {
                    hardest = Some(Found { place, ratio, other: (*other).to_owned() });
                }
            }
            Err(error) => reason = reason.or(Some(error)),
        }
    }
    hardest.ok_or_else(|| reason.unwrap_or_else(|| format!("nothing to compare `{}` with", condition.ours)))
}

fn row_at<'a>(rows: &'a Rows, plot: &str, series: &str, place: Place) -> Result<&'a Row, String> {
    let row = match place {
        Place::Payload(bytes) => rows.at_payload(plot, series, bytes),
        Place::Cell(x, y) => rows.at(plot, series, x, Some(y)),
    };
    let row = row.ok_or_else(|| format!("no row of `{plot}: {series}` at {}", place))?;
    match &row.absent {
        Some(reason) => Err(format!("{series}: {reason}")),
        None => Ok(row),
    }
}

fn in_words(condition: &Condition<'_>, found: &[Found]) -> String {
    let several = condition.others.len() > 1;
    let written = |figure: &Found| {
        let against = if several { format!(" against {}", figure.other) } else { String::new() };
        format!("{}: {}{against}", figure.place, condition.bound.in_words(&figure.ratio))
    };
    if found.len() <= WRITTEN_OUT {
        return found.iter().map(written).collect::<Vec<_>>().join("; ");
    }
    let hardness = |figure: &Found| if condition.bound.is_upper() { -figure.ratio.value } else { figure.ratio.value };
    let hardest = found.iter().min_by(|left, right| hardness(left).total_cmp(&hardness(right)));
    let best = found.iter().max_by(|left, right| hardness(left).total_cmp(&hardness(right)));
    match (hardest, best) {
        (Some(hardest), Some(best)) => {
            format!("of {} places the least, {}; the most, {}", found.len(), written(hardest), written(best))
        }
        _ => String::new(),
    }
}

impl Bound {
    /// Whether the ratio is ours over the other's.
    fn is_upper(self) -> bool {
        matches!(self, Self::AtMostTimes(_))
    }

    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeastTimes(times) => ratio >= times,
            Self::Ahead => ratio > 1.0,
            Self::ReducedBy(share) => ratio >= 1.0 / (1.0 - share),
            Self::AtMostTimes(times) => ratio <= times,
        }
    }

    fn in_words(self, ratio: &Ratio) -> String {
        let (holds_low, holds_high) = (self.holds(ratio.ci_low), self.holds(ratio.ci_high));
        let doubt = if holds_low == holds_high { "" } else { " (the interval holds the bar)" };
        match self {
            Self::ReducedBy(_) => {
                let change = |ratio: f64| match 1.0 - 1.0 / ratio {
                    less if less >= 0.0 => format!("−{}", readable::percent(less)),
                    more => format!("+{}", readable::percent(-more)),
                };
                format!("{} [{}, {}]{doubt}", change(ratio.value), change(ratio.ci_low), change(ratio.ci_high))
            }
            _ => format!("{ratio}{doubt}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(size) => formatter.write_str(&readable::bytes(*size)),
            Self::Cell(x, y) => write!(formatter, "{} × {}", readable::count(*x), readable::count(*y)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::testing::{absent, row};
    use crate::row::Kind;

    const SIZES: [u64; 2] = [10, 1024];

    fn condition(bound: Bound) -> Condition<'static> {
        let places = SIZES.map(Place::Payload).to_vec();
        Condition { plot: "plot", ours: "ours", others: &["slow", "slower"], places, bound }
    }

    fn rows(ours: f64) -> Rows {
        let rows = SIZES.into_iter().flat_map(|size| {
            [
                row("plot", "ours", Kind::Ours, Some(size), ours),
                row("plot", "slow", Kind::Baseline, Some(size), 1_000.0),
                row("plot", "slower", Kind::Baseline, Some(size), 5_000.0),
            ]
        });
        Rows::new(rows.collect())
    }

    #[test]
    fn the_hardest_of_the_others_counts() {
        let (figure, verdict) = judge(&rows(100.0), &condition(Bound::AtLeastTimes(10.0)));
        assert_eq!(verdict, Verdict::Met, "{figure}");
        assert!(figure.contains("10 B: 10.0 ×") && figure.contains("against slow"), "{figure}");
        assert!(!figure.contains("slower"), "{figure}");
        let (figure, verdict) = judge(&rows(101.0), &condition(Bound::AtLeastTimes(10.0)));
        assert_eq!(verdict, Verdict::NotMet, "{figure}");
    }

    #[test]
    fn shares_and_upper_bounds_are_judged_both_ways() {
        assert_eq!(judge(&rows(50.0), &condition(Bound::ReducedBy(0.95))).1, Verdict::Met);
        let (figure, verdict) = judge(&rows(51.0), &condition(Bound::ReducedBy(0.95)));
        assert_eq!(verdict, Verdict::NotMet);
        assert!(figure.contains("−94.9 %"), "{figure}");
        let (figure, verdict) = judge(&rows(1_200.0), &condition(Bound::ReducedBy(0.95)));
        assert_eq!(verdict, Verdict::NotMet);
        assert!(figure.contains("+20.0 %"), "{figure}");
        assert_eq!(judge(&rows(1_150.0), &condition(Bound::AtMostTimes(1.15))).1, Verdict::Met);
        assert_eq!(judge(&rows(1_151.0), &condition(Bound::AtMostTimes(1.15))).1, Verdict::NotMet);
        assert_eq!(judge(&rows(999.0), &condition(Bound::Ahead)).1, Verdict::Met);
        assert_eq!(judge(&rows(1_000.0), &condition(Bound::Ahead)).1, Verdict::NotMet);
    }

    #[test]
    fn what_is_missing_is_not_met_and_says_why() {
        let mut found = rows(10.0).all().to_vec();
        found.retain(|row| row.payload_bytes != Some(1024) || row.series == "ours");
        found.push(absent("plot", "slow", Some(1024), "no such server"));
        let rows = Rows::new(found);
        let (figure, verdict) = judge(&rows, &condition(Bound::Ahead));
        assert!(figure.starts_with("10 B: ") && !figure.contains("1 KiB"), "{figure}");
        assert_eq!(verdict, Verdict::NotMeasured("slow: no such server".to_owned()));
        // A place that misses says more than one that is missing.
        assert_eq!(judge(&rows, &condition(Bound::AtLeastTimes(1e9))).1, Verdict::NotMet);
        let nothing = judge(&Rows::default(), &condition(Bound::Ahead)).1;
        assert!(matches!(nothing, Verdict::NotMeasured(reason) if reason.contains("no row of `plot: ours`")));
    }

    #[test]
    fn rows_of_another_run_are_refused() {
        let mut found = rows(10.0).all().to_vec();
        found.iter_mut().filter(|row| row.series != "ours").for_each(|row| row.run = "yesterday".to_owned());
        let (figure, verdict) = judge(&Rows::new(found), &condition(Bound::Ahead));
        assert!(figure.is_empty(), "{figure}");
        assert!(matches!(verdict, Verdict::NotMeasured(reason) if reason.contains("different runs")));
    }

    #[test]
    fn of_many_places_the_hardest_and_the_best_are_written() {
        let sizes: Vec<u64> = (1..=9).collect();
        let found = sizes.iter().flat_map(|size| {
            let ours = 1_000.0 / *size as f64;
            [
                row("plot", "ours", Kind::Ours, Some(*size), ours),
                row("plot", "slow", Kind::Baseline, Some(*size), 2_000.0),
            ]
        });
        let rows = Rows::new(found.collect());
        let places = payloads(&rows, "plot", "ours");
        let condition = Condition { plot: "plot", ours: "ours", others: &["slow"], places, bound: Bound::Ahead };
        let (figure, verdict) = judge(&rows, &condition);
        assert_eq!(verdict, Verdict::Met);
        assert!(figure.starts_with("of 9 places the least, 1 B: 2.00 ×"), "{figure}");
        assert!(figure.contains("the most, 9 B: 18.0 ×"), "{figure}");
    }
}
