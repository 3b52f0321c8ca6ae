//! Messages that another server brings: REQUESTs of [`DELIVER_FUNCTION`], [`DELIVER_NEXT_FUNCTION`] and
//! [`AWAIT_ROOM_FUNCTION`] on handles that were opened in the name of one of its processes.
//!
//! They go into no lane of calls: this shard publishes the message itself, in a message lane ([`super::outbound`]), and
//! answers in the same turn. A small payload is published from where it was received; a large one is received by the driver
//! straight into a block of the lane, once its head has come.
//!
//! Nobody waits here, so that one receiver that is slow keeps up nobody else's messages: what finds no room is refused, its
//! payload read and dropped. Its sender asks for room, and is answered when there may be some.
//!
//! Invariants:
//! 1. A message is published only while its connection belongs to its server's newest link ([`super::generations`]).
//! 2. On a handle that is *refusing* nothing is published that was sent before its sender knew: see the rules in
//!    [`praas_protocol::message`].
//! 3. Each request is answered once, and gives back its credit with it.
//!
//! A process whose changes are logged has no message lanes: what is delivered to it is put by a call, one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::ControlError;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Accepted, Address, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, MessageId, PUT_FUNCTION,
    PUT_HEAD_BYTES, PutHead, codes, decode_room,
};
use praas_protocol::wire::{GoawayReason, Response};
use praas_protocol::{FunctionId, Key as MessageKey, Outcome, Phase, ProcessId};
use praas_shm::io_buffer::{IoBuffer, MessageLoanBuffer};

use super::calls::{Asked, NotRun};
use super::connection::ConnectionKey;
use super::generations::Generation;
use super::outbound::{OutboundKey, Unpublished, Way};
use super::receiving::Flow;
use super::shard::NetworkShard;
use crate::limits::{AWAIT_ROOM_MAX, DELIVERY_GATHERED_BYTES_MAX, PUT_AGAIN_PAUSE};

/// In whose name a handle was opened, and what for.
#[derive(Debug)]
pub(super) struct Spoken {
    pub(super) process: ProcessId,
    pub(super) source: Address,
    /// Which life of the source.
    pub(super) incarnation: u64,
    /// Where its messages go, from the first one on.
    outbound: Option<OutboundKey>,
    /// Invariant 2.
    refusing: bool,
    /// The process has no message lanes.
    puts: bool,
    /// The request whose message was put last, until it is known to be accepted.
    put: Option<u64>,
}

impl Spoken {
    pub(super) fn new(process: ProcessId, source: Address, incarnation: u64) -> Self {
        Self { process, source, incarnation, outbound: None, refusing: false, puts: false, put: None }
    }

    /// A call was answered with success.
    pub(super) fn call_succeeded(&mut self, request_id: u64) {
        self.put.take_if(|put| *put == request_id);
    }

    /// Where its messages go, to be left with the handle.
    pub(super) fn outbound(&self) -> Option<OutboundKey> {
        self.outbound
    }
}

/// The link that a connection belongs to.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) generation: Arc<Generation>,
    pub(super) instance: u64,
    pub(super) number: u64,
}

/// What a request on such a handle asks for, if it is no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Errand {
    Deliver,
    DeliverNext,
    AwaitRoom,
}

impl Errand {
    pub(super) fn of(function: FunctionId) -> Option<Self> {
        const DELIVER: FunctionId = FunctionId::of(DELIVER_FUNCTION);
        const DELIVER_NEXT: FunctionId = FunctionId::of(DELIVER_NEXT_FUNCTION);
        const AWAIT_ROOM: FunctionId = FunctionId::of(AWAIT_ROOM_FUNCTION);
        match function {
            DELIVER => Some(Self::Deliver),
            DELIVER_NEXT => Some(Self::DeliverNext),
            AWAIT_ROOM => Some(Self::AwaitRoom),
            _ => None,
        }
    }
}

/// A request, as far as its answer needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    pub(super) request_id: u64,
    pub(super) handle: u32,
    pub(super) payload_bytes: u32,
}

