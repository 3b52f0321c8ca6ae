//! Calls of the no-op that one thread keeps in flight over a lane: the load of what counts calls a second.
//!
//! Invariant: no more than its depth are in flight, and replies are checked in the order of their calls.

use praas_client::{Pipeline, Process};

use super::{NOOP, SubjectError, check_noop, noop_payload};

/// Calls in flight, oldest first.
#[derive(Debug)]
pub struct Window {
    calls: Pipeline<'static>,
    /// Of the newest call.
    sent: u64,
    /// Of the newest reply.
    received: u64,
}

impl Window {
    /// Room for `depth` calls of this process at a time.
    #[must_use]
    pub fn new(process: &Process, depth: usize) -> Self {
        Self { calls: process.pipeline(depth), sent: 0, received: 0 }
    }

    /// Sends the next call; collects the oldest reply before it if as many are in flight as may be.
    ///
    /// # Errors
    /// Any [`SubjectError`]: of the call that is sent, or of the one whose reply is collected.
    #[inline]
    pub fn call(&mut self) -> Result<(), SubjectError> {
        if self.calls.is_full() {
            self.collect()?;
        }
        self.sent += 1;
        Ok(self.calls.send(NOOP, &noop_payload(self.sent))?)
    }

    #[inline]
    fn collect(&mut self) -> Result<(), SubjectError> {
        let Some(reply) = self.calls.receive() else { return Ok(()) };
        self.received += 1;
        check_noop(self.received, &reply?)
    }

    /// Collects all replies.
    ///
    /// # Errors
    /// Any [`SubjectError`].
    pub fn drain(&mut self) -> Result<(), SubjectError> {
        while !self.calls.is_empty() {
            self.collect()?;
        }
        Ok(())
    }
}
