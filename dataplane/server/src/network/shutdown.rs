//! How a shard ends: it accepts nobody, tells every client to go, answers what was taken, and closes.
//!
//! Two orders lead there. *Drain* comes when the server begins to drain its processes: calls in flight are answered as their
//! workers end them. *End* comes when no worker is left: whatever is unanswered then never will be, and clients have a short
//! while to read the rest.

use praas_protocol::Phase;
use praas_protocol::control::ControlError;
use praas_protocol::wire::{Goaway, GoawayReason};

use super::calls::NotRun;
use super::connection::{ConnectionKey, Stage};
use super::relay::Order;
use super::shard::{Course, NetworkShard};
use crate::limits::FAREWELL_MAX;

impl NetworkShard {
    /// Follows the last order.
    pub(super) fn obey(&mut self) {
        let order = self.mail.last_order();
        if order >= Order::Drain && self.course == Course::Serving {
            self.drain();
        }
        if order == Order::End && self.course == Course::Draining {
            self.end();
        }
    }

    fn drain(&mut self) {
        self.course = Course::Draining;
        self.drain_sessions();
        for listener in std::mem::take(&mut self.listeners) {
            self.driver.close(listener);
        }
        for key in self.connections.keys() {
            self.leave(key);
        }
    }

    /// Tells a client to go.
    pub(super) fn leave(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.stage {
            Stage::Fresh { .. } => {
                self.refuse_hello(key, &ControlError::ShuttingDown);
                self.say_no_more(key);
            }
            Stage::Open => {
                let last_request_id = connection.rules.last_request_id();
                if connection.rules.show_goaway(last_request_id).is_err() {
                    return self.close(key);
                }
                connection.stage = Stage::Leaving;
                let message = "the server ends";
                let goaway =
                    Goaway { last_request_id, reason: GoawayReason::ShuttingDown, may_reconnect: true, message };
                self.push_unruled(key, |out| goaway.encode(out));
                self.end_room_waits(key, NotRun::unavailable(Phase::Draining), |_| true);
            }
            // It is given away, or comes back here.
            Stage::HandingOver(_) | Stage::Leaving | Stage::Farewell { .. } => {}
        }
    }

    fn end(&mut self) {
        self.course = Course::Ending { until: self.now + FAREWELL_MAX };
        self.end_links();
        self.end_gateways();
        // The last answers lie in the lanes; what has none gets one here.
        for session in self.sessions.keys() {
            self.end_session(session);
        }
        for key in self.connections.keys() {
            self.abandon_all(key);
            match self.connections.get(key).map(|connection| &connection.stage) {
                Some(Stage::Farewell { .. }) | None => {}
                // Half of a payload, or a hand-over that nobody decides any more.
                Some(Stage::HandingOver(_)) => self.close(key),
                Some(_) => self.say_no_more(key),
            }
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        match self.course {
            Course::Ending { until } => {
                self.connections.len() == 0 && self.sockets == 0 && self.links.are_closed() || self.now >= until
            }
            _ => false,
        }
    }
}
