//! The functions of plot `storage`: gets and puts of an object of the process's own state, timed within the function.

use praas_benches::floors::{Batch, Pinned, Samples, fill, is_filled, timed};
use praas_client::{Condition, Function};
use praas_function::{Application, Call, Context, FunctionError, FunctionResult};

/// Gets the object again and again and reads it from its first to its last byte. Takes an [`Order`], answers [`Samples`].
pub const GET: Function<'static> = Function::new("perf-storage-get");
/// Builds the object anew and puts it, again and again; reads it back at the end.
pub const PUT: Function<'static> = Function::new("perf-storage-put");

const KEY: &str = "object";
/// What these functions answer when they cannot do what they are for.
const FAILED_CODE: u32 = 1;
/// For a worker that may run on any core.
const ANY_CPU: u64 = u64::MAX;

/// What a function is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// The core of the worker, if it has one.
    pub cpu: Option<usize>,
    /// How many operations.
    pub batch: Batch,
    /// Bytes of the object.
    pub value_bytes: usize,
}

impl Order {
    const WORDS: usize = 4;

    /// As it travels.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let cpu = self.cpu.map_or(ANY_CPU, |cpu| cpu as u64);
        let words: [u64; Self::WORDS] = [cpu, self.batch.warm_up, self.batch.samples, self.value_bytes as u64];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    /// What [`Order::to_bytes`] made; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: [[u8; 8]; Self::WORDS] = words.try_into().ok()?;
        let [cpu, warm_up, samples, value_bytes] = words.map(u64::from_le_bytes);
        let cpu = if cpu == ANY_CPU { None } else { Some(usize::try_from(cpu).ok()?) };
        let order = Self { cpu, batch: Batch { warm_up, samples }, value_bytes: usize::try_from(value_bytes).ok()? };
        rest.is_empty().then_some(order)
    }

    fn of(call: &Call<'_>) -> FunctionResult<(Self, Pinned)> {
        let order = Self::from_bytes(call.input()).ok_or_else(|| failed("the input is no order"))?;
        Ok((order, Pinned::to(order.cpu).map_err(|error| failed(&error))?))
    }
}

/// Adds them to a worker's application.
pub(super) fn with_storage(application: Application) -> Application {
    application.function(GET.name(), get).function(PUT.name(), put)
}

fn get(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let mut number = 1;
    build(&context, order.value_bytes, number)?;
    let samples: FunctionResult<Samples> = timed(order.batch, || look(&context, order.value_bytes, number));
    // A value that nobody put: the check can fail.
    number += 1;
    if look(&context, order.value_bytes, number).is_ok() && order.value_bytes > 0 {
        return Err(failed("a value was taken for another"));
    }
    Ok(samples?.to_bytes())
}

fn put(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let mut number = 0;
    let samples: FunctionResult<Samples> = timed(order.batch, || {
        number += 1;
        build(&context, order.value_bytes, number)
    });
    look(&context, order.value_bytes, number)?;
    Ok(samples?.to_bytes())
}

/// Builds the value of this number where it will lie.
fn build(context: &Context<'_>, value_bytes: usize, number: u64) -> FunctionResult {
    let mut loan = context.loan_state(KEY, value_bytes)?;
    fill(&mut loan, number);
    loan.publish(Condition::Any)?;
    Ok(())
}

fn look(context: &Context<'_>, value_bytes: usize, number: u64) -> FunctionResult {
    let object = context.state_bytes(KEY)?.ok_or_else(|| failed("the object is not there"))?;
    if object.len() == value_bytes && is_filled(&object, number) {
        Ok(())
    } else {
        Err(failed("the object is another"))
    }
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;

    #[test]
    fn gets_and_puts_answer_as_many_samples_as_were_ordered() {
        let harness = Harness::new(|| with_storage(Application::new())).expect("the application is sound");
        for value_bytes in [1, 1024, 100 << 10] {
            let order = Order { cpu: None, batch: Batch { warm_up: 1, samples: 7 }, value_bytes };
            assert_eq!(Order::from_bytes(&order.to_bytes()), Some(order));
            for function in [GET, PUT] {
                let answer = harness.invoke(function.name(), &order.to_bytes()).expect("it measures");
                assert_eq!(Samples::from_bytes(&answer).expect("samples").count(), 7);
            }
        }
        assert!(harness.invoke(GET.name(), b"no order").is_err());
    }
}
