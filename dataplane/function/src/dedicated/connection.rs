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

use std::os::fd::OwnedFd;
use std::time::Instant;

use praas_protocol::Phase;
use praas_protocol::control::ConnectionId;
use praas_protocol::wire::{Decoder, GoawayReason, Item, PlainCall, Side, WireError};
use praas_shm::claim::Condemned;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::connection_call::Cancels;
use super::input::{Partial, Room};
use super::talk::{DRAINS, Stop, Talk, Wanted};
use super::{Given, Host};
use crate::error::saturated;
use crate::limits::CONNECTION_CALLS_TURN_MAX;
use crate::waiting::Interest;

/// Pieces of a leaving client's stream that one turn drops.
const DROPS_TURN_MAX: u32 = 16;

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

impl Connection {
    /// Takes a connection over, and tells its client.
    pub(crate) fn new(given: Given, phase: Phase) -> Self {
        let (id, payload_bytes_max) = (given.id, given.limits.payload_bytes_max);
        let talk = Talk::new(given, phase);
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
        self.talk.leaves_until.or(self.talk.output.deadline())
    }

    /// Its deadline has passed: whether it is given a while to hear why. Once it is, its next deadline is the last.
    pub(crate) fn is_granted_a_last_word(&mut self) -> bool {
        let is_first = self.talk.leaves_until.is_none();
        if is_first {
            // It stands behind the answers that the client does not read.
            self.talk.say_farewell(GoawayReason::SlowReader, false, "its answers are not read");
            self.forget_input();
        }
        is_first
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
            self.talk.say_farewell(GoawayReason::Draining, true, DRAINS);
            self.forget_input();
        }
        self.end_turn(Turn::More)
    }

    /// One turn: what is there, up to a bound.
    ///
    /// `ends`: the stream does after what is there, so nothing will announce its end.
    pub(crate) fn serve(&mut self, ends: bool, room: &mut Room, host: &mut Host<'_>) -> Result<Turn, Condemned> {
        if self.talk.output.is_blocked() {
            if self.talk.output.flush(&self.talk.socket).is_err() {
                return Ok(Turn::Over);
            }
            room.end_payload(self.talk.output.take_spent());
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
        room.end_payload(self.talk.output.take_spent());
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
        let (mut at, mut calls) = (0, 0);
        talk.forget_held();
        while calls < CONNECTION_CALLS_TURN_MAX && !talk.output.is_blocked() {
            if let Some(PlainCall { header, handle, function, time_remaining_ns, payload, rest }) =
                decoder.plain_call(&bytes[at..])
            {
                talk.admit(&header, handle)?;
                at = bytes.len() - rest.len();
                let is_last = rest.is_empty();
                let wanted = Wanted {
                    request_id: header.request_id,
                    function,
                    time_remaining_ns,
                    root: 0,
                    principal: None,
                    idempotency: None,
                };
                talk.run(&wanted, payload, cancels.contains(header.request_id), is_last, host)?;
                calls += 1;
                if is_last {
                    return Ok(at);
                }
                continue;
            }
            let step = match decoder.step(&bytes[at..]) {
                Ok(step) => step,
                Err(error) => return Err(talk.refuse(reason_of(&error), &error.to_string())),
            };
            at += step.consumed;
            match step.item {
                None => return Ok(at),
                Some(Item::Request { header, request, payload, missing_bytes }) => {
                    talk.admit(&header, request.handle)?;
                    if missing_bytes > 0 {
                        let payload_bytes = payload.len() + missing_bytes as usize;
                        *partial = Some(room.begin_payload(request, payload, payload_bytes));
                        continue;
                    }
                    let is_last = at == bytes.len();
                    let cancelled = cancels.contains(request.request_id);
                    talk.run(&Wanted::of(&request), payload, cancelled, is_last, host)?;
                    calls += 1;
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

fn reason_of(error: &WireError) -> GoawayReason {
    match error {
        WireError::PayloadTooLarge { .. } => GoawayReason::Limit,
        _ => GoawayReason::Protocol,
    }
}
