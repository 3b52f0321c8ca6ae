//! A process that calls itself: one worker times calls of the no-op, the other one of the process answers them.
//!
//! Both sleep between calls, and while they wait. The calling worker is on the caller's core, the called one on the peer's; the
//! client sleeps while they work.

use std::time::Duration;

use praas_client::{Client, Function, Process, ProcessId};
use praas_function::{Application, Call, FunctionError, FunctionResult, SELF};

use super::functions::{FAILED_CODE, NOOP, PIN};
use super::{NOOP_BYTES, RunningServer, SubjectError, noop_payload};
use crate::floors::{Batch, Pinned, Placement, Samples, timed};

/// Calls the no-op of its own process again and again; answers the samples. The input: the core to run on, the core of the
/// worker that is called (`u64::MAX` for any), operations to warm up, samples.
const CALL_SELF: Function<'static> = Function::new("call-self");
const INPUT_WORDS: usize = 4;
/// The longest that a round may take.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);

/// The application with this function too.
pub(super) fn with_self_invoke(application: Application) -> Application {
    application.function(CALL_SELF.name(), call_self)
}

fn call_self(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (words, _) = call.input().as_chunks::<8>();
    let words: [[u8; 8]; INPUT_WORDS] = words.try_into().map_err(|_| failed("the input is no order"))?;
    let [own_cpu, peer_cpu, warm_up, samples] = words.map(u64::from_le_bytes);
    let context = call.context();
    let cpu_of = |cpu| (cpu != u64::MAX).then_some(cpu).map(usize::try_from).transpose();
    let _pinned = Pinned::to(cpu_of(own_cpu)?).map_err(|error| failed(&error))?;
    if let Some(cpu) = cpu_of(peer_cpu)? {
        context.invoke(SELF, PIN.name(), cpu.to_string().as_bytes())?;
    }
    let mut number = 0;
    let samples = timed(Batch { warm_up, samples }, || {
        number += 1;
        let payload = noop_payload(number);
        let answer = context.invoke(SELF, NOOP.name(), &payload)?;
        if *answer == payload { Ok(()) } else { Err(failed("the no-op answered something else")) }
    });
    samples.map(|samples: Samples| samples.to_bytes())
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

/// The process; it is stopped when dropped.
#[derive(Debug)]
pub struct SelfInvoke {
    placement: Placement,
    // Before the client, over whose connection a lane says goodbye.
    process: Process,
    client: Client,
    id: ProcessId,
}

impl SelfInvoke {
    /// Creates it.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn open(server: &RunningServer, placement: Placement) -> Result<Self, SubjectError> {
        let client = server.connect_asleep()?;
        let id = server.new_state_id();
        client.create(id)?;
        let process = client.process(id)?;
        Ok(Self { placement, process, client, id })
    }

    /// A round of calls, timed one by one by the function that makes them.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn round(&self, batch: Batch) -> Result<Samples, SubjectError> {
        let word = |cpu: Option<usize>| cpu.map_or(u64::MAX, |cpu| cpu as u64);
        let words = [word(self.placement.caller_cpu()), word(self.placement.peer_cpu()), batch.warm_up, batch.samples];
        let order: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let answer = self.process.call(CALL_SELF).payload(&order).deadline(ROUND_PATIENCE).send()?;
        Samples::from_bytes(&answer).ok_or_else(|| SubjectError::WrongAnswer {
            function: CALL_SELF.name(),
            expected: format!("samples of calls of {NOOP_BYTES} bytes"),
            actual: format!("{} bytes", answer.len()),
        })
    }
}

impl Drop for SelfInvoke {
    fn drop(&mut self) {
        // The server ends it in any case, when it ends.
        let _ = self.client.stop(self.id);
    }
}
