//! What a shard does at a time instead of at an event. As in the server's loop, a timer is seldom cancelled: whoever set
//! it looks, when it fires, whether there is still something to do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use praas_protocol::SessionId;

use super::connection::ConnectionKey;
use super::control_session::SessionKey;
use super::lanes::LaneKey;
use super::outbound::OutboundKey;

/// What is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Whether a connection has said hello.
    Hello(ConnectionKey),
    /// Whether a connection's output moves.
    Output(ConnectionKey),
    /// Whether the payload of this call has come.
    Payload(ConnectionKey, u64),
    /// Whether this call still waits for room in its lane.
    Room(ConnectionKey, u64),
    /// The token of a connection ends.
    Token(ConnectionKey),
    /// Whether a connection that was sent away has gone.
    Farewell(ConnectionKey),
    /// Whether connections can be accepted again.
    Accept,
    /// Whether anybody uses a lane.
    Lane(LaneKey),
    /// Whether anybody uses a control session.
    Session(SessionKey),
    /// All lanes with calls in flight.
    Lanes,
    /// Calls that wait for room.
    Rooms,
    /// Whether anybody sends messages on a way.
    Outbound(OutboundKey),
    /// Those who wait for room for a message.
    Outbounds,
    /// Calls of gateways that nobody waits for, and gateways that nobody uses.
    Gateways,
    /// What waits in the room of a client's session.
    SessionRoom(SessionId),
    /// Another server is to be dialled.
    Dial(usize),
    /// Whether it has answered the hellos of this generation.
    Greeting(usize, u64),
    /// Whether it still lives.
    Pulse(usize, u64),
    /// Whether it has answered what it took before its farewell.
    Parting(usize, u64),
    /// Whether calls to it have waited long enough.
    LinkCalls(usize),
    /// Whether its answers find room.
    KeptReplies(usize),
    /// It is asked what has changed there since.
    WatchPeer(usize, u64),
}

/// Timers in the order of their times.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(super) fn at(&mut self, time: Instant, timer: Timer) {
        self.0.insert((time, timer));
    }

    /// Forgets one that was set for `time`.
    pub(super) fn forget(&mut self, time: Instant, timer: Timer) {
        self.0.remove(&(time, timer));
    }

    /// The next timer that is due at `now`.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    /// Time until the next timer.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.first().map(|(time, _)| time.saturating_duration_since(now))
    }
}
