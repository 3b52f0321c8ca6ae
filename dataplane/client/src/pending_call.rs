//! A call on its way, whichever way that is: the one type that callers see.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use praas_protocol::{CallError, Idempotency};

use crate::deadline::Deadline;
use crate::function::Function;
use crate::payload::Payload;
use crate::pending::LanePending;
use crate::remote::{RemotePending, RemoteProcess};
use crate::reply::Reply;

/// A call whose reply has not been collected.
///
/// [`wait`](Pending::wait) blocks for the reply; `.await` works on any executor. Dropping it cancels the call: the function
/// may still run, its reply is thrown away, and the lane keeps the call's room until then.
///
/// ```no_run
/// # let client = praas_client::Client::connect_default()?;
/// # let alice = client.process("hello/alice".parse()?)?;
/// // Pipelined: all three are on their way before the first reply is collected.
/// let calls = [alice.start("echo", b"a")?, alice.start("echo", b"b")?, alice.start("echo", b"c")?];
/// for call in calls {
///     println!("{:?}", call.wait()?.as_slice());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a pending call cancels it"]
pub struct Pending<'a> {
    way: Way<'a>,
}

/// Built where it stays: a call in a lane is large, and moving or boxing it would show in a pipelined one.
enum Way<'a> {
    Lane(LanePending<'a>),
    Network(RemotePending<'a>),
}

impl<'a> Pending<'a> {
    #[inline(always)]
    pub(crate) fn lane(pending: LanePending<'a>) -> Self {
        Self { way: Way::Lane(pending) }
    }

    /// Sent over the network at once, by a call that keeps nothing of its caller's.
    pub(crate) fn remote(
        process: &Arc<RemoteProcess>,
        function: Function<'_>,
        payload: Payload<'_>,
        deadline: Deadline,
        idempotency: Option<Idempotency>,
    ) -> Result<Pending<'static>, CallError> {
        let pending = RemotePending::started(process, function, payload, deadline, idempotency)?;
        Ok(Pending { way: Way::Network(pending) })
    }

    /// Sent over the network when it is first polled.
    pub(crate) fn remote_unsent(
        process: &Arc<RemoteProcess>,
        function: Function<'_>,
        payload: Payload<'a>,
        deadline: Deadline,
        idempotency: Option<Idempotency>,
    ) -> Self {
        let pending = RemotePending::borrowing(process, function, payload, deadline).keyed(idempotency);
        Self { way: Way::Network(pending) }
    }

    /// Waits for the reply, to the call's deadline.
    ///
    /// # Errors
    /// [`CallError`]: how the call ended, or why it never ran.
    #[inline]
    pub fn wait(self) -> Result<Reply, CallError> {
        match self.way {
            Way::Lane(pending) => pending.wait(),
            Way::Network(mut pending) => pending.finish(),
        }
    }

    /// Whether [`wait`](Pending::wait) would return at once, because the call was answered or its connection was lost.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.way {
            Way::Lane(pending) => pending.is_done(),
            Way::Network(pending) => pending.is_done(),
        }
    }

    /// Stops waiting. The function sees that nobody waits any more; it may still run to its end.
    pub fn cancel(self) {
        drop(self);
    }
}

impl Future for Pending<'_> {
    type Output = Result<Reply, CallError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Nothing in it is pinned: every field may move.
        match &mut self.get_mut().way {
            Way::Lane(pending) => pending.poll(context.waker()),
            Way::Network(pending) => pending.poll(context.waker()),
        }
    }
}

impl fmt::Debug for Pending<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (process, function, stage) = match &self.way {
            Way::Lane(pending) => (pending.process_id(), pending.function_name(), pending.stage_name()),
            Way::Network(pending) => (pending.process_id(), pending.function_name(), pending.stage_name()),
        };
        formatter
            .debug_struct("Pending")
            .field("process", &process)
            .field("function", function)
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}
