//! Plot `ipc-micro`: what carries a payload from one process of a host to another and back.

use std::rc::Rc;

use praas_benches::floors::{Config, Medium, PayloadEcho, Placement, Waiting};
use praas_benches::subject::{Lane, LanePlan, RunningServer, Trust};
use praas_client::WaitMode;

use super::Plot;
use super::invocations::{Party, entry, lane_calls, party, warm};
use crate::harness::{Entry, Key, Run};
use crate::report::build::{bars_by_payload, times};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::{Kind, Rows};

const ID: &str = "ipc-micro";

/// The plot.
pub(super) const PLOT: Plot = Plot {
    id: ID,
    title: "Between two processes of one host",
    method: "Round trips with the whole payload each way between two processes, one call at a time. The sender fills the payload and \
             compares every byte of what comes back, both within the timed span; the other side receives all of it before it \
             answers. Message queues take 8 KiB a message and hold ten. In bare shared memory payloads are written and read in \
             place, and the other side copies them once. The lanes are those of a praas client and a process whose function \
             returns its input: a call by name, with deadlines, crash detection and cancellation. Everything sleeps while it \
             waits, unless it says spin.",
    measure,
    drawings,
    meaning,
};

/// Bytes of the payloads: the paper's.
const PAYLOADS_BYTES: [usize; 5] = [10, 1 << 10, 100 << 10, 1 << 20, 5 << 20];

const QUEUE_TWO: &str = "POSIX mq (8 KiB chunks), two cores";
const QUEUE_ONE: &str = "POSIX mq (8 KiB chunks), one core";
const UNIX_TWO: &str = "Unix socket, two cores";
const UNIX_ONE: &str = "Unix socket, one core";
const TCP_TWO: &str = "TCP, two cores";
const TCP_ONE: &str = "TCP, one core";
const BARE_SPIN: &str = "shared memory (bare), spin";
const BARE_TWO: &str = "shared memory (bare), futex, two cores";
const BARE_ONE: &str = "shared memory (bare), futex, one core";
const LANE_SPIN: &str = "praas lane, spin";
const LANE_TWO: &str = "praas lane, park, two cores";
const LANE_ONE: &str = "praas lane, park, one core";

/// What the kernel carries, and bare memory: name, medium, whether on one core, kind.
const MEDIA: [(&str, Medium, bool, Kind); 9] = [
    (QUEUE_TWO, Medium::MessageQueue, false, Kind::Baseline),
    (QUEUE_ONE, Medium::MessageQueue, true, Kind::Baseline),
    (UNIX_TWO, Medium::UnixSocket, false, Kind::Baseline),
    (UNIX_ONE, Medium::UnixSocket, true, Kind::Baseline),
    (TCP_TWO, Medium::Tcp(Waiting::Park), false, Kind::Baseline),
    (TCP_ONE, Medium::Tcp(Waiting::Park), true, Kind::Baseline),
    (BARE_SPIN, Medium::SharedMemory(Waiting::Spin), false, Kind::Floor),
    (BARE_TWO, Medium::SharedMemory(Waiting::Park), false, Kind::Floor),
    (BARE_ONE, Medium::SharedMemory(Waiting::Park), true, Kind::Floor),
];

/// Samples of a round: of what spins, and of what sleeps.
fn samples_of(payload_bytes: usize) -> (u64, u64) {
    match payload_bytes {
        0..=65_536 => (20_000, 2_000),
        65_537..=524_288 => (1_500, 300),
        524_289..=2_097_152 => (200, 60),
        _ => (40, 20),
    }
}

fn measure(run: &mut Run) {
    let settings = run.settings();
    let placements = Placement::two_cores().and_then(|two| Ok((two, Placement::one_core()?)));
    let (two, one) = match placements {
        Ok(placements) => placements,
        Err(error) => return run.absent(&Key::ours(ID, LANE_SPIN), error.to_string()),
    };
    let server = party(RunningServer::start());
    let lanes = [(LANE_SPIN, WaitMode::Spin, two), (LANE_TWO, WaitMode::Park, two), (LANE_ONE, WaitMode::Park, one)];
    let lanes = lanes.map(|(series, wait, placement)| {
        let plan = LanePlan { wait, trust: Trust::Trusted, placement };
        (series, plan, open_lane(&server, plan))
    });
    for payload_bytes in PAYLOADS_BYTES {
        let (spinning, sleeping) = samples_of(payload_bytes);
        let batch_of = |spins| warm(settings.batch(if spins { spinning } else { sleeping }), payload_bytes);
        let mut entries = Vec::new();
        for (series, medium, on_one, kind) in MEDIA {
            let placement = if on_one { one } else { two };
            let spins = medium.waiting() == Waiting::Spin;
            let key = Key { kind, ..Key::floor(ID, series) }
                .placement(&placement)
                .wait(if spins { "spin" } else { "blocking" })
                .payload_bytes(payload_bytes as u64);
            let opened = PayloadEcho::open(medium, payload_bytes, &Config::new(placement));
            entries.push(Entry::opened(key, batch_of(spins), opened));
        }
        for (series, plan, lane) in &lanes {
            let spins = plan.wait == WaitMode::Spin;
            let key = Key::ours(ID, *series)
                .placement(&plan.placement)
                .wait(if spins { "spin" } else { "park" })
                .payload_bytes(payload_bytes as u64);
            entries.push(entry(key, batch_of(spins), lane, lane_calls(payload_bytes)));
        }
        run.measure(&format!("{ID}, {}", readable::bytes(payload_bytes as u64)), entries);
    }
}

fn open_lane(server: &Party<RunningServer>, plan: LanePlan) -> Party<Lane> {
    let server: Rc<RunningServer> = server.clone()?;
    party(Lane::open(&server, plan))
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let two = [LANE_SPIN, LANE_TWO, BARE_SPIN, BARE_TWO, QUEUE_TWO, UNIX_TWO, TCP_TWO];
    let one = [LANE_ONE, BARE_ONE, QUEUE_ONE, UNIX_ONE, TCP_ONE];
    [
        bars_by_payload(rows, ID, "Two processes, each on a core", "Round trip", &two),
        bars_by_payload(rows, ID, "Two processes on one core", "Round trip", &one),
    ]
    .concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    let (small, large) = (PAYLOADS_BYTES[1] as u64, PAYLOADS_BYTES[3] as u64);
    let over_bare = times(rows, ID, LANE_SPIN, BARE_SPIN, small)?;
    let park = times(rows, ID, UNIX_TWO, LANE_TWO, small)?;
    let bulk = times(rows, ID, UNIX_TWO, LANE_TWO, large)?;
    Some(format!(
        "A call of 1 KiB over a lane takes {} the barest exchange that two processes can have in shared memory; asleep it is {} \
         as fast as the same bytes through a Unix socket, and {} as fast at 1 MiB.",
        readable::times(over_bare),
        readable::times(park),
        readable::times(bulk),
    ))
}
