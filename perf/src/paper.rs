//! The figures that the paper's plots are drawn from, as rows of [`Kind::Paper`]: measured on AWS in 2022 and 2024, not here.
//!
//! `data/paper/` holds them as published; its README says what a reader has to know before laying others beside them.
//! Two forms: [`figures`] are the lines of the files, with everything that they say; [`rows`] are what the page and the
//! plots use. A row's `p50` is always the median, also where the paper drew a mean: its note says so. A paper row has no
//! interval, and no ratio with a measured row means more than an order of magnitude: other machines, another year.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::row::{Kind, Row};

/// The artifact and its commit, named in every row's source.
pub const ARTIFACT: &str = "spcl/praas-artifact 6311b1f";

/// What every series of the paper ends with.
pub const SUFFIX: &str = " (AWS, paper)";

/// The `run` of all rows of the paper.
pub const RUN: &str = "paper";

/// The files, by the figure or table of the paper.
const FILES: &[&str] = &[
    include_str!("../data/paper/fig_invocations.csv"),
    include_str!("../data/paper/table_ipc_microbenchmark.csv"),
    include_str!("../data/paper/fig_ipc_latency.csv"),
    include_str!("../data/paper/fig_state_s3.csv"),
    include_str!("../data/paper/fig_state_redis.csv"),
    include_str!("../data/paper/fig_tradeoff_allocation.csv"),
    include_str!("../data/paper/table1_storage.csv"),
    include_str!("../data/paper/table_swapping.csv"),
    include_str!("../data/paper/table_cost.csv"),
    include_str!("../data/paper/fig_latex_full.csv"),
    include_str!("../data/paper/fig_kmeans.csv"),
];

/// Which plot a figure of the paper belongs to here. Those without a plot join later; their rows are kept for the claims.
const PLOTS: &[(&str, &str)] = &[
    ("fig_invocations", "invocations"),
    ("fig_invocations_extra", "invocations"),
    ("table_ipc_microbenchmark", "ipc-micro"),
    ("fig_ipc_latency", "ipc"),
    ("fig_ipc_latency_extra", "ipc"),
    ("fig_state_s3", "state"),
    ("fig_state_redis", "state"),
    ("fig_tradeoff_allocation", "allocation"),
    ("text_deallocation", "deallocation"),
    ("text_deallocation_extra", "deallocation"),
    ("table1_storage", "storage"),
    ("table_swapping", "swap"),
    ("table_cost", "cost"),
    ("fig_latex_full", "latex"),
    ("fig_latex_full_extra", "latex"),
    ("fig_kmeans", "kmeans"),
    ("fig_kmeans_breakdown_extra", "kmeans"),
];

/// Series that are called something plainer here, by figure.
const NAMES: &[(&str, &str, &str)] = &[
    ("fig_invocations", "TCP (baseline)", "netperf TCP"),
    ("fig_invocations", "PraaS (Local)", "PraaS local"),
    ("fig_invocations", "PraaS (Remote)", "PraaS remote"),
    ("fig_invocations_extra", "PraaS (Local), 1 vCPU", "PraaS local, 1 vCPU"),
    ("fig_invocations_extra", "PraaS (Local), Docker on EC2", "PraaS local, Docker on EC2"),
    ("table_ipc_microbenchmark", "mq (ec2)", "POSIX mq, EC2"),
    ("table_ipc_microbenchmark", "uds (ec2)", "Unix socket, EC2"),
    ("table_ipc_microbenchmark", "mq (fargate)", "POSIX mq, Fargate"),
    ("table_ipc_microbenchmark", "uds (fargate)", "Unix socket, Fargate"),
    ("fig_ipc_latency", "PraaS Send-Recv", "PraaS send-receive"),
    ("fig_ipc_latency", "Redis", "Redis, polled with sleeps"),
    ("fig_ipc_latency", "AWS S3", "S3, polled with sleeps"),
    ("fig_state_s3", "AWS S3", "S3"),
    ("fig_state_s3", "AWS S3 / PraaS", "S3 / PraaS"),
    ("fig_tradeoff_allocation", "Kubernetes (baseline)", "Kubernetes"),
    ("fig_tradeoff_allocation", "PraaS (Kubernetes)", "PraaS on Kubernetes"),
    ("fig_tradeoff_allocation", "PraaS (Knative)", "PraaS on Knative"),
    ("table1_storage", "redis", "Redis"),
    ("table1_storage", "s3", "S3"),
    ("table1_storage", "dynamodb", "DynamoDB"),
];

/// A line of a file: one point of a figure, or one cell of a table. Figures are in `unit`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Figure {
    /// The figure or table; `…_extra` is not in the paper.
    pub figure: String,
    /// The series, as the paper calls it.
    pub series: String,
    /// Where it was measured.
    pub environment: String,
    /// Bytes of payload.
    pub payload_bytes: Option<u64>,
    /// What was measured.
    pub metric: String,
    /// Unit of the figures.
    pub unit: String,
    /// Repetitions.
    pub count: u64,
    /// The smallest.
    pub min: Option<f64>,
    /// The median.
    pub median: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
    /// What its horizontal axis shows; two axes are separated by `;`.
    pub x_name: String,
    /// Its place there.
    pub x: String,
    /// Whether the paper draws or prints it.
    #[serde(deserialize_with = "flag")]
    pub in_plot: bool,
    /// What is drawn, which is not always the median.
    pub plotted: Option<f64>,
    /// The file below the artifact's `data/`.
    pub source: String,
}

fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(u8::deserialize(deserializer)? == 1)
}

/// All lines of all files, in the order of the paper's sections.
#[must_use]
pub fn figures() -> &'static [Figure] {
    static FIGURES: LazyLock<Vec<Figure>> = LazyLock::new(|| {
        let lines = FILES.iter().flat_map(|file| csv::Reader::from_reader(file.as_bytes()).into_deserialize());
        lines.map(|line| line.expect("the paper's figures, built in, can be read: a test reads all")).collect()
    });
    &FIGURES
}

/// The paper's figures as rows, spans in nanoseconds. Of the series that two figures share, the first.
#[must_use]
pub fn rows() -> Vec<Row> {
    figures().iter().filter(|figure| !is_repeated(figure)).map(row).collect()
}

/// Whether the paper draws this series: pictures leave out its extras.
#[must_use]
pub fn is_drawn(row: &Row) -> bool {
    static DRAWN: LazyLock<Vec<(&'static str, String)>> = LazyLock::new(|| {
        let mut drawn: Vec<_> = figures()
            .iter()
            .filter(|figure| figure.in_plot)
            .map(|figure| (plot_of(figure), series_of(figure)))
            .collect();
        drawn.dedup();
        drawn
    });
    row.kind == Kind::Paper && DRAWN.iter().any(|(plot, series)| *plot == row.plot && *series == row.series)
}

/// The heat maps of Redis and S3 share the series of the prototype.
fn is_repeated(figure: &Figure) -> bool {
    figure.figure == "fig_state_redis" && figure.series == "PraaS"
}

fn plot_of(figure: &Figure) -> &'static str {
    PLOTS.iter().find(|(name, _)| *name == figure.figure).map_or("", |(_, plot)| plot)
}

fn series_of(figure: &Figure) -> String {
    let named = NAMES.iter().find(|(of, name, _)| *of == figure.figure && *name == figure.series);
    let name = named.map_or(figure.series.as_str(), |(_, _, plainer)| plainer);
    // Some tables of one series have several lines without any axis: what was measured tells them apart.
    match figure.figure.as_str() {
        "fig_latex_full" | "fig_latex_full_extra" => format!("{name}: {}{SUFFIX}", figure.metric),
        _ => format!("{name}{SUFFIX}"),
    }
}

fn row(figure: &Figure) -> Row {
    let (unit, scale) = match figure.unit.as_str() {
        "us" => ("ns", 1e3),
        "ms" => ("ns", 1e6),
        "s" => ("ns", 1e9),
        "x" => ("×", 1.0),
        other => (other, 1.0),
    };
    let scaled = |value: Option<f64>| value.map(|value| value * scale);
    let [(x_name, x), (y_name, y)] = axes(figure);
    Row {
        plot: plot_of(figure).to_owned(),
        series: series_of(figure),
        system: figure.series.clone(),
        version: "as in the paper".to_owned(),
        placement: figure.environment.clone(),
        wait: waiting(figure).to_owned(),
        payload_bytes: figure.payload_bytes,
        unit: unit.to_owned(),
        count: figure.count,
        min: scaled(figure.min),
        p50: scaled(figure.median.or(figure.plotted)),
        p95: scaled(figure.p95),
        p99: scaled(figure.p99),
        p999: None,
        max: scaled(figure.max),
        ci_low: None,
        ci_high: None,
        source: format!("{ARTIFACT}, data/{}", figure.source),
        kind: Kind::Paper,
        run: RUN.to_owned(),
        group: 0,
        x_name,
        x,
        y_name,
        y,
        rounds: Vec::new(),
        absent: None,
        note: Some(note(figure, scale, unit)),
        verdict: None,
    }
}

/// How its parties waited, where the artifact's programs say it.
fn waiting(figure: &Figure) -> &'static str {
    match (figure.figure.as_str(), figure.series.as_str()) {
        ("fig_ipc_latency" | "fig_ipc_latency_extra", "PraaS Send-Recv" | "PraaS Send-Recv (receiver side)") => {
            "blocking"
        }
        ("fig_ipc_latency" | "fig_ipc_latency_extra", _) => "polling, sleeps of 1, 2, 3 … ms",
        ("table_ipc_microbenchmark", _) => "blocking",
        _ => "",
    }
}

