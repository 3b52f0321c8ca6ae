//! The places where values are kept, each of which gets and puts, timed alike; and those of praas and of one process.

use std::cell::RefCell;
use std::rc::Rc;

use praas_benches::floors::{Batch, Pinned, Placement, Samples, fill, is_filled, timed};
use praas_benches::interleave::SeriesError;
use praas_benches::subject::{Lane, LanePlan, Remote, RemotePlan, Route, RunningServer, SubjectError, Trust};
use praas_client::{Client, Process, ProcessId, WaitMode};

use super::ID;
use super::elsewhere::{OnS3, RedisEverywhere};
use crate::baselines::s3::S3Kind;
use crate::functions::storage::{GET, Order, PUT};
use crate::harness::Key;

/// Of the S3 servers, as they are named in plots.
pub(super) const S3_SERIES: [&str; 3] = ["SeaweedFS S3", "rclone S3", "S3"];

/// What the value is kept as.
const KEY: &str = "object";

/// Operations of a trial of a placement, and before it.
const TRIAL: Batch = Batch { warm_up: 5, samples: 30 };
/// Times that each placement is tried; the best counts.
const TRIALS: usize = 2;

/// What is done with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// It is read.
    Get,
    /// It is built and stored.
    Put,
}

impl Operation {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
        }
    }

    /// The name of a place's series: names are unique in a plot.
    pub(super) fn series(self, place: &str) -> String {
        match self {
            Self::Get => place.to_owned(),
            Self::Put => format!("{place}, put"),
        }
    }
}

/// Where values are kept.
pub(super) trait Place {
    /// One round of gets of a value of so many bytes, or of puts.
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError>;
}

pub(super) type Opened<T> = Result<T, String>;

pub(super) fn opened<T, E: ToString>(outcome: Result<T, E>) -> Opened<Rc<T>> {
    outcome.map(Rc::new).map_err(|error| error.to_string())
}

fn as_place<T: Place + 'static>(opened: &Opened<Rc<T>>) -> Opened<Rc<dyn Place>> {
    opened.clone().map(|place| place as Rc<dyn Place>)
}

/// A place with its parties placed in one way.
#[derive(Clone)]
pub(super) struct Placed {
    /// The way, in words.
    pub(super) label: String,
    pub(super) place: Opened<Rc<dyn Place>>,
}

/// The ways that are tried.
pub(super) fn placements() -> Opened<Vec<Placement>> {
    let found = Placement::two_cores().and_then(|two| Ok(vec![two, Placement::one_core()?, Placement::Free]));
    found.map_err(|error| error.to_string())
}

/// The way in which a place is quickest at this, in a trial. If one cannot be had, none is measured.
fn quickest(all: &[Placed], operation: Operation, value_bytes: usize) -> Placed {
    let tried = |placed: &Placed| -> Opened<f64> {
        let place = placed.place.clone()?;
        let mut best_ns = f64::INFINITY;
        for _ in 0..TRIALS {
            let samples = place.round(operation, value_bytes, TRIAL).map_err(|error| error.to_string())?;
            best_ns = best_ns.min(samples.p50_ns());
        }
        Ok(best_ns)
    };
    let tried = all.iter().map(|placed| Ok((tried(placed)?, placed))).collect::<Opened<Vec<_>>>();
    let best = tried.map(|tried| tried.into_iter().min_by(|(one, _), (other, _)| one.total_cmp(other)));
    match best {
        Ok(Some((_, placed))) => placed.clone(),
        Ok(None) => Placed { label: String::new(), place: Err("there is no way to place it".to_owned()) },
        Err(reason) => Placed { label: String::new(), place: Err(reason) },
    }
}

/// All of them, open: their servers run until this is dropped.
pub(super) struct Places {
    memory: Rc<Memory>,
    function: Opened<Rc<InFunction>>,
    lane: Vec<Placed>,
    network: Vec<Placed>,
    redis: RedisEverywhere,
    s3: Vec<(S3Kind, Opened<Rc<OnS3>>)>,
}

