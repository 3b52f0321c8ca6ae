//! Calls with idempotency keys, as a worker runs them: once, whoever repeats them.
//!
//! Which of several equal calls runs is settled in the state of the process (`praas_shm::objects::Store::begin_call`). A worker
//! that finds that another one runs the call waits for its end, standing aside, and looks again and again: a call that ends
//! rings nobody for that, and the wait grows with what the call takes anyway.
//!
//! 1. What refuses a call before its function is known to run (no such function, no right, another payload, no room) is not
//!    recorded. Everything that the function itself comes to is: its output, its error, its panic.
//! 2. The end is recorded before it is answered. A worker that dies in between leaves a finished call, whose repetition gets
//!    the answer.
//! 3. Every wait ends: with the end of the other call, with the caller's deadline, when nobody waits for the answer any more,
//!    or after [`DUPLICATE_WAIT_MAX`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use praas_protocol::control::StateWanted;
use praas_protocol::idempotency::payload_digest;
use praas_protocol::{FunctionId, Idempotency, Outcome};
use praas_shm::objects::{Begun, CallClaim, CallClock, CallEnd, CallName, FinishedCall, StateError, Store};

use crate::context::Context;
use crate::error::saturated;
use crate::limits::{DUPLICATE_LOOK_PAUSE_MAX, DUPLICATE_WAIT_MAX};
use crate::messages::MessageRoom;
use crate::standing_aside::StandingAside;
use crate::state;

/// A call with a key.
#[derive(Debug)]
pub(crate) struct KeyedCall {
    name: CallName,
    digest: [u8; 16],
    rerun_lost: bool,
}

/// What is to be done for a call with a key.
#[derive(Debug)]
pub(crate) enum Standing<'s, 'n> {
    /// It is run here, and its end recorded.
    Run(CallClaim<'s, 'n>),
    /// It has ended so.
    Ended(FinishedCall<'s>),
    /// It is answered so, with two words of detail.
    Refused(Outcome, u32, u32),
}

impl KeyedCall {
    pub(crate) fn new(context: &Context<'_>, function: FunctionId, idempotency: Idempotency, payload: &[u8]) -> Self {
        let Idempotency { key, rerun_lost } = idempotency;
        Self { name: CallName::new(&context.principal(), function, key), digest: payload_digest(payload), rerun_lost }
    }

    /// Begins the call, or waits for the end of an equal one that runs.
    pub(crate) fn begin<'s, 'n>(
        &'n self,
        store: &'s Store,
        context: &Context<'_>,
        kept_for: Duration,
    ) -> Standing<'s, 'n> {
        let look = || store.begin_call(&self.name, self.digest, self.rerun_lost, clock(kept_for));
        let begun = match look() {
            Err(error @ StateError::Away { .. }) => self.begin_away(error, context, look),
            begun => begun,
        };
        settled(begun).unwrap_or_else(|| wait(context, look))
    }

    /// What is remembered of the call is in storage since the process has slept.
    #[cold]
    fn begin_away<'s, 'n>(
        &'n self,
        error: StateError,
        context: &Context<'_>,
        look: impl Fn() -> Result<Begun<'s, 'n>, StateError>,
    ) -> Result<Begun<'s, 'n>, StateError> {
        let key = self.name.key();
        let (namespace, key) = (key.namespace().0, key.text().to_owned());
        let wanted = StateWanted::Object { namespace, key, with_value: true };
        let begun = context.insist_on_state(error.clone().into(), &wanted, || Ok(look()?));
        // Nothing ran: it is refused as what the memory refuses.
        begun.map_err(|refused| match refused {
            state::StateError::Memory(refused) => refused,
            other => {
                eprintln!(
                    "praas worker: a call with an idempotency key is refused, because what is known of it: {other}"
                );
                error
            }
        })
    }
}

/// Looks until the call that runs has ended, whenever the bell of the process is rung: by who ends such a call, or for any other
/// reason. The end of a worker rings nobody; it is found by the next look.
#[cold]
fn wait<'s, 'n>(context: &Context<'_>, look: impl Fn() -> Result<Begun<'s, 'n>, StateError>) -> Standing<'s, 'n> {
    let aside = StandingAside::begin(context);
    let (began, bell) = (Instant::now(), context.message_room().bell());
    loop {
        if context.is_cancelled() && context.time_remaining() != Some(Duration::ZERO) {
            return Standing::Refused(Outcome::Cancelled, 0, 0);
        }
        let left = context.time_remaining().unwrap_or(DUPLICATE_WAIT_MAX);
        let left = left.min(DUPLICATE_WAIT_MAX.saturating_sub(began.elapsed()));
        if left.is_zero() {
            return Standing::Refused(Outcome::DeadlineExceeded, 0, 0);
        }
        let pause = left.min(aside.slice()).min(DUPLICATE_LOOK_PAUSE_MAX);
        let found = match &bell {
            Some(bell) => bell.wait_unless(|| settled(look()), pause),
            None => settled(look()).or_else(|| {
                std::thread::sleep(pause);
                None
            }),
        };
        if let Some(standing) = found {
            return standing;
        }
        aside.look_again();
    }
}

/// What a look means; `None`: look again.
fn settled<'s, 'n>(begun: Result<Begun<'s, 'n>, StateError>) -> Option<Standing<'s, 'n>> {
    Some(match begun {
        Ok(Begun::Run(claim)) => Standing::Run(claim),
        Ok(Begun::Running) => return None,
        Ok(Begun::Finished(finished)) => Standing::Ended(finished),
        Ok(Begun::Lost) => Standing::Refused(Outcome::WorkerLost, 0, 0),
        Ok(Begun::OtherPayload) => Standing::Refused(Outcome::KeyReused, 0, 0),
        Ok(Begun::Full { used, limit }) => overloaded(used, limit),
        Err(StateError::Full { needed_bytes, free_bytes, limit_bytes, .. }) => {
            overloaded(limit_bytes.saturating_sub(free_bytes).saturating_add(needed_bytes), limit_bytes)
        }
        // The lock, the index, pins or loans are in use, or the state is damaged: nothing ran.
        Err(_) => overloaded(1, 1),
    })
}

fn overloaded<'s, 'n>(used: u64, limit: u64) -> Standing<'s, 'n> {
    let [limit, used] = [limit, used].map(|figure| u32::try_from(figure).unwrap_or(u32::MAX));
    Standing::Refused(Outcome::Overloaded, limit, used)
}

/// Records the end of a call that was run, if it has a key, and wakes who waits for it.
#[inline]
pub(crate) fn record(claim: Option<CallClaim<'_, '_>>, end: &CallEnd<'_>, kept_for: Duration, messages: &MessageRoom) {
    if let Some(claim) = claim {
        finish(claim, end, kept_for, messages);
    }
}

#[cold]
fn finish(claim: CallClaim<'_, '_>, end: &CallEnd<'_>, kept_for: Duration, messages: &MessageRoom) {
    let without_reply = (Outcome::ReplyLost as u32, 0, saturated(end.reply.len()));
    if let Err(error) = claim.finish(end, without_reply, clock(kept_for)) {
        eprintln!(
            "praas worker: the end of a call with an idempotency key could not be recorded ({error}): its repetitions wait \
             until this worker ends"
        );
    }
    if let Some(bell) = messages.bell() {
        bell.ring_if_parked();
    }
}

fn clock(kept_for: Duration) -> CallClock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    CallClock { now_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), kept_for }
}
