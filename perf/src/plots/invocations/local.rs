//! A process of two workers, one of which calls the other: the function times its own calls. The client that starts a round
//! sleeps meanwhile.
//!
//! Invariant: between rounds it leaves the machine alone. Workers that spin would keep their cores for ever, so the kernel stops
//! them outside of rounds, unknown to them and to their server.

use std::time::Duration;

use praas_benches::floors::{Batch, Placement, Samples};
use praas_benches::interleave::SeriesError;
use praas_benches::subject::{RunningServer, SubjectError};
use praas_client::{Client, Process, ProcessId, WaitMode};
use praas_sys::{Pidfd, Signal};

use crate::functions::local::{CALL_OWN, Order};

/// The longest that a round may take.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);

/// The process; it is stopped when dropped.
#[derive(Debug)]
pub(super) struct LocalCalls {
    placement: Placement,
    // Before the client, over whose connection a lane says goodbye.
    process: Process,
    client: Client,
    id: ProcessId,
    /// Who spins.
    spinning: Vec<Pidfd>,
}

impl LocalCalls {
    /// Creates it.
    pub(super) fn open(server: &RunningServer, wait: WaitMode, placement: Placement) -> Result<Self, SeriesError> {
        let client = server.connect_asleep()?;
        let id = server.new_pair_id(wait);
        client.create(id)?;
        let process = client.process(id)?;
        let mut spinning = Vec::new();
        if wait == WaitMode::Spin {
            let status = client.list()?.into_iter().find(|status| status.process == id);
            let pids = status.map(|status| status.worker_pids).unwrap_or_default();
            spinning = pids.into_iter().map(Pidfd::open).collect::<Result<_, _>>()?;
        }
        let calls = Self { placement, process, client, id, spinning };
        calls.signal(Signal::STOP);
        Ok(calls)
    }

    /// A round of calls with payloads of this size, timed one by one by the function that makes them.
    pub(super) fn round(&self, batch: Batch, payload_bytes: usize) -> Result<Samples, SeriesError> {
        let order = Order {
            caller_cpu: self.placement.caller_cpu(),
            called_cpu: self.placement.peer_cpu(),
            batch,
            payload_bytes,
        };
        let _awake = self.wake();
        let answer = self.process.call(CALL_OWN).payload(order.to_bytes()).deadline(ROUND_PATIENCE).send()?;
        let samples = Samples::from_bytes(&answer).ok_or_else(|| SubjectError::WrongAnswer {
            function: CALL_OWN.name(),
            expected: format!("samples of calls of {payload_bytes} bytes"),
            actual: format!("{} bytes", answer.len()),
        })?;
        Ok(samples)
    }

    fn wake(&self) -> Awake<'_> {
        self.signal(Signal::CONT);
        Awake(self)
    }

    fn signal(&self, signal: Signal) {
        for spinning in &self.spinning {
            // Whoever died is noticed by the next call.
            let _ = spinning.send_signal(signal);
        }
    }
}

impl Drop for LocalCalls {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        // The server ends it in any case, when it ends.
        let _ = self.client.stop(self.id);
    }
}

/// The workers may run.
struct Awake<'a>(&'a LocalCalls);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::STOP);
    }
}
