//! A server end that does what a test says: accepts, hands out lanes, runs a few functions, drains, dies.
//!
//! Every thread ends with the [`ScriptedServer`]; its socket lies in a temporary directory that goes with it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use praas_client::{Client, ConnectOptions, Phase, Process, ProcessId};
use praas_protocol::control::{
    CONTROL_VERSION, ClientMessage, ClientRequest, ControlError, LaneGeometry, LaneId, ServerMessage, SessionTicket,
    WaitMode,
};
use praas_protocol::message::Accepted;
use praas_protocol::session::{ACCEPT_FUNCTION, RECV_FUNCTION, ReceivedHead, SEND_FUNCTION, SendHead};
use praas_protocol::{FunctionId, MessageId, Outcome, SessionId, codec};
use praas_shm::control_page::ControlPage;
use praas_shm::layout::geometry_for;
use praas_shm::running_call::RunningCall;
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerLaneParts, WorkerTag};
use praas_sys::{Doorbell, Listener, MessageSocket, Sending, SocketError, StaleSocket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Time after which a test gives up waiting: generous, since nothing succeeds by its passing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Longest sleep of a scripted worker or listener between two looks at whether it should end.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) fn alice() -> ProcessId {
    "hello/alice".parse().unwrap()
}

/// Polls until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What a scripted server does; the default accepts everything and has one worker and a trusted lane.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) workers: u8,
    pub(crate) trusted: bool,
    pub(crate) calls_in_flight: u32,
    pub(crate) payload_bytes_max: u32,
    pub(crate) version: u32,
    pub(crate) refuse_hello: Option<ControlError>,
    pub(crate) known: Vec<ProcessId>,
    /// Requests for lanes are answered only once this is false again.
    pub(crate) lanes_come_late: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            workers: 1,
            trusted: true,
            calls_in_flight: 16,
            payload_bytes_max: 1 << 20,
            version: CONTROL_VERSION,
            refuse_hello: None,
            known: vec![alice()],
            lanes_come_late: false,
        }
    }
}

