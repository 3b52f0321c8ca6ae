//! The server's side of a harness: makes the segments, starts workers as threads, and hands lanes out.
//!
//! It speaks the control messages of a server over a real socket pair, so workers run exactly the code that they run in
//! production, from their hello on.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneId, WorkerCommand, WorkerMessage};
use praas_protocol::limits::{CELLS_DEFAULT, LANES_PER_PROCESS_MAX, WORKERS_MAX};
use praas_protocol::token::Rights;
use praas_protocol::{Name, NameError, Phase};
use praas_shm::client_lane::{ClientLane, ClientLaneParts};
use praas_shm::control_page::ControlPage;
use praas_shm::layout;
use praas_shm::objects::{Objects, ObjectsLayout};
use praas_shm::segment::AttachError;
use praas_shm::server_lane::{CreateLaneError, ServerLane};
use praas_shm::worker_page::ServerWorkerPage;
use praas_sys::doorbell::Doorbell;
use praas_sys::message_socket::{MessageSocket, SocketError};

use super::asleep::{Asleep, Woken};
use super::call_lanes::Callable;
use super::files::FilesDirectory;
use super::listener::Line;
use super::realm::{HostNumber, Mailboxes, Realm, SenderId, process_id};
use super::{Caller, HarnessOptions};
use crate::application::Application;
use crate::worker::{Ended, Worker, WorkerError};

/// Time that a worker gets to end when its harness is dropped; a function may still be running.
const END_MAX: Duration = Duration::from_secs(10);

/// Bytes that the state of the process may grow to.
pub(super) const STATE_BYTES: u64 = praas_protocol::limits::STATE_BYTES_MAX_DEFAULT;

/// How often the end of a worker is looked for meanwhile.
const END_POLL: Duration = Duration::from_millis(1);

