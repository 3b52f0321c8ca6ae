//! Runs the function of one claimed call and answers it.
//!
//! Owns what is used anew by every call: the function table, the private input and output buffers, who is at the other end
//! of each lane. In steady state a call allocates nothing and makes no system call, unless its function does. The private
//! buffers grow with the payloads seen; after an unusually large one its memory is given back.
//!
//! Whatever a function does, short of ending the OS process, its call is answered exactly once and the next one runs.

use std::time::Duration;

use praas_protocol::control::LaneId;
use praas_protocol::limits::LANES_PER_PROCESS_MAX;
use praas_protocol::{Idempotency, Outcome};
use praas_shm::Scratch;
use praas_shm::claim::Condemned;
use praas_shm::objects::CallEnd;
use praas_shm::running_call::RunningCall;
use rkyv::util::AlignedVec;

use crate::call::{Call, Staged};
use crate::context::{CallerIdentity, Context, Origin, WorkerIdentity};
use crate::dedicated::ConnectionCall;
use crate::error::{FunctionError, saturated};
use crate::idempotency::{self, KeyedCall, Standing};
use crate::invoke::InvokeRoom;
use crate::limits::{PRIVATE_OUTPUT_BYTES_KEPT, PRIVATE_OUTPUT_BYTES_START};
use crate::messages::{MessageRoom, RecvError};
use crate::panic_record::catch;
use crate::table::{Body, FunctionTable};

/// Alignment of every input: that of the lane's blocks, and of the largest type that an archive can hold.
const INPUT_ALIGNMENT: usize = 16;

/// How the run of a function ended.
enum Ending {
    Output(Staged),
    Error(FunctionError),
    Panic(String),
}

impl Ending {
    fn is_ok(&self) -> bool {
        matches!(self, Self::Output(_))
    }

    /// What it is recorded and answered as. The output lies in the private buffer, or is a part of the input.
    fn end<'a>(&'a self, private: &'a [u8], input: &'a [u8]) -> CallEnd<'a> {
        let (outcome, detail, more, reply) = match self {
            Self::Output(Staged::Private { bytes }) => (Outcome::Ok, 0, 0, &private[..*bytes]),
            Self::Output(Staged::OfInput { start, bytes }) => (Outcome::Ok, 0, 0, &input[*start..start + bytes]),
            Self::Output(Staged::Owned(bytes)) => (Outcome::Ok, 0, 0, &bytes[..]),
            Self::Output(Staged::InPlace { .. }) => unreachable!("the output of a call with a key is private"),
            Self::Error(error) => {
                let (outcome, detail, more, message) = error.as_reply();
                (outcome, detail, more, message.as_bytes())
            }
            Self::Panic(message) => (Outcome::FunctionPanicked, 0, 0, message.as_bytes()),
        };
        CallEnd { outcome_code: outcome as u32, detail, more, reply }
    }
}

/// The outcome that was recorded.
fn outcome_of(end: &CallEnd<'_>) -> Outcome {
    Outcome::from_code(end.outcome_code).unwrap_or(Outcome::Malformed)
}

/// Runs functions and answers their calls.
#[derive(Debug)]
pub(crate) struct CallRunner {
    table: FunctionTable,
    worker: WorkerIdentity,
    /// By lane number modulo their count, which is unique among the live lanes of a process.
    lanes: Vec<Option<CallerIdentity>>,
    payload_bytes_max: usize,
    /// For calls with idempotency keys.
    answers_kept_for: Duration,
    scratch: Scratch,
    private: AlignedVec,
}

impl CallRunner {
    pub(crate) fn new(
        table: FunctionTable,
        worker: WorkerIdentity,
        payload_bytes_max: usize,
        answers_kept_for: Duration,
    ) -> Self {
        let (lanes, scratch) = (vec![None; LANES_PER_PROCESS_MAX], Scratch::new());
        Self { table, worker, lanes, payload_bytes_max, answers_kept_for, scratch, private: fresh_private() }
    }

    pub(crate) fn add_lane(&mut self, lane: LaneId, identity: CallerIdentity) {
        self.lanes[slot_of(lane)] = Some(identity);
    }

    /// The worker, between calls.
    pub(crate) fn identity(&self) -> &WorkerIdentity {
        &self.worker
    }

    /// The messages of the process, between calls.
    pub(crate) fn invoke_room(&self) -> &InvokeRoom {
        &self.worker.invoke
    }

    pub(crate) fn messages_mut(&mut self) -> &mut MessageRoom {
        &mut self.worker.messages
    }

    pub(crate) fn remove_lane(&mut self, lane: LaneId) {
        self.lanes[slot_of(lane)] = None;
    }

