//! One dedicated connection: reads calls, runs them, answers them.
//!
//! 1. Calls run in the order in which they come, each when all of it is there. A call is *taken* when it was claimed; what
//!    lies behind it in the stream is not, and a farewell says so.
//! 2. Nothing here waits: what cannot be received or sent now is left to the next turn. A turn runs a bounded number of calls;
//!    what was received behind them is kept.
//! 3. Nothing is read while answers cannot be sent.
//! 4. What breaks the protocol ends this connection, with the reason, and no other.
//! 5. A farewell is followed by the end of our stream, once all answers are out, and by that of the connection when the
//!    client ends its own, or after a while.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use praas_protocol::control::{ConnectionId, ConnectionLimits};
use praas_protocol::wire::{
    Decoder, Frame, Goaway, GoawayReason, HandedOver, Header, Item, Kind, Ping, Pong, Request, Response, RuleError,
    Session, Side, Verdict, WindowLimits, WireError,
};
use praas_protocol::{Outcome, Phase};
use praas_shm::claim::Condemned;
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, shutdown, sockopt};
use rustix::time::ClockId;

use super::connection_call::{CallerWatch, Cancels, ConnectionCall};
use super::input::{Partial, Room};
use super::output::{Gone, Output};
use super::{Given, Host};
use crate::context::CallerIdentity;
use crate::error::saturated;
use crate::limits::{CONNECTION_CALLS_TURN_MAX, CONNECTION_LINGER_MAX, REPLIES_HELD_NS_MAX};
use crate::waiting::Interest;

/// Pieces of a leaving client's stream that one turn drops.
const DROPS_TURN_MAX: u32 = 16;

/// Calls between two looks at the CPU that the client's packets come to.
const CALLS_PER_CPU_LOOK: u32 = 64;

/// How a turn of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits for its client.
    Waits,
    /// There may be more to do at once.
    More,
    /// It is over.
    Over,
}

/// What there was to do in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worked {
    /// Nothing had come.
    Nothing,
    /// All of what had come.
    Some,
    /// A part of it.
    More,
}

/// What a receive came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Bytes { count: usize, may_be_more: bool },
    End,
}

/// A connection that this worker owns.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    decoder: Decoder,
    talk: Talk,
    /// The call whose payload is coming.
    partial: Option<Partial>,
    /// Received and not worked on yet, from this place on.
    rest: (Vec<u8>, usize),
    /// Heard while polling.
    heard: Option<Heard>,
    pub(crate) interest: Interest,
}

/// Everything of a connection but the decoder, whose frames are borrowed while they are acted on.
#[derive(Debug)]
struct Talk {
    socket: OwnedFd,
    session: Session,
    caller: CallerIdentity,
    limits: ConnectionLimits,
    output: Output,
    /// Id of the last call that was claimed.
    last_taken_id: u64,
    calls_until_cpu_look: u32,
    caller_cpu: u32,
    /// Set once a farewell was said: when the connection ends at the latest.
    leaves_until: Option<Instant>,
    has_ended_stream: bool,
}

/// Why a turn stops.
enum Stop {
    /// The other side is gone.
    Gone,
    /// This worker is to be killed.
    Condemned,
    /// A farewell was said.
    Leaves,
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Condemned> for Stop {
    fn from(_: Condemned) -> Self {
        Self::Condemned
    }
}

impl Connection {
    /// Takes a connection over, and tells its client.
    pub(crate) fn new(given: Given, phase: Phase) -> Self {
        let Given { socket, id, request_id, limits, caller } = given;
        // Fails on sockets of other kinds, which hold nothing back either.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let ConnectionLimits { payload_bytes_max, in_flight_max, window_bytes } = limits;
        let window = WindowLimits { calls: in_flight_max, bytes: window_bytes };
        let mut output = Output::default();
        let welcome = HandedOver { request_id, payload_bytes_max, in_flight_max, window_bytes, phase };
        output.frame(|bytes| welcome.encode(bytes));
        // What cannot be sent, the first turn finds out.
        let _ = output.flush(&socket);
        let talk = Talk {
            socket,
            session: Session::dedicated(request_id, window),
            caller,
            limits,
            output,
            last_taken_id: request_id,
            calls_until_cpu_look: 0,
            caller_cpu: u32::MAX,
            leaves_until: None,
            has_ended_stream: false,
        };
        Self {
            id,
            decoder: Decoder::new(Side::Client, payload_bytes_max),
            talk,
            partial: None,
            rest: (Vec::new(), 0),
            heard: None,
            interest: Interest::ToRead,
        }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.talk.socket
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.talk.leaves_until.is_some()
    }

