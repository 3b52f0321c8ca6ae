//! Axes: from figures to places, and the ticks that people read.

use crate::report::readable;

/// Ticks of a linear axis, about.
const LINEAR_TICKS: f64 = 6.0;
/// Ticks of a logarithmic axis in bytes, at most.
const BYTE_TICKS: u32 = 9;
/// The least that a logarithmic axis shows of the smallest bar, as a factor.
const BELOW_SMALLEST: f64 = 0.8;

/// An axis between two figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// Around these figures: a logarithmic one from a whole decade below the smallest to just above the largest (or to a
    /// whole decade with `whole`), a linear one from nothing. Figures that are not above zero have no place on a
    /// logarithmic axis and are left out.
    pub(super) fn around(figures: impl Iterator<Item = f64>, logarithmic: bool, whole: bool) -> Self {
        let figures: Vec<f64> =
            figures.filter(|figure| figure.is_finite() && (!logarithmic || *figure > 0.0)).collect();
        let smallest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if figures.is_empty() {
            return Self { low: 1.0, high: 10.0, logarithmic };
        }
        if !logarithmic {
            let high = if largest > 0.0 { largest } else { 1.0 };
            return Self { low: smallest.min(0.0), high, logarithmic };
        }
        let low = 10f64.powf((smallest * BELOW_SMALLEST).log10().floor());
        let high = if whole { 10f64.powf(largest.log10().ceil()) } else { largest };
        Self { low, high: high.max(low * 10.0), logarithmic }
    }

    /// A logarithmic one that begins with a whole decade, on which the smallest figure stands at least at this place.
    pub(super) fn with_smallest_at(figures: impl Iterator<Item = f64>, place: f64) -> Self {
        let figures: Vec<f64> = figures.filter(|figure| figure.is_finite() && *figure > 0.0).collect();
        let smallest = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let mut scale = Self::around(figures.into_iter(), true, false);
        // Each decade more lifts the smallest towards the top: it ends for any place below 1.
        while smallest.is_finite() && scale.place(smallest) < place.min(0.9) {
            scale.low /= 10.0;
        }
        scale
    }

    /// Exactly between these two.
    pub(super) fn between(low: f64, high: f64, logarithmic: bool) -> Self {
        let high = if high > low { high } else { low * 2.0 + 1.0 };
        Self { low, high, logarithmic }
    }

    /// Where a figure stands: 0 at the lower end of the axis, 1 at the upper.
    pub(super) fn place(&self, figure: f64) -> f64 {
        let share = if self.logarithmic {
            (figure.max(self.low) / self.low).log10() / (self.high / self.low).log10()
        } else {
            (figure - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Figures to write at the axis, from the smallest.
    pub(super) fn ticks(&self, unit: &str) -> Vec<f64> {
        match (self.logarithmic, unit) {
            (true, "bytes") => self.powers_of_two(),
            (true, _) => self.decades(),
            (false, _) => self.round_steps(if unit == "bytes" { 1024.0 } else { 1000.0 }),
        }
    }

    /// Lines between the decades: 2, 3, … 9 times each.
    pub(super) fn between_decades(&self) -> Vec<f64> {
        if !self.logarithmic || (self.high / self.low).log10() > 8.0 {
            return Vec::new();
        }
        let decades = self.decades();
        decades
            .iter()
            .flat_map(|decade| (2..10).map(move |times| decade * f64::from(times)))
            .filter(|tick| *tick <= self.high)
            .collect()
    }

    fn decades(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut exponent = self.low.log10().round();
        while 10f64.powf(exponent) <= self.high * (1.0 + 1e-9) {
            ticks.push(10f64.powf(exponent));
            exponent += 1.0;
        }
        ticks
    }

    fn powers_of_two(&self) -> Vec<f64> {
        let (first, last) = (self.low.log2().ceil(), self.high.log2().floor());
        let step = ((last - first) / f64::from(BYTE_TICKS)).ceil().max(1.0);
        let mut ticks = Vec::new();
        let mut exponent = first;
        while exponent <= last {
            ticks.push(exponent.exp2());
            exponent += step;
        }
        ticks
    }

    /// Steps of 1, 2 or 5, in the unit that the largest figure is written in.
    fn round_steps(&self, thousand: f64) -> Vec<f64> {
        let mut unit = 1.0;
        while self.high >= unit * thousand && thousand > 1.0 {
            unit *= thousand;
        }
        let rough = (self.high - self.low) / unit / LINEAR_TICKS;
        let decade = 10f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * decade >= rough).unwrap_or(10.0) * decade * unit;
        let mut ticks = Vec::new();
        let mut tick = (self.low / step).ceil() * step;
        while tick <= self.high * (1.0 + 1e-9) {
            ticks.push(tick);
            tick += step;
        }
        ticks
    }
}

/// A tick as written: without digits after the point that say nothing.
pub(super) fn tick_label(figure: f64, unit: &str) -> String {
    let written = readable::figure(figure, unit);
    let (number, rest) = written.split_at(
        written
            .find(|letter: char| letter != '.' && letter != '-' && !letter.is_ascii_digit())
            .unwrap_or(written.len()),
    );
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: &[f64], right: &[f64]) -> bool {
        left.len() == right.len()
            && left.iter().zip(right).all(|(left, right)| (left - right).abs() <= right.abs() * 1e-9)
    }

    #[test]
    fn logarithmic_axes_have_decades() {
        let scale = Scale::around([350.0, 42_000.0].into_iter(), true, true);
        assert!(close(&scale.ticks("ns"), &[100.0, 1e3, 1e4, 1e5]), "{:?}", scale.ticks("ns"));
        assert!((scale.place(100.0)).abs() < 1e-9 && (scale.place(1e5) - 1.0).abs() < 1e-9);
        assert!((scale.place(1e3) - 1.0 / 3.0).abs() < 1e-9);
        let written: Vec<String> = scale.ticks("ns").into_iter().map(|tick| tick_label(tick, "ns")).collect();
        assert_eq!(written, ["100 ns", "1 µs", "10 µs", "100 µs"]);
    }

    #[test]
    fn the_smallest_bar_is_never_without_height() {
        for smallest in [1.0, 1.05, 9.99, 100.0, 123.0] {
            let scale = Scale::with_smallest_at([smallest, smallest * 50.0].into_iter(), 0.2);
            assert!(scale.place(smallest) >= 0.2, "{smallest}: {scale:?}");
        }
    }

    #[test]
    fn linear_axes_begin_at_nothing_with_round_steps() {
        let scale = Scale::around([1.1e6, 2.3e6].into_iter(), false, true);
        let written: Vec<String> = scale.ticks("ns").into_iter().map(|tick| tick_label(tick, "ns")).collect();
        assert_eq!(written, ["0 ns", "500 µs", "1 ms", "1.5 ms", "2 ms"]);
    }

    #[test]
    fn bytes_have_powers_of_two() {
        let scale = Scale::between(1.0, 10_485_760.0, true);
        let ticks = scale.ticks("bytes");
        assert!(ticks.len() >= 4 && ticks.len() <= 10, "{ticks:?}");
        assert!(ticks.iter().all(|tick| tick.log2().fract() == 0.0), "{ticks:?}");
    }

    #[test]
    fn no_figures_still_make_an_axis() {
        let scale = Scale::around(std::iter::empty(), true, true);
        assert!(scale.place(5.0).is_finite());
        let scale = Scale::around([0.0].into_iter(), false, true);
        assert!(scale.place(0.0).is_finite() && !scale.ticks("").is_empty());
    }
}
