//! The life of a worker: greet the server, attach what it hands over, serve calls until told to end.
//!
//! 1. One thread. The server is heard between calls only; it ends a worker that does not listen by killing it.
//! 2. The control socket closing means that the server is gone: the worker ends at once, its calls unanswered (their
//!    callers see the same server vanish). One that polls for ever never looks: the kernel kills it with its parent.
//! 3. A worker that finds its claim condemned ends at once: the server is killing it and has answered for it.
//! 4. Nothing is claimed before `Ready` is sent, and nothing after the phase is `closed`.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use praas_protocol::codec::CodecError;
use praas_protocol::control::{CONTROL_VERSION, LaneGeometry, LaneId, WaitMode, WorkerCommand, WorkerMessage};
use praas_protocol::limits::WORKERS_MAX;
use praas_shm::control_page::ControlView;
use praas_shm::held_replies::HoldError;
use praas_shm::log_ring::{DurableWatch, LogWriter};
use praas_shm::objects::{LimitError, Objects, ObjectsLayout, Store};
use praas_shm::segment::AttachError;
use praas_shm::worker_end::{Beside, Next, WorkerEnd, WorkerStart};
use praas_shm::{WorkerLaneParts, WorkerTag};
use praas_sys::message_socket::{MessageSocket, SocketError};

use crate::application::Application;
use crate::call_runner::CallRunner;
use crate::context::{CallerIdentity, WorkerIdentity};
use crate::dedicated::{Connections, Given, Host};
use crate::durability::DurabilityRoom;
use crate::invoke::{CallLanes, InvokeRoom};
use crate::limits::{HELD_REPLIES_WAIT_MAX, LANE_CALLS_IN_A_ROW_MAX, PARK_MAX, SERVER_ANSWER_MAX};
use crate::mail::{Mail, Parcel};
use crate::messages::{MessageRoom, MessageStart};
use crate::process_list::ProcessRoom;
use crate::standing_aside::RingRecord;
use crate::state::StateRoom;
use crate::table::ApplicationError;
use crate::waiting::Waiting;
use crate::wake_ups::{self, WakeRoom};

/// Descriptors that come with every lane; a reply doorbell is one more.
const LANE_FDS: usize = 4;

