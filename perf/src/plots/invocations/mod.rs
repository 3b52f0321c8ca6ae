//! Plot `invocations`: a no-op that returns its payload, called by a function of its own process and by clients, beside the
//! prototype's local path and raw echoes.

mod local;
mod parties;

use praas_benches::floors::{Batch, Config, FloorError, Medium, PayloadEcho, Placement, Waiting};
use praas_benches::subject::Route;
use praas_client::WaitMode;

use super::Plot;
use crate::baselines::prototype;
use crate::harness::{Entry, Key, Run};
use crate::report::build::{bars_by_payload, times};
use crate::report::readable;
use crate::row::Rows;
use parties::{Parties, remote_calls};
pub(super) use parties::{Party, entry, lane_calls, party};

const ID: &str = "invocations";

/// The plot.
pub(super) const PLOT: Plot = Plot {
    id: ID,
    title: "No-op invocation",
    method: "A no-op that returns its payload: round trips. The caller fills the payload before each call and compares every byte of \
             the answer after it, both within the timed span, for all series alike; the function looks at nothing. \
             Local: a function calls the function of another worker of its own process (context.invoke(SELF, …), above 64 B \
             with a payload that it builds in the lane, context.loan(SELF, …)) and times that itself. An answer that is its input \
             is read where it was built. The prototype is rebuilt as three processes over POSIX message queues (four passes of 8 KiB messages, eight copies, \
             queues of five messages, a controller that blocks), without its logging and serialisation. Remote: a client \
             calls over TCP on loopback; its floor is an echo that receives the whole payload before it answers, on the \
             same cores. The lane is a client's shared memory, payloads written and read in place; its floor is a bare \
             mapping whose other side copies the payload. Each series says how its parties wait and where they run.",
    measure,
    drawings,
    meaning,
};

/// Bytes of the payloads: the paper's, and the most that a call may carry by default.
const PAYLOADS_BYTES: [usize; 6] = [10, 1 << 10, 100 << 10, 1 << 20, 5 << 20, 64 << 20];

const LOCAL_SPIN: &str = "praas local, spin";
const LOCAL_PARK_ONE_CORE: &str = "praas local, park, one core";
const LOCAL_PARK_UNPINNED: &str = "praas local, park, unpinned";
const PROTOTYPE_ONE_CORE: &str = "prototype local, one core";
const PROTOTYPE_TWO_CORES: &str = "prototype local, two cores";
const PROTOTYPE_UNPINNED: &str = "prototype local, unpinned";
const LANE_SPIN: &str = "praas lane, spin";
const REMOTE_BROKERED: &str = "praas remote, brokered";
const REMOTE_DEDICATED: &str = "praas remote, dedicated";
const REMOTE_DEDICATED_SPIN: &str = "praas remote, dedicated, spin";
const ECHO_BLOCKING: &str = "TCP echo, blocking";
const ECHO_SPIN: &str = "TCP echo, spin";
const BARE_MAPPING: &str = "bare mapping, spin";

/// Payloads up to here may lie in a cache from one call to the next.
const LARGEST_CACHED_BYTES: usize = 16 << 20;

/// Samples of a round: of what takes a microsecond, and of what takes tens of them. Large payloads take longer, and need fewer.
fn samples_of(payload_bytes: usize) -> (u64, u64) {
    match payload_bytes {
        0..=65_536 => (20_000, 1_500),
        65_537..=524_288 => (1_500, 300),
        524_289..=2_097_152 => (200, 60),
        2_097_153..=16_777_216 => (40, 20),
        _ => (5, 5),
    }
}

/// With enough calls before the first sample: the turns of others have taken the caches, of which large payloads need more
/// than one call's worth. The largest fit in none.
pub(super) fn warm(batch: Batch, payload_bytes: usize) -> Batch {
    let warm_up_min = if payload_bytes > LARGEST_CACHED_BYTES { 1 } else { 3 };
    Batch { warm_up: batch.warm_up.max(warm_up_min), ..batch }
}

fn measure(run: &mut Run) {
    let settings = run.settings();
    let placements = Placement::two_cores().and_then(|two| Ok((two, Placement::one_core()?)));
    let (two, one) = match placements {
        Ok(placements) => placements,
        Err(error) => return run.absent(&Key::ours(ID, LOCAL_SPIN), error.to_string()),
    };
    let parties = Parties::start(two, one);
    for payload_bytes in PAYLOADS_BYTES {
        let (quick, slow) = samples_of(payload_bytes);
        let batches = (warm(settings.batch(quick), payload_bytes), warm(settings.batch(slow), payload_bytes));
        let mut entries = local(&parties, payload_bytes, batches);
        entries.extend(remote(&parties, two, payload_bytes, batches.1));
        let lane_key =
            Key::ours(ID, LANE_SPIN).placement(&parties.lane.0).wait("spin").payload_bytes(payload_bytes as u64);
        entries.push(entry(lane_key, batches.0, &parties.lane.1, lane_calls(payload_bytes)));
        let bare = Key::floor(ID, BARE_MAPPING).placement(&two).wait("spin").payload_bytes(payload_bytes as u64);
        entries.push(echo(bare, Medium::SharedMemory(Waiting::Spin), two, payload_bytes, batches.0));
        run.measure(&format!("{ID}, {}", readable::bytes(payload_bytes as u64)), entries);
    }
}

