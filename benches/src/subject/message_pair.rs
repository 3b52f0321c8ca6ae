//! Two processes of one application that send each other messages, each of one worker on its core. The first one measures;
//! the second one answers. The client that calls both sleeps meanwhile.
//!
//! Both are on one server, or each on a server of its own, which then call each other over TCP on loopback.
//!
//! Invariant: between rounds they leave the machine alone. Workers that spin would keep their cores for ever, so the kernel
//! stops them outside of rounds, and servers whose shards spin. Within one the client needs a turn on a core that a spinning worker has: never run this
//! under a real-time scheduling class.

use std::io;
use std::time::Duration;

use praas_client::{Client, Function, Process, ProcessId, WaitMode};
use praas_sys::{Pidfd, Signal};

use super::lane::only_worker;
use super::message_functions::{
    ADD_UP, AWAIT_PEER, BUILD, BUILD_PLACES, DRINK, ECHO, EXCHANGE, MessageOrder, RETURN, STREAM, VOLLEY,
};
use super::running_server::NetworkPlan;
use super::{RunningServer, SubjectError};
use crate::floors::{Batch, Placement, Samples};

/// The longest that a round may take.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// The two processes; they are stopped when dropped.
#[derive(Debug)]
pub struct MessagePair {
    placement: Placement,
    first: End,
    second: End,
    /// Who spins.
    spinning: Vec<Pidfd>,
    // Last: their clients are gone by then.
    _servers: Vec<RunningServer>,
}

/// One of the processes.
#[derive(Debug)]
struct End {
    process: Process,
    id: ProcessId,
    client: Client,
}

/// How two servers and their processes wait.
#[derive(Clone, Copy, Debug)]
pub struct LinkedPlan {
    /// The servers' shards.
    pub shards: WaitMode,
    /// The workers.
    pub workers: WaitMode,
    /// Where they run: one server with its worker on each side.
    pub placement: Placement,
}

