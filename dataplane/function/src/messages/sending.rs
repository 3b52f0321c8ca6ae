//! Sending: into the lane of the receiver, into the own mailbox, or [otherwise](super::gateway).
//!
//! A message that was published is accepted; until then nobody has anything of it. What finds no room is refused at once, or
//! waits for room as long as its sender says. A send that fails has used up a number of its source, which leaves a gap.

use std::rc::Rc;
use std::time::Duration;

use praas_protocol::{Address, Key, MessageId};
use praas_shm::mailbox::{MailError, Mailbox, NewMessage};
use praas_shm::message_lane::{self, Wanting};
use rkyv::util::AlignedVec;

use super::address::Party;
use super::around::{Around, Wait};
use super::delivery::Delivery;
use super::error::SendError;
use super::gateway::{Outgoing, OutgoingBytes};
use super::message::Place;
use super::outbound::{Leads, OutboundLane};
use super::room::MessageRoom;
use crate::limits::{LANES_FOUND_CLOSED_MAX, SERVER_ANSWER_MAX};

/// What is sent.
enum Payload<'bytes> {
    Bytes(&'bytes [u8]),
    /// Built in the lane of this number; the loan is there until it is sent.
    Built(u64, Option<message_lane::MessageLoan>),
}

impl Payload<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Built(_, loan) => loan.as_deref().unwrap_or_default(),
        }
    }

    /// Publishes it in a lane.
    #[inline]
    fn try_send(
        &mut self,
        OutboundLane { serial, lane, .. }: &mut OutboundLane,
        id: MessageId,
        key: Key<'_>,
    ) -> Result<(), message_lane::SendError> {
        match self {
            Self::Bytes(bytes) => lane.try_send(id, key, bytes),
            Self::Built(built_in, loan) => match loan.take() {
                Some(whole) if built_in == serial => lane.send_loan(whole, id, key).map_err(|(whole, error)| {
                    *loan = Some(whole);
                    error
                }),
                // The lane has been replaced since by a larger one.
                Some(whole) => {
                    let sent = lane.try_send(id, key, &whole);
                    *loan = Some(whole);
                    sent
                }
                None => Ok(()),
            },
        }
    }

    /// What it waits for in a lane that has no room.
    fn wanting(&self, serial: u64, key: Key<'_>) -> Wanting {
        match self {
            Self::Built(built_in, _) if *built_in == serial => Wanting::SendLoan,
            _ => Wanting::Message { key_bytes: key.as_bytes().len(), payload_bytes: self.bytes().len() },
        }
    }
}

impl MessageRoom {
    /// Sends a message, waiting for room if a time is given.
    #[inline]
    pub(crate) fn send(
        &self,
        around: &impl Around,
        to: Party<'_>,
        key: &str,
        bytes: &[u8],
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let key = Key::new(key)?;
        if let (Some(mailbox), true) = (self.mailbox_if_open(), self.is_heeded(around)) {
            // The lanes of receivers lead to others, so this is not the process itself.
            let send = |lane: &mut OutboundLane| {
                let id = self.next_id(mailbox);
                lane.lane.try_send(id, key, bytes).map(|()| id)
            };
            if let Some(Ok(id)) = self.outbound.with_last(&to, bytes.len(), send) {
                return Ok(id);
            }
        }
        let to = to.resolve(&self.own)?;
        self.ensure_within_limit(bytes.len())?;
        if to == self.own {
            return self.send_to_self(around, key, bytes, within);
        }
        self.send_to(around, &to, key, Payload::Bytes(bytes), within)
    }

    /// Sends a message and goes on before it has arrived, if that takes longer than to put it into a lane.
    pub(super) fn start(
        &self,
        around: &impl Around,
        to: &Address,
        key: &str,
        bytes: &[u8],
    ) -> Result<(MessageId, Option<Rc<Delivery>>), SendError> {
        let text = Key::new(key)?;
        self.ensure_within_limit(bytes.len())?;
        let unavailable = |reason| SendError::Unavailable { to: *to, reason };
        self.heed(around).map_err(|error| unavailable(error.to_string()))?;
        if *to == self.own || self.open_lane(around, to, bytes.len(), SERVER_ANSWER_MAX)? == Leads::Lane {
            return self.send(around, to.into(), key, bytes, None).map(|id| (id, None));
        }
        let id = self.next_id(self.mailbox().map_err(unavailable)?);
        let outgoing = Outgoing { id, key: text, bytes: OutgoingBytes::Here(bytes), is_doubtful: false };
        self.start_elsewhere(around, to, outgoing).map(|delivery| (id, Some(delivery)))
    }

