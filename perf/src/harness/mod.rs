//! How figures are found: series in turns, round by round, by the one clock of `praas_benches::floors`.
//!
//! A [`Run`] is one start of the program: its rows can be compared, those of two runs cannot. A plot hands it groups of
//! [`Entry`]s; the series of a group are measured in turns, even rounds forwards and odd ones backwards, so that whatever
//! else the machine does meets all of them. A series that fails becomes a row with its reason; the others go on.

pub mod bootstrap;

use std::fmt;

use praas_benches::bars::Settings;
use praas_benches::floors::{Batch, Samples};
use praas_benches::interleave::Series;
use praas_benches::progress::Progress;

use crate::row::{Kind, Row, Rows};

/// What a row says of its series beside the figures.
#[derive(Clone, Debug)]
pub struct Key {
    /// Id of the plot.
    pub plot: &'static str,
    /// Name of the series, unique within its plot.
    pub series: String,
    /// What kind of series.
    pub kind: Kind,
    /// The system.
    pub system: String,
    /// Its version.
    pub version: String,
    /// Where its parties ran.
    pub placement: String,
    /// How its parties waited.
    pub wait: String,
    /// Bytes of payload.
    pub payload_bytes: Option<u64>,
    /// Name and value on the plot's horizontal axis, where that is not the payload.
    pub x: Option<(&'static str, f64)>,
    /// The same of a second axis.
    pub y: Option<(&'static str, f64)>,
    /// What a reader has to know of this figure.
    pub note: Option<String>,
}

impl Key {
    /// A series of praas itself.
    #[must_use]
    pub fn ours(plot: &'static str, series: impl Into<String>) -> Self {
        Self::new(plot, series, Kind::Ours, "praas", env!("CARGO_PKG_VERSION"))
    }

    /// A floor: what the kernel and this machine do at best.
    #[must_use]
    pub fn floor(plot: &'static str, series: impl Into<String>) -> Self {
        let kernel = kernel_release();
        Self::new(plot, series, Kind::Floor, "linux", &kernel)
    }

    /// Another system.
    #[must_use]
    pub fn baseline(plot: &'static str, series: impl Into<String>, system: &str, version: &str) -> Self {
        Self::new(plot, series, Kind::Baseline, system, version)
    }

    fn new(plot: &'static str, series: impl Into<String>, kind: Kind, system: &str, version: &str) -> Self {
        Self {
            plot,
            series: series.into(),
            kind,
            system: system.to_owned(),
            version: version.to_owned(),
            placement: String::new(),
            wait: String::new(),
            payload_bytes: None,
            x: None,
            y: None,
            note: None,
        }
    }

    /// Where its parties run.
    #[must_use]
    pub fn placement(mut self, placement: &(impl fmt::Display + ?Sized)) -> Self {
        self.placement = placement.to_string();
        self
    }

    /// How its parties wait.
    #[must_use]
    pub fn wait(mut self, wait: impl Into<String>) -> Self {
        self.wait = wait.into();
        self
    }

    /// Bytes of payload.
    #[must_use]
    pub fn payload_bytes(mut self, payload_bytes: u64) -> Self {
        self.payload_bytes = Some(payload_bytes);
        self
    }

    /// Where it stands on the horizontal axis.
    #[must_use]
    pub fn x(mut self, name: &'static str, value: f64) -> Self {
        self.x = Some((name, value));
        self
    }

    /// Where it stands on the second axis.
    #[must_use]
    pub fn y(mut self, name: &'static str, value: f64) -> Self {
        self.y = Some((name, value));
        self
    }

    /// What a reader has to know.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

fn kernel_release() -> String {
    praas_benches::machine::Machine::look().map_or_else(|_| String::new(), |machine| machine.kernel)
}

/// A series of a group, opened or not.
pub struct Entry {
    key: Key,
    batch: Batch,
    series: Result<Box<dyn Series>, String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Entry").field("key", &self.key).field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl Entry {
    /// `batch` operations of `series` in every round.
    pub fn new(key: Key, batch: Batch, series: impl Series + 'static) -> Self {
        Self { key, batch, series: Ok(Box::new(series)) }
    }

    /// A series that perhaps could not be opened: then its row says why.
    pub fn opened<S: Series + 'static, E: ToString>(key: Key, batch: Batch, opened: Result<S, E>) -> Self {
        let series = opened.map(|series| Box::new(series) as Box<dyn Series>).map_err(|error| error.to_string());
        Self { key, batch, series }
    }
}

/// One start of the program.
#[derive(Debug)]
pub struct Run {
    id: String,
    settings: Settings,
    rows: Vec<Row>,
    groups: u64,
    failures: Vec<String>,
}

impl Run {
    /// A run of its own. `id` tells it from every other.
    #[must_use]
    pub fn new(id: String, settings: Settings) -> Self {
        Self { id, settings, rows: Vec::new(), groups: 0, failures: Vec::new() }
    }

    /// How much is measured.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Measures the series of a group in turns and adds a row for each.
    pub fn measure(&mut self, label: &str, entries: Vec<Entry>) {
        self.measure_rounds(label, self.settings.rounds(), entries);
    }

    /// The same in so many rounds.
    pub fn measure_rounds(&mut self, label: &str, rounds: u32, mut entries: Vec<Entry>) {
        self.groups += 1;
        let progress = Progress::new(label, u64::from(rounds));
        let mut found: Vec<Vec<Samples>> = entries.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let entry = &mut entries[index];
                let Ok(series) = &mut entry.series else { continue };
                match series.round(entry.batch) {
                    Ok(samples) => found[index].push(samples),
                    Err(error) => entry.series = Err(format!("round {} failed: {error}", round + 1)),
                }
            }
            progress.advance();
        }
        for (entry, rounds) in entries.into_iter().zip(found) {
            match entry.series {
                Ok(_) => self.add_samples(&entry.key, &rounds),
                Err(reason) => self.absent(&entry.key, reason),
            }
        }
    }

