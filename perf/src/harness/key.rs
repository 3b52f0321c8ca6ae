//! What a row says of its series beside the figures: who was measured, where, and how its parties waited.

use std::fmt;

use crate::row::Kind;

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
    /// The command that makes the row, if not the one that measures its plot.
    pub source: Option<String>,
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
            source: None,
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

    /// The command that makes the row, if not the one that measures its plot.
    #[must_use]
    pub fn source(mut self, command: impl Into<String>) -> Self {
        self.source = Some(command.into());
        self
    }
}

fn kernel_release() -> String {
    praas_benches::machine::Machine::look().map_or_else(|_| String::new(), |machine| machine.kernel)
}