/// An errand whose payload is on its way.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) credit: Credit,
    errand: Errand,
    /// It is a call that is set aside when it is whole.
    call: Option<Asked>,
    end: Instant,
    /// What has come of it; of one that goes to its place, head and key alone.
    gathered: Vec<u8>,
    place: Option<Place>,
}

/// Where a large message goes.
#[derive(Debug)]
struct Place {
    outbound: OutboundKey,
    /// Of the lane.
    serial: u64,
    /// `None` while the driver fills it.
    buffer: Option<MessageLoanBuffer>,
    filled_bytes: usize,
}

impl Delivery {
    /// A call that is gathered, of which this has come.
    pub(super) fn of_call(asked: Asked, begun: &[u8]) -> Self {
        let Asked { request_id, handle, payload_bytes, came, .. } = asked;
        let mut gathered = Vec::with_capacity(payload_bytes as usize);
        gathered.extend_from_slice(begun);
        let credit = Credit { request_id, handle, payload_bytes };
        Self { credit, errand: Errand::AwaitRoom, call: Some(asked), end: came, gathered, place: None }
    }

    /// The buffer that the driver is to fill from this byte on, if there is one.
    pub(super) fn take_buffer(&mut self) -> Option<(MessageLoanBuffer, usize)> {
        let place = self.place.as_mut()?;
        place.buffer.take().map(|buffer| (buffer, place.filled_bytes))
    }

    /// The driver has filled it.
    pub(super) fn give_buffer_back(&mut self, buffer: MessageLoanBuffer) {
        if let Some(place) = &mut self.place {
            place.filled_bytes = IoBuffer::bytes(&buffer);
            place.buffer = Some(buffer);
        }
    }

    /// Takes what came next; true if that was all.
    fn grow(&mut self, bytes: &[u8]) -> bool {
        match &mut self.place {
            None => {
                self.gathered.extend_from_slice(bytes);
                self.gathered.len() == self.credit.payload_bytes as usize
            }
            Some(Place { buffer: Some(buffer), filled_bytes, .. }) => {
                buffer.store(*filled_bytes, bytes);
                *filled_bytes += bytes.len();
                *filled_bytes == IoBuffer::bytes(buffer)
            }
            Some(_) => false,
        }
    }

    /// Whether it is to go to its place, and all that comes before it is there.
    fn has_head(&self) -> bool {
        let is_large = self.credit.payload_bytes as usize > DELIVERY_GATHERED_BYTES_MAX && self.call.is_none();
        let head = self.gathered.first_chunk::<PUT_HEAD_BYTES>().filter(|_| is_large && self.place.is_none());
        // One that is none is seen to be so when it is decoded.
        head.is_some_and(|head| PutHead::bytes_before(head).is_ok_and(|start| start <= self.gathered.len()))
            || head.is_some_and(|head| PutHead::bytes_before(head).is_err())
    }
}

/// Somebody who asked for room.
#[derive(Debug)]
pub(super) struct RoomWait {
    pub(super) connection: ConnectionKey,
    pub(super) credit: Credit,
    /// Of the message.
    bytes: usize,
    /// Not before.
    from: Instant,
    end: Instant,
}

/// Why a message was not accepted.
#[derive(Debug)]
enum Undelivered {
    NotRun(NotRun),
    Failed {
        code: u32,
        message: &'static str,
    },
    /// There are no message lanes to its process.
    Puts,
    /// Its connection belongs to a link that was passed.
    Late,
}

impl Undelivered {
    const BUSY: Self =
        Self::Failed { code: codes::BUSY, message: "the way to the mailbox is being opened: ask for room" };
    const FULL: Self = Self::Failed { code: codes::MAILBOX_FULL, message: "the mailbox has no room: ask for some" };

    fn malformed(message: &'static str) -> Self {
        Self::Failed { code: codes::BAD_REQUEST, message }
    }

