//! What the server and this client know a session by: asked for with every lane to it, and found again in every answer.

use std::fmt;
use std::sync::Mutex;

use praas_protocol::control::{self, ClientRequest, ControlError};
use praas_protocol::message::SessionId;
use praas_protocol::wire::OpenSession;
use praas_protocol::{CallError, Name, ProcessId};

use super::error::SessionError;
use super::ticket::SessionTicket;
use crate::error::{ConnectError, LaneVerdict, RequestError, lane_verdict};
use crate::options::Settings;
use crate::session::lock;

/// One session, from its first lane to its last.
pub(crate) struct Registration {
    application: Name,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ticket: Option<control::SessionTicket>,
    /// Which life of the session its messages carry: it has one. None before the server has said it.
    incarnation: Option<u64>,
    trouble: Option<Trouble>,
}

/// Why there is no way to the session.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The server has forgotten it. For ever.
    Lapsed,
    /// Another client goes on with it. For ever.
    TakenOver,
    /// This client ended it. For ever.
    Ended,
    /// The server refused; it may think better of it.
    Refused(ControlError),
    /// Something else that trying again at once does not help against.
    Other(String),
}

impl Trouble {
    fn is_for_ever(&self) -> bool {
        matches!(self, Self::Lapsed | Self::TakenOver | Self::Ended)
    }
}

impl Registration {
    /// A session of `application`: the one of this ticket, or a new one.
    pub(super) fn new(application: Name, ticket: Option<control::SessionTicket>) -> Self {
        Self { application, known: Mutex::new(Known { ticket, ..Known::default() }) }
    }

    pub(super) fn application(&self) -> Name {
        self.application
    }

    /// What the session is resumed by, once the server has given one.
    pub(super) fn ticket(&self) -> Option<SessionTicket> {
        lock(&self.known).ticket.map(|ticket| SessionTicket::new(self.application, ticket))
    }

    /// Which life of the session its messages carry.
    pub(super) fn incarnation(&self) -> u64 {
        lock(&self.known).incarnation.unwrap_or_default()
    }

    /// This client has ended the session.
    pub(super) fn end(&self) {
        lock(&self.known).trouble = Some(Trouble::Ended);
    }

    /// The server has said that another client goes on with it.
    pub(super) fn take_over(&self) -> SessionError {
        let mut known = lock(&self.known);
        known.trouble = Some(Trouble::TakenOver);
        self.error(&known, Trouble::TakenOver)
    }

    /// Why there is no way to it, if that is known.
    pub(super) fn trouble(&self) -> Option<SessionError> {
        let known = lock(&self.known);
        known.trouble.clone().map(|trouble| self.error(&known, trouble))
    }

    /// The same if it is for ever.
    pub(super) fn ending(&self) -> Option<SessionError> {
        let known = lock(&self.known);
        let trouble = known.trouble.clone().filter(Trouble::is_for_ever);
        trouble.map(|trouble| self.error(&known, trouble))
    }

    fn error(&self, known: &Known, trouble: Trouble) -> SessionError {
        let session = known.ticket.map_or(SessionId(0), |ticket| ticket.session);
        match trouble {
            Trouble::Lapsed => SessionError::Lapsed { session },
            Trouble::TakenOver => SessionError::TakenOver { session },
            Trouble::Ended => SessionError::Ended { session },
            Trouble::Refused(refusal) => SessionError::of_request(RequestError::Refused(refusal), self.application),
            Trouble::Other(reason) => SessionError::Unreachable { reason },
        }
    }

    /// What stands for the session where a process is named: no process is called so, and nothing is asked under this name.
    pub(crate) fn stand_in(&self) -> ProcessId {
        ProcessId { application: self.application, process: "session".parse().expect("this is a name") }
    }

    /// The request for a lane to it, on a control socket.
    pub(crate) fn lane_request(&self, settings: &Settings) -> ClientRequest {
        ClientRequest::SessionOpen {
            application: self.application,
            resume: lock(&self.known).ticket,
            payload_bytes_max: settings.payload_bytes_max,
        }
    }

    /// The request for a handle on it, on a network connection, which gives it a number.
    pub(crate) fn question(&self, settings: &Settings) -> OpenSession {
        OpenSession {
            request_id: 0,
            payload_bytes_max: settings.payload_bytes_max.unwrap_or(0),
            resume: lock(&self.known).ticket,
            application: self.application,
        }
    }

    /// The server gave a way to this session; an error when it is not the one that was asked for.
    pub(crate) fn note(
        &self,
        ticket: control::SessionTicket,
        incarnation: u64,
        resumed: bool,
    ) -> Result<(), RequestError> {
        let mut known = lock(&self.known);
        if known.trouble.as_ref().is_some_and(Trouble::is_for_ever) {
            return Err(RequestError::Unexpected { what: "with a session that this client is done with" });
        }
        let is_other = known.ticket.is_some_and(|own| !resumed || own.session != ticket.session);
        if is_other || known.incarnation.is_some_and(|own| own != incarnation) {
            known.trouble = Some(Trouble::Lapsed);
            return Err(RequestError::Unexpected { what: "with another session" });
        }
        *known = Known { ticket: Some(ticket), incarnation: Some(incarnation), trouble: None };
        Ok(())
    }

