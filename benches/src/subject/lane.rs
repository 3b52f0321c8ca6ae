//! A process of one worker and a lane to it, each side on its core.
//!
//! Invariant: between rounds it leaves the machine alone. A worker that spins would keep its core for ever, so the kernel
//! stops it outside of rounds, unknown to it and to its server.

use praas_client::{Client, Process, ProcessId, WaitMode};
use praas_sys::{Pidfd, Signal};

use super::functions::{NOOP, PIN};
use super::{NOOP_BYTES, RunningServer, SubjectError};
use crate::floors::{Batch, Pinned, Placement, Samples, timed};
use crate::interleave::SeriesError;

/// Whether the client shares the application's trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does, as every local client of the server's user.
    Trusted,
    /// It does not: payloads are copied before they are read.
    Untrusted,
}

/// What a lane is to be.
#[derive(Clone, Copy, Debug)]
pub struct LanePlan {
    /// How both sides wait.
    pub wait: WaitMode,
    /// Whether the client is trusted.
    pub trust: Trust,
    /// Where both sides run.
    pub placement: Placement,
}

impl LanePlan {
    /// A trusted client and its worker, each spinning on a core of its own.
    ///
    /// # Errors
    /// [`SubjectError::Placement`] with one core.
    pub fn spinning() -> Result<Self, SubjectError> {
        Ok(Self { wait: WaitMode::Spin, trust: Trust::Trusted, placement: Placement::two_cores()? })
    }

    /// The same across a trust boundary.
    #[must_use]
    pub fn untrusted(self) -> Self {
        Self { trust: Trust::Untrusted, ..self }
    }
}

/// A process, its worker, and the lane to it; the process is stopped when dropped.
#[derive(Debug)]
pub struct Lane {
    plan: LanePlan,
    // Before the client, over whose connection a lane says goodbye.
    process: Process,
    client: Client,
    id: ProcessId,
    worker: Pidfd,
}

impl Lane {
    /// Creates a process, opens a lane to it and pins its worker.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open(server: &RunningServer, plan: LanePlan) -> Result<Self, SubjectError> {
        let client = server.connect(plan.trust)?;
        let id = server.new_id(plan.wait);
        client.create(id)?;
        let process = client.process(id)?;
        let worker = only_worker(&client, id)?;
        let lane = Self { plan, process, client, id, worker };
        if let Some(cpu) = plan.placement.peer_cpu() {
            lane.process.invoke(PIN, cpu.to_string())?;
        }
        lane.rest();
        Ok(lane)
    }

    /// The client's end, for use while the lane is [awake](Self::wake).
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Its worker.
    #[must_use]
    pub fn worker(&self) -> &Pidfd {
        &self.worker
    }

    /// Where both sides run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.plan.placement
    }

    /// Lets the worker run, and pins the calling thread, until the guard is dropped.
    ///
    /// # Errors
    /// [`SubjectError::Placement`] if the thread cannot be pinned.
    pub fn wake(&self) -> Result<Awake<'_>, SubjectError> {
        let pinned = Pinned::to(self.plan.placement.caller_cpu())?;
        self.signal(Signal::CONT);
        Ok(Awake { lane: self, _pinned: pinned })
    }

    /// One round of `call`, one operation each.
    ///
    /// # Errors
    /// What `call` fails with.
    #[inline]
    pub fn measure(
        &self,
        batch: Batch,
        mut call: impl FnMut(&Process) -> Result<(), SubjectError>,
    ) -> Result<Samples, SeriesError> {
        let _awake = self.wake()?;
        Ok(timed(batch, || call(&self.process))?)
    }

    fn rest(&self) {
        if self.plan.wait == WaitMode::Spin {
            self.signal(Signal::STOP);
        }
    }

    fn signal(&self, signal: Signal) {
        // A worker that died is noticed by the next call.
        let _ = self.worker.send_signal(signal);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        // The server ends it in any case, when it ends.
        let _ = self.client.stop(self.id);
    }
}

/// A lane in use.
#[derive(Debug)]
pub struct Awake<'a> {
    lane: &'a Lane,
    _pinned: Pinned,
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.lane.rest();
    }
}

pub(super) fn only_worker(client: &Client, id: ProcessId) -> Result<Pidfd, SubjectError> {
    let pids = client.list()?.into_iter().find(|status| status.process == id).map(|status| status.worker_pids);
    match pids.as_deref() {
        Some([pid]) => Pidfd::open(*pid).map_err(|error| SubjectError::System {
            action: "open a worker's pidfd",
            source: std::io::Error::other(error),
        }),
        other => Err(SubjectError::Workers { process: id.to_string(), actual: other.map_or(0, <[u32]>::len) }),
    }
}

/// Calls the no-op with 64 bytes that depend on `number`, and checks the echo.
///
/// # Errors
/// [`SubjectError::Call`] or [`SubjectError::WrongAnswer`].
#[inline]
pub fn call_noop(process: &Process, number: u64) -> Result<(), SubjectError> {
    let reply = process.invoke(NOOP, &noop_payload(number))?;
    check_noop(number, &reply)
}

/// The no-op's payload.
#[inline]
#[must_use]
pub fn noop_payload(number: u64) -> [u8; NOOP_BYTES] {
    let mut payload = [0; NOOP_BYTES];
    let (words, _) = payload.as_chunks_mut::<8>();
    words.fill(number.to_ne_bytes());
    payload
}

/// Whether the no-op answered its input. Its length and its outer words are compared: a comparison of the whole in wide
/// registers would wait 20 ns for the narrow stores that wrote it, which is no part of a call.
///
/// # Errors
/// [`SubjectError::WrongAnswer`].
#[inline]
pub fn check_noop(number: u64, reply: &[u8]) -> Result<(), SubjectError> {
    let expected = number.to_ne_bytes();
    if reply.len() == NOOP_BYTES && reply.first_chunk() == Some(&expected) && reply.last_chunk() == Some(&expected) {
        return Ok(());
    }
    Err(wrong_answer(NOOP.name(), &noop_payload(number), reply))
}

/// Whether `function` answered what it must.
///
/// # Errors
/// [`SubjectError::WrongAnswer`].
#[inline]
pub fn check(function: &'static str, expected: &[u8], actual: &[u8]) -> Result<(), SubjectError> {
    if expected == actual { Ok(()) } else { Err(wrong_answer(function, expected, actual)) }
}

#[cold]
fn wrong_answer(function: &'static str, expected: &[u8], actual: &[u8]) -> SubjectError {
    let words = |bytes: &[u8]| format!("{} bytes {:02x?}", bytes.len(), &bytes[..bytes.len().min(NOOP_BYTES)]);
    SubjectError::WrongAnswer { function, expected: words(expected), actual: words(actual) }
}
