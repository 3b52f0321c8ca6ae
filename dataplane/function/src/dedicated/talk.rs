//! What a worker says and does on a dedicated connection: it runs the calls that the frames bring and writes the answers.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use praas_protocol::control::{ConnectionLimits, WorkerMessage};
use praas_protocol::wire::{
    Frame, Goaway, GoawayReason, HandedOver, Header, Kind, Ping, Pong, Request, Response, RuleError, Session, Side,
    Verdict, WindowLimits,
};
use praas_protocol::{FunctionId, Idempotency, Name, Outcome, Phase};
use praas_shm::claim::Condemned;
use praas_shm::worker_end::ClaimedAt;
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::time::ClockId;

use super::connection_call::{CallerWatch, ConnectionCall};
use super::input::{Partial, Room};
use super::output::{Gone, Output};
use super::{Given, Host};
use crate::context::CallerIdentity;
use crate::error::saturated;
use crate::limits::{CONNECTION_LINGER_MAX, REPLIES_HELD_NS_MAX};

/// Calls between two looks at the CPU that the client's packets come to.
const CALLS_PER_CPU_LOOK: u32 = 64;

/// The farewell of a process that drains.
pub(super) const DRAINS: &str = "the process drains: send later calls elsewhere";

/// Everything of a connection but the decoder, whose frames are borrowed while they are acted on.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) socket: OwnedFd,
    session: Session,
    caller: CallerIdentity,
    limits: ConnectionLimits,
    pub(super) output: Output,
    /// Id of the last call that was claimed.
    last_taken_id: u64,
    calls_until_cpu_look: u32,
    caller_cpu: u32,
    /// Set once a farewell was said: when the connection ends at the latest.
    pub(super) leaves_until: Option<Instant>,
    has_ended_stream: bool,
    /// When the first of the answers that are gathered was claimed.
    held_since: Option<ClaimedAt>,
}

/// What is of interest in a REQUEST beside its handle and payload.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) request_id: u64,
    pub(super) function: FunctionId,
    pub(super) time_remaining_ns: u64,
    /// 0 is none.
    pub(super) root: u128,
    pub(super) principal: Option<Name>,
    pub(super) idempotency: Option<Idempotency>,
}

impl Wanted {
    pub(super) fn of(request: &Request) -> Self {
        let Request { request_id, function, time_remaining_ns, root, principal, .. } = *request;
        let (root, idempotency) = (root.map_or(0, u128::from_le_bytes), request.idempotency());
        Self { request_id, function, time_remaining_ns, root, principal, idempotency }
    }
}

/// Why a turn stops.
pub(super) enum Stop {
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

impl Talk {
    /// Takes a connection over, and tells its client.
    pub(super) fn new(given: Given, phase: Phase) -> Self {
        let Given { socket, request_id, limits, caller, .. } = given;
        // Fails on sockets of other kinds, which hold nothing back either.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let ConnectionLimits { payload_bytes_max, in_flight_max, window_bytes } = limits;
        let window = WindowLimits { calls: in_flight_max, bytes: window_bytes };
        let mut output = Output::default();
        let welcome = HandedOver { request_id, payload_bytes_max, in_flight_max, window_bytes, phase };
        output.frame(|bytes| welcome.encode(bytes));
        // What cannot be sent, the first turn finds out.
        let _ = output.flush(&socket);
        Self {
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
            held_since: None,
        }
    }

    /// Whether a call may come now.
    #[inline]
    pub(super) fn admit(&mut self, header: &Header, handle: u32) -> Result<(), Stop> {
        if let Err(error) = self.session.show(Side::Client, header) {
            return Err(self.refuse_rule(&error));
        }
        if handle != 0 {
            return Err(self.refuse(GoawayReason::Protocol, "a dedicated connection has no handles but 0"));
        }
        Ok(())
    }

    pub(super) fn run_partial(&mut self, partial: Partial, room: &mut Room, host: &mut Host<'_>) -> Result<(), Stop> {
        let ran = match partial.payload() {
            Some(payload) => self.run_with(&Wanted::of(&partial.request), payload, false, true, true, host),
            None => Ok(()),
        };
        match self.output.owed() {
            // What its function returned lies in it, and the socket was full.
            Some(unsent) => self.output.keep(partial.into_memory(), unsent),
            None => room.end_payload(partial.into_memory()),
        }
        ran
    }

