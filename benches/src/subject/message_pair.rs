//! Two processes of one application that send each other messages, each of one worker on its core. The first one measures;
//! the second one answers. The client that calls both sleeps meanwhile.
//!
//! Invariant: between rounds they leave the machine alone. Workers that spin would keep their cores for ever, so the kernel
//! stops them outside of rounds. Within one the client needs a turn on a core that a spinning worker has: never run this
//! under a real-time scheduling class.

use std::time::Duration;

use praas_client::{Client, Function, Process, ProcessId, WaitMode};
use praas_sys::{Pidfd, Signal};

use super::lane::only_worker;
use super::message_functions::{ADD_UP, BUILD, BUILD_PLACES, ECHO, EXCHANGE, Order};
use super::{RunningServer, SubjectError};
use crate::floors::{Batch, Placement, Samples};

/// The longest that a round may take.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// The two processes; they are stopped when dropped.
#[derive(Debug)]
pub struct MessagePair {
    wait: WaitMode,
    placement: Placement,
    first: End,
    second: End,
    client: Client,
}

/// One of the processes.
#[derive(Debug)]
struct End {
    process: Process,
    id: ProcessId,
    worker: Pidfd,
}

impl MessagePair {
    /// Creates them.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open(server: &RunningServer, wait: WaitMode, placement: Placement) -> Result<Self, SubjectError> {
        let client = server.connect_asleep()?;
        let [first, second] = [End::open(server, &client, wait)?, End::open(server, &client, wait)?];
        let pair = Self { wait, placement, first, second, client };
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
        let order = |cpu: Option<usize>, peer: &End| Order {
            cpu: cpu.map(|cpu| cpu as u64),
            warm_up: batch.warm_up,
            samples: batch.samples,
            bytes: bytes as u64,
            peer: peer.id.process,
        };
        let asks = order(self.placement.caller_cpu(), &self.second).to_bytes();
        let answers = order(self.placement.peer_cpu(), &self.first).to_bytes();
        let _awake = self.wake();
        let second = self.second.process.call(answering).payload(&answers[..]).deadline(CALL_PATIENCE).start()?;
        let first = self.first.process.call(asking).payload(&asks[..]).deadline(CALL_PATIENCE).send();
        // What kept the first one from its end keeps the second one too, which then says why.
        let first = first.map(|reply| reply.as_slice().to_vec());
        let second = second.wait();
        let first = first?;
        second?;
        Ok(first)
    }

    fn wake(&self) -> Awake<'_> {
        self.signal(Signal::CONT);
        Awake { pair: self }
    }

    fn rest(&self) {
        if self.wait == WaitMode::Spin {
            self.signal(Signal::STOP);
        }
    }

    fn signal(&self, signal: Signal) {
        // A worker that died is noticed by the next call.
        let _ = self.first.worker.send_signal(signal);
        let _ = self.second.worker.send_signal(signal);
    }
}

impl Drop for MessagePair {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        // The server ends them in any case, when it ends.
        let _ = self.client.stop(self.first.id);
        let _ = self.client.stop(self.second.id);
    }
}

impl End {
    fn open(server: &RunningServer, client: &Client, wait: WaitMode) -> Result<Self, SubjectError> {
        let id = server.new_id(wait);
        client.create(id)?;
        let process = client.process(id)?;
        let worker = only_worker(client, id)?;
        Ok(Self { process, id, worker })
    }
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
