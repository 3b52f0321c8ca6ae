//! Plot `state`: reductions whose accumulator is kept in the process's state, in Redis or on S3, as heat maps.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use praas_benches::floors::{Batch, Clock, Samples, fill, timed_spans};
use praas_benches::interleave::{Measured, SeriesError};
use praas_benches::subject::{NetworkPlan, RunningServer};
use praas_client::{Client, ConnectOptions, Function, Process, Transport, WaitMode};

use super::Plot;
use crate::baselines::BaselineError;
use crate::baselines::redis::{Redis, RedisClient};
use crate::baselines::s3::{S3Client, S3Kind, S3Server};
use crate::functions::state::{CLEAR, KEY, OPEN, REDUCE, Storage};
use crate::harness::{Entry, Key, Run};
use crate::report::build::{Axes, heat_map};
use crate::report::drawing::Drawing;
use crate::report::readable;
use crate::row::Rows;

const ID: &str = "state";

/// The plot.
pub(super) const PLOT: Plot = Plot {
    id: ID,
    title: "State of a sequence of invocations",
    method: "The time of 1 to 100 invocations, one after the other, from a client over TCP on loopback with a dedicated connection. \
             Each sends a vector of 8-byte integers to a function, which adds it to its accumulator and stores that before it \
             answers: in its process's state, in Redis (SET over the Unix socket), or on S3 (PutObject over one kept connection, \
             signed). Client, way and function are the same for all; the storage alone differs. The client fills the vector \
             beforehand; after every sample, and not timed, it reads the accumulator back from where it was stored and compares \
             each element. Everybody sleeps while waiting, on whichever core the scheduler likes; the S3 servers keep their files \
             in memory. The paper's function, client and storages were on different machines.",
    measure,
    drawings,
    meaning,
};

/// Invocations of a sample: the paper's.
const INVOCATIONS: [u32; 5] = [1, 10, 25, 50, 100];
/// Elements of the vector: the paper's.
const ELEMENTS: [u32; 5] = [10, 100, 1_000, 10_000, 100_000];
const ELEMENT_BYTES: usize = 8;

/// Rounds: with five samples each, 100 samples as in the paper. A quick run takes fewer.
const ROUNDS: u32 = 20;
const ROUNDS_QUICK: u32 = 3;
/// Samples of a round, at least; short ones are taken more often.
const SAMPLES: u64 = 5;
const SAMPLES_QUICK: u64 = 1;
/// Invocations of a round, of which a sample takes some, at least.
const INVOCATIONS_PER_ROUND: u32 = 10;
/// Invocations before a round's first sample: whatever ran before has taken the caches and the cores.
const WARM_UP: u32 = 3;

/// The longest that a call may take.
const CALL_PATIENCE: Duration = Duration::from_secs(20);

const PRAAS: &str = "praas";
const REDIS: &str = "Redis";

fn measure(run: &mut Run) {
    let (rounds, samples_min) = if run.settings().quick { (ROUNDS_QUICK, SAMPLES_QUICK) } else { (ROUNDS, SAMPLES) };
    let server = RunningServer::start_listening(NetworkPlan { wait: WaitMode::Park, cpu: None });
    let server = server.map(Rc::new).map_err(|error| error.to_string());
    let key = |key: Key| key.placement("free").wait("park");
    let mut subjects = vec![(key(Key::ours(ID, PRAAS)), subject(&server, || Ok((Storage::Process, Kept::Process))))];
    let redis = Redis::start(None);
    let version = redis.as_ref().map_or("", Redis::version).to_owned();
    let redis = redis.map_err(|error| error.to_string());
    subjects.push((
        key(Key::baseline(ID, REDIS, "redis", &version)),
        subject(&server, || {
            let redis = redis?;
            let endpoint = redis.quickest();
            let client = RedisClient::connect(&endpoint).map_err(|error| error.to_string())?;
            Ok((
                Storage::Redis(endpoint.to_string()),
                Kept::Redis { client: Box::new(RefCell::new(client)), _server: redis },
            ))
        }),
    ));
    for kind in S3Kind::measured() {
        let started = S3Server::start(kind, None);
        let version = started.as_ref().map_or("", S3Server::version).to_owned();
        let storage = || -> Result<_, BaselineError> {
            let s3 = started?;
            Ok((Storage::S3(s3.endpoint().clone()), Kept::S3 { client: Box::new(s3.client()?), _server: Box::new(s3) }))
        };
        let subject = subject(&server, || storage().map_err(|error| error.to_string()));
        subjects.push((key(Key::baseline(ID, kind.series(), kind.system(), &version)), subject));
    }
    for elements in ELEMENTS {
        for invocations in INVOCATIONS {
            let samples = samples_min.max(u64::from(INVOCATIONS_PER_ROUND / invocations));
            let entries = subjects.iter().map(|(key, subject)| {
                let key = key.clone().x("invocations", f64::from(invocations)).y("elements", f64::from(elements));
                let label = key.series.clone();
                let series = subject
                    .clone()
                    .map(|subject| Measured::new(label, move |batch| subject.round(elements, invocations, batch)));
                Entry::opened(key, Batch { warm_up: 0, samples }, series)
            });
            let label = format!("{ID}, {invocations} × {elements}");
            run.measure_rounds(&label, rounds, entries.collect());
        }
    }
}

