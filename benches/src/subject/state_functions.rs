//! The functions of the application whose state is measured: they put and get many times within one call, time each with the
//! clock of all bars, and answer the samples.
//!
//! Any worker of the process may take a call, so each function moves its worker to the core that the call names first.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use praas_client::Function;
use praas_function::{Application, Call, Context, FunctionError, FunctionResult};

use super::functions::FAILED_CODE;
use crate::floors::{Batch, Clock, Pinned, Samples, fill, timed, timed_groups, timed_spans};

/// Puts each of the objects.
pub(super) const FILL: Function<'static> = Function::new("state-fill");
/// Gets the first of the objects again and again, and reads its first and last line.
pub(super) const GET: Function<'static> = Function::new("state-get");
/// The same, of which a sample spans [`GETS_PER_SAMPLE`].
pub(super) const GET_GROUPS: Function<'static> = Function::new("state-get-groups");
/// The same with a pause before each get, beginning when the object has just been replaced.
pub(super) const GET_REPLACED: Function<'static> = Function::new("state-get-replaced");
/// Gets objects that are chosen at random.
pub(super) const GET_RANDOM: Function<'static> = Function::new("state-get-random");
/// Puts the objects in turn, again and again.
pub(super) const PUT: Function<'static> = Function::new("state-put");
/// The same, and waits after each until it is as safe as the process's durability says.
pub(super) const PUT_SAFELY: Function<'static> = Function::new("state-put-safely");
/// Puts its input under one key: the call's reply says that it is as safe as that.
pub(super) const PUT_INPUT: Function<'static> = Function::new("state-put-input");
/// Puts the objects in turn, and answers at how many places values were.
pub(super) const PLACES: Function<'static> = Function::new("state-places");
/// Replaces the first of the objects until told that it is over; answers how often, and nanoseconds.
pub(super) const REPLACE: Function<'static> = Function::new("state-replace");
/// Tells that it is over.
pub(super) const END_REPLACING: Function<'static> = Function::new("state-end-replacing");

/// Gets of one sample where a get takes little more than a reading of the clock.
pub const GETS_PER_SAMPLE: u64 = 16;

/// The object that inputs are put into.
const INPUT: &str = "input";
/// The object that says that it is over.
const OVER: &str = "over";
/// The longest that one function waits for another, or goes on without it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Replacements between two looks at whether it is over: a look is a read of the state, which takes its time too.
const REPLACEMENTS_PER_LOOK: u64 = 16;
/// Values from this size on are looked at after each replacement, which takes long enough.
const LARGE_VALUE_BYTES: u64 = 64 << 10;
/// Puts of [`PLACES`] for each object: more than there are places a value could come to lie at.
const PUTS_PER_OBJECT: u64 = 8;

/// What a call of these functions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order {
    /// The core to run on; any if there is none.
    pub(super) cpu: Option<u64>,
    pub(super) warm_up: u64,
    pub(super) samples: u64,
    /// Number of the first object.
    pub(super) first: u64,
    /// How many objects there are.
    pub(super) objects: u64,
    pub(super) value_bytes: u64,
    /// Time between two operations, in nanoseconds.
    pub(super) pause_ns: u64,
    /// From which random numbers follow; odd.
    pub(super) seed: u64,
}

