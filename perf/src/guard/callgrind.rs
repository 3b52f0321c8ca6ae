//! Instructions of the guarded steps, counted by callgrind: the same for every run of one binary.
//!
//! Callgrind simulates the processor and writes a profile: for each function its calls of others, with the instructions that
//! these took, their own calls included. A step is a function of its own, so its calls by `collected` are its figure.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io;
use std::process::Command;

use super::rig::Step;
use super::role::{ARGUMENT, INSTRUCTIONS, OPERATIONS_COUNTED};

/// The program.
const VALGRIND: &str = "valgrind";
/// Lines of its words that are shown when it fails.
const WORDS_SHOWN: usize = 5;

/// Why there are no counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallgrindError {
    #[error("there is no valgrind here; install the package `valgrind` to count instructions")]
    NotInstalled,
    #[error("could not {action}: {source}")]
    System { action: &'static str, source: io::Error },
    #[error("valgrind ended with {status}: {words}")]
    Failed { status: String, words: String },
    #[error("the profile does not say what `{function}` took; was it inlined?")]
    Missing { function: &'static str },
}

/// Instructions of an operation of each of these steps, in their order.
pub(super) fn instructions(steps: &[Step]) -> Result<Vec<f64>, CallgrindError> {
    let system = |action| move |source| CallgrindError::System { action, source };
    let directory = tempfile::tempdir().map_err(system("make a directory for the profile"))?;
    let profile = directory.path().join("profile");
    let program = env::current_exe().map_err(system("find this program"))?;
    let mut out_file = std::ffi::OsString::from("--callgrind-out-file=");
    out_file.push(&profile);
    let output = Command::new(VALGRIND)
        .args(["--tool=callgrind", "--quiet", "--toggle-collect=*guard::role::collected*", "--compress-strings=no"])
        .arg(out_file)
        .arg(program)
        .args([ARGUMENT, INSTRUCTIONS])
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CallgrindError::NotInstalled,
            _ => CallgrindError::System { action: "start valgrind", source: error },
        })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words: Vec<&str> = words.lines().rev().take(WORDS_SHOWN).collect();
        let words = words.into_iter().rev().collect::<Vec<_>>().join(" | ");
        return Err(CallgrindError::Failed { status: output.status.to_string(), words });
    }
    let text = fs::read(&profile).map_err(system("read the profile"))?;
    let text = String::from_utf8_lossy(&text);
    let taken = inclusive_costs(&text);
    let of_step = |step: &Step| {
        let costs = taken.iter().filter(|(function, _)| is_named(function, step.function)).map(|(_, cost)| *cost);
        let cost: u64 = costs.sum();
        let missing = CallgrindError::Missing { function: step.function };
        if cost == 0 { Err(missing) } else { Ok(cost as f64 / OPERATIONS_COUNTED as f64) }
    };
    steps.iter().map(of_step).collect()
}

/// Whether a function of the profile is this one: the last part of its path, or the one before the hash of its symbol.
fn is_named(function: &str, name: &str) -> bool {
    function.split("::").any(|part| part == name)
}

/// What the calls of each function took, their own calls included.
///
/// A call is three lines: `cfn=` names the function that is called, `calls=` counts, and the next line ends with the cost.
fn inclusive_costs(profile: &str) -> HashMap<&str, u64> {
    let mut costs = HashMap::new();
    let mut lines = profile.lines();
    let mut called = "";
    while let Some(line) = lines.next() {
        if let Some(function) = line.strip_prefix("cfn=") {
            called = function;
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|line| line.split_ascii_whitespace().next_back()?.parse::<u64>().ok());
            *costs.entry(called).or_insert(0) += cost.unwrap_or(0);
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
# callgrind format
positions: line
events: Ir

fn=perf::guard::role::collected
10 6
cfn=perf::guard::wire::guarded_request_made
calls=20 30
12 640
cfn=perf::guard::wire::guarded_request_made::h0123456789abcdef
calls=1 30
+2 64

fn=perf::guard::wire::guarded_request_made
30 100
cfn=memcpy
calls=32 0
* 540
";

    #[test]
    fn the_profile_says_what_calls_took() {
        let costs = inclusive_costs(PROFILE);
        assert_eq!(costs["perf::guard::wire::guarded_request_made"], 640);
        assert_eq!(costs["memcpy"], 540);
        let step: u64 =
            costs.iter().filter(|(function, _)| is_named(function, "guarded_request_made")).map(|(_, cost)| cost).sum();
        assert_eq!(step, 704);
        assert!(!is_named("perf::guard::wire::guarded_request_made", "guarded_request"));
    }
}
