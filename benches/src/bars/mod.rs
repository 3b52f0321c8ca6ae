//! The bars that praas sets itself, by id. Each is a file of its own with a `run`; this one finds and runs them.
//!
//! A bar measures its floors and its figure in one run through [`crate::interleave::interleave`] and reports a row for
//! each of its conditions. Only bars that measure something real are listed.

mod create;
mod idle_100;
mod logged;
mod msg_local;
mod msg_local_1mib;
mod msg_remote;
mod msg_remote_bulk;
mod restore_disk;
mod self_invoke;
mod shm_1mib_descriptor;
mod shm_1mib_touched;
mod shm_noop_adaptive;
mod shm_noop_loaded;
mod shm_noop_park;
mod shm_noop_spin;
mod shm_noop_untrusted;
mod shm_steady;
mod shm_throughput;
mod sleeping;
mod state_get;
mod state_million;
mod state_put;
mod swap_incremental;
mod swap_out_disk;
mod swapped_10k;
mod tcp_1mib;
mod tcp_connections;
mod tcp_driver;
mod tcp_noop;
mod tcp_noop_spin;
mod tcp_throughput;
mod wake_disk;

use crate::floors::{Batch, FloorError};
use crate::interleave::{Outcome, RoundError, Turn, interleave};
use crate::progress::Progress;
use crate::report::Row;

/// How bars are measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Fewer and smaller rounds: to see that a bar works, not to publish.
    pub quick: bool,
}

/// Rounds of a full run: enough for a median over rounds that a burst of foreign work does not move.
const ROUNDS: u32 = 21;
/// Rounds of a quick run.
const ROUNDS_QUICK: u32 = 5;
/// How much smaller a quick round is.
const QUICK_DIVISOR: u64 = 5;

impl Settings {
    /// Rounds of a run.
    #[must_use]
    pub fn rounds(self) -> u32 {
        if self.quick { ROUNDS_QUICK } else { ROUNDS }
    }

    /// A round of `samples` samples, a tenth as many operations before it, both cut in a quick run.
    #[must_use]
    pub fn batch(self, samples: u64) -> Batch {
        let samples = if self.quick { samples / QUICK_DIVISOR } else { samples }.max(1);
        Batch { warm_up: (samples / 10).max(1), samples }
    }

    /// Interleaves all rounds of `turns` under a progress bar.
    ///
    /// # Errors
    /// The first round that fails.
    pub fn interleave(self, label: &str, turns: &mut [Turn<'_>]) -> Result<Vec<Outcome>, RoundError> {
        self.interleave_rounds(label, self.rounds(), turns)
    }

    /// The same of another number of rounds: fewer, where each takes seconds.
    ///
    /// # Errors
    /// The first round that fails.
    pub fn interleave_rounds(
        self,
        label: &str,
        rounds: u32,
        turns: &mut [Turn<'_>],
    ) -> Result<Vec<Outcome>, RoundError> {
        let progress = Progress::new(label, u64::from(rounds));
        interleave(rounds, turns, |_| progress.advance())
    }
}

/// Why a bar has no rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarError {
    /// A debug build measures the compiler's checks.
    #[error("bars are measured in release builds only; run `cargo run --release -p praas-benches -- bars`")]
    DebugBuild,
    /// No bar has this id.
    #[error("there is no bar `{id}`; the bars are: {known}")]
    UnknownBar {
        /// What was asked for.
        id: String,
        /// All ids, for people.
        known: String,
    },
    /// A floor could not be opened.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// A round failed.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// What the bar measures could not be set up, or failed.
    #[error("could not measure: {0}")]
    Subject(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One bar.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// Its id, as in the project's issues.
    pub id: &'static str,
    /// What it shows, in a line.
    pub summary: &'static str,
    /// Measures it.
    pub run: fn(Settings) -> Result<Vec<Row>, BarError>,
}

/// All bars, in the order in which they are reported.
pub const ALL: &[Bar] = &[
    shm_noop_spin::BAR,
    shm_noop_untrusted::BAR,
    shm_noop_park::BAR,
    shm_noop_adaptive::BAR,
    shm_noop_loaded::BAR,
    shm_1mib_descriptor::BAR,
    shm_1mib_touched::BAR,
    shm_throughput::BAR,
    shm_steady::BAR,
    idle_100::BAR,
    create::BAR,
    tcp_noop::BAR,
    tcp_noop_spin::BAR,
    tcp_1mib::BAR,
    tcp_throughput::BAR,
    tcp_connections::BAR,
    tcp_driver::BAR,
    state_get::BAR,
    state_put::BAR,
    state_million::BAR,
    msg_local::BAR,
    msg_local_1mib::BAR,
    msg_remote::BAR,
    msg_remote_bulk::BAR,
    self_invoke::BAR,
    swap_out_disk::BAR,
    swap_incremental::BAR,
    wake_disk::BAR,
    restore_disk::BAR,
    swapped_10k::BAR,
    logged::GROUP,
    logged::SINGLE,
];

/// The bars of these ids, in their order; all of them for no ids.
///
/// # Errors
/// [`BarError::UnknownBar`] names the ids that exist.
pub fn select(bars: &[Bar], ids: &[String]) -> Result<Vec<Bar>, BarError> {
    if ids.is_empty() {
        return Ok(bars.to_vec());
    }
    ids.iter()
        .map(|id| {
            bars.iter()
                .find(|bar| bar.id == id)
                .copied()
                .ok_or_else(|| BarError::UnknownBar { id: id.clone(), known: known_ids(bars) })
        })
        .collect()
}

fn known_ids(bars: &[Bar]) -> String {
    if bars.is_empty() {
        return "none in this build".to_owned();
    }
    bars.iter().map(|bar| bar.id).collect::<Vec<_>>().join(", ")
}

/// Refuses to measure a debug build.
///
/// # Errors
/// [`BarError::DebugBuild`].
pub fn require_release_build() -> Result<(), BarError> {
    if cfg!(debug_assertions) { Err(BarError::DebugBuild) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: Settings) -> Result<Vec<Row>, BarError> {
        Ok(Vec::new())
    }

    const TWO: &[Bar] =
        &[Bar { id: "first", summary: "one", run: nothing }, Bar { id: "second", summary: "another", run: nothing }];

    #[test]
    fn no_ids_mean_all_bars() {
        assert_eq!(select(TWO, &[]).expect("all exist").len(), 2);
    }

    #[test]
    fn ids_select_in_their_own_order() {
        let selected = select(TWO, &["second".to_owned(), "first".to_owned()]).expect("both exist");
        assert_eq!(selected.iter().map(|bar| bar.id).collect::<Vec<_>>(), ["second", "first"]);
    }

    #[test]
    fn an_unknown_id_is_answered_with_the_known_ones() {
        let error = select(TWO, &["third".to_owned()]).expect_err("it does not exist");
        assert_eq!(error.to_string(), "there is no bar `third`; the bars are: first, second");
    }

    #[test]
    fn ids_are_unique_and_quick_is_smaller() {
        let mut ids: Vec<_> = ALL.iter().map(|bar| bar.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), ALL.len());
        let (quick, full) = (Settings { quick: true }, Settings::default());
        assert!(quick.batch(1000).samples < full.batch(1000).samples && quick.rounds() < full.rounds());
        assert_eq!(quick.batch(1).samples, 1);
    }
}