impl Order {
    const WORDS: usize = 8;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Self { cpu, warm_up, samples, first, objects, value_bytes, pause_ns, seed } = self;
        let cpu = cpu.unwrap_or(u64::MAX);
        let words = [cpu, warm_up, samples, first, objects, value_bytes, pause_ns, seed];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: [_; Self::WORDS] = words.try_into().ok().filter(|_| rest.is_empty())?;
        let [cpu, warm_up, samples, first, objects, value_bytes, pause_ns, seed] = words.map(u64::from_le_bytes);
        let cpu = (cpu != u64::MAX).then_some(cpu);
        Some(Self { cpu, warm_up, samples, first, objects, value_bytes, pause_ns, seed })
    }

    /// What the call says; the worker is on its core until the guard is dropped. It does not stay there: the next call of this
    /// worker may be for the other core, which it could not take while the other worker spins on this one.
    fn of(call: &Call<'_>) -> FunctionResult<(Self, Pinned)> {
        let order = Self::from_bytes(call.input()).ok_or_else(|| failed("the input is no order"))?;
        let cpu = order.cpu.map(usize::try_from).transpose()?;
        Ok((order, Pinned::to(cpu).map_err(|error| failed(&error))?))
    }

    fn batch(self) -> Batch {
        Batch { warm_up: self.warm_up, samples: self.samples }
    }

    fn value(self) -> FunctionResult<Vec<u8>> {
        let mut value = vec![0; usize::try_from(self.value_bytes)?];
        fill(&mut value, self.first);
        Ok(value)
    }

    /// The key of the object that comes after `turn` others.
    fn key_in_turn(self, turn: u64) -> String {
        key(self.first + turn % self.objects.max(1))
    }

    /// The keys of all objects: made beforehand, so that an operation is not charged for them.
    fn keys(self) -> Vec<String> {
        (0..self.objects).map(|turn| self.key_in_turn(turn)).collect()
    }
}

/// Every key has as many bytes.
pub(super) const KEY_BYTES: usize = 15;

fn key(number: u64) -> String {
    format!("object/{number:08}")
}

/// The application with these functions too.
pub(super) fn with_state_functions(application: Application) -> Application {
    application
        .function(FILL.name(), fill_objects)
        .function(GET.name(), get)
        .function(GET_GROUPS.name(), get_groups)
        .function(GET_REPLACED.name(), get_replaced)
        .function(GET_RANDOM.name(), get_random)
        .function(PUT.name(), put)
        .function(PUT_SAFELY.name(), put_safely)
        .function(PUT_INPUT.name(), |call: &mut Call| -> FunctionResult {
            call.context().put_bytes(INPUT, call.input())?;
            Ok(())
        })
        .function(PLACES.name(), places)
        .function(REPLACE.name(), replace)
        .function(END_REPLACING.name(), |call: &mut Call| -> FunctionResult {
            call.context().put_bytes(OVER, b"")?;
            Ok(())
        })
}

fn fill_objects(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let value = order.value()?;
    for turn in 0..order.objects {
        context.put_bytes(&order.key_in_turn(turn), &value)?;
    }
    Ok(())
}

/// Gets an object and reads its first and its last line. Returns its version.
#[inline]
fn look(context: &Context<'_>, key: &str) -> FunctionResult<u64> {
    let object = context.state_bytes(key)?.ok_or_else(missing)?;
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    black_box([word(object.first_chunk()), word(object.last_chunk())]);
    Ok(object.version())
}

fn get(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let key = order.key_in_turn(0);
    timed(order.batch(), || look(&context, &key).map(drop)).map(|samples| samples.to_bytes())
}

fn get_groups(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let key = order.key_in_turn(0);
    let group = || (0..GETS_PER_SAMPLE).try_for_each(|_| look(&context, &key).map(drop));
    timed_groups(order.batch(), GETS_PER_SAMPLE, group).map(|samples| samples.to_bytes())
}

fn get_replaced(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let key = order.key_in_turn(0);
    let (until, version) = (Instant::now() + PATIENCE, look(&context, &key)?);
    while look(&context, &key)? == version {
        if Instant::now() > until {
            return Err(failed("nobody replaces the object"));
        }
    }
    if order.pause_ns == 0 {
        return timed(order.batch(), || look(&context, &key).map(drop)).map(|samples| samples.to_bytes());
    }
    let samples = timed_spans(order.batch(), |clock| {
        pause(clock, order.pause_ns);
        let start = clock.ticks();
        look(&context, &key)?;
        Ok(clock.ticks().saturating_sub(start))
    });
    samples.map(|samples: Samples| samples.to_bytes())
}

fn get_random(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let batch = order.batch();
    let mut random = order.seed | 1;
    let mut text = String::new();
    for _ in 0..batch.operations() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        text.push_str(&order.key_in_turn(random));
    }
    let mut at = 0;
    let samples = timed(batch, || {
        let key = &text[at..at + KEY_BYTES];
        at += KEY_BYTES;
        look(&context, key).map(drop)
    });
    samples.map(|samples| samples.to_bytes())
}

