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
use crate::context::{Context, LaneIdentity, WorkerIdentity};
use crate::error::FunctionError;
use crate::limits::{PRIVATE_OUTPUT_BYTES_KEPT, PRIVATE_OUTPUT_BYTES_START};
use crate::panic_record::catch;
use crate::table::{Body, FunctionTable};

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
    lanes: Vec<Option<LaneIdentity>>,
    payload_bytes_max: usize,
    scratch: Scratch,
    private: AlignedVec,
}

impl CallRunner {
    pub(crate) fn new(table: FunctionTable, worker: WorkerIdentity, payload_bytes_max: usize) -> Self {
        let lanes = vec![None; LANES_PER_PROCESS_MAX];
        Self { table, worker, lanes, payload_bytes_max, scratch: Scratch::new(), private: fresh_private() }
    }

    pub(crate) fn add_lane(&mut self, lane: LaneId, identity: LaneIdentity) {
        self.lanes[slot_of(lane)] = Some(identity);
    }

    pub(crate) fn remove_lane(&mut self, lane: LaneId) {
        self.lanes[slot_of(lane)] = None;
    }

    /// Runs the function that `running` asks for, and answers.
    pub(crate) fn answer(&mut self, running: RunningCall<'_>) -> Result<(), Condemned> {
        let Some(body) = self.table.body(running.function()) else {
            return running.reply(Outcome::UnknownFunction, 0, 0, &[]);
        };
        let Some(lane) = &self.lanes[slot_of(running.lane())] else {
            return running.reply(Outcome::Unauthorized, 0, 0, &[]);
        };
        let context = Context::new(&self.worker, lane, &running);
        let input = running.input(&mut self.scratch);
        let call = Call::new(input, context, &running, &mut self.private, self.payload_bytes_max);
        let ending = run(body, call);
        let end = reply(running, ending, &self.private);
        self.trim();
        end
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
