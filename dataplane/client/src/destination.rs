//! Where a way leads: to a process, or to the client's own session at the server.
//!
//! Both are lanes, or handles on a connection, that calls are put into. They differ in how they are asked for and given back,
//! and in what a refusal means.

use std::fmt;
use std::sync::Arc;

use praas_protocol::ProcessId;
use praas_protocol::control::{ClientMessage, ClientRequest, LaneId};
use praas_protocol::message::SessionId;

use crate::error::{LaneVerdict, RequestError, lane_verdict};
use crate::messages::Registration;
use crate::options::Settings;

/// What a way is asked for.
#[derive(Clone)]
pub(crate) enum Destination {
    /// A process.
    Process(ProcessId),
    /// The session that is registered so.
    Session(Arc<Registration>),
}

impl Destination {
    /// The process. A session is called by a name that stands in for it wherever a process is named.
    pub(crate) fn id(&self) -> ProcessId {
        match self {
            Self::Process(id) => *id,
            Self::Session(registration) => registration.stand_in(),
        }
    }

    /// The request for a lane to it.
    pub(crate) fn lane_request(&self, settings: &Settings) -> ClientRequest {
        match self {
            Self::Process(process) => ClientRequest::LaneOpen {
                process: *process,
                payload_bytes_max: settings.payload_bytes_max,
                calls_in_flight: settings.calls_in_flight,
                on_behalf: None,
            },
            Self::Session(registration) => registration.lane_request(settings),
        }
    }

    /// What a request that failed means for the calls that wait for a way.
    pub(crate) fn verdict(&self, error: &RequestError) -> LaneVerdict {
        match self {
            Self::Process(id) => lane_verdict(error, *id),
            Self::Session(registration) => registration.verdict(error),
        }
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(id) => fmt::Debug::fmt(id, formatter),
            Self::Session(registration) => registration.fmt(formatter),
        }
    }
}

/// Where an open lane leads, as the server knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneEnd {
    /// To the workers of a process.
    Process(ProcessId),
    /// To the server's room for a session.
    Session(SessionId),
}

impl LaneEnd {
    /// Tells the server that the lane is given up.
    pub(crate) fn farewell(self, lane: LaneId) -> ClientMessage {
        match self {
            Self::Process(process) => ClientMessage::LaneClose { lane, process },
            Self::Session(session) => ClientMessage::SessionLeave { session, lane },
        }
    }

    /// Asks the server to look after a lane with an unclaimed request. A session's is attended by the server itself.
    pub(crate) fn ring(self, lane: LaneId) -> Option<ClientMessage> {
        match self {
            Self::Process(process) => Some(ClientMessage::Ring { lane, process }),
            Self::Session(_) => None,
        }
    }
}
