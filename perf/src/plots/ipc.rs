//! `ipc`: how long a message takes from one function to another, through praas, Redis and S3. The paper's section 6.2.
//!
//! All systems are timed by one loop, [`crate::harness::one_way`]; a row is one way, half of an exchange. The bare floors have
//! a loop of their own with the same stops.

use std::rc::Rc;
use std::time::Duration;

use praas_benches::floors::{Batch, Config, FloorError, OneWay, Placement, RedisPlacement, Samples, Waiting};
use praas_benches::interleave::SeriesError;
use praas_benches::subject::{LinkedPlan, MessagePair, RunningServer};
use praas_client::{Function, WaitMode};

use super::Plot;
use crate::baselines::messages::{RedisEnd, RedisWay, S3End, exchange};
use crate::baselines::redis::Redis;
use crate::baselines::s3::{S3Kind, S3Server};
use crate::functions::message::{ANSWER, ANSWER_FAR, ASK, ASK_FAR};
use crate::harness::one_way::{Spans, halves, one_way};
use crate::harness::{Entry, Key, Run};
use crate::report::build::{bars_by_payload, median, times};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "ipc";

/// The plot.
pub(super) const PLOT: Plot =
    Plot { id: ID, title: "Messages between functions", method: METHOD, measure, drawings, meaning };

const METHOD: &str = "Two parties send each other messages of equal size; a figure is one way, half of an exchange. The clock \
    runs from the instant at which the sender has built its message to that at which the receiver has read the first and the \
    last line of it; building and checking are outside of it on both sides, and the same loop times all systems (the bare \
    mapping has its own, with the same stops). Rows that end in \u{201c}read whole\u{201d} come from the same exchanges, with the \
    clock stopped when all of the message was read and accepted. Every message is filled from its number and checked whole. \
    praas: functions of two processes; messages of at least 512 B are built where they will be read (a loan), smaller ones are \
    copied from a buffer. Between two servers, on the same host over TCP of loopback, everything sleeps. Redis: two threads, \
    each with its own blocking client over the Unix socket; the receiver sleeps in BLPOP or XREAD BLOCK, and a push leaves in \
    one write with the wait that follows it; of four placements of server and clients the quickest of a trial is measured. S3: \
    two threads with the vendor's client on kept connections; the receiver asks for the object until it is there, without a \
    pause or every 1 or 4 ms, whichever was quickest in a trial, and deletes it. The paper's Redis and S3 receivers slept 1, 2, 3 … ms between polls.";

const SIZES: [u64; 5] = [10, 1 << 10, 100 << 10, 1 << 20, 5 << 20];
/// From here on all of a message is read as well: smaller ones are read with their first line.
const READ_WHOLE_BYTES_MIN: u64 = 100 << 10;
/// What the name of a series ends in whose clock stops when all is read.
const READ_WHOLE: &str = ", read whole";
/// Exchanges of a trial of a placement, beside one of warm-up.
const TRIAL_SAMPLES: u64 = 20;
/// The same of a pause between two questions for an object, without warm-up.
const S3_TRIAL_SAMPLES: u64 = 1;
/// Pauses between two questions for an object: the quickest of them is measured.
const S3_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(4)];
/// Turns that each placement, or pause, has in a trial.
const TRIAL_TURNS: usize = 3;

const SPIN: &str = "praas, spin";
const PARK_TWO: &str = "praas, park, two cores";
const PARK_ONE: &str = "praas, park, one core";
const FAR: &str = "praas, between two servers";
const BARE: &str = "bare mapping, spin";
const FUTEX_TWO: &str = "futex, two cores";
const FUTEX_ONE: &str = "futex, one core";
const LIST: &str = "Redis list, blocking (Unix socket)";
const STREAM: &str = "Redis stream, blocking (Unix socket)";

