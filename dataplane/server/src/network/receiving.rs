//! From received bytes to what they ask for.
//!
//! Frames are read where they were received. The payload of a call that is not whole yet is received by the driver
//! straight into a block of the call's lane.

use praas_protocol::control::ClientRequest;
use praas_protocol::wire::{
    Action, Close, Dedicate, Frame, GoawayReason, Header, Item, List, ListApplications, Open, OpenAs, OpenSession,
    Order, Output, Ping, PlainCall, Pong, RuleError, Side, StorageUsage, Verdict, Watch, WatchTransitions,
};
use praas_protocol::{Name, ProcessId};
use praas_shm::io_buffer::{IoBuffer, LaneBuffer};
use praas_sys::driver::End;

use super::calls::{Asked, Wanted};
use super::connection::{Connection, ConnectionKey, Stage};
use super::delivering::Credit;
use super::shard::NetworkShard;
use super::timers::Timer;

/// Whether what follows in the same bytes is looked at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    /// It is kept elsewhere, or of no interest any more.
    Stop,
}

/// What a client says besides its calls, without the bytes in which it was said.
#[derive(Clone, Copy)]
enum Word {
    Ping(Ping),
    Open(Open),
    Close(Close),
    Dedicate(Dedicate),
    Cancel(u64),
    Order(Order),
    List(List),
    ListApplications(ListApplications),
    Output(Output),
    Stats(u64, ProcessId, Option<Name>),
    OpenAs(OpenAs),
    Watch(Watch),
    WatchTransitions(WatchTransitions),
    StorageUsage(StorageUsage),
    Session(OpenSession),
}

impl Word {
    fn of(frame: &Frame<'_>) -> Option<Self> {
        Some(match *frame {
            Frame::Ping(ping) => Self::Ping(ping),
            Frame::Open(open) => Self::Open(open),
            Frame::Close(close) => Self::Close(close),
            Frame::Dedicate(dedicate) => Self::Dedicate(dedicate),
            Frame::Cancel(cancel) => Self::Cancel(cancel.request_id),
            Frame::Order(order) => Self::Order(order),
            Frame::List(list) => Self::List(list),
            Frame::ListApplications(list) => Self::ListApplications(list),
            Frame::Output(output) => Self::Output(output),
            Frame::OpenAs(open) => Self::OpenAs(open),
            Frame::Watch(watch) => Self::Watch(watch),
            Frame::WatchTransitions(watch) => Self::WatchTransitions(watch),
            Frame::StorageUsage(usage) => Self::StorageUsage(usage),
            Frame::Session(session) => Self::Session(session),
            Frame::Stats(stats) => Self::Stats(stats.request_id, stats.process, stats.after.parse().ok()),
            _ => return None,
        })
    }
}

impl NetworkShard {
    /// Bytes came.
    pub(super) fn bytes_came(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(waiting) = &mut connection.waiting {
            // They were on their way when receiving was stopped.
            return waiting.follow(bytes);
        }
        self.read(key, bytes);
    }

