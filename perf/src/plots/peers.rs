//! `peers`: a no-op that answers its input, asked for by praas and by the systems that people would take instead.

use std::rc::Rc;

use praas_benches::floors::{Config, PingPong, Placement, Waiting};
use praas_benches::interleave::{Series, SeriesError};
use praas_benches::subject::{Lane, LanePlan, NOOP, RunningServer, SubjectError, Trust};
use praas_client::WaitMode;

use super::Plot;
use crate::baselines::grpc::Grpc;
use crate::baselines::iceoryx2::Iceoryx2;
use crate::baselines::ray::{self, Ray};
use crate::baselines::workerd::{self, CALLS_PER_SAMPLE, Workerd};
use crate::baselines::{BaselineError, echo_payload, locked};
use crate::harness::{Entry, Key, Run};
use crate::report::build::{bars_by_payload, times};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

pub(super) const PLOT: Plot = Plot {
    id: "peers",
    title: "The same no-op, peers side by side",
    method: "A call with 64 B or 1 KiB that is answered with its input, one after another. The caller fills every payload with a \
             number of its own and looks at the first and last word of each cache line of the answer, within the span. praas and \
             iceoryx2: a client and a process beside it over shared memory; spinning parties poll without giving up their cores. \
             gRPC: tonic on both sides, one thread each, a unary call over a Unix socket. workerd: HTTP/1.1 over a Unix socket \
             that stays open, to a worker or through it to a Durable Object in memory; and the object called by its own worker, \
             within one process and thread. Ray: an actor called by a driver in Python, also through a compiled graph. All but \
             the spinning ones sleep in the kernel while they wait, and are left to the scheduler, which no fixed placement of \
             theirs was faster than.",
    measure,
    drawings,
    meaning,
};

const SPIN: &str = "praas, spin";
const PARK: &str = "praas, park";
const ICEORYX2: &str = "iceoryx2 request-response, spin";
const GRPC: &str = "gRPC (tonic) over Unix socket";
const STATELESS: &str = "workerd, stateless";
const OBJECT: &str = "workerd Durable Object (HTTP, keep-alive)";
const OBJECT_INSIDE: &str = "workerd Durable Object (from its own worker)";
const RAY: &str = "Ray actor call";
const RAY_GRAPH: &str = "Ray compiled graph";
const FLOOR: &str = "bare ping-pong, spin";

/// Samples of a round before a quick run cuts them: a round of each takes a few tenths of a second.
const SAMPLES_SPIN: u64 = 50_000;
const SAMPLES_PARK: u64 = 10_000;
const SAMPLES_GRPC: u64 = 5_000;
const SAMPLES_HTTP: u64 = 1_500;
const SAMPLES_RAY: u64 = 400;
/// Of many calls each.
const SAMPLES_INSIDE: u64 = 10;

/// What both payload sizes are measured with.
struct Systems {
    server: Result<Rc<RunningServer>, String>,
    two_cores: Result<Placement, String>,
    workerd: Result<Rc<Workerd>, String>,
    ray: Result<Rc<Ray>, String>,
}

impl Systems {
    fn start() -> Self {
        Self {
            server: RunningServer::start().map(Rc::new).map_err(|error| error.to_string()),
            two_cores: Placement::two_cores().map_err(|error| error.to_string()),
            workerd: Workerd::start(Placement::Free).map(Rc::new).map_err(|error| error.to_string()),
            ray: Ray::start().map(Rc::new).map_err(|error| error.to_string()),
        }
    }
}

fn measure(run: &mut Run) {
    let systems = Systems::start();
    group::<64>(run, &systems);
    group::<1024>(run, &systems);
}