/// Samples of a full round by how long an exchange of that size takes: of whom nothing is copied, of Redis, of S3.
fn samples_of(bytes: u64) -> (u64, u64, u64) {
    match bytes {
        ..=4_096 => (10_000, 2_000, 50),
        4_097..=262_144 => (1_000, 500, 50),
        262_145..=2_097_152 => (200, 100, 15),
        _ => (50, 25, 10),
    }
}

fn measure(run: &mut Run) {
    let ours = OurPairs::open();
    let redis = RedisServers::start();
    let stores: Vec<(S3Kind, Result<Rc<S3Server>, String>)> = S3Kind::measured()
        .into_iter()
        .map(|kind| (kind, S3Server::start(kind, None).map(Rc::new).map_err(|error| error.to_string())))
        .collect();
    for bytes in SIZES {
        let mut group = Group { bytes, entries: Vec::new() };
        let (quick, redis_samples, s3_samples) = samples_of(bytes);
        let batch = |samples| run.settings().batch(samples);
        ours.add_to(&mut group, batch(quick));
        redis.add_to(&mut group, batch(redis_samples));
        for (kind, server) in &stores {
            add_s3(&mut group, *kind, server, batch(s3_samples));
        }
        add_floors(&mut group, batch(quick));
        run.measure(&format!("{ID}, {}", readable::bytes(bytes)), group.entries);
    }
}

/// The series of one size.
struct Group {
    bytes: u64,
    entries: Vec<Entry>,
}

impl Group {
    fn message_bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    /// A series by the first stop of the clock, and from some size on another one by the second stop.
    fn add<F>(&mut self, key: &Key, batch: Batch, measure: Result<F, String>)
    where
        F: FnMut(Batch) -> Result<[Samples; 2], SeriesError> + 'static,
    {
        let key = key.clone().payload_bytes(self.bytes);
        let whole = Key { series: format!("{}{READ_WHOLE}", key.series), ..key.clone() };
        let is_read_whole = self.bytes >= READ_WHOLE_BYTES_MIN;
        match measure {
            Ok(measure) => {
                let [lines, all] = halves(&key.series, measure);
                self.entries.push(Entry::new(key, batch, lines));
                if is_read_whole {
                    self.entries.push(Entry::new(whole, batch, all));
                }
            }
            Err(reason) => {
                let absent = || Err::<crate::harness::one_way::Half<F>, _>(reason.clone());
                self.entries.push(Entry::opened(key, batch, absent()));
                if is_read_whole {
                    self.entries.push(Entry::opened(whole, batch, absent()));
                }
            }
        }
    }
}

/// Pairs of processes, for all sizes.
struct OurPairs {
    pairs: Vec<OurPair>,
    // Last: the pairs' processes are its.
    _server: Option<RunningServer>,
}

struct OurPair {
    key: Key,
    functions: [Function<'static>; 2],
    pair: Result<Rc<MessagePair>, String>,
}

impl OurPairs {
    fn open() -> Self {
        let (server, failure) = match RunningServer::start() {
            Ok(server) => (Some(server), String::new()),
            Err(error) => (None, error.to_string()),
        };
        let near = |series: &str, wait: WaitMode, placement: Result<Placement, FloorError>| {
            let waits = if wait == WaitMode::Spin { "spin" } else { "park (futex)" };
            let pair = placement.map_err(|error| error.to_string()).and_then(|placement| {
                let server = server.as_ref().ok_or_else(|| failure.clone())?;
                MessagePair::open(server, wait, placement).map_err(|error| error.to_string())
            });
            OurPair::new(series, waits, [ASK, ANSWER], pair)
        };
        let linked = || -> Result<MessagePair, String> {
            let placement = Placement::two_cores().map_err(|error| error.to_string())?;
            let plan = LinkedPlan { shards: WaitMode::Park, workers: WaitMode::Park, placement };
            MessagePair::open_linked(plan).map_err(|error| error.to_string())
        };
        let pairs = vec![
            near(SPIN, WaitMode::Spin, Placement::two_cores()),
            near(PARK_TWO, WaitMode::Park, Placement::two_cores()),
            near(PARK_ONE, WaitMode::Park, Placement::one_core()),
            OurPair::new(FAR, "park (workers: futex, servers: blocking calls)", [ASK_FAR, ANSWER_FAR], linked()),
        ];
        Self { pairs, _server: server }
    }

