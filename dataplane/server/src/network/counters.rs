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
    /// Of those, connections whose hello was refused.
    pub connections_refused: u64,
    /// Of those, connections whose client did not read what it was sent.
    pub slow_readers_closed: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Lanes opened.
    pub lanes_opened: u64,
    /// Lanes open now.
    pub lanes_open: u64,
    /// Calls answered by workers.
    pub calls_answered: u64,
    /// Calls refused before any worker saw them.
    pub calls_refused: u64,
    /// Calls that lie in lanes now, or run.
    pub calls_in_flight: u64,
    /// Calls that wait for room in a lane now.
    pub calls_waiting: u64,
    /// Calls that nobody waits for any more and that are not answered yet, as of a tenth of a second ago.
    pub calls_quarantined: u64,
    /// Lanes to processes of other servers and to sessions of clients that are open now.
    pub gateways_open: u64,
    /// Calls and messages that came by such lanes.
    pub gateway_calls: u64,
    /// Sessions of clients that are kept now.
    pub sessions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    ended: AtomicU64,
    cut: AtomicU64,
    hellos_refused: AtomicU64,
    slow_readers: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    flights_begun: AtomicU64,
    flights_ended: AtomicU64,
    waits_begun: AtomicU64,
    waits_ended: AtomicU64,
    quarantined: AtomicU64,
    lanes_opened: AtomicU64,
    lanes_closed: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    gateways_opened: AtomicU64,
    gateways_closed: AtomicU64,
    gateway_calls: AtomicU64,
    sessions: AtomicU64,
}

/// Counts up what only this thread counts.
fn count(counter: &AtomicU64) {
    add(counter, 1);
}

fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
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

    pub(super) fn hello_refused(&self) {
        count(&self.hellos_refused);
        self.cut();
    }

    pub(super) fn slow_reader_closed(&self) {
        count(&self.slow_readers);
    }

    pub(super) fn received(&self, bytes: usize) {
        add(&self.received_bytes, bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        add(&self.sent_bytes, bytes as u64);
    }

    pub(super) fn flight_began(&self) {
        count(&self.flights_begun);
    }

    pub(super) fn flights_ended(&self, flights: usize) {
        add(&self.flights_ended, flights as u64);
    }

    pub(super) fn wait_began(&self) {
        count(&self.waits_begun);
    }

    pub(super) fn wait_ended(&self) {
        count(&self.waits_ended);
    }

    pub(super) fn quarantined(&self, calls: usize) {
        self.quarantined.store(calls as u64, Ordering::Relaxed);
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

    pub(super) fn gateway_opened(&self) {
        count(&self.gateways_opened);
    }

    pub(super) fn gateway_closed(&self) {
        count(&self.gateways_closed);
    }

    pub(super) fn gateway_called(&self) {
        count(&self.gateway_calls);
    }

    pub(super) fn sessions(&self, sessions: usize) {
        self.sessions.store(sessions as u64, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, metrics: &mut NetworkMetrics) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // What ended is read first: it never is more than what came.
        let (ended, closed) = (read(&self.ended), read(&self.lanes_closed));
        let gateways_closed = read(&self.gateways_closed);
        let (flights_ended, waits_ended) = (read(&self.flights_ended), read(&self.waits_ended));
        metrics.connections_accepted += read(&self.accepted);
        metrics.connections_open += read(&self.accepted).saturating_sub(ended);
        metrics.connections_cut += read(&self.cut);
        metrics.connections_refused += read(&self.hellos_refused);
        metrics.slow_readers_closed += read(&self.slow_readers);
        metrics.bytes_received += read(&self.received_bytes);
        metrics.bytes_sent += read(&self.sent_bytes);
        metrics.lanes_opened += read(&self.lanes_opened);
        metrics.lanes_open += read(&self.lanes_opened).saturating_sub(closed);
        metrics.calls_in_flight += read(&self.flights_begun).saturating_sub(flights_ended);
        metrics.calls_waiting += read(&self.waits_begun).saturating_sub(waits_ended);
        metrics.calls_quarantined += read(&self.quarantined);
        metrics.calls_answered += read(&self.answered);
        metrics.calls_refused += read(&self.refused);
        metrics.gateways_open += read(&self.gateways_opened).saturating_sub(gateways_closed);
        metrics.gateway_calls += read(&self.gateway_calls);
        metrics.sessions += read(&self.sessions);
    }
}
