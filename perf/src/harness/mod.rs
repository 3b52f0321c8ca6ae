//! How figures are found: series in turns, round by round, by the one clock of `praas_benches::floors`.
//!
//! A [`Run`] is one start of the program: its rows can be compared, those of two runs cannot. A plot hands it groups of
//! [`Entry`]s; the series of a group are measured in turns, even rounds forwards and odd ones backwards, so that whatever
//! else the machine does meets all of them. A series that fails becomes a row with its reason; the others go on.

pub mod bootstrap;
mod key;
pub mod machine;
pub mod one_way;
pub mod open_loop;
pub mod ratio;
#[cfg(test)]
pub(crate) mod samples_of_rows;

use std::fmt;

use praas_benches::bars::Settings;
use praas_benches::floors::{Batch, Samples};
use praas_benches::interleave::Series;
use praas_benches::progress::Progress;

pub use key::Key;

use crate::row::{Kind, Row, Rows, Verdict};

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

    /// A series of whatever kind, or why there is none.
    pub fn boxed(key: Key, batch: Batch, series: Result<Box<dyn Series>, String>) -> Self {
        Self { key, batch, series }
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
    pub fn measure_rounds(&mut self, label: &str, rounds: u32, entries: Vec<Entry>) {
        for (key, found) in self.in_turns(label, rounds, entries) {
            match found {
                Ok(rounds) => self.add_samples(&key, &rounds),
                Err(reason) => self.absent(&key, reason),
            }
        }
    }

    /// Measures the series of a group in turns and adds a row for each: operations a second of every round.
    pub fn measure_rates(&mut self, label: &str, entries: Vec<Entry>) {
        for (key, found) in self.in_turns(label, self.settings.rounds(), entries) {
            match found {
                Ok(rounds) => {
                    let rates: Vec<f64> = rounds.iter().map(Samples::per_second).collect();
                    self.add_figures(&key, "1/s", &rates);
                }
                Err(reason) => self.absent(&key, reason),
            }
        }
    }

    /// The rounds of each series, or why it has none.
    fn in_turns(
        &mut self,
        label: &str,
        rounds: u32,
        mut entries: Vec<Entry>,
    ) -> Vec<(Key, Result<Vec<Samples>, String>)> {
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
        let found = entries.into_iter().zip(found);
        found.map(|(entry, rounds)| (entry.key, entry.series.map(|_| rounds))).collect()
    }

    /// A row of spans in nanoseconds, measured round by round outside of [`Run::measure`].
    pub fn add_samples(&mut self, key: &Key, rounds: &[Samples]) {
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

    /// A row of one figure that was judged where it was measured.
    pub(crate) fn add_judged(&mut self, key: &Key, unit: &str, figure: f64, verdict: Verdict) {
        let row = Row { count: 1, p50: Some(figure), verdict: Some(verdict), ..self.row(key, unit) };
        self.rows.push(row);
    }

    /// What was found so far.
    #[must_use]
    pub fn rows(&self) -> Rows {
        Rows::new(self.rows.clone())
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
            source: key
                .source
                .clone()
                .unwrap_or_else(|| format!("cargo run --release -p praas-perf -- {}{quick}", key.plot)),
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
            verdict: None,
        }
    }
}