    fn add_to(&self, group: &mut Group, batch: Batch) {
        let bytes = group.message_bytes();
        for OurPair { key, functions, pair } in &self.pairs {
            let functions = *functions;
            let measure = pair.clone().map(|pair| {
                move |batch: Batch| {
                    let [asked, answered] = pair.run(functions, batch, bytes)?.map(|spans| Spans::from_bytes(&spans));
                    match (asked, answered) {
                        (Some(asked), Some(answered)) => Ok(one_way(&asked, &answered)),
                        _ => Err("a function answered something else than spans".into()),
                    }
                }
            });
            group.add(key, batch, measure);
        }
    }
}

impl OurPair {
    fn new(series: &str, waits: &str, functions: [Function<'static>; 2], pair: Result<MessagePair, String>) -> Self {
        let placement = pair.as_ref().map_or_else(|_| String::new(), |pair| pair.placement().to_string());
        let key = Key::ours(ID, series).placement(&placement).wait(waits);
        Self { key, functions, pair: pair.map(Rc::new) }
    }
}

/// A Redis in each placement: idle ones take nothing.
struct RedisServers(Result<Vec<(RedisPlacement, Rc<Redis>)>, String>);

impl RedisServers {
    fn start() -> Self {
        let start = || -> Result<Vec<_>, String> {
            let placements = RedisPlacement::on_two_cores().map_err(|error| error.to_string())?;
            let start = |placement: RedisPlacement| {
                let server = Redis::start(placement.server_cpu).map_err(|error| error.to_string())?;
                Ok((placement, Rc::new(server)))
            };
            placements.into_iter().map(start).collect()
        };
        Self(start())
    }

    fn add_to(&self, group: &mut Group, batch: Batch) {
        for (series, way) in [(LIST, RedisWay::List), (STREAM, RedisWay::Stream)] {
            let opened = self.0.as_ref().map_err(Clone::clone).and_then(|servers| {
                RedisPair::quickest(servers, way, group.message_bytes()).map_err(|error| error.to_string())
            });
            let (version, placement) = opened.as_ref().map_or_else(
                |_| (String::new(), String::new()),
                |pair| (pair.server.version().to_owned(), pair.placement.label()),
            );
            let is_local = opened.as_ref().is_ok_and(|pair| pair.server.unix().is_some());
            // One that the environment names has no Unix socket here.
            let series =
                if is_local || opened.is_err() { series.to_owned() } else { series.replace("Unix socket", "TCP") };
            let key = Key::baseline(ID, series, "redis", &version).placement(&placement);
            let key = key.wait("all sleep: clients in a blocking pop or read, the server until it is written to");
            group.add(&key, batch, opened.map(|mut pair| move |batch: Batch| pair.round(batch)));
        }
    }
}

/// Two clients of one Redis.
struct RedisPair {
    placement: RedisPlacement,
    ends: [RedisEnd; 2],
    bytes: usize,
    server: Rc<Redis>,
}

impl RedisPair {
    fn open(
        (placement, server): &(RedisPlacement, Rc<Redis>),
        way: RedisWay,
        bytes: usize,
    ) -> Result<Self, SeriesError> {
        let ends = RedisEnd::pair(&server.quickest(), way, &format!("{way:?}-{bytes}"), bytes)?;
        Ok(Self { placement: *placement, ends, bytes, server: Rc::clone(server) })
    }