    /// No answer is held now.
    pub(super) fn forget_held(&mut self) {
        self.held_since = None;
    }

    /// Claims a call, runs it and answers. Answers that have been held for a while are sent first.
    #[inline]
    pub(super) fn run(
        &mut self,
        wanted: &Wanted,
        payload: &[u8],
        cancelled: bool,
        is_last: bool,
        host: &mut Host<'_>,
    ) -> Result<(), Stop> {
        self.run_with(wanted, payload, cancelled, is_last, false, host)
    }

    /// The same. `payload_lasts`: its memory is handed over if the output says that a part of it is owed.
    #[inline]
    fn run_with(
        &mut self,
        wanted: &Wanted,
        payload: &[u8],
        cancelled: bool,
        is_last: bool,
        payload_lasts: bool,
        host: &mut Host<'_>,
    ) -> Result<(), Stop> {
        self.look_at_cpu();
        let &Wanted { request_id, function, time_remaining_ns, root, ref principal, idempotency } = wanted;
        let Some(call) = host.end.claim_aside(self.caller_cpu, time_remaining_ns, root) else {
            self.say_farewell(GoawayReason::Draining, true, DRAINS);
            return Err(Stop::Leaves);
        };
        self.last_taken_id = request_id;
        if call.needs_help() {
            host.mail.hint(&WorkerMessage::Ring);
        }
        let Self { socket, output, limits, caller, held_since, .. } = self;
        let claimed_at = call.claimed_at();
        if claimed_at.ns_since(*held_since.get_or_insert(claimed_at)) > REPLIES_HELD_NS_MAX {
            *held_since = Some(claimed_at);
            if output.flush(&*socket).is_err() {
                // Nobody waits for this call any more.
                call.release()?;
                return Err(Stop::Gone);
            }
        }
        let payload_bytes_max = limits.payload_bytes_max as usize;
        let call = ConnectionCall {
            call,
            request_id,
            function,
            payload_bytes_max,
            caller: CallerWatch::new(cancelled, is_last.then(|| socket.as_fd())),
        };
        let mut sent = Ok(());
        let mut reply = |outcome: Outcome, detail, more, answer: &[u8]| {
            let response = Response { request_id, outcome_code: outcome as u32, detail, more };
            let lasting = if payload_lasts { offset_in(answer, payload) } else { None };
            sent = output.answer(&*socket, &response.encode_head(saturated(answer.len())), answer, lasting);
        };
        if principal.is_some_and(|principal| principal != caller.principal) {
            // No token allows to speak for others yet.
            reply(Outcome::Unauthorized, 0, 0, &[]);
        } else {
            host.runner.run_beside(&call, caller, idempotency, payload, reply);
        }
        call.release()?;
        sent?;
        if self.session.answered(saturated(payload.len())).is_err() {
            return Err(self.refuse(GoawayReason::Protocol, "the window does not add up"));
        }
        Ok(())
    }

    /// A frame that is no call.
    pub(super) fn hear(&mut self, header: &Header, frame: &Frame<'_>) -> Result<(), Stop> {
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
    pub(super) fn refuse(&mut self, reason: GoawayReason, message: &str) -> Stop {
        self.say_farewell(reason, false, message);
        Stop::Leaves
    }

    pub(super) fn say_farewell(&mut self, reason: GoawayReason, may_reconnect: bool, message: &str) {
        let goaway = Goaway { last_request_id: self.last_taken_id, reason, may_reconnect, message };
        self.output.frame(|bytes| goaway.encode(bytes));
        self.leaves_until = Some(Instant::now() + CONNECTION_LINGER_MAX);
    }

    /// Ends our half of the stream when everything was sent and a farewell was said.
    pub(super) fn end_stream_if_done(&mut self) -> Result<(), Gone> {
        if self.leaves_until.is_some() && !self.has_ended_stream && !self.output.is_blocked() {
            self.has_ended_stream = true;
            shutdown(&self.socket, Shutdown::Write).map_err(|_| Gone)?;
        }
        Ok(())
    }
}

/// Where `part` begins in `whole`, if it lies there.
fn offset_in(part: &[u8], whole: &[u8]) -> Option<usize> {
    let offset = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    (offset + part.len() <= whole.len()).then_some(offset)
}

/// The monotonic clock that PONG speaks of.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
