//! Connections over TCP with calls in flight, loaded by one thread.

use std::rc::Rc;

use praas_benches::floors::{
    Batch, Config, Crowd, EchoServer, Exchange, Load, Pinned, Placement, TcpCrowd, allow_connections, timed_groups,
};
use praas_benches::interleave::{Measured, Series, SeriesError};
use praas_benches::subject::{Remote, RemotePlan, Route, wire_crowd, wire_load};

use super::ID;
use crate::baselines::redis::Redis;
use crate::baselines::redis_load;
use crate::harness::{Entry, Key, Run};

pub(super) const DEDICATED: &str = "praas, dedicated";
pub(super) const BROKERED: &str = "praas, brokered";
pub(super) const REDIS: &str = "Redis GET";
const ECHO: &str = "TCP echo";
/// All of them.
pub(super) const NAMES: [&str; 4] = [DEDICATED, BROKERED, REDIS, ECHO];

pub(super) const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];
pub(super) const DEPTHS: [u32; 2] = [1, 16];

/// How the parties wait that are measured with default settings.
const WAIT_DEFAULT: &str = "adaptive (default); the load sleeps in epoll";

/// The name of a series.
pub(super) fn series(name: &str, depth: u32) -> String {
    format!("{name}, depth {depth}")
}

/// Calls of a full round: about a tenth of a second, by how many are in flight at once.
fn calls_of_round(crowd: Crowd) -> u64 {
    match crowd.connections as u64 * u64::from(crowd.in_flight) {
        ..=1 => 4_000,
        2..=4 => 10_000,
        5..=16 => 30_000,
        17..=64 => 60_000,
        _ => 120_000,
    }
}

/// What is reached over TCP, each with a server of its own on the other core.
pub(super) struct Network {
    pub(super) placement: Result<Placement, String>,
    pub(super) dedicated: Result<Rc<Remote>, String>,
    pub(super) brokered: Result<Rc<Remote>, String>,
    pub(super) redis: Result<Rc<Redis>, String>,
}

impl Network {
    pub(super) fn open() -> Self {
        let placement = Placement::two_cores().map_err(|error| error.to_string());
        // Before the servers start, which inherit the limit.
        let allowed = allow_connections(CONNECTIONS[CONNECTIONS.len() - 1]).map_err(|error| error.to_string());
        let placement = allowed.and(placement);
        let remote = |route| -> Result<Rc<Remote>, String> {
            let plan = RemotePlan { route, spins: false, placement: placement.clone()? };
            Remote::open(plan).map(Rc::new).map_err(|error| error.to_string())
        };
        let redis = || -> Result<Rc<Redis>, String> {
            Redis::start(placement.clone()?.peer_cpu()).map(Rc::new).map_err(|error| error.to_string())
        };
        Self { dedicated: remote(Route::Dedicated), brokered: remote(Route::Brokered), redis: redis(), placement }
    }

    /// Where everything runs, in words.
    pub(super) fn placement_label(&self) -> String {
        self.placement.as_ref().map_or_else(|_| String::new(), ToString::to_string)
    }

    pub(super) fn redis_version(&self) -> String {
        self.redis.as_ref().map_or_else(|_| String::new(), |redis| redis.version().to_owned())
    }
}

pub(super) fn measure(run: &mut Run, network: &Network) {
    for in_flight in DEPTHS {
        for connections in CONNECTIONS {
            let crowd = Crowd { connections, in_flight };
            let samples = calls_of_round(crowd).div_ceil(crowd.calls_per_sample());
            let batch = run.settings().batch(samples);
            let entries = network.entries(crowd, batch);
            run.measure_rates(&format!("{ID}, {connections} × {in_flight}"), entries);
        }
    }
}

impl Network {
    fn entries(&self, crowd: Crowd, batch: Batch) -> Vec<Entry> {
        let place = self.placement_label();
        let at = |key: Key| key.placement(&place).payload_bytes(64).x("connections", crowd.connections as f64);
        let name = |name: &str| series(name, crowd.in_flight);
        let ours = |own: &str| at(Key::ours(ID, name(own)).wait(WAIT_DEFAULT));
        let redis = Key::baseline(ID, name(REDIS), "redis", &self.redis_version());
        let redis = at(redis.wait("all sleep in epoll"));
        let floor = at(Key::floor(ID, name(ECHO)).wait("all sleep in epoll"));
        vec![
            Entry::opened(floor, batch, self.echo(crowd)),
            Entry::opened(ours(DEDICATED), batch, self.calls(&self.dedicated, Route::Dedicated, crowd)),
            Entry::opened(ours(BROKERED), batch, self.calls(&self.brokered, Route::Brokered, crowd)),
            Entry::opened(redis, batch, self.gets(crowd)),
        ]
    }

    fn echo(&self, crowd: Crowd) -> Result<TcpCrowd, SeriesError> {
        Ok(TcpCrowd::open(EchoServer::Epoll, crowd, &Config::new(self.placement.clone()?))?)
    }

    fn calls(
        &self,
        remote: &Result<Rc<Remote>, String>,
        route: Route,
        crowd: Crowd,
    ) -> Result<impl Series + use<>, SeriesError> {
        let (placement, remote) = (self.placement.clone()?, Rc::clone(remote.as_ref().map_err(Clone::clone)?));
        let token = remote.server().token()?;
        let connections = wire_crowd(crowd, remote.address(), &token, remote.id(), route)?;
        let mut load = wire_load(connections, crowd.in_flight)?;
        Ok(Measured::new(route.name(), move |batch| {
            let _alive = &remote;
            round(&mut load, crowd, batch, placement)
        }))
    }

    fn gets(&self, crowd: Crowd) -> Result<impl Series + use<>, SeriesError> {
        let (placement, redis) = (self.placement.clone()?, Rc::clone(self.redis.as_ref().map_err(Clone::clone)?));
        let mut load = redis_load::load(&redis.tcp(), crowd)?;
        Ok(Measured::new(REDIS, move |batch| {
            let _alive = &redis;
            round(&mut load, crowd, batch, placement)
        }))
    }
}

/// A round of a load, whose samples span some turns of all connections.
fn round<E>(
    load: &mut Load<E>,
    crowd: Crowd,
    batch: Batch,
    placement: Placement,
) -> Result<praas_benches::floors::Samples, SeriesError>
where
    E: Exchange,
    SeriesError: From<E::Error>,
{
    let _pinned = Pinned::to(placement.caller_cpu())?;
    let calls = crowd.calls_per_sample();
    load.begin(batch.operations() * calls)?;
    Ok(timed_groups(batch, calls, || load.run(calls, |_| {}))?)
}
