//! A server that speaks the wire protocol over real sockets and does what a test says, good or bad.
//!
//! Every thread ends with the [`WireServer`].

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::scripted::{PATIENCE, alice};
use praas_client::{Client, ConnectOptions, ControlError, Phase, Process, ProcessId, Transport};
use praas_protocol::control::{FunctionStats, ProcessState, ProcessStats, ProcessStatus, SessionTicket};
use praas_protocol::message::SessionId;
use praas_protocol::wire::{
    ApplicationPage, CountsPage, Decoder, Done, Frame, Goaway, GoawayReason, HandedOver, Header, Item, Opened,
    OutputChunk, Pong, ProcessPage, RESPONSE_HEAD_BYTES, Refusal, Request, Response, Session, SessionOpened, Side,
    State, Verdict, Welcome, WindowLimits, encode_control_error,
};
use praas_protocol::{FunctionId, Outcome};

/// What the server does with one request.
pub(crate) enum Reaction {
    Answer(Outcome, u32, Vec<u8>),
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// These bytes, and the end of the stream.
    RawThenClose(Vec<u8>),
    /// An RST.
    Reset,
    /// Never answered.
    Silence,
    /// Answered with its payload when the gate opens.
    Hold,
    /// A farewell that names this id as the last one taken; the ids up to it that are held are answered, then it closes.
    Goaway(u64, GoawayReason),
}

pub(crate) type React = dyn Fn(&Shared, &Request, &[u8]) -> Reaction + Send + Sync;

/// What the server says of itself, and how it behaves.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) payload_bytes_max: u32,
    pub(crate) in_flight_max: u32,
    pub(crate) handle_in_flight_max: u32,
    pub(crate) window_bytes: u64,
    pub(crate) version: u16,
    pub(crate) host_id: [u8; 16],
    pub(crate) socket_path: String,
    pub(crate) incarnation: u64,
    pub(crate) refuse_hello: Option<ControlError>,
    pub(crate) refuse_open: Option<Refusal>,
    pub(crate) refuse_dedicate: Option<Refusal>,
    pub(crate) refuse_session: Option<ControlError>,
    /// The session that every client gets, and whether one that resumes it gets it as another one.
    pub(crate) session: SessionTicket,
    pub(crate) forgets_sessions: bool,
    /// Nothing is said after the hello.
    pub(crate) mute: bool,
    /// Bytes of each write; a pause follows each.
    pub(crate) drip_bytes: Option<usize>,
    /// The connection is reset after so many bytes were written.
    pub(crate) cut_after_bytes: Option<usize>,
    pub(crate) react: Arc<React>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            payload_bytes_max: 8 << 20,
            in_flight_max: 64,
            handle_in_flight_max: 64,
            window_bytes: 16 << 20,
            version: 1,
            host_id: [0; 16],
            socket_path: String::new(),
            incarnation: 7,
            refuse_hello: None,
            refuse_open: None,
            refuse_dedicate: None,
            refuse_session: None,
            session: SessionTicket { session: SessionId(42), secret: 7 },
            forgets_sessions: false,
            mute: false,
            drip_bytes: None,
            cut_after_bytes: None,
            react: Arc::new(react),
        }
    }
}

