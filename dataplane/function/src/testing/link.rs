//! [`Link`]: what joins the hosts that a test pretends to have.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use praas_sys::doorbell::Doorbell;

/// What becomes of a message that passes a [`Link`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives, and its sender is told.
    Arrives,
    /// The link breaks before it has arrived.
    Lost,
    /// The link breaks after it has arrived, and before its sender was told.
    Unanswered,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    /// Of the messages to come.
    fates: VecDeque<Fate>,
    /// How often it has broken.
    breaks: u64,
}

/// The link between the hosts of a test: see [`Harness::on_another_host`](super::Harness::on_another_host).
#[derive(Clone)]
pub struct Link {
    state: Arc<Mutex<State>>,
    /// Wakes whoever serves it.
    bell: Arc<Doorbell>,
}

impl Link {
    pub(super) fn new(bell: Arc<Doorbell>) -> Self {
        Self { state: Arc::default(), bell }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts it. Of what is on its way nobody knows whether it arrives; what comes later waits.
    pub fn cut(&self) {
        let mut state = self.state();
        state.is_cut = true;
        state.breaks += 1;
        self.bell.ring();
    }

    /// Joins it again.
    pub fn mend(&self) {
        self.state().is_cut = false;
        self.bell.ring();
    }

    /// What becomes of the next messages between hosts, one after the other. A link that has broken by that is joined again at
    /// once. Repetitions are messages, too.
    pub fn foretell(&self, fates: impl IntoIterator<Item = Fate>) {
        self.state().fates.extend(fates);
    }

    /// What comes from now on arrives, whatever was foretold.
    pub fn forget_fates(&self) {
        self.state().fates.clear();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    pub(super) fn breaks(&self) -> u64 {
        self.state().breaks
    }

    /// A message passes.
    pub(super) fn next_fate(&self) -> Fate {
        let mut state = self.state();
        let fate = state.fates.pop_front().unwrap_or(Fate::Arrives);
        if fate != Fate::Arrives {
            state.breaks += 1;
        }
        fate
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("is_cut", &self.is_cut()).finish_non_exhaustive()
    }
}
