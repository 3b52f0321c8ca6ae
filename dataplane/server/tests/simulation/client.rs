//! A client of a run: one connection, a lane to each process that it calls, one thing at a time.
//!
//! It works with lanes and control messages as the client library does, but never waits: a step does what can be done now. What was
//! refused before it ran is tried again, a call with a key and a message also when nobody knows whether it happened, a plain call not.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use praas_protocol::codec;
use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, LaneId, ServerMessage};
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGE_FDS_MAX};
use praas_protocol::{Outcome, ProcessId};
use praas_shm::client_lane::{ClientLane, SubmitError, Ticket};
use praas_sys::MessageSocket;

use crate::functions::{NOTHING, PLANNED};
use crate::lane_parts::lane_parts;
use crate::model::{Operation, model};
use crate::wish::Wish;

/// By how much the numbers of a client's messages grow at most, and by which factor the steps vary.
const SEQUENCE_STEP_MAX: u64 = 700;
const SEQUENCE_STRIDE: u64 = 7919;

/// How often something is tried before its client gives it up.
const TRIES_MAX: u32 = 200;

/// What a client is at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) wish: Wish,
    pub(crate) process: ProcessId,
    pub(crate) operation: Operation,
    pub(crate) tries: u32,
    /// What was known of the process when it was asked for.
    changes: u64,
}

struct Lane {
    lane: Arc<ClientLane>,
    id: LaneId,
}

struct Connection {
    socket: Arc<MessageSocket>,
    lanes: BTreeMap<ProcessId, Lane>,
    is_welcome: bool,
    last_request: u64,
}

enum Doing {
    Nothing,
    Asking(u64),
    Calling(ProcessId, Ticket),
}

/// One client.
pub(crate) struct Client {
    pub(crate) name: String,
    connection: Option<Connection>,
    doing: Doing,
    pub(crate) work: Option<Work>,
    last_sequence: u64,
    /// The last message that it has sent itself.
    sent: Option<(Wish, ProcessId, Operation)>,
    /// Whether the last `take` found a message.
    pub(crate) found_message: bool,
    pub(crate) said: Vec<String>,
}

impl Client {
    pub(crate) fn new(name: String) -> Self {
        let doing = Doing::Nothing;
        Self {
            name,
            connection: None,
            doing,
            work: None,
            last_sequence: 0,
            sent: None,
            found_message: false,
            said: Vec::new(),
        }
    }

    /// Gives it something to do.
    pub(crate) fn begin(&mut self, wish: Wish, process: ProcessId, operation: Operation) {
        let (wish, process, operation) = match (wish, self.sent) {
            (Wish::SendAgain, Some(sent)) => sent,
            (Wish::SendAgain, None) => (Wish::Append, process, operation),
            (Wish::Send { .. }, _) => {
                // So that the window over what is remembered of a source moves.
                self.last_sequence += 1 + u64::from(operation) * SEQUENCE_STRIDE % SEQUENCE_STEP_MAX;
                *self.sent.insert((Wish::Send { sequence: self.last_sequence }, process, operation))
            }
            _ => (wish, process, operation),
        };
        self.say(format!("begins {wish:?} {operation} of {}", process.process));
        self.work = Some(Work { wish, process, operation, tries: 0, changes: 0 });
    }

    fn say(&mut self, what: String) {
        self.said.push(what);
    }