    /// Reads frames until all of `input` is used, or kept.
    pub(super) fn read(&mut self, key: ConnectionKey, mut input: &[u8]) {
        loop {
            let Some(connection) = self.connections.get_mut(key).filter(|connection| connection.listens()) else {
                return;
            };
            if let Some(call) = connection.decoder.plain_call(input) {
                let PlainCall { header, handle, function, time_remaining_ns, payload, rest } = call;
                let wanted =
                    Wanted { handle, function, time_remaining_ns, root: 0, principal: None, idempotency: None };
                if self.request_came(key, &header, &wanted, payload, rest) == Flow::Stop || rest.is_empty() {
                    return;
                }
                input = rest;
                continue;
            }
            let step = match connection.decoder.step(input) {
                Ok(step) => step,
                Err(error) => return self.send_away(key, GoawayReason::Protocol, &error.to_string()),
            };
            let (used, rest) = input.split_at(step.consumed);
            let flow = match step.item {
                None => return self.receive_rest(key),
                Some(Item::Request { header, request, payload, .. }) => {
                    // Payloads lie in the input, not in the decoder.
                    let payload = &used[used.len() - payload.len()..];
                    self.request_came(key, &header, &Wanted::of(&request), payload, rest)
                }
                Some(Item::Payload { bytes, .. }) => {
                    let payload = &used[used.len() - bytes.len()..];
                    self.payload_came(key, payload, rest)
                }
                Some(Item::Control { header, frame }) => {
                    let shown = connection.rules.show(Side::Client, &header);
                    match (shown, &frame) {
                        (Err(error), _) => self.break_off(key, &error),
                        (Ok(Verdict::Ignore), _) => Flow::GoOn,
                        (Ok(Verdict::Accept), Frame::Hello(hello)) => {
                            let token = hello.token.to_owned();
                            let hello = praas_protocol::wire::Hello { token: &token, ..*hello };
                            self.hello_came(key, &hello);
                            Flow::GoOn
                        }
                        (Ok(Verdict::Accept), frame) => match Word::of(frame) {
                            Some(word) => self.word_came(key, &header, word),
                            None => Flow::GoOn,
                        },
                    }
                }
                Some(Item::Response { .. }) => Flow::GoOn,
            };
            if flow == Flow::Stop {
                return;
            }
            input = rest;
        }
    }

    fn word_came(&mut self, key: ConnectionKey, header: &Header, word: Word) -> Flow {
        match word {
            Word::Ping(ping) => self.answer_ping(key, ping),
            Word::Cancel(request_id) => self.cancel(key, request_id),
            Word::Open(open) => self.open(key, &open),
            Word::OpenAs(open) => return self.open_as(key, &open),
            Word::Watch(watch) => self.watch(key, &watch),
            Word::Session(session) => self.open_session(key, &session),
            Word::Close(close) => return self.close_handle(key, close),
            Word::Dedicate(dedicate) => {
                self.begin_giving_away(key, dedicate);
                return Flow::GoOn;
            }
            Word::Order(Order { action, process, idle_swap_ms, .. }) => {
                use ClientRequest::{ProcessCreate, ProcessRestart, ProcessRestore, ProcessStop, ProcessSwap};
                let body = match action {
                    Action::Create => ProcessCreate { process, idle_swap_ms },
                    Action::Stop => ProcessStop { process },
                    Action::Restart => ProcessRestart { process },
                    Action::Swap => ProcessSwap { process },
                    Action::Restore => ProcessRestore { process },
                };
                self.ask(key, header.request_id, body);
            }
            Word::List(list) => self.ask_for_processes(key, &list),
            Word::ListApplications(list) => self.ask_for_applications(key, &list),
            Word::Output(output) => self.ask_for_output(key, &output),
            Word::WatchTransitions(watch) => self.ask_for_transitions(key, &watch),
            Word::StorageUsage(usage) => {
                self.ask(key, usage.request_id, ClientRequest::StorageUsage { after: usage.after });
            }
            Word::Stats(request_id, process, after) => self.ask_for_stats(key, request_id, process, after),
        }
        Flow::GoOn
    }

    fn answer_ping(&mut self, key: ConnectionKey, ping: Ping) {
        let received_ns = monotonic_ns();
        self.push(key, |out| Pong { opaque: ping.opaque, received_ns, sent_ns: monotonic_ns() }.encode(out));
    }

    /// A frame that may not come now.
    pub(super) fn break_off(&mut self, key: ConnectionKey, error: &RuleError) -> Flow {
        self.send_away(key, error.goaway_reason(), &error.to_string());
        Flow::Stop
    }

    /// A frame that says what cannot be.
    pub(super) fn break_off_for(&mut self, key: ConnectionKey, message: &str) -> Flow {
        self.send_away(key, GoawayReason::Protocol, message);
        Flow::Stop
    }

