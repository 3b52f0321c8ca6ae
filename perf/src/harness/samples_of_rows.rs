//! Rows for tests.

use crate::row::{Kind, Row};

/// A row of one run and group, in nanoseconds, with these medians of its rounds.
pub(crate) fn row(series: &str, rounds: &[f64]) -> Row {
    let median = (!rounds.is_empty()).then(|| super::bootstrap::median(rounds.to_vec()));
    Row {
        plot: "plot".into(),
        series: series.into(),
        system: "praas".into(),
        version: "0".into(),
        placement: "core 1".into(),
        wait: "spin".into(),
        payload_bytes: Some(64),
        unit: "ns".into(),
        count: rounds.len() as u64,
        min: median,
        p50: median,
        p95: median,
        p99: median,
        p999: median,
        max: median,
        ci_low: median,
        ci_high: median,
        source: "cargo run --release -p praas-perf -- plot".into(),
        kind: Kind::Ours,
        run: "today".into(),
        group: 1,
        x_name: None,
        x: None,
        y_name: None,
        y: None,
        rounds: rounds.to_vec(),
        absent: None,
        note: None,
        verdict: None,
    }
}
