//! Message lanes on which this shard sends: what processes of other servers, and sessions, send to processes of this one.
//!
//! A *room* is one way: from one life of a sender to the mailbox of one process, with the rights of one token. It has a lane,
//! or asks the server's loop for one when somebody wants to send, and for a larger one when a message does not fit; then the
//! old one is given back, with what the receiver has not taken yet still in it. What is published in a lane is accepted.
//!
//! Nobody is made to wait: a message that finds no lane or no room is refused, and who wants to know when there may be room
//! leaves word here. Those are looked for in each turn and every [`OUTBOUND_LOOK_PERIOD`], a bounded number at a time.
//!
//! Invariants:
//! 1. `outbound_by_way` names the room of each way, as long as it is in the table.
//! 2. A room is in `pressed_outbounds` if, and while, somebody waits for room in it.
//! 3. At most one lane is asked for at a time, in each room.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use praas_protocol::control::{ClientMessage, ClientRequest, ControlError, MessageLaneGeometry, ServerMessage};
use praas_protocol::limits::KEY_BYTES_MAX;
use praas_protocol::message::{Address, MessageId};
use praas_protocol::{Key as MessageKey, ProcessId};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{MessageLoan, Outbound, SendError, Wanting};

use super::control_session::{Question, SessionKey};
use super::delivering::RoomWait;
use super::shard::NetworkShard;
use super::table::Key;
use super::timers::Timer;
use crate::limits::{LANE_LINGER, OUTBOUND_LOOK_PERIOD, OUTBOUND_LOOKS_MAX, OUTBOUND_REFUSED_KEPT};

/// Names a room of one shard.
pub(super) type OutboundKey = Key<OutboundRoom>;

/// From whom to whom, and who answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Way {
    pub(super) session: SessionKey,
    pub(super) process: ProcessId,
    pub(super) source: Address,
    /// Which life of the source.
    pub(super) incarnation: u64,
}

/// One way and its lane.
#[derive(Debug)]
pub(super) struct OutboundRoom {
    way: Way,
    lane: Option<OpenOutbound>,
    /// Bytes of the message for which a lane was asked for.
    opening: Option<u32>,
    refusal: Option<OpeningRefused>,
    /// In the order in which they came.
    waits: VecDeque<RoomWait>,
    /// Handles and sessions that send here.
    users: u32,
    unused_since: Instant,
    lingers: bool,
}

#[derive(Debug)]
struct OpenOutbound {
    serial: u64,
    payload_bytes_max: u32,
    outbound: Outbound,
}

/// The last answer of the server's loop, if it was a refusal: of use for those that ask next.
#[derive(Debug)]
struct OpeningRefused {
    error: ControlError,
    payload_bytes: u32,
    until: Instant,
}

/// Why a message was not published. It certainly was not.
#[derive(Debug)]
pub(super) enum Unpublished {
    /// There is no lane for it yet; one was asked for.
    Opening,
    /// The lane is full.
    Full,
    /// No lane takes it.
    TooLarge {
        /// The largest that one takes.
        limit_bytes: u64,
    },
    /// The server's loop gives no lane.
    Refused(ControlError),
}

impl NetworkShard {
    /// The room of a way, with one more who sends there.
    pub(super) fn outbound_to(&mut self, way: Way) -> OutboundKey {
        let key = match self.outbound_by_way.get(&way) {
            Some(key) => *key,
            None => {
                let key = self.outbounds.insert(OutboundRoom {
                    way,
                    lane: None,
                    opening: None,
                    refusal: None,
                    waits: VecDeque::new(),
                    users: 0,
                    unused_since: self.now,
                    lingers: false,
                });
                self.outbound_by_way.insert(way, key);
                key
            }
        };
        if let Some(room) = self.outbounds.get_mut(key) {
            room.users += 1;
        }
        key
    }

    /// Somebody sends there no more.
    pub(super) fn leave_outbound(&mut self, key: OutboundKey) {
        let Some(room) = self.outbounds.get_mut(key) else { return };
        room.users -= 1;
        if room.users == 0 {
            room.unused_since = self.now;
            if !std::mem::replace(&mut room.lingers, true) {
                self.timers.at(self.now + LANE_LINGER, Timer::Outbound(key));
            }
        }
    }

