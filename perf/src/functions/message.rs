//! Functions of plot `ipc`: two processes that send each other messages, by the loop that every system is timed by.
//!
//! Small messages are sent from a buffer of the function's own; larger ones are built where they will be read. Between hosts
//! no answer to a message is waited for before the message back has come.

use std::time::Duration;

use praas_benches::subject::MessageOrder;
use praas_client::Function;
use praas_function::messages::{MessageLoan, PendingSend};
use praas_function::{Application, Call, Context, FunctionError, FunctionResult};
use praas_protocol::Name;

use crate::harness::one_way::{self, End, Spans, fill_message};

/// Asks, within a host; answers the spans.
pub const ASK: Function<'static> = Function::new("one-way-ask");
/// Answers, within a host; answers the spans.
pub const ANSWER: Function<'static> = Function::new("one-way-answer");
/// Asks, between hosts.
pub const ASK_FAR: Function<'static> = Function::new("one-way-ask-far");
/// Answers, between hosts.
pub const ANSWER_FAR: Function<'static> = Function::new("one-way-answer-far");

const KEY: &str = "message";
/// Messages of at least this many bytes are built where they will be read. Smaller ones travel inline, or nearly so: to copy
/// them costs less than a place of their own.
pub const LOANED_BYTES_MIN: usize = 512;
/// The longest wait for one message.
const PATIENCE: Duration = Duration::from_secs(20);

/// Adds them to a worker's application.
pub(super) fn with_message(application: Application) -> Application {
    application
        .function(ASK.name(), |call: &mut Call| run(call, Side::Asking, Way::Near))
        .function(ANSWER.name(), |call: &mut Call| run(call, Side::Answering, Way::Near))
        .function(ASK_FAR.name(), |call: &mut Call| run(call, Side::Asking, Way::Far))
        .function(ANSWER_FAR.name(), |call: &mut Call| run(call, Side::Answering, Way::Far))
}

/// Where the other process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Near,
    Far,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Asking,
    Answering,
}

fn run(call: &mut Call<'_>, side: Side, way: Way) -> FunctionResult<Vec<u8>> {
    let (order, _pinned) = MessageOrder::of(call)?;
    let bytes = usize::try_from(order.bytes)?;
    let mut end =
        Mailbox { context: call.context(), peer: order.peer, way, bytes, buffer: vec![0; bytes], unanswered: None };
    let spans: Spans = match side {
        Side::Asking => one_way::ask(&mut end, order.batch(), bytes)?,
        Side::Answering => one_way::answer(&mut end, order.batch(), bytes)?,
    };
    Ok(spans.to_bytes())
}

/// A process's end.
struct Mailbox<'call> {
    context: Context<'call>,
    peer: Name,
    way: Way,
    bytes: usize,
    buffer: Vec<u8>,
    /// The last message, of which nobody knows yet whether it has arrived.
    unanswered: Option<PendingSend<'call>>,
}

/// A message before it is sent.
enum Built<'call> {
    InBuffer,
    InPlace(MessageLoan<'call>),
}

impl<'call> End for Mailbox<'call> {
    type Error = FunctionError;
    type Built = Built<'call>;

    fn build(&mut self, seed: u64) -> FunctionResult<Built<'call>> {
        // Its answer came long ago: before the message back, or a moment after it.
        self.finish()?;
        if self.bytes < LOANED_BYTES_MIN {
            fill_message(&mut self.buffer, seed);
            return Ok(Built::InBuffer);
        }
        let mut loan = self.context.loan_message(self.peer.as_str(), self.bytes)?;
        fill_message(&mut loan, seed);
        Ok(Built::InPlace(loan))
    }

    #[inline]
    fn send(&mut self, built: Built<'call>, _is_answered: bool) -> FunctionResult {
        match (built, self.way) {
            (Built::InBuffer, Way::Near) => drop(self.context.send(self.peer.as_str(), KEY, &self.buffer)?),
            (Built::InPlace(loan), Way::Near) => drop(loan.send(KEY)?),
            (Built::InBuffer, Way::Far) => {
                self.unanswered = Some(self.context.start_send(self.peer.as_str(), KEY, &self.buffer)?);
            }
            (Built::InPlace(loan), Way::Far) => self.unanswered = Some(loan.start(KEY)?),
        }
        Ok(())
    }

    #[inline]
    fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> FunctionResult<T> {
        let message = self.context.recv(self.peer.as_str(), KEY, PATIENCE)?;
        let seen = read(message.bytes());
        message.accept()?;
        Ok(seen)
    }

    fn finish(&mut self) -> FunctionResult {
        Ok(self.unanswered.take().map(|sent| sent.wait_within(PATIENCE)).transpose().map(drop)?)
    }
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;

    #[test]
    fn an_input_that_is_no_order_is_refused() {
        let harness = Harness::new(|| with_message(Application::new())).expect("the application is sound");
        for function in [ASK, ANSWER, ASK_FAR, ANSWER_FAR] {
            let error = harness.invoke(function.name(), b"no order").expect_err("it is refused").to_string();
            assert!(error.contains("no order"), "{error}");
        }
    }
}
