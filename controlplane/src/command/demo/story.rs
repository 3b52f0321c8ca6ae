//! What the demo says, in words that need no knowledge of praas. Programs get the report instead.

use std::cell::RefCell;
use std::path::Path;

use praas_client::ProcessId;

use super::indexing::{Indexed, SkippedFigure};
use super::killing::Killed;
use super::measuring::LatencyTable;
use super::own_server::OwnServer;
use super::searching::Searched;
use super::sending::Sent;
use super::sleeping::Slept;
use crate::failure::Failure;
use crate::latency::{LatencyFigures, grouped, readable_ns};
use crate::output::Output;
use crate::table::Columns;

/// The teller.
#[derive(Debug)]
pub(super) struct Story {
    output: Output,
    leftovers: RefCell<Vec<String>>,
}

impl Story {
    pub(super) fn new(output: Output) -> Self {
        Self { output, leftovers: RefCell::default() }
    }

    pub(super) fn title(&self) -> Result<(), Failure> {
        self.output.line("praas demo: a full-text index that lives in a process of its own\n")
    }

    pub(super) fn server(&self, server: &OwnServer) -> Result<(), Failure> {
        self.output.line(format_args!(
            "1. A server, for this run alone: operating-system process {}, up after {}.\n   \
             It starts programs, guards them and introduces callers to them; no call passes through it.\n",
            server.pid(),
            readable_ns(server.started_ms() * 1e6),
        ))
    }

    pub(super) fn process(&self, process: ProcessId, created_ms: f64) -> Result<(), Failure> {
        self.output.line(format_args!(
            "2. A process, {process}: a program in a sandbox that keeps what it learns between calls.\n   \
             Created, confined and ready for calls after {}.\n",
            readable_ns(created_ms * 1e6),
        ))
    }

    pub(super) fn indexed(&self, path: &Path, indexed: &Indexed) -> Result<(), Failure> {
        self.output.line(format_args!(
            "3. Its function `add` indexes the text files below {}:\n   {} files, {} of text, {} different words, in {}.\n   \
             It got them in {}, through memory that both programs share.{}\n",
            path.display(),
            grouped(f64::from(indexed.documents)),
            readable_bytes(indexed.bytes),
            grouped(f64::from(indexed.terms)),
            readable_ns(indexed.took_ms * 1e6),
            if indexed.batches == 1 { "1 call".to_owned() } else { format!("{} calls", indexed.batches) },
            left_out(&indexed.skipped),
        ))
    }

    pub(super) fn searched(&self, searches: &[Searched]) -> Result<(), Failure> {
        if searches.is_empty() {
            return self
                .output
                .line("4. No word of these files makes a good query; the searches below find nothing.\n");
        }
        self.output.line("4. Its function `search` finds words in that index, which never left the process:\n")?;
        for search in searches {
            let documents = if search.documents == 1 { "file" } else { "files" };
            let took = readable_ns(f64::from(u32::try_from(search.took_ns).unwrap_or(u32::MAX)));
            self.output
                .line(format_args!("   “{}”: {} {documents}, answered in {took}", search.query, search.documents))?;
            for hit in &search.hits {
                self.output.line(format_args!("      {}:{}: {}", hit.path, hit.line_number, shortened(&hit.line)))?;
            }
        }
        self.output.line("")
    }

    pub(super) fn killed(&self, killed: Option<&Killed>) -> Result<(), Failure> {
        let Some(killed) = killed else { return Ok(()) };
        self.output.line(format_args!(
            "5. The program that ran those functions (operating-system process {}) is killed, and “{}” searched again:\n   \
             {} files, as before, answered after {} by another program. The index is state of the process, not of a program.\n",
            killed.pid,
            killed.query,
            killed.documents_after,
            readable_ns(killed.answered_after_ms * 1e6),
        ))
    }

    pub(super) fn sent(&self, from: ProcessId, sent: Option<&Sent>) -> Result<(), Failure> {
        let Some(sent) = sent else { return Ok(()) };
        let killed = sent.killed_pid.map_or_else(String::new, |pid| {
            format!(" Its program (operating-system process {pid})\n   is killed with all of them unread; another reads them.")
        });
        self.output.line(format_args!(
            "6. A second process, {}, gets what {from} found, as messages.{killed}\n   It received {} of {}:",
            sent.to,
            sent.received.len(),
            sent.sent,
        ))?;
        for (query, documents) in &sent.received {
            let files = if *documents == 1 { "file" } else { "files" };
            self.output.line(format_args!("   “{query}”: {documents} {files}"))?;
        }
        self.output.line("")
    }

    pub(super) fn latency(&self, table: &LatencyTable) -> Result<(), Failure> {
        self.output.line("7. How long calls take, and what this machine can do at best, measured in turns:\n")?;
        let mut columns = Columns::new(&[&[""][..], &LatencyFigures::HEADINGS].concat());
        for floor in [false, true] {
            let heading = if floor {
                "what this machine can do: 64 bytes to another core and back"
            } else {
                "calls, one after another"
            };
            columns.row(vec![heading.to_owned()]);
            for row in table.latency.iter().filter(|row| row.floor == floor) {
                let name = format!("  {}", row.name);
                columns.row(match (&row.figures, &row.skipped) {
                    (Some(figures), _) => [&[name][..], &figures.cells()].concat(),
                    (None, reason) => vec![format!("{name}: {}", reason.as_deref().unwrap_or("not measured"))],
                });
            }
        }
        self.output.line(format_args!("{}\n", columns.render("   ")))?;
        if cfg!(debug_assertions) {
            self.output.line("   This is a debug build, whose figures mean little: cargo run --release -- demo\n")?;
        }
        if let Some(comparison) = comparison(table) {
            self.output.line(format_args!("   {comparison}"))?;
        }
        if calls_slept(table) {
            self.output.line(
                "   Cores were scarce: both sides of a call then sleep rather than spin. Compare it with the futex here.",
            )?;
        }
        self.output.line("")
    }