    /// Sends what was built on loan.
    pub(super) fn send_built(
        &self,
        around: &impl Around,
        to: Address,
        place: Place,
        key: &str,
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let key = Key::new(key)?;
        match place {
            Place::Private(bytes) => self.send_to_self(around, key, &bytes, within),
            Place::Lane(serial, loan) => self.send_to(around, &to, key, Payload::Built(serial, Some(loan)), within),
            Place::Elsewhere(body) => {
                let mailbox = self.mailbox().map_err(|reason| SendError::Unavailable { to, reason })?;
                let (id, bytes) = (self.next_id(mailbox), OutgoingBytes::Built(body));
                self.send_elsewhere(around, &to, Outgoing { id, key, bytes, is_doubtful: false }, within).map(|_| id)
            }
        }
    }

    /// Sends what was built on loan and goes on before it has arrived.
    pub(super) fn start_built(
        &self,
        around: &impl Around,
        to: &Address,
        place: Place,
        key: &str,
    ) -> Result<(MessageId, Option<Rc<Delivery>>), SendError> {
        let Place::Elsewhere(body) = place else {
            return self.send_built(around, *to, place, key, None).map(|id| (id, None));
        };
        let key = Key::new(key)?;
        let mailbox = self.mailbox().map_err(|reason| SendError::Unavailable { to: *to, reason })?;
        let (id, bytes) = (self.next_id(mailbox), OutgoingBytes::Built(body));
        let started = self.start_elsewhere(around, to, Outgoing { id, key, bytes, is_doubtful: false });
        started.map(|delivery| (id, Some(delivery)))
    }

    /// A place for a message of `bytes` to `to`.
    pub(super) fn loan(&self, around: &impl Around, to: &Address, bytes: usize) -> Result<Place, SendError> {
        self.ensure_within_limit(bytes)?;
        if *to == self.own {
            let mut private = AlignedVec::with_capacity(bytes);
            private.resize(bytes, 0);
            return Ok(Place::Private(private));
        }
        self.heed(around).map_err(|error| SendError::Unavailable { to: *to, reason: error.to_string() })?;
        if self.open_lane(around, to, bytes, SERVER_ANSWER_MAX)? == Leads::Elsewhere {
            return self.lend_elsewhere(around, to, bytes).map(Place::Elsewhere);
        }
        let lent =
            self.outbound.with(to, bytes, |lane| lane.lane.loan(bytes).map(|loan| Place::Lane(lane.serial, loan)));
        match lent {
            Some(lent) => lent.map_err(|reason| SendError::MailboxFull { to: *to, reason }),
            None => Err(SendError::UnknownProcess { to: *to }),
        }
    }

    #[inline]
    pub(super) fn ensure_within_limit(&self, bytes: usize) -> Result<(), SendError> {
        let limit_bytes = u64::from(self.payload_bytes_max);
        let actual_bytes = bytes as u64;
        if actual_bytes > limit_bytes { Err(SendError::TooLarge { limit_bytes, actual_bytes }) } else { Ok(()) }
    }

    #[inline]
    fn send_to(
        &self,
        around: &impl Around,
        to: &Address,
        key: Key<'_>,
        mut payload: Payload<'_>,
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let mailbox = self.mailbox().map_err(|reason| SendError::Unavailable { to: *to, reason })?;
        self.heed(around).map_err(|error| SendError::Unavailable { to: *to, reason: error.to_string() })?;
        let id = self.next_id(mailbox);
        let bytes = payload.bytes().len();
        match self.outbound.with(to, bytes, |lane| payload.try_send(lane, id, key)) {
            Some(Ok(())) => Ok(id),
            _ => self.send_slowly(around, to, id, key, payload, within),
        }
    }

