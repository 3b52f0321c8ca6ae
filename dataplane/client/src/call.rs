//! One call with options of its own, before it is sent.

use std::future::IntoFuture;
use std::time::Duration;

use praas_protocol::CallError;

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
}

impl<'a> Call<'a> {
    pub(crate) fn new(process: &'a Process, function: Function<'a>) -> Self {
        Self { process, function, payload: Payload::from(&[]), deadline: None }
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

    /// Sends the call and waits for its reply.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    pub fn send(self) -> Result<Reply, CallError> {
        self.process.invoke_within(self.function, self.payload, self.deadline)
    }

    /// Sends the call and returns at once; its reply is collected later.
    ///
    /// # Errors
    /// [`CallError::Overloaded`] when the lane has no room: collect replies first.
    pub fn start(self) -> Result<Pending<'static>, CallError> {
        self.process.start_within(self.function, self.payload, self.deadline)
    }
}

impl<'a> IntoFuture for Call<'a> {
    type Output = Result<Reply, CallError>;
    type IntoFuture = Pending<'a>;

    /// The call as a future. It is sent when first polled, and waits for room in the lane, up to its deadline.
    fn into_future(self) -> Pending<'a> {
        self.process.future(self.function, self.payload, self.deadline)
    }
}
