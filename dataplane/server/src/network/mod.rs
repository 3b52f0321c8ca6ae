//! The network: remote clients over TCP, in the protocol of `praas_protocol::wire`.
//!
//! A few threads, the *shards*, accept from the same listening sockets; a connection belongs to one of them for its life. A
//! shard is a client of lanes: calls of remote clients go through shared memory to the workers, as calls of local ones do,
//! and answers are sent straight from it. Lanes, rights and everything else come from the server's loop, over its own
//! Unix socket.
//!
//! | room | what |
//! |---|---|
//! | `shard`, `polling`, `giving_way` | the loop |
//! | `listener`, `greeting` | up to the welcome |
//! | `connection`, `receiving`, `sending` | one connection |
//! | `calls`, `waiting`, `set_aside`, `lanes`, `reply_room`, `answers` | from a REQUEST to its RESPONSE |
//! | `opening_as`, `delivering`, `outbound`, `generations` | what other servers bring for processes of this one |
//! | `questions`, `control_session`, `relay` | everything that the server's loop decides |
//! | `gateways` | the serving ends of lanes to what is in no process's memory here |
//! | `links` | other servers |
//! | `sessions` | clients' sessions: their mailboxes, and what they send |
//! | `handover` | connections that a worker takes |
//! | `shutdown` | the end |
//! | `table`, `sources`, `timers`, `counters`, `plan` | what the loop is made of |

mod answers;
mod calls;
mod connection;
mod control_session;
mod counters;
mod delivering;
mod gateways;
mod generations;
mod giving_way;
mod greeting;
mod handover;
mod lanes;
mod links;
mod listener;
mod opening_as;
mod outbound;
mod plan;
mod polling;
mod questions;
mod receiving;
mod relay;
mod reply_room;
mod sending;
mod sessions;
mod set_aside;
mod shard;
mod shutdown;
mod sources;
mod table;
mod timers;
mod waiting;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use praas_shm::io_buffer::LaneBuffer;
use praas_sys::driver::{self, DriverChoice, DriverKind, DriverLimits};

use crate::StartError;
use crate::elsewhere::{Elsewhere, PeerFacts};
use counters::Counters;
pub use counters::NetworkMetrics;
pub(crate) use generations::Generations;
pub(crate) use plan::Plan;
pub(crate) use relay::Letter;
use relay::{Mail, Order, Relay, RelayThread};
use shard::{NetworkShard, ShardParts};
use sources::Source;

/// What an operator or a test may want to know of the network.
#[derive(Debug, Clone)]
pub struct NetworkFacts {
    addresses: Arc<[SocketAddr]>,
    driver: DriverKind,
    counters: Arc<[Arc<Counters>]>,
    elsewhere: Arc<Elsewhere>,
}

impl NetworkFacts {
    /// How things stand with the other servers that this one calls, in the order of the options.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerFacts> {
        self.elsewhere.facts()
    }

    /// Whether the server listens anywhere, or calls another one.
    pub(crate) fn is_used(&self) -> bool {
        !self.addresses.is_empty() || !self.peers().is_empty()
    }

    /// The addresses listened on, with the ports that were got.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Which driver serves them.
    #[must_use]
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// The counters of now.
    #[must_use]
    pub fn metrics(&self) -> NetworkMetrics {
        let mut metrics = NetworkMetrics::default();
        self.counters.iter().for_each(|counters| counters.add_to(&mut metrics));
        metrics
    }
}

/// The shards' threads. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct NetworkThreads {
    facts: NetworkFacts,
    mail: Vec<Arc<Mail>>,
    threads: Vec<JoinHandle<()>>,
    /// Ended after the shards, which use it.
    _relay: RelayThread,
}