/// The server end, with one process of a few functions.
pub(crate) struct ScriptedServer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of one server share.
pub(crate) struct Shared {
    script: Mutex<Script>,
    ended: AtomicBool,
    control: ControlPage,
    lanes: Mutex<Vec<Arc<ServerLane>>>,
    workers: Vec<Worker>,
    connections: Mutex<Vec<Arc<MessageSocket>>>,
    last_lane: AtomicU32,
    gate: Mutex<bool>,
    gate_opened: Condvar,
    pub(crate) held: AtomicUsize,
    pub(crate) runs: AtomicUsize,
    pub(crate) lanes_closed: AtomicUsize,
    /// What each opening of the session asked to resume.
    pub(crate) resumed: Mutex<Vec<Option<SessionTicket>>>,
    /// Messages that were sent through the session.
    pub(crate) sent: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// The session that every client gets.
pub(crate) const SESSION: SessionTicket = SessionTicket { session: SessionId(42), secret: 7 };

struct Worker {
    page: ServerWorkerPage,
    tag: WorkerTag,
    lanes: Mutex<mpsc::Sender<(WorkerLaneParts, OwnedFd)>>,
}

impl ScriptedServer {
    pub(crate) fn start(directory: &Path, script: Script) -> Self {
        let listener = Listener::bind(&directory.join("praas.sock"), StaleSocket::Refuse).unwrap();
        std::fs::write(directory.join("token"), "praas1.00.00").unwrap();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..script.workers).map(|_| mpsc::channel()).unzip();
        let workers = (0..script.workers).zip(senders).map(|(index, lanes)| Worker {
            page: ServerWorkerPage::create().unwrap(),
            tag: WorkerTag::new(index, 1),
            lanes: Mutex::new(lanes),
        });
        let shared = Arc::new(Shared {
            workers: workers.collect(),
            script: Mutex::new(script),
            ended: AtomicBool::new(false),
            control: ControlPage::create(1, 1).unwrap(),
            lanes: Mutex::default(),
            connections: Mutex::default(),
            last_lane: AtomicU32::new(0),
            gate: Mutex::new(false),
            gate_opened: Condvar::new(),
            held: AtomicUsize::new(0),
            runs: AtomicUsize::new(0),
            lanes_closed: AtomicUsize::new(0),
            resumed: Mutex::default(),
            sent: Mutex::default(),
        });
        shared.control.set_phase(Phase::Active);
        shared.control.set_workers(u32::try_from(shared.workers.len()).unwrap());
        let mut threads = Vec::new();
        for (index, receiver) in receivers.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || shared.run_worker(index, &receiver)));
        }
        let accepting = Arc::clone(&shared);
        threads.push(thread::spawn(move || accepting.accept(&listener)));
        Self { shared, threads }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends every thread without answering anything: what `kill -9` does, as far as a client can see.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.disconnect();
        self.shared.gate_opened.notify_all();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !thread::panicking() {
                ended.expect("a thread of the scripted server panicked");
            }
        }
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    /// Changes what new connections and requests meet.
    pub(crate) fn rewrite(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub(crate) fn drain(&self) {
        self.control.set_phase(Phase::Draining);
        self.refuse_unclaimed();
    }

    pub(crate) fn close(&self) {
        self.control.set_phase(Phase::Closed);
        self.refuse_unclaimed();
    }

    pub(crate) fn activate(&self) {
        self.control.set_phase(Phase::Active);
        for worker in &self.workers {
            worker.page.notify();
        }
    }

    /// Lets every held call answer.
    pub(crate) fn open_gate(&self) {
        *self.gate.lock().unwrap() = true;
        self.gate_opened.notify_all();
    }

    pub(crate) fn disconnect(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = rustix::net::shutdown(connection.as_fd(), rustix::net::Shutdown::Both);
        }
    }

    pub(crate) fn lanes_opened(&self) -> u32 {
        self.last_lane.load(Ordering::SeqCst)
    }

    /// Lanes that were handed out and not closed by their clients.
    pub(crate) fn lanes_open(&self) -> usize {
        self.lanes.lock().unwrap().len()
    }

    fn wait_until_lanes_may_come(&self) {
        while self.script.lock().unwrap().lanes_come_late && !self.ended.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
    }

    fn refuse_unclaimed(&self) {
        let phase = Phase::from_word(self.control.phase_word()).unwrap();
        for lane in self.lanes.lock().unwrap().iter() {
            lane.refuse_unclaimed(|_| false, Outcome::Unavailable, phase as u32);
        }
    }

    // ---- connections ------------------------------------------------------------------------------------------------

    fn accept(self: &Arc<Self>, listener: &Listener) {
        let mut serving = Vec::new();
        while !self.ended.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok(Some(socket)) => {
                    let socket = Arc::new(socket);
                    self.connections.lock().unwrap().push(Arc::clone(&socket));
                    let shared = Arc::clone(self);
                    serving.push(thread::spawn(move || shared.serve(&socket)));
                }
                Ok(None) => thread::sleep(LOOK),
                Err(error) => panic!("accept: {error}"),
            }
        }
        self.disconnect();
        for thread in serving {
            thread.join().expect("a connection's thread panicked");
        }
    }

    fn serve(&self, socket: &MessageSocket) {
        let mut buffer = vec![0; 64 << 10];
        while !self.ended.load(Ordering::SeqCst) {
            match socket.recv_deadline(&mut buffer, 0, LOOK * 10) {
                Ok(Some(received)) => {
                    let message = codec::decode(&buffer[..received.bytes]).expect("clients send whole messages");
                    if !self.answer(socket, message) {
                        return;
                    }
                }
                Ok(None) => {}
                Err(SocketError::Closed) => return,
                Err(error) => panic!("receive: {error}"),
            }
        }
    }

    fn answer(&self, socket: &MessageSocket, message: ClientMessage) -> bool {
        let script = self.script.lock().unwrap().clone();
        match message {
            ClientMessage::Hello { version, .. } => match script.refuse_hello {
                _ if version != CONTROL_VERSION => panic!("the client speaks version {version}"),
                Some(error) => {
                    send(socket, &ServerMessage::Failed { request: 0, error }, &[]);
                    return false;
                }
                None => send(socket, &ServerMessage::Welcome { version: script.version, incarnation: 7 }, &[]),
            },
            ClientMessage::Request { request, body } => self.carry_out(socket, &script, request, &body),
            ClientMessage::Ring { .. } => {
                self.control.acknowledge_rings();
                if Phase::from_word(self.control.phase_word()) != Some(Phase::Active) {
                    self.refuse_unclaimed();
                }
            }
            ClientMessage::LaneClose { lane, .. } => {
                self.lanes.lock().unwrap().retain(|open| open.id() != lane);
                self.lanes_closed.fetch_add(1, Ordering::SeqCst);
            }
            ClientMessage::SessionLeave { session, lane } => {
                assert_eq!(session, SESSION.session);
                self.lanes.lock().unwrap().retain(|open| open.id() != lane);
                self.lanes_closed.fetch_add(1, Ordering::SeqCst);
            }
            // This server has no message lanes.
            ClientMessage::MessageLaneClose { .. } => {}
        }
        true
    }

    fn carry_out(&self, socket: &MessageSocket, script: &Script, request: u64, body: &ClientRequest) {
        match *body {
            ClientRequest::LaneOpen { process, .. } if script.known.contains(&process) => {
                self.wait_until_lanes_may_come();
                self.open_lane(socket, script, |lane, geometry| ServerMessage::LaneOpened {
                    request,
                    process,
                    lane,
                    geometry,
                    trusted: script.trusted,
                    payload_bytes_max: script.payload_bytes_max,
                    workers_max: u32::from(script.workers),
                    wait_mode: WaitMode::Park,
                });
            }
            ClientRequest::SessionOpen { resume, .. } => {
                self.resumed.lock().unwrap().push(resume);
                self.open_lane(socket, script, |lane, geometry| ServerMessage::SessionOpened {
                    request,
                    ticket: SESSION,
                    incarnation: 3,
                    resumed: resume.is_some(),
                    lane,
                    geometry,
                    payload_bytes_max: script.payload_bytes_max,
                });
            }
            ClientRequest::LaneOpen { process, .. } => {
                let error = ControlError::UnknownProcess { process };
                send(socket, &ServerMessage::Failed { request, error }, &[]);
            }
            ClientRequest::ApplicationList => {
                let applications = vec!["hello".parse().unwrap()];
                send(socket, &ServerMessage::Applications { request, applications }, &[]);
            }
            // Never answered: what a server that hangs looks like.
            ClientRequest::ProcessRestart { .. } => {}
            ClientRequest::ProcessOutput { from, follow, .. } => {
                if !follow || from == 0 {
                    let bytes = b"output".to_vec();
                    send(socket, &ServerMessage::Output { request, position: from, bytes, ended: false }, &[]);
                }
            }
            _ => send(socket, &ServerMessage::Done { request }, &[]),
        }
    }

    fn open_lane(
        &self,
        socket: &MessageSocket,
        script: &Script,
        opened: impl FnOnce(LaneId, LaneGeometry) -> ServerMessage,
    ) {
        let id = LaneId(self.last_lane.fetch_add(1, Ordering::SeqCst) + 1);
        let geometry = geometry_for(script.payload_bytes_max, script.calls_in_flight);
        let lane = Arc::new(ServerLane::create(id, geometry).unwrap());
        let doorbell = Doorbell::new().unwrap();
        for worker in &self.workers {
            let parts = WorkerLaneParts {
                lane: id,
                geometry,
                in_place: script.trusted,
                segment: lane.segment_fd().try_clone_to_owned().unwrap(),
                ledger: lane.ledger_fd().try_clone_to_owned().unwrap(),
                doorbell: doorbell.ring.try_clone().unwrap(),
                reply_doorbell: None,
            };
            let listen = doorbell.listen.try_clone().unwrap();
            let _ = worker.lanes.lock().unwrap().send((parts, listen));
            worker.page.notify();
        }
        let opened = opened(id, geometry);
        // Listed first: its client may close it at once.
        self.lanes.lock().unwrap().push(Arc::clone(&lane));
        send(socket, &opened, &[lane.segment_fd(), self.control.fd(), doorbell.ring.as_fd()]);
    }

    // ---- workers ----------------------------------------------------------------------------------------------------

    fn run_worker(&self, index: usize, lanes: &mpsc::Receiver<(WorkerLaneParts, OwnedFd)>) {
        let worker = &self.workers[index];
        let mut end = WorkerEnd::new(WorkerStart {
            page: worker.page.fd().try_clone_to_owned().unwrap(),
            control: self.control.fd().try_clone_to_owned().unwrap(),
            tag: worker.tag,
            wait_mode: WaitMode::Park,
            workers_max: u32::try_from(self.workers.len()).unwrap(),
            payload_bytes_max: self.script.lock().unwrap().payload_bytes_max,
        })
        .unwrap();
        let mut doorbells: Vec<OwnedFd> = Vec::new();
        let functions = functions();
        while !self.ended.load(Ordering::SeqCst) {
            let mut park = || {
                wait_for_any(&doorbells);
                // Makes `next` return, so that the thread can end and see lanes that were added.
                true
            };
            let closed = match end.next(&mut park) {
                Next::Call(call) => {
                    self.runs.fetch_add(1, Ordering::SeqCst);
                    let function = functions.get(&call.function()).copied();
                    self.run(call, function);
                    continue;
                }
                Next::Mail => false,
                Next::Closed => true,
            };
            while let Ok((parts, listen)) = lanes.try_recv() {
                end.add_lane(parts).unwrap();
                doorbells.push(listen);
            }
            if closed {
                thread::sleep(LOOK);
            }
        }
    }

    fn run(&self, call: RunningCall<'_>, function: Option<&str>) {
        let mut scratch = Scratch::new();
        let input = call.input(&mut scratch).to_vec();
        match function {
            Some("echo") => reply(call, Outcome::Ok, 0, &input),
            Some("sum") => {
                let sum: u64 = input.iter().map(|&byte| u64::from(byte)).sum();
                reply(call, Outcome::Ok, 0, &sum.to_le_bytes());
            }
            Some("hold") => {
                self.held.fetch_add(1, Ordering::SeqCst);
                let mut open = self.gate.lock().unwrap();
                while !*open && !self.ended.load(Ordering::SeqCst) {
                    open = self.gate_opened.wait_timeout(open, LOOK).unwrap().0;
                }
                drop(open);
                self.held.fetch_sub(1, Ordering::SeqCst);
                if self.ended.load(Ordering::SeqCst) {
                    // A killed worker answers nothing; the segment goes with the test.
                    std::mem::forget(call);
                } else {
                    reply(call, Outcome::Ok, 0, &input);
                }
            }
            Some("fail") => reply(call, Outcome::FunctionFailed, 42, b"no such document"),
            Some("crash") => drop(call),
            Some(SEND_FUNCTION) => {
                let (head, bytes) = SendHead::decode(&input).expect("a message");
                self.sent.lock().unwrap().push((head.sequence, bytes.to_vec()));
                reply(call, Outcome::Ok, 0, &[Accepted::Now as u8]);
            }
            Some(RECV_FUNCTION) => {
                let (id, source) = (MessageId { incarnation: 1, sequence: 17 }, "alice".parse().unwrap());
                let head = ReceivedHead { source, id, redelivered: false }.encode();
                reply(call, Outcome::Ok, 0, &[&head[..], b"words"].concat());
            }
            Some(ACCEPT_FUNCTION) => reply(call, Outcome::Ok, 0, &[]),
            Some("junk") => reply(call, Outcome::Ok, 0, &[0xff; 48]),
            Some("in place") => {
                let bytes = usize::try_from(u32::from_le_bytes(input[..4].try_into().unwrap())).unwrap();
                match call.output_in_place(bytes).unwrap() {
                    Some(output) => {
                        output.fill(5);
                        let _ = call.reply_in_place(bytes);
                    }
                    None => reply(call, Outcome::Ok, 0, &vec![5; bytes]),
                }
            }
            _ => reply(call, Outcome::UnknownFunction, 0, &[]),
        }
    }
}

