//! Calls from end to end: real segments and pipes, clients and workers on threads of this process.
#![cfg(not(loom))]

mod ends;
mod payloads;
mod room;
#[path = "../support/mod.rs"]
mod support;
mod waits;
mod workers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::claim::Condemned;
use praas_shm::client_lane::{Answer, Bounded, ClientLane, Payload, Retracted, SubmitError, Ticket, WaitEnd};
use praas_shm::running_call::{ReserveError, RunningCall};
use praas_shm::worker_end::{Next, WorkerEnd};
use praas_shm::{ReplyArenaFull, Scratch, WorkerTag};

use support::tasks::{Reactor, settle_async};
use support::{Host, Options, PATIENCE, Serving, eventually, park_on, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
/// Around every boundary: inline request, inline reply, smallest block, page, whole arena half.
const SIZES: [usize; 18] =
    [0, 1, 7, 8, 63, 64, 65, 95, 96, 97, 1023, 1024, 1025, 4095, 4096, 4097, (1 << 20) - 1, 1 << 20];

fn echo() -> FunctionId {
    FunctionId::of("echo")
}

fn in_place() -> FunctionId {
    FunctionId::of("echo-in-place")
}

fn of_request() -> FunctionId {
    FunctionId::of("echo-where-it-lies")
}

/// Answers with the input, through lane memory where it was asked to and may.
fn run_echo(call: RunningCall<'_>, scratch: &mut Scratch) {
    if call.function() == of_request() && call.may_answer_with_input() {
        let bytes = call.payload_bytes();
        return call.reply_with_input(bytes).unwrap();
    }
    let copied;
    {
        let input = call.input(scratch);
        assert!(input.as_ptr().addr().is_multiple_of(16), "inputs are aligned for any archive");
        if call.function() == in_place()
            && let Some(output) = call.output_in_place(input.len()).unwrap()
        {
            output.copy_from_slice(input);
            copied = None;
        } else {
            copied = Some(input.to_vec());
        }
    }
    match copied {
        Some(output) => call.reply(Outcome::Ok, 0, 0, &output),
        None => {
            let bytes = call.payload_bytes();
            call.reply_in_place(bytes)
        }
    }
    .unwrap();
}

fn serve_echo(host: &Arc<Host>, tag: WorkerTag) -> Serving {
    let mut scratch = Scratch::new();
    Serving::start(host, tag, move |call| run_echo(call, &mut scratch))
}

/// Submits; again where a worker that was interrupted between its claim and its copy holds the ring's next entry, while
/// others have gone on for a lap.
fn submit(lane: &ClientLane, function: FunctionId, bytes: &[u8]) -> Ticket {
    let start = Instant::now();
    loop {
        match lane.submit(function, Payload::Bytes(bytes), 0, 0) {
            Err(SubmitError::Full { what: Bounded::Ring, .. }) if start.elapsed() < PATIENCE => {
                std::thread::yield_now();
            }
            submitted => return submitted.unwrap(),
        }
    }
}

fn settle(lane: &Arc<ClientLane>, ticket: Ticket, mode: WaitMode) -> Answer {
    assert_eq!(lane.wait(&ticket, mode, PATIENCE), WaitEnd::Answered);
    lane.take(ticket)
}

fn call(lane: &Arc<ClientLane>, function: FunctionId, bytes: &[u8]) -> Answer {
    settle(lane, submit(lane, function, bytes), WaitMode::Adaptive)
}

fn bytes_of(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.outcome_code, Outcome::Ok as u32);
    let payload = answer.payload.as_ref().expect("the descriptor lies inside the lane");
    let mut bytes = vec![0; payload.len()];
    payload.copy_to(&mut bytes);
    if let Some(in_place) = payload.as_slice() {
        assert_eq!(in_place, bytes);
    }
    bytes
}

/// Holds calls back until the test lets them go on.
#[derive(Default)]
struct Gate {
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Worker: reports that a call has begun, and waits.
    fn enter(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        let (_state, late) = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.1).unwrap();
        assert!(!late.timed_out(), "the gate never opened");
    }

    fn wait_for_entries(&self, entries: u32) {
        let state = self.state.lock().unwrap();
        let (_state, late) = self.changed.wait_timeout_while(state, PATIENCE, |state| state.0 < entries).unwrap();
        assert!(!late.timed_out(), "fewer than {entries} calls began");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}
