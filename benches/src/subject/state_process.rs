//! A process that keeps state, and has two workers: one that reads or writes, and one that replaces what is read meanwhile.
//!
//! Both sleep between calls, so the machine is left alone between rounds. The measuring worker is on the caller's core, the
//! other one on the peer's; the client sleeps while they work.

use std::time::Duration;

use praas_client::{Client, Function, Process, ProcessId};

use super::footprint;
use super::state_functions::{
    END_REPLACING, FILL, GET, GET_GROUPS, GET_RANDOM, GET_REPLACED, KEY_BYTES as BYTES_OF_KEY, Order, PLACES, PUT,
    PUT_INPUT, PUT_SAFELY, REPLACE,
};
use super::{RunningServer, SubjectError, Trust};
use crate::floors::{Batch, Placement, Samples, timed_groups};

/// Bytes of each object's key.
pub const KEY_BYTES: usize = BYTES_OF_KEY;
/// The longest that a call may take: a million puts take seconds.
const CALL_PATIENCE: Duration = Duration::from_secs(60);

/// Some objects of the state.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Bytes of the value of each.
    pub value_bytes: u64,
}

/// What a worker did that replaced an object.
#[derive(Clone, Copy, Debug)]
pub struct Replacements {
    /// How many there were.
    pub count: u64,
    /// How long they took in all, in nanoseconds.
    pub span_ns: u64,
}

/// The process; it is stopped when dropped.
#[derive(Debug)]
pub struct StateProcess<'server> {
    server: &'server RunningServer,
    placement: Placement,
    // Before the client, over whose connection a lane says goodbye.
    process: Process,
    client: Client,
    id: ProcessId,
    rounds: u64,
}

