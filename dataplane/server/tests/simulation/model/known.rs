//! What one process knows, as the checker sees it.

use std::collections::{BTreeMap, BTreeSet};

use super::Operation;

/// What one process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Operations whose effect is in its state, in their order.
    pub(super) log: Vec<Operation>,
    /// Operations that have begun.
    pub(super) begun: BTreeSet<Operation>,
    /// The version of the log that was put last.
    pub(super) version: u64,
    /// By which operation, and as which version, each of its large objects was put last.
    pub(super) objects: BTreeMap<u8, (Operation, u64)>,
    /// Messages whose acceptance was told.
    pub(super) accepted: BTreeSet<Operation>,
    /// Those of them that came in lanes of their senders.
    pub(super) in_lanes: BTreeSet<Operation>,
    /// Messages that were taken by a call that succeeded.
    pub(super) taken: BTreeSet<Operation>,
    /// Messages whose call was cut off at its end.
    pub(super) perhaps_taken: BTreeSet<Operation>,
    /// Wake-ups that were asked for, and when each is due.
    pub(super) planned: BTreeMap<Operation, u64>,
    /// Those that have come.
    pub(super) woken: BTreeSet<Operation>,
    /// The number of the last message of each sender that was received, in each of its lives.
    pub(super) last: BTreeMap<(String, u64), u64>,
}

impl Known {
    /// Wake-ups that have not come, and when they are due.
    pub(super) fn awaited(&self) -> impl Iterator<Item = (Operation, u64)> {
        self.planned.iter().filter(|(wake_up, _)| !self.woken.contains(wake_up)).map(|(wake_up, due)| (*wake_up, *due))
    }

    /// The same when it comes back from storage: what was under way when it was stored begins anew.
    pub(super) fn begun_anew(&self) -> Self {
        let mut again = self.clone();
        again.begun.retain(|operation| self.log.contains(operation));
        again
    }

    /// Whether the process itself knows the same: answers may have been read of one of them and not yet of the other, and calls that
    /// left nothing may have been under way.
    pub(super) fn knows_the_same(&self, other: &Self) -> bool {
        let Self { begun, accepted, in_lanes, .. } = self.clone();
        *self == Self { begun, accepted, in_lanes, ..other.clone() }
    }

    /// What a checkpoint has of it: what lies in lanes is not in it.
    pub(super) fn without_lanes(&self) -> Self {
        let mut kept = self.clone();
        kept.accepted.retain(|message| kept.taken.contains(message) || !kept.in_lanes.contains(message));
        kept
    }
}
