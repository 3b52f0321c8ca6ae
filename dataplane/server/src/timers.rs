//! What the loop does at a time instead of at an event.
//!
//! A timer is never cancelled: who set it looks, when it fires, whether there is still something to do. Each kind of timer
//! is set again only when it has fired, so their number is bounded by what they belong to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use praas_protocol::SessionId;
use praas_protocol::control::ConnectionId;

use crate::clients::ClientKey;
use crate::clock;
use crate::processes::ProcessKey;
use crate::workers::WorkerKey;

/// What is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Whether a client has said hello.
    ClientHello(ClientKey),
    /// Whether a client reads its answers.
    ClientStall(ClientKey),
    /// Whether a worker has become ready.
    WorkerReady(WorkerKey),
    /// Whether a worker that was told to end has ended.
    WorkerExit(WorkerKey),
    /// Whether a worker reads its messages.
    WorkerStall(WorkerKey),
    /// Output of a worker that was paused.
    WorkerOutput(WorkerKey, u8),
    /// Whether a process lacks workers.
    Replace(ProcessKey),
    /// Whether what dead workers were at in the state of a process can be settled.
    Settle(ProcessKey),
    /// How far a process has drained.
    Drain(ProcessKey),
    /// Whether a lane can be handed out.
    Lane(ProcessKey, u32),
    /// Whether a message lane can be handed to its sender.
    MessageLane(ProcessKey, u16),
    /// Whether the rest of a process can be read now.
    Fill(ProcessKey),
    /// Whether a process that came back for messages alone can sleep again.
    Doze(ProcessKey),
    /// Whether somebody has waited too long for a process that is away.
    Away,
    /// Whether a process is due that has asked to be woken.
    WakeUps,
    /// Whether message lanes without a sender are drained.
    OrphanedLanes,
    /// Whether the token of a dedicated connection has expired.
    Connection(ConnectionId),
    /// Whether calls outlast their limit.
    Claims,
    /// Whether a process that could have no more workers can have one now.
    Growth(ProcessKey),
    /// Whether workers above the minimum are idle.
    Idle,
    /// What processes have been doing.
    Activity,
    /// How much memory the states of processes take.
    Memory,
    /// Whether a binary was rebuilt.
    Watch,
    /// Whether connections can be accepted again.
    Accept,
    /// Start another keeper.
    Keeper,
    /// The end of the server, whatever is under way.
    Grace,
    /// Whether somebody has come back to a client's session.
    ClientSession(SessionId),
}

/// Timers in the order of their times.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    pub(crate) fn at(&mut self, time: Instant, timer: Timer) {
        self.0.insert((time, timer));
    }

    pub(crate) fn after(&mut self, delay: Duration, timer: Timer) {
        self.at(clock::now() + delay, timer);
    }

    /// The next timer that is due at `now`.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        if self.0.first()?.0 > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }

    /// Time until the next timer.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.first().map(|(time, _)| time.saturating_duration_since(now))
    }
}
