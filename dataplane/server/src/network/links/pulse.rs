//! Looking after links: pings, silence, and calls that have waited long enough for their turn.

use std::time::Duration;

use praas_protocol::wire::Ping;

use super::super::shard::NetworkShard;
use super::super::timers::Timer;
use super::{LinkConnectionKey, Standing};
use crate::limits::{
    LINK_CALLS_LOOK_PERIOD, LINK_PING_PERIOD, LINK_PULSE_PERIOD, LINK_SILENCE_MAX, SLOWEST_BYTES_PER_S,
};

impl NetworkShard {
    /// Timer: whether the other server is still there.
    pub(in super::super) fn pulse_due(&mut self, peer: usize, generation: u64) {
        let Some(link) = self.links.of.get(&peer).filter(|link| link.generation == generation) else { return };
        if !matches!(link.standing, Standing::Up { .. } | Standing::Leaving) {
            return;
        }
        for key in link.connections.into_iter().flatten() {
            if self.is_silent(key) {
                let trouble = format!("nothing was heard of it for {} s", LINK_SILENCE_MAX.as_secs());
                return self.lose_link(peer, &trouble);
            }
            self.ping(key);
        }
        self.timers.at(self.now + LINK_PULSE_PERIOD, Timer::Pulse(peer, generation));
    }

    /// Whether nothing came for longer than what is under way can take.
    fn is_silent(&self, key: LinkConnectionKey) -> bool {
        let Some(connection) = self.links.connections.get(key) else { return false };
        let transfer = Duration::from_secs(connection.bytes_under_way() / SLOWEST_BYTES_PER_S);
        self.now.saturating_duration_since(connection.heard) > LINK_SILENCE_MAX + transfer
    }

    fn ping(&mut self, key: LinkConnectionKey) {
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        if self.now.saturating_duration_since(connection.pinged) < LINK_PING_PERIOD {
            return;
        }
        connection.pinged = self.now;
        // Not allowed when many are unanswered: the silence ends that.
        let _ = self.push_to_peer(key, |out| Ping { opaque: 0 }.encode(out));
    }

    /// Has a timer look after calls that wait, while there are any.
    pub(super) fn look_after_calls(&mut self, peer: usize) {
        let Some(link) = self.links.of.get_mut(&peer).filter(|link| !link.is_looked_after) else { return };
        let waits = |gateway| self.links.routes.get(gateway).is_some_and(super::routes::Route::has_queued);
        if link.routes.iter().any(waits) {
            link.is_looked_after = true;
            self.timers.at(self.now + LINK_CALLS_LOOK_PERIOD, Timer::LinkCalls(peer));
        }
    }

    /// Timer: calls that have waited long enough.
    pub(in super::super) fn link_calls_due(&mut self, peer: usize) {
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        link.is_looked_after = false;
        let (is_up, now) = (link.is_up(), self.now);
        for gateway in link.routes.iter().copied().collect::<Vec<_>>() {
            let Some(route) = self.links.routes.get_mut(&gateway).filter(|route| route.has_queued()) else { continue };
            for call in route.take_queued_if(|call| call.gives_up <= now) {
                self.answer_late(gateway, &call, is_up);
            }
        }
        self.look_after_calls(peer);
    }
}