impl MessagePair {
    /// Creates them.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open(server: &RunningServer, wait: WaitMode, placement: Placement) -> Result<Self, SubjectError> {
        let [first, second] = [End::open(server, wait)?, End::open(server, wait)?];
        let mut spinning = Vec::new();
        if wait == WaitMode::Spin {
            spinning = vec![first.worker()?, second.worker()?];
        }
        let pair = Self { placement, first, second, spinning, _servers: Vec::new() };
        pair.rest();
        Ok(pair)
    }

    /// Starts two servers that call each other, creates a process on each, and waits until they see each other.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open_linked(plan: LinkedPlan) -> Result<Self, SubjectError> {
        let LinkedPlan { shards, workers, placement } = plan;
        let on = |cpu| NetworkPlan { wait: shards, cpu };
        let servers = RunningServer::start_linked([on(placement.caller_cpu()), on(placement.peer_cpu())])?;
        let [first, second] = [End::open(&servers[0], workers)?, End::open(&servers[1], workers)?];
        let mut spinning = Vec::new();
        if shards == WaitMode::Spin {
            spinning = servers.iter().map(process_of).collect::<Result<_, _>>()?;
        }
        let pair = Self { placement, first, second, spinning, _servers: servers.into() };
        for (end, peer) in [(&pair.first, &pair.second), (&pair.second, &pair.first)] {
            let order = MessageOrder { cpu: None, warm_up: 0, samples: 0, bytes: 0, peer: peer.id.process };
            end.process.call(AWAIT_PEER).payload(&order.to_bytes()[..]).deadline(CALL_PATIENCE).send()?;
        }
        pair.rest();
        Ok(pair)
    }

    /// Where the two ends run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// One round of exchanges of 64 bytes: there and back.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn exchange(&self, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(EXCHANGE, ECHO, batch, 0)
    }

    /// The same where messages need an answer to be accepted: none is waited for before the echo is there.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn volley(&self, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(VOLLEY, RETURN, batch, 0)
    }

    /// One round of messages of `bytes` in one direction, several on their way at a time. The last one is counted when all are
    /// accepted.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn stream(&self, batch: Batch, bytes: usize) -> Result<Samples, SubjectError> {
        self.samples(STREAM, DRINK, batch, bytes)
    }

    /// One round of messages of `bytes` that are built in place and summed by their receiver, whose answer is checked.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn build(&self, batch: Batch, bytes: usize) -> Result<Samples, SubjectError> {
        self.samples(BUILD, ADD_UP, batch, bytes)
    }

    /// At how many places so many such messages are built.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn build_places(&self, messages: u64, bytes: usize) -> Result<usize, SubjectError> {
        let answer = self.call(BUILD_PLACES, ADD_UP, Batch { warm_up: 0, samples: messages }, bytes)?;
        let places = answer.as_slice().try_into().ok().and_then(|word| usize::try_from(u64::from_le_bytes(word)).ok());
        places.ok_or_else(|| not_understood(BUILD_PLACES, &answer))
    }

    /// One call of each process, both at the same time: the answers of the first one, which is [`MessagePair::placement`]'s
    /// caller, and of the second one. The input of each is a [`MessageOrder`].
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn run(
        &self,
        functions: [Function<'static>; 2],
        batch: Batch,
        bytes: usize,
    ) -> Result<[Vec<u8>; 2], SubjectError> {
        let order = |cpu: Option<usize>, peer: &End| MessageOrder {
            cpu: cpu.map(|cpu| cpu as u64),
            warm_up: batch.warm_up,
            samples: batch.samples,
            bytes: bytes as u64,
            peer: peer.id.process,
        };
        let asks = order(self.placement.caller_cpu(), &self.second).to_bytes();
        let answers = order(self.placement.peer_cpu(), &self.first).to_bytes();
        let [asking, answering] = functions;
        let _awake = self.wake();
        let second = self.second.process.call(answering).payload(&answers[..]).deadline(CALL_PATIENCE).start()?;
        let first = self.first.process.call(asking).payload(&asks[..]).deadline(CALL_PATIENCE).send();
        // What kept the first one from its end keeps the second one too, which then says why.
        let first = first.map(|reply| reply.as_slice().to_vec());
        let second = second.wait();
        let first = first?;
        Ok([first, second?.as_slice().to_vec()])
    }

    fn samples(
        &self,
        asking: Function<'static>,
        answering: Function<'static>,
        batch: Batch,
        bytes: usize,
    ) -> Result<Samples, SubjectError> {
        let answer = self.call(asking, answering, batch, bytes)?;
        Samples::from_bytes(&answer).ok_or_else(|| not_understood(asking, &answer))
    }

    fn call(
        &self,
        asking: Function<'static>,
        answering: Function<'static>,
        batch: Batch,
        bytes: usize,
    ) -> Result<Vec<u8>, SubjectError> {
        self.run([asking, answering], batch, bytes).map(|[first, _]| first)
    }

    fn wake(&self) -> Awake<'_> {
        self.signal(Signal::CONT);
        Awake { pair: self }
    }

    fn rest(&self) {
        self.signal(Signal::STOP);
    }

    fn signal(&self, signal: Signal) {
        for spinning in &self.spinning {
            // Whoever died is noticed by the next call.
            let _ = spinning.send_signal(signal);
        }
    }
}

impl Drop for MessagePair {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        for end in [&self.first, &self.second] {
            // The server ends it in any case, when it ends.
            let _ = end.client.stop(end.id);
        }
    }
}

impl End {
    fn open(server: &RunningServer, wait: WaitMode) -> Result<Self, SubjectError> {
        let client = server.connect_asleep()?;
        let id = server.new_id(wait);
        client.create(id)?;
        Ok(Self { process: client.process(id)?, id, client })
    }

    fn worker(&self) -> Result<Pidfd, SubjectError> {
        only_worker(&self.client, self.id)
    }
}

fn process_of(server: &RunningServer) -> Result<Pidfd, SubjectError> {
    let opened = Pidfd::open(server.process_id());
    opened.map_err(|error| SubjectError::system("open a server's pidfd")(io::Error::other(error)))
}

/// The workers may run.
struct Awake<'a> {
    pair: &'a MessagePair,
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.pair.rest();
    }
}

#[cold]
fn not_understood(function: Function<'static>, answer: &[u8]) -> SubjectError {
    SubjectError::WrongAnswer {
        function: function.name(),
        expected: "figures".to_owned(),
        actual: format!("{} bytes", answer.len()),
    }
}
