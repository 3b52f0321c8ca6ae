//! What a wait looks at beside what it waits for: the process, the server's messages, and the caller's mind.

use std::cell::Cell;
use std::time::{Duration, Instant};

use praas_protocol::Phase;
use praas_protocol::control::WorkerMessage;

use crate::context::Context;
use crate::standing_aside::StandingAside;
use crate::wake_ups;
use crate::worker::WorkerError;

/// Polls between two looks at everything else.
const POLLS_PER_LOOK_AROUND: u32 = 256;

/// The circumstances of an operation on messages.
pub(crate) trait Around {
    /// Others may work in the worker's stead while it lives.
    type Aside: Aside;

    /// Counts what the server has put on the control socket.
    fn mail_count(&self) -> u32;

    /// The phase of the process.
    fn phase(&self) -> Phase;

    /// Whether nobody waits for the outcome any more.
    fn is_given_up(&self) -> bool;

    /// A wait is about to last.
    fn stand_aside(&self) -> Self::Aside;

    /// A request is about to be published in a call lane: the root id that it carries.
    fn begin_request(&self) -> u128;

    /// The server says what time it is: what is due by then is put into the mailbox.
    fn look_at_wake_ups(&self, _now_unix_ms: u64) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Time that is left for whatever is done; `None` for as much as it takes.
    fn time_left(&self) -> Option<Duration>;
}

/// What a wait owes others.
pub(crate) trait Aside {
    /// How long it may sleep before [`Aside::look_again`].
    fn slice(&self) -> Duration;

    /// After a sleep.
    fn look_again(&self);
}

impl<'call> Around for Context<'call> {
    type Aside = StandingAside<'call>;

    #[inline]
    fn mail_count(&self) -> u32 {
        self.in_call().mail_count()
    }

    #[inline]
    fn phase(&self) -> Phase {
        self.in_call().phase()
    }

    fn is_given_up(&self) -> bool {
        self.is_cancelled() || self.time_remaining() == Some(Duration::ZERO)
    }

    fn stand_aside(&self) -> StandingAside<'call> {
        StandingAside::begin(self)
    }

    #[inline]
    fn begin_request(&self) -> u128 {
        let in_call = self.in_call();
        let root = in_call.root_or(|| self.invoke_room().mint_root());
        if in_call.stop_polling() {
            self.mail().hint(&WorkerMessage::Ring);
        }
        root
    }

    fn look_at_wake_ups(&self, now_unix_ms: u64) -> Result<(), WorkerError> {
        wake_ups::look(self.identity(), now_unix_ms)
    }

    fn time_left(&self) -> Option<Duration> {
        self.time_remaining()
    }
}

impl Aside for StandingAside<'_> {
    fn slice(&self) -> Duration {
        StandingAside::slice(self)
    }

    fn look_again(&self) {
        StandingAside::look_again(self);
    }
}

/// A wait that has begun; it ends with the value. The clock is read when it is asked for the time left, and not before.
pub(super) struct Wait<'a, A: Around> {
    around: &'a A,
    aside: Option<A::Aside>,
    /// When the time left was first asked for: a few microseconds after the beginning, if it polls.
    began: Cell<Option<Instant>>,
    /// The time left when that was last asked for.
    left_last: Cell<Duration>,
    within: Duration,
    polls: u32,
}

impl<'a, A: Around> Wait<'a, A> {
    pub(super) fn begin(around: &'a A, within: Duration) -> Self {
        Self { around, aside: None, began: Cell::new(None), left_last: Cell::new(within), within, polls: 0 }
    }

    /// Time left; zero when it is over.
    pub(super) fn left(&self) -> Duration {
        let left = match self.began.get() {
            Some(began) => self.within.saturating_sub(began.elapsed()),
            None => {
                self.began.set(Some(Instant::now()));
                self.within
            }
        };
        self.left_last.set(left);
        left
    }

    /// How long it may take in all.
    pub(super) fn within(&self) -> Duration {
        self.within
    }

    /// Whether it is worth while to look at everything else now. A poll takes some nanoseconds, a look some dozens.
    #[inline]
    pub(super) fn looks_around(&mut self) -> bool {
        self.polls = self.polls.wrapping_add(1);
        self.polls.is_multiple_of(POLLS_PER_LOOK_AROUND)
    }

    /// Before a sleep, or a poll without an end.
    pub(super) fn stand_aside(&mut self) {
        if self.aside.is_none() {
            self.aside = Some(self.around.stand_aside());
        }
    }

    /// How long the next sleep may be, by the time that was left when that was last asked for: just before.
    pub(super) fn slice(&self) -> Duration {
        let left = if self.began.get().is_some() { self.left_last.get() } else { self.left() };
        self.aside.as_ref().map_or(Duration::ZERO, Aside::slice).min(left)
    }

    /// After a sleep.
    pub(super) fn look_again(&self) {
        if let Some(aside) = &self.aside {
            aside.look_again();
        }
    }
}
