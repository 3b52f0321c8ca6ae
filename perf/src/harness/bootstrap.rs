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
    found.sort_by(f64::total_cmp);
    (quantile(&found, OUTSIDE / 2.0), quantile(&found, 1.0 - OUTSIDE / 2.0))
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

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    quantile(&figures, 0.5)
}