fn put(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let (value, keys) = (order.value()?, order.keys());
    let mut keys = keys.iter().cycle();
    let samples = timed(order.batch(), || -> FunctionResult {
        context.put_bytes(keys.next().ok_or_else(missing)?, &value)?;
        Ok(())
    });
    samples.map(|samples| samples.to_bytes())
}

fn put_safely(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let (value, keys) = (order.value()?, order.keys());
    let mut keys = keys.iter().cycle();
    let samples = timed(order.batch(), || -> FunctionResult {
        context.put_bytes(keys.next().ok_or_else(missing)?, &value)?;
        context.barrier(PATIENCE).map(drop).map_err(|error| failed(&error))
    });
    samples.map(|samples| samples.to_bytes())
}

fn places(call: &mut Call<'_>) -> FunctionResult<[u8; 8]> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let value = order.value()?;
    let mut places = BTreeSet::new();
    for turn in 0..order.objects * PUTS_PER_OBJECT {
        let key = order.key_in_turn(turn);
        context.put_bytes(&key, &value)?;
        // The first rounds take fresh memory until what they replace comes back.
        if turn >= order.objects * PUTS_PER_OBJECT / 2 {
            places.insert(context.state_bytes(&key)?.ok_or_else(missing)?.as_ptr());
        }
    }
    Ok((places.len() as u64).to_le_bytes())
}

fn replace(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), Order::of(call)?);
    let (value, key) = (order.value()?, order.key_in_turn(0));
    let replacements_per_look = if order.value_bytes < LARGE_VALUE_BYTES { REPLACEMENTS_PER_LOOK } else { 1 };
    let (clock, mut replacements) = (Clock::calibrated(), 0_u64);
    let (start, until) = (clock.ticks(), Instant::now() + PATIENCE);
    while context.state_bytes(OVER)?.is_none() && Instant::now() < until {
        for _ in 0..replacements_per_look {
            context.put_bytes(&key, &value)?;
        }
        replacements += replacements_per_look;
    }
    let span_ns = clock.ns_between(start, clock.ticks());
    context.delete(OVER)?;
    Ok([replacements, span_ns].iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn pause(clock: Clock, pause_ns: u64) {
    let start = clock.ticks();
    while clock.ns_between(start, clock.ticks()) < pause_ns {
        std::hint::spin_loop();
    }
}

#[cold]
fn missing() -> FunctionError {
    failed("the object is not there")
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;

    const ORDER: Order =
        Order { cpu: None, warm_up: 2, samples: 20, first: 5, objects: 3, value_bytes: 64, pause_ns: 0, seed: 9 };

    #[test]
    fn orders_travel_as_bytes() {
        for order in [ORDER, Order { cpu: Some(1), ..ORDER }] {
            assert_eq!(Order::from_bytes(&order.to_bytes()), Some(order));
        }
        assert_eq!(Order::from_bytes(&[0; 8 * Order::WORDS - 1]), None);
        assert_eq!(key(99_999_999).len(), KEY_BYTES);
    }

    #[test]
    fn functions_answer_as_many_samples_as_were_ordered() {
        let harness = Harness::new(|| with_state_functions(Application::new())).expect("the application is sound");
        let order = ORDER.to_bytes();
        assert!(harness.invoke(GET.name(), &order).is_err(), "nothing is there yet");
        harness.invoke(FILL.name(), &order).expect("it fills");
        for function in [GET, GET_GROUPS, GET_RANDOM, PUT, PUT_SAFELY] {
            let answer = harness.invoke(function.name(), &order).expect("it measures");
            assert_eq!(Samples::from_bytes(&answer).expect("samples").count(), ORDER.samples);
        }
        let places = harness.invoke(PLACES.name(), &order).expect("it looks");
        assert!(u64::from_le_bytes(places.try_into().expect("a word")) >= ORDER.objects);
        harness.invoke(END_REPLACING.name(), b"").expect("it says so");
        let replaced = harness.invoke(REPLACE.name(), &order).expect("it ends at once");
        assert_eq!(replaced[..8], [0; 8]);
    }
}