    /// There is no lane yet, or no room.
    #[cold]
    fn send_slowly(
        &self,
        around: &impl Around,
        to: &Address,
        id: MessageId,
        key: Key<'_>,
        mut payload: Payload<'_>,
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let bytes = payload.bytes().len();
        let mut wait = within.map(|within| Wait::begin(around, within));
        let mut found_closed = 0;
        loop {
            let left = wait.as_ref().map_or(SERVER_ANSWER_MAX, Wait::left);
            if self.open_lane(around, to, bytes, left)? == Leads::Elsewhere {
                let bytes = OutgoingBytes::Here(payload.bytes());
                let within = wait.as_ref().map(Wait::left);
                return self
                    .send_elsewhere(around, to, Outgoing { id, key, bytes, is_doubtful: false }, within)
                    .map(|_| id);
            }
            let sent = self.outbound.with(to, bytes, |lane| (lane.serial, payload.try_send(lane, id, key)));
            let reason = match sent {
                Some((_, Ok(()))) => return Ok(id),
                Some((serial, Err(message_lane::SendError::Closed { .. })))
                    if found_closed < LANES_FOUND_CLOSED_MAX =>
                {
                    found_closed += 1;
                    let given_up = self.outbound.give_up(serial, &self.mail);
                    given_up.map_err(|error| SendError::Unavailable { to: *to, reason: error.to_string() })?;
                    continue;
                }
                Some((_, Err(reason))) => reason,
                None => continue,
            };
            let Some(wait) = wait.as_mut().filter(|_| reason.is_full()) else {
                return Err(SendError::MailboxFull { to: *to, reason });
            };
            ensure_waits(around, wait, to)?;
            wait.stand_aside();
            self.outbound.with(to, bytes, |lane| {
                let wanting = payload.wanting(lane.serial, key);
                lane.lane.wait_for_room(wanting, wait.slice())
            });
            wait.look_again();
            self.heed(around).map_err(|error| SendError::Unavailable { to: *to, reason: error.to_string() })?;
        }
    }

    fn send_to_self(
        &self,
        around: &impl Around,
        key: Key<'_>,
        bytes: &[u8],
        within: Option<Duration>,
    ) -> Result<MessageId, SendError> {
        let mailbox = self.mailbox().map_err(|reason| SendError::Unavailable { to: self.own, reason })?;
        let id = self.next_id(mailbox);
        let message = NewMessage { source: &self.own, id, key, bytes, repeats: false };
        match (mailbox.put(&message), within) {
            (Err(MailError::Full { .. }), Some(within)) => self.put_slowly(around, mailbox, &message, within)?,
            (put, _) => drop(put.map_err(SendError::OwnMailbox)?),
        }
        Ok(id)
    }

    /// The own mailbox is full: whoever makes room rings its bell.
    #[cold]
    fn put_slowly(
        &self,
        around: &impl Around,
        mailbox: &Mailbox,
        message: &NewMessage<'_>,
        within: Duration,
    ) -> Result<(), SendError> {
        let (bell, mut wait) = (mailbox.bell(), Wait::begin(around, within));
        wait.stand_aside();
        loop {
            let seen = bell.prepare(self.tag);
            let put = mailbox.put(message);
            let goes_on = ensure_waits(around, &wait, &self.own);
            if let (Err(MailError::Full { .. }), Ok(())) = (&put, &goes_on) {
                bell.wait(seen, wait.slice());
            }
            bell.finish(self.tag);
            match put {
                Err(MailError::Full { .. }) => goes_on?,
                put => return put.map(drop).map_err(SendError::OwnMailbox),
            }
            wait.look_again();
        }
    }
}

/// Whether a wait for room goes on. A drain does not end it: what is being sent may still arrive.
fn ensure_waits<A: Around>(around: &A, wait: &Wait<'_, A>, to: &Address) -> Result<(), SendError> {
    if around.is_given_up() {
        return Err(SendError::Cancelled { to: *to });
    }
    if wait.left().is_zero() {
        return Err(SendError::DeadlineExceeded { to: *to, waited: wait.within() });
    }
    Ok(())
}
