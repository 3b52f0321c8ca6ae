//! Measures plots and writes what was found: rows after each plot, so that a run that is broken off keeps what it has, and
//! the page at the end.
//!
//! Nothing outlives a run, however it ends: every server and peer ends with this program.

use std::any::Any;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use praas_benches::bars::{Settings, require_release_build};
use praas_benches::floors::FloorError;

use super::{bars, results, show};
use crate::harness::machine::Description;
use crate::harness::{Run, machine};
use crate::plots::{self, Plot};
use crate::report::page;

/// Set by the tests of this program, which are debug builds: measure all the same. Such figures mean nothing.
const DEBUG_BUILD_VARIABLE: &str = "PRAAS_PERF_DEBUG_BUILD";

/// What is to be measured, and where it is written.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) selected: Vec<Selected>,
    pub(super) settings: Settings,
    pub(super) directory: PathBuf,
}

/// Something that makes rows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selected {
    Plot(&'static Plot),
    Bars,
}

impl Selected {
    /// Every plot, in the order of the page, and the bars last.
    pub(super) fn all(with_bars: bool) -> Vec<Self> {
        plots::ALL.iter().map(Self::Plot).chain(with_bars.then_some(Self::Bars)).collect()
    }

    fn id(self) -> &'static str {
        match self {
            Self::Plot(plot) => plot.id,
            Self::Bars => bars::ID,
        }
    }

    fn measure(self, run: &mut Run) {
        match self {
            Self::Plot(plot) => (plot.measure)(run),
            Self::Bars => bars::measure(run, |bar| eprintln!("      {}: {}", bar.id, bar.summary)),
        }
    }
}

/// Why nothing, or not everything, was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    #[error("there is no plot `{id}`; the plots are: {known}")]
    UnknownPlot { id: String, known: String },
    #[error("figures of a debug build mean nothing; run `cargo run --release -p praas-perf -- …`")]
    DebugBuild,
    #[error(transparent)]
    Machine(#[from] FloorError),
    #[error("cannot write {}: {source}; choose another directory with --out", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("of praas itself or of the machine's floors could not be measured:\n  {}", .0.join("\n  "))]
    Failed(Vec<String>),
}

/// The plots of these ids, in their order.
pub(super) fn select(ids: &[String]) -> Result<Vec<Selected>, MeasureError> {
    let known = Selected::all(true);
    ids.iter()
        .map(|id| {
            known.iter().find(|one| one.id() == id).copied().ok_or_else(|| MeasureError::UnknownPlot {
                id: id.clone(),
                known: known.iter().map(|one| one.id()).collect::<Vec<_>>().join(", "),
            })
        })
        .collect()
}

/// Measures, writes rows and page, and prints a summary.
pub(super) fn measure(request: &Request) -> Result<(), MeasureError> {
    let Request { selected, settings, directory } = request;
    if env::var_os(DEBUG_BUILD_VARIABLE).is_none() {
        require_release_build().map_err(|_| MeasureError::DebugBuild)?;
    }
    // Written first: a directory that cannot be written is better known before minutes of measuring.
    let machine = Description::look()?;
    let write_error = |source| MeasureError::Write { path: directory.clone(), source };
    fs::create_dir_all(directory).map_err(write_error)?;
    machine.write(directory).map_err(write_error)?;
    print_machine(&machine);

    let mut run = Run::new(run_id(), *settings);
    let mut failures = Vec::new();
    for (number, one) in (1..).zip(selected) {
        eprintln!("[{number}/{}] {}", selected.len(), one.id());
        let started = Instant::now();
        // A plot that panics loses its further rows, not those of the others.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one.measure(&mut run))) {
            failures.push(format!("{}: panicked: {}", one.id(), panic_words(panic.as_ref())));
        }
        eprintln!("      took {}", whole_seconds(started.elapsed()));
        results::write(&run.rows(), directory).map_err(write_error)?;
    }
    let (rows, found_failures) = run.finish();
    failures.extend(found_failures);
    let page = page::write(directory, &rows, Some(&machine)).map_err(write_error)?;
    show::print_summary(&rows);
    println!("rows: {}", directory.join(results::FILE).display());
    println!("page: {}", page.display());
    if failures.is_empty() { Ok(()) } else { Err(MeasureError::Failed(failures)) }
}

fn print_machine(machine: &machine::Description) {
    for (name, value) in machine.facts() {
        eprintln!("{name}: {value}");
    }
    for warning in machine.warnings() {
        eprintln!("warning: {warning}");
    }
}

/// By the second and the process: no two runs are alike.
fn run_id() -> String {
    format!("{}-{}", humantime::format_rfc3339_seconds(SystemTime::now()), std::process::id())
}

fn whole_seconds(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without words").to_owned()
}