    /// More of a payload that is not received by the driver: for a block that waited for room, or of a call that was
    /// answered already.
    fn payload_came(&mut self, key: ConnectionKey, bytes: &[u8], rest: &[u8]) -> Flow {
        let Some(connection) = self.connections.get_mut(key) else { return Flow::Stop };
        if connection.delivery.is_some() {
            return self.delivery_grew(key, bytes);
        }
        let Some(incoming) = &mut connection.incoming else { return Flow::GoOn };
        let Some(buffer) = &mut incoming.buffer else { return Flow::GoOn };
        buffer.store(incoming.filled_bytes, bytes);
        incoming.filled_bytes += bytes.len();
        if incoming.filled_bytes == IoBuffer::bytes(buffer) {
            return self.payload_is_whole(key, rest);
        }
        Flow::GoOn
    }

    /// Everything that was received is read: what is missing of a payload goes straight to its place.
    fn receive_rest(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.stage, Stage::HandingOver(_)) {
            return self.go_on_giving_away(key);
        }
        let (request_id, bytes, buffer, filled_bytes) = match (&mut connection.incoming, &mut connection.delivery) {
            (Some(incoming), _) => {
                let Some(buffer) = incoming.buffer.take() else { return };
                let Asked { request_id, payload_bytes, .. } = incoming.asked;
                (request_id, payload_bytes, LaneBuffer::Loan(buffer), incoming.filled_bytes)
            }
            (None, Some(delivery)) => {
                let Credit { request_id, payload_bytes, .. } = delivery.credit;
                let Some((buffer, filled_bytes)) = delivery.take_buffer() else {
                    return self.watch_payload(key, request_id, payload_bytes);
                };
                (request_id, payload_bytes, LaneBuffer::Message(buffer), filled_bytes)
            }
            (None, None) => return,
        };
        let range = filled_bytes..buffer.bytes();
        if self.driver.receive_into(connection.source, buffer, range).is_err() {
            return self.close(key);
        }
        self.watch_payload(key, request_id, bytes);
    }

    /// Has the payload of a request come in time.
    fn watch_payload(&mut self, key: ConnectionKey, request_id: u64, bytes: u32) {
        let end = self.now + Connection::longest_payload(bytes);
        self.timers.at(end, Timer::Payload(key, request_id));
    }

    /// The driver has filled a block, or as much of it as came.
    pub(super) fn block_filled(&mut self, key: ConnectionKey, buffer: LaneBuffer, bytes: usize, end: End) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let received = u32::try_from(bytes).unwrap_or(u32::MAX);
        if received <= connection.decoder.missing_payload_bytes() {
            connection.decoder.payload_received(received);
        }
        match (&mut connection.incoming, buffer) {
            (Some(incoming), LaneBuffer::Loan(buffer)) if end == End::Done => {
                incoming.buffer = Some(buffer);
                let _ = self.payload_is_whole(key, &[]);
            }
            (_, LaneBuffer::Message(buffer)) if end == End::Done => {
                if let Some(delivery) = &mut connection.delivery {
                    delivery.give_buffer_back(buffer);
                    let _ = self.delivery_is_whole(key);
                }
            }
            _ if end == End::Done || end == End::Cancelled => {}
            _ => self.peer_ended(key, end),
        }
    }

    /// Timer: whether a payload has come.
    pub(super) fn payload_due(&mut self, key: ConnectionKey, request_id: u64) {
        let Some(connection) = self.connections.get(key) else { return };
        let is_late = connection.incoming.as_ref().is_some_and(|incoming| incoming.asked.request_id == request_id)
            || connection.delivery.as_ref().is_some_and(|delivery| delivery.credit.request_id == request_id);
        if is_late {
            self.send_away(key, GoawayReason::Idle, "the payload of a request did not come in time");
        }
    }

    /// A handle is given back.
    fn close_handle(&mut self, key: ConnectionKey, close: Close) -> Flow {
        let Some(connection) = self.connections.get_mut(key) else { return Flow::Stop };
        let place = connection.handles.binary_search_by_key(&close.handle, |handle| handle.number);
        match place {
            Ok(place) => {
                let handle = connection.handles.remove(place);
                self.leave_handle(key, &handle);
                Flow::GoOn
            }
            Err(_) => self.break_off_for(key, &unknown_handle(close.handle)),
        }
    }
}

pub(super) fn unknown_handle(handle: u32) -> String {
    format!("handle {handle} was never given, or given back")
}

pub(super) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