/// The axes beside the payload. Heat maps are drawn with invocations along and elements up, as the paper draws them.
fn axes(figure: &Figure) -> [(Option<String>, Option<f64>); 2] {
    let none = || (None, None);
    let values: Vec<f64> = figure.x.split(';').filter_map(|value| value.parse().ok()).collect();
    let names: Vec<&str> = figure.x_name.split(';').collect();
    match (names.as_slice(), values.as_slice()) {
        (["payload_bytes"], _) => [none(), none()],
        (["payload_bytes", name], [_, value]) => [(Some((*name).to_owned()), Some(*value)), none()],
        ([elements, invocations], [y, x]) => {
            [(Some((*invocations).to_owned()), Some(*x)), (Some((*elements).to_owned()), Some(*y))]
        }
        ([name], [value]) => [(Some((*name).to_owned()), Some(*value)), none()],
        _ => [none(), none()],
    }
}

/// What was measured, and what the paper draws where that is not the median.
fn note(figure: &Figure, scale: f64, unit: &str) -> String {
    let mut note = figure.metric.clone();
    let drawn_mean = figure.plotted.filter(|plotted| Some(*plotted) == figure.mean && Some(*plotted) != figure.median);
    if let Some(mean) = drawn_mean {
        let mean = crate::report::readable::figure(mean * scale, unit);
        note.push_str(&format!("; the paper draws the mean, {mean}"));
    }
    if !figure.in_plot {
        note.push_str("; not drawn in the paper");
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Rows;

    fn median(plot: &str, series: &str, payload_bytes: u64) -> f64 {
        let rows = Rows::new(rows());
        rows.at_payload(plot, &format!("{series}{SUFFIX}"), payload_bytes).and_then(|row| row.p50).unwrap_or(f64::NAN)
    }

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= expected * 2e-3, "{found}, expected {expected}");
    }

    #[test]
    fn every_line_is_read_and_belongs_to_a_plot() {
        assert_eq!(figures().len(), 744);
        let repeated = figures().iter().filter(|figure| is_repeated(figure)).count();
        let rows = rows();
        assert_eq!(rows.len(), 744 - repeated);
        for row in &rows {
            assert!(!row.plot.is_empty() && row.kind == Kind::Paper && row.run == RUN, "{row:?}");
            assert!(row.series.ends_with(SUFFIX) && row.source.starts_with(ARTIFACT), "{row:?}");
            assert!(row.p50.is_some_and(f64::is_finite), "{row:?}");
        }
    }

    #[test]
    fn no_two_rows_of_a_series_stand_at_one_place() {
        let mut places: Vec<String> = rows()
            .iter()
            .map(|row| format!("{} {} {:?} {:?} {:?}", row.plot, row.series, row.payload_bytes, row.x, row.y))
            .collect();
        let count = places.len();
        places.sort_unstable();
        let twice: Vec<&[String]> = places.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert_eq!(places.len(), count);
    }

    #[test]
    fn medians_are_those_that_the_paper_reports_in_nanoseconds() {
        close(median("invocations", "PraaS local", 10), 73.3e3);
        close(median("invocations", "PraaS remote", 5 << 20), 116.123e6);
        close(median("invocations", "AWS Lambda", 10), 13.760e6);
        close(median("ipc-micro", "POSIX mq, Fargate", 5 << 20), 5_492.9e3);
        close(median("ipc-micro", "Unix socket, EC2", 10), 19.8e3);
        close(median("ipc", "PraaS send-receive", 1 << 10), 241.8e3);
        close(median("ipc", "Redis, polled with sleeps", 10), 2.8915e6);
        close(median("ipc", "S3, polled with sleeps", 5 << 20), 268.59e6);
        close(median("storage", "DynamoDB", 1), 4.13e6);
        close(median("storage", "S3", 10 << 20), 109.6e6);
    }

    #[test]
    fn axes_are_those_of_the_plots() {
        let rows = Rows::new(rows());
        let state =
            rows.at("state", "PraaS (AWS, paper)", 1.0, Some(100_000.0)).expect("one invocation of 100000 elements");
        close(state.p50.unwrap_or(f64::NAN), 8.861e6);
        let pods = rows.at("allocation", "PraaS on Kubernetes (AWS, paper)", 120.0, None).expect("120 pods");
        assert_eq!(pods.x_name.as_deref(), Some("pods in the cluster"));
        close(
            rows.at("kmeans", "Knative, S3 (AWS, paper)", 1e6, None).and_then(|row| row.p50).unwrap_or(f64::NAN),
            292.29e9,
        );
    }

    #[test]
    fn what_the_paper_draws_otherwise_is_said() {
        let rows = Rows::new(rows());
        let tcp = rows.at_payload("invocations", "netperf TCP (AWS, paper)", 10).expect("the paper's TCP");
        close(tcp.p50.unwrap_or(f64::NAN), 714e3);
        assert!(tcp.note.as_deref().unwrap_or_default().contains("the paper draws the mean, 725 µs"), "{tcp:?}");
        let poll = rows.at_payload("ipc", "Redis, polled with sleeps (AWS, paper)", 10).expect("the paper's Redis");
        assert!(poll.wait.contains("sleeps") && is_drawn(poll), "{poll:?}");
        let extra = rows.at_payload("invocations", "PraaS local, 1 vCPU (AWS, paper)", 10).expect("an extra");
        assert!(!is_drawn(extra) && extra.note.as_deref().unwrap_or_default().contains("not drawn in the paper"));
    }
}