    /// Runs the function that `running` asks for, and answers.
    pub(crate) fn answer(&mut self, running: RunningCall<'_>) -> Result<(), Condemned> {
        if let Err(error) = self.worker.messages.begin_call() {
            let error = FunctionError::from(RecvError::Mailbox(error));
            let (outcome, detail, more, message) = error.as_reply();
            return running.reply(outcome, detail, more, message.as_bytes());
        }
        let Some((index, body)) = self.table.find(running.function()) else {
            return running.reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let Some(lane) = &self.lanes[slot_of(running.lane())] else {
            return running.reply(Outcome::Unauthorized, 0, 0, &[]);
        };
        if running.is_keyed() {
            return self.answer_once(running);
        }
        let context = Context::new(&self.worker, lane, Origin::Lane(&running));
        let input = running.input(&mut self.scratch);
        let call = Call::new(input, context, &mut self.private, self.payload_bytes_max);
        let counted = running.count(index);
        let ending = run(body, call);
        #[cfg(feature = "simulation")]
        if crate::testing::is_struck() {
            return die(running);
        }
        let ending = settled(&mut self.worker.messages, ending);
        let is_ok = matches!(ending, Ending::Output(_));
        let end = reply(running, ending, &self.private);
        counted.end(is_ok);
        self.trim();
        end
    }

    /// The same for a call with an idempotency key.
    #[cold]
    fn answer_once(&mut self, running: RunningCall<'_>) -> Result<(), Condemned> {
        let Some((index, body)) = self.table.find(running.function()) else {
            return running.reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let Some(lane) = &self.lanes[slot_of(running.lane())] else {
            return running.reply(Outcome::Unauthorized, 0, 0, &[]);
        };
        let context = Context::new(&self.worker, lane, Origin::Lane(&running));
        let payload_bytes = saturated(running.payload_bytes());
        let Some((idempotency, input)) = Idempotency::split_prefix(running.input(&mut self.scratch)) else {
            return running.reply(Outcome::Malformed, 0, payload_bytes, &[]);
        };
        let keyed = KeyedCall::new(&context, running.function(), idempotency, input);
        let (kept_for, store) = (self.answers_kept_for, self.worker.state.store());
        let answered = match keyed.begin(store, &context, kept_for) {
            Standing::Refused(outcome, detail, more) => running.reply(outcome, detail, more, &[]),
            Standing::Ended(finished) => {
                let end = finished.end();
                running.reply(outcome_of(&end), end.detail, end.more, end.reply)
            }
            Standing::Run(claim) => {
                let call = Call::new(input, context, &mut self.private, self.payload_bytes_max).in_private();
                let counted = running.count(index);
                let ending = run(body, call);
                #[cfg(feature = "simulation")]
                if crate::testing::is_struck() {
                    return die(running);
                }
                let ending = settled(&mut self.worker.messages, ending);
                let end = ending.end(&self.private, &[]);
                idempotency::record(Some(claim), &end, kept_for, &self.worker.messages);
                let answered = running.reply(outcome_of(&end), end.detail, end.more, end.reply);
                counted.end(ending.is_ok());
                answered
            }
        };
        self.trim();
        answered
    }

    /// Runs the function that `running` asks for, and hands its answer to `reply`: outcome, two words of detail, payload.
    /// The payload is at most as long as the connection allows.
    pub(crate) fn run_beside(
        &mut self,
        running: &ConnectionCall<'_>,
        caller: &CallerIdentity,
        idempotency: Option<Idempotency>,
        payload: &[u8],
        reply: impl FnOnce(Outcome, u32, u32, &[u8]),
    ) {
        let gate = self.worker.durability.gate(running.time_remaining());
        let reply = |outcome, detail, more, bytes: &[u8]| match gate.pass() {
            Ok(()) => reply(outcome, detail, more, bytes),
            Err(error) => {
                let error = error.to_answer();
                let (outcome, detail, more, message) = error.as_reply();
                reply(outcome, detail, more, message.as_bytes());
            }
        };
        if let Err(error) = self.worker.messages.begin_call() {
            let error = FunctionError::from(RecvError::Mailbox(error));
            let (outcome, detail, more, message) = error.as_reply();
            return reply(outcome, detail, more, message.as_bytes());
        }
        let Some((index, body)) = self.table.find(running.function()) else {
            return reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let context = Context::new(&self.worker, caller, Origin::Connection(running));
        let input = aligned(payload, &mut self.scratch);
        let limit_bytes = running.payload_bytes_max().min(self.payload_bytes_max);
        let (mut keyed, mut claim) = (None, None);
        if let Some(idempotency) = idempotency {
            let keyed = keyed.insert(KeyedCall::new(&context, running.function(), idempotency, input));
            match keyed.begin(self.worker.state.store(), &context, self.answers_kept_for) {
                Standing::Run(mine) => claim = Some(mine),
                Standing::Refused(outcome, detail, more) => return reply(outcome, detail, more, &[]),
                Standing::Ended(finished) => {
                    return reply_fitting(&finished.end(), limit_bytes, reply);
                }
            }
        }
        let call = Call::new(input, context, &mut self.private, limit_bytes);
        let counted = running.count(index);
        let ending = run(body, call);
        let ending = settled(&mut self.worker.messages, ending);
        let end = ending.end(&self.private, input);
        idempotency::record(claim, &end, self.answers_kept_for, &self.worker.messages);
        reply_fitting(&end, limit_bytes, reply);
        counted.end(ending.is_ok());
        self.trim();
    }

    /// Gives the memory of an unusually large call back.
    fn trim(&mut self) {
        self.scratch.trim();
        if self.private.len() > PRIVATE_OUTPUT_BYTES_KEPT {
            self.private = fresh_private();
        }
    }
}

fn fresh_private() -> AlignedVec {
    let mut private = AlignedVec::new();
    private.resize(PRIVATE_OUTPUT_BYTES_START, 0);
    private
}

/// `payload` at an address that is fit for any archive.
fn aligned<'a>(payload: &'a [u8], scratch: &'a mut Scratch) -> &'a [u8] {
    if payload.as_ptr().addr().is_multiple_of(INPUT_ALIGNMENT) {
        return payload;
    }
    let copy = scratch.prepare(payload.len());
    copy.copy_from_slice(payload);
    copy
}

/// Hands an end to `reply` that may have been recorded under a larger limit.
#[inline]
fn reply_fitting(end: &CallEnd<'_>, limit_bytes: usize, reply: impl FnOnce(Outcome, u32, u32, &[u8])) {
    let CallEnd { detail, more, reply: bytes, .. } = *end;
    match outcome_of(end) {
        outcome if bytes.len() <= limit_bytes => reply(outcome, detail, more, bytes),
        Outcome::Ok => reply(Outcome::PayloadTooLarge, saturated(limit_bytes), saturated(bytes.len()), &[]),
        outcome => reply(outcome, detail, more, fitting(bytes, limit_bytes)),
    }
}

/// As much of a message as a payload can hold.
fn fitting(message: &[u8], limit_bytes: usize) -> &[u8] {
    let end = std::str::from_utf8(message).map_or(limit_bytes, |text| text.floor_char_boundary(limit_bytes));
    &message[..end.min(message.len())]
}

/// Ends what the call has received: accepted with an output, given back otherwise. A call whose messages could not be accepted has
/// failed.
#[inline]
fn settled(messages: &mut MessageRoom, ending: Ending) -> Ending {
    match messages.settle(ending.is_ok()) {
        Err(error) if ending.is_ok() => Ending::Error(RecvError::Mailbox(error).into()),
        _ => ending,
    }
}

fn slot_of(lane: LaneId) -> usize {
    lane.0 as usize % LANES_PER_PROCESS_MAX
}

/// Leaves a call as a worker does that is killed: claimed and unanswered.
#[cfg(feature = "simulation")]
fn die(running: RunningCall<'_>) -> Result<(), Condemned> {
    std::mem::forget(running);
    Err(Condemned)
}

fn run(body: &mut Body, mut call: Call<'_>) -> Ending {
    match catch(|| body(&mut call)) {
        Ok(Ok(())) => Ending::Output(call.into_staged()),
        Ok(Err(error)) => Ending::Error(error),
        Err(message) => Ending::Panic(message),
    }
}

fn reply(running: RunningCall<'_>, ending: Ending, private: &[u8]) -> Result<(), Condemned> {
    match ending {
        Ending::Output(Staged::InPlace { bytes }) => running.reply_in_place(bytes),
        Ending::Output(Staged::OfInput { start: 0, bytes }) => running.reply_with_input(bytes),
        Ending::Output(Staged::OfInput { .. }) => unreachable!("of a lane's input only the beginning stays in place"),
        Ending::Output(Staged::Private { bytes }) => answer_with(running, &private[..bytes]),
        Ending::Output(Staged::Owned(bytes)) => answer_with(running, &bytes),
        Ending::Error(error) => {
            let (outcome, detail, more, message) = error.as_reply();
            running.reply(outcome, detail, more, message.as_bytes())
        }
        Ending::Panic(message) => running.reply(Outcome::FunctionPanicked, 0, 0, message.as_bytes()),
    }
}

fn answer_with(running: RunningCall<'_>, output: &[u8]) -> Result<(), Condemned> {
    running.reply(Outcome::Ok, 0, 0, output)
}
