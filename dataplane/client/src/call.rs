//! One call with options of its own, before it is sent.

use std::future::IntoFuture;
use std::time::Duration;

use praas_protocol::{CallError, Idempotency, IdempotencyKey};

use crate::function::Function;
use crate::payload::Payload;
use crate::pending_call::Pending;
use crate::process::Process;
use crate::reply::Reply;

/// A call being put together: [`Process::call`] starts it, [`Call::send`], [`Call::start`] or `.await` ends it.
///
/// ```no_run
/// # use std::time::Duration;
/// # let client = praas_client::Client::connect_default()?;
/// # let alice = client.process("hello/alice".parse()?)?;
/// let reply = alice.call("search").payload(b"needle").deadline(Duration::from_millis(50)).send()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a call that is neither sent, started nor awaited does nothing"]
pub struct Call<'a> {
    process: &'a Process,
    function: Function<'a>,
    payload: Payload<'a>,
    deadline: Option<Duration>,
    idempotency: Option<Idempotency>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(process: &'a Process, function: Function<'a>) -> Self {
        Self { process, function, payload: Payload::from(&[]), deadline: None, idempotency: None }
    }

    /// What the function gets; empty unless given.
    pub fn payload(mut self, payload: impl Into<Payload<'a>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Time until the caller stops waiting, counted from the start of the call. The function can see what remains of it,
    /// and may still run to its end when it has passed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Makes the call and every repetition of it one call: the function runs once, and all get its answer, or its error.
    ///
    /// Calls of one principal to one function of one process with the same key are the same call, whoever makes them, over lanes or
    /// the network. A repetition waits while the first one runs, and gets the stored answer for 10 minutes after that, unless the
    /// application says otherwise. It survives clients, workers and the server program. So after a lost connection the call is
    /// sent again by itself, until its deadline; and after a deadline, or in another program, it can be repeated by hand.
    ///
    /// ```no_run
    /// use praas_client::{CallError, IdempotencyKey};
    /// # let client = praas_client::Client::connect_default()?;
    /// # let shop = client.process("shop/orders".parse()?)?;
    /// let key: IdempotencyKey = "order/4711".parse()?;
    /// let bill = loop {
    ///     match shop.call("order").payload("two apples").idempotency_key(key).send() {
    ///         // It is ordered once, however often this is tried.
    ///         Err(CallError::DeadlineExceeded { .. }) => {}
    ///         ended => break ended?,
    ///     }
    /// };
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A repetition with another payload is refused with [`CallError::KeyReused`]. If the worker died while it ran the call,
    /// repetitions get [`CallError::WorkerLost`]: see [`Call::rerun_lost`]. The payload may have 32 bytes less than others.
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        let rerun_lost = self.idempotency.is_some_and(|idempotency| idempotency.rerun_lost);
        self.idempotency = Some(Idempotency { key, rerun_lost });
        self
    }

    /// With an idempotency key: if a worker died while it ran the call, run it again, although its effects may then happen
    /// twice. Give the key first; without one this means nothing.
    pub fn rerun_lost(mut self) -> Self {
        self.idempotency = self.idempotency.map(|idempotency| Idempotency { rerun_lost: true, ..idempotency });
        self
    }

    /// Sends the call and waits for its reply.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    pub fn send(self) -> Result<Reply, CallError> {
        match self.idempotency {
            None => self.process.invoke_within(self.function, self.payload, self.deadline),
            Some(idempotency) => self.process.invoke_once(self.function, self.payload, self.deadline, idempotency),
        }
    }

    /// Sends the call, waits for its reply, and puts that into `answer`, whose memory is used again: see [`Process::invoke_into`].
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    pub fn send_into(self, answer: &mut Vec<u8>) -> Result<(), CallError> {
        match self.idempotency {
            None => self.process.invoke_into_within(self.function, self.payload, self.deadline, answer),
            Some(_) => {
                answer.clear();
                self.send()?.move_into(answer);
                Ok(())
            }
        }
    }

    /// Sends the call and returns at once; its reply is collected later.
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane has no room: collect replies first.
    pub fn start(self) -> Result<Pending<'static>, CallError> {
        self.process.start_within(self.function, self.payload, self.deadline, self.idempotency)
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Result<Reply, CallError>;
    type IntoFuture = Pending<'a>;

    /// The call as a future. It is sent when first polled, and waits for room in the lane, up to its deadline.
    fn into_future(self) -> Pending<'a> {
        self.process.future(self.function, self.payload, self.deadline, self.idempotency)
    }
}
