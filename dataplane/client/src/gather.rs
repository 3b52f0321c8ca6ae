//! One call to each of several processes, and all their ends together.

use std::time::{Duration, Instant};

use praas_protocol::{CallError, Idempotency, IdempotencyKey};

use crate::function::Function;
use crate::pending_call::Pending;
use crate::process::Process;
use crate::reply::Reply;

/// A call to several processes being put together: [`Process::call_all`] starts it, [`CallAll::send`] ends it.
///
/// ```no_run
/// # use std::time::Duration;
/// # use praas_client::Process;
/// # let client = praas_client::Client::connect_default()?;
/// let shards = [client.process("search/one".parse()?)?, client.process("search/two".parse()?)?];
/// for reply in Process::call_all(&shards, "search").payload(b"needle").deadline(Duration::from_millis(50)).send() {
///     println!("{:?}", reply.map(|reply| reply.len()));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "calls that are not sent do nothing"]
pub struct CallAll<'a> {
    processes: &'a [Process],
    function: Function<'a>,
    payload: &'a [u8],
    deadline: Option<Duration>,
    idempotency: Option<Idempotency>,
}

impl Process {
    /// Calls a function of each process with the same payload and waits for all: one end for each, in their order, within
    /// one deadline. All are on their way before the first is waited for.
    pub fn invoke_all<'a>(
        processes: &'a [Self],
        function: impl Into<Function<'a>>,
        payload: &'a [u8],
    ) -> Vec<Result<Reply, CallError>> {
        Self::call_all(processes, function).payload(payload).send()
    }

    /// The same with options of its own.
    pub fn call_all<'a>(processes: &'a [Self], function: impl Into<Function<'a>>) -> CallAll<'a> {
        CallAll { processes, function: function.into(), payload: &[], deadline: None, idempotency: None }
    }
}

impl<'a> CallAll<'a> {
    /// What each function gets; empty unless given.
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Time until the caller stops waiting, for all of them together.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// As [`Call::idempotency_key`](crate::Call::idempotency_key), for each of the calls: each process keeps its own records.
    pub fn idempotency_key(mut self, key: IdempotencyKey) -> Self {
        self.idempotency = Some(key.into());
        self
    }

    /// Sends all calls and waits for all.
    #[must_use]
    pub fn send(self) -> Vec<Result<Reply, CallError>> {
        let Some(first) = self.processes.first() else { return Vec::new() };
        let limit = self.deadline.unwrap_or_else(|| first.call_deadline());
        let end = Instant::now().checked_add(limit);
        let mut calls: Vec<Call> = Vec::with_capacity(self.processes.len());
        // The first one that may still be on its way.
        let mut oldest = 0;
        for process in self.processes {
            let call = loop {
                let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
                match process.start_within(self.function, self.payload.into(), Some(left), self.idempotency) {
                    Ok(pending) => break Call::Pending(Box::new(pending)),
                    // Some of the room may be ours: a call that has ended makes some.
                    Err(CallError::Overloaded { .. }) if oldest < calls.len() => {
                        calls[oldest].finish();
                        oldest += 1;
                    }
                    Err(CallError::Overloaded { .. }) => {
                        let (function, payload, left) = (self.function, self.payload.into(), Some(left));
                        break Call::Ended(match self.idempotency {
                            None => process.invoke_within(function, payload, left),
                            Some(idempotency) => process.invoke_once(function, payload, left, idempotency),
                        });
                    }
                    Err(error) => break Call::Ended(Err(error)),
                }
            };
            calls.push(call);
        }
        calls.into_iter().map(Call::into_end).collect()
    }
}

enum Call {
    Pending(Box<Pending<'static>>),
    Ended(Result<Reply, CallError>),
}

impl Call {
    fn finish(&mut self) {
        let own = std::mem::replace(self, Self::Ended(Err(CallError::Cancelled)));
        *self = Self::Ended(own.into_end());
    }

    fn into_end(self) -> Result<Reply, CallError> {
        match self {
            Self::Pending(pending) => pending.wait(),
            Self::Ended(end) => end,
        }
    }
}
