//! The functions of the application `pipeline`, which counts the words of a text, line by line and in parallel.
//!
//! ```text
//! source: feed ──lines──▶ stage-1, stage-2, …: work ──counts──▶ collector: collect
//! ```
//!
//! Every part is a process of its own, which may run on a core of its own; any may be called first. Lines and counts are
//! messages: they wait in the mailbox of their receiver, and come again if the call that received them fails. An empty message
//! says that no more follow.
#![forbid(unsafe_code)]

use std::time::Duration;

use praas_function::{Address, Application, Context, FunctionError, FunctionResult, NameError};
use rkyv::{Archive, Deserialize, Serialize};

/// The process that reads the text.
pub const SOURCE: &str = "source";
/// The process that gathers the counts.
pub const COLLECTOR: &str = "collector";

/// Keys of the messages.
const LINES: &str = "lines";
const COUNTS: &str = "counts";

/// How long each part waits for the one before it, or for room in the one behind it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A part fails with this code when it is sent what it cannot read.
pub const UNREADABLE: u32 = 1;

/// What `feed` takes.
#[derive(Debug, Clone, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub struct Job {
    /// Names of the processes that count.
    pub stages: Vec<String>,
    /// What is counted.
    pub text: String,
}

/// The application: every worker of its processes makes one.
#[must_use]
pub fn application() -> Application {
    Application::new().typed("feed", feed).typed("work", work).typed("collect", collect)
}

/// Deals the lines of a text out to the stages; the number of lines.
fn feed(context: &Context, job: &ArchivedJob) -> FunctionResult<u32> {
    let mut lines = 0_u32;
    for (line, stage) in job.text.lines().zip(job.stages.iter().cycle()) {
        let numbered = [&lines.to_le_bytes(), line.as_bytes()].concat();
        context.send_within(stage.as_str(), LINES, &numbered, PATIENCE)?;
        lines += 1;
    }
    for stage in job.stages.iter() {
        context.send_within(stage.as_str(), LINES, b"", PATIENCE)?;
    }
    Ok(lines)
}

/// Counts the words of each line that the source sends, and passes the count on.
fn work(context: &Context, (): &()) -> FunctionResult<()> {
    loop {
        let line = context.recv(SOURCE, LINES, PATIENCE)?;
        let Some((number, text)) = line.split_first_chunk::<4>() else { break };
        let words = u32::try_from(std::str::from_utf8(text)?.split_whitespace().count())?;
        let count = [*number, words.to_le_bytes()].concat();
        context.send_within(COLLECTOR, COUNTS, &count, PATIENCE)?;
        // Passed on: from here on the collector answers for it.
        line.accept()?;
    }
    context.send_within(COLLECTOR, COUNTS, b"", PATIENCE)?;
    Ok(())
}

/// Gathers what these stages count, in whatever order it comes; the words of each line.
fn collect(context: &Context, stages: &rkyv::Archived<Vec<String>>) -> FunctionResult<Vec<u32>> {
    let mut working: Vec<Address> =
        stages.iter().map(|stage| stage.as_str().parse()).collect::<Result<_, NameError>>()?;
    let mut counts = Vec::new();
    while !working.is_empty() {
        let count = context.recv(&working, COUNTS, PATIENCE)?;
        match count.as_chunks::<4>() {
            ([number, words], []) => counts.push((u32::from_le_bytes(*number), u32::from_le_bytes(*words))),
            ([], []) => working.retain(|stage| *stage != count.source()),
            _ => return Err(FunctionError::new(UNREADABLE, format!("{} sent {:?}", count.source(), count.bytes()))),
        }
    }
    counts.sort_unstable();
    Ok(counts.into_iter().map(|(_, words)| words).collect())
}
