//! What is lost with a process that is not stored: by this the processes of a server that ends are put in order.
//!
//! *The rule*: first those whose changes are nowhere else, after them those whose changes are in a log; of those the one with
//! more changes that storage does not have, where changes count half for each [`RECENCY_HALF_LIFE`] that the process was not
//! called for; of equals the smaller one, because more of them fit into the time.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::processes::Process;

/// Time without a call after which the changes of a process count half.
const RECENCY_HALF_LIFE: Duration = Duration::from_secs(60);

/// What is lost with a process; the greater goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    is_nowhere_else: bool,
    /// Changes that are not stored, less the longer nobody has called it.
    changes: u64,
    state_bytes: Reverse<u64>,
}

impl Worth {
    /// Of a process whose workers have ended.
    pub(super) fn of(process: &Process, now: Instant) -> Self {
        let is_logged = process.memory.as_ref().is_some_and(|memory| memory.objects.log().is_some());
        let (changes, state_bytes) = unsaved(process);
        Self::new(!is_logged, changes, now.saturating_duration_since(process.activity.active_at()), state_bytes)
    }

    fn new(is_nowhere_else: bool, changes: u64, idle: Duration, state_bytes: u64) -> Self {
        let halves = u32::try_from(idle.as_secs() / RECENCY_HALF_LIFE.as_secs()).unwrap_or(u32::MAX);
        // A change is never worth nothing.
        let counted = changes.checked_shr(halves).unwrap_or(0).max(changes.min(1));
        Self { is_nowhere_else, changes: counted, state_bytes: Reverse(state_bytes) }
    }
}

/// Changes of a process that storage does not have, as far as this server knows, and bytes of its state. One that was never stored
/// has at least one: that it exists.
pub(super) fn unsaved(process: &Process) -> (u64, u64) {
    let Some(memory) = &process.memory else { return (0, 0) };
    let position = memory.objects.position();
    let changes = match &process.stored.snapshot {
        Some(snapshot) => position.saturating_sub(snapshot.facts().position),
        None => position.saturating_add(1),
    };
    (changes, memory.objects.usage().used_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_valuable_comes_first_and_of_equals_the_smaller() {
        let (now, minute) = (Duration::ZERO, RECENCY_HALF_LIFE);
        let in_order = [
            Worth::new(true, 100, now, 1 << 30),
            Worth::new(true, 120, minute, 10),
            Worth::new(true, 30, now, 10),
            Worth::new(true, 100, minute * 2, 10),
            Worth::new(true, 1, minute * 1000, 10),
            Worth::new(true, 1, now, 20),
            Worth::new(true, 0, now, 10),
            Worth::new(false, 1000, now, 10),
        ];
        assert!(in_order.is_sorted_by(|one, next| one > next), "{in_order:?}");
        assert_eq!(
            Worth::new(true, 1, now, 10),
            Worth::new(true, 1, minute * 70, 10),
            "a change is never worth nothing"
        );
    }
}
