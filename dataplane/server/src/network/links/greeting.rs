//! From two sockets to a link that is up: hello on both, a welcome for both.

use std::os::fd::OwnedFd;

use praas_protocol::control::ControlError;
use praas_protocol::wire::{GoawayReason, Hello, Refusal, WIRE_VERSION, WindowLimits, WireError};

use super::super::listener::set_options;
use super::super::shard::{Course, NetworkShard};
use super::super::sources::Source;
use super::super::timers::Timer;
use super::hearing::Welcomed;
use super::{CLASSES, Dialled, LinkConnection, LinkConnectionKey, Standing};
use crate::limits::{LINK_FAREWELL_MAX, LINK_GREETING_MAX, LINK_PULSE_PERIOD, REPLY_WINDOW_BYTES_MAX};

impl NetworkShard {
    /// A thread that connected has ended.
    pub(in super::super) fn dialled(&mut self, dialled: Dialled) {
        let Dialled { peer, outcome } = dialled;
        let Some(link) = self.links.of.get_mut(&peer).filter(|link| link.standing == Standing::Dialling) else {
            return;
        };
        if matches!(self.course, Course::Ending { .. }) {
            link.standing = Standing::Down;
            return;
        }
        match outcome.and_then(|sockets| self.greet(peer, sockets)) {
            Ok(()) => {}
            // Whatever was begun of it is closing now, or nothing was.
            Err(why) if self.links.of.get(&peer).is_some_and(|link| link.connections != [None; 2]) => {
                self.lose_link(peer, &why);
            }
            Err(why) => self.link_stays_down(peer, &why),
        }
    }

    fn greet(&mut self, peer: usize, sockets: [OwnedFd; 2]) -> Result<(), String> {
        let Some(link) = self.links.of.get_mut(&peer) else { return Ok(()) };
        link.generation += 1;
        link.standing = Standing::Greeting;
        link.trouble.clear();
        let generation = link.generation;
        for (class, socket) in CLASSES.into_iter().zip(sockets) {
            set_options(&socket).map_err(|errno| format!("setting its socket up: {errno}"))?;
            let token = Source::Link(self.links.connections.next_key()).token();
            let source = self.driver.add_connection(socket, token);
            let source = source.map_err(|refused| format!("setting its socket up: {}", refused.refusal))?;
            let key = self.links.connections.insert(LinkConnection::new(peer, class, source, self.now));
            if let Some(link) = self.links.of.get_mut(&peer) {
                link.connections[class.index()] = Some(key);
            }
            self.say_hello(peer, key)?;
            self.driver.receive(source).map_err(|refused| format!("receiving from it: {}", refused.refusal))?;
        }
        self.timers.at(self.now + LINK_GREETING_MAX, Timer::Greeting(peer, generation));
        Ok(())
    }

    fn say_hello(&mut self, peer: usize, key: LinkConnectionKey) -> Result<(), String> {
        let token = self.plan.peers.get(peer).map(|configured| configured.token.clone()).unwrap_or_default();
        let hello = Hello {
            version_min: WIRE_VERSION,
            version_max: WIRE_VERSION,
            features: 0,
            reply_window_bytes: REPLY_WINDOW_BYTES_MAX,
            token: token.trim(),
        };
        let mut encoded = Ok(());
        self.push_to_peer(key, |out| encoded = hello.encode(out));
        encoded.map_err(|error| error.to_string())
    }

    /// Timer: both welcomes should have come.
    pub(in super::super) fn greeting_due(&mut self, peer: usize, generation: u64) {
        let is_late = |link: &super::Link| link.standing == Standing::Greeting && link.generation == generation;
        if self.links.of.get(&peer).is_some_and(is_late) {
            self.lose_link(peer, "it did not answer the hello in time");
        }
    }

