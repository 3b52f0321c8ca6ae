//! Lanes to sessions for those who come over the network: the clients of sessions, and servers whose processes send to them.
//!
//! The shard that has the connection is the client of such a lane, like of any other; the lane's other end is with the shard
//! that has the session, which may be the same. Each handle has a lane of its own: what is held and refused on it is its own
//! matter, and the session's client leaves with it.

use std::os::fd::OwnedFd;

use praas_protocol::control::{ClientMessage, ClientRequest, ControlError, ServerMessage, SessionTicket};
use praas_protocol::message::{Address, SessionId};
use praas_protocol::wire::{OpenSession, SessionOpened};
use praas_protocol::{Name, ProcessId};

use crate::limits::IN_FLIGHT_MAX;
use crate::network::connection::ConnectionKey;
use crate::network::control_session::{Question, SessionKey};
use crate::network::lanes::HandedOut;
use crate::network::questions::Opener;
use crate::network::shard::NetworkShard;

/// What somebody on the network wants of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Wanted {
    /// To be its client.
    Client,
    /// To send to it.
    Sender,
}

/// Who waits for a lane to a session.
#[derive(Debug)]
pub(in crate::network) struct SessionOpener {
    opener: Opener,
    application: Name,
    wanted: Wanted,
}

impl SessionOpener {
    pub(in crate::network) fn connection(&self) -> ConnectionKey {
        self.opener.connection
    }

    pub(in crate::network) fn request_id(&self) -> u64 {
        self.opener.request_id
    }
}

impl NetworkShard {
    /// A client wants a session.
    pub(in crate::network) fn open_session(&mut self, key: ConnectionKey, wish: &OpenSession) {
        let OpenSession { request_id, payload_bytes_max, resume, application } = *wish;
        let body = ClientRequest::SessionOpen {
            application,
            resume,
            payload_bytes_max: (payload_bytes_max != 0).then_some(payload_bytes_max),
        };
        let opener = Opener::new(key, request_id, payload_bytes_max, 0);
        self.ask_for_session(SessionOpener { opener, application, wanted: Wanted::Client }, body);
    }

    /// A server wants to send to a session, in the name of a process or session of its own.
    pub(in crate::network) fn open_lane_to_session(
        &mut self,
        opener: Opener,
        application: Name,
        session: SessionId,
        source: Address,
        incarnation: u64,
    ) {
        let body = ClientRequest::SessionLaneOpen { application, session, source, incarnation };
        self.ask_for_session(SessionOpener { opener, application, wanted: Wanted::Sender }, body);
    }

    fn ask_for_session(&mut self, wanted: SessionOpener, body: ClientRequest) {
        let (connection, request_id) = (wanted.connection(), wanted.request_id());
        let asked = self
            .ensure_handle_is_free(connection)
            .and_then(|()| self.session_for(connection))
            .and_then(|session| self.ask_session(session, Question::Session(Box::new(wanted)), body));
        if let Err(error) = asked {
            self.refuse(connection, request_id, &error);
        }
    }

    /// The server's loop has answered.
    pub(in crate::network) fn session_answered(
        &mut self,
        control: SessionKey,
        wanted: SessionOpener,
        message: ServerMessage,
        fds: Vec<OwnedFd>,
    ) {
        let SessionOpener { opener, application, wanted } = wanted;
        let (connection, request_id) = (opener.connection, opener.request_id);
        let (ticket, incarnation, resumed, id, geometry, payload_bytes_max) = match message {
            ServerMessage::SessionOpened {
                ticket, incarnation, resumed, lane, geometry, payload_bytes_max, ..
            } => (ticket, incarnation, resumed, lane, geometry, payload_bytes_max),
            ServerMessage::Failed { error, .. } => return self.refuse(connection, request_id, &error),
            _ => {
                let error = ControlError::Protocol { reason: "another answer than a session".into() };
                return self.refuse(connection, request_id, &error);
            }
        };
        let SessionTicket { session, .. } = ticket;
        let leave = ClientMessage::SessionLeave { session, lane: id };
        let process = ProcessId { application, process: application };
        let handed_out = fds.try_into().map(|descriptors| HandedOut {
            id,
            geometry,
            trusted: false,
            payload_bytes_max,
            workers_max: 1,
            descriptors,
        });
        let made = match handed_out {
            Ok(handed_out) => self.session_lane(control, process, session, handed_out),
            Err(_) => Err(ControlError::Protocol { reason: "a session came without its descriptors".into() }),
        };
        let lane = match made {
            Ok(lane) => lane,
            Err(error) => {
                self.tell_session(control, &leave);
                return self.refuse(connection, request_id, &error);
            }
        };
        match wanted {
            Wanted::Sender => self.give_handle(&opener, lane),
            Wanted::Client => {
                let handle = self.add_handle(&opener, lane);
                if let Some(handle) = handle {
                    let opened = SessionOpened {
                        request_id,
                        handle: handle.number,
                        payload_bytes_max: handle.payload_bytes_max,
                        in_flight_max: handle.in_flight_max.min(IN_FLIGHT_MAX),
                        incarnation,
                        ticket,
                        resumed,
                    };
                    self.push(connection, |out| opened.encode(out));
                }
            }
        }
        // A connection that went meanwhile has left nobody who would close the lane.
        self.close_unused_session_lane(lane);
    }
}
