//! How safe what this process has changed is, and the waits for it.
//!
//! A process whose durability is `logged` tells nobody of anything that is not in its log: its replies are held by
//! `praas_shm::held_replies`, and everything else that leaves it (messages to others, nested calls, answers on connections of
//! its own) waits here first. Without a log each of these is one predictable branch.
//!
//! Every wait has a deadline, and ends soon after the caller of the running call has given up.

use std::time::{Duration, Instant};

use praas_protocol::message::codes;
use praas_protocol::{Durability, Name};
use praas_shm::log_ring::DurableWatch;

use crate::context::Context;
use crate::error::FunctionError;
use crate::limits::{DURABLE_LOOK_PERIOD, EFFECT_WAIT_MAX};
use crate::messages::{Party, SendError};

/// The log of a process, as its worker sees it.
#[derive(Debug)]
pub(crate) struct DurabilityRoom {
    watch: Option<DurableWatch>,
}

impl DurabilityRoom {
    pub(crate) fn new(watch: Option<DurableWatch>) -> Self {
        Self { watch }
    }

    /// What the answer of a call passes whose caller has so much time.
    pub(crate) fn gate(&self, time_left: Option<Duration>) -> AnswerGate {
        AnswerGate(self.watch.clone().map(|watch| (watch, time_left.unwrap_or(EFFECT_WAIT_MAX))))
    }
}

/// Why something that has to be durable first was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what this process has changed is not durable after {waited:?}: its log is at position {durable} of {position}; its disk \
     may be slow or full"
)]
pub struct NotDurable {
    /// Up to where all had to be durable.
    pub position: u64,
    /// Up to where it is.
    pub durable: u64,
    /// How long it was waited for.
    pub waited: Duration,
}

impl NotDurable {
    /// What a function answers that passes it on with `?`.
    pub(crate) fn to_answer(self) -> FunctionError {
        FunctionError::of_sdk(codes::NOT_DURABLE, self.to_string())
    }
}

/// An answer that leaves over a connection of this worker's own, where none is held.
#[derive(Debug)]
pub(crate) struct AnswerGate(Option<(DurableWatch, Duration)>);

impl AnswerGate {
    /// Waits until everything is durable that the call could see.
    pub(crate) fn pass(&self) -> Result<(), NotDurable> {
        let Some((watch, within)) = &self.0 else { return Ok(()) };
        let (position, began) = (watch.position(), Instant::now());
        if watch.wait(position, began + *within) {
            return Ok(());
        }
        Err(NotDurable { position, durable: watch.durable(), waited: began.elapsed() })
    }
}

impl<'call> Context<'call> {
    /// How safe what this process changes is before anybody is told of it; see `durability` in `praas.toml`.
    #[must_use]
    pub fn durability(&self) -> Durability {
        if self.durability_room().watch.is_some() { Durability::Logged } else { Durability::Memory }
    }

    /// Waits until everything that this process has changed so far is as safe as its durability says, at most for `within`.
    /// Returns that level: a process whose durability is `memory` does not wait.
    ///
    /// Replies, messages to others and nested calls wait by themselves: this is for whatever else a function does that others
    /// can see, such as a request to a service outside.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use praas_function::{Call, Durability, FunctionResult};
    ///
    /// fn pay(call: &mut Call) -> FunctionResult {
    ///     let context = call.context();
    ///     context.put_bytes("payments/42", call.input())?;
    ///     if context.barrier(Duration::from_secs(2))? == Durability::Logged {
    ///         // From here on the payment is known, whatever becomes of this host.
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = pay;
    /// ```
    ///
    /// # Errors
    /// [`NotDurable`] when the time was over, or the caller gave up.
    pub fn barrier(&self, within: Duration) -> Result<Durability, NotDurable> {
        self.before_effect(Some(within)).map(|()| self.durability())
    }

    /// Before anything leaves the process that others can see: waits until what was changed so far is durable, at most for
    /// `within`, or for as long as the call has.
    #[inline]
    pub(crate) fn before_effect(&self, within: Option<Duration>) -> Result<(), NotDurable> {
        match &self.durability_room().watch {
            None => Ok(()),
            Some(watch) => self.wait_until_durable(watch, within),
        }
    }

    /// The same before a message is sent. One to the process itself stays in it.
    #[inline]
    pub(crate) fn before_send(&self, to: Party<'_>, within: Option<Duration>) -> Result<(), SendError> {
        if self.durability_room().watch.is_none() { Ok(()) } else { self.wait_before_send(to, within) }
    }

    #[cold]
    fn wait_before_send(&self, to: Party<'_>, within: Option<Duration>) -> Result<(), SendError> {
        let own = self.own_id().process.into();
        let to = to.resolve(&own)?;
        if to == own {
            return Ok(());
        }
        self.before_effect(within).map_err(|error| SendError::Unavailable { to, reason: error.to_string() })
    }

    /// The same before a nested call of this process.
    #[inline]
    pub(crate) fn before_call(&self, process: Name, within: Duration) -> Result<(), NotDurable> {
        if process == self.own_id().process { Ok(()) } else { self.before_effect(Some(within)) }
    }

    fn wait_until_durable(&self, watch: &DurableWatch, within: Option<Duration>) -> Result<(), NotDurable> {
        let position = watch.position();
        if watch.is_durable(position) {
            return Ok(());
        }
        let within = within.or_else(|| self.time_remaining()).unwrap_or(EFFECT_WAIT_MAX);
        let began = Instant::now();
        loop {
            let left = within.saturating_sub(began.elapsed());
            if watch.wait(position, Instant::now() + left.min(DURABLE_LOOK_PERIOD)) {
                return Ok(());
            }
            if left.is_zero() || self.is_cancelled() {
                return Err(NotDurable { position, durable: watch.durable(), waited: began.elapsed() });
            }
        }
    }
}
