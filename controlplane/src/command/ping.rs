//! `praas ping`: how long a call takes, and where: on its way to a worker, in it, and on its way back.

use std::time::{Duration, Instant};

use clap::Args;
use praas_client::{CallError, Client, Function, PING_FUNCTION, Process, ProcessId};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::command::Context;
use crate::command::calling::CallingArguments;
use crate::duration;
use crate::failure::Failure;
use crate::latency::readable_whole_ns;
use crate::limits::{PING_INTERVAL_DEFAULT, PING_SERVER_MAX, PINGS_MAX};
use crate::table::Columns;

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Calls a function that every application has, which does nothing but look at the clock, and shows how long the call took on \
its way to the worker, in the worker, and on its way back; over the network, how long the network, the server and the worker \
took. The process needs no function of its own for it.";

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

/// Where the time of one call went: three parts with their names, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hops {
    all_ns: u64,
    parts_ns: [(&'static str, u64); 3],
}

impl Hops {
    /// From the clock at the four corners of a call on one host; `None` when they are not in order, because the answer is
    /// made up.
    fn on_host(sent_ns: u64, taken_ns: u64, answered_ns: u64, received_ns: u64) -> Option<Self> {
        let there_ns = taken_ns.checked_sub(sent_ns)?;
        let worker_ns = answered_ns.checked_sub(taken_ns)?;
        let back_ns = received_ns.checked_sub(answered_ns)?;
        let parts_ns = [("there", there_ns), ("worker", worker_ns), ("back", back_ns)];
        Some(Self { all_ns: received_ns.checked_sub(sent_ns)?, parts_ns })
    }

    /// From spans alone, since clocks of two hosts cannot be compared: the whole call, the worker's part of it, and a round
    /// trip to the server just before, which is what the network takes. The rest is the server's. `None` when the worker
    /// claims more than the whole.
    fn over_network(all_ns: u64, worker_ns: u64, network_ns: u64) -> Option<Self> {
        let outside_ns = all_ns.checked_sub(worker_ns)?;
        // The two round trips are different ones: either may have been the slower.
        let network_ns = network_ns.min(outside_ns);
        let parts_ns = [("network", network_ns), ("server", outside_ns - network_ns), ("worker", worker_ns)];
        Some(Self { all_ns, parts_ns })
    }
}

/// Pings a process.
///
/// # Errors
/// [`Failure::Call`] with the way a call ended.
pub fn ping(context: &Context, arguments: &PingArguments) -> Result<(), Failure> {
    let client = context.client_with(arguments.calling.options())?;
    let process = client.process(arguments.process)?;
    let interval = arguments.interval.unwrap_or(PING_INTERVAL_DEFAULT);
    let mut all = Vec::new();
    // The first call of a process opens what later ones find open.
    call(&client, &process)?;
    for number in 1..=arguments.count {
        let due = Instant::now() + interval;
        let hops = call(&client, &process)?;
        show(context, arguments.process, number, hops)?;
        all.push(hops);
        if number < arguments.count {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    summarize(context, &all)
}

fn call(client: &Client, process: &Process) -> Result<Hops, Failure> {
    let server = if client.is_remote() { Some(client.ping(PING_SERVER_MAX)?) } else { None };
    let sent_ns = monotonic_ns();
    let reply = process.invoke(PING, b"")?;
    let received_ns = monotonic_ns();
    let (stamps, rest) = reply.as_chunks::<8>();
    let hops = match (stamps, rest) {
        (&[taken, answered], []) => {
            let (taken_ns, answered_ns) = (u64::from_le_bytes(taken), u64::from_le_bytes(answered));
            match server {
                None => Hops::on_host(sent_ns, taken_ns, answered_ns, received_ns),
                Some(server) => {
                    let network = server.round_trip.saturating_sub(server.in_server.unwrap_or_default());
                    let network_ns = u64::try_from(network.as_nanos()).unwrap_or(u64::MAX);
                    let worker_ns = answered_ns.checked_sub(taken_ns);
                    worker_ns.and_then(|worker_ns| Hops::over_network(received_ns - sent_ns, worker_ns, network_ns))
                }
            }
        }
        _ => None,
    };
    Ok(hops.ok_or(CallError::MalformedReply { what: "a ping's answer that holds no times of this call" })?)
}

fn show(context: &Context, process: ProcessId, number: u64, hops: Hops) -> Result<(), Failure> {
    let output = context.output();
    output.value(&as_json(process, number, hops))?;
    let parts = hops.parts_ns.map(|(name, ns)| format!("{name} {}", readable_whole_ns(ns))).join(", ");
    output.line(format_args!("{process} call {number}: {} ({parts})", readable_whole_ns(hops.all_ns)))
}

fn as_json(process: ProcessId, number: u64, hops: Hops) -> Value {
    let mut value = json!({ "process": process.to_string(), "call": number, "all_ns": hops.all_ns });
    for (name, ns) in hops.parts_ns {
        value[format!("{name}_ns")] = ns.into();
    }
    value
}

fn summarize(context: &Context, all: &[Hops]) -> Result<(), Failure> {
    let Some(first) = all.first() else { return Ok(()) };
    let mut columns = Columns::new(&["", ">p50", ">p99", ">longest"]);
    let mut row = |name: &str, mut times_ns: Vec<u64>| {
        times_ns.sort_unstable();
        let at = |percent: usize| times_ns[(times_ns.len() - 1) * percent / 100];
        columns.row(vec![
            name.to_owned(),
            readable_whole_ns(at(50)),
            readable_whole_ns(at(99)),
            readable_whole_ns(at(100)),
        ]);
    };
    row("all", all.iter().map(|hops| hops.all_ns).collect());
    for (index, (name, _)) in first.parts_ns.iter().enumerate() {
        row(name, all.iter().map(|hops| hops.parts_ns[index].1).collect());
    }
    context.output().line(format_args!("\n{}", columns.render("")))
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
        let hops = Hops::on_host(100, 350, 400, 900).unwrap();
        assert_eq!(hops, Hops { all_ns: 800, parts_ns: [("there", 250), ("worker", 50), ("back", 500)] });
        assert_eq!(Hops::on_host(100, 90, 400, 900), None);
        assert_eq!(Hops::on_host(100, 200, 150, 900), None);
        assert_eq!(Hops::on_host(100, 200, 950, 900), None);
        let hops = Hops::over_network(1000, 50, 600).unwrap();
        assert_eq!(hops.parts_ns, [("network", 600), ("server", 350), ("worker", 50)]);
        let hops = Hops::over_network(1000, 50, 5_000).unwrap();
        assert_eq!(hops.parts_ns, [("network", 950), ("server", 0), ("worker", 50)]);
        assert_eq!(Hops::over_network(1000, 1_001, 1), None);
    }
}