    /// Timer: whether a room is of use again. It goes when nobody has been using it for long.
    pub(super) fn outbound_due(&mut self, key: OutboundKey) {
        let Some(room) = self.outbounds.get_mut(key) else { return };
        if room.users > 0 {
            room.lingers = false;
            return;
        }
        let end = room.unused_since + LANE_LINGER;
        if end > self.now {
            return self.timers.at(end, Timer::Outbound(key));
        }
        self.close_outbound(key);
    }

    fn close_outbound(&mut self, key: OutboundKey) {
        let Some(room) = self.outbounds.remove(key) else { return };
        self.outbound_by_way.remove(&room.way);
        if let Some(open) = room.lane {
            self.tell_session(room.way.session, &ClientMessage::MessageLaneClose { serial: open.serial });
        }
        for wait in room.waits {
            self.room_wait_failed(&wait, &ControlError::ShuttingDown);
        }
    }

    /// The control session of these ways is gone, and their lanes with it.
    pub(super) fn lose_outbounds_of(&mut self, session: SessionKey) {
        for key in self.outbounds.keys() {
            if self.outbounds.get(key).is_some_and(|room| room.way.session == session) {
                self.close_outbound(key);
            }
        }
    }

    /// Whether a control session has lanes to send on, or senders that may want one.
    pub(super) fn has_outbounds(&self, session: SessionKey) -> bool {
        self.outbound_by_way.keys().any(|way| way.session == session)
    }

    /// Publishes a message: it is accepted when this returns `Ok`.
    pub(super) fn publish(
        &mut self,
        key: OutboundKey,
        id: MessageId,
        message_key: MessageKey<'_>,
        bytes: &[u8],
    ) -> Result<(), Unpublished> {
        self.before_publishing();
        let open = self.lane_for(key, bytes.len())?;
        let published = open.outbound.try_send(id, message_key, bytes);
        let has_woken = open.outbound.take_woken();
        self.giving_way.note_woken(has_woken);
        published.map_err(|error| self.not_in_lane(key, &error, bytes.len()))
    }

    /// Why a message is not in its lane. One that was closed, because its receiver leaves memory, is given up for another one, for
    /// which the server wakes the receiver.
    #[cold]
    fn not_in_lane(&mut self, key: OutboundKey, error: &SendError, bytes: usize) -> Unpublished {
        if let SendError::Closed { .. } = error
            && let Some(room) = self.outbounds.get_mut(key)
            && let Some(open) = room.lane.take()
        {
            let session = room.way.session;
            self.tell_session(session, &ClientMessage::MessageLaneClose { serial: open.serial });
            self.ask_for_outbound(key, u32::try_from(bytes).unwrap_or(u32::MAX));
            return Unpublished::Opening;
        }
        Unpublished::of(error)
    }

    /// A block to receive a message of so many bytes into, and the number of its lane.
    pub(super) fn lend(&mut self, key: OutboundKey, bytes: usize) -> Result<(u64, MessageLoan), Unpublished> {
        let open = self.lane_for(key, bytes)?;
        let loan = open.outbound.loan(bytes).map_err(|error| Unpublished::of(&error))?;
        Ok((open.serial, loan))
    }

    /// Publishes what was received into a block of lane `serial`, which may have been replaced meanwhile.
    pub(super) fn publish_lent(
        &mut self,
        key: OutboundKey,
        (serial, loan): (u64, MessageLoan),
        id: MessageId,
        message_key: MessageKey<'_>,
    ) -> Result<(), Unpublished> {
        self.before_publishing();
        let bytes = loan.len();
        let open = self.lane_for(key, bytes)?;
        if open.serial != serial {
            // It is sent again. Nothing reads it where it lies: its receiver could write it meanwhile.
            return Err(Unpublished::Opening);
        }
        // A loan that comes back is given back: what it had is sent again.
        let published = open.outbound.send_loan(loan, id, message_key).map_err(|(_, error)| error);
        let has_woken = open.outbound.take_woken();
        self.giving_way.note_woken(has_woken);
        published.map_err(|error| self.not_in_lane(key, &error, bytes))
    }