/// Where the accumulator can be read back.
enum Kept {
    Process,
    // Each with the server that it is a client of.
    Redis { client: Box<RefCell<RedisClient>>, _server: Redis },
    S3 { client: Box<S3Client>, _server: Box<S3Server> },
}

/// A process whose function stores its accumulator somewhere.
struct Subject {
    // Before the client and the server.
    process: Process,
    _client: Client,
    kept: Kept,
    _server: Rc<RunningServer>,
}

fn subject(
    server: &Result<Rc<RunningServer>, String>,
    storage: impl FnOnce() -> Result<(Storage, Kept), String>,
) -> Result<Rc<Subject>, String> {
    let server = server.clone()?;
    let (storage, kept) = storage()?;
    Subject::open(server, &storage, kept).map(Rc::new).map_err(|error| error.to_string())
}

impl Subject {
    fn open(server: Rc<RunningServer>, storage: &Storage, kept: Kept) -> Result<Self, SeriesError> {
        let options = ConnectOptions::new()
            .data_directory(server.data_directory())
            .address(server.address()?.to_string())
            .transport(Transport::Network)
            .dedicated(true)
            .wait_mode(WaitMode::Park);
        let client = Client::connect(options)?;
        let id = server.new_networked_id();
        client.create(id)?;
        let process = client.process(id)?;
        if process.route() != praas_client::Route::Dedicated {
            return Err(
                format!("calls were to have a connection of their own, and travel by {:?}", process.route()).into()
            );
        }
        let subject = Self { process, _client: client, kept, _server: server };
        subject.call(OPEN, &serde_json::to_vec(storage)?)?;
        // Connections are made, code is loaded and memory exists before anything is timed.
        subject.round(ELEMENTS[ELEMENTS.len() - 1], 1, Batch { warm_up: 0, samples: 2 })?;
        Ok(subject)
    }

    /// Samples of so many invocations each.
    fn round(&self, elements: u32, invocations: u32, batch: Batch) -> Result<Samples, SeriesError> {
        let mut vector = vec![0; elements as usize * ELEMENT_BYTES];
        let mut number = u64::from(elements) << 32;
        self.call(CLEAR, &u64::from(elements).to_le_bytes())?;
        for _ in 0..WARM_UP {
            self.call(REDUCE, &vector)?;
        }
        timed_spans(batch, |clock| {
            number += 1;
            fill(&mut vector, number);
            self.sample(clock, &vector, invocations)
        })
    }

    /// Ticks of so many invocations.
    fn sample(&self, clock: Clock, vector: &[u8], invocations: u32) -> Result<u64, SeriesError> {
        let elements = (vector.len() / ELEMENT_BYTES) as u64;
        self.call(CLEAR, &elements.to_le_bytes())?;
        let start = clock.ticks();
        for _ in 0..invocations {
            self.call(REDUCE, vector)?;
        }
        let ticks = clock.ticks().saturating_sub(start);
        self.check(vector, invocations)?;
        Ok(ticks)
    }

    fn call(&self, function: Function<'static>, input: &[u8]) -> Result<(), SeriesError> {
        self.process.call(function).payload(input).deadline(CALL_PATIENCE).send()?;
        Ok(())
    }

