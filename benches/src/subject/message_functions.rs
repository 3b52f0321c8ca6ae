//! The functions that send each other messages: one measures within one call, the other one answers as many messages as the
//! call says. Each end receives, accepts and sends.
//!
//! A call pins its worker for its duration.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use praas_client::Function;
use praas_function::{Application, Call, Context, FunctionError, FunctionResult, PendingSend};
use praas_protocol::Name;

use super::NOOP_BYTES;
use super::functions::FAILED_CODE;
use super::lane::noop_payload;
use crate::floors::{Batch, Pinned, expected_sum, fill, sum, timed};

/// Answers each message with itself.
pub(super) const ECHO: Function<'static> = Function::new("message-echo");
/// Sends small messages and waits for their echoes; answers the samples.
pub(super) const EXCHANGE: Function<'static> = Function::new("message-exchange");
/// Answers each message with the sum of its words.
pub(super) const ADD_UP: Function<'static> = Function::new("message-add-up");
/// Builds messages in place and waits for their sums; answers the samples.
pub(super) const BUILD: Function<'static> = Function::new("message-build");
/// The same without samples; answers at how many places the messages were built.
pub(super) const BUILD_PLACES: Function<'static> = Function::new("message-build-places");

/// Waits until there is a process of the peer's name, wherever it is.
pub(super) const AWAIT_PEER: Function<'static> = Function::new("message-await-peer");
/// [`EXCHANGE`], but that no answer to a message is waited for before the echo.
pub(super) const VOLLEY: Function<'static> = Function::new("message-volley");
/// [`ECHO`], but that no answer to a message is waited for before the next one.
pub(super) const RETURN: Function<'static> = Function::new("message-return");
/// Sends messages built in place one after the other; answers the samples.
pub(super) const STREAM: Function<'static> = Function::new("message-stream");
/// Receives them.
pub(super) const DRINK: Function<'static> = Function::new("message-drink");

const KEY: &str = "ball";
/// Messages of a stream that its sender has on their way at a time.
const STREAM_IN_FLIGHT: usize = 8;
/// Echoes of a volley whose answers may be outstanding: the last one, and the one before.
const RETURNS_IN_FLIGHT: usize = 2;
/// The longest wait for one message. The first ones wait until their lane is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a call of these functions is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageOrder {
    /// The core to run on; any if there is none.
    pub cpu: Option<u64>,
    /// Operations before the first sample.
    pub warm_up: u64,
    /// Samples to take.
    pub samples: u64,
    /// Bytes of a message that is built in place.
    pub bytes: u64,
    /// The process of the other end.
    pub peer: Name,
}

impl MessageOrder {
    const WORDS: usize = 4;

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Self { cpu, warm_up, samples, bytes, peer } = self;
        let words = [cpu.unwrap_or(u64::MAX), warm_up, samples, bytes];
        let mut order: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        order.extend_from_slice(peer.as_str().as_bytes());
        order
    }

    fn from_bytes(order: &[u8]) -> Option<Self> {
        let (words, peer) = order.split_at_checked(8 * Self::WORDS)?;
        let (words, _) = words.as_chunks::<8>();
        let &[cpu, warm_up, samples, bytes] = words else { return None };
        let [cpu, warm_up, samples, bytes] = [cpu, warm_up, samples, bytes].map(u64::from_le_bytes);
        let peer = std::str::from_utf8(peer).ok()?.parse().ok()?;
        Some(Self { cpu: (cpu != u64::MAX).then_some(cpu), warm_up, samples, bytes, peer })
    }

    /// What the call says; the worker is on its core until the guard is dropped.
    ///
    /// # Errors
    /// [`FunctionError`] for an input that is none, or a core that the worker may not have.
    pub fn of(call: &Call<'_>) -> FunctionResult<(Self, Pinned)> {
        let order = Self::from_bytes(call.input()).ok_or_else(|| failed("the input is no order"))?;
        let cpu = order.cpu.map(usize::try_from).transpose()?;
        Ok((order, Pinned::to(cpu).map_err(|error| failed(&error))?))
    }

    /// Both counts.
    #[must_use]
    pub fn batch(self) -> Batch {
        Batch { warm_up: self.warm_up, samples: self.samples }
    }
}

/// The application with these functions too.
pub(super) fn with_message_functions(application: Application) -> Application {
    application
        .function(ECHO.name(), echo)
        .function(EXCHANGE.name(), exchange)
        .function(ADD_UP.name(), add_up)
        .function(BUILD.name(), build)
        .function(BUILD_PLACES.name(), build_places)
        .function(AWAIT_PEER.name(), await_peer)
        .function(VOLLEY.name(), volley)
        .function(RETURN.name(), return_volley)
        .function(STREAM.name(), stream)
        .function(DRINK.name(), drink)
}

fn echo(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let peer = order.peer.as_str();
    for _ in 0..order.batch().operations() {
        let message = context.recv(peer, KEY, PATIENCE)?;
        let payload: [u8; NOOP_BYTES] = message.bytes().try_into()?;
        message.accept()?;
        context.send(peer, KEY, &payload)?;
    }
    Ok(())
}

fn exchange(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let (peer, mut number) = (order.peer.as_str(), 0);
    let samples = timed(order.batch(), || -> FunctionResult {
        number += 1;
        let payload = noop_payload(number);
        context.send(peer, KEY, &payload)?;
        let message = context.recv(peer, KEY, PATIENCE)?;
        if message.bytes() != payload {
            return Err(failed("the echo is another message"));
        }
        Ok(message.accept()?)
    });
    samples.map(|samples| samples.to_bytes())
}

