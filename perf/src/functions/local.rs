//! A function that calls the no-op of its own process with payloads of any size, and times it: plot `invocations`. What does not
//! travel in the request itself is built in the lane.

use std::time::Duration;

use praas_benches::floors::{Batch, Pinned, Samples, fill, is_filled, timed};
use praas_benches::subject::NOOP;
use praas_client::Function;
use praas_function::{Application, Call, FunctionError, FunctionResult, InvokeOptions, Output, SELF};
use praas_protocol::limits::REQUEST_INLINE_BYTES;

/// Calls the no-op of its own process again and again, with a payload that it fills, and checks every byte of the answer.
/// Takes an [`Order`], answers [`Samples`].
pub const CALL_OWN: Function<'static> = Function::new("perf-call-own");
/// The function of the measured applications that pins its worker to the core whose number is the input.
const PIN: &str = "pin";
/// What it answers when it cannot do what it is for.
const FAILED_CODE: u32 = 1;
/// The longest that a call may take.
const CALL_PATIENCE: Duration = Duration::from_secs(20);
/// For a worker that may run on any core.
const ANY_CPU: u64 = u64::MAX;

/// What the function is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The core of the worker that calls, if it has one.
    pub caller_cpu: Option<usize>,
    /// The core of the worker that is called.
    pub called_cpu: Option<usize>,
    /// How many calls.
    pub batch: Batch,
    /// Bytes of the payload of each.
    pub payload_bytes: usize,
}

impl Order {
    const WORDS: usize = 5;

    /// As it travels.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let cpu = |cpu: Option<usize>| cpu.map_or(ANY_CPU, |cpu| cpu as u64);
        let words: [u64; Self::WORDS] = [
            cpu(self.caller_cpu),
            cpu(self.called_cpu),
            self.batch.warm_up,
            self.batch.samples,
            self.payload_bytes as u64,
        ];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// What [`Order::to_bytes`] made; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: [[u8; 8]; Self::WORDS] = words.try_into().ok()?;
        let [caller, called, warm_up, samples, payload_bytes] = words.map(u64::from_le_bytes);
        let cpu = |word: u64| if word == ANY_CPU { Some(None) } else { usize::try_from(word).ok().map(Some) };
        let order = Self {
            caller_cpu: cpu(caller)?,
            called_cpu: cpu(called)?,
            batch: Batch { warm_up, samples },
            payload_bytes: usize::try_from(payload_bytes).ok()?,
        };
        rest.is_empty().then_some(order)
    }
}

/// Adds it to a worker's application.
pub(super) fn with_local(application: Application) -> Application {
    application.function(CALL_OWN.name(), call_own)
}

fn call_own(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let order = Order::from_bytes(call.input()).ok_or_else(|| failed("the input is no order"))?;
    let context = call.context();
    let _pinned = Pinned::to(order.caller_cpu).map_err(|error| failed(&error))?;
    if let Some(cpu) = order.called_cpu {
        context.invoke(SELF, PIN, cpu.to_string().as_bytes())?;
    }
    let options = InvokeOptions::new().deadline(CALL_PATIENCE);
    let check = |answer: Output, number| {
        if answer.len() == order.payload_bytes && is_filled(&answer, number) {
            Ok(())
        } else {
            Err(failed("the no-op answered something else than its input"))
        }
    };
    let mut number = 0;
    let samples: Samples = if order.payload_bytes > REQUEST_INLINE_BYTES {
        // As the SDK's documentation has it: built where it will be read.
        timed(order.batch, || {
            number += 1;
            let mut payload = context.loan(SELF, order.payload_bytes)?;
            fill(&mut payload, number);
            check(payload.invoke_with(NOOP.name(), &options)?, number)
        })?
    } else {
        let mut payload = vec![1; order.payload_bytes];
        timed(order.batch, || {
            number += 1;
            fill(&mut payload, number);
            check(context.invoke_with(SELF, NOOP.name(), &payload, &options)?, number)
        })?
    };
    Ok(samples.to_bytes())
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

#[cfg(test)]
mod tests {
    use praas_function::testing::{Harness, HarnessOptions};

    use super::*;

    #[test]
    fn a_function_times_its_calls_of_its_own_process_and_notices_a_wrong_answer() {
        let order = |payload_bytes| Order {
            caller_cpu: None,
            called_cpu: None,
            batch: Batch { warm_up: 1, samples: 20 },
            payload_bytes,
        };
        let options = HarnessOptions { workers: 2, ..HarnessOptions::default() };
        let harness_with = |flaw: u8| {
            Harness::with_options(options, move || {
                with_local(Application::new()).function(NOOP.name(), move |call: &mut Call| {
                    let mut answer = call.input().to_vec();
                    if let Some(last) = answer.last_mut() {
                        *last ^= flaw;
                    }
                    answer
                })
            })
            .expect("two workers")
        };
        let right = harness_with(0);
        for payload_bytes in [1, 10, 1 << 10, 100 << 10] {
            let answer = right.invoke(CALL_OWN.name(), &order(payload_bytes).to_bytes()).expect("it answers");
            assert_eq!(Samples::from_bytes(&answer).expect("samples").count(), 20, "{payload_bytes} bytes");
        }
        let wrong = harness_with(1);
        assert!(wrong.invoke(CALL_OWN.name(), &order(1 << 10).to_bytes()).is_err());
        assert!(right.invoke(CALL_OWN.name(), b"no order").is_err());
    }

    #[test]
    fn orders_travel_as_bytes() {
        let batch = Batch { warm_up: 1, samples: 20 };
        for (caller_cpu, called_cpu) in [(None, None), (Some(0), Some(1))] {
            let order = Order { caller_cpu, called_cpu, batch, payload_bytes: 10 };
            let bytes = order.to_bytes();
            assert_eq!(Order::from_bytes(&bytes), Some(order));
            assert_eq!(Order::from_bytes(&bytes[1..]), None);
            assert_eq!(Order::from_bytes(&[]), None);
        }
    }
}
