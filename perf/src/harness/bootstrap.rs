//! Intervals of confidence by the bootstrap: of a median over rounds, and of the ratio of two series of one group.
//!
//! Rounds are resampled, not samples: within a round samples depend on each other, and a burst of foreign work spoils a
//! round as a whole.

/// Resamples of an interval.
const RESAMPLES: usize = 2_000;
/// Share outside of the interval, on both sides together.
const OUTSIDE: f64 = 0.05;
/// Of the generator: intervals repeat for the same rounds.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The 95 % interval of the median of these figures of rounds.
#[must_use]
pub fn median_interval(figures: &[f64]) -> (f64, f64) {
    interval(figures.len(), |chosen| median(chosen.iter().map(|index| figures[*index]).collect()))
}

/// The median of `numerators` over that of `denominators`, with its 95 % interval. The rounds of the two have nothing to do
/// with each other, as those of two runs; of pairs, take the median of the ratios.
#[must_use]
pub fn ratio_of_medians(numerators: &[f64], denominators: &[f64]) -> (f64, f64, f64) {
    if numerators.is_empty() || denominators.is_empty() {
        return (f64::NAN, f64::NAN, f64::NAN);
    }
    let mut state = SEED;
    let mut drawn = |figures: &[f64]| {
        let drawn: Vec<f64> = figures.iter().map(|_| figures[below(&mut state, figures.len())]).collect();
        median(drawn)
    };
    let mut found: Vec<f64> = (0..RESAMPLES).map(|_| drawn(numerators) / drawn(denominators)).collect();
    let (low, high) = ends(&mut found);
    (median(numerators.to_vec()) / median(denominators.to_vec()), low, high)
}

/// The 95 % interval of a statistic of `count` rounds, which is given the indices of the rounds drawn.
fn interval(count: usize, statistic: impl Fn(&[usize]) -> f64) -> (f64, f64) {
    if count == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut state = SEED;
    let mut chosen = vec![0; count];
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            chosen.iter_mut().for_each(|index| *index = below(&mut state, count));
            statistic(&chosen)
        })
        .collect();
    ends(&mut found)
}

/// The ends of the interval that holds 95 % of these.
fn ends(found: &mut [f64]) -> (f64, f64) {
    found.sort_by(f64::total_cmp);
    (quantile(found, OUTSIDE / 2.0), quantile(found, 1.0 - OUTSIDE / 2.0))
}

/// A number below `count` (splitmix64).
fn below(state: &mut u64, count: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    usize::try_from((u128::from(word) * count as u128) >> 64).unwrap_or(0)
}

/// A quantile of sorted figures, between neighbours by straight lines.
#[must_use]
pub fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = quantile.clamp(0.0, 1.0) * last as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 0 and `last`.
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

/// The median.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    quantile(&figures, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform between 0 and 1.
    fn uniform(state: &mut u64) -> f64 {
        below(state, 1 << 30) as f64 / f64::from(1 << 30)
    }

    /// Figures with the median 100, and more room above than below.
    fn rounds(state: &mut u64, count: usize) -> Vec<f64> {
        (0..count).map(|_| 100.0 * (2.0_f64).powf(2.0 * (uniform(state) - 0.5))).collect()
    }

    #[test]
    fn intervals_hold_the_median_about_as_often_as_they_say() {
        let (mut state, mut held) = (7, 0);
        let trials = 400;
        for _ in 0..trials {
            let (low, high) = median_interval(&rounds(&mut state, 21));
            held += i32::from(low <= 100.0 && 100.0 <= high);
        }
        // 95 % of 400 are 380; four standard deviations below that are 363.
        assert!(held >= 363, "{held} of {trials} intervals hold the median");
    }

    #[test]
    fn a_ratio_of_two_runs_is_found_and_its_interval_holds_it() {
        let (mut state, mut held) = (11, 0);
        let trials = 200;
        for _ in 0..trials {
            let (over, under) = (rounds(&mut state, 21), rounds(&mut state, 21));
            let over: Vec<f64> = over.iter().map(|round| round * 3.0).collect();
            let (value, low, high) = ratio_of_medians(&over, &under);
            assert!(low <= value && value <= high);
            held += i32::from(low <= 3.0 && 3.0 <= high);
        }
        assert!(held >= 178, "{held} of {trials} intervals hold the ratio");
    }

    #[test]
    fn the_same_rounds_have_the_same_interval() {
        let figures = rounds(&mut 3, 15);
        assert_eq!(median_interval(&figures), median_interval(&figures));
        assert_eq!(median_interval(&[5.0]), (5.0, 5.0));
        let (low, high) = median_interval(&[]);
        assert!(low.is_nan() && high.is_nan());
    }

    #[test]
    fn quantiles_lie_between_their_neighbours() {
        assert!((quantile(&[1.0, 2.0, 3.0, 4.0], 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&[1.0, 2.0], 1.0) - 2.0).abs() < 1e-12);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
