//! Prints what the guard found.

use std::error::Error;
use std::process::ExitCode;

use praas_benches::bars::require_release_build;

use super::{check, expectations_path, table_of};

/// Guards, or stores what is found, and prints it: a failure if something is not as expected.
///
/// # Errors
/// Where there is no verdict: [`GuardError`](super::GuardError), and debug builds are refused.
pub fn print(update: bool) -> Result<ExitCode, Box<dyn Error>> {
    require_release_build().map_err(|_| "this is a debug build, whose instructions mean nothing; add --release")?;
    let report = check(update)?;
    println!("{}", table_of(&report));
    for reason in &report.skipped {
        println!("skipped: {reason}");
    }
    if update {
        println!("stored in {}", expectations_path().display());
    }
    for finding in &report.findings {
        println!("not as expected: {}: {}", finding.step, finding.words);
    }
    if report.findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("If that is meant, `--update` stores it, with a word in the commit.");
    Ok(ExitCode::FAILURE)
}
