//! What the guard expects, as it stands in `perf/guard.json`, and what it says of what it found.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// By how much instructions may differ. Nothing is random in them, but the compiler's choices reach across functions, so that
/// a change elsewhere moves them a little; and the C library copies by other instructions on other processors.
pub const INSTRUCTIONS_TOLERANCE: f64 = 0.02;
/// By how many they may differ in any case, where two percent are less than an instruction or two.
const INSTRUCTIONS_SLACK: f64 = 2.0;

/// The stored expectations. Their keys are an interface: add, never rename.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expectations {
    /// The compiler that they were found with: another one makes other instructions.
    pub rustc: String,
    /// The steps.
    pub steps: Vec<Figures>,
}

/// The figures of a step, each of one operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The step.
    pub step: String,
    /// Instructions, if something counted them.
    pub instructions: Option<f64>,
    /// Heap allocations.
    pub allocations: f64,
    /// System calls.
    pub system_calls: f64,
}

impl Expectations {
    /// Reads them.
    ///
    /// # Errors
    /// The file's, or [`io::ErrorKind::InvalidData`].
    pub fn read(path: &Path) -> io::Result<Self> {
        serde_json::from_slice(&fs::read(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes them, for people to read too.
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }
}

/// A figure that is not as expected, or cannot be judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The step.
    pub step: String,
    /// What was found, in words with figures.
    pub words: String,
}

/// What is not as expected: found less than expected counts as much as found more, so that what was won is kept.
///
/// Instructions of another compiler are not judged.
#[must_use]
pub fn findings(expected: &Expectations, found: &Expectations) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |step: &str, words: String| findings.push(Finding { step: step.to_owned(), words });
    for figures in &found.steps {
        let Some(before) = expected.steps.iter().find(|before| before.step == figures.step) else {
            add(&figures.step, "is not among the expectations".to_owned());
            continue;
        };
        if let (Some(now), Some(then)) = (figures.instructions, before.instructions)
            && expected.rustc == found.rustc
            && (now - then).abs() > (then * INSTRUCTIONS_TOLERANCE).max(INSTRUCTIONS_SLACK)
        {
            let percent = (now / then - 1.0) * 100.0;
            add(&figures.step, format!("{now:.1} instructions where {then:.1} were expected ({percent:+.1} %)"));
        }
        let counts = [
            ("heap allocations", figures.allocations, before.allocations),
            ("system calls", figures.system_calls, before.system_calls),
        ];
        for (what, now, then) in counts.into_iter().filter(|(_, now, then)| now != then) {
            add(&figures.step, format!("{now} {what} where {then} were expected"));
        }
    }
    for before in &expected.steps {
        if !found.steps.iter().any(|figures| figures.step == before.step) {
            add(&before.step, "is expected and not measured any more".to_owned());
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(step: &str, instructions: f64, allocations: f64, system_calls: f64) -> Figures {
        Figures { step: step.into(), instructions: Some(instructions), allocations, system_calls }
    }

    fn of(steps: Vec<Figures>) -> Expectations {
        Expectations { rustc: "rustc 1".into(), steps }
    }

    fn words(expected: &Expectations, found: &Expectations) -> Vec<String> {
        findings(expected, found).into_iter().map(|finding| finding.words).collect()
    }

    #[test]
    fn what_is_within_the_tolerance_is_no_finding() {
        let expected = of(vec![figures("large", 1_000.0, 0.0, 0.0), figures("small", 20.0, 1.0, 0.0)]);
        assert!(words(&expected, &expected).is_empty());
        assert!(
            words(&expected, &of(vec![figures("large", 1_019.0, 0.0, 0.0), figures("small", 22.0, 1.0, 0.0)]))
                .is_empty()
        );
    }

    #[test]
    fn more_and_fewer_instructions_are_both_findings() {
        let expected = of(vec![figures("step", 1_000.0, 0.0, 0.0)]);
        let found = |instructions| words(&expected, &of(vec![figures("step", instructions, 0.0, 0.0)]));
        assert_eq!(found(1_030.0), ["1030.0 instructions where 1000.0 were expected (+3.0 %)"]);
        assert_eq!(found(970.0), ["970.0 instructions where 1000.0 were expected (-3.0 %)"]);
    }

    #[test]
    fn one_allocation_or_system_call_is_a_finding() {
        let expected = of(vec![figures("step", 1_000.0, 0.0, 0.0)]);
        let found = words(&expected, &of(vec![figures("step", 1_000.0, 0.03125, 1.0)]));
        assert_eq!(found, ["0.03125 heap allocations where 0 were expected", "1 system calls where 0 were expected"]);
    }

    #[test]
    fn another_compiler_or_none_to_count_judges_no_instructions() {
        let expected = of(vec![figures("step", 1_000.0, 0.0, 0.0)]);
        let other = Expectations { rustc: "rustc 2".into(), ..of(vec![figures("step", 2_000.0, 0.0, 0.0)]) };
        assert!(words(&expected, &other).is_empty());
        let uncounted = of(vec![Figures { instructions: None, ..figures("step", 0.0, 0.0, 0.0) }]);
        assert!(words(&expected, &uncounted).is_empty());
    }

    #[test]
    fn steps_that_come_and_go_are_findings() {
        let (one, other) = (of(vec![figures("one", 1.0, 0.0, 0.0)]), of(vec![figures("other", 1.0, 0.0, 0.0)]));
        assert_eq!(words(&one, &other), ["is not among the expectations", "is expected and not measured any more"]);
    }

    #[test]
    fn expectations_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("guard.json");
        let expected = of(vec![figures("step", 123.4375, 0.5, 0.0)]);
        expected.write(&path).expect("it is written");
        assert_eq!(Expectations::read(&path).expect("it is read"), expected);
    }
}