/// Why a harness could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// A worker did not start or failed: among others, the application is wrong in itself.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A worker's thread panicked outside any function.
    #[error("building the application panicked")]
    Panicked,
    /// The options make no sense.
    #[error("a process has 1 to {WORKERS_MAX} workers, not {workers}")]
    Workers {
        /// How many were asked for.
        workers: u8,
    },
    /// The process has as many lanes as it can.
    #[error("the process has {LANES_PER_PROCESS_MAX} lanes already: close a caller first")]
    Lanes,
    /// There is a process of this name already.
    #[error("there is a process {name} already: choose another name, or drop it first")]
    ProcessExists {
        /// Its name.
        name: Name,
    },
    /// A name is none.
    #[error("the name of a process is refused: {0}")]
    Process(NameError),
    /// A principal's name is not a name.
    #[error("the principal's name is refused: {0}")]
    Principal(#[from] NameError),
    /// The worker did not answer a message as the protocol says.
    #[error("the worker did not answer: {0}")]
    NoAnswer(String),
    /// A worker could not map a lane.
    #[error("the worker could not attach a lane: {0}")]
    LaneRefused(String),
    /// The control socket failed.
    #[error("the control socket failed: {0}")]
    Socket(#[from] SocketError),
    /// The process could not sleep, or not wake.
    #[error("the process could not sleep and wake: {0}")]
    Asleep(String),
    /// The caller could not map its lane.
    #[error("the caller could not attach its lane: {0}")]
    Attach(#[from] AttachError),
    /// A lane could not be made.
    #[error("a lane could not be made: {0}")]
    Lane(#[from] CreateLaneError),
    /// The system refused memory or descriptors.
    #[error("the system refused shared memory, a pipe or a thread: {0}")]
    System(#[from] io::Error),
}

pub(super) type Maker = Arc<dyn Fn() -> Application + Send + Sync>;

struct HostedWorker {
    line: Arc<Line>,
    thread: Option<JoinHandle<Result<Ended, WorkerError>>>,
}

/// The server's side of a harness.
pub(super) struct Host {
    pub(super) options: HarnessOptions,
    pub(super) application: Maker,
    pub(super) realm: Arc<Realm>,
    /// The host that it pretends to be on.
    pub(super) number: HostNumber,
    name: Name,
    incarnation: u64,
    mailboxes: Arc<Mailboxes>,
    page: Arc<ControlPage>,
    /// The state of the process, shared by its workers.
    objects: Objects,
    workers: Vec<HostedWorker>,
    lanes: Vec<HostedLane>,
    callable: Arc<Callable>,
    /// What is still to come back, of a process that has slept.
    asleep: Option<Arc<Asleep>>,
    /// Its files directory.
    pub(super) files: Option<Arc<FilesDirectory>>,
}

struct HostedLane {
    server: ServerLane,
    client: Arc<ClientLane>,
}

impl Host {
    pub(super) fn start(
        realm: Arc<Realm>,
        number: HostNumber,
        name: Name,
        options: HarnessOptions,
        application: Maker,
        woken: Option<Woken>,
    ) -> Result<Self, HarnessError> {
        if options.workers == 0 || usize::from(options.workers) > WORKERS_MAX {
            return Err(HarnessError::Workers { workers: options.workers });
        }
        let incarnation = realm.next_incarnation();
        let page = Arc::new(ControlPage::create(1, 1)?);
        let layout = ObjectsLayout::for_limit(STATE_BYTES).expect("the default lies within the limits");
        let (objects, asleep, files) = match woken {
            Some(Woken { objects, asleep, files }) => (objects, Some(asleep), files),
            None => {
                let files = (options.files_bytes_max > 0).then(FilesDirectory::make).transpose()?;
                (Objects::create(layout)?, None, files.map(Arc::new))
            }
        };
        let mailboxes = realm.enter(name, options.payload_bytes_max, number)?;
        let (workers, lanes) = (Vec::new(), Vec::new());
        let callable = Arc::new(Callable::new(Arc::clone(&page), options));
        realm.enter_callable(name, &callable);
        let mut host = Self {
            options,
            application,
            realm,
            number,
            name,
            incarnation,
            mailboxes,
            page,
            objects,
            workers,
            lanes,
            callable,
            asleep,
            files,
        };
        for index in 0..options.workers {
            host.start_worker(index)?;
        }
        host.page.set_workers(options.workers.into());
        Ok(host)
    }

    fn start_worker(&mut self, index: u8) -> Result<(), HarnessError> {
        let (socket, other_end) = MessageSocket::pair()?;
        let page = ServerWorkerPage::create()?;
        let page_fd = page.fd().try_clone_to_owned()?;
        let application = Arc::clone(&self.application);
        let thread = std::thread::Builder::new()
            .name(format!("worker {index}"))
            .spawn(move || Worker::start(other_end, application())?.serve())?;
        let (source, incarnation, host) = (self.name.into(), self.incarnation, self.number);
        let sender = SenderId { source, incarnation, worker: index, host };
        let line = Line::open(socket, move || page.notify(), &self.realm, sender, self.asleep.clone())?;
        let mut worker = HostedWorker { line, thread: Some(thread) };
        let start = WorkerCommand::Start {
            process: process_id(self.name),
            index,
            generation: 1,
            wait_mode: self.options.wait_mode,
            payload_bytes_max: self.options.payload_bytes_max,
            workers_max: self.options.workers.into(),
            state_bytes: STATE_BYTES,
            incarnation: self.incarnation,
            log_bytes: None,
            files: self.files.as_ref().map(|files| files.place(self.options.files_bytes_max)),
        };
        let directory = self.realm.directory_fd()?;
        let (bell, objects) = (self.mailboxes.bell.fd(), self.objects.fd());
        let fds = [self.page.fd(), page_fd.as_fd(), objects, bell, directory.as_fd()];
        worker.greet(&start, &fds).map_err(|error| worker.own_words().unwrap_or(error))?;
        self.mailboxes.add_worker(&worker.line)?;
        self.callable.add_worker(&worker.line);
        self.workers.push(worker);
        Ok(())
    }

    /// Another mapping of the state, to be used when the workers are gone.
    pub(super) fn state_again(&self) -> Result<Objects, HarnessError> {
        let layout = ObjectsLayout::for_limit(STATE_BYTES).expect("the default lies within the limits");
        Ok(Objects::attach(self.objects.fd().try_clone_to_owned()?, layout)?)
    }

    /// Whatever is still to come back does.
    pub(super) fn bring_all_back(&self) -> Result<(), HarnessError> {
        self.asleep.as_ref().map_or(Ok(()), |asleep| asleep.bring_all_back())
    }

    pub(super) fn name(&self) -> Name {
        self.name
    }

    /// Shows a phase, and wakes whoever waits.
    pub(super) fn set_phase(&self, phase: Phase) -> Result<(), HarnessError> {
        self.page.set_phase(phase);
        self.mailboxes.bell.ring();
        self.workers.iter().try_for_each(|worker| worker.line.tell(&WorkerCommand::Wake, &[]))
    }

    /// Says what time it is, and waits until each worker has put into the mailbox what is due.
    pub(super) fn tell_time(&self, now_unix_ms: u64) -> Result<(), HarnessError> {
        self.workers.iter().try_for_each(|worker| {
            worker.line.tell(&WorkerCommand::WakeUpsLook { now_unix_ms }, &[])?;
            self.mailboxes.bell.ring();
            // One that has to fetch them from storage first answers twice.
            worker.line.await_answer("wake-ups", |message| {
                matches!(message, WorkerMessage::WakeUps { seen: Some(_), is_answer: true }).then_some(())
            })
        })
    }

    pub(super) fn open_lane(&mut self, principal: &str, trusted: bool) -> Result<Caller, HarnessError> {
        let principal = principal.parse()?;
        let lane = self.callable.take_number().ok_or(HarnessError::Lanes)?;
        let geometry = layout::geometry_for(self.options.payload_bytes_max, CELLS_DEFAULT);
        let server_lane = ServerLane::create(lane, geometry)?;
        let bell = Doorbell::new().map_err(io::Error::from)?;
        let rights = if trusted { Rights::ALL } else { Rights::INVOKE };
        let command = WorkerCommand::LaneAdd { lane, geometry, rights, in_place: trusted, principal };
        for worker in &self.workers {
            worker.line.tell(
                &command,
                &[server_lane.segment_fd(), server_lane.ledger_fd(), bell.listen.as_fd(), bell.ring.as_fd()],
            )?;
        }
        for worker in &self.workers {
            worker.await_lane(lane)?;
        }
        let doorbell = bell.ring.try_clone()?;
        let page = Arc::clone(&self.page);
        let client_lane = ClientLane::attach(ClientLaneParts {
            lane,
            geometry,
            trusted,
            payload_bytes_max: self.options.payload_bytes_max,
            workers_max: self.options.workers.into(),
            segment: server_lane.segment_fd().try_clone_to_owned()?,
            control: self.page.fd().try_clone_to_owned()?,
            doorbell,
            ring_server: Box::new(move || {
                bell.ring();
                page.acknowledge_rings();
            }),
        })?;
        let client_lane = Arc::new(client_lane);
        self.lanes.push(HostedLane { server: server_lane, client: Arc::clone(&client_lane) });
        Ok(Caller::new(client_lane, self.options.wait_mode, self.name))
    }

    pub(super) fn close_lane(&mut self, lane: LaneId) -> Result<(), HarnessError> {
        for worker in &self.workers {
            worker.line.tell(&WorkerCommand::LaneRemove { lane }, &[])?;
        }
        for worker in &self.workers {
            worker.line.await_answer("detached lane", |message| {
                matches!(message, WorkerMessage::LaneDetached { lane: detached } if detached == lane).then_some(())
            })?;
        }
        self.lanes.retain(|one| one.server.id() != lane);
        self.callable.give_number_back(lane);
        Ok(())
    }
}

impl HostedWorker {
    /// The server's part of a worker's start.
    fn greet(&self, start: &WorkerCommand, fds: &[BorrowedFd<'_>]) -> Result<(), HarnessError> {
        self.line.await_answer("hello", |message| matches!(message, WorkerMessage::Hello { .. }).then_some(()))?;
        self.line.tell(start, fds)?;
        self.line.await_answer("ready", |message| matches!(message, WorkerMessage::Ready).then_some(()))
    }

    fn await_lane(&self, wanted: LaneId) -> Result<(), HarnessError> {
        self.line.await_answer("attached lane", |message| match message {
            WorkerMessage::LaneAttached { lane, error } if lane == wanted => {
                Some(error.map_or(Ok(()), |error| Err(HarnessError::LaneRefused(error))))
            }
            _ => None,
        })?
    }

    /// What the worker itself says about its failed start, if its thread has ended or is about to.
    fn own_words(&mut self) -> Option<HarnessError> {
        match self.join()? {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.into()),
            Err(_) => Some(HarnessError::Panicked),
        }
    }

    /// The end of the worker's thread, `None` when it does not come in time.
    fn join(&mut self) -> Option<std::thread::Result<Result<Ended, WorkerError>>> {
        let thread = self.thread.take()?;
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() > END_MAX {
                return None;
            }
            std::thread::sleep(END_POLL);
        }
        Some(thread.join())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.page.set_phase(Phase::Closed);
        for worker in &self.workers {
            // A worker that is gone already needs no telling.
            let _ = worker.line.tell(&WorkerCommand::Exit, &[]);
        }
        self.mailboxes.bell.ring();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            match worker.join() {
                Some(Ok(Ok(_))) => {}
                Some(Ok(Err(error))) => eprintln!("worker {index} of a test harness failed: {error}"),
                Some(Err(_)) => eprintln!("worker {index} of a test harness panicked outside a function"),
                None => eprintln!("worker {index} of a test harness still runs a function and is left behind"),
            }
        }
        for lane in &self.lanes {
            lane.client.mark_lost();
        }
        self.realm.leave(self.name.into());
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Host")
            .field("options", &self.options)
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Call;

    fn host() -> Host {
        let application = || Application::new().function("echo", |call: &mut Call| call.reply(call.input()));
        let name = "tested".parse().unwrap();
        let realm = Arc::new(Realm::new().unwrap());
        Host::start(realm, HostNumber(0), name, HarnessOptions::default(), Arc::new(application), None).unwrap()
    }

    #[test]
    fn a_worker_ends_when_the_servers_socket_closes() {
        let mut host = host();
        let mut worker = host.workers.pop().unwrap();
        rustix::net::shutdown(&worker.line.socket, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(worker.join().expect("the worker ended").unwrap().unwrap(), Ended::ServerGone);
    }

    #[test]
    fn a_closed_process_takes_no_call_and_goes_on_when_it_is_active_again() {
        let mut host = host();
        let caller = host.open_lane("someone", true).unwrap();
        for _ in 0..3 {
            host.page.set_phase(Phase::Closed);
            let call = caller.begin("echo", b"late", None).map(|call| {
                std::thread::yield_now();
                assert!(!call.is_answered(), "a closed process ran a call");
                call.cancel();
            });
            assert!(call.is_ok() || matches!(call, Err(praas_protocol::CallError::Unavailable { .. })), "{call:?}");
            host.page.set_phase(Phase::Active);
            host.workers[0].line.tell(&WorkerCommand::Wake, &[]).unwrap();
            assert_eq!(caller.invoke("echo", b"again").unwrap(), b"again");
        }
    }

    #[test]
    fn a_lane_that_cannot_be_attached_is_told_and_costs_nothing_else() {
        let mut host = host();
        let geometry = layout::geometry_for(1 << 20, 8);
        let principal = "someone".parse().unwrap();
        let command =
            WorkerCommand::LaneAdd { lane: LaneId(9), geometry, rights: Rights::ALL, in_place: true, principal };
        let bell = Doorbell::new().unwrap();
        let wrong = host.page.fd().try_clone_to_owned().unwrap();
        let too_few = [wrong.as_fd()];
        let no_lane = [wrong.as_fd(), wrong.as_fd(), bell.listen.as_fd(), bell.ring.as_fd()];
        for fds in [&too_few[..], &no_lane[..]] {
            host.workers[0].line.tell(&command, fds).unwrap();
            let answer = host.workers[0].await_lane(LaneId(9));
            assert!(matches!(answer, Err(HarnessError::LaneRefused(_))), "{answer:?}");
        }
        assert_eq!(host.open_lane("someone", true).unwrap().invoke("echo", b"x").unwrap(), b"x");
    }
}