    /// Whether a message of so many bytes may find room now.
    pub(super) fn outbound_room(&mut self, key: OutboundKey, bytes: usize) -> Result<(), Unpublished> {
        let open = self.lane_for(key, bytes)?;
        let wanting = Wanting::Message { key_bytes: KEY_BYTES_MAX, payload_bytes: bytes };
        if open.outbound.has_room(wanting) { Ok(()) } else { Err(Unpublished::Full) }
    }

    /// A lane that takes such a message; asked for if there is none.
    fn lane_for(&mut self, key: OutboundKey, bytes: usize) -> Result<&mut OpenOutbound, Unpublished> {
        let now = self.now;
        let fits = |open: &OpenOutbound| bytes <= open.payload_bytes_max as usize;
        if self.outbounds.get(key).and_then(|room| room.lane.as_ref()).is_some_and(fits) {
            let lane = self.outbounds.get_mut(key).and_then(|room| room.lane.as_mut());
            return lane.ok_or(Unpublished::Opening);
        }
        let Some(room) = self.outbounds.get_mut(key) else {
            return Err(Unpublished::Refused(ControlError::ShuttingDown));
        };
        room.refusal.take_if(|refusal| refusal.until <= now);
        let payload_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let has_lane = room.lane.is_some();
        let applies = |refusal: &&OpeningRefused| {
            // A smaller one may be given where a larger one was not.
            let is_of_size = matches!(refusal.error, ControlError::LimitReached { .. });
            payload_bytes >= refusal.payload_bytes || !has_lane && !is_of_size
        };
        if let Some(refusal) = room.refusal.as_ref().filter(applies) {
            return Err(refusal.words());
        }
        self.ask_for_outbound(key, payload_bytes);
        Err(Unpublished::Opening)
    }

    fn ask_for_outbound(&mut self, key: OutboundKey, payload_bytes: u32) {
        let Some(room) = self.outbounds.get_mut(key).filter(|room| room.opening.is_none()) else { return };
        room.opening = Some(payload_bytes);
        let Way { session, process, source, incarnation } = room.way;
        let wish = ClientRequest::MessageLaneOpen { process, source, incarnation, payload_bytes };
        if let Err(error) = self.ask_session(session, Question::Outbound(key), wish) {
            self.outbound_refused(key, &error);
        }
    }

    /// The server's loop has answered.
    pub(super) fn outbound_answered(
        &mut self,
        session: SessionKey,
        key: OutboundKey,
        message: ServerMessage,
        fds: Vec<OwnedFd>,
    ) {
        let ServerMessage::MessageLaneOpened { serial, geometry, payload_bytes_max, .. } = message else {
            let error = match message {
                ServerMessage::Failed { error, .. } => error,
                _ => ControlError::Protocol { reason: "another answer than a message lane".into() },
            };
            return self.outbound_refused(key, &error);
        };
        let close = |serial| ClientMessage::MessageLaneClose { serial };
        match (self.outbounds.get_mut(key), attach(&geometry, fds)) {
            (Some(room), Ok(outbound)) => {
                room.opening = None;
                let before = room.lane.replace(OpenOutbound { serial, payload_bytes_max, outbound });
                if let Some(before) = before {
                    self.tell_session(session, &close(before.serial));
                }
            }
            (None, _) => self.tell_session(session, &close(serial)),
            (Some(_), Err(error)) => {
                self.tell_session(session, &close(serial));
                self.outbound_refused(key, &error);
            }
        }
        self.look_for_room_in(key);
    }

    /// The server's loop gives no lane.
    pub(super) fn outbound_refused(&mut self, key: OutboundKey, error: &ControlError) {
        let until = self.now + OUTBOUND_REFUSED_KEPT;
        let Some(room) = self.outbounds.get_mut(key) else { return };
        let payload_bytes = room.opening.take().unwrap_or(0);
        room.refusal = Some(OpeningRefused { error: error.clone(), payload_bytes, until });
        // Those who wait for it are told in this turn's look: here somebody may just be asking.
    }

    /// A receiver has ended: its lane leads nowhere.
    pub(super) fn outbound_gone(&mut self, session: SessionKey, serial: u64) {
        let is_it = |room: &OutboundRoom| {
            room.way.session == session && room.lane.as_ref().is_some_and(|open| open.serial == serial)
        };
        let key = self.outbound_by_way.values().find(|key| self.outbounds.get(**key).is_some_and(is_it)).copied();
        if let Some(room) = key.and_then(|key| self.outbounds.get_mut(key)) {
            room.lane = None;
        }
    }

