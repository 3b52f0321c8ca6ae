//! A client of a run: one connection, a lane to each process that it calls, one thing at a time.
//!
//! It works with lanes and control messages as the client library does, but never waits: a step does what can be done now. What was
//! refused before it ran is tried again, a call with a key and a message also when nobody knows whether it happened, a plain call not.
//! Calls with keys are also repeated long after their success.
//!
//! One client is an event loop, as the shards of the network are: it publishes a request in one step and announces it in a later one.
//! Whatever comes in between, a request that was published before its process was closed is answered when the process is gone.

mod answers;
mod hearing;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use praas_protocol::codec;
use praas_protocol::control::{CONTROL_VERSION, ClientMessage, ClientRequest, LaneId, ServerMessage};
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGE_FDS_MAX};
use praas_protocol::{Phase, ProcessId};
use praas_shm::client_lane::{ClientLane, SubmitError, Ticket};
use praas_sys::MessageSocket;

use crate::model::{Operation, model};
use crate::wish::Wish;

/// By how much the numbers of a client's messages grow at most, and by which factor the steps vary.
const SEQUENCE_STEP_MAX: u64 = 700;
const SEQUENCE_STRIDE: u64 = 7919;

/// How often something is tried before its client gives it up.
const TRIES_MAX: u32 = 200;

/// How often a client is told that the worker of its repeated call has died, before it gives the call up.
const LOSSES_MAX: u32 = 12;

/// Calls with keys that a client remembers to repeat them.
const REPEATED_MAX: usize = 8;

/// Steps of an event loop between a request and its announcement, at most.
const QUIET_STEPS_MAX: u32 = 24;

/// What a client is at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) wish: Wish,
    pub(crate) process: ProcessId,
    pub(crate) operation: Operation,
    pub(crate) tries: u32,
    /// How often its worker has died.
    losses: u32,
    /// What was known of the process when it was asked for.
    changes: u64,
    /// If it was done before: what was known of the process then.
    done_at: Option<u64>,
}

/// A call with a key that has succeeded.
#[derive(Debug, Clone, Copy)]
struct DoneOnce {
    process: ProcessId,
    operation: Operation,
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
    /// As `Calling`, but that nobody was summoned: that is done after so many steps.
    Published {
        process: ProcessId,
        ticket: Ticket,
        /// Whether the process was not closed yet.
        was_open: bool,
        steps_left: u32,
    },
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
    done_once: VecDeque<DoneOnce>,
    /// Whether it announces its requests in steps of their own.
    is_loop: bool,
    /// Whether the last `take` found a message.
    pub(crate) found_message: bool,
    pub(crate) said: Vec<String>,
}

impl Client {
    pub(crate) fn new(name: String, is_loop: bool) -> Self {
        let doing = Doing::Nothing;
        Self {
            name,
            connection: None,
            doing,
            work: None,
            last_sequence: 0,
            sent: None,
            done_once: VecDeque::new(),
            is_loop,
            found_message: false,
            said: Vec::new(),
        }
    }

    /// Gives it something to do.
    pub(crate) fn begin(&mut self, wish: Wish, process: ProcessId, operation: Operation) {
        let mut done_at = None;
        let (wish, process, operation) = match wish {
            Wish::SendAgain => self.sent.unwrap_or((Wish::Append, process, operation)),
            Wish::AppendOnceAgain { back } => match self.done_once.get(usize::from(back)).copied() {
                Some(done) => {
                    done_at = Some(done.changes);
                    (Wish::AppendOnce, done.process, done.operation)
                }
                None => (Wish::AppendOnce, process, operation),
            },
            Wish::Send { .. } => {
                // So that the window over what is remembered of a source moves.
                self.last_sequence += 1 + u64::from(operation) * SEQUENCE_STRIDE % SEQUENCE_STEP_MAX;
                *self.sent.insert((Wish::Send { sequence: self.last_sequence }, process, operation))
            }
            _ => (wish, process, operation),
        };
        let again = if done_at.is_some() { " once more" } else { "" };
        self.say(format!("begins {wish:?} {operation} of {}{again}", process.process));
        self.work = Some(Work { wish, process, operation, tries: 0, losses: 0, changes: 0, done_at });
    }

    fn say(&mut self, what: String) {
        self.said.push(what);
    }

    /// The server is gone.
    pub(crate) fn server_died(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Calling(process, ticket) | Doing::Published { process, ticket, .. } => {
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
            Doing::Calling(..) | Doing::Published { .. } => self.look_for_answer(),
            Doing::Nothing => self.try_work(),
        }
    }

    /// Takes the answer to its call, if there is one; else an event loop comes nearer to announcing it.
    fn look_for_answer(&mut self) -> bool {
        let (Doing::Calling(process, ticket) | Doing::Published { process, ticket, .. }) = &self.doing else {
            return false;
        };
        let connection = self.connection.as_ref().expect("it is there");
        let (process, lane) = (*process, Arc::clone(&connection.lanes[process].lane));
        let is_answered = lane.is_answered(ticket);
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Calling(_, ticket) | Doing::Published { ticket, .. } if is_answered => {
                self.answered(&lane, ticket);
            }
            Doing::Published { process, ticket, was_open, steps_left } if steps_left > 0 => {
                self.doing = Doing::Published { process, ticket, was_open, steps_left: steps_left - 1 };
            }
            Doing::Published { ticket, .. } => {
                self.doing = Doing::Calling(process, ticket);
                lane.announce();
                self.say(format!("announces its request to {}", process.process));
            }
            waiting => {
                self.doing = waiting;
                return false;
            }
        }
        true
    }

    /// The process, and what was asked of it, of a request that nobody was summoned for, published before its process was closed, and
    /// not answered.
    pub(crate) fn quiet_request(&self) -> Option<(ProcessId, Operation)> {
        let Doing::Published { process, ticket, was_open: true, .. } = &self.doing else { return None };
        let lane = &self.connection.as_ref()?.lanes.get(process)?.lane;
        if lane.is_answered(ticket) { None } else { Some((*process, self.work?.operation)) }
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
        let submitted = wish.submit(lane, &self.name, operation, self.is_loop);
        let was_open = lane.phase() != Phase::Closed;
        match submitted {
            Ok(ticket) if self.is_loop => {
                let steps_left = operation % QUIET_STEPS_MAX;
                self.doing = Doing::Published { process, ticket, was_open, steps_left };
            }
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
}
