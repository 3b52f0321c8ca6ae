//! What the other server has: one WATCH is always unanswered, and each answer goes where the loop looks for it.

use praas_protocol::wire::Watch;

use super::super::shard::NetworkShard;
use super::super::timers::Timer;
use super::hearing::Told;
use super::{Class, LinkConnectionKey};
use crate::limits::{PEER_ENTRIES_MAX, WATCH_PAUSE};

impl NetworkShard {
    /// Asks for all that the other server has.
    pub(super) fn watch_peer(&mut self, peer: usize) {
        self.watch_peer_after(peer, 0);
    }

    /// Timer, or the answer before: asks what has changed since.
    pub(in super::super) fn watch_peer_after(&mut self, peer: usize, after: u64) {
        let Some(key) = self.link_connection(peer, Class::Small) else { return };
        let Some(connection) = self.links.connections.get_mut(key) else { return };
        if connection.watching.is_some() {
            return;
        }
        let request_id = connection.take_request_id();
        connection.watching = Some(request_id);
        if !self.push_to_peer(key, |out| Watch { request_id, after }.encode(out))
            && let Some(connection) = self.links.connections.get_mut(key)
        {
            // Too many questions are unanswered.
            connection.watching = None;
            self.timers.at(self.now + WATCH_PAUSE, Timer::WatchPeer(peer, after));
        }
    }

    /// The other server tells what has changed.
    pub(super) fn peer_tells(&mut self, key: LinkConnectionKey, told: Told) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        if connection.watching.take() != Some(told.request_id) {
            return Err("it tells what was not asked".into());
        }
        let peer = connection.peer;
        let Told { upto, is_whole, more, entries, .. } = told;
        if !self.plan.elsewhere.tell(peer, is_whole, more, entries.into_iter()) {
            let address = self.plan.peers.get(peer).map_or("", |configured| configured.address.as_str());
            self.plan.log.warning(format_args!(
                "the server at {address} has more than {PEER_ENTRIES_MAX} processes and sessions: the rest is not known here"
            ));
        }
        if more {
            self.watch_peer_after(peer, upto);
        } else {
            // A server that answers at once, with nothing, is not asked without end.
            self.timers.at(self.now + WATCH_PAUSE, Timer::WatchPeer(peer, upto));
        }
        self.spend_credit(key);
        Ok(())
    }
}