    fn of(unpublished: Unpublished, bytes: usize) -> Self {
        match unpublished {
            Unpublished::Opening => Self::BUSY,
            Unpublished::Full => Self::FULL,
            Unpublished::TooLarge { limit_bytes } => {
                Self::NotRun(NotRun::new(Outcome::PayloadTooLarge, limit_bytes, bytes as u64))
            }
            Unpublished::Refused(ControlError::Elsewhere { .. }) => Self::Puts,
            Unpublished::Refused(error) => Self::NotRun(NotRun::for_refusal(&error)),
        }
    }
}

impl NotRun {
    /// How a call is answered to which the server's loop gives no way.
    pub(super) fn for_refusal(error: &ControlError) -> Self {
        match error {
            ControlError::UnknownProcess { .. } | ControlError::UnknownSession { .. } => {
                Self::new(Outcome::UnknownProcess, 0, 0)
            }
            ControlError::Unauthorized { .. } => Self::new(Outcome::Unauthorized, 0, 0),
            ControlError::LimitReached { used, limit, .. } => Self::new(Outcome::Overloaded, *limit, *used),
            _ => Self::unavailable(Phase::Closed),
        }
    }
}

impl NetworkShard {
    /// A request that is no call came, with the beginning of its payload.
    fn errand_came(
        &mut self,
        key: ConnectionKey,
        credit: Credit,
        errand: Errand,
        time_remaining_ns: u64,
        payload: &[u8],
    ) -> Flow {
        let time = match time_remaining_ns {
            0 => AWAIT_ROOM_MAX,
            remaining_ns => Duration::from_nanos(remaining_ns).min(AWAIT_ROOM_MAX),
        };
        let end = self.now + time;
        if errand != Errand::AwaitRoom
            && let Err(refused) = self.look_at_refusing(key, credit.handle, errand)
        {
            return self.answer_errand(key, credit, Err(refused));
        }
        if payload.len() == credit.payload_bytes as usize {
            return self.run_errand(key, credit, errand, end, payload);
        }
        let gathered = Vec::with_capacity((credit.payload_bytes as usize).min(DELIVERY_GATHERED_BYTES_MAX));
        let delivery = Delivery { credit, errand, call: None, end, gathered, place: None };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.delivery = Some(Box::new(delivery));
        }
        self.delivery_grew(key, payload)
    }

    /// A delivery that follows others is refused while its handle is; another one begins anew.
    fn look_at_refusing(&mut self, key: ConnectionKey, handle: u32, errand: Errand) -> Result<(), Undelivered> {
        let spoken = self.spoken(key, handle).ok_or(Undelivered::Late)?;
        if errand == Errand::DeliverNext && spoken.refusing {
            return Err(Undelivered::FULL);
        }
        spoken.refusing = false;
        Ok(())
    }

    fn spoken(&mut self, key: ConnectionKey, handle: u32) -> Option<&mut Spoken> {
        self.connections.get_mut(key)?.handle_mut(handle)?.spoken.as_deref_mut()
    }

    /// An errand that is to be run as a call, by this function; otherwise it is done, or under way.
    pub(super) fn errand_or_call(
        &mut self,
        key: ConnectionKey,
        credit: Credit,
        errand: Errand,
        time_remaining_ns: u64,
        payload: &[u8],
    ) -> Result<FunctionId, Flow> {
        let puts = self.spoken(key, credit.handle).is_some_and(|spoken| spoken.puts);
        if errand == Errand::AwaitRoom || !puts {
            return Err(self.errand_came(key, credit, errand, time_remaining_ns, payload));
        }
        let is_putting = self.is_putting(key, credit.handle);
        let looked = self.look_at_refusing(key, credit.handle, errand);
        match looked.and(if is_putting { Err(Undelivered::BUSY) } else { Ok(()) }) {
            Ok(()) => {
                if let Some(spoken) = self.spoken(key, credit.handle) {
                    spoken.put = Some(credit.request_id);
                }
                Ok(FunctionId::of(PUT_FUNCTION))
            }
            Err(refused) => Err(self.answer_errand(key, credit, Err(refused))),
        }
    }

    /// More of an errand's payload; what follows it is looked at next.
    pub(super) fn delivery_grew(&mut self, key: ConnectionKey, bytes: &[u8]) -> Flow {
        let Some(connection) = self.connections.get_mut(key) else { return Flow::Stop };
        let Some(delivery) = &mut connection.delivery else { return Flow::GoOn };
        if delivery.grow(bytes) {
            return self.delivery_is_whole(key);
        }
        if delivery.has_head() {
            return self.place_delivery(key);
        }
        Flow::GoOn
    }

    /// Finds a place for a large message whose head has come.
    fn place_delivery(&mut self, key: ConnectionKey) -> Flow {
        let Some(mut delivery) = self.connections.get_mut(key).and_then(|connection| connection.delivery.take()) else {
            return Flow::GoOn;
        };
        let credit = delivery.credit;
        match self.place_for(key, &delivery) {
            Ok((start, place)) => {
                delivery.gathered.truncate(start);
                delivery.place = Some(place);
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.delivery = Some(delivery);
                }
                Flow::GoOn
            }
            // The rest of it is dropped as it comes.
            Err(undelivered) => self.answer_errand(key, credit, Err(undelivered)),
        }
    }

    fn place_for(&mut self, key: ConnectionKey, delivery: &Delivery) -> Result<(usize, Place), Undelivered> {
        if delivery.errand == Errand::AwaitRoom {
            return Err(Undelivered::malformed("the payload is not a number of bytes"));
        }
        let (head, begun) = decode(&delivery.gathered)?;
        self.check_head(key, delivery.credit.handle, &head)?;
        let start = delivery.gathered.len() - begun.len();
        let bytes = delivery.credit.payload_bytes as usize - start;
        let outbound = self.outbound_of(key, delivery.credit.handle)?;
        let (serial, loan) = self.lend(outbound, bytes).map_err(|unpublished| Undelivered::of(unpublished, bytes))?;
        let mut buffer = MessageLoanBuffer::new(loan);
        buffer.store(0, begun);
        Ok((start, Place { outbound, serial, buffer: Some(buffer), filled_bytes: begun.len() }))
    }

    /// All of an errand's payload is there.
    pub(super) fn delivery_is_whole(&mut self, key: ConnectionKey) -> Flow {
        let Some(delivery) = self.connections.get_mut(key).and_then(|connection| connection.delivery.take()) else {
            return Flow::GoOn;
        };
        let Delivery { credit, errand, call, end, gathered, place } = *delivery;
        if let Some(asked) = call {
            self.gathered_aside(key, asked, gathered);
            return Flow::GoOn;
        }
        let Some(Place { outbound, serial, buffer: Some(buffer), .. }) = place else {
            return self.run_errand(key, credit, errand, end, &gathered);
        };
        let (bytes, lent) = (IoBuffer::bytes(&buffer), (serial, buffer.into_loan()));
        let published = decode(&gathered).and_then(|(head, _)| {
            let of = |unpublished| Undelivered::of(unpublished, bytes);
            self.while_newest(key, |shard| shard.publish_lent(outbound, lent, head.id, head.key).map_err(of))
        });
        self.answer_errand(key, credit, published)
    }

    fn run_errand(&mut self, key: ConnectionKey, credit: Credit, errand: Errand, end: Instant, payload: &[u8]) -> Flow {
        if errand == Errand::AwaitRoom {
            return self.await_room(key, credit, end, payload);
        }
        let published = self.deliver_message(key, credit.handle, payload);
        self.answer_errand(key, credit, published)
    }

    fn deliver_message(&mut self, key: ConnectionKey, handle: u32, payload: &[u8]) -> Result<(), Undelivered> {
        let (head, bytes) = decode(payload)?;
        self.check_head(key, handle, &head)?;
        let outbound = self.outbound_of(key, handle)?;
        self.while_newest(key, |shard| shard.publish_on(outbound, head.id, head.key, bytes))
    }

    fn publish_on(
        &mut self,
        outbound: OutboundKey,
        id: MessageId,
        key: MessageKey<'_>,
        bytes: &[u8],
    ) -> Result<(), Undelivered> {
        self.publish(outbound, id, key, bytes).map_err(|unpublished| Undelivered::of(unpublished, bytes.len()))
    }

    /// Who brings a message is believed only about the process that its handle speaks for.
    fn check_head(&mut self, key: ConnectionKey, handle: u32, head: &PutHead<'_>) -> Result<(), Undelivered> {
        let spoken = self.spoken(key, handle).ok_or(Undelivered::Late)?;
        if head.source != spoken.source || head.id.incarnation != spoken.incarnation {
            return Err(Undelivered::malformed("the message is another sender's than the handle was opened for"));
        }
        Ok(())
    }

    /// Where the messages of a handle go.
    fn outbound_of(&mut self, key: ConnectionKey, handle: u32) -> Result<OutboundKey, Undelivered> {
        let spoken = self.spoken(key, handle).ok_or(Undelivered::Late)?;
        let (before, process, source, incarnation) =
            (spoken.outbound, spoken.process, spoken.source, spoken.incarnation);
        if let Some(outbound) = before.filter(|outbound| self.outbounds.get(*outbound).is_some()) {
            return Ok(outbound);
        }
        let session = self.session_for(key).map_err(|error| Undelivered::NotRun(NotRun::for_refusal(&error)))?;
        let outbound = self.outbound_to(Way { session, process, source, incarnation });
        if let Some(spoken) = self.spoken(key, handle) {
            spoken.outbound = Some(outbound);
        }
        Ok(outbound)
    }

    /// Invariant 1.
    fn while_newest(
        &mut self,
        key: ConnectionKey,
        publish: impl FnOnce(&mut Self) -> Result<(), Undelivered>,
    ) -> Result<(), Undelivered> {
        let link = self.connections.get(key).and_then(|connection| connection.link.clone()).ok_or(Undelivered::Late)?;
        link.generation.if_newest(link.number, || publish(self)).unwrap_or(Err(Undelivered::Late))
    }

    /// Answers a delivery.
    fn answer_errand(&mut self, key: ConnectionKey, credit: Credit, end: Result<(), Undelivered>) -> Flow {
        let undelivered = match end {
            Ok(()) => {
                self.answer_with(key, credit, Outcome::Ok, 0, &[Accepted::Now as u8]);
                return Flow::GoOn;
            }
            Err(undelivered) => undelivered,
        };
        if let Some(spoken) = self.spoken(key, credit.handle) {
            spoken.refusing = true;
            spoken.puts |= matches!(undelivered, Undelivered::Puts);
        }
        let undelivered = if matches!(undelivered, Undelivered::Puts) { Undelivered::BUSY } else { undelivered };
        match undelivered {
            Undelivered::Puts => {}
            Undelivered::NotRun(not_run) => self.answer_not_run(key, credit, not_run),
            Undelivered::Failed { code, message } => {
                self.answer_with(key, credit, Outcome::FunctionFailed, code, message.as_bytes());
            }
            Undelivered::Late => {
                self.answer_not_run(key, credit, NotRun::unavailable(Phase::Closed));
                self.send_away(key, GoawayReason::Protocol, "a later link of the same server has taken its place");
                return Flow::Stop;
            }
        }
        Flow::GoOn
    }

    fn answer_with(&mut self, key: ConnectionKey, credit: Credit, outcome: Outcome, detail: u32, payload: &[u8]) {
        let Credit { request_id, handle, payload_bytes } = credit;
        self.give_credit_back(key, handle, payload_bytes);
        let response = Response { request_id, outcome_code: outcome as u32, detail, more: 0 };
        let head = response.encode_head(u32::try_from(payload.len()).unwrap_or(0));
        self.gather(key, |message| {
            message.push_bytes(&head);
            message.push_bytes(payload);
        });
        self.counters.answered();
    }

    /// Whoever has asked for room is answered when there may be some.
    fn await_room(&mut self, key: ConnectionKey, credit: Credit, end: Instant, payload: &[u8]) -> Flow {
        let bytes = decode_room(payload).and_then(|bytes| usize::try_from(bytes).ok());
        let outbound = self.outbound_of(key, credit.handle);
        match (bytes, outbound) {
            (Some(bytes), Ok(outbound)) => {
                let puts = self.spoken(key, credit.handle).is_some_and(|spoken| spoken.puts);
                let from = self.now + if puts { PUT_AGAIN_PAUSE } else { Duration::ZERO };
                let wait = RoomWait { connection: key, credit, bytes, from, end };
                if !self.is_room_wait_over(outbound, &wait) {
                    self.wait_for_outbound(outbound, wait);
                }
                Flow::GoOn
            }
            (None, _) => {
                let message = "the payload is not a number of bytes";
                self.answer_with(key, credit, Outcome::FunctionFailed, codes::BAD_REQUEST, message.as_bytes());
                Flow::GoOn
            }
            (_, Err(undelivered)) => self.answer_errand(key, credit, Err(undelivered)),
        }
    }

    /// Answers who waits for room if there is some, or never will be, or its time is over.
    pub(super) fn is_room_wait_over(&mut self, outbound: OutboundKey, wait: &RoomWait) -> bool {
        let RoomWait { connection: key, credit, bytes, from, end } = *wait;
        let room = self.outbound_room(outbound, bytes);
        let is_logged = matches!(room, Err(Unpublished::Refused(ControlError::Elsewhere { .. })));
        let room = if is_logged { self.room_for_put(key, credit.handle) } else { room };
        match room {
            Ok(()) if self.now >= from => self.answer_with(key, credit, Outcome::Ok, 0, &[]),
            Ok(()) | Err(Unpublished::Opening | Unpublished::Full) if self.now < end => return false,
            Ok(()) | Err(Unpublished::Opening | Unpublished::Full) => {
                self.answer_not_run(key, credit, NotRun::new(Outcome::DeadlineExceeded, 0, 0));
            }
            Err(Unpublished::TooLarge { limit_bytes }) => {
                self.answer_not_run(key, credit, NotRun::new(Outcome::PayloadTooLarge, limit_bytes, bytes as u64));
            }
            Err(Unpublished::Refused(error)) => self.room_wait_failed(wait, &error),
        }
        true
    }

    /// A process without message lanes has room for one put at a time from each handle.
    fn room_for_put(&mut self, key: ConnectionKey, handle: u32) -> Result<(), Unpublished> {
        if let Some(spoken) = self.spoken(key, handle) {
            spoken.puts = true;
        }
        if self.is_putting(key, handle) { Err(Unpublished::Full) } else { Ok(()) }
    }

    /// Whether a put of a handle is in flight, or waits to be. One that has ended without success makes the handle refusing:
    /// what its sender has sent behind it may not overtake it.
    fn is_putting(&mut self, key: ConnectionKey, number: u32) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let Some(handle) = connection.handle_mut(number) else { return false };
        let lane = handle.lane;
        let Some(put) = handle.spoken.as_ref().and_then(|spoken| spoken.put) else { return false };
        if connection.has_call(put) || self.has_aside(key, put, lane) {
            return true;
        }
        if let Some(spoken) = self.spoken(key, number) {
            (spoken.put, spoken.refusing) = (None, true);
        }
        false
    }

    /// There will be no room.
    pub(super) fn room_wait_failed(&mut self, wait: &RoomWait, error: &ControlError) {
        self.answer_not_run(wait.connection, wait.credit, NotRun::for_refusal(error));
    }

    /// Answers those of a connection who wait for room, and are of this kind: nobody will tell them.
    pub(super) fn end_room_waits(&mut self, key: ConnectionKey, not_run: NotRun, of: impl Fn(&Credit) -> bool) {
        for wait in self.take_room_waits(|wait| wait.connection == key && of(&wait.credit)) {
            self.answer_not_run(key, wait.credit, not_run);
        }
    }
}

fn decode(payload: &[u8]) -> Result<(PutHead<'_>, &[u8]), Undelivered> {
    PutHead::decode(payload).map_err(|_| Undelivered::malformed("the payload does not begin with a message's head"))
}
