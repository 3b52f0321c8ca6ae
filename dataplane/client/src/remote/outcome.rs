//! What the answer of a call over the network means.

use praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX;
use praas_protocol::wire::Response;
use praas_protocol::{CallError, Outcome, Phase};

use crate::remote::reply_bytes::ReplyBytes;
use crate::reply::Reply;
use crate::settle::failure;

/// The end of one attempt.
pub(super) enum End {
    /// The function's output.
    Replied(Reply),
    /// It never ran: send it again.
    Refused(Phase),
    /// It never ran: send it there.
    Moved(String),
    /// The call's end.
    Failed(CallError),
}

/// What an answer says. Only a server is believed when it says that a process moved, not the worker on a dedicated
/// connection.
pub(super) fn end_of(
    response: Response,
    bytes: ReplyBytes,
    from_server: bool,
    function: impl FnOnce() -> String,
    exceeded: impl FnOnce() -> CallError,
) -> End {
    match response.outcome() {
        Some(Outcome::Ok) => End::Replied(Reply::received(bytes)),
        Some(Outcome::Unavailable) => {
            End::Refused(Phase::from_word(u64::from(response.detail)).unwrap_or(Phase::Draining))
        }
        Some(Outcome::Moved) if from_server => End::Moved(text(&bytes)),
        outcome => End::Failed(failure(outcome, response.detail, response.more, || text(&bytes), function, exceeded)),
    }
}

/// A text for people, cut where somebody wrote more than one may.
fn text(bytes: &ReplyBytes) -> String {
    let bytes = bytes.as_slice();
    String::from_utf8_lossy(&bytes[..bytes.len().min(ERROR_MESSAGE_BYTES_MAX)]).into_owned()
}