/// The functions of the one application.
pub(crate) fn react(shared: &Shared, request: &Request, payload: &[u8]) -> Reaction {
    let is = |name| request.function == FunctionId::of(name);
    let plain = |outcome, bytes: &[u8]| Reaction::Answer(outcome, 0, bytes.to_vec());
    shared.runs.fetch_add(1, Ordering::SeqCst);
    if is("echo") || is("in place") {
        plain(Outcome::Ok, payload)
    } else if is("no-op") {
        plain(Outcome::Ok, b"")
    } else if is("hold") {
        Reaction::Hold
    } else if is("nap") {
        // Nothing is read meanwhile.
        shared.napping.store(true, Ordering::SeqCst);
        while !shared.gate.load(Ordering::SeqCst) && !shared.ended.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        plain(Outcome::Ok, payload)
    } else if is("silent") {
        Reaction::Silence
    } else if is("fail") {
        Reaction::Answer(Outcome::FunctionFailed, 42, b"no such document".to_vec())
    } else if is("crash") {
        plain(Outcome::WorkerLost, b"")
    } else if is("refuse twice") && shared.refusals.fetch_add(1, Ordering::SeqCst) < 2 {
        Reaction::Answer(Outcome::Unavailable, Phase::Draining as u32, Vec::new())
    } else if is("refuse twice") {
        plain(Outcome::Ok, payload)
    } else if is("always refused") {
        Reaction::Answer(Outcome::Unavailable, Phase::Draining as u32, Vec::new())
    } else if is("closed once") && shared.refusals.fetch_add(1, Ordering::SeqCst) < 1 {
        Reaction::Answer(Outcome::Unavailable, Phase::Closed as u32, Vec::new())
    } else if is("closed once") {
        plain(Outcome::Ok, payload)
    } else if is("moved") {
        plain(Outcome::Moved, lock(&shared.moved_to).as_bytes())
    } else {
        plain(Outcome::UnknownFunction, b"")
    }
}

/// The server, which ends when it is dropped.
pub(crate) struct WireServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

/// What its threads share.
pub(crate) struct Shared {
    pub(crate) script: Mutex<Script>,
    pub(crate) runs: AtomicUsize,
    pub(crate) refusals: AtomicUsize,
    pub(crate) connections: AtomicUsize,
    pub(crate) opens: AtomicUsize,
    pub(crate) closes: AtomicUsize,
    pub(crate) cancels: AtomicUsize,
    /// What each opening of a session asked to resume.
    pub(crate) resumed: Mutex<Vec<Option<SessionTicket>>>,
    pub(crate) moved_to: Mutex<String>,
    pub(crate) broken_rules: Mutex<Vec<String>>,
    pub(crate) napping: AtomicBool,
    gate: AtomicBool,
    held: AtomicUsize,
    last_handle: AtomicU32,
    ended: AtomicBool,
    streams: Mutex<BTreeMap<usize, Arc<TcpStream>>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WireServer {
    pub(crate) fn start(script: Script) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script)
    }

    pub(crate) fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = bind_again(address);
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            runs: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            opens: AtomicUsize::new(0),
            closes: AtomicUsize::new(0),
            cancels: AtomicUsize::new(0),
            resumed: Mutex::default(),
            moved_to: Mutex::default(),
            broken_rules: Mutex::default(),
            napping: AtomicBool::new(false),
            gate: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            last_handle: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            streams: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let accepting = thread::spawn(move || accept(&listener, &own));
        Self { shared, address, accepting: Some(accepting) }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn socket_address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::new().address(self.address()).token("praas1.00.00").transport(Transport::Network)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.options()).unwrap()
    }

    pub(crate) fn process(&self) -> Process {
        self.client().process(alice()).unwrap()
    }
}

/// The port of a server that just ended may take a moment.
fn bind_again(address: SocketAddr) -> TcpListener {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{address}: {error}"),
        }
    }
}

impl Drop for WireServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.disconnect();
        self.accepting.take().unwrap().join().unwrap();
        if !thread::panicking() {
            assert_eq!(*lock(&self.shared.broken_rules), Vec::<String>::new(), "the client kept to the protocol");
        }
    }
}

