//! The most that the vendor's client moves by plain objects: so many bytes cut into objects of one size, several of them on their
//! way at once, on connections that are kept. Nothing beside the objects: no manifest, no checksums, no order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::super::BaselineError;
use super::client::client_of;
use super::{S3Endpoint, SYSTEM};

/// Threads that serve the connections.
const THREADS: usize = 2;
/// Objects are made of the same bytes again and again.
const BYTES_MAX: usize = 16 << 20;

/// How bytes are cut, and how much is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParallelPlan {
    /// Bytes of an object; the last one may have fewer.
    pub object_bytes: usize,
    /// Requests at once.
    pub in_flight: usize,
}

/// Those that are tried; the quickest is measured.
pub const PLANS: [ParallelPlan; 5] = [
    ParallelPlan { object_bytes: 1 << 20, in_flight: 8 },
    ParallelPlan { object_bytes: 4 << 20, in_flight: 8 },
    ParallelPlan { object_bytes: 8 << 20, in_flight: 4 },
    ParallelPlan { object_bytes: 8 << 20, in_flight: 8 },
    ParallelPlan { object_bytes: 16 << 20, in_flight: 8 },
];

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `PutObject`.
    Out,
    /// `GetObject` of what went out.
    In,
}

/// A client that keeps many requests on their way.
#[derive(Debug)]
pub struct ParallelS3 {
    runtime: Runtime,
    client: Client,
    bucket: Arc<str>,
    bytes: Bytes,
}

impl ParallelS3 {
    /// A client of a bucket.
    ///
    /// # Errors
    /// [`BaselineError::System`] if there are no threads for it.
    pub fn new(endpoint: &S3Endpoint) -> Result<Self, BaselineError> {
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
        let runtime = runtime.map_err(BaselineError::system("make a runtime"))?;
        let bytes = Bytes::from(incompressible(BYTES_MAX));
        Ok(Self { runtime, client: client_of(endpoint.clone()), bucket: endpoint.bucket.as_str().into(), bytes })
    }

    /// The plan by which so many bytes go quickest, each tried once.
    ///
    /// # Errors
    /// [`BaselineError::S3`].
    pub fn quickest(&self, direction: Direction, total_bytes: u64) -> Result<ParallelPlan, BaselineError> {
        let mut quickest: Option<(Duration, ParallelPlan)> = None;
        for plan in PLANS {
            if direction == Direction::In {
                self.carry(Direction::Out, total_bytes, plan)?;
            }
            let span = self.carry(direction, total_bytes, plan)?;
            if quickest.is_none_or(|(known, _)| span < known) {
                quickest = Some((span, plan));
            }
        }
        Ok(quickest.map_or(PLANS[0], |(_, plan)| plan))
    }

    /// Moves so many bytes; how long until the last object was done.
    ///
    /// # Errors
    /// [`BaselineError::S3`], or [`BaselineError::WrongAnswer`] if an object comes back shorter or longer.
    pub fn carry(&self, direction: Direction, total_bytes: u64, plan: ParallelPlan) -> Result<Duration, BaselineError> {
        let total = usize::try_from(total_bytes).unwrap_or(usize::MAX);
        let objects = total.div_ceil(plan.object_bytes);
        let next = Arc::new(AtomicUsize::new(0));
        let length_of = move |number: usize| plan.object_bytes.min(total - number * plan.object_bytes);
        let key_of = move |number: usize| format!("parallel/{}/{number:05}", plan.object_bytes);
        let begun = Instant::now();
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..plan.in_flight.min(objects) {
                let (client, bucket, bytes) = (self.client.clone(), Arc::clone(&self.bucket), self.bytes.clone());
                let next = Arc::clone(&next);
                tasks.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= objects {
                            return Ok(());
                        }
                        let (key, length) = (key_of(number), length_of(number));
                        match direction {
                            Direction::Out => put(&client, &bucket, &key, bytes.slice(..length)).await?,
                            Direction::In => get(&client, &bucket, &key, length).await?,
                        }
                    }
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| BaselineError::System {
                    action: "carry objects",
                    source: std::io::Error::other(error),
                })??;
            }
            Ok(begun.elapsed())
        })
    }
}

async fn put(client: &Client, bucket: &str, key: &str, bytes: Bytes) -> Result<(), BaselineError> {
    let request = client.put_object().bucket(bucket).key(key).body(ByteStream::from(bytes));
    let sent = request.customize().disable_payload_signing().send().await;
    sent.map(drop).map_err(|error| failed("PutObject", key, &error))
}

async fn get(client: &Client, bucket: &str, key: &str, length: usize) -> Result<(), BaselineError> {
    let answer = client.get_object().bucket(bucket).key(key).send().await;
    let mut body = answer.map_err(|error| failed("GetObject", key, &error))?.body;
    let mut found = 0;
    while let Some(chunk) = body.next().await {
        found += chunk.map_err(|error| failed("GetObject", key, &error))?.len();
    }
    if found == length {
        return Ok(());
    }
    let (expected, actual) = (format!("an object of {length} bytes"), format!("{found} bytes"));
    Err(BaselineError::WrongAnswer { system: SYSTEM, expected, actual })
}

fn incompressible(length: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    });
    words.take(length).collect()
}

#[cold]
fn failed<E: std::error::Error>(operation: &'static str, key: &str, error: &E) -> BaselineError {
    BaselineError::S3 { operation, key: key.to_owned(), reason: DisplayErrorContext(error).to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{S3Kind, S3Server};
    use super::*;

    #[test]
    fn what_went_out_comes_in_and_what_did_not_does_not() {
        let server = match S3Server::start(S3Kind::Rclone, None) {
            Ok(server) => server,
            Err(error @ BaselineError::NotInstalled { .. }) => return println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        };
        let parallel = ParallelS3::new(server.endpoint()).expect("a client");
        let plan = ParallelPlan { object_bytes: 100_000, in_flight: 3 };
        assert!(parallel.carry(Direction::In, 950_000, plan).is_err(), "nothing is there yet");
        parallel.carry(Direction::Out, 950_000, plan).expect("it puts");
        parallel.carry(Direction::In, 950_000, plan).expect("it gets");
        let longer = parallel.carry(Direction::In, 960_000, plan).expect_err("the last object is shorter");
        assert!(longer.to_string().contains("50000 bytes"), "{longer}");
    }
}