    pub(super) fn slept(&self, process: ProcessId, slept: Option<&Slept>) -> Result<(), Failure> {
        let Some(slept) = slept else { return Ok(()) };
        let programs =
            if slept.workers_asleep == 0 { "no program and no memory" } else { "a program, which is a defect" };
        self.output.line(format_args!(
            "8. Nobody needs {process} now: it is put to sleep. All that it knows, {}, is on disk after {};\n   \
             it has {programs} any more. “{}” is searched again, which wakes it:\n   \
             {} {}, as before, answered after {}.\n",
            readable_bytes(slept.stored_bytes),
            readable_ns(slept.swapped_ms * 1e6),
            slept.query,
            slept.documents_after,
            if slept.documents_after == 1 { "file" } else { "files" },
            readable_ns(slept.answered_after_ms * 1e6),
        ))
    }

    /// Notes what should be gone and is not.
    pub(super) fn note_leftovers(&self, leftovers: Vec<String>) {
        self.leftovers.borrow_mut().extend(leftovers);
    }

    /// The last line; what was left behind.
    pub(super) fn end(&self) -> Result<Vec<String>, Failure> {
        let leftovers = self.leftovers.take();
        if leftovers.is_empty() {
            self.output.line("Server and process have ended; nothing is left behind. Next: praas new hello")?;
        } else {
            self.output.line(format_args!("Left behind, which is a defect: {}", leftovers.join(", ")))?;
        }
        Ok(leftovers)
    }
}

/// A no-op beside the floors, where both were measured.
fn comparison(table: &LatencyTable) -> Option<String> {
    let noop = table.p50_ns("noop")?;
    let barest = table
        .p50_ns("shared_memory")
        .map(|floor| format!("A no-op call takes {:.1} times the barest exchange through shared memory", noop / floor));
    let queue = table.p50_ns("message_queue").map(|queue| match queue / noop {
        times if times >= 1.0 => format!("is {times:.0} times faster than a POSIX message queue"),
        times => format!("is {:.1} times slower than a POSIX message queue", 1.0 / times),
    });
    match (barest, queue) {
        (Some(barest), Some(queue)) => Some(format!("{barest}, and {queue}.")),
        (Some(barest), None) => Some(format!("{barest}.")),
        (None, Some(queue)) => Some(format!("A no-op call {queue}.")),
        (None, None) => None,
    }
}

/// Whether calls seem to have slept while the floor beside them could spin.
fn calls_slept(table: &LatencyTable) -> bool {
    const SPINNING_TIMES_MAX: f64 = 5.0;
    let ratio = table.p50_ns("noop").zip(table.p50_ns("shared_memory")).map(|(noop, floor)| noop / floor);
    ratio.is_none_or(|ratio| ratio > SPINNING_TIMES_MAX)
}

fn left_out(skipped: &[SkippedFigure]) -> String {
    let total: u64 = skipped.iter().map(|figure| figure.entries).sum();
    if total == 0 {
        return String::new();
    }
    let reasons: Vec<String> = skipped.iter().map(|figure| format!("{} {}", figure.entries, figure.reason)).collect();
    format!("\n   Left out: {}.", reasons.join(", "))
}

/// A line that fits a terminal beside its path.
fn shortened(line: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    if line.chars().count() <= CHARACTERS_MAX {
        return line.to_owned();
    }
    line.chars().take(CHARACTERS_MAX).chain(['…']).collect()
}

fn readable_bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.0} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::demo::measuring::LatencyRow;

    fn row(id: &'static str, p50_ns: f64) -> LatencyRow {
        let figures = LatencyFigures { calls: 1, p50_ns, p99_ns: 1.0, p999_ns: 1.0, calls_per_second: 1.0 };
        LatencyRow { id, name: id, floor: id != "noop", figures: Some(figures), skipped: None }
    }

    #[test]
    fn the_comparison_says_only_what_was_measured() {
        let table = |rows: Vec<LatencyRow>| LatencyTable { latency: rows };
        let all = table(vec![row("noop", 400.0), row("shared_memory", 200.0), row("message_queue", 10_000.0)]);
        let text = comparison(&all).unwrap();
        assert!(text.contains("2.0 times the barest") && text.contains("25 times faster"), "{text}");
        let slow = comparison(&table(vec![row("noop", 20_000.0), row("message_queue", 10_000.0)])).unwrap();
        assert!(slow.contains("2.0 times slower"), "{slow}");
        assert_eq!(comparison(&table(vec![row("noop", 1.0)])), None);
    }

    #[test]
    fn calls_far_from_the_spinning_floor_are_explained() {
        let table = |noop| LatencyTable { latency: vec![row("noop", noop), row("shared_memory", 200.0)] };
        assert!(!calls_slept(&table(400.0)));
        assert!(calls_slept(&table(6_000.0)));
        assert!(calls_slept(&LatencyTable { latency: vec![row("noop", 400.0)] }), "one core");
    }

    #[test]
    fn what_was_left_out_is_told_by_reason() {
        let figure = |reason: &str, entries| SkippedFigure { reason: reason.into(), entries, example: String::new() };
        assert_eq!(left_out(&[]), "");
        assert_eq!(left_out(&[figure("hidden", 2), figure("empty", 1)]), "\n   Left out: 2 hidden, 1 empty.");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(100)).chars().count(), 81);
        assert_eq!(shortened("short"), "short");
    }
}
