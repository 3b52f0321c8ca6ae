//! The guard: figures of the hot paths that no noise touches, held against stored expectations, so that a change that costs
//! is seen on the day that it is made and on any machine.
//!
//! | room | what |
//! |---|---|
//! | `rig` | the guarded steps, each a function of its own |
//! | `lane`, `letters`, `sdk`, `wire` | what they work on |
//! | `role` | this program, started again to run them |
//! | `callgrind` | instructions of each |
//! | [`expectations`] | what is stored, and how it is judged |
//! | `printing` | the command |
//!
//! Three things are counted of each step, on one thread, after warm-up: instructions by callgrind, heap allocations by this
//! program's allocator, system calls by a seccomp filter that traps them. In steady state none of the hot paths makes a
//! system call. What cannot be counted here is left out, with the reason.
//!
//! An improvement beyond the tolerance is a finding too: `--update` stores it, and from then on it is kept.

mod callgrind;
pub mod expectations;
mod lane;
mod letters;
mod printing;
mod rig;
mod role;
mod sdk;
mod wire;

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use praas_benches::report::{new_table, number};

use callgrind::CallgrindError;
use expectations::{Expectations, Figures, Finding, findings};
use role::{ARGUMENT, Counted, OPERATIONS_COUNTED, STEADY};

pub use printing::print;
pub use role::serve_role_if_asked;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The steps did not run, or this system does not trap.
    #[error("could not count allocations and system calls: {0}")]
    Steady(String),
    /// Callgrind is there and failed.
    #[error("could not count instructions: {0}")]
    Callgrind(String),
    /// Expectations without instructions would be none.
    #[error("`--update` stores instructions too, and those could not be counted: {0}")]
    Incomplete(String),
    /// The file of the expectations.
    #[error("cannot read or write {}: {source}; `--update` makes it anew", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// The figures.
    pub found: Expectations,
    /// What is not as expected; nothing after an update.
    pub findings: Vec<Finding>,
    /// What was not judged, and why.
    pub skipped: Vec<String>,
}

/// Where the expectations are: in the sources that this program was built of.
#[must_use]
pub fn expectations_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("guard.json")
}

/// Counts, and holds what it found against the expectations; with `update`, stores it instead.
///
/// # Errors
/// [`GuardError`].
pub fn check(update: bool) -> Result<Report, GuardError> {
    let (found, mut skipped) = count()?;
    let path = expectations_path();
    if update {
        if let Some(reason) = skipped.pop() {
            return Err(GuardError::Incomplete(reason));
        }
        found.write(&path).map_err(|source| GuardError::File { path, source })?;
        return Ok(Report { found, findings: Vec::new(), skipped });
    }
    let expected = Expectations::read(&path).map_err(|source| GuardError::File { path, source })?;
    if expected.rustc != found.rustc {
        let (then, now) = (&expected.rustc, &found.rustc);
        skipped.push(format!("instructions are not judged: they are expected of {then}, and this is {now}"));
    }
    let findings = findings(&expected, &found);
    Ok(Report { found, findings, skipped })
}

/// The figures of every step, and what could not be counted.
fn count() -> Result<(Expectations, Vec<String>), GuardError> {
    let steps = rig::steps();
    let counted = counted_confined()?;
    for Counted { step, last_system_call, .. } in &counted {
        if let Some(number) = last_system_call {
            eprintln!("{step}: the last system call that it made was number {number}");
        }
    }
    let (instructions, skipped) = match callgrind::instructions(&steps) {
        Ok(instructions) => (instructions.into_iter().map(Some).collect(), Vec::new()),
        Err(error @ CallgrindError::NotInstalled) => (vec![None; steps.len()], vec![error.to_string()]),
        Err(error) => return Err(GuardError::Callgrind(error.to_string())),
    };
    let each = |total: u64| total as f64 / OPERATIONS_COUNTED as f64;
    let figures = |(counted, instructions): (Counted, Option<f64>)| Figures {
        step: counted.step,
        instructions,
        allocations: each(counted.allocations),
        system_calls: each(counted.system_calls),
    };
    let steps = counted.into_iter().zip(instructions).map(figures).collect();
    Ok((Expectations { rustc: env!("PRAAS_PERF_RUSTC").to_owned(), steps }, skipped))
}

/// Runs the steps in a process of their own, on a confined thread.
fn counted_confined() -> Result<Vec<Counted>, GuardError> {
    let failed = |error: &dyn std::fmt::Display| GuardError::Steady(error.to_string());
    let program = env::current_exe().map_err(|error| failed(&error))?;
    let output = Command::new(program).args([ARGUMENT, STEADY]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
}

/// The figures for people.
#[must_use]
pub fn table_of(report: &Report) -> String {
    let mut table = new_table(&["step, each operation", "instructions", "allocations", "system calls", "as expected"]);
    for Figures { step, instructions, allocations, system_calls } in &report.found.steps {
        let is_fine = !report.findings.iter().any(|finding| finding.step == *step);
        table.add_row([
            step.as_str().into(),
            number(instructions.map_or_else(|| "not counted".to_owned(), |count| format!("{count:.1}"))),
            number(allocations.to_string()),
            number(system_calls.to_string()),
            if is_fine { "yes".into() } else { "NO".into() },
        ]);
    }
    table.to_string()
}
