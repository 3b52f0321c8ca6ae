//! Runs the function of one claimed call and answers it.
//!
//! Owns what is used anew by every call: the function table, the private input and output buffers, who is at the other end
//! of each lane. In steady state a call allocates nothing and makes no system call, unless its function does. The private
//! buffers grow with the payloads seen; after an unusually large one its memory is given back.
//!
//! Whatever a function does, short of ending the OS process, its call is answered exactly once and the next one runs.

use praas_protocol::Outcome;
use praas_protocol::control::LaneId;
use praas_protocol::limits::LANES_PER_PROCESS_MAX;
use praas_shm::Scratch;
use praas_shm::claim::Condemned;
use praas_shm::running_call::RunningCall;
use rkyv::util::AlignedVec;

use crate::call::{Call, Staged};
use crate::context::{CallerIdentity, Context, Origin, WorkerIdentity};
use crate::dedicated::ConnectionCall;
use crate::error::FunctionError;
use crate::limits::{PRIVATE_OUTPUT_BYTES_KEPT, PRIVATE_OUTPUT_BYTES_START};
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

/// Runs functions and answers their calls.
#[derive(Debug)]
pub(crate) struct CallRunner {
    table: FunctionTable,
    worker: WorkerIdentity,
    /// By lane number modulo their count, which is unique among the live lanes of a process.
    lanes: Vec<Option<CallerIdentity>>,
    payload_bytes_max: usize,
    scratch: Scratch,
    private: AlignedVec,
}

impl CallRunner {
    pub(crate) fn new(table: FunctionTable, worker: WorkerIdentity, payload_bytes_max: usize) -> Self {
        let lanes = vec![None; LANES_PER_PROCESS_MAX];
        Self { table, worker, lanes, payload_bytes_max, scratch: Scratch::new(), private: fresh_private() }
    }

    pub(crate) fn add_lane(&mut self, lane: LaneId, identity: CallerIdentity) {
        self.lanes[slot_of(lane)] = Some(identity);
    }

    pub(crate) fn remove_lane(&mut self, lane: LaneId) {
        self.lanes[slot_of(lane)] = None;
    }

    /// Runs the function that `running` asks for, and answers.
    pub(crate) fn answer(&mut self, running: RunningCall<'_>) -> Result<(), Condemned> {
        let Some((index, body)) = self.table.find(running.function()) else {
            return running.reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let Some(lane) = &self.lanes[slot_of(running.lane())] else {
            return running.reply(Outcome::Unauthorized, 0, 0, &[]);
        };
        let context = Context::new(&self.worker, lane, Origin::Lane(&running));
        let input = running.input(&mut self.scratch);
        let call = Call::new(input, context, &mut self.private, self.payload_bytes_max);
        let counted = running.count(index);
        let ending = run(body, call);
        let is_ok = matches!(ending, Ending::Output(_));
        let end = reply(running, ending, &self.private);
        counted.end(is_ok);
        self.trim();
        end
    }

    /// Runs the function that `running` asks for, and hands its answer to `reply`: outcome, two words of detail, payload.
    /// The payload is at most as long as the connection allows.
    pub(crate) fn run_beside(
        &mut self,
        running: &ConnectionCall<'_>,
        caller: &CallerIdentity,
        payload: &[u8],
        reply: impl FnOnce(Outcome, u32, u32, &[u8]),
    ) {
        let Some((index, body)) = self.table.find(running.function()) else {
            return reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let context = Context::new(&self.worker, caller, Origin::Connection(running));
        let input = aligned(payload, &mut self.scratch);
        let limit_bytes = running.payload_bytes_max().min(self.payload_bytes_max);
        let call = Call::new(input, context, &mut self.private, limit_bytes);
        let counted = running.count(index);
        let ending = run(body, call);
        let is_ok = matches!(ending, Ending::Output(_));
        match ending {
            Ending::Output(Staged::Private { bytes }) => reply(Outcome::Ok, 0, 0, &self.private[..bytes]),
            Ending::Output(Staged::OfInput { start, bytes }) => reply(Outcome::Ok, 0, 0, &input[start..start + bytes]),
            Ending::Output(Staged::Owned(bytes)) => reply(Outcome::Ok, 0, 0, &bytes),
            Ending::Output(Staged::InPlace { .. }) => unreachable!("there is no lane to write in place"),
            Ending::Error(error) => {
                let (outcome, detail, more, message) = error.as_reply();
                reply(outcome, detail, more, fitting(message, limit_bytes));
            }
            Ending::Panic(message) => {
                reply(Outcome::FunctionPanicked, 0, 0, fitting(&message, limit_bytes));
            }
        }
        counted.end(is_ok);
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

/// As much of a message as a payload can hold.
fn fitting(message: &str, limit_bytes: usize) -> &[u8] {
    &message.as_bytes()[..message.floor_char_boundary(limit_bytes)]
}

fn slot_of(lane: LaneId) -> usize {
    lane.0 as usize % LANES_PER_PROCESS_MAX
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
        Ending::Output(Staged::OfInput { .. }) => unreachable!("answers of lanes lie in them, or are copied there"),
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
