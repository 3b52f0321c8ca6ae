//! The end of a link. Its sockets are shut at once; what was in flight is answered when they are closed, because until then the
//! driver may read payloads where they lie. What was not sent yet waits for the next link.

use praas_protocol::Outcome;
use praas_protocol::wire::State;

use super::super::shard::NetworkShard;
use super::connection::LinkCall;
use super::routes::Way;
use super::{LinkConnection, LinkConnectionKey, Standing, is_delivery};
use crate::limits::{LINK_PAUSE_MIN, LINK_STEADY_MIN};

impl NetworkShard {
    /// Ends the link whose connection did what it may not.
    pub(super) fn break_link(&mut self, key: LinkConnectionKey, why: &str) {
        if let Some(peer) = self.peer_of(key) {
            self.lose_link(peer, why);
        }
    }

    /// Ends a link; it is dialled again later.
    pub(super) fn lose_link(&mut self, peer: usize, why: &str) {
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        match link.standing {
            Standing::Down | Standing::Dialling | Standing::Closing => return,
            Standing::Up { since } if self.now.duration_since(since) >= LINK_STEADY_MIN => link.pause = LINK_PAUSE_MIN,
            Standing::Up { .. } | Standing::Greeting | Standing::Leaving => {}
        }
        link.standing = Standing::Closing;
        why.clone_into(&mut link.trouble);
        for key in link.connections.into_iter().flatten() {
            let Some(connection) = self.links.connections.get_mut(key) else { continue };
            connection.is_closing = true;
            if let Some(socket) = self.driver.socket(connection.source) {
                // So that a send that is under way ends; one that is not connected any more needs nothing.
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
            }
            self.driver.close(connection.source);
        }
        if self.plan.elsewhere.unlinked(peer, why) {
            let address = self.plan.peers.get(peer).map_or("", |configured| configured.address.as_str());
            self.plan
                .log
                .warning(format_args!("the link to the server at {address} is lost: {why}; it is dialled again"));
        }
    }

    /// A connection's socket is closed: nothing reads or writes payloads any more.
    pub(in super::super) fn peer_socket_closed(&mut self, key: LinkConnectionKey) {
        let Some(mut connection) = self.links.connections.remove(key) else { return };
        let (peer, class) = (connection.peer, connection.class);
        for call in std::mem::take(&mut connection.calls) {
            self.lose_call(&connection, call);
        }
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        link.connections[class.index()] = None;
        for gateway in &link.routes {
            if let Some(route) = self.links.routes.get_mut(gateway) {
                route.ways[class.index()] = Way::default();
            }
        }
        if link.connections == [None; 2] {
            let (trouble, routes) = (link.trouble.clone(), link.routes.iter().copied().collect::<Vec<_>>());
            for gateway in routes {
                self.answer_queued_behind(gateway);
            }
            self.link_stays_down(peer, &trouble);
        }
    }

    fn lose_call(&mut self, connection: &LinkConnection, mut call: LinkCall) {
        if call.is_answered {
            return;
        }
        if let Some(answer) = call.early.take() {
            if let (Some(route), Some(code)) = (self.links.routes.get_mut(&call.gateway), answer.refusal()) {
                route.note_undelivered(call.function, code);
            }
            return self.deliver_answer(connection.peer, &call, *answer);
        }
        if is_delivery(call.function)
            && let Some(route) = self.links.routes.get_mut(&call.gateway)
        {
            route.lost = true;
        }
        // What came after the last that the other server took, by its farewell, never ran.
        let never_ran =
            matches!(connection.rules.state(), State::Leaving { last_request_id } if call.request_id > last_request_id);
        self.gateway_reply(call.gateway, call.target, Outcome::ConnectionLost, u32::from(!never_ran), 0, &[]);
    }

    /// Messages that wait behind one that was lost are told so; what else waits goes on waiting.
    fn answer_queued_behind(&mut self, gateway: super::GatewayKey) {
        let Some(route) = self.links.routes.get_mut(&gateway).filter(|route| route.lost) else { return };
        for call in route.take_queued_if(|call| call.function == super::DELIVER_NEXT) {
            self.answer_behind(gateway, call.target, None);
        }
    }
}
