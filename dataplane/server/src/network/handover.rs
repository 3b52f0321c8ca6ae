//! Giving a connection away to a worker of a process, on the client's request.
//!
//! The client says nothing between its request and the answer. What it is owed is sent first, then every receive and send
//! of the driver is finished, then the server's loop passes the socket on. Until that says that a worker has it, the
//! socket is still here, and taken back if there is none.

use std::os::fd::{AsFd, OwnedFd};

use praas_protocol::control::{ClientRequest, ControlError, ServerMessage};
use praas_protocol::wire::{Dedicate, GoawayReason};

use super::connection::{ConnectionKey, Stage};
use super::control_session::Question;
use super::shard::{Course, NetworkShard};
use super::sources::Source;

/// A connection that is on its way to a worker.
#[derive(Debug)]
pub(super) struct GivingAway {
    wish: Dedicate,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// What is queued is sent first.
    Sending,
    /// The driver finishes its operations.
    Detaching,
    /// The server's loop looks for a worker.
    Offered(OwnedFd),
}

impl NetworkShard {
    /// A client asks for a worker of its own.
    pub(super) fn begin_giving_away(&mut self, key: ConnectionKey, wish: Dedicate) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.stage = Stage::HandingOver(Box::new(GivingAway { wish, step: Step::Sending }));
        self.adjust_receiving(key);
        self.mark_unsent(key);
    }

    /// Goes on once everything is sent.
    pub(super) fn go_on_giving_away(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let has_sent_all = connection.has_sent_all();
        let is_cut = !connection.decoder.is_between_frames();
        let source = connection.source;
        match &mut connection.stage {
            Stage::HandingOver(giving) if matches!(giving.step, Step::Sending) && has_sent_all => {
                if is_cut {
                    let message = "bytes came between DEDICATE and its answer";
                    return self.send_away(key, GoawayReason::Protocol, message);
                }
                giving.step = Step::Detaching;
                self.driver.detach(source);
            }
            _ => {}
        }
    }

    /// The driver has let go of a connection.
    pub(super) fn detached(&mut self, key: ConnectionKey, socket: OwnedFd) {
        self.sockets -= 1;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let identity = connection.identity.clone();
        let Stage::HandingOver(giving) = &mut connection.stage else { return };
        let Dedicate { request_id, process, payload_bytes_max, in_flight_max } = giving.wish;
        let wish = |wish: u32| (wish > 0).then_some(wish);
        let offer = ClientRequest::ConnectionGive {
            process,
            request_id,
            payload_bytes_max: wish(payload_bytes_max),
            calls_in_flight: wish(in_flight_max),
        };
        let copy = socket.as_fd().try_clone_to_owned();
        giving.step = Step::Offered(socket);
        let host =
            |error: std::io::Error| ControlError::Host { what: "copying a socket".into(), reason: error.to_string() };
        let offered = copy.map_err(host).and_then(|copy| {
            let identity = identity.ok_or(ControlError::ShuttingDown)?;
            let session = self.session_of(&identity.token)?;
            self.ask_session_with(session, Question::GivingAway(key), offer, Some(copy.as_fd()))
        });
        if let Err(error) = offered {
            self.take_back(key, &error);
        }
    }

    /// The server's loop has found a worker, or none.
    pub(super) fn giving_away_answered(&mut self, key: ConnectionKey, message: &ServerMessage) {
        match message {
            ServerMessage::Done { .. } => {
                // The worker has the socket; ours closes with the record, and ends nothing.
                let _ = self.let_go(key);
            }
            ServerMessage::Failed { error, .. } => self.take_back(key, error),
            _ => self.take_back(key, &ControlError::Protocol { reason: "an answer to another question".into() }),
        }
        self.look_for_room_to_accept();
    }

    /// No worker takes the connection: it goes on as before.
    pub(super) fn take_back(&mut self, key: ConnectionKey, error: &ControlError) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::HandingOver(giving) = std::mem::replace(&mut connection.stage, Stage::Open) else { return };
        let Step::Offered(socket) = giving.step else { return };
        match self.driver.add_connection(socket, Source::Connection(key).token()) {
            Ok(source) => {
                self.sockets += 1;
                connection.source = source;
                connection.receiving = false;
            }
            Err(refused) => {
                self.log().warning(format_args!("a network connection is dropped: {}", refused.refusal));
                let _ = self.let_go(key);
                return;
            }
        }
        self.refuse(key, giving.wish.request_id, error);
        self.adjust_receiving(key);
        if self.course != Course::Serving {
            self.leave(key);
        }
    }
}
