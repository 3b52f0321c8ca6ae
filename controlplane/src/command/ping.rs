//! `praas ping`: how long a call takes, and where: on its way to a worker, in it, and on its way back.

use std::time::{Duration, Instant};

use clap::Args;
use praas_client::{CallError, Function, PING_FUNCTION, Process, ProcessId};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::command::Context;
use crate::command::calling::CallingArguments;
use crate::duration;
use crate::failure::Failure;
use crate::latency::readable_ns;
use crate::limits::{PING_INTERVAL_DEFAULT, PINGS_MAX};
use crate::table::Columns;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Calls a function that every application has, which does nothing but look at the clock, and shows how long the call took on \
its way to the worker, in the worker, and on its way back. The process needs no function of its own for it.";

const EXAMPLES: &str = "\
Examples:
  praas ping hello/alice                         five calls, one a second
  praas ping hello/alice --count 1000 --interval 1ms
  praas ping hello/alice --wait-mode spin        as a caller that never sleeps";

const PING: Function<'static> = Function::new(PING_FUNCTION);

/// Arguments of `praas ping`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PingArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// Calls to make
    #[arg(long, short, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=PINGS_MAX))]
    pub count: u64,
    /// Time between two calls; 1s unless given
    #[arg(long, short, value_name = "TIME", value_parser = duration::parse)]
    pub interval: Option<Duration>,
    /// How the calls are made
    #[command(flatten)]
    pub calling: CallingArguments,
}

/// Where the time of one call went, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hops {
    there_ns: u64,
    worker_ns: u64,
    back_ns: u64,
}

impl Hops {
    fn all_ns(self) -> u64 {
        self.there_ns + self.worker_ns + self.back_ns
    }

    /// From the clock at the four corners of a call; `None` when they are not in order, because the worker's clock is that of
    /// another host or its answer is made up.
    fn between(sent_ns: u64, taken_ns: u64, answered_ns: u64, received_ns: u64) -> Option<Self> {
        Some(Self {
            there_ns: taken_ns.checked_sub(sent_ns)?,
            worker_ns: answered_ns.checked_sub(taken_ns)?,
            back_ns: received_ns.checked_sub(answered_ns)?,
        })
    }
}

/// Pings a process.
///
/// # Errors
/// [`Failure::Call`] with the way a call ended.
pub fn ping(context: &Context, arguments: &PingArguments) -> Result<(), Failure> {
    let process = context.client_with(arguments.calling.options())?.process(arguments.process)?;
    let interval = arguments.interval.unwrap_or(PING_INTERVAL_DEFAULT);
    let mut all = Vec::new();
    // The first call of a process opens what later ones find open.
    call(&process)?;
    for number in 1..=arguments.count {
        let due = Instant::now() + interval;
        let hops = call(&process)?;
        show(context, arguments.process, number, hops)?;
        all.push(hops);
        if number < arguments.count {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    summarize(context, &all)
}

fn call(process: &Process) -> Result<Hops, CallError> {
    let sent_ns = monotonic_ns();
    let reply = process.invoke(PING, b"")?;
    let received_ns = monotonic_ns();
    let malformed = CallError::MalformedReply { what: "a ping's answer that holds no times of this call" };
    let (stamps, rest) = reply.as_chunks::<8>();
    match (stamps, rest) {
        (&[taken, answered], []) => {
            Hops::between(sent_ns, u64::from_le_bytes(taken), u64::from_le_bytes(answered), received_ns)
                .ok_or(malformed)
        }
        _ => Err(malformed),
    }
}

fn show(context: &Context, process: ProcessId, number: u64, hops: Hops) -> Result<(), Failure> {
    let output = context.output();
    output.value(&as_json(process, number, hops))?;
    output.line(format_args!(
        "{process} call {number}: {} (there {}, worker {}, back {})",
        readable(hops.all_ns()),
        readable(hops.there_ns),
        readable(hops.worker_ns),
        readable(hops.back_ns)
    ))
}

fn as_json(process: ProcessId, number: u64, hops: Hops) -> Value {
    json!({
        "process": process.to_string(),
        "call": number,
        "all_ns": hops.all_ns(),
        "there_ns": hops.there_ns,
        "worker_ns": hops.worker_ns,
        "back_ns": hops.back_ns,
    })
}

fn summarize(context: &Context, all: &[Hops]) -> Result<(), Failure> {
    let mut columns = Columns::new(&["", ">p50", ">p99", ">longest"]);
    let parts: [(&str, fn(Hops) -> u64); 4] = [
        ("all", Hops::all_ns),
        ("there", |hops| hops.there_ns),
        ("worker", |hops| hops.worker_ns),
        ("back", |hops| hops.back_ns),
    ];
    for (name, part) in parts {
        let mut times_ns: Vec<u64> = all.iter().copied().map(part).collect();
        times_ns.sort_unstable();
        let at = |percent: usize| times_ns[(times_ns.len() - 1) * percent / 100];
        columns.row(vec![name.to_owned(), readable(at(50)), readable(at(99)), readable(at(100))]);
    }
    context.output().line(format_args!("\n{}", columns.render("")))
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn readable(ns: u64) -> String {
    readable_ns(ns as f64)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_add_up_to_the_whole_and_clocks_out_of_order_are_noticed() {
        let hops = Hops::between(100, 350, 400, 900).unwrap();
        assert_eq!(hops, Hops { there_ns: 250, worker_ns: 50, back_ns: 500 });
        assert_eq!(hops.all_ns(), 800);
        assert_eq!(Hops::between(100, 90, 400, 900), None);
        assert_eq!(Hops::between(100, 200, 150, 900), None);
        assert_eq!(Hops::between(100, 200, 950, 900), None);
    }
}
