//! Who takes part in the plot: started once, and asked for payloads of every size. Each that could not be started says why in
//! its rows.

use std::cell::RefCell;
use std::rc::Rc;

use praas_benches::floors::{Batch, Config, Placement, Samples, fill, is_filled};
use praas_benches::interleave::{Measured, SeriesError};
use praas_benches::subject::{
    Lane, LanePlan, NOOP, NOOP_BYTES, Remote, RemotePlan, Route, RunningServer, SubjectError,
};
use praas_client::{Process, WaitMode};

use super::local::LocalCalls;
use crate::baselines::prototype::Prototype;
use crate::harness::{Entry, Key};

/// One that takes part, or why it does not.
pub(in super::super) type Party<T> = Result<Rc<T>, String>;

/// Those of praas, and the prototype; the floors are opened anew for each size.
#[derive(Debug)]
pub(super) struct Parties {
    /// A function calls its own process.
    pub(super) local: Vec<(WaitMode, Placement, Party<LocalCalls>)>,
    /// The prototype's local path.
    pub(super) prototypes: Vec<(Placement, Party<RefCell<Prototype>>)>,
    /// A client over shared memory.
    pub(super) lane: (Placement, Party<Lane>),
    /// A client over TCP.
    pub(super) remote: Vec<(RemotePlan, Party<Remote>)>,
    // Last: all of its processes are stopped by then.
    _server: Party<RunningServer>,
}

impl Parties {
    /// Starts all of them.
    pub(super) fn start(two: Placement, one: Placement) -> Self {
        let server = party(RunningServer::start());
        let on_server = |wait, placement| {
            let opened = server.clone().and_then(|server| party(LocalCalls::open(&server, wait, placement)));
            (wait, placement, opened)
        };
        let local = vec![
            on_server(WaitMode::Spin, two),
            on_server(WaitMode::Park, one),
            on_server(WaitMode::Park, Placement::Free),
        ];
        let prototype = |placement| (placement, party(Prototype::open(&Config::new(placement)).map(RefCell::new)));
        let prototypes = vec![prototype(one), prototype(two), prototype(Placement::Free)];
        let spinning = || party(LanePlan::spinning());
        let lane = server.clone().and_then(|server| party(Lane::open(&server, *spinning()?)));
        let remote = [(Route::Brokered, false), (Route::Dedicated, false), (Route::Dedicated, true)];
        let remote = remote.map(|(route, spins)| {
            let plan = RemotePlan { route, spins, placement: two };
            (plan, party(Remote::open(plan)))
        });
        Self { local, prototypes, lane: (two, lane), remote: remote.into(), _server: server }
    }
}

pub(in super::super) fn party<T, E: ToString>(opened: Result<T, E>) -> Party<T> {
    opened.map(Rc::new).map_err(|error| error.to_string())
}

/// The series of a party at one size.
pub(in super::super) fn entry<T: 'static>(
    key: Key,
    batch: Batch,
    party: &Party<T>,
    mut round: impl FnMut(&T, Batch) -> Result<Samples, SeriesError> + 'static,
) -> Entry {
    let series = party.clone().map(|party| Measured::new("", move |batch| round(&party, batch)));
    Entry::opened(key, batch, series)
}

/// Calls the no-op with payloads of this size over shared memory. What does not travel inline is written where the function
/// reads it, and its answer is read where the function wrote it.
pub(in super::super) fn lane_calls(payload_bytes: usize) -> impl FnMut(&Lane, Batch) -> Result<Samples, SeriesError> {
    let (mut payload, mut seed) = (vec![1; payload_bytes], 0);
    move |lane, batch| {
        lane.measure(batch, |process| {
            seed += 1;
            if payload_bytes <= NOOP_BYTES {
                return call_and_check(process, &mut payload, seed);
            }
            let mut loan = process.loan(payload_bytes)?;
            let room = loan.as_mut_slice().ok_or_else(|| wrong("a loan within the trust domain", payload_bytes))?;
            fill(room, seed);
            check(&process.invoke(NOOP, loan)?, payload_bytes, seed)
        })
    }
}

/// The same over TCP, from a buffer of the client's into another, as the echoes do.
pub(super) fn remote_calls(payload_bytes: usize) -> impl FnMut(&Remote, Batch) -> Result<Samples, SeriesError> {
    let (mut payload, mut answer, mut seed) = (vec![1; payload_bytes], Vec::new(), 0);
    move |remote, batch| {
        remote.measure(batch, |process| {
            seed += 1;
            if payload_bytes <= NOOP_BYTES {
                return call_and_check(process, &mut payload, seed);
            }
            fill(&mut payload, seed);
            process.invoke_into(NOOP, &payload, &mut answer)?;
            check(&answer, payload_bytes, seed)
        })
    }
}

fn call_and_check(process: &Process, payload: &mut [u8], seed: u64) -> Result<(), SubjectError> {
    fill(payload, seed);
    check(&process.invoke(NOOP, &*payload)?, payload.len(), seed)
}

fn check(reply: &[u8], payload_bytes: usize, seed: u64) -> Result<(), SubjectError> {
    if reply.len() == payload_bytes && is_filled(reply, seed) { Ok(()) } else { Err(wrong("its input", reply.len())) }
}

#[cold]
fn wrong(expected: &str, bytes: usize) -> SubjectError {
    SubjectError::WrongAnswer {
        function: NOOP.name(),
        expected: expected.to_owned(),
        actual: format!("{bytes} other bytes"),
    }
}
