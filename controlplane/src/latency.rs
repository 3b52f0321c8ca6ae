//! Latencies: the figures that are shown of a measurement, for people and for programs.

use praas_benches::floors::Samples;
use serde::Serialize;

/// What is told of one measurement. Nanoseconds an operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyFigures {
    /// Operations measured.
    pub calls: u64,
    /// The median.
    pub p50_ns: f64,
    /// The 99th percentile.
    pub p99_ns: f64,
    /// The 99.9th percentile.
    pub p999_ns: f64,
    /// Operations a second, one after another.
    pub calls_per_second: f64,
}

impl LatencyFigures {
    /// Headings of [`Self::cells`].
    pub const HEADINGS: [&'static str; 4] = [">p50", ">p99", ">p99.9", ">calls/s"];

    /// The figures as cells of a table.
    #[must_use]
    pub fn cells(&self) -> [String; 4] {
        let [p50, p99, p999] = [self.p50_ns, self.p99_ns, self.p999_ns].map(readable_ns);
        [p50, p99, p999, grouped(self.calls_per_second)]
    }
}

impl From<&Samples> for LatencyFigures {
    fn from(samples: &Samples) -> Self {
        Self {
            calls: samples.count() * samples.operations_per_sample(),
            p50_ns: samples.p50_ns(),
            p99_ns: samples.p99_ns(),
            p999_ns: samples.p999_ns(),
            calls_per_second: samples.per_second(),
        }
    }
}

/// A span with three digits and its unit.
#[must_use]
pub fn readable_ns(span_ns: f64) -> String {
    let units = [("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
    // The next unit begins where rounding would show a thousand of this one.
    let fitting = units.iter().rev().find(|(_, scale)| span_ns >= 0.9995 * scale);
    let (unit, scale) = fitting.unwrap_or(&units[0]);
    let number = span_ns / scale;
    let decimals = match number {
        _ if *unit == "ns" => 0,
        number if number < 9.995 => 2,
        number if number < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {unit}")
}

/// The same of a whole number of nanoseconds.
#[must_use]
pub fn readable_whole_ns(span_ns: u64) -> String {
    readable_ns(span_ns as f64)
}

/// A whole number in groups of three digits.
#[must_use]
pub fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_keep_three_digits_and_change_units_where_a_reader_would() {
        let cases = [
            (7.0, "7 ns"),
            (412.4, "412 ns"),
            (999.4, "999 ns"),
            (999.9, "1.00 µs"),
            (8_140.0, "8.14 µs"),
            (81_400.0, "81.4 µs"),
            (814_000.0, "814 µs"),
            (2_500_000.0, "2.50 ms"),
            (3.2e9, "3.20 s"),
        ];
        for (span_ns, text) in cases {
            assert_eq!(readable_ns(span_ns), text);
        }
    }

    #[test]
    fn large_numbers_are_grouped() {
        let cases = [(0.0, "0"), (999.0, "999"), (1000.0, "1,000"), (2_345_678.4, "2,345,678")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