impl<'server> StateProcess<'server> {
    /// Creates it.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open(server: &'server RunningServer, placement: Placement) -> Result<Self, SubjectError> {
        Self::open_as(server, server.new_state_id(), placement)
    }

    /// Creates one whose changes are logged, with one of the numbers of workers in [`LOGGED_WORKERS`]; they run anywhere.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open_logged(server: &'server RunningServer, workers: u32) -> Result<Self, SubjectError> {
        Self::open_as(server, server.new_logged_id(workers), Placement::Free)
    }

    fn open_as(server: &'server RunningServer, id: ProcessId, placement: Placement) -> Result<Self, SubjectError> {
        let client = server.connect(Trust::Trusted)?;
        client.create(id)?;
        let process = client.process(id)?;
        Ok(Self { server, placement, process, client, id, rounds: 0 })
    }

    /// Where its workers run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// Puts all the objects once.
    ///
    /// # Errors
    /// [`SubjectError::Call`] if the state has no room for them, for one.
    pub fn fill(&self, objects: Objects) -> Result<(), SubjectError> {
        self.call(FILL, self.order(objects)).map(drop)
    }

    /// A round of gets of the first object, whose first and last line are read.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn get(&self, objects: Objects, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(GET, Order { warm_up: batch.warm_up, samples: batch.samples, ..self.order(objects) })
    }

    /// The same, where a sample spans [`GETS_PER_SAMPLE`](super::GETS_PER_SAMPLE) gets.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn get_groups(&self, objects: Objects, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(GET_GROUPS, Order { warm_up: batch.warm_up, samples: batch.samples, ..self.order(objects) })
    }

    /// A round of gets, each timed by itself, while the other worker replaces the object, with a pause before each get if one is given.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn get_replaced(
        &self,
        objects: Objects,
        batch: Batch,
        pause: Duration,
    ) -> Result<(Samples, Replacements), SubjectError> {
        let cpu = self.placement.peer_cpu().map(|cpu| cpu as u64);
        let order = Order { cpu, ..self.order(objects) }.to_bytes();
        let replacing = self.process.call(REPLACE).payload(&order[..]).deadline(CALL_PATIENCE).start()?;
        let pause_ns = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        let order = Order { warm_up: batch.warm_up, samples: batch.samples, pause_ns, ..self.order(objects) };
        let samples = self.samples(GET_REPLACED, order);
        // The other worker ends by itself, in time, if it does not hear of this.
        self.process.call(END_REPLACING).deadline(CALL_PATIENCE).send()?;
        let answer = replacing.wait()?;
        let words: Option<&[[u8; 8]; 2]> = answer.as_chunks::<8>().0.try_into().ok();
        let [count, span_ns] = words.ok_or_else(|| not_understood(REPLACE, &answer))?.map(u64::from_le_bytes);
        Ok((samples?, Replacements { count, span_ns }))
    }

    /// A round of gets of objects chosen at random, other ones in each round.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn get_random(&mut self, objects: Objects, batch: Batch) -> Result<Samples, SubjectError> {
        self.rounds += 1;
        let seed = self.rounds.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let order = Order { warm_up: batch.warm_up, samples: batch.samples, seed, ..self.order(objects) };
        self.samples(GET_RANDOM, order)
    }

    /// A round of puts of the objects in turn.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn put(&self, objects: Objects, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(PUT, Order { warm_up: batch.warm_up, samples: batch.samples, ..self.order(objects) })
    }

    /// The same, where each put is waited for until it is durable.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn put_safely(&self, objects: Objects, batch: Batch) -> Result<Samples, SubjectError> {
        self.samples(PUT_SAFELY, Order { warm_up: batch.warm_up, samples: batch.samples, ..self.order(objects) })
    }

    /// A round of puts of so many bytes, each by a call of its own whose reply says that it is durable; a sample spans as many of
    /// them as are in flight.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn put_in_flight(&self, value_bytes: usize, in_flight: usize, batch: Batch) -> Result<Samples, SubjectError> {
        let value = vec![7; value_bytes];
        let mut calls = self.process.pipeline(in_flight);
        let mut put = || -> Result<(), SubjectError> {
            if calls.is_full()
                && let Some(reply) = calls.receive()
            {
                reply?;
            }
            Ok(calls.send(PUT_INPUT, &value)?)
        };
        let group = in_flight as u64;
        let samples = timed_groups(batch, group, || (0..group).try_for_each(|_| put()))?;
        while let Some(reply) = calls.receive() {
            reply?;
        }
        Ok(samples)
    }

    /// At how many places values lie in turn when the objects are put in turn.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn places(&self, objects: Objects) -> Result<usize, SubjectError> {
        let answer = self.call(PLACES, self.order(objects))?;
        let places = answer.as_slice().try_into().ok().and_then(|word| usize::try_from(u64::from_le_bytes(word)).ok());
        places.ok_or_else(|| not_understood(PLACES, &answer))
    }

    /// Bytes of memory that the states of all processes of its server take.
    ///
    /// # Errors
    /// [`SubjectError::Hidden`]: a server shows itself to root alone.
    pub fn memory_bytes(&self) -> Result<u64, SubjectError> {
        footprint::state_bytes(self.server.process_id())
    }

    fn order(&self, objects: Objects) -> Order {
        Order {
            cpu: self.placement.caller_cpu().map(|cpu| cpu as u64),
            warm_up: 0,
            samples: 0,
            first: objects.first,
            objects: objects.count,
            value_bytes: objects.value_bytes,
            pause_ns: 0,
            seed: 1,
        }
    }

    fn samples(&self, function: Function<'static>, order: Order) -> Result<Samples, SubjectError> {
        let answer = self.call(function, order)?;
        Samples::from_bytes(&answer).ok_or_else(|| not_understood(function, &answer))
    }

    fn call(&self, function: Function<'static>, order: Order) -> Result<praas_client::Reply, SubjectError> {
        Ok(self.process.call(function).payload(&order.to_bytes()[..]).deadline(CALL_PATIENCE).send()?)
    }
}

impl Drop for StateProcess<'_> {
    fn drop(&mut self) {
        // The server ends it in any case, when it ends.
        let _ = self.client.stop(self.id);
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