fn functions() -> HashMap<FunctionId, &'static str> {
    let of_sessions = [SEND_FUNCTION, RECV_FUNCTION, ACCEPT_FUNCTION];
    let names = ["echo", "sum", "hold", "fail", "crash", "junk", "in place"].into_iter().chain(of_sessions);
    names.map(|name| (FunctionId::of(name), name)).collect()
}

fn reply(call: RunningCall<'_>, outcome: Outcome, detail: u32, payload: &[u8]) {
    call.reply(outcome, detail, 0, payload).expect("nobody condemns a scripted worker");
}

fn wait_for_any(doorbells: &[OwnedFd]) {
    let mut interest: Vec<_> = doorbells.iter().map(|bell| PollFd::new(bell, PollFlags::IN)).collect();
    let limit = Timespec::try_from(LOOK).unwrap();
    let _ = poll(&mut interest, Some(&limit));
    for bell in doorbells {
        praas_sys::doorbell::drain(bell.as_fd());
    }
}

fn send(socket: &MessageSocket, message: &ServerMessage, descriptors: &[std::os::fd::BorrowedFd<'_>]) {
    match socket.send_deadline(&codec::encode(message).unwrap(), descriptors, PATIENCE) {
        Ok(Sending::Sent) | Err(_) => {}
        Ok(Sending::Full) => panic!("a client reads nothing"),
    }
}

/// A server, a client of it and a process, in a directory of their own.
pub(crate) struct Installation {
    pub(crate) process: Process,
    pub(crate) client: Client,
    pub(crate) server: ScriptedServer,
    pub(crate) directory: tempfile::TempDir,
}

impl Installation {
    pub(crate) fn new(script: Script) -> Self {
        Self::with_options(script, |options| options)
    }

    pub(crate) fn with_options(script: Script, change: impl FnOnce(ConnectOptions) -> ConnectOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = ScriptedServer::start(directory.path(), script);
        let client = Client::connect(change(options(directory.path()))).unwrap();
        let process = client.process(alice()).unwrap();
        Self { process, client, server, directory }
    }

    pub(crate) fn shared(&self) -> &Shared {
        self.server.shared()
    }
}

pub(crate) fn options(directory: &Path) -> ConnectOptions {
    ConnectOptions::new().data_directory(directory).call_deadline(PATIENCE)
}