/// Functions that call their own process: ours, and the prototype's.
fn local(parties: &Parties, payload_bytes: usize, (quick, slow): (Batch, Batch)) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (wait, placement, party) in &parties.local {
        let (series, words, batch) = match (wait, placement) {
            (WaitMode::Spin, _) => (LOCAL_SPIN, "spin", quick),
            (_, Placement::OneCore(_)) => (LOCAL_PARK_ONE_CORE, "park", slow),
            _ => (LOCAL_PARK_UNPINNED, "park", slow),
        };
        let key = Key::ours(ID, series).placement(placement).wait(words).payload_bytes(payload_bytes as u64);
        entries.push(entry(key, batch, party, move |calls, batch| calls.round(batch, payload_bytes)));
    }
    for (placement, party) in &parties.prototypes {
        let (series, words) = match placement {
            Placement::OneCore(cpu) => (PROTOTYPE_ONE_CORE, format!("functions and controller on core {cpu}")),
            Placement::TwoCores { caller, peer } => {
                (PROTOTYPE_TWO_CORES, format!("functions on core {caller}, controller on core {peer}"))
            }
            Placement::Free => (PROTOTYPE_UNPINNED, placement.to_string()),
        };
        let key = Key::baseline(ID, series, prototype::SYSTEM, "rebuilt here")
            .placement(&words)
            .wait("blocking")
            .payload_bytes(payload_bytes as u64);
        entries.push(entry(key, slow, party, move |prototype, batch| {
            Ok(prototype.borrow_mut().round(batch, payload_bytes)?)
        }));
    }
    entries
}

/// Clients over TCP, and the echoes that they are compared with.
fn remote(parties: &Parties, two: Placement, payload_bytes: usize, batch: Batch) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (series, wait, waiting) in [(ECHO_BLOCKING, "blocking", Waiting::Park), (ECHO_SPIN, "spin", Waiting::Spin)] {
        let key = Key::floor(ID, series).placement(&two).wait(wait).payload_bytes(payload_bytes as u64);
        entries.push(echo(key, Medium::Tcp(waiting), two, payload_bytes, batch));
    }
    for (plan, party) in &parties.remote {
        let (series, wait) = match (plan.route, plan.spins) {
            (Route::Brokered, _) => (REMOTE_BROKERED, "adaptive (default)"),
            (Route::Dedicated, false) => (REMOTE_DEDICATED, "adaptive (default)"),
            (Route::Dedicated, true) => (REMOTE_DEDICATED_SPIN, "spin"),
        };
        let key = Key::ours(ID, series).placement(&plan.placement).wait(wait).payload_bytes(payload_bytes as u64);
        entries.push(entry(key, batch, party, remote_calls(payload_bytes)));
    }
    entries
}

fn echo(key: Key, medium: Medium, placement: Placement, payload_bytes: usize, batch: Batch) -> Entry {
    let opened: Result<PayloadEcho, FloorError> = PayloadEcho::open(medium, payload_bytes, &Config::new(placement));
    Entry::opened(key, batch, opened)
}

fn drawings(rows: &Rows) -> Vec<crate::report::drawing::Drawing> {
    let local = [
        LOCAL_SPIN,
        LOCAL_PARK_ONE_CORE,
        LOCAL_PARK_UNPINNED,
        PROTOTYPE_ONE_CORE,
        PROTOTYPE_UNPINNED,
        "PraaS local (AWS, paper)",
    ];
    let remote = [
        LANE_SPIN,
        REMOTE_DEDICATED_SPIN,
        REMOTE_DEDICATED,
        REMOTE_BROKERED,
        ECHO_BLOCKING,
        ECHO_SPIN,
        "netperf TCP (AWS, paper)",
        "PraaS remote (AWS, paper)",
        "AWS Lambda (AWS, paper)",
    ];
    [
        bars_by_payload(rows, ID, "A function calls its own process", "Round trip", &local),
        bars_by_payload(rows, ID, "A client calls a process", "Round trip", &remote),
    ]
    .concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    let small = PAYLOADS_BYTES[1] as u64;
    let large = PAYLOADS_BYTES[4] as u64;
    let spin = times(rows, ID, PROTOTYPE_UNPINNED, LOCAL_SPIN, small)?;
    let park = times(rows, ID, PROTOTYPE_ONE_CORE, LOCAL_PARK_ONE_CORE, small)?;
    let bulk = times(rows, ID, PROTOTYPE_UNPINNED, LOCAL_SPIN, large)?;
    let remote = times(rows, ID, REMOTE_DEDICATED, ECHO_BLOCKING, small)?;
    Some(format!(
        "A function that calls another one of its own process with 1 KiB has its answer {} sooner than in the prototype if both \
         may spin, {} sooner if all sleep on one core, and {} sooner with 5 MiB; a client's call over TCP takes {} a raw \
         echo of the same bytes.",
        readable::times(spin),
        readable::times(park),
        readable::times(bulk),
        readable::times(remote),
    ))
}
