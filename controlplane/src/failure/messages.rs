//! How commands that exchange messages fail: the kinds of the client library's errors, by which programs tell them apart.

use praas_client::{RecvError, SendError, SessionError};
use serde_json::{Value, json};

use super::{Failure, call_kind, request_kind};

impl From<SessionError> for Failure {
    /// What keeps any request or call from being made is told as that.
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Request(error) => Self::Request(error),
            SessionError::Call(error) => Self::Call(error),
            other => Self::Session(Box::new(other)),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Session(error) => error.into(),
            other => Self::Send(Box::new(other)),
        }
    }
}

impl From<RecvError> for Failure {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Session(error) => error.into(),
            other => Self::Receive(Box::new(other)),
        }
    }
}

pub(super) fn session_kind(error: &SessionError) -> &'static str {
    match error {
        SessionError::Lapsed { .. } => "session_lapsed",
        SessionError::TakenOver { .. } => "session_taken_over",
        SessionError::Ended { .. } => "session_ended",
        SessionError::Unauthorized { .. } => "unauthorized",
        SessionError::Request(error) => request_kind(error),
        SessionError::Call(error) => call_kind(error),
        SessionError::Unreachable { .. } => "session_unreachable",
        _ => "session",
    }
}

pub(super) fn send_kind(error: &SendError) -> &'static str {
    match error {
        SendError::Key(_) | SendError::Name(_) => "usage",
        SendError::UnknownDestination { .. } => "unknown_process",
        SendError::Unauthorized { .. } => "unauthorized",
        SendError::MailboxFull { .. } => "mailbox_full",
        SendError::TooLarge { .. } => "payload_too_large",
        SendError::Unavailable { .. } => "unavailable",
        SendError::Unknown { .. } => "send_unknown",
        SendError::TooOld { .. } => "message_too_old",
        SendError::Refused { .. } => "message_refused",
        SendError::Session(error) => session_kind(error),
        _ => "send",
    }
}

pub(super) fn receive_kind(error: &RecvError) -> &'static str {
    match error {
        RecvError::Key(_) | RecvError::Name(_) | RecvError::Sources { .. } => "usage",
        RecvError::DeadlineExceeded { .. } => "no_message",
        RecvError::NotHeld => "message_not_held",
        RecvError::Refused { .. } => "mailbox_refused",
        RecvError::Unavailable { .. } => "session_unreachable",
        RecvError::Malformed { .. } => "malformed_reply",
        RecvError::Session(error) => session_kind(error),
        _ => "receive",
    }
}

/// What programs get of a failed send beside its words: the id with which it can be settled.
pub(super) fn add_send(error: &SendError, document: &mut Value) {
    if let SendError::Unknown { id, .. } | SendError::TooOld { id, .. } = error {
        document["id"] = json!(format!("{}/{}", id.incarnation, id.sequence));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use praas_client::{ControlError, MessageId, RequestError, SessionId};

    use super::super::{EXIT_CODE_DEADLINE, EXIT_CODE_FAILED, EXIT_CODE_NO_SERVER, EXIT_CODE_USAGE};
    use super::*;

    #[test]
    fn each_way_in_which_messages_fail_has_its_exit_code() {
        let (to, session) = ("alice".parse().unwrap(), SessionId(7));
        let waited = Duration::from_secs(1);
        let id = MessageId { incarnation: 3, sequence: u64::MAX };
        let reason = String::new;
        let cases: [(Failure, u8); 9] = [
            (SendError::UnknownDestination { to }.into(), EXIT_CODE_FAILED),
            (SendError::MailboxFull { to, waited, message: reason() }.into(), EXIT_CODE_FAILED),
            (SendError::Unknown { to, id }.into(), EXIT_CODE_DEADLINE),
            (RecvError::DeadlineExceeded { waited }.into(), EXIT_CODE_DEADLINE),
            (RecvError::Unavailable { waited, reason: reason() }.into(), EXIT_CODE_NO_SERVER),
            (RecvError::Sources { given: 0 }.into(), EXIT_CODE_USAGE),
            (SendError::Session(SessionError::Lapsed { session }).into(), EXIT_CODE_FAILED),
            (SessionError::Request(RequestError::ConnectionLost).into(), EXIT_CODE_NO_SERVER),
            (SessionError::Request(ControlError::UnknownSession { session }.into()).into(), EXIT_CODE_FAILED),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
    }

    #[test]
    fn an_id_reaches_programs_whole() {
        let to = "alice".parse().unwrap();
        let id = MessageId { incarnation: 3, sequence: u64::MAX };
        let failure = Failure::from(SendError::Unknown { to, id });
        assert_eq!(failure.as_json()["error"]["id"], "3/18446744073709551615");
        assert_eq!(failure.as_json()["error"]["kind"], "send_unknown");
    }
}