    /// Whether a poll may receive from it.
    pub(crate) fn is_polled(&self) -> bool {
        !self.is_leaving() && !self.talk.output.is_blocked() && self.rest.0.is_empty()
    }

    /// When something has to have happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match (self.talk.leaves_until, self.talk.output.deadline()) {
            (Some(leaves), Some(stalls)) => Some(leaves.min(stalls)),
            (leaves, stalls) => leaves.or(stalls),
        }
    }

    /// What it waits for now.
    pub(crate) fn wish(&self) -> Interest {
        if self.talk.output.is_blocked() { Interest::ToWrite } else { Interest::ToRead }
    }

    /// While the worker polls: receives if something is there; whether the connection is to be served.
    #[inline]
    pub(crate) fn probe(&mut self, room: &mut Room) -> bool {
        if self.heard.is_none() {
            self.heard = match self.receive(room) {
                Heard::Nothing => None,
                heard => Some(heard),
            };
        }
        self.heard.is_some()
    }

    /// Says that the process goes, after the answers to what was taken.
    pub(crate) fn drain(&mut self) -> Turn {
        if self.talk.leaves_until.is_none() {
            self.talk.say_farewell(GoawayReason::Draining, true, "the process drains: send later calls elsewhere");
            self.forget_input();
        }
        self.end_turn(Turn::More)
    }

    /// One turn: what is there, up to a bound.
    ///
    /// `ends`: the stream does after what is there, so nothing will announce its end.
    pub(crate) fn serve(&mut self, ends: bool, room: &mut Room, host: &mut Host<'_>) -> Result<Turn, Condemned> {
        if self.talk.output.is_blocked() && self.talk.output.flush(&self.talk.socket).is_err() {
            return Ok(Turn::Over);
        }
        if self.talk.leaves_until.is_some() {
            return Ok(self.linger(room));
        }
        if self.talk.output.is_blocked() {
            return Ok(Turn::Waits);
        }
        self.talk.output.borrow(&mut room.replies);
        let worked = self.work(room, host);
        let turn = match worked {
            Ok(Worked::Some) if ends => self.end_turn(Turn::More),
            Ok(Worked::Some | Worked::Nothing) => self.end_turn(Turn::Waits),
            Ok(Worked::More) => self.end_turn(Turn::More),
            Err(Stop::Gone) => Turn::Over,
            Err(Stop::Leaves) => {
                self.forget_input();
                // What lies unread announces itself no more.
                self.end_turn(Turn::More)
            }
            Err(Stop::Condemned) => return Err(Condemned),
        };
        self.talk.output.give_back(&mut room.replies);
        Ok(turn)
    }

    fn work(&mut self, room: &mut Room, host: &mut Host<'_>) -> Result<Worked, Stop> {
        if !self.rest.0.is_empty() {
            let (bytes, at) = std::mem::take(&mut self.rest);
            let done = self.run_frames(&bytes[at..], room, host)?;
            if at + done < bytes.len() {
                self.rest = (bytes, at + done);
            }
            return Ok(Worked::More);
        }
        let heard = self.heard.take().unwrap_or_else(|| self.receive(room));
        let (count, may_be_more) = match heard {
            Heard::Nothing => return Ok(Worked::Nothing),
            Heard::End => return Err(Stop::Gone),
            Heard::Bytes { count, may_be_more } => (count, may_be_more),
        };
        if self.partial.is_some() {
            self.add_to_payload(count, room, host)?;
        } else {
            let received = room.take_received();
            let bytes = received.bytes(count);
            let done = self.run_frames(bytes, room, host);
            if let Ok(done) = done
                && done < count
            {
                self.rest = (bytes[done..].to_vec(), 0);
            }
            room.put_received(received);
            done?;
        }
        Ok(if may_be_more || !self.rest.0.is_empty() { Worked::More } else { Worked::Some })
    }

    /// Receives what is there: into the payload that is coming, else into the shared buffer.
    #[inline]
    fn receive(&mut self, room: &mut Room) -> Heard {
        let place = match &mut self.partial {
            Some(partial) => partial.place(),
            None => room.receive_place(),
        };
        let asked = place.len();
        match rustix::net::recv(&self.talk.socket, place, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Heard::End,
            Ok((_, count)) => Heard::Bytes { count, may_be_more: count == asked },
            Err(Errno::AGAIN | Errno::INTR) => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }

    /// Counts bytes that were received into the payload, and runs its call when they are all there.
    fn add_to_payload(&mut self, count: usize, room: &mut Room, host: &mut Host<'_>) -> Result<(), Stop> {
        let Some(partial) = &mut self.partial else { return Ok(()) };
        partial.add(count);
        self.decoder.payload_received(saturated(count));
        if partial.payload().is_some()
            && let Some(partial) = self.partial.take()
        {
            self.talk.run_partial(partial, room, host)?;
        }
        Ok(())
    }

    /// Acts on the frames in `bytes`; how many bytes of them were dealt with before the turn's bound.
    #[inline]
    fn run_frames(&mut self, bytes: &[u8], room: &mut Room, host: &mut Host<'_>) -> Result<usize, Stop> {
        let Self { decoder, talk, partial, .. } = self;
        let cancels = if decoder.is_between_frames() { Cancels::behind_first(bytes) } else { Cancels::default() };
        let (mut at, mut calls, mut ran_ns) = (0, 0, 0);
        while calls < CONNECTION_CALLS_TURN_MAX && !talk.output.is_blocked() {
            let step = match decoder.step(&bytes[at..]) {
                Ok(step) => step,
                Err(error) => return Err(talk.refuse(reason_of(&error), &error.to_string())),
            };
            at += step.consumed;
            match step.item {
                None => return Ok(at),
                Some(Item::Request { header, request, payload, missing_bytes }) => {
                    talk.admit(&header, &request)?;
                    if missing_bytes > 0 {
                        let payload_bytes = payload.len() + missing_bytes as usize;
                        *partial = Some(room.begin_payload(request, payload, payload_bytes));
                        continue;
                    }
                    let is_last = at == bytes.len();
                    let cancelled = cancels.contains(request.request_id);
                    ran_ns += talk.run(&request, payload, cancelled, is_last, host)?;
                    calls += 1;
                    if ran_ns > REPLIES_HELD_NS_MAX {
                        ran_ns = 0;
                        talk.output.flush(&talk.socket)?;
                    }
                }
                Some(Item::Payload { bytes, .. }) => {
                    let Some(coming) = partial else { continue };
                    coming.append(bytes);
                    if coming.payload().is_some()
                        && let Some(whole) = partial.take()
                    {
                        talk.run_partial(whole, room, host)?;
                        calls += 1;
                    }
                }
                Some(Item::Control { header, frame }) => talk.hear(&header, &frame)?,
                // The decoder of what a client sends finds none.
                Some(Item::Response { .. }) => {}
            }
            if at == bytes.len() {
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// Sends what was gathered, and ends our stream if this is the end.
    fn end_turn(&mut self, turn: Turn) -> Turn {
        if self.talk.output.flush(&self.talk.socket).is_err() || self.talk.end_stream_if_done().is_err() {
            return Turn::Over;
        }
        if self.talk.output.is_blocked() { Turn::Waits } else { turn }
    }

    /// After the farewell: reads and drops what the client sends, until it ends.
    fn linger(&mut self, room: &mut Room) -> Turn {
        if self.talk.end_stream_if_done().is_err() {
            return Turn::Over;
        }
        if self.talk.output.is_blocked() {
            return Turn::Waits;
        }
        for _ in 0..DROPS_TURN_MAX {
            match self.receive(room) {
                Heard::Nothing => return Turn::Waits,
                Heard::End => return Turn::Over,
                Heard::Bytes { .. } => {}
            }
        }
        Turn::More
    }

    /// Nothing that has not been taken will be.
    fn forget_input(&mut self) {
        self.partial = None;
        self.rest = (Vec::new(), 0);
        self.heard = None;
    }
}

impl Talk {
    /// Whether a call may come now.
    #[inline]
    fn admit(&mut self, header: &Header, request: &Request) -> Result<(), Stop> {
        if let Err(error) = self.session.show(Side::Client, header) {
            return Err(self.refuse_rule(&error));
        }
        if request.handle != 0 {
            return Err(self.refuse(GoawayReason::Protocol, "a dedicated connection has no handles but 0"));
        }
        Ok(())
    }

    fn run_partial(&mut self, partial: Partial, room: &mut Room, host: &mut Host<'_>) -> Result<(), Stop> {
        let ran = match partial.payload() {
            Some(payload) => self.run(&partial.request, payload, false, true, host).map(drop),
            None => Ok(()),
        };
        room.end_payload(partial);
        ran
    }

    /// Claims a call, runs it and answers; how long it ran, unless it was the last that came.
    #[inline]
    fn run(
        &mut self,
        request: &Request,
        payload: &[u8],
        cancelled: bool,
        is_last: bool,
        host: &mut Host<'_>,
    ) -> Result<u64, Stop> {
        self.look_at_cpu();
        let root = request.root.map_or(0, u128::from_le_bytes);
        let Some(call) = host.end.claim_aside(self.caller_cpu, request.time_remaining_ns, root) else {
            self.say_farewell(GoawayReason::Draining, true, "the process drains: send later calls elsewhere");
            return Err(Stop::Leaves);
        };
        self.last_taken_id = request.request_id;
        if call.needs_help() {
            host.mail.hint(&praas_protocol::control::WorkerMessage::Ring);
        }
        let Self { socket, output, limits, caller, .. } = self;
        let payload_bytes_max = limits.payload_bytes_max as usize;
        let call = ConnectionCall {
            call,
            request_id: request.request_id,
            function: request.function,
            root,
            payload_bytes_max,
            caller: CallerWatch::new(cancelled, is_last.then(|| socket.as_fd())),
        };
        let mut sent = Ok(());
        let mut reply = |outcome: Outcome, detail, more, payload: &[u8]| {
            let response = Response { request_id: request.request_id, outcome_code: outcome as u32, detail, more };
            sent = output.answer(&*socket, &response.encode_head(saturated(payload.len())), payload);
        };
        if request.principal.is_some_and(|principal| principal != caller.principal) {
            // No token allows to speak for others yet.
            reply(Outcome::Unauthorized, 0, 0, &[]);
        } else {
            host.runner.run_beside(&call, caller, payload, reply);
        }
        let ran_ns = if is_last { 0 } else { call.elapsed_ns() };
        call.release()?;
        sent?;
        if self.session.answered(saturated(payload.len())).is_err() {
            return Err(self.refuse(GoawayReason::Protocol, "the window does not add up"));
        }
        Ok(ran_ns)
    }

    /// A frame that is no call.
    fn hear(&mut self, header: &Header, frame: &Frame<'_>) -> Result<(), Stop> {
        match self.session.show(Side::Client, header) {
            Ok(Verdict::Accept) => {}
            Ok(Verdict::Ignore) => return Ok(()),
            Err(error) => return Err(self.refuse_rule(&error)),
        }
        if let Frame::Ping(Ping { opaque }) = *frame {
            let received_ns = now_ns();
            let pong = Pong { opaque, received_ns, sent_ns: now_ns() };
            self.output.frame(|bytes| pong.encode(bytes));
            let answer = Header { body_bytes: 24, kind: Some(Kind::Pong), flags: 0, request_id: 0 };
            if let Err(error) = self.session.show(Side::Server, &answer) {
                return Err(self.refuse_rule(&error));
            }
        }
        // A cancel comes behind its call, which has been run by now.
        Ok(())
    }

    /// For the adaptive wait: polling for a client on this worker's own CPU only keeps it from running.
    #[inline]
    fn look_at_cpu(&mut self) {
        if self.calls_until_cpu_look == 0 {
            self.calls_until_cpu_look = CALLS_PER_CPU_LOOK;
            self.caller_cpu = sockopt::socket_incoming_cpu(&self.socket).unwrap_or(u32::MAX);
        }
        self.calls_until_cpu_look -= 1;
    }

    #[cold]
    fn refuse_rule(&mut self, error: &RuleError) -> Stop {
        self.refuse(error.goaway_reason(), &error.to_string())
    }

    #[cold]
    fn refuse(&mut self, reason: GoawayReason, message: &str) -> Stop {
        self.say_farewell(reason, false, message);
        Stop::Leaves
    }

    fn say_farewell(&mut self, reason: GoawayReason, may_reconnect: bool, message: &str) {
        let goaway = Goaway { last_request_id: self.last_taken_id, reason, may_reconnect, message };
        self.output.frame(|bytes| goaway.encode(bytes));
        self.leaves_until = Some(Instant::now() + CONNECTION_LINGER_MAX);
    }

    /// Ends our half of the stream when everything was sent and a farewell was said.
    fn end_stream_if_done(&mut self) -> Result<(), Gone> {
        if self.leaves_until.is_some() && !self.has_ended_stream && !self.output.is_blocked() {
            self.has_ended_stream = true;
            shutdown(&self.socket, Shutdown::Write).map_err(|_| Gone)?;
        }
        Ok(())
    }
}

fn reason_of(error: &WireError) -> GoawayReason {
    match error {
        WireError::PayloadTooLarge { .. } => GoawayReason::Limit,
        _ => GoawayReason::Protocol,
    }
}

/// The monotonic clock that PONG speaks of.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
