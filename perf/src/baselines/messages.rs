//! Messages through Redis and through S3, by the loop that every system's messages are timed by: two threads of this program,
//! each with a client and a core of its own. That they are threads and not programs is to their advantage.
//!
//! Redis: a message is pushed to a list, or added to a stream, and its receiver sleeps in a blocking pop or read. A push and the
//! wait that follows it leave in one write. S3: a message is an object; its receiver asks for it again and again until it is
//! there, and deletes it. Between two questions it makes the pause that it is told, or none: questions that come too soon take
//! the processor from the server.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use praas_benches::floors::{Batch, Pinned, Placement, Samples};
use praas_benches::interleave::SeriesError;

use super::BaselineError;
use super::redis::{RedisClient, RedisEndpoint};
use super::s3::{S3Client, S3Server};
use crate::harness::one_way::{End, answer, ask, fill_message, one_way};

/// The longest wait for an object.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the two directions are called.
const WAYS: [&str; 2] = ["there", "back"];

/// What of Redis carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisWay {
    /// `RPUSH` and `BLPOP`.
    List,
    /// `XADD` and `XREAD BLOCK`.
    Stream,
}

/// One side's client of Redis.
#[derive(Debug)]
pub struct RedisEnd {
    client: RedisClient,
    way: RedisWay,
    to: String,
    from: String,
    message: Vec<u8>,
    room: Vec<u8>,
    /// The message leaves together with the wait for the next one.
    is_unsent: bool,
}

impl RedisEnd {
    /// Both sides of messages of `bytes` bytes, under names that begin with `name`, which nobody else uses.
    ///
    /// # Errors
    /// Any [`BaselineError`].
    pub fn pair(endpoint: &RedisEndpoint, way: RedisWay, name: &str, bytes: usize) -> Result<[Self; 2], BaselineError> {
        let end = |to: &str, from: &str| -> Result<Self, BaselineError> {
            Ok(Self {
                client: RedisClient::connect(endpoint)?,
                way,
                to: format!("{name}-{to}"),
                from: format!("{name}-{from}"),
                message: vec![0; bytes],
                room: vec![0; bytes],
                is_unsent: false,
            })
        };
        let [there, back] = WAYS;
        Ok([end(there, back)?, end(back, there)?])
    }
}

impl End for RedisEnd {
    type Error = SeriesError;
    type Built = ();

    fn build(&mut self, seed: u64) -> Result<(), SeriesError> {
        fill_message(&mut self.message, seed);
        Ok(())
    }

    #[inline]
    fn send(&mut self, (): (), is_answered: bool) -> Result<(), SeriesError> {
        self.is_unsent = is_answered;
        if is_answered {
            return Ok(());
        }
        let Self { client, to, message, .. } = self;
        match self.way {
            RedisWay::List => client.push(to, message)?,
            RedisWay::Stream => client.stream_add(to, message)?,
        }
        Ok(())
    }

    #[inline]
    fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, SeriesError> {
        let Self { client, to, from, message, room, .. } = self;
        let bytes = match (self.way, std::mem::take(&mut self.is_unsent)) {
            (RedisWay::List, true) => client.push_and_pop_into(to, message, from, room)?,
            (RedisWay::List, false) => client.pop_into(from, room)?,
            (RedisWay::Stream, true) => client.stream_add_and_read_into(to, message, from, room)?,
            (RedisWay::Stream, false) => client.stream_read_into(from, room)?,
        };
        Ok(read(&room[..bytes]))
    }
}

/// One side's client of an S3 server.
#[derive(Debug)]
pub struct S3End {
    client: S3Client,
    to: String,
    from: String,
    sent: u64,
    received: u64,
    bytes: usize,
    room: Vec<u8>,
    pause: Duration,
}

impl S3End {
    /// Both sides of messages of `bytes` bytes, under keys that begin with `name`, which nobody else uses. A receiver makes a
    /// pause of `pause` after each question for an object that is not there yet.
    ///
    /// # Errors
    /// Any [`BaselineError`].
    pub fn pair(server: &S3Server, name: &str, bytes: usize, pause: Duration) -> Result<[Self; 2], BaselineError> {
        let end = |to: &str, from: &str| -> Result<Self, BaselineError> {
            Ok(Self {
                client: server.client()?,
                to: format!("{name}/{to}"),
                from: format!("{name}/{from}"),
                sent: 0,
                received: 0,
                bytes,
                room: vec![0; bytes],
                pause,
            })
        };
        let [there, back] = WAYS;
        Ok([end(there, back)?, end(back, there)?])
    }
}

