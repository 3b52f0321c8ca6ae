//! `praas stats`: what workers count of their functions, read without stopping them.

use clap::Args;
use praas_client::{Client, FunctionStats, ProcessId, ProcessStats};
use serde_json::{Value, json};

use crate::command::Context;
use crate::failure::Failure;
use crate::latency::readable_whole_ns;
use crate::table::Columns;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Shows how often the functions of processes were called and how long they took, since the processes were created. Workers count \
every call and time one in 64, from the start of the function to the publication of its answer, in memory that the server \
reads: asking stops nobody. Times are right to within 6 %.";

const EXAMPLES: &str = "\
Examples:
  praas stats                  all processes
  praas stats hello/alice      one
  praas stats --json | jq '.processes[].functions[].p99_ns'";

/// Arguments of `praas stats`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatsArguments {
    /// The process, such as hello/alice; all that the token covers unless given
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: Option<ProcessId>,
}

/// Shows counts and latencies.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn stats(context: &Context, arguments: &StatsArguments) -> Result<(), Failure> {
    let client = context.client()?;
    let shown = match arguments.process {
        Some(process) => vec![(process, client.stats(process)?)],
        None => stats_of_all(&client)?,
    };
    let output = context.output();
    output.value(&json!({ "processes": shown.iter().map(as_json).collect::<Vec<Value>>() }))?;
    output.line(if shown.is_empty() {
        "there are no processes; create one with `praas process create APPLICATION/PROCESS`".to_owned()
    } else {
        as_text(&shown)
    })
}

fn stats_of_all(client: &Client) -> Result<Vec<(ProcessId, ProcessStats)>, Failure> {
    let mut all = Vec::new();
    for status in client.list()? {
        match client.stats(status.process) {
            Ok(stats) => all.push((status.process, stats)),
            // It ended since it was listed.
            Err(praas_client::RequestError::Refused(praas_client::ControlError::UnknownProcess { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

fn as_json((process, stats): &(ProcessId, ProcessStats)) -> Value {
    json!({
        "process": process.to_string(),
        "queued": stats.queued,
        "running": stats.running,
        "lanes": stats.lanes,
        "worker_restarts": stats.worker_restarts,
        "functions": stats.functions.iter().map(function_as_json).collect::<Vec<Value>>(),
    })
}

fn function_as_json(function: &FunctionStats) -> Value {
    json!({
        "function": function.function.to_string(),
        "calls": function.calls,
        "failed": function.failed,
        "timed": function.timed,
        "mean_ns": function.mean_ns,
        "p50_ns": function.p50_ns,
        "p99_ns": function.p99_ns,
        "p999_ns": function.p999_ns,
        "max_ns": function.max_ns,
    })
}

fn as_text(shown: &[(ProcessId, ProcessStats)]) -> String {
    let mut columns = Columns::new(&[
        "PROCESS", "FUNCTION", ">CALLS", ">FAILED", ">P50", ">P99", ">P99.9", ">LONGEST", ">QUEUED", ">RUNNING",
    ]);
    for (process, stats) in shown {
        let whole = [stats.queued.to_string(), stats.running.to_string()];
        if stats.functions.is_empty() {
            let mut row = vec![process.to_string(), "(no calls yet)".to_owned()];
            row.extend(std::iter::repeat_n(String::new(), 6));
            row.extend(whole.clone());
            columns.row(row);
        }
        for (number, function) in stats.functions.iter().enumerate() {
            let mut row = vec![
                if number == 0 { process.to_string() } else { String::new() },
                function.function.to_string(),
                function.calls.to_string(),
                function.failed.to_string(),
            ];
            let times = [function.p50_ns, function.p99_ns, function.p999_ns, function.max_ns];
            row.extend(times.map(|ns| if function.timed == 0 { "-".to_owned() } else { readable_whole_ns(ns) }));
            row.extend(if number == 0 { whole.clone() } else { [String::new(), String::new()] });
            columns.row(row);
        }
    }
    columns.render("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_function_has_a_line_and_a_process_without_calls_says_so() {
        let function = |name: &str| FunctionStats {
            function: name.parse().unwrap(),
            calls: 128,
            failed: 1,
            timed: 2,
            mean_ns: 900,
            p50_ns: 850,
            p99_ns: 2_000,
            p999_ns: 2_000,
            max_ns: 2_100,
        };
        let busy =
            ProcessStats { functions: vec![function("echo"), function("search")], queued: 7, ..Default::default() };
        let shown = [("a/busy".parse().unwrap(), busy), ("a/idle".parse().unwrap(), ProcessStats::default())];
        let text = as_text(&shown);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for word in ["a/busy", "echo", "128", "850 ns", "2.00 µs", "2.10 µs", "7"] {
            assert!(lines[1].contains(word), "{word}: {text}");
        }
        assert!(lines[2].contains("search") && !lines[2].contains("a/busy"), "{text}");
        assert!(lines[3].contains("a/idle") && lines[3].contains("(no calls yet)"), "{text}");
        assert_eq!(as_json(&shown[0])["functions"][1]["function"], "search");
    }
}