fn group<const BYTES: usize>(run: &mut Run, systems: &Systems) {
    let mut entries = vec![
        lane::<BYTES>(run, systems, SPIN, WaitMode::Spin, systems.two_cores.clone(), SAMPLES_SPIN),
        lane::<BYTES>(run, systems, PARK, WaitMode::Park, Ok(Placement::Free), SAMPLES_PARK),
        iceoryx2::<BYTES>(run, systems),
        grpc::<BYTES>(run),
        stateless_or_object::<BYTES>(run, systems, STATELESS, workerd::Way::Stateless, SAMPLES_HTTP),
        stateless_or_object::<BYTES>(run, systems, OBJECT, workerd::Way::Object, SAMPLES_HTTP),
        stateless_or_object::<BYTES>(run, systems, OBJECT_INSIDE, workerd::Way::ObjectFromWorker, SAMPLES_INSIDE),
        actor::<BYTES>(run, systems, RAY, ray::Way::Call),
        actor::<BYTES>(run, systems, RAY_GRAPH, ray::Way::CompiledGraph),
    ];
    if BYTES == praas_benches::subject::NOOP_BYTES {
        entries.push(floor(run, systems));
    }
    run.measure(&format!("peers, {}", readable::bytes(BYTES as u64)), entries);
}

fn lane<const BYTES: usize>(
    run: &Run,
    systems: &Systems,
    name: &str,
    wait: WaitMode,
    placement: Result<Placement, String>,
    samples: u64,
) -> Entry {
    let words = match wait {
        WaitMode::Spin => "both sides spin",
        WaitMode::Adaptive => "both sides spin for a moment, then sleep on a futex",
        WaitMode::Park => "both sides sleep on a futex",
    };
    let key = Key::ours(PLOT.id, name).payload_bytes(BYTES as u64).wait(words);
    let key = placed(key, &placement);
    let open = || -> Result<PraasEcho<BYTES>, String> {
        let server = systems.server.clone()?;
        let plan = LanePlan { wait, trust: Trust::Trusted, placement: placement? };
        let lane = Lane::open(&server, plan).map_err(|error| error.to_string())?;
        Ok(PraasEcho { lane, number: 0, _server: server })
    };
    Entry::opened(key, run.settings().batch(samples), open())
}

fn placed(key: Key, placement: &Result<Placement, String>) -> Key {
    match placement {
        Ok(placement) => key.placement(placement),
        Err(_) => key,
    }
}

fn floor(run: &Run, systems: &Systems) -> Entry {
    let open = || -> Result<PingPong, String> {
        PingPong::open(Waiting::Spin, &Config::new(systems.two_cores.clone()?)).map_err(|error| error.to_string())
    };
    let key = Key::floor(PLOT.id, FLOOR).payload_bytes(praas_benches::subject::NOOP_BYTES as u64);
    let key = key.wait("both sides spin").note("two cells of shared memory, no call");
    Entry::opened(placed(key, &systems.two_cores), run.settings().batch(SAMPLES_SPIN), open())
}

fn iceoryx2<const BYTES: usize>(run: &Run, systems: &Systems) -> Entry {
    let open = || -> Result<Iceoryx2<BYTES>, String> {
        Iceoryx2::open(systems.two_cores.clone()?).map_err(|error| error.to_string())
    };
    let key = Key::baseline(PLOT.id, ICEORYX2, "iceoryx2", locked::version_of("iceoryx2"));
    let key = placed(key.payload_bytes(BYTES as u64).wait("both sides poll without a pause"), &systems.two_cores);
    Entry::opened(key, run.settings().batch(SAMPLES_SPIN), open())
}

fn grpc<const BYTES: usize>(run: &Run) -> Entry {
    let placement = Placement::Free;
    let opened = Grpc::<BYTES>::open(placement);
    let key = Key::baseline(PLOT.id, GRPC, "tonic", locked::version_of("tonic")).payload_bytes(BYTES as u64);
    let key = key.placement(&placement).wait("both sides sleep in epoll");
    Entry::opened(key, run.settings().batch(SAMPLES_GRPC), opened)
}

