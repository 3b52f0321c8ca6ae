//! Questions to a server beside calls: how they become frames, and what their answers mean.
//!
//! They are asked and answered in the words of the control socket, so that everything above knows one language.

use praas_protocol::control::{ClientRequest, ProcessStats, ServerMessage};
use praas_protocol::wire::{
    Action, Frame, List, ListApplications, Open, OpenSession, Opened, Order, Output, Ping, Pong, Refusal,
    SessionOpened, Stats, StorageUsage, WatchTransitions, WireError,
};
use praas_protocol::{Name, ProcessId};

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// For a handle.
    Open(Open),
    /// For the client's session, and a handle on it.
    Session(OpenSession),
    /// What people and programs ask of a server on its control socket too.
    Control(ClientRequest),
    /// A page of the applications' names, after this one.
    Applications { after: Option<Name> },
    /// For the counts of a process, with a page of its functions after this one.
    Counts { process: ProcessId, after: Option<Name> },
    /// For the server's clock.
    Ping,
}

/// What was answered.
#[derive(Debug)]
pub(crate) enum QuestionAnswer {
    /// A handle.
    Opened(Opened),
    /// A session, and a handle on it.
    SessionOpened(SessionOpened),
    /// As on the control socket.
    Message(ServerMessage),
    /// A page of names, and whether more follow.
    Applications { names: Vec<Name>, more: bool },
    /// Counts of a process with a page of its functions, and whether more follow.
    Counts { stats: ProcessStats, more: bool },
    /// The server's clock.
    Pong(Pong),
    /// It was refused.
    Refused(Refusal),
}

impl Question {
    /// Appends the frame with this id. False if a network connection has no such question.
    pub(super) fn encode(&self, request_id: u64, out: &mut Vec<u8>) -> bool {
        let order = |action, process, out: &mut Vec<u8>| {
            Order { request_id, action, process, idle_swap_ms: None }.encode(out);
        };
        match *self {
            Self::Open(open) => Open { request_id, ..open }.encode(out),
            Self::Session(session) => OpenSession { request_id, ..session }.encode(out),
            Self::Applications { after } => ListApplications { request_id, after }.encode(out),
            Self::Counts { process, ref after } => {
                Stats { request_id, process, after: after.as_ref().map_or("", Name::as_str) }.encode(out);
            }
            Self::Ping => Ping { opaque: request_id }.encode(out),
            Self::Control(ref request) => match *request {
                ClientRequest::ProcessCreate { process, idle_swap_ms } => {
                    Order { request_id, action: Action::Create, process, idle_swap_ms }.encode(out);
                }
                ClientRequest::ProcessStop { process } => order(Action::Stop, process, out),
                ClientRequest::ProcessRestart { process } => order(Action::Restart, process, out),
                ClientRequest::ProcessList { after } => List { request_id, after }.encode(out),
                ClientRequest::ProcessOutput { process, from, follow } => {
                    Output { request_id, process, from, follow }.encode(out);
                }
                ClientRequest::ProcessSwap { process } => order(Action::Swap, process, out),
                ClientRequest::ProcessRestore { process } => order(Action::Restore, process, out),
                ClientRequest::TransitionWatch { process, after } => {
                    WatchTransitions { request_id, process, after }.encode(out);
                }
                ClientRequest::StorageUsage { after } => StorageUsage { request_id, after }.encode(out),
                // Handles and pages take their place here.
                _ => return false,
            },
        }
        true
    }
}

impl QuestionAnswer {
    /// What `frame` answers, and the id of the question. `None` if it answers none.
    pub(super) fn of(frame: &Frame<'_>) -> Result<Option<(u64, Self)>, WireError> {
        Ok(Some(match frame {
            Frame::Opened(opened) => (opened.request_id, Self::Opened(*opened)),
            Frame::SessionOpened(opened) => (opened.request_id, Self::SessionOpened(*opened)),
            Frame::Done(done) => (done.request_id, Self::Message(ServerMessage::Done { request: done.request_id })),
            Frame::Processes(page) => {
                let processes = page.rows().map(|row| row.to_status()).collect();
                let message = ServerMessage::Processes { request: page.request_id, processes, more: page.more };
                (page.request_id, Self::Message(message))
            }
            Frame::Applications(page) => {
                (page.request_id, Self::Applications { names: page.names().collect(), more: page.more })
            }
            Frame::Counts(page) => (page.request_id, Self::Counts { stats: page.to_stats(), more: page.more }),
            Frame::OutputChunk(chunk) => {
                let message = ServerMessage::Output {
                    request: chunk.request_id,
                    position: chunk.position,
                    bytes: chunk.bytes.to_vec(),
                    ended: chunk.ended,
                };
                (chunk.request_id, Self::Message(message))
            }
            Frame::Transitions(page) => {
                let transitions = page.transitions().collect();
                let (request, upto, lost) = (page.request_id, page.upto, page.lost);
                (request, Self::Message(ServerMessage::Transitions { request, upto, lost, transitions }))
            }
            Frame::Stored(page) => {
                let (request, place, folders) = (page.request_id, page.place.to_owned(), page.folders().collect());
                (request, Self::Message(ServerMessage::Stored { request, place, folders, more: page.more }))
            }
            Frame::Pong(pong) => (pong.opaque, Self::Pong(*pong)),
            Frame::Refused(refused) => (refused.request_id, Self::Refused(refused.refusal()?)),
            _ => return Ok(None),
        }))
    }
}