fn add_up(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let peer = order.peer.as_str();
    for _ in 0..order.batch().operations() {
        let message = context.recv(peer, KEY, PATIENCE)?;
        let total = sum(message.bytes());
        message.accept()?;
        context.send(peer, KEY, &total.to_le_bytes())?;
    }
    Ok(())
}

/// Sends a message built in place and checks its sum; the address at which it was built.
fn build_one(context: Context<'_>, order: MessageOrder, seed: u64) -> FunctionResult<*const u8> {
    let (peer, bytes) = (order.peer.as_str(), usize::try_from(order.bytes)?);
    let mut loan = context.loan_message(peer, bytes)?;
    fill(&mut loan, seed);
    let place = loan.as_ptr();
    loan.send(KEY)?;
    let message = context.recv(peer, KEY, PATIENCE)?;
    if message.bytes() != expected_sum(bytes, seed).to_le_bytes() {
        return Err(failed("the sum is another one"));
    }
    message.accept()?;
    Ok(place)
}

fn build(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let mut seed = 0;
    let samples = timed(order.batch(), || {
        seed += 1;
        build_one(context, order, seed).map(drop)
    });
    samples.map(|samples| samples.to_bytes())
}

fn build_places(call: &mut Call<'_>) -> FunctionResult<[u8; 8]> {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let seeds = 0..order.batch().operations();
    let places: BTreeSet<_> = seeds.map(|seed| build_one(context, order, seed)).collect::<FunctionResult<_>>()?;
    Ok((places.len() as u64).to_le_bytes())
}

fn await_peer(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let begun = Instant::now();
    let mut list = context.processes()?;
    while list.state_of(&order.peer).is_none() {
        let left = PATIENCE.checked_sub(begun.elapsed()).ok_or_else(|| failed("the peer does not come"))?;
        list = context.watch_processes(list.change(), left)?;
    }
    Ok(())
}

fn volley(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let (peer, mut number, last) = (order.peer.as_str(), 0, order.batch().operations());
    let mut before: Option<PendingSend<'_>> = None;
    let samples = timed(order.batch(), || -> FunctionResult {
        number += 1;
        let payload = noop_payload(number);
        let sent = context.start_send(peer, KEY, &payload)?;
        let message = context.recv(peer, KEY, PATIENCE)?;
        if message.bytes() != payload {
            return Err(failed("the echo is another message"));
        }
        message.accept()?;
        // The answer to this message may come behind its echo, which has gone another way.
        if let Some(before) = before.replace(sent) {
            before.wait_within(PATIENCE)?;
        }
        if number == last {
            before.take().map(|sent| sent.wait_within(PATIENCE)).transpose()?;
        }
        Ok(())
    });
    samples.map(|samples| samples.to_bytes())
}

fn return_volley(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let peer = order.peer.as_str();
    let mut pending: VecDeque<PendingSend<'_>> = VecDeque::new();
    for _ in 0..order.batch().operations() {
        let message = context.recv(peer, KEY, PATIENCE)?;
        let payload: [u8; NOOP_BYTES] = message.bytes().try_into()?;
        message.accept()?;
        // As above: the answer to the last echo may come behind the message that follows it.
        if pending.len() == RETURNS_IN_FLIGHT {
            pending.pop_front().map(|sent| sent.wait_within(PATIENCE)).transpose()?;
        }
        pending.push_back(context.start_send(peer, KEY, &payload)?);
    }
    for sent in pending {
        sent.wait_within(PATIENCE)?;
    }
    Ok(())
}

fn stream(call: &mut Call<'_>) -> FunctionResult<Vec<u8>> {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let (peer, bytes) = (order.peer.as_str(), usize::try_from(order.bytes)?);
    let (mut number, last) = (0_u64, order.batch().operations());
    let mut pending: VecDeque<PendingSend<'_>> = VecDeque::new();
    let samples = timed(order.batch(), || -> FunctionResult {
        number += 1;
        let mut loan = context.loan_message(peer, bytes)?;
        loan[..8].copy_from_slice(&number.to_le_bytes());
        pending.push_back(loan.start(KEY)?);
        let kept = if number == last { 0 } else { STREAM_IN_FLIGHT };
        while pending.len() > kept {
            pending.pop_front().map(|sent| sent.wait_within(PATIENCE)).transpose()?;
        }
        Ok(())
    });
    samples.map(|samples| samples.to_bytes())
}

fn drink(call: &mut Call<'_>) -> FunctionResult {
    let (context, (order, _pinned)) = (call.context(), MessageOrder::of(call)?);
    let (peer, bytes) = (order.peer.as_str(), usize::try_from(order.bytes)?);
    for number in 1..=order.batch().operations() {
        let message = context.recv(peer, KEY, PATIENCE)?;
        if message.len() != bytes || message[..8] != number.to_le_bytes() {
            return Err(failed("a message came out of order"));
        }
        message.accept()?;
    }
    Ok(())
}

#[cold]
fn failed(reason: &(impl ToString + ?Sized)) -> FunctionError {
    FunctionError::new(FAILED_CODE, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_travel_as_bytes() {
        let order =
            MessageOrder { cpu: None, warm_up: 2, samples: 20, bytes: 1 << 20, peer: "other".parse().expect("a name") };
        for order in [order, MessageOrder { cpu: Some(1), ..order }] {
            assert_eq!(MessageOrder::from_bytes(&order.to_bytes()), Some(order));
        }
        assert_eq!(
            MessageOrder::from_bytes(&order.to_bytes()[..8 * MessageOrder::WORDS]),
            None,
            "nobody at the other end"
        );
        assert_eq!(MessageOrder::from_bytes(&[0; 8 * MessageOrder::WORDS - 1]), None);
    }
}