/// Why a worker could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The application's functions are wrong.
    #[error(transparent)]
    Application(#[from] ApplicationError),
    /// A descriptor that the server should have left is not there.
    #[error("descriptor {number} from the server is missing ({error}): start this binary through `praas serve`")]
    Inherited {
        /// The descriptor's number.
        number: i32,
        /// What the system says.
        error: io::Error,
    },
    /// The control socket failed.
    #[error("the control socket to the server failed: {0}")]
    Socket(#[from] SocketError),
    /// The server did not say in time what was expected of it.
    #[error("the server sent no {expected} within {} s", SERVER_ANSWER_MAX.as_secs())]
    Silence {
        /// The message that was waited for.
        expected: &'static str,
    },
    /// The server said something unexpected.
    #[error("the server broke the protocol ({0}): server and function were built from different releases")]
    Protocol(String),
    /// A segment of the process could not be mapped.
    #[error("shared memory of the process could not be attached: {0}")]
    Attach(#[from] AttachError),
    /// The state of the process has a size that none can have.
    #[error("the server broke the protocol ({0}): server and function were built from different releases")]
    StateBytes(#[from] LimitError),
    /// The replies of a logged process cannot be held.
    #[error(transparent)]
    Replies(#[from] HoldError),
    /// The system refused something.
    #[error("{what} failed: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

impl From<CodecError> for WorkerError {
    fn from(error: CodecError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Why a worker that served ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Told,
    ServerGone,
    Condemned,
}

/// What a turn came to that does not wait.
#[cfg(feature = "simulation")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    Idle,
    Busy(Option<Ended>),
}

/// What a look came to, a call being answered at once.
enum Found {
    Answered(Option<Ended>),
    Connection,
    Mail,
    Closed,
}

impl Found {
    #[inline]
    fn of(next: Next<'_>, runner: &mut CallRunner, mail: &Mail) -> Self {
        match next {
            Next::Call(call) => {
                if call.needs_help() {
                    mail.hint(&WorkerMessage::Ring);
                }
                Self::Answered(runner.answer(call).err().map(|_| Ended::Condemned))
            }
            Next::Mail => Self::Mail,
            Next::Closed => Self::Closed,
        }
    }
}

/// A worker that has attached its process.
#[derive(Debug)]
pub(crate) struct Worker {
    end: WorkerEnd,
    runner: CallRunner,
    waiting: Waiting,
    /// Shared with the call that runs.
    mail: Rc<Mail>,
    connections: Connections,
    /// Looks since the connections had a turn, most of which were calls from lanes.
    lane_calls: u32,
}

impl Worker {
    /// Greets the server at the other end of `control` and attaches what it hands over.
    pub(crate) fn start(control: MessageSocket, application: Application) -> Result<Self, WorkerError> {
        crate::panic_record::install_hook();
        let answers_kept_for = application.answers_kept_for();
        let (table, migrations) = application.into_parts()?;
        let waiting = Waiting::new(&control).map_err(system("making an epoll set"))?;
        let mail = Rc::new(Mail::new(control));
        mail.send(&WorkerMessage::Hello { version: CONTROL_VERSION, functions: table.names() })?;
        let Parcel { command, fds } =
            mail.next_within(SERVER_ANSWER_MAX)?.ok_or(WorkerError::Silence { expected: "start message" })?;
        let WorkerCommand::Start {
            process,
            index,
            generation,
            wait_mode,
            payload_bytes_max,
            workers_max,
            state_bytes,
            incarnation,
            log_bytes,
            files,
        } = command
        else {
            return Err(unexpected(&command));
        };
        if usize::from(index) >= WORKERS_MAX {
            return Err(WorkerError::Protocol(format!("worker index {index} is over {WORKERS_MAX}")));
        }
        let (log, fds) = split_log(fds, log_bytes)?;
        let [control, page, objects, bell, directory] = exactly(fds)?;
        let tag = WorkerTag::new(index, generation);
        let view = control.try_clone().map_err(system("duplicating a descriptor"))?;
        let mut end = WorkerEnd::new(WorkerStart { page, control, tag, wait_mode, workers_max, payload_bytes_max })?;
        let is_logged = log.is_some();
        let state = StateRoom::new(attach_state(objects, state_bytes, tag, log)?, migrations);
        let mut watch = None;
        if is_logged {
            let objects = Arc::clone(state.store().objects());
            let logged = DurableWatch::new(objects, Arc::new(ControlView::attach(view)?));
            let watch = watch.insert(if wait_mode == WaitMode::Park { logged } else { logged.polling() });
            end.hold_replies(watch.clone())?;
        }
        let call_lanes = Rc::new(CallLanes::new(Rc::clone(&mail)));
        let messages = MessageRoom::new(MessageStart {
            own: process.into(),
            process,
            incarnation,
            tag,
            wait_mode,
            payload_bytes_max,
            objects: Arc::clone(state.store().objects()),
            bell,
            mail: Rc::clone(&mail),
            call_lanes: Rc::clone(&call_lanes),
        });
        let worker = WorkerIdentity {
            process,
            index,
            state,
            messages,
            processes: ProcessRoom::new(directory),
            mail: Rc::clone(&mail),
            ring_record: RingRecord::default(),
            invoke: InvokeRoom::new(process, wait_mode, call_lanes),
            durability: DurabilityRoom::new(watch),
            wake_ups: WakeRoom::default(),
            files: files.map(Into::into),
        };
        let runner = CallRunner::new(table, worker, payload_bytes_max as usize, answers_kept_for);
        mail.send(&WorkerMessage::Ready)?;
        Ok(Self { end, runner, waiting, mail, connections: Connections::default(), lane_calls: 0 })
    }

    /// Serves calls until the end of this worker.
    pub(crate) fn serve(mut self) -> Result<Ended, WorkerError> {
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(ended),
                Err(WorkerError::Socket(SocketError::Closed)) => return Ok(Ended::ServerGone),
                Err(error) => return Err(error),
            }
        }
    }

    /// One call, or some messages, or a turn of a connection.
    fn turn(&mut self) -> Result<Option<Ended>, WorkerError> {
        // Left by the last call. What the server writes from here on announces itself.
        if self.mail.has_queued() {
            return self.read_mail();
        }
        let found = if self.connections.is_empty() {
            Found::of(self.end.next(&mut || self.waiting.park(None)), &mut self.runner, &self.mail)
        } else {
            self.look_beside()?
        };
        match found {
            Found::Answered(ended) => Ok(ended),
            Found::Connection => self.serve_connections(),
            Found::Mail => self.read_mail(),
            Found::Closed => {
                self.connections.end_all(&self.waiting, &self.mail)?;
                // An end is what usually follows, but a drain can be called off.
                match self.mail.next_within(PARK_MAX)? {
                    Some(parcel) => self.obey(parcel),
                    None => Ok(None),
                }
            }
        }
    }

    /// As a turn of [`Worker::serve`], for whoever has this worker in a thread that has other things to do: nothing is waited for.
    /// Dedicated connections are not served.
    #[cfg(feature = "simulation")]
    pub(crate) fn turn_once(&mut self) -> Result<Turned, WorkerError> {
        if self.mail.has_queued() {
            return self.read_mail().map(Turned::Busy);
        }
        let Self { end, runner, mail, .. } = self;
        // Asked only when the lanes are empty: then that is all there is.
        let Some(next) = end.next_or(|_| Beside::Found, &mut || true) else { return Ok(Turned::Idle) };
        match Found::of(next, runner, mail) {
            Found::Answered(ended) => Ok(Turned::Busy(ended)),
            Found::Connection => Ok(Turned::Idle),
            Found::Mail => self.read_mail().map(Turned::Busy),
            Found::Closed => match self.mail.next()? {
                Some(parcel) => self.obey(parcel).map(Turned::Busy),
                None => Ok(Turned::Idle),
            },
        }
    }

    /// The same look for a worker that also has connections.
    fn look_beside(&mut self) -> Result<Found, WorkerError> {
        if self.connections_are_due()? {
            return Ok(Found::Connection);
        }
        let Self { end, runner, waiting, mail, connections, lane_calls } = self;
        let time_left = connections.time_left();
        let next = end.next_or(|polls| connections.look(waiting, polls), &mut || waiting.park(time_left));
        *lane_calls += 1;
        Ok(next.map_or(Found::Connection, |next| Found::of(next, runner, mail)))
    }

    /// Whether the connections come before the lanes: now and then, or when they have to end.
    fn connections_are_due(&mut self) -> Result<bool, WorkerError> {
        if !self.end.is_active() {
            self.connections.drain(&self.waiting, &self.mail)?;
        }
        if self.lane_calls < LANE_CALLS_IN_A_ROW_MAX {
            return Ok(false);
        }
        self.lane_calls = 0;
        Ok(self.connections.look(&self.waiting, true) == Beside::Found)
    }

    /// A turn of one connection that has something to read, or room to write.
    fn serve_connections(&mut self) -> Result<Option<Ended>, WorkerError> {
        self.lane_calls = 0;
        let Self { end, runner, waiting, mail, connections, .. } = self;
        connections.serve_one(Host { end, runner, waiting, mail })
    }

    /// Obeys every message that is there. The server sends a handful in a worker's life and fills no loop.
    fn read_mail(&mut self) -> Result<Option<Ended>, WorkerError> {
        while let Some(parcel) = self.mail.next()? {
            if let Some(ended) = self.obey(parcel)? {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn obey(&mut self, Parcel { command, fds }: Parcel) -> Result<Option<Ended>, WorkerError> {
        match command {
            WorkerCommand::LaneAdd { lane, geometry, rights, in_place, principal } => {
                let identity = CallerIdentity { principal, rights };
                let error = self.add_lane(lane, geometry, in_place, identity, fds).err();
                let error = error.map(|error| error.to_string());
                self.mail.send(&WorkerMessage::LaneAttached { lane, error })?;
                Ok(None)
            }
            WorkerCommand::LaneRemove { lane } => {
                self.waiting.remove_lane(lane);
                self.runner.remove_lane(lane);
                self.end.remove_lane(lane);
                self.mail.send(&WorkerMessage::LaneDetached { lane })?;
                Ok(None)
            }
            WorkerCommand::ConnectionAdd { connection, request_id, limits, rights, principal } => {
                let [socket] = exactly(fds)?;
                let caller = CallerIdentity { principal, rights };
                let given = Given { socket, id: connection, request_id, limits, caller };
                self.connections.add(given, &self.end, &self.waiting, &self.mail)?;
                Ok(None)
            }
            // The phase is read before every claim: being awake is all that was asked.
            WorkerCommand::Wake => Ok(None),
            // No call awaits it any more: what it was about is there, or is asked for again.
            WorkerCommand::StateFetched { .. } => {
                wake_ups::look_again(self.runner.identity())?;
                Ok(None)
            }
            WorkerCommand::WakeUpsLook { now_unix_ms } => {
                wake_ups::look(self.runner.identity(), now_unix_ms)?;
                Ok(None)
            }
            WorkerCommand::Exit => {
                // Whose replies are held has been served: they are released first, unless the server loses its patience.
                if let Some(held) = self.end.held_replies() {
                    let _ = held.wait_until_released(Instant::now() + HELD_REPLIES_WAIT_MAX);
                }
                Ok(Some(Ended::Told))
            }
            WorkerCommand::InboundLaneRemove { slot } => {
                self.runner.messages_mut().remove_inbound(slot)?;
                Ok(None)
            }
            WorkerCommand::CallLaneGone { lane, .. } => {
                self.runner.invoke_room().lanes().forget(lane);
                Ok(None)
            }
            command @ (WorkerCommand::MessageLaneOpened { .. }
            | WorkerCommand::MessageLaneGone { .. }
            | WorkerCommand::InboundLaneAdd { .. }
            | WorkerCommand::CallLaneOpened { .. }
            | WorkerCommand::Refused { .. }) => {
                if let Some(parcel) = self.runner.invoke_room().lanes().settle_late(Parcel { command, fds }) {
                    self.runner.messages_mut().obey(parcel)?;
                }
                Ok(None)
            }
            WorkerCommand::Start { .. } => Err(unexpected(&command)),
        }
    }

    fn add_lane(
        &mut self,
        lane: LaneId,
        geometry: LaneGeometry,
        in_place: bool,
        identity: CallerIdentity,
        mut fds: Vec<OwnedFd>,
    ) -> Result<(), WorkerError> {
        let reply_doorbell = if fds.len() == LANE_FDS + 1 { fds.pop() } else { None };
        let [segment, ledger, listen, ring] = exactly::<LANE_FDS>(fds)?;
        // Listening first: a ring that comes before the lane is served is then not lost.
        self.waiting.add_lane(lane, listen).map_err(system("listening to a doorbell"))?;
        let parts = WorkerLaneParts { lane, geometry, in_place, segment, ledger, doorbell: ring, reply_doorbell };
        if let Err(error) = self.end.add_lane(parts) {
            self.waiting.remove_lane(lane);
            return Err(error.into());
        }
        self.runner.add_lane(lane, identity);
        Ok(())
    }
}

/// What comes last among the descriptors of a process that is logged: its log ring, and the ring's doorbell.
fn split_log(mut fds: Vec<OwnedFd>, log_bytes: Option<u64>) -> Result<(Option<LogWriter>, Vec<OwnedFd>), WorkerError> {
    let Some(log_bytes) = log_bytes else { return Ok((None, fds)) };
    let (doorbell, ring) = (fds.pop(), fds.pop());
    let (Some(doorbell), Some(ring)) = (doorbell, ring) else {
        return Err(WorkerError::Protocol("no descriptors of a log came".to_owned()));
    };
    Ok((Some(LogWriter::attach(ring, log_bytes, doorbell)?), fds))
}

/// This worker's end of the state that lies behind a descriptor.
fn attach_state(
    objects: OwnedFd,
    state_bytes: u64,
    tag: WorkerTag,
    log: Option<LogWriter>,
) -> Result<Store, WorkerError> {
    let objects = Objects::attach(objects, ObjectsLayout::for_limit(state_bytes)?)?;
    let objects = Arc::new(match log {
        Some(log) => objects.with_log(log),
        None => objects,
    });
    Ok(objects.worker_store(tag).expect("a new mapping has every row free"))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> WorkerError {
    move |error| WorkerError::System { what, error }
}

fn unexpected(command: &WorkerCommand) -> WorkerError {
    WorkerError::Protocol(format!("{command:?} was not expected now"))
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], WorkerError> {
    fds.try_into()
        .map_err(|fds: Vec<OwnedFd>| WorkerError::Protocol(format!("{} descriptors came instead of {N}", fds.len())))
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, BorrowedFd};

    use praas_protocol::codec;
    use praas_protocol::control::WaitMode;

    use super::*;

    /// What a worker says when its server starts it with this message.
    fn refusal(command: &WorkerCommand, fds: &[BorrowedFd<'_>]) -> String {
        let (server, worker) = MessageSocket::pair().unwrap();
        // The worker reads it after its hello: a socket keeps messages.
        server.send(&codec::encode(command).unwrap(), fds).unwrap();
        Worker::start(worker, Application::new().function("echo", |_| ())).unwrap_err().to_string()
    }

    fn start(index: u8) -> WorkerCommand {
        WorkerCommand::Start {
            process: "hello/alice".parse().unwrap(),
            index,
            generation: 1,
            wait_mode: WaitMode::Park,
            payload_bytes_max: 1 << 20,
            workers_max: 1,
            state_bytes: 1 << 20,
            incarnation: 1,
            log_bytes: None,
            files: None,
        }
    }

    #[test]
    fn a_server_that_starts_a_worker_wrongly_is_refused_with_the_reason() {
        let not_a_page = std::fs::File::open("/dev/null").unwrap();
        let fd = not_a_page.as_fd();
        assert!(refusal(&WorkerCommand::Exit, &[]).contains("Exit was not expected now"));
        assert!(refusal(&start(0), &[fd]).contains("1 descriptors came instead of 5"));
        assert!(refusal(&start(64), &[fd, fd, fd, fd, fd]).contains("index 64"));
        assert!(refusal(&start(0), &[fd, fd, fd, fd, fd]).contains("could not be attached"));
    }
}
