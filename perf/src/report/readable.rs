//! Figures as people read them: `1.23 µs`, `100 KiB`, `17.3 ×`.

/// A figure in the unit of its row.
#[must_use]
pub fn figure(value: f64, unit: &str) -> String {
    match unit {
        "ns" => span_ns(value),
        "bytes" => scaled(value, &["B", "KiB", "MiB", "GiB"], 1024.0),
        "1/s" => format!("{}/s", scaled(value, &["", "k", "M", "G"], 1000.0).trim_end()),
        "" => digits(value),
        other => format!("{} {other}", digits(value)),
    }
}

/// A span of time.
#[must_use]
pub fn span_ns(value: f64) -> String {
    scaled(value, &["ns", "µs", "ms", "s"], 1000.0)
}

/// A size that is mostly a round number of bytes.
#[must_use]
pub fn bytes(value: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    UNITS
        .iter()
        .find(|(unit, _)| value >= *unit && value.is_multiple_of(*unit))
        .map_or_else(|| format!("{value} B"), |(unit, name)| format!("{} {name}", value / unit))
}

/// How many times something is something else.
#[must_use]
pub fn times(ratio: f64) -> String {
    format!("{} ×", digits(ratio))
}

/// A share in per cent.
#[must_use]
pub fn percent(share: f64) -> String {
    // What is nearly all or nearly nothing shows how nearly.
    let value = share * 100.0;
    if value > 99.0 && value < 100.0 { format!("{value:.2} %") } else { format!("{value:.1} %") }
}

/// A count without a fraction where it has none.
#[must_use]
pub fn count(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { digits(value) }
}

/// Three digits that mean something.
#[must_use]
pub fn digits(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// In the largest unit that leaves at least one before the point.
fn scaled(value: f64, units: &[&str], step: f64) -> String {
    let mut value = value;
    let mut unit = 0;
    // What would be written as a thousand is one of the next unit.
    while value.abs() >= step - 0.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{} {}", digits(value), units[unit])
}