    /// The one in the placement in which a message takes the least time.
    fn quickest(servers: &[(RedisPlacement, Rc<Redis>)], way: RedisWay, bytes: usize) -> Result<Self, SeriesError> {
        let mut pairs: Vec<(f64, Self)> = servers
            .iter()
            .map(|server| Self::open(server, way, bytes).map(|pair| (f64::INFINITY, pair)))
            .collect::<Result<_, _>>()?;
        for _ in 0..TRIAL_TURNS {
            for (least_ns, pair) in &mut pairs {
                let [lines, _] = pair.round(Batch { warm_up: 1, samples: TRIAL_SAMPLES })?;
                *least_ns = least_ns.min(lines.p50_ns());
            }
        }
        least(pairs).ok_or_else(|| "there is no placement to try".into())
    }

    fn round(&mut self, batch: Batch) -> Result<[Samples; 2], SeriesError> {
        exchange(&mut self.ends, self.placement.clients, batch, self.bytes)
    }
}

fn add_s3(group: &mut Group, kind: S3Kind, server: &Result<Rc<S3Server>, String>, batch: Batch) {
    let opened = server
        .clone()
        .and_then(|server| S3Pair::quickest(&server, group.message_bytes()).map_err(|error| error.to_string()));
    let version = server.as_ref().map_or("", |server| server.version());
    let pause = opened.as_ref().map_or(Duration::ZERO, |pair| pair.pause);
    let waits = match pause {
        Duration::ZERO => "without a pause".to_owned(),
        pause => format!("every {pause:?}"),
    };
    let key = Key::baseline(ID, kind.series(), kind.system(), version).placement(&Placement::Free);
    let key = key.wait(format!("the receiver asks again {waits}; every request sleeps until its answer"));
    group.add(&key, batch, opened.map(|mut pair| move |batch: Batch| pair.round(batch)));
}

/// Two clients of one S3 server.
struct S3Pair {
    ends: [S3End; 2],
    bytes: usize,
    pause: Duration,
    // Last: the clients are its.
    _server: Rc<S3Server>,
}

impl S3Pair {
    /// The one whose receiver asks as often as is quickest.
    fn quickest(server: &Rc<S3Server>, bytes: usize) -> Result<Self, SeriesError> {
        let open = |pause: Duration| -> Result<(f64, Self), SeriesError> {
            let name = format!("message-{bytes}-{}", pause.as_micros());
            let ends = S3End::pair(server, &name, bytes, pause)?;
            Ok((f64::INFINITY, Self { ends, bytes, pause, _server: Rc::clone(server) }))
        };
        let mut pairs: Vec<(f64, Self)> = S3_PAUSES.into_iter().map(open).collect::<Result<_, _>>()?;
        for _ in 0..TRIAL_TURNS {
            for (least_ns, pair) in &mut pairs {
                let [lines, _] = pair.round(Batch { warm_up: 0, samples: S3_TRIAL_SAMPLES })?;
                *least_ns = least_ns.min(lines.p50_ns());
            }
        }
        least(pairs).ok_or_else(|| "there is no pause to try".into())
    }

    fn round(&mut self, batch: Batch) -> Result<[Samples; 2], SeriesError> {
        exchange(&mut self.ends, Placement::Free, batch, self.bytes)
    }
}

/// What took the least time in a trial.
fn least<T>(tried: Vec<(f64, T)>) -> Option<T> {
    tried.into_iter().min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, quickest)| quickest)
}

