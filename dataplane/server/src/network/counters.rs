//! What a shard counts. Each counter has one writer, its shard, and may be read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of the network side since the server started, of all shards together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkMetrics {
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections that the server ended because of what their client did, or did not do.
    pub connections_cut: u64,
    /// Lanes open now.
    pub lanes_open: u64,
    /// Calls answered by workers.
    pub calls_answered: u64,
    /// Calls refused before any worker saw them.
    pub calls_refused: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    ended: AtomicU64,
    cut: AtomicU64,
    lanes_opened: AtomicU64,
    lanes_closed: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
}

/// Counts up what only this thread counts.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn connection_came(&self) {
        count(&self.accepted);
    }

    pub(super) fn connection_ended(&self) {
        count(&self.ended);
    }

    pub(super) fn cut(&self) {
        count(&self.cut);
    }

    pub(super) fn lane_opened(&self) {
        count(&self.lanes_opened);
    }

    pub(super) fn lane_closed(&self) {
        count(&self.lanes_closed);
    }

    pub(super) fn answered(&self) {
        count(&self.answered);
    }

    pub(super) fn refused(&self) {
        count(&self.refused);
    }

    pub(super) fn add_to(&self, metrics: &mut NetworkMetrics) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What ended is read first: it never is more than what came.
        let (ended, closed) = (read(&self.ended), read(&self.lanes_closed));
        metrics.connections_accepted += read(&self.accepted);
        metrics.connections_open += read(&self.accepted).saturating_sub(ended);
        metrics.connections_cut += read(&self.cut);
        metrics.lanes_open += read(&self.lanes_opened).saturating_sub(closed);
        metrics.calls_answered += read(&self.answered);
        metrics.calls_refused += read(&self.refused);
    }
}
