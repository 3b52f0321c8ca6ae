//! Waiting until what a process has changed is durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control_page::ControlView;
use crate::objects::Objects;

/// Longest sleep between two looks, for a server that died on its way to wake.
const SLICE: Duration = Duration::from_millis(50);

/// Both counters of a logged process: how far it has come, and how far that is durable.
#[derive(Debug, Clone)]
pub struct DurableWatch {
    objects: Arc<Objects>,
    control: Arc<ControlView>,
}

impl DurableWatch {
    /// Of the process of this state and this control page.
    #[must_use]
    pub fn new(objects: Arc<Objects>, control: Arc<ControlView>) -> Self {
        Self { objects, control }
    }

    /// The position that must be durable before anybody hears of anything that can be seen now.
    #[must_use]
    #[inline]
    pub fn position(&self) -> u64 {
        self.objects.position()
    }

    /// Up to where all is durable.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u64 {
        self.control.durable()
    }

    /// Whether all is durable that could be seen when `position` was read. A position that was read in the middle of a
    /// change that was taken back never comes; then all there is now counts.
    #[must_use]
    #[inline]
    pub fn is_durable(&self, position: u64) -> bool {
        let durable = self.durable();
        durable >= position || durable >= self.position()
    }

    /// Waits for that, at most until `until`; false if it did not come.
    #[must_use]
    pub fn wait(&self, position: u64, until: Instant) -> bool {
        loop {
            let seen = self.durable();
            if self.is_durable(position) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.control.wait_for_durable(seen, left.min(SLICE));
        }
    }

    /// One bounded wait for `durable` to change from what was `seen`.
    pub(crate) fn wait_once(&self, seen: u64) {
        self.control.wait_for_durable(seen, SLICE);
    }
}