    /// The other server takes a connection.
    pub(super) fn peer_welcomes(&mut self, key: LinkConnectionKey, welcome: &Welcomed) -> Result<(), String> {
        if welcome.incarnation == self.plan.incarnation {
            return Err("it is this very server: leave it out of the configuration".into());
        }
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        connection.is_welcome = true;
        connection.handles_max = welcome.handles_max;
        connection.decoder.set_payload_bytes_max(welcome.payload_bytes_max);
        let limits = WindowLimits { calls: welcome.in_flight_max, bytes: welcome.window_bytes };
        connection.rules.set_limits(limits);
        let peer = connection.peer;
        let Some(link) = self.links.of.get_mut(&peer) else { return Ok(()) };
        let is_welcome =
            |key: &LinkConnectionKey| self.links.connections.get(*key).is_some_and(|connection| connection.is_welcome);
        if link.standing != Standing::Greeting
            || link.connections.iter().flatten().filter(|key| is_welcome(key)).count() < 2
        {
            return Ok(());
        }
        link.standing = Standing::Up { since: self.now };
        let generation = link.generation;
        self.plan.elsewhere.linked(peer);
        let address = self.plan.peers.get(peer).map_or("", |configured| configured.address.as_str());
        self.plan.log.info(format_args!("linked to the server at {address}"));
        self.timers.at(self.now + LINK_PULSE_PERIOD, Timer::Pulse(peer, generation));
        self.watch_peer(peer);
        self.serve_all_routes(peer);
        Ok(())
    }

    /// The other server says farewell: it answers what it took.
    pub(super) fn peer_goes_away(
        &mut self,
        key: LinkConnectionKey,
        last_request_id: u64,
        reason: GoawayReason,
        message: &str,
    ) -> Result<(), String> {
        let Some(connection) = self.links.connections.get_mut(key) else { return Ok(()) };
        connection.rules.show_goaway(last_request_id).map_err(|error| error.to_string())?;
        let peer = connection.peer;
        let Some(link) = self.links.of.get_mut(&peer) else { return Ok(()) };
        let trouble = format!("it ends the connection: {message} ({reason:?})");
        if !link.is_up() {
            return if link.standing == Standing::Leaving { Ok(()) } else { Err(trouble) };
        }
        link.standing = Standing::Leaving;
        link.trouble = trouble;
        let (generation, why) = (link.generation, link.trouble.clone());
        // Whoever calls from now on waits for the next link.
        self.plan.elsewhere.unlinked(peer, &why);
        self.timers.at(self.now + LINK_FAREWELL_MAX, Timer::Parting(peer, generation));
        self.part_if_quiet(peer);
        Ok(())
    }

    /// Timer: the other server has had its time for the answers that it owes.
    pub(in super::super) fn parting_due(&mut self, peer: usize, generation: u64) {
        let Some(link) = self.links.of.get(&peer) else { return };
        if link.standing == Standing::Leaving && link.generation == generation {
            let trouble = link.trouble.clone();
            self.lose_link(peer, &trouble);
        }
    }

    /// Ends a link that the other server wants to end, once nothing is under way on it.
    pub(super) fn part_if_quiet(&mut self, peer: usize) {
        let Some(link) = self.links.of.get(&peer).filter(|link| link.standing == Standing::Leaving) else { return };
        let is_quiet = |key: &LinkConnectionKey| {
            self.links.connections.get(*key).is_none_or(|connection| connection.calls.is_empty())
        };
        if link.connections.iter().flatten().all(is_quiet) {
            let trouble = link.trouble.clone();
            self.lose_link(peer, &trouble);
        }
    }
}

/// What a refusal of a connection says.
pub(super) fn refused(refusal: Result<Refusal, WireError>) -> String {
    match refusal {
        Ok(Refusal::Control(ControlError::TokenRefused { reason })) => {
            format!("it refuses the token ({reason}): make one there with `praas token create`")
        }
        Ok(refusal) => format!("it refuses the connection: {refusal}"),
        Err(error) => format!("it refuses the connection in a way that cannot be read: {error}"),
    }
}