fn stateless_or_object<const BYTES: usize>(
    run: &Run,
    systems: &Systems,
    name: &str,
    way: workerd::Way,
    samples: u64,
) -> Entry {
    let version = systems.workerd.as_ref().map_or("", |workerd| workerd.version());
    let key = Key::baseline(PLOT.id, name, "workerd", version).payload_bytes(BYTES as u64).placement(&Placement::Free);
    let key = match way {
        workerd::Way::Stateless | workerd::Way::Object => key.wait("the caller blocks, workerd sleeps in epoll"),
        workerd::Way::ObjectFromWorker => key.wait("one thread's event loop").note(format!(
            "a sample is the mean of {CALLS_PER_SAMPLE} calls, which cross no process: caller and object share one thread"
        )),
    };
    let open = || -> Result<_, String> {
        systems.workerd.as_ref().map_err(Clone::clone)?.echo::<BYTES>(way).map_err(|error| error.to_string())
    };
    Entry::opened(key, run.settings().batch(samples), open())
}

fn actor<const BYTES: usize>(run: &Run, systems: &Systems, name: &str, way: ray::Way) -> Entry {
    let version = systems.ray.as_ref().map_or("", |ray| ray.version());
    let key = Key::baseline(PLOT.id, name, "Ray", version).payload_bytes(BYTES as u64).placement(&Placement::Free);
    let key = match way {
        ray::Way::Call => key.wait("all sides sleep in the kernel"),
        ray::Way::CompiledGraph => key
            .wait("all sides sleep on semaphores")
            .note("the actor is reserved for the graph, which is compiled before the first call"),
    };
    let open = || -> Result<_, String> { Ok(systems.ray.clone()?.echo(way, BYTES)) };
    Entry::opened(key, run.settings().batch(SAMPLES_RAY), open())
}

/// The no-op of a process, over a lane.
struct PraasEcho<const BYTES: usize> {
    lane: Lane,
    number: u64,
    // Last: it runs the process.
    _server: Rc<RunningServer>,
}

impl<const BYTES: usize> Series for PraasEcho<BYTES> {
    fn label(&self) -> String {
        format!("praas, {}", self.lane.placement())
    }

    fn round(&mut self, batch: praas_benches::floors::Batch) -> Result<praas_benches::floors::Samples, SeriesError> {
        let Self { lane, number, .. } = self;
        lane.measure(batch, |process| {
            *number += 1;
            let reply = process.invoke(NOOP, &echo_payload::filled::<BYTES>(*number))?;
            echo_payload::check::<BYTES>("praas", *number, &reply).map_err(|error| wrong(&error))
        })
    }
}

#[cold]
fn wrong(error: &BaselineError) -> SubjectError {
    SubjectError::WrongAnswer { function: NOOP.name(), expected: "its input".into(), actual: error.to_string() }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let drawn = [SPIN, PARK, ICEORYX2, GRPC, OBJECT, RAY, RAY_GRAPH, FLOOR];
    bars_by_payload(rows, PLOT.id, "A no-op and back, medians", "Round trip", &drawn)
}

fn meaning(rows: &Rows) -> Option<String> {
    let list = |ours, peers: &[(&str, &str)]| {
        let words: Vec<String> = peers
            .iter()
            .filter_map(|(peer, name)| {
                Some(format!("{} as fast as {name}", readable::times(times(rows, PLOT.id, peer, ours, 64)?)))
            })
            .collect();
        (!words.is_empty()).then(|| words.join(", "))
    };
    let peers = [(ICEORYX2, "iceoryx2"), (GRPC, "gRPC"), (OBJECT, "a Durable Object"), (RAY, "a Ray actor")];
    let spinning = list(SPIN, &peers)?;
    let sleeping = list(PARK, &peers[1..]).map_or_else(String::new, |words| format!("; while it sleeps, {words}"));
    Some(format!("A call of 64 B to a process that spins is {spinning}{sleeping}."))
}
