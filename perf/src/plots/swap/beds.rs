//! Where processes of this plot sleep, and what is measured beside them there.

use std::cell::RefCell;
use std::rc::Rc;

use praas_benches::floors::{SequentialFile, drop_cached_files};
use praas_benches::interleave::{Measured, Series, SeriesError};
use praas_benches::subject::{RunningServer, StoragePlace};

use super::{ID, OBJECT_BYTES, one};
use crate::baselines::redis::{Redis, RedisClient};
use crate::baselines::s3::{Direction, ParallelS3, S3Kind, S3Server};
use crate::harness::Key;

pub(super) const DISK: &str = "disk";
const SEAWEED: &str = "SeaweedFS S3";
const ELSEWHERE: &str = "S3";
const REDIS: &str = "Redis";
/// All places, measured or not.
pub(super) const PLACES: [&str; 4] = [DISK, SEAWEED, ELSEWHERE, REDIS];

pub(super) const WRITES: &str = "sequential direct write";
pub(super) const READS: &str = "sequential direct read";
const SEAWEED_PUTS: &str = "aws-sdk-s3, plain objects put, SeaweedFS S3";
const SEAWEED_GETS: &str = "aws-sdk-s3, plain objects got, SeaweedFS S3";
const ELSEWHERE_PUTS: &str = "aws-sdk-s3, plain objects put, S3";
const ELSEWHERE_GETS: &str = "aws-sdk-s3, plain objects got, S3";
const REDIS_SETS: &str = "Redis SET";
const REDIS_GETS: &str = "Redis GET";
/// Beside falling asleep, and beside all of it back.
pub(super) const BESIDE_OUT: [&str; 4] = [WRITES, SEAWEED_PUTS, ELSEWHERE_PUTS, REDIS_SETS];
pub(super) const BESIDE_IN: [&str; 4] = [READS, SEAWEED_GETS, ELSEWHERE_GETS, REDIS_GETS];

/// Bytes of the trials that choose how plain objects are carried.
const TRIAL_BYTES: u64 = 64 << 20;

/// A server whose processes sleep in one place.
pub(super) struct Bed {
    // Before the storage that it uses.
    pub(super) server: RunningServer,
    pub(super) name: &'static str,
    storage: Storage,
}

/// What the place is made of.
enum Storage {
    Disk,
    S3(S3Server),
    Redis(Redis),
}

/// A series beside praas's own.
type Beside = (Key, Result<Box<dyn Series>, String>);

/// Every place that is measured; one that cannot be, by its name and why.
pub(super) fn all() -> Vec<Result<Rc<Bed>, (&'static str, String)>> {
    let named = |name: &'static str, bed: Result<Bed, String>| bed.map(Rc::new).map_err(|reason| (name, reason));
    let mut beds = vec![named(DISK, Bed::open(DISK, &StoragePlace::Disk, Storage::Disk))];
    // Of the S3 servers, those that honour conditional writes.
    for kind in S3Kind::measured().into_iter().filter(|kind| *kind != S3Kind::Rclone) {
        let name = if kind == S3Kind::SeaweedFs { SEAWEED } else { ELSEWHERE };
        beds.push(named(name, Bed::in_s3(name, kind)));
    }
    beds.push(named(REDIS, Bed::in_redis()));
    beds
}

impl Bed {
    fn open(name: &'static str, place: &StoragePlace, storage: Storage) -> Result<Self, String> {
        let server = RunningServer::start_with_storage(place).map_err(|error| error.to_string())?;
        Ok(Self { server, name, storage })
    }

    fn in_s3(name: &'static str, kind: S3Kind) -> Result<Self, String> {
        let server = S3Server::start(kind, None).map_err(|error| error.to_string())?;
        let endpoint = server.endpoint().clone();
        let place = StoragePlace::S3 {
            url: endpoint.url,
            bucket: endpoint.bucket,
            prefix: "praas-perf-swap/".to_owned(),
            access_key: endpoint.access_key,
            secret_key: endpoint.secret_key,
            region: endpoint.region,
            session_token: endpoint.session_token.unwrap_or_default(),
        };
        Self::open(name, &place, Storage::S3(server))
    }