impl Places {
    pub(super) fn open() -> Self {
        let server = opened(RunningServer::start());
        let function = server.clone().and_then(|server| opened(InFunction::open(server)));
        let everywhere = |open: &dyn Fn(Placement) -> Opened<Rc<dyn Place>>| match placements() {
            Ok(all) => all.into_iter().map(|at| Placed { label: at.to_string(), place: open(at) }).collect(),
            Err(reason) => vec![Placed { label: String::new(), place: Err(reason) }],
        };
        let lane = everywhere(&|at| as_place(&server.clone().and_then(|server| opened(OverLane::open(server, at)))));
        Self {
            memory: Rc::new(Memory::new()),
            function,
            lane,
            network: everywhere(&|at| as_place(&opened(OverNetwork::open(at)))),
            redis: RedisEverywhere::open(),
            s3: S3Kind::measured().into_iter().map(|kind| (kind, opened(OnS3::open(kind)))).collect(),
        }
    }

    /// A value in this process's own memory.
    pub(super) fn memory(&self, series: &str) -> (Key, Opened<Rc<dyn Place>>) {
        let key = Key::floor(ID, series).placement(&placed(self.memory.cpu)).wait("none");
        (key, Ok(Rc::clone(&self.memory) as Rc<dyn Place>))
    }

    /// In the state of a process, for a function of it.
    pub(super) fn function(&self, series: &str) -> (Key, Opened<Rc<dyn Place>>) {
        let cpu = self.function.as_ref().map_or(None, |place| place.cpu);
        let key = Key::ours(ID, series).placement(&format!("worker: {}", placed(cpu))).wait("none");
        (key, as_place(&self.function))
    }

    /// The same for a client over shared memory.
    pub(super) fn lane(&self, series: &str, operation: Operation, value_bytes: usize) -> (Key, Opened<Rc<dyn Place>>) {
        let Placed { label, place } = quickest(&self.lane, operation, value_bytes);
        (Key::ours(ID, series).placement(&label).wait("adaptive"), place)
    }

    /// The same for a client over TCP.
    pub(super) fn network(
        &self,
        series: &str,
        operation: Operation,
        value_bytes: usize,
    ) -> (Key, Opened<Rc<dyn Place>>) {
        let Placed { label, place } = quickest(&self.network, operation, value_bytes);
        (Key::ours(ID, series).placement(&label).wait("adaptive"), place)
    }

    /// In Redis.
    pub(super) fn redis(
        &self,
        series: &str,
        over_tcp: bool,
        operation: Operation,
        value_bytes: usize,
    ) -> (Key, Opened<Rc<dyn Place>>) {
        let all = if over_tcp { &self.redis.tcp } else { &self.redis.unix };
        let Placed { label, place } = quickest(all, operation, value_bytes);
        (Key::baseline(ID, series, "redis", &self.redis.version).placement(&label).wait("blocking"), place)
    }

    /// On each of the S3 servers.
    pub(super) fn s3(&self) -> Vec<(Key, Opened<Rc<dyn Place>>)> {
        let of = |(kind, opened): &(S3Kind, Opened<Rc<OnS3>>)| {
            let version = opened.as_ref().map_or("", |place| place.server.version());
            let key = Key::baseline(ID, kind.series(), kind.system(), version).placement("free").wait("blocking");
            (key, as_place(opened))
        };
        self.s3.iter().map(of).collect()
    }
}

fn placed(cpu: Option<usize>) -> String {
    cpu.map_or_else(|| "free".to_owned(), |cpu| format!("core {cpu}"))
}

/// Memory of its own, and room for a copy.
pub(super) struct Memory {
    cpu: Option<usize>,
    rooms: RefCell<[Vec<u8>; 2]>,
}

impl Memory {
    fn new() -> Self {
        let cpu = Placement::one_core().ok().and_then(Placement::caller_cpu);
        Self { cpu, rooms: RefCell::new([Vec::new(), Vec::new()]) }
    }
}

impl Place for Memory {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let _pinned = Pinned::to(self.cpu)?;
        let mut rooms = self.rooms.borrow_mut();
        let [value, copy] = &mut *rooms;
        value.resize(value_bytes, 0);
        copy.resize(value_bytes, 0);
        let mut number = 1;
        fill(value, number);
        match operation {
            Operation::Get => timed(batch, || {
                copy.copy_from_slice(std::hint::black_box(&*value));
                checked(copy, number, value_bytes)
            }),
            Operation::Put => {
                let samples = timed(batch, || {
                    number += 1;
                    fill(value, number);
                    copy.copy_from_slice(std::hint::black_box(&*value));
                    std::hint::black_box(&mut *copy);
                    Ok::<(), SeriesError>(())
                })?;
                checked(copy, number, value_bytes)?;
                Ok(samples)
            }
        }
    }
}

