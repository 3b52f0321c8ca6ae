//! How a message is received: asked of the room, which waits for one, and held until it is accepted.

use std::time::Duration;

use praas_protocol::message::codes;
use praas_protocol::session::{
    ACCEPT_FUNCTION, HeldMessage, RECEIVED_HEAD_BYTES, RECV_FUNCTION, RELEASE_FUNCTION, ReceivedHead, RecvQuestion,
};
use praas_protocol::{Address, CallError, Key};

use super::error::RecvError;
use super::room::{Attempts, Room, Setback, nanoseconds};
use crate::function::Function;
use crate::reply::Reply;

const RECV: Function<'static> = Function::new(RECV_FUNCTION);
const ACCEPT: Function<'static> = Function::new(ACCEPT_FUNCTION);
const RELEASE: Function<'static> = Function::new(RELEASE_FUNCTION);

/// A message as the room gave it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) head: ReceivedHead,
    reply: Reply,
}

impl Given {
    fn of(reply: Reply) -> Result<Option<Self>, RecvError> {
        let decoded = ReceivedHead::decode(&reply).map(|given| given.map(|(head, _)| head));
        let head = decoded.map_err(|error| RecvError::Malformed { reason: error.to_string() })?;
        Ok(head.map(|head| Self { head, reply }))
    }

    /// The message's own bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.reply[RECEIVED_HEAD_BYTES..]
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = self.reply.into_vec();
        bytes.drain(..RECEIVED_HEAD_BYTES);
        bytes
    }
}

/// What is wanted.
pub(super) struct Wish<'a> {
    pub(super) sources: Vec<Address>,
    pub(super) key: Key<'a>,
    /// Only to be looked at.
    pub(super) peeks: bool,
    /// How long the room waits for it; `None` if it only looks.
    pub(super) within: Option<Duration>,
}

impl Wish<'_> {
    /// The message, if there is one in time. Without a wait the room is given `patience` to answer.
    pub(super) fn fulfil(&self, room: &Room, patience: Duration) -> Result<Option<Given>, RecvError> {
        let mut attempts = Attempts::within(self.within.unwrap_or(patience));
        loop {
            let trouble = match self.ask(room, &attempts)? {
                Ok(Some(given)) => return Ok(Some(given)),
                Ok(None) if self.within.is_none() => return Ok(None),
                Ok(None) => None,
                Err(trouble) => Some(trouble),
            };
            match trouble {
                _ if attempts.pause() => {}
                None => return Ok(None),
                Some(reason) => return Err(RecvError::Unavailable { waited: attempts.waited(), reason }),
            }
        }
    }

    /// What the room gave, or what was in the way of another attempt.
    fn ask(&self, room: &Room, attempts: &Attempts) -> Result<Result<Option<Given>, String>, RecvError> {
        let left = attempts.left();
        let within_ns = if self.within.is_some() { nanoseconds(left) } else { 0 };
        let question =
            RecvQuestion { within_ns, peeks: self.peeks, sources: self.sources.clone(), key: self.key }.encode();
        match room.ask(RECV, &question, left) {
            Ok(reply) => Ok(Ok(Given::of(reply)?)),
            Err(Setback::TimeOver) => Ok(Ok(None)),
            Err(Setback::Unanswered) => {
                // The room may be handing a message out just now, to nobody. It comes again by the next way.
                room.way.leave_way();
                Ok(Err("the server did not answer".to_owned()))
            }
            Err(setback) => {
                if matches!(setback, Setback::Again { error: CallError::ReplyLost { .. }, .. }) {
                    // What the room handed out was lost on its way, and is held for this way until it is left.
                    room.way.leave_way();
                }
                trouble(setback).map(Err)
            }
        }
    }
}

/// What was in the way, if another attempt has a chance.
fn trouble(setback: Setback) -> Result<String, RecvError> {
    match setback {
        Setback::Again { error, .. } => Ok(error.to_string()),
        Setback::Failed { code: codes::BUSY, message } => Ok(message),
        Setback::TimeOver | Setback::Unanswered => Ok("the server did not answer".to_owned()),
        Setback::Failed { code: codes::NOT_HELD, .. } => Err(RecvError::NotHeld),
        Setback::Failed { code, message } => Err(RecvError::Refused { code, message }),
        Setback::NoWay(error) => Err(error.into()),
        Setback::Ended(error) => Err(RecvError::Malformed { reason: error.to_string() }),
    }
}

/// What becomes of a message that is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Accept,
    Release,
}

/// Has the room remove a message, or put it back.
pub(super) fn settle(
    room: &Room,
    head: &ReceivedHead,
    key: Key<'_>,
    verdict: Verdict,
    limit: Duration,
) -> Result<(), RecvError> {
    let function = match verdict {
        Verdict::Accept => ACCEPT,
        Verdict::Release => RELEASE,
    };
    let name = HeldMessage { source: head.source, id: head.id, key }.encode();
    let mut attempts = Attempts::within(limit);
    let mut may_be_done = false;
    loop {
        let setback = match room.ask(function, &name, attempts.left()) {
            Ok(_) => return Ok(()),
            // An attempt whose answer was lost has done it.
            Err(Setback::Failed { code: codes::NOT_HELD, .. }) if may_be_done => return Ok(()),
            Err(setback) => setback,
        };
        may_be_done |=
            !matches!(setback, Setback::Again { may_have_run: false, .. } | Setback::Failed { code: codes::BUSY, .. });
        let reason = trouble(setback)?;
        if !attempts.pause() {
            return Err(RecvError::Unavailable { waited: attempts.waited(), reason });
        }
    }
}