    fn in_redis() -> Result<Self, String> {
        let redis = Redis::start(None).map_err(|error| error.to_string())?;
        let address = format!("redis://{}/0?prefix=praas-perf-swap", redis.tcp());
        Self::open(REDIS, &StoragePlace::Redis { address }, Storage::Redis(redis))
    }

    /// Has the kernel forget what it keeps of files of its own; what other servers keep in memory stays there.
    pub(super) fn make_cold(&self) -> Result<(), SeriesError> {
        match self.storage {
            Storage::Disk => Ok(drop_cached_files(&self.server.disk_directory())?),
            Storage::S3(_) | Storage::Redis(_) => Ok(()),
        }
    }

    /// What carries as many bytes there without praas.
    pub(super) fn beside(&self, size_bytes: u64) -> Vec<Beside> {
        match &self.storage {
            Storage::Disk => {
                let directory = self.server.data_directory();
                let opened =
                    [SequentialFile::writes(directory, size_bytes), SequentialFile::reads(directory, size_bytes)];
                let keys = [WRITES, READS].map(|series| Key::floor(ID, series));
                let boxed = |file: Result<SequentialFile, _>| -> Result<Box<dyn Series>, String> {
                    file.map(|file| Box::new(file) as _)
                        .map_err(|error: praas_benches::floors::FloorError| error.to_string())
                };
                keys.into_iter().zip(opened.map(boxed)).collect()
            }
            Storage::S3(server) => [Direction::Out, Direction::In]
                .into_iter()
                .map(|direction| parallel(server, direction, size_bytes))
                .collect(),
            Storage::Redis(redis) => vec![values(redis, REDIS_SETS, size_bytes), values(redis, REDIS_GETS, size_bytes)],
        }
    }
}

fn parallel(server: &S3Server, direction: Direction, size_bytes: u64) -> Beside {
    let is_own = server.kind() == S3Kind::SeaweedFs;
    let series = match (direction, is_own) {
        (Direction::Out, true) => SEAWEED_PUTS,
        (Direction::In, true) => SEAWEED_GETS,
        (Direction::Out, false) => ELSEWHERE_PUTS,
        (Direction::In, false) => ELSEWHERE_GETS,
    };
    let key = Key::baseline(ID, series, server.kind().system(), server.version());
    let opened = ParallelS3::new(server.endpoint()).and_then(|client| {
        let plan = client.quickest(direction, size_bytes.min(TRIAL_BYTES))?;
        // What is got has to be there.
        client.carry(Direction::Out, size_bytes, plan)?;
        Ok((client, plan))
    });
    match opened {
        Err(error) => (key, Err(error.to_string())),
        Ok((client, plan)) => {
            let note = format!("Objects of {} KiB, {} at once.", plan.object_bytes >> 10, plan.in_flight);
            let measured = Measured::new(series, move |_| Ok(one(client.carry(direction, size_bytes, plan)?)));
            (key.note(note), Ok(Box::new(measured)))
        }
    }
}

fn values(redis: &Redis, series: &'static str, size_bytes: u64) -> Beside {
    let key = Key::baseline(ID, series, "redis", redis.version());
    let client = match RedisClient::connect(&redis.tcp()) {
        Ok(client) => RefCell::new(client),
        Err(error) => return (key, Err(error.to_string())),
    };
    let mut value = vec![0; usize::try_from(OBJECT_BYTES).unwrap_or(0)];
    let measured = Measured::new(series, move |_| {
        let mut client = client.borrow_mut();
        let names: Vec<String> = (0..size_bytes / OBJECT_BYTES).map(|number| format!("plain/{number:05}")).collect();
        if series == REDIS_GETS {
            for name in &names {
                client.set(name, &value)?;
            }
        }
        let begun = std::time::Instant::now();
        for name in &names {
            if series == REDIS_SETS {
                client.set(name, &value)?;
            } else if client.get_into(name, &mut value)?.is_none() {
                return Err("a value has gone".into());
            }
        }
        let span = begun.elapsed();
        for name in &names {
            client.delete(name)?;
        }
        Ok(one(span))
    });
    (key, Ok(Box::new(measured)))
}