/// Whether a value is the one of this number, to its last byte.
pub(super) fn checked(value: &[u8], number: u64, value_bytes: usize) -> Result<(), SeriesError> {
    if value.len() == value_bytes && is_filled(value, number) {
        return Ok(());
    }
    Err(format!("{} bytes came that are not the {value_bytes} bytes that were put", value.len()).into())
}

/// The state of a process, for a function of it.
pub(super) struct InFunction {
    cpu: Option<usize>,
    // Before the client and the server.
    process: Process,
    client: Client,
    id: ProcessId,
    _server: Rc<RunningServer>,
}

impl InFunction {
    fn open(server: Rc<RunningServer>) -> Result<Self, SubjectError> {
        let cpu = Placement::one_core()?.caller_cpu();
        let client = server.connect(Trust::Trusted)?;
        let id = server.new_state_id();
        client.create(id)?;
        let process = client.process(id)?;
        Ok(Self { cpu, process, client, id, _server: server })
    }
}

impl Place for InFunction {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let function = match operation {
            Operation::Get => GET,
            Operation::Put => PUT,
        };
        let order = Order { cpu: self.cpu, batch, value_bytes }.to_bytes();
        let answer = self.process.call(function).payload(&order[..]).send()?;
        Samples::from_bytes(&answer).ok_or_else(|| "the function answered no samples".into())
    }
}

impl Drop for InFunction {
    fn drop(&mut self) {
        // The server ends it in any case, when it ends.
        let _ = self.client.stop(self.id);
    }
}

/// The same for a client over shared memory.
pub(super) struct OverLane {
    lane: Lane,
    _server: Rc<RunningServer>,
}

impl OverLane {
    fn open(server: Rc<RunningServer>, placement: Placement) -> Result<Self, SubjectError> {
        let plan = LanePlan { wait: WaitMode::Adaptive, trust: Trust::Trusted, placement };
        Ok(Self { lane: Lane::open(&server, plan)?, _server: server })
    }
}

impl Place for OverLane {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let _awake = self.lane.wake()?;
        round_of_client(self.lane.process(), operation, value_bytes, batch)
    }
}

/// The same for a client over TCP.
pub(super) struct OverNetwork {
    remote: Remote,
    placement: Placement,
}

impl OverNetwork {
    fn open(placement: Placement) -> Result<Self, SubjectError> {
        let remote = Remote::open(RemotePlan { route: Route::Dedicated, spins: false, placement })?;
        Ok(Self { remote, placement })
    }
}

impl Place for OverNetwork {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let _pinned = Pinned::to(self.placement.caller_cpu())?;
        round_of_client(self.remote.process(), operation, value_bytes, batch)
    }
}

fn round_of_client(
    process: &Process,
    operation: Operation,
    value_bytes: usize,
    batch: Batch,
) -> Result<Samples, SeriesError> {
    let state = process.state();
    let mut value = vec![0; value_bytes];
    let get = |number| -> Result<(), SeriesError> {
        let found = state.get(KEY)?.ok_or("the object is not there")?;
        checked(found.as_slice(), number, value_bytes)
    };
    let mut put = |number| -> Result<(), SeriesError> {
        fill(&mut value, number);
        state.put(KEY, &value)?;
        Ok(())
    };
    round_of(operation, batch, get, &mut put)
}

/// A round of anything that gets and puts values by number.
pub(super) fn round_of(
    operation: Operation,
    batch: Batch,
    mut get: impl FnMut(u64) -> Result<(), SeriesError>,
    mut put: impl FnMut(u64) -> Result<(), SeriesError>,
) -> Result<Samples, SeriesError> {
    let mut number = 1;
    put(number)?;
    match operation {
        Operation::Get => timed(batch, || get(number)),
        Operation::Put => {
            let samples = timed(batch, || {
                number += 1;
                put(number)
            })?;
            get(number)?;
            Ok(samples)
        }
    }
}