impl NetworkThreads {
    /// Listens on `addresses` with so many shards.
    pub(crate) fn start(
        plan: Plan,
        addresses: &[SocketAddr],
        shards: usize,
        choice: DriverChoice,
    ) -> Result<Self, StartError> {
        let host = |what: &'static str| move |error: std::io::Error| StartError::host(what, &error);
        let bound: Vec<_> = addresses.iter().map(|address| listener::listen_on(*address)).collect::<Result<_, _>>()?;
        let mail: Vec<Arc<Mail>> = (0..shards).map(|_| Arc::default()).collect();
        let counters: Arc<[Arc<Counters>]> = (0..shards).map(|_| Arc::default()).collect();
        let relay = RelayThread::start(mail.clone()).map_err(host("starting the network's relay"))?;
        let plan = Arc::new(plan);
        let (started, starts) = channel();
        let mails: Arc<[Arc<Mail>]> = mail.clone().into();
        let facts = NetworkFacts {
            addresses: bound.iter().map(|(_, address)| *address).collect(),
            driver: DriverKind::Epoll,
            counters: Arc::clone(&counters),
            elsewhere: Arc::clone(&plan.elsewhere),
        };
        let mut network = Self { facts, mail, threads: Vec::new(), _relay: relay };
        for index in 0..shards {
            let listeners: Result<Vec<OwnedFd>, _> = bound.iter().map(|(socket, _)| socket.try_clone()).collect();
            let start = ShardStart {
                plan: Arc::clone(&plan),
                index,
                mail: Arc::clone(&network.mail[index]),
                mails: Arc::clone(&mails),
                relay: network._relay.way().map_err(host("starting the network's relay"))?,
                counters: Arc::clone(&counters[index]),
                listeners: listeners.map_err(host("duplicating a listening socket"))?,
                choice,
                started: started.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("praas-net-{index}")).spawn(move || start.run());
            network.threads.push(thread.map_err(host("starting a network thread"))?);
        }
        drop(started);
        for _ in 0..shards {
            network.facts.driver =
                starts.recv().map_err(|error| StartError::host("starting the network", &error))??;
        }
        Ok(network)
    }

    /// What can be known of it.
    pub(crate) fn facts(&self) -> NetworkFacts {
        self.facts.clone()
    }

    /// How many there are.
    pub(crate) fn shards(&self) -> usize {
        self.mail.len()
    }

    /// Leaves a letter for one of them.
    pub(crate) fn post(&self, shard: usize, letter: Letter) {
        if let Some(mail) = self.mail.get(shard) {
            mail.post(letter);
        }
    }

    /// Takes nothing new and answers what was taken.
    pub(crate) fn drain(&self) {
        self.mail.iter().for_each(|mail| mail.order(Order::Drain));
    }
}

impl Drop for NetworkThreads {
    fn drop(&mut self) {
        self.mail.iter().for_each(|mail| mail.order(Order::End));
        for thread in self.threads.drain(..) {
            // A panic there was printed by the panic hook; here it is only the end.
            let _ = thread.join();
        }
    }
}

/// What a shard's thread begins with: drivers belong to the thread that opens them.
struct ShardStart {
    plan: Arc<Plan>,
    index: usize,
    mail: Arc<Mail>,
    mails: Arc<[Arc<Mail>]>,
    relay: Relay,
    counters: Arc<Counters>,
    listeners: Vec<OwnedFd>,
    choice: DriverChoice,
    started: Sender<Result<DriverKind, StartError>>,
}

impl ShardStart {
    fn run(self) {
        let (started, log) = (self.started.clone(), self.plan.log);
        match self.prepare() {
            Ok(mut shard) => {
                let _ = started.send(Ok(shard.driver.kind()));
                drop(started);
                if let Err(error) = shard.run() {
                    log.error(format_args!("a network thread ends: {error}"));
                }
            }
            Err(error) => drop(started.send(Err(error))),
        }
    }

    fn prepare(self) -> Result<NetworkShard, StartError> {
        let Self { plan, index, mail, mails, relay, counters, listeners, choice, .. } = self;
        let opened = driver::open::<LaneBuffer>(choice, DriverLimits::default())?;
        if let Some(refusal) = opened.refused.filter(|_| index == 0) {
            plan.log.info(format_args!("the network is served by epoll: {refusal}"));
        }
        let mut driver = opened.driver;
        mail.reach_by(driver.waker());
        let mut sources = Vec::new();
        for (number, socket) in (0..).zip(listeners) {
            let added = driver.add_listener(socket, Source::Listener(number).token());
            sources.push(added.map_err(|refused| StartError::host("listening", &refused.refusal))?);
        }
        Ok(NetworkShard::new(ShardParts { plan, index, driver, mail, mails, relay, counters, listeners: sources }))
    }
}