    /// Has somebody told when there may be room.
    pub(super) fn wait_for_outbound(&mut self, key: OutboundKey, wait: RoomWait) {
        let Some(room) = self.outbounds.get_mut(key) else {
            return self.room_wait_failed(&wait, &ControlError::ShuttingDown);
        };
        room.waits.push_back(wait);
        if room.waits.len() == 1 {
            self.pressed_outbounds.push_back(key);
        }
        if !std::mem::replace(&mut self.outbounds_watched, true) {
            self.timers.at(self.now + OUTBOUND_LOOK_PERIOD, Timer::Outbounds);
        }
    }

    /// Takes back those who waited, and are `of` this kind.
    pub(super) fn take_room_waits(&mut self, of: impl Fn(&RoomWait) -> bool) -> Vec<RoomWait> {
        let mut taken = Vec::new();
        for key in &self.pressed_outbounds {
            if let Some(room) = self.outbounds.get_mut(*key) {
                let (ended, left): (Vec<_>, Vec<_>) = std::mem::take(&mut room.waits).into_iter().partition(&of);
                taken.extend(ended);
                room.waits = left.into();
            }
        }
        let outbounds = &self.outbounds;
        self.pressed_outbounds.retain(|key| outbounds.get(*key).is_some_and(|room| !room.waits.is_empty()));
        taken
    }

    /// Looks for room for those who wait for some.
    pub(super) fn look_for_room(&mut self) {
        for _ in 0..self.pressed_outbounds.len().min(OUTBOUND_LOOKS_MAX) {
            let Some(key) = self.pressed_outbounds.pop_front() else { return };
            self.look_for_room_in(key);
            let is_pressed = self.outbounds.get(key).is_some_and(|room| !room.waits.is_empty());
            if is_pressed && !self.pressed_outbounds.contains(&key) {
                self.pressed_outbounds.push_back(key);
            }
        }
    }

    fn look_for_room_in(&mut self, key: OutboundKey) {
        let Some(room) = self.outbounds.get_mut(key) else { return };
        let waits = std::mem::take(&mut room.waits);
        let mut left = VecDeque::new();
        for wait in waits {
            if !self.is_room_wait_over(key, &wait) {
                left.push_back(wait);
            }
        }
        match self.outbounds.get_mut(key) {
            Some(room) => {
                left.append(&mut room.waits);
                room.waits = left;
            }
            None => left.iter().for_each(|wait| self.room_wait_failed(wait, &ControlError::ShuttingDown)),
        }
        let outbounds = &self.outbounds;
        self.pressed_outbounds.retain(|key| outbounds.get(*key).is_some_and(|room| !room.waits.is_empty()));
    }

    /// Timer: receivers make room without a word.
    pub(super) fn outbounds_due(&mut self) {
        self.look_for_room();
        self.outbounds_watched = !self.pressed_outbounds.is_empty();
        if self.outbounds_watched {
            self.timers.at(self.now + OUTBOUND_LOOK_PERIOD, Timer::Outbounds);
        }
    }
}

impl Unpublished {
    fn of(error: &SendError) -> Self {
        match error {
            SendError::TooLarge { limit_bytes, .. } => Self::TooLarge { limit_bytes: *limit_bytes as u64 },
            _ => Self::Full,
        }
    }
}

impl OpeningRefused {
    fn words(&self) -> Unpublished {
        match &self.error {
            // The application's limit of one message; what the host lacks is asked for in whole lanes.
            ControlError::LimitReached { used: 0, limit, asked, .. } if *asked == u64::from(self.payload_bytes) => {
                Unpublished::TooLarge { limit_bytes: *limit }
            }
            error => Unpublished::Refused(error.clone()),
        }
    }
}

fn attach(geometry: &MessageLaneGeometry, fds: Vec<OwnedFd>) -> Result<Outbound, ControlError> {
    let host = |reason: String| ControlError::Host { what: "attaching a message lane".into(), reason };
    let [lane, bell] = fds.try_into().map_err(|_| host("it came without its descriptors".into()))?;
    let bell = MailBell::attach(bell).map_err(|error| host(error.to_string()))?;
    Outbound::attach(lane, geometry, bell).map_err(|error| host(error.to_string()))
}
