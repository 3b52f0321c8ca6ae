//! Values in other systems: Redis in several placements, and S3 servers.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use praas_benches::floors::{Batch, Pinned, Samples, fill};
use praas_benches::interleave::SeriesError;

use super::places::{Opened, Operation, Place, Placed, checked, placements, round_of};
use crate::baselines::BaselineError;
use crate::baselines::redis::{Redis, RedisClient, RedisEndpoint};
use crate::baselines::s3::{S3Client, S3Kind, S3Server};

/// What the value is kept as.
const KEY: &str = "object";

/// Redis in each placement, with a connection of each kind.
#[derive(Default)]
pub(super) struct RedisEverywhere {
    pub(super) version: String,
    pub(super) unix: Vec<Placed>,
    pub(super) tcp: Vec<Placed>,
}

impl RedisEverywhere {
    pub(super) fn open() -> Self {
        let mut all = Self::default();
        let placements = match placements() {
            Ok(placements) => placements,
            Err(reason) => {
                let nowhere = || vec![Placed { label: String::new(), place: Err(reason.clone()) }];
                return Self { version: String::new(), unix: nowhere(), tcp: nowhere() };
            }
        };
        for placement in placements {
            let server = Redis::start(placement.peer_cpu()).map(Rc::new).map_err(|error| error.to_string());
            if let Ok(server) = &server {
                server.version().clone_into(&mut all.version);
            }
            let connect = |endpoint: &dyn Fn(&Redis) -> Opened<RedisEndpoint>| -> Opened<Rc<dyn Place>> {
                let server = server.clone()?;
                let client = RedisClient::connect(&endpoint(&server)?).map_err(|error| error.to_string())?;
                let rooms = RefCell::new(Rooms { client, value: Vec::new() });
                Ok(Rc::new(OnRedis { cpu: placement.caller_cpu(), rooms, _server: server }))
            };
            let by_tcp_alone = || "the Redis that the environment names is reached by TCP alone".to_owned();
            let unix = connect(&|server| server.unix().ok_or_else(by_tcp_alone));
            let tcp = connect(&|server| Ok(server.tcp()));
            all.unix.push(Placed { label: placement.to_string(), place: unix });
            all.tcp.push(Placed { label: placement.to_string(), place: tcp });
        }
        all
    }
}

struct Rooms {
    client: RedisClient,
    value: Vec<u8>,
}

/// A connection to Redis.
pub(super) struct OnRedis {
    cpu: Option<usize>,
    rooms: RefCell<Rooms>,
    _server: Rc<Redis>,
}

impl Place for OnRedis {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let _pinned = Pinned::to(self.cpu)?;
        let rooms = &mut *self.rooms.borrow_mut();
        rooms.value.resize(value_bytes, 0);
        let rooms = RefCell::new(rooms);
        let get = |number| -> Result<(), SeriesError> {
            let Rooms { client, value } = &mut **rooms.borrow_mut();
            let found_bytes = client.get_into(KEY, value)?.ok_or("the value is not there")?;
            checked(&value[..found_bytes], number, value_bytes)
        };
        let put = |number| -> Result<(), SeriesError> {
            let Rooms { client, value } = &mut **rooms.borrow_mut();
            fill(value, number);
            Ok(client.set(KEY, value)?)
        };
        round_of(operation, batch, get, put)
    }
}

/// An S3 server and a client of it.
pub(super) struct OnS3 {
    client: S3Client,
    room: RefCell<Vec<u8>>,
    pub(super) server: S3Server,
}

impl OnS3 {
    pub(super) fn open(kind: S3Kind) -> Result<Self, BaselineError> {
        let server = S3Server::start(kind, None)?;
        Ok(Self { client: server.client()?, room: RefCell::new(Vec::new()), server })
    }
}

impl Place for OnS3 {
    fn round(&self, operation: Operation, value_bytes: usize, batch: Batch) -> Result<Samples, SeriesError> {
        let mut room = self.room.borrow_mut();
        room.resize(value_bytes, 0);
        let get = |number| -> Result<(), SeriesError> {
            let found_bytes = self.client.get_into(KEY, &mut room)?.ok_or("the object is not there")?;
            checked(&room[..found_bytes], number, value_bytes)
        };
        let put = |number| -> Result<(), SeriesError> {
            let mut value = vec![0; value_bytes];
            fill(&mut value, number);
            Ok(self.client.put(KEY, Bytes::from(value))?)
        };
        round_of(operation, batch, get, put)
    }
}
