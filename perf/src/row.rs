//! What is found: rows. `results.jsonl` holds one of them a line; its keys are an interface: add, never rename.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What kind of series a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// praas, measured here.
    Ours,
    /// What this machine can do at best, measured here.
    Floor,
    /// Another system, measured here.
    Baseline,
    /// Read from the paper's data: measured on AWS.
    Paper,
}

/// One series at one place of its plot, and what was found. Figures are in `unit` and `null` where nothing was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Id of the plot.
    pub plot: String,
    /// Name of the series, for people: unique within its plot.
    pub series: String,
    /// The system: `praas`, `redis`, `linux` …
    pub system: String,
    /// Its version, as it says itself.
    pub version: String,
    /// Where its parties ran.
    pub placement: String,
    /// How its parties waited.
    pub wait: String,
    /// Bytes of payload, where that makes sense.
    pub payload_bytes: Option<u64>,
    /// The unit of the figures: `ns`, `1/s`, `bytes`, `instructions`.
    pub unit: String,
    /// Samples.
    pub count: u64,
    /// The smallest sample.
    pub min: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// The 95th percentile.
    pub p95: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
    /// The 99.9th percentile.
    pub p999: Option<f64>,
    /// The largest sample.
    pub max: Option<f64>,
    /// Lower end of the 95 % interval of confidence of the median.
    pub ci_low: Option<f64>,
    /// Upper end.
    pub ci_high: Option<f64>,
    /// The command that makes this row; of the paper's rows, the file of its artifact.
    pub source: String,
    /// What kind of series.
    pub kind: Kind,
    /// The run that found it: rows of different runs are not compared.
    pub run: String,
    /// Series of one group of one run were measured in turns: only these have ratios.
    pub group: u64,
    /// What the plot's horizontal axis shows, where that is not the payload.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub x_name: Option<String>,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub x: Option<f64>,
    /// A second axis, of heat maps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub y_name: Option<String>,
    /// Its value.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub y: Option<f64>,
    /// The median of each round, in the order measured.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rounds: Vec<f64>,
    /// Why nothing was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub absent: Option<String>,
    /// What a reader has to know of this figure.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// Of the rows of `praas-benches`: the condition that the figure was judged by.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<Verdict>,
}

/// How a bar of `praas-benches` judged its figure, which is its row's `p50`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Id of the bar.
    pub bar: String,
    /// What the machine can do at best, in the row's unit; `null` if the bar is absolute.
    pub floor: Option<f64>,
    /// Figure over floor: the median of the rounds' own ratios, where there were rounds.
    pub ratio: Option<f64>,
    /// The condition, in words.
    pub condition: String,
    /// Whether it holds.
    pub met: bool,
}

/// All rows of a page, with the questions that plots and claims ask of them.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    rows: Vec<Row>,
}

impl Rows {
    /// These rows.
    #[must_use]
    pub fn new(rows: Vec<Row>) -> Self {
        Self { rows }
    }

    /// Every row, in the order measured.
    #[must_use]
    pub fn all(&self) -> &[Row] {
        &self.rows
    }

    /// The rows of a plot.
    pub fn of_plot<'a>(&'a self, plot: &'a str) -> impl Iterator<Item = &'a Row> + 'a {
        self.rows.iter().filter(move |row| row.plot == plot)
    }

    /// The row of a series at a payload size.
    #[must_use]
    pub fn at_payload(&self, plot: &str, series: &str, payload_bytes: u64) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.plot == plot && row.series == series && row.payload_bytes == Some(payload_bytes))
    }

    /// The row of a series at a place of its plot's axes.
    #[must_use]
    pub fn at(&self, plot: &str, series: &str, x: f64, y: Option<f64>) -> Option<&Row> {
        self.rows.iter().find(|row| row.plot == plot && row.series == series && row.x == Some(x) && row.y == y)
    }

    /// Adds rows.
    pub fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Writes all as JSON Lines.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, mut writer: impl Write) -> io::Result<()> {
        for row in &self.rows {
            serde_json::to_writer(&mut writer, row)?;
            writer.write_all(b"\n")?;
        }
        writer.flush()
    }

    /// Reads what [`Rows::write`] wrote.
    ///
    /// # Errors
    /// [`io::Error`] of the file, or [`io::ErrorKind::InvalidData`] with the number of the line that is no row.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut rows = Vec::new();
        for (index, line) in BufReader::new(File::open(path)?).lines().enumerate() {
            let row = serde_json::from_str(&line?).map_err(|error| {
                let place = format!("{}, line {}: {error}", path.display(), index + 1);
                io::Error::new(io::ErrorKind::InvalidData, place)
            })?;
            rows.push(row);
        }
        Ok(Self { rows })
    }
}