    /// Whether what is stored is the sum of so many times this vector.
    fn check(&self, vector: &[u8], invocations: u32) -> Result<(), SeriesError> {
        let mut room = vec![0; vector.len()];
        let found_bytes = match &self.kept {
            Kept::Process => self.process.state().get(KEY)?.map(|value| {
                let found = value.as_slice();
                room.resize(found.len(), 0);
                room.copy_from_slice(found);
                found.len()
            }),
            Kept::Redis { client, .. } => client.borrow_mut().get_into(KEY, &mut room)?,
            Kept::S3 { client, .. } => client.get_into(KEY, &mut room)?,
        };
        if found_bytes != Some(vector.len()) {
            return Err(format!("{found_bytes:?} bytes are stored where {} were due", vector.len()).into());
        }
        match first_wrong_sum(&room, vector, invocations) {
            None => Ok(()),
            Some(index) => Err(format!("element {index} of the stored sum is wrong").into()),
        }
    }
}

/// The first element that is not so many times the vector's.
fn first_wrong_sum(stored: &[u8], vector: &[u8], invocations: u32) -> Option<usize> {
    let words = |bytes: &'_ [u8]| bytes.as_chunks::<ELEMENT_BYTES>().0.to_vec();
    let due = |element: [u8; ELEMENT_BYTES]| u64::from_le_bytes(element).wrapping_mul(u64::from(invocations));
    let pairs = words(stored).into_iter().zip(words(vector));
    pairs.enumerate().find(|(_, (sum, element))| u64::from_le_bytes(*sum) != due(*element)).map(|(index, _)| index)
}

fn drawings(rows: &Rows) -> Vec<Drawing> {
    let axes = Axes {
        x_label: "Reductions, one after the other",
        y_label: "Elements of 8 bytes",
        x_logarithmic: false,
        y_logarithmic: false,
    };
    let map = |title: &str, over: &str, under: &str| heat_map(rows, ID, title, &axes, over, under);
    let ours = baselines(rows)
        .into_iter()
        .flat_map(|series| map(&format!("{series} over praas: how many times longer"), &series, PRAAS));
    let papers = [
        ("S3 (AWS, paper)", "S3 over PraaS, on AWS (paper)"),
        ("Redis (AWS, paper)", "Redis over PraaS, on AWS (paper)"),
    ];
    let papers = papers.into_iter().flat_map(|(over, title)| map(title, over, "PraaS (AWS, paper)"));
    ours.chain(papers).collect()
}

/// The storages that were measured beside praas.
fn baselines(rows: &Rows) -> Vec<String> {
    let all = [REDIS].into_iter().chain([S3Kind::SeaweedFs, S3Kind::Rclone, S3Kind::Elsewhere].map(S3Kind::series));
    all.filter(|series| rows.of_plot(ID).any(|row| row.series == *series && row.p50.is_some()))
        .map(str::to_owned)
        .collect()
}

fn meaning(rows: &Rows) -> Option<String> {
    let ratios = |series: &str| -> Vec<f64> {
        let cells = ELEMENTS.iter().flat_map(|elements| INVOCATIONS.iter().map(move |count| (*count, *elements)));
        let ratio = |(count, elements): (u32, u32)| {
            let at = |series: &str| rows.at(ID, series, f64::from(count), Some(f64::from(elements)));
            let (over, under) = (at(series)?, at(PRAAS)?);
            (over.run == under.run && over.group == under.group).then(|| Some(over.p50? / under.p50?))?
        };
        cells.filter_map(ratio).collect()
    };
    let words = baselines(rows).into_iter().filter_map(|series| {
        let ratios = ratios(&series);
        let low = ratios.iter().copied().min_by(f64::total_cmp)?;
        let high = ratios.iter().copied().max_by(f64::total_cmp)?;
        Some(format!("{} to {} with {series}", readable::digits(low), readable::times(high)))
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        return None;
    }
    Some(format!(
        "What an invocation keeps in its process's state costs it no way to another server: the same reductions take {}.",
        words.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_sum_is_found_wherever_it_is() {
        let mut vector = vec![0; 10 * ELEMENT_BYTES];
        fill(&mut vector, u64::MAX - 4);
        let words = vector.as_chunks::<ELEMENT_BYTES>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut stored: Vec<u8> = words.flat_map(|word| word.wrapping_mul(3).to_le_bytes()).collect();
        assert_eq!(first_wrong_sum(&stored, &vector, 3), None);
        assert_eq!(first_wrong_sum(&stored, &vector, 2), Some(0));
        for index in 0..10 {
            stored[index * ELEMENT_BYTES + 3] ^= 1;
            assert_eq!(first_wrong_sum(&stored, &vector, 3), Some(index));
            stored[index * ELEMENT_BYTES + 3] ^= 1;
        }
    }
}