    /// The server is gone.
    pub(crate) fn server_died(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Calling(process, ticket) => {
                let lane = &connection.lanes[&process].lane;
                if lane.is_answered(&ticket) {
                    self.answered(&Arc::clone(lane), ticket);
                } else {
                    lane.mark_lost();
                    lane.abandon(ticket);
                    self.is_unknown("the server died");
                }
            }
            Doing::Asking(_) => {
                // What was ordered may have happened or not; whoever wants a lane asks again.
                if self.work.is_some_and(|work| !work.wish.is_call()) {
                    self.end("the server died");
                }
            }
            Doing::Nothing => {}
        }
    }

    /// Does what can be done now; whether that was anything.
    pub(crate) fn step(&mut self, data_directory: &Path) -> bool {
        let Some(connection) = &self.connection else { return self.connect(data_directory) };
        let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
        match connection.socket.try_recv(&mut buffer, CONTROL_MESSAGE_FDS_MAX) {
            Ok(Some(received)) => {
                let message: ServerMessage =
                    codec::decode(&buffer[..received.bytes]).expect("the server keeps the protocol");
                self.hear(&message, received.fds);
                return true;
            }
            Ok(None) => {}
            Err(_) => {
                self.server_died();
                return true;
            }
        }
        if !self.connection.as_ref().is_some_and(|connection| connection.is_welcome) {
            return false;
        }
        match &self.doing {
            Doing::Asking(_) => false,
            Doing::Calling(process, ticket) => {
                let lane = &self.connection.as_ref().expect("it is there").lanes[process].lane;
                if !lane.is_answered(ticket) {
                    return false;
                }
                let lane = Arc::clone(lane);
                let Doing::Calling(_, ticket) = std::mem::replace(&mut self.doing, Doing::Nothing) else {
                    unreachable!("it calls")
                };
                self.answered(&lane, ticket);
                true
            }
            Doing::Nothing => self.try_work(),
        }
    }

    fn connect(&mut self, data_directory: &Path) -> bool {
        let socket = data_directory.join(praas_sys::data_directory::SOCKET_FILE);
        let Ok(token) = std::fs::read_to_string(data_directory.join(praas_sys::data_directory::TOKEN_FILE)) else {
            return false;
        };
        let Ok(socket) = MessageSocket::connect(&socket) else { return false };
        let connection =
            Connection { socket: Arc::new(socket), lanes: BTreeMap::new(), is_welcome: false, last_request: 0 };
        self.connection = Some(connection);
        let token = token.trim().to_owned();
        self.tell(&ClientMessage::Hello { version: CONTROL_VERSION, token, network: false });
        true
    }

    fn tell(&mut self, message: &ClientMessage) {
        let Some(connection) = &self.connection else { return };
        let bytes = codec::encode(message).expect("it is small");
        // A socket that is closed is seen by the next look; one that is full has a server that does not turn, which is then tried again.
        let _ = connection.socket.try_send(&bytes, &[]);
    }

    fn ask(&mut self, body: ClientRequest) {
        let Some(connection) = &mut self.connection else { return };
        connection.last_request += 1;
        let request = connection.last_request;
        self.doing = Doing::Asking(request);
        self.tell(&ClientMessage::Request { request, body });
    }

    fn try_work(&mut self) -> bool {
        let Some(work) = &mut self.work else { return false };
        work.tries += 1;
        if work.tries > TRIES_MAX {
            self.end("it is given up");
            return true;
        }
        let (process, wish) = (work.process, work.wish);
        work.changes = model(|model| model.changes(&process));
        if wish.is_call() {
            return self.call();
        }
        if matches!(wish, Wish::Create | Wish::Stop) {
            model(|model| model.ordered(&process, wish == Wish::Create));
        }
        self.ask(match wish {
            Wish::Create => ClientRequest::ProcessCreate { process, idle_swap_ms: None },
            Wish::Stop => ClientRequest::ProcessStop { process },
            Wish::Restart => ClientRequest::ProcessRestart { process },
            Wish::Swap => ClientRequest::ProcessSwap { process },
            _ => ClientRequest::ProcessRestore { process },
        });
        true
    }

    fn call(&mut self) -> bool {
        let Some(Work { wish, process, operation, .. }) = self.work else { return false };
        let connection = self.connection.as_mut().expect("it is there");
        let Some(lane) = connection.lanes.get(&process) else {
            self.ask(ClientRequest::LaneOpen {
                process,
                payload_bytes_max: None,
                calls_in_flight: None,
                on_behalf: None,
            });
            return true;
        };
        let lane = &lane.lane;
        let submitted = wish.submit(lane, &self.name, operation);
        match submitted {
            Ok(ticket) => self.doing = Doing::Calling(process, ticket),
            Err(SubmitError::Unavailable { .. }) => self.let_lane_go(process),
            Err(error) => panic!("{} cannot submit: {error}", self.name),
        }
        true
    }

    /// Whether the process began or ended between the question and this look at its answer: others were told of that first.
    fn is_outdated(&self, process: &ProcessId) -> bool {
        self.work.is_none_or(|work| model(|model| model.changes(process)) != work.changes)
    }

    fn let_lane_go(&mut self, process: ProcessId) {
        let Some(lane) = self.connection.as_mut().and_then(|connection| connection.lanes.remove(&process)) else {
            return;
        };
        self.tell(&ClientMessage::LaneClose { lane: lane.id, process });
    }

    fn answered(&mut self, lane: &Arc<ClientLane>, ticket: Ticket) {
        let answer = lane.take(ticket);
        let Some(Work { wish, process, operation, tries, .. }) = self.work else { return };
        let (outcome, detail) = (Outcome::from_code(answer.outcome_code), answer.detail);
        let payload = answer.payload.expect("workers answer within the lane");
        let mut bytes = vec![0; payload.len()];
        payload.copy_to(&mut bytes);
        match (outcome, wish) {
            (Some(Outcome::Ok), Wish::Take | Wish::TakeWake) => {
                self.found_message = bytes != NOTHING;
                self.end(if self.found_message { "took a message" } else { "found no message" });
            }
            (Some(Outcome::Ok), Wish::Send { .. }) => {
                if !self.is_outdated(&process) {
                    model(|model| model.accepted(&process, operation));
                }
                self.end("is accepted");
            }
            (Some(Outcome::Ok), _) => {
                if !self.is_outdated(&process) {
                    model(|model| model.acknowledged(&process, operation));
                }
                self.end("is done");
            }
            (Some(Outcome::Unavailable), _) => {
                if !matches!(wish, Wish::Send { .. }) && tries == 1 {
                    model(|model| model.refused(&process, operation));
                }
                self.say(format!("{wish:?} {operation} was refused"));
                self.let_lane_go(process);
            }
            (Some(Outcome::FunctionFailed), _) if detail == PLANNED || model(|model| model.is_rough) => {
                self.found_message = true;
                self.end(&format!("failed: {}", String::from_utf8_lossy(&bytes)));
            }
            // What is known of an earlier call with its key could not be brought back.
            (Some(Outcome::Overloaded), Wish::AppendOnce) => self.say(format!("{operation} is refused for now")),
            (Some(Outcome::WorkerLost), _) => self.is_unknown("its worker died"),
            other => {
                let words = String::from_utf8_lossy(&bytes).into_owned();
                model(|model| {
                    model.wrong.push(format!("{process}: the call of {operation} ended as {other:?}: {words}"));
                });
                self.end("ended oddly");
            }
        }
    }

    /// Nobody knows whether what it wanted happened.
    fn is_unknown(&mut self, why: &str) {
        let Some(work) = self.work else { return };
        match work.wish {
            Wish::AppendOnce | Wish::Send { .. } if work.tries < TRIES_MAX / 4 => {
                self.say(format!("repeats it: {why}"));
            }
            _ => self.end(why),
        }
    }

    fn end(&mut self, how: &str) {
        self.found_message |= how == "its worker died";
        if let Some(work) = self.work.take() {
            self.say(format!("{:?} {} of {}: {how}", work.wish, work.operation, work.process.process));
        }
    }

    fn hear(&mut self, message: &ServerMessage, fds: Vec<OwnedFd>) {
        let asked = match self.doing {
            Doing::Asking(request) => request,
            _ => 0,
        };
        match message {
            ServerMessage::Welcome { .. } => {
                if let Some(connection) = &mut self.connection {
                    connection.is_welcome = true;
                }
            }
            ServerMessage::Done { request } if *request == asked => {
                self.doing = Doing::Nothing;
                self.order_done();
            }
            ServerMessage::Failed { request, error } if *request == asked => {
                self.doing = Doing::Nothing;
                self.order_failed(error);
            }
            ServerMessage::LaneOpened { request, process, lane, .. } if *request == asked => {
                self.doing = Doing::Nothing;
                if !self.is_outdated(process) {
                    model(|model| model.exists(process));
                }
                let connection = self.connection.as_mut().expect("it is there");
                let parts = lane_parts(message, fds, &connection.socket).expect("it is a lane");
                let attached = Arc::new(ClientLane::attach(parts).expect("the server gives a lane that fits"));
                connection.lanes.insert(*process, Lane { lane: attached, id: *lane });
            }
            other => model(|model| model.wrong.push(format!("{} was told {other:?}", self.name))),
        }
    }

    fn order_done(&mut self) {
        let Some(Work { wish, process, .. }) = self.work else { return };
        match wish {
            Wish::Create | Wish::Restore => model(|model| model.is_settled_there(&process)),
            Wish::Stop => model(|model| model.is_settled_gone(&process)),
            _ => model(|model| model.exists(&process)),
        }
        self.end("is done");
    }

    fn order_failed(&mut self, error: &ControlError) {
        let Some(Work { wish, process, changes, .. }) = self.work else { return };
        match error {
            ControlError::UnknownProcess { .. } => {
                if wish.is_call() {
                    model(|model| model.missing(&process, changes));
                } else {
                    model(|model| model.is_settled_gone(&process));
                }
                self.end("there is no such process");
            }
            // It may be one that could not be created and is on its way out.
            ControlError::ProcessExists { .. } => self.end("it exists already"),
            ControlError::WrongState { .. }
            | ControlError::SwapFailed { .. }
            | ControlError::WorkersFailed { .. }
            | ControlError::ShuttingDown
            | ControlError::LimitReached { .. } => {
                let words = error.to_string();
                if wish.is_call() {
                    self.say(format!("is told: {words}"));
                } else {
                    self.end(&words);
                }
            }
            other => {
                let words = format!("{process}: {wish:?} was refused: {other}");
                model(|model| model.wrong.push(words));
                self.end("was refused oddly");
            }
        }
    }
}