impl End for S3End {
    type Error = SeriesError;
    type Built = Bytes;

    fn build(&mut self, seed: u64) -> Result<Bytes, SeriesError> {
        let mut message = vec![0; self.bytes];
        fill_message(&mut message, seed);
        Ok(message.into())
    }

    fn send(&mut self, built: Bytes, _is_answered: bool) -> Result<(), SeriesError> {
        self.sent += 1;
        Ok(self.client.put(&format!("{}/{}", self.to, self.sent), built)?)
    }

    fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<T, SeriesError> {
        self.received += 1;
        let key = format!("{}/{}", self.from, self.received);
        let begun = Instant::now();
        loop {
            if let Some(bytes) = self.client.get_into(&key, &mut self.room)? {
                let seen = read(&self.room[..bytes]);
                self.client.delete(&key)?;
                return Ok(seen);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("there is no object `{key}` after {PATIENCE:?}").into());
            }
            if !self.pause.is_zero() {
                thread::sleep(self.pause);
            }
        }
    }
}

/// One round between two ends: one way by both stops of the clock.
///
/// # Errors
/// What the side that asks fails with, else what the other one does.
///
/// # Panics
/// If the answering side does.
pub fn exchange<E>(
    ends: &mut [E; 2],
    placement: Placement,
    batch: Batch,
    bytes: usize,
) -> Result<[Samples; 2], SeriesError>
where
    E: End<Error = SeriesError> + Send,
{
    let [first, second] = ends;
    thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let _pinned = Pinned::to(placement.peer_cpu())?;
            answer(second, batch, bytes)
        });
        let asked =
            Pinned::to(placement.caller_cpu()).map_err(SeriesError::from).and_then(|_pinned| ask(first, batch, bytes));
        // What kept one side from its end ends the other one too, by its patience.
        let answered = answers.join().expect("the answering side panicked");
        Ok(one_way(&asked?, &answered?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::redis::Redis;
    use super::super::s3::S3Kind;
    use super::*;

    const BATCH: Batch = Batch { warm_up: 1, samples: 4 };

    /// Two rounds, because what the first one leaves behind would spoil the second one.
    fn exchange_twice<E: End<Error = SeriesError> + Send>(ends: &mut [E; 2], bytes: usize) {
        for _ in 0..2 {
            let found = exchange(ends, Placement::Free, BATCH, bytes).expect("every message arrives as it was sent");
            assert!(found.iter().all(|samples| samples.count() == BATCH.samples), "{bytes} bytes: {found:?}");
        }
    }

    #[test]
    fn lists_and_streams_of_redis_carry_messages_both_ways() {
        let redis = match Redis::start_own(None) {
            Ok(redis) => redis,
            Err(error @ BaselineError::NotInstalled { .. }) => return eprintln!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        };
        for way in [RedisWay::List, RedisWay::Stream] {
            for bytes in [1, 10, 20_000, 1_000_003] {
                let name = format!("{way:?}-{bytes}");
                let mut ends = RedisEnd::pair(&redis.quickest(), way, &name, bytes).expect("it takes connections");
                exchange_twice(&mut ends, bytes);
            }
        }
    }

    #[test]
    fn objects_carry_messages_both_ways_with_and_without_pauses() {
        for kind in [S3Kind::SeaweedFs, S3Kind::Rclone] {
            let server = match S3Server::start(kind, None) {
                Ok(server) => server,
                Err(error @ BaselineError::NotInstalled { .. }) => {
                    eprintln!("skipped: {error}");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            for (bytes, pause) in [(10, Duration::ZERO), (100_003, Duration::from_millis(1))] {
                let mut ends = S3End::pair(&server, &format!("message-{bytes}"), bytes, pause).expect("a client");
                exchange_twice(&mut ends, bytes);
            }
        }
    }
}