fn add_floors(group: &mut Group, batch: Batch) {
    let bytes = group.message_bytes();
    for (series, waiting, placement) in [
        (BARE, Waiting::Spin, Placement::two_cores()),
        (FUTEX_TWO, Waiting::Park, Placement::two_cores()),
        (FUTEX_ONE, Waiting::Park, Placement::one_core()),
    ] {
        let label = placement.as_ref().map_or_else(|_| String::new(), ToString::to_string);
        let opened = placement.and_then(|placement| OneWay::open(waiting, &Config::new(placement), bytes));
        let waits = if waiting == Waiting::Spin { "spin" } else { "park (futex)" };
        let key = Key::floor(ID, series).placement(&label).wait(waits);
        let measure = opened.map_err(|error| error.to_string());
        group.add(&key, batch, measure.map(|mut floor| move |batch: Batch| Ok(floor.round(batch)?)));
    }
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let [seaweed, rclone] = [S3Kind::SeaweedFs, S3Kind::Rclone].map(S3Kind::series);
    let whole = |series: &str| format!("{series}{READ_WHOLE}");
    let read_whole = [SPIN, PARK_ONE, FAR, LIST, STREAM, BARE].map(whole);
    let read_whole: Vec<&str> = read_whole.iter().map(String::as_str).collect();
    [
        bars_by_payload(
            rows,
            ID,
            "Message latency, one way (medians; the paper's: half a round trip)",
            "One way",
            &[SPIN, PARK_ONE, FAR, LIST, seaweed, rclone, BARE],
        ),
        bars_by_payload(
            rows,
            ID,
            "The same, by who sleeps where",
            "One way",
            &[SPIN, PARK_TWO, PARK_ONE, LIST, STREAM, BARE, FUTEX_TWO, FUTEX_ONE],
        ),
        bars_by_payload(rows, ID, "The same until all of the message is read and accepted", "One way", &read_whole),
    ]
    .concat()
}

fn meaning(rows: &Rows) -> Option<String> {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let [spin, park] = [SPIN, PARK_ONE].map(|series| median(rows, ID, series, KIB));
    let mut words = format!(
        "A message of 1 KiB is read by the function it is for {} after it was built, or {} if both sleep on one core",
        readable::span_ns(spin?),
        readable::span_ns(park?),
    );
    if let (Some(small), Some(large)) = (times(rows, ID, LIST, SPIN, KIB), times(rows, ID, LIST, SPIN, MIB)) {
        words += &format!(
            "; through a blocking Redis it takes {} as long, one of 1 MiB {}",
            readable::times(small),
            readable::times(large)
        );
    }
    let store = [S3Kind::SeaweedFs, S3Kind::Rclone]
        .into_iter()
        .find_map(|kind| Some((kind.series(), times(rows, ID, kind.series(), SPIN, KIB)?)));
    if let Some((name, ratio)) = store {
        words += &format!("; through {name} on the same host {}", readable::times(ratio));
    }
    Some(words + ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_measured_often_enough() {
        for bytes in SIZES {
            let (ours, redis, s3) = samples_of(bytes);
            let full = praas_benches::bars::Settings::default();
            for samples in [ours, redis, s3] {
                let all = u64::from(full.rounds()) * full.batch(samples).samples;
                assert!(all >= 100, "{bytes} bytes: {all} samples, and the paper has 100");
            }
        }
    }

    #[test]
    fn what_could_not_be_opened_is_a_row_for_each_stop_of_the_clock() {
        let mut group = Group { bytes: READ_WHOLE_BYTES_MIN, entries: Vec::new() };
        let key = Key::baseline(ID, LIST, "redis", "");
        let measure = |_: Batch| Ok([Samples::empty(1), Samples::empty(1)]);
        let absent = Some(measure).filter(|_| false).ok_or_else(|| "not here".to_owned());
        group.add(&key, Batch { warm_up: 0, samples: 1 }, absent);
        let mut run = Run::new("test".to_owned(), praas_benches::bars::Settings { quick: true });
        run.measure("test", group.entries);
        let (rows, failures) = run.finish();
        let series: Vec<_> = rows.all().iter().map(|row| (row.series.as_str(), row.absent.as_deref())).collect();
        let whole = format!("{LIST}{READ_WHOLE}");
        assert_eq!(series, [(LIST, Some("not here")), (whole.as_str(), Some("not here"))]);
        assert!(failures.is_empty(), "that a baseline is absent is no failure: {failures:?}");
    }
}