    /// A row of spans in nanoseconds, measured round by round.
    fn add_samples(&mut self, key: &Key, rounds: &[Samples]) {
        let Some(first) = rounds.first() else { return self.absent(key, "no round was measured") };
        let mut all = Samples::empty(first.operations_per_sample());
        rounds.iter().for_each(|round| all.merge(round));
        let medians: Vec<f64> = rounds.iter().map(Samples::p50_ns).collect();
        let (ci_low, ci_high) = bootstrap::median_interval(&medians);
        let row = Row {
            count: all.count(),
            min: Some(all.quantile_ns(0.0)),
            p50: Some(all.p50_ns()),
            p95: Some(all.quantile_ns(0.95)),
            p99: Some(all.p99_ns()),
            p999: Some(all.p999_ns()),
            max: Some(all.quantile_ns(1.0)),
            ci_low: Some(ci_low),
            ci_high: Some(ci_high),
            rounds: medians,
            ..self.row(key, "ns")
        };
        self.rows.push(row);
    }

    /// A row of one figure a round, in `unit`: what is no span of time.
    pub fn add_figures(&mut self, key: &Key, unit: &str, figures: &[f64]) {
        if figures.is_empty() {
            return self.absent(key, "no round was measured");
        }
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quantile: f64| bootstrap::quantile(&sorted, quantile);
        let (ci_low, ci_high) = bootstrap::median_interval(figures);
        let row = Row {
            count: figures.len() as u64,
            min: Some(at(0.0)),
            p50: Some(at(0.5)),
            p95: Some(at(0.95)),
            p99: Some(at(0.99)),
            p999: Some(at(0.999)),
            max: Some(at(1.0)),
            ci_low: Some(ci_low),
            ci_high: Some(ci_high),
            rounds: figures.to_vec(),
            ..self.row(key, unit)
        };
        self.rows.push(row);
    }

    /// A row that says why there are no figures. Of praas itself or of a floor, that is a failure of the run.
    pub fn absent(&mut self, key: &Key, reason: impl Into<String>) {
        let reason = reason.into();
        if matches!(key.kind, Kind::Ours | Kind::Floor) {
            self.failures.push(format!("{}, {}: {reason}", key.plot, key.series));
        }
        let row = Row { absent: Some(reason), ..self.row(key, "") };
        self.rows.push(row);
    }

    /// Starts a new group for the rows that are added next by [`Run::add_figures`].
    pub fn next_group(&mut self) {
        self.groups += 1;
    }

    /// What was found, and what of praas or the floors could not be measured.
    #[must_use]
    pub fn finish(self) -> (Rows, Vec<String>) {
        (Rows::new(self.rows), self.failures)
    }

    fn row(&self, key: &Key, unit: &str) -> Row {
        let quick = if self.settings.quick { " --quick" } else { "" };
        let (x_name, x) = key.x.map(|(name, value)| (name.to_owned(), value)).unzip();
        let (y_name, y) = key.y.map(|(name, value)| (name.to_owned(), value)).unzip();
        Row {
            plot: key.plot.to_owned(),
            series: key.series.clone(),
            system: key.system.clone(),
            version: key.version.clone(),
            placement: key.placement.clone(),
            wait: key.wait.clone(),
            payload_bytes: key.payload_bytes,
            unit: unit.to_owned(),
            count: 0,
            min: None,
            p50: None,
            p95: None,
            p99: None,
            p999: None,
            max: None,
            ci_low: None,
            ci_high: None,
            source: format!("cargo run --release -p praas-perf -- {}{quick}", key.plot),
            kind: key.kind,
            run: self.id.clone(),
            group: self.groups,
            x_name,
            x,
            y_name,
            y,
            rounds: Vec::new(),
            absent: None,
            note: key.note.clone(),
        }
    }
}