impl Shared {
    pub(crate) fn rewrite(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.script));
    }

    pub(crate) fn open_gate(&self) {
        self.gate.store(true, Ordering::SeqCst);
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// Ends every connection.
    pub(crate) fn disconnect(&self) {
        for stream in lock(&self.streams).values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub(crate) fn open_connections(&self) -> usize {
        lock(&self.streams).len()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                let stream = Arc::new(stream);
                lock(&shared.streams).insert(number, Arc::clone(&stream));
                let own = Arc::clone(shared);
                threads.push(thread::spawn(move || {
                    let mut connection = Connection::new(&own, stream);
                    connection.serve();
                    // First, so that the connection has the only descriptor: a reset is sent when the last one is closed.
                    lock(&own.streams).remove(&number);
                }));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    shared.disconnect();
    for thread in threads {
        thread.join().unwrap();
    }
}

struct Connection<'s> {
    shared: &'s Shared,
    stream: Arc<TcpStream>,
    script: Script,
    unanswered: BTreeMap<u64, u32>,
    reset: bool,
    session: Session,
    decoder: Decoder,
    written: usize,
    over: bool,
    held: Vec<(u64, Vec<u8>)>,
    incoming: Option<(Request, Vec<u8>)>,
}

impl<'s> Connection<'s> {
    fn new(shared: &'s Shared, stream: Arc<TcpStream>) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let script = lock(&shared.script).clone();
        let (session, decoder) = (Session::new(Side::Server), Decoder::new(Side::Client, script.payload_bytes_max));
        Self {
            shared,
            stream,
            script,
            unanswered: BTreeMap::new(),
            reset: false,
            session,
            decoder,
            written: 0,
            over: false,
            held: Vec::new(),
            incoming: None,
        }
    }

    fn serve(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        while !self.over && !self.shared.ended.load(Ordering::SeqCst) {
            if self.shared.gate.load(Ordering::SeqCst) {
                for (id, payload) in std::mem::take(&mut self.held) {
                    self.shared.held.fetch_sub(1, Ordering::SeqCst);
                    self.answer(id, Outcome::Ok, 0, &payload);
                }
            }
            match (&*self.stream).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.take(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        self.shared.held.fetch_sub(self.held.len(), Ordering::SeqCst);
    }

    fn take(&mut self, mut input: &[u8]) {
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Side::Client, 0));
        while !input.is_empty() && !self.over {
            let step = match decoder.step(input) {
                Ok(step) => step,
                Err(error) => return self.broken(&error),
            };
            input = &input[step.consumed..];
            match step.item {
                None => break,
                Some(Item::Request { header, request, payload, missing_bytes }) => {
                    match self.session.show(Side::Client, &header) {
                        Ok(Verdict::Accept) => {}
                        Ok(Verdict::Ignore) => continue,
                        Err(error) => return self.broken(&error),
                    }
                    self.unanswered.insert(request.request_id, header.payload_bytes());
                    if missing_bytes == 0 {
                        self.run(&request, payload);
                    } else {
                        self.incoming = Some((request, payload.to_vec()));
                    }
                }
                Some(Item::Payload { bytes, missing_bytes }) => {
                    if let Some((_, payload)) = &mut self.incoming {
                        payload.extend_from_slice(bytes);
                    }
                    if missing_bytes == 0
                        && let Some((request, payload)) = self.incoming.take()
                    {
                        self.run(&request, &payload);
                    }
                }
                Some(Item::Control { header, frame }) => {
                    match self.session.show(Side::Client, &header) {
                        Ok(Verdict::Accept) => {}
                        Ok(Verdict::Ignore) => continue,
                        Err(error) => return self.broken(&error),
                    }
                    self.control(&frame);
                }
                Some(Item::Response { .. }) => unreachable!("a client sends no response"),
            }
        }
        self.decoder = decoder;
    }

    /// The client did what it must not; unless the test said that it may.
    fn broken(&mut self, error: &dyn std::fmt::Display) {
        lock(&self.shared.broken_rules).push(error.to_string());
        self.over = true;
    }

    fn run(&mut self, request: &Request, payload: &[u8]) {
        let react = Arc::clone(&self.script.react);
        match react(self.shared, request, payload) {
            Reaction::Answer(outcome, detail, bytes) => self.answer(request.request_id, outcome, detail, &bytes),
            Reaction::Raw(bytes) => self.write(&bytes),
            Reaction::RawThenClose(bytes) => {
                self.write(&bytes);
                self.over = true;
            }
            Reaction::Reset => self.reset(),
            Reaction::Silence => {}
            Reaction::Hold => {
                self.shared.held.fetch_add(1, Ordering::SeqCst);
                self.held.push((request.request_id, payload.to_vec()));
            }
            Reaction::Goaway(last_request_id, reason) => {
                let mut out = Vec::new();
                let last_request_id = last_request_id.min(self.session.last_request_id());
                Goaway { last_request_id, reason, may_reconnect: true, message: "as the test says" }.encode(&mut out);
                self.session.show_goaway(last_request_id).unwrap();
                self.write(&out);
                for (id, payload) in std::mem::take(&mut self.held) {
                    self.shared.held.fetch_sub(1, Ordering::SeqCst);
                    if id <= last_request_id {
                        self.answer(id, Outcome::Ok, 0, &payload);
                    }
                }
                self.over = true;
            }
        }
    }

    /// Closes so that the client gets an RST and not an end of the stream.
    fn reset(&mut self) {
        rustix::net::sockopt::set_socket_linger(&*self.stream, Some(Duration::ZERO)).unwrap();
        (self.reset, self.over) = (true, true);
    }

    fn answer(&mut self, request_id: u64, outcome: Outcome, detail: u32, payload: &[u8]) {
        let frame = response(request_id, outcome, detail, payload);
        if let Some(bytes) = self.unanswered.remove(&request_id) {
            self.session.answered(bytes).unwrap();
        }
        self.write(&frame);
    }

    fn write(&mut self, bytes: &[u8]) {
        let allowed = self.script.cut_after_bytes.map_or(usize::MAX, |limit| limit.saturating_sub(self.written));
        let cut = bytes.len() > allowed;
        let bytes = &bytes[..bytes.len().min(allowed)];
        let pieces = bytes.chunks(self.script.drip_bytes.unwrap_or(usize::MAX).max(1));
        for piece in pieces {
            if write_fully(&self.stream, piece, self.shared).is_err() {
                self.over = true;
                return;
            }
            self.written += piece.len();
            if self.script.drip_bytes.is_some() {
                thread::sleep(Duration::from_micros(200));
            }
        }
        self.over |= cut;
    }

    fn control(&mut self, frame: &Frame<'_>) {
        let mut out = Vec::new();
        let limits = WindowLimits { calls: self.script.in_flight_max, bytes: self.script.window_bytes };
        match frame {
            Frame::Hello(_) if self.script.mute => {}
            Frame::Hello(hello) => {
                assert_eq!(hello.token, "praas1.00.00");
                if let Some(error) = &self.script.refuse_hello {
                    encode_control_error(error, 0, &mut out);
                    self.over = true;
                } else {
                    self.welcome(&mut out);
                    self.session.set_limits(limits);
                }
            }
            Frame::Open(open) => {
                self.shared.opens.fetch_add(1, Ordering::SeqCst);
                match &self.script.refuse_open {
                    Some(refusal) => refusal.encode(open.request_id, &mut out),
                    None if open.process != alice() => {
                        let error = ControlError::UnknownProcess { process: open.process };
                        encode_control_error(&error, open.request_id, &mut out);
                    }
                    None => Opened {
                        request_id: open.request_id,
                        handle: self.shared.last_handle.fetch_add(1, Ordering::SeqCst) + 1,
                        payload_bytes_max: self.script.payload_bytes_max,
                        in_flight_max: self.script.handle_in_flight_max,
                        workers_max: 1,
                        phase: Phase::Active,
                    }
                    .encode(&mut out),
                }
            }
            Frame::Session(asked) => {
                lock(&self.shared.resumed).push(asked.resume);
                match &self.script.refuse_session {
                    Some(error) => encode_control_error(error, asked.request_id, &mut out),
                    None => SessionOpened {
                        request_id: asked.request_id,
                        handle: self.shared.last_handle.fetch_add(1, Ordering::SeqCst) + 1,
                        payload_bytes_max: self.script.payload_bytes_max,
                        in_flight_max: self.script.handle_in_flight_max,
                        incarnation: 3,
                        ticket: self.script.session,
                        resumed: asked.resume.is_some() && !self.script.forgets_sessions,
                    }
                    .encode(&mut out),
                }
            }
            Frame::Dedicate(dedicate) => match &self.script.refuse_dedicate {
                Some(refusal) => refusal.encode(dedicate.request_id, &mut out),
                None => {
                    HandedOver {
                        request_id: dedicate.request_id,
                        payload_bytes_max: self.script.payload_bytes_max,
                        in_flight_max: self.script.in_flight_max,
                        window_bytes: self.script.window_bytes,
                        phase: Phase::Active,
                    }
                    .encode(&mut out);
                    self.session = Session::dedicated(dedicate.request_id, limits);
                }
            },
            Frame::Cancel(_) => {
                self.shared.cancels.fetch_add(1, Ordering::SeqCst);
            }
            Frame::Close(_) => {
                self.shared.closes.fetch_add(1, Ordering::SeqCst);
            }
            Frame::Ping(ping) => {
                Pong { opaque: ping.opaque, received_ns: 1000, sent_ns: 1500 }.encode(&mut out);
            }
            Frame::Order(order) if order.process == alice() => Done { request_id: order.request_id }.encode(&mut out),
            Frame::Order(order) => {
                let error = ControlError::UnknownProcess { process: order.process };
                encode_control_error(&error, order.request_id, &mut out);
            }
            Frame::List(list) => {
                let mut page = ProcessPage::begin(list.request_id, &mut out);
                let first = list.after.is_none();
                let process = if first { alice() } else { "hello/bob".parse().unwrap() };
                assert!(page.push(&status(process)));
                page.end(first);
            }
            Frame::ListApplications(list) => {
                let mut page = ApplicationPage::begin(list.request_id, &mut out);
                let name = if list.after.is_none() { "hello" } else { "search" };
                assert!(page.push(&name.parse().unwrap()));
                page.end(list.after.is_none());
            }
            Frame::Stats(asked) => {
                let stats = ProcessStats { queued: 5, ..ProcessStats::default() };
                let mut page = CountsPage::begin(asked.request_id, &stats, &mut out);
                let first = asked.after.is_empty();
                assert!(page.push(&if first { counted("echo", 3) } else { counted("search", 4) }));
                page.end(first);
            }
            Frame::Output(output) => {
                let (request_id, position) = (output.request_id, output.from);
                OutputChunk { request_id, position, bytes: b"output", ended: position > 0 }.encode(&mut out);
            }
            other => panic!("{other:?}"),
        }
        if let Some(header) = out.first_chunk()
            && !matches!(self.session.state(), State::Dedicated)
        {
            let _ = self.session.show(Side::Server, &Header::parse(header).unwrap()).unwrap();
        }
        self.write(&out);
    }

    fn welcome(&self, out: &mut Vec<u8>) {
        let welcome = Welcome {
            version: self.script.version,
            features: 0,
            connection_id: 9,
            incarnation: self.script.incarnation,
            host_id: self.script.host_id,
            payload_bytes_max: self.script.payload_bytes_max,
            in_flight_max: self.script.in_flight_max,
            handles_max: 16,
            window_bytes: self.script.window_bytes,
            reply_window_bytes: 1 << 20,
            socket_path: &self.script.socket_path,
        };
        welcome.encode(out).unwrap();
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        if !self.reset {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn write_fully(mut stream: &TcpStream, mut bytes: &[u8], shared: &Shared) -> std::io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if shared.ended.load(Ordering::SeqCst) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn status(process: ProcessId) -> ProcessStatus {
    ProcessStatus {
        process,
        state: ProcessState::Active,
        workers: 1,
        worker_pids: vec![4001],
        lanes: 1,
        worker_restarts: 0,
        last_exit: None,
        calls_reported: 5,
        stored_bytes: 0,
        last_swap_unix_ms: None,
    }
}

fn counted(function: &str, calls: u64) -> FunctionStats {
    let function = function.parse().unwrap();
    FunctionStats { function, calls, failed: 0, timed: 0, mean_ns: 0, p50_ns: 0, p99_ns: 0, p999_ns: 0, max_ns: 0 }
}

/// A RESPONSE frame.
pub(crate) fn response(request_id: u64, outcome: Outcome, detail: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(RESPONSE_HEAD_BYTES + payload.len());
    Response { request_id, outcome_code: outcome as u32, detail, more: 0 }.encode(payload, &mut frame);
    frame
}