    /// What a request for a way to it that failed means for the calls that wait.
    pub(crate) fn verdict(&self, error: &RequestError) -> LaneVerdict {
        let verdict = match error {
            // The way lies elsewhere, and who waits follows it.
            RequestError::Connect(ConnectError::OverNetwork) => return lane_verdict(error, self.stand_in()),
            RequestError::Refused(ControlError::UnknownSession { .. }) => LaneVerdict::Final(NEVER_RAN),
            _ => lane_verdict(error, self.stand_in()),
        };
        let mut known = lock(&self.known);
        if known.trouble.as_ref().is_some_and(Trouble::is_for_ever) {
            return LaneVerdict::Final(NEVER_RAN);
        }
        known.trouble = match (&verdict, error) {
            (LaneVerdict::Later(_), _) => None,
            (_, RequestError::Refused(ControlError::UnknownSession { .. })) => Some(Trouble::Lapsed),
            (_, RequestError::Refused(refusal) | RequestError::Connect(ConnectError::Refused(refusal))) => {
                Some(Trouble::Refused(refusal.clone()))
            }
            (_, error) => Some(Trouble::Other(error.to_string())),
        };
        verdict
    }
}

const NEVER_RAN: CallError = CallError::ConnectionLost { may_have_run: false };

impl fmt::Debug for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = lock(&self.known);
        formatter
            .debug_struct("Registration")
            .field("application", &self.application)
            .field("session", &known.ticket.map(|ticket| ticket.session))
            .field("incarnation", &known.incarnation)
            .field("trouble", &known.trouble)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: control::SessionTicket = control::SessionTicket { session: SessionId(42), secret: 7 };

    fn begun() -> Registration {
        let registration = Registration::new("hello".parse().unwrap(), None);
        registration.note(TICKET, 3, false).unwrap();
        registration
    }

    #[test]
    fn a_session_is_asked_for_by_its_ticket_once_it_has_one() {
        let settings = crate::ConnectOptions::new().token("t").socket("/s").resolve().unwrap();
        let registration = Registration::new("hello".parse().unwrap(), None);
        assert_eq!(registration.question(&settings).resume, None);
        registration.note(TICKET, 3, false).unwrap();
        assert_eq!(registration.question(&settings).resume, Some(TICKET));
        let ClientRequest::SessionOpen { resume, .. } = registration.lane_request(&settings) else { panic!() };
        assert_eq!(resume, Some(TICKET));
        registration.note(TICKET, 3, true).unwrap();
        assert!(registration.trouble().is_none());
    }

    #[test]
    fn a_session_that_is_not_the_one_is_not_taken_for_it() {
        let registration = begun();
        assert!(registration.note(TICKET, 3, false).is_err());
        assert!(matches!(registration.ending(), Some(SessionError::Lapsed { session: SessionId(42) })));
        let registration = begun();
        let other = control::SessionTicket { session: SessionId(43), secret: 7 };
        assert!(registration.note(other, 3, true).is_err());
        assert!(matches!(registration.ending(), Some(SessionError::Lapsed { .. })));
        let registration = begun();
        assert!(registration.note(TICKET, 4, true).is_err());
        assert!(matches!(registration.ending(), Some(SessionError::Lapsed { .. })));
        let registration = begun();
        assert!(matches!(registration.take_over(), SessionError::TakenOver { session: SessionId(42) }));
        assert!(registration.note(TICKET, 3, true).is_err(), "what is over stays over");
        assert!(matches!(registration.ending(), Some(SessionError::TakenOver { .. })));
    }

    #[test]
    fn what_the_server_refuses_for_now_may_be_asked_for_again_and_what_it_forgot_never() {
        let registration = begun();
        let limit =
            ControlError::LimitReached { what: "sessions".into(), used: 1, limit: 1, asked: 1, advice: "wait".into() };
        assert!(matches!(registration.verdict(&limit.clone().into()), LaneVerdict::Final(_)));
        assert!(matches!(registration.trouble(), Some(SessionError::Request(RequestError::Refused(_)))));
        assert!(registration.ending().is_none());
        assert!(matches!(registration.verdict(&RequestError::ConnectionLost), LaneVerdict::Later(_)));
        assert!(registration.trouble().is_none());
        let forgotten = ControlError::UnknownSession { session: SessionId(42) };
        assert!(matches!(registration.verdict(&forgotten.into()), LaneVerdict::Final(_)));
        assert!(matches!(registration.verdict(&RequestError::ConnectionLost), LaneVerdict::Final(_)));
        assert!(matches!(registration.ending(), Some(SessionError::Lapsed { .. })));
    }
}
