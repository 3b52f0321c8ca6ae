//! `praas invoke`: one call, its output as bytes; or many, and how long they took.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use praas_benches::floors::{Batch, Samples, timed};
use praas_client::{CallError, Function, IdempotencyKey, Process, ProcessId};
use serde_json::json;

use crate::command::Context;
use crate::command::calling::CallingArguments;
use crate::duration;
use crate::failure::Failure;
use crate::latency::LatencyFigures;
use crate::limits::{PROGRESS_AFTER, REPEATS_MAX, REPEATS_PER_ROUND};
use crate::output::JsonBytes;
use crate::table::Columns;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Calls a function of a process and writes its output to standard output, byte for byte.

The payload is the third argument, a file's bytes (--file), or standard input (-); without any it is empty. With --repeat \
the same call is made many times, one after another, and the latencies are printed in place of the output.";

const EXAMPLES: &str = "\
Examples:
  praas invoke hello/alice greet World
  praas invoke hello/alice greet --file name.txt
  echo -n World | praas invoke hello/alice greet -
  praas invoke hello/alice greet World --deadline 50ms
  praas invoke hello/alice greet World --repeat 100000 --wait-mode spin
  praas invoke shop/orders order apples --idempotency-key order/4711

Exit code 4 when the function ran and failed, 5 when the deadline passed first.";

/// Arguments of `praas invoke`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InvokeArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// The function
    pub function: String,
    /// What the function gets; - reads standard input, and -- goes before text that starts with a dash
    #[arg(allow_negative_numbers = true)]
    pub payload: Option<String>,
    /// Send this file's bytes
    #[arg(long, short, value_name = "FILE", conflicts_with = "payload")]
    pub file: Option<PathBuf>,
    /// Call so many times, one after another, and print the latencies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=REPEATS_MAX))]
    pub repeat: Option<u64>,
    /// Wait no longer than this for each answer, such as 50ms; 30s unless given
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub deadline: Option<Duration>,
    /// Make all calls with this key one call, which runs once: repeated, it gives the stored answer. 32 hexadecimal digits, or a
    /// text that names the call
    #[arg(long, value_name = "KEY", conflicts_with = "repeat")]
    pub idempotency_key: Option<IdempotencyKey>,
    /// With --idempotency-key: if the worker died while it ran the call, run it again
    #[arg(long, requires = "idempotency_key")]
    pub rerun_lost: bool,
    /// How the calls are made
    #[command(flatten)]
    pub calling: CallingArguments,
}

/// Calls a function once or many times.
///
/// # Errors
/// [`Failure::Call`] with the way the call ended, or why it could not be made.
pub fn invoke(context: &Context, arguments: &InvokeArguments) -> Result<(), Failure> {
    let mut options = arguments.calling.options();
    if let Some(deadline) = arguments.deadline {
        options = options.call_deadline(deadline);
    }
    let client = context.client_with(options)?;
    let process = client.process(arguments.process)?;
    let payload = read_payload(arguments, u64::from(process.payload_bytes_max()))?;
    match arguments.repeat {
        None => call_once(context, arguments, &process, &payload),
        Some(calls) => call_repeatedly(context, arguments, &process, &payload, calls),
    }
}

fn read_payload(arguments: &InvokeArguments, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    match (&arguments.file, arguments.payload.as_deref()) {
        (Some(path), _) => {
            let file = File::open(path).map_err(Failure::file("opening", path))?;
            read_at_most(file, path, limit_bytes)
        }
        (None, Some("-")) => read_at_most(io::stdin().lock(), Path::new("standard input"), limit_bytes),
        (None, Some(text)) => Ok(text.as_bytes().to_vec()),
        (None, None) => Ok(Vec::new()),
    }
}

/// All bytes of `source`, which is called `path`, unless they are more than a process takes.
pub(crate) fn read_at_most(source: impl Read, path: &Path, limit_bytes: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(Failure::file("reading", path))?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Failure::PayloadTooLarge { limit_bytes });
    }
    Ok(bytes)
}

fn call_once(context: &Context, arguments: &InvokeArguments, process: &Process, payload: &[u8]) -> Result<(), Failure> {
    let start = Instant::now();
    let mut call = process.call(arguments.function.as_str()).payload(payload);
    if let Some(key) = arguments.idempotency_key {
        call = call.idempotency_key(key);
    }
    if arguments.rerun_lost {
        call = call.rerun_lost();
    }
    let reply = call.send()?;
    let took_ns = start.elapsed().as_nanos();
    let output = context.output();
    if !output.is_json() {
        return output.bytes(&reply, true);
    }
    output.value(&json!({
        "process": arguments.process.to_string(),
        "function": arguments.function,
        "output": JsonBytes::from(reply.as_slice()),
        "output_bytes": reply.len(),
        "took_ns": u64::try_from(took_ns).unwrap_or(u64::MAX),
    }))
}

fn call_repeatedly(
    context: &Context,
    arguments: &InvokeArguments,
    process: &Process,
    payload: &[u8],
    calls: u64,
) -> Result<(), Failure> {
    let samples = measure(process, Function::new(&arguments.function), payload, calls)?;
    let figures = LatencyFigures::from(&samples);
    let output = context.output();
    output.value(&json!({
        "process": arguments.process.to_string(),
        "function": arguments.function,
        "payload_bytes": payload.len(),
        "latency": figures,
    }))?;
    let mut columns = Columns::new(&[&[">CALLS"][..], &LatencyFigures::HEADINGS].concat());
    columns.row([&[calls.to_string()][..], &figures.cells()].concat());
    output.line(columns.render(""))
}

/// Times `calls` calls; the first one, which may wake a sleeping worker, counts like the others.
fn measure(process: &Process, function: Function<'_>, payload: &[u8], calls: u64) -> Result<Samples, CallError> {
    let mut samples = Samples::empty(1);
    let mut progress = Progress { start: Instant::now(), calls, bar: None };
    while samples.count() < calls {
        let round = Batch { warm_up: 0, samples: (calls - samples.count()).min(REPEATS_PER_ROUND) };
        samples.merge(&timed(round, || process.invoke(function, payload).map(drop))?);
        progress.show(samples.count());
    }
    Ok(samples)
}

/// A bar on standard error, once it has become worth it.
struct Progress {
    start: Instant,
    calls: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn show(&mut self, done: u64) {
        if self.bar.is_none() && self.start.elapsed() > PROGRESS_AFTER && io::stderr().is_terminal() {
            let bar = ProgressBar::new(self.calls);
            let style = ProgressStyle::with_template("calling {bar:40} {human_pos}/{human_len} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_never_ends_is_read_up_to_the_limit() {
        let failure = read_at_most(io::repeat(7), Path::new("endless"), 1000).unwrap_err();
        assert!(matches!(failure, Failure::PayloadTooLarge { limit_bytes: 1000 }));
        assert_eq!(read_at_most(io::repeat(7).take(1000), Path::new("short"), 1000).unwrap().len(), 1000);
    }
}
