//! A server that another one is told to call, played by the test: it greets, tells of a process `ghost`, and then does the harm
//! that the test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use praas_protocol::control::{DirectoryEntry, ProcessState};
use praas_protocol::message::{AWAIT_ROOM_FUNCTION, Accepted, PutHead};
use praas_protocol::wire::{
    ChangesPage, Decoder, Frame, Goaway, GoawayReason, Item, Opened, Pong, Request, Response, Side, WIRE_VERSION,
    Welcome,
};
use praas_protocol::{FunctionId, Outcome, Phase};

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It answers with what it was sent.
    None,
    /// It says nothing at all.
    Silent,
    /// Bytes that are no frames, for a hello.
    Junk,
    /// A welcome for payloads that could never be sent.
    ImpossibleWelcome,
    /// Two welcomes.
    WelcomesTwice,
    /// It speaks of processes in states that there are not.
    ImpossibleState,
    /// It tells what was not asked.
    TellsUnasked,
    /// A handle that must not be.
    HandleZero,
    /// Handles that were not asked for.
    OpensTwice,
    /// Answers to calls that were never made.
    AnswersOther,
    /// One call answered twice.
    AnswersTwice,
    /// An answer that is longer than any may be.
    AnswersTooMuch,
    /// An answer that is cut in its middle.
    AnswersHalf,
    /// An outcome of another version.
    UnknownOutcome,
    /// A call of its own, where it only answers.
    Calls,
    /// It goes away without the answers that it owes.
    GoesAway,
    /// It says farewell with an id that was never given.
    LeavesFalsely,
    /// It takes a while to refuse one large message, and accepts everything else.
    RefusesLargeOnce,
}

#[derive(Debug)]
struct Shared {
    harm: Mutex<Harm>,
    greeted: AtomicU64,
    /// Connections that began before the last cut end.
    cuts: AtomicU64,
    over: AtomicBool,
    has_refused: AtomicBool,
    /// The numbers of the messages that it has accepted.
    accepted: Mutex<Vec<u64>>,
}

/// The server.
#[derive(Debug)]
pub(crate) struct FakeServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeServer {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (greeted, cuts, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let (has_refused, accepted) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { harm: Mutex::new(Harm::None), greeted, cuts, over, has_refused, accepted });
        let acceptor = Some(std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut threads = Vec::new();
                while !shared.over.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            let shared = Arc::clone(&shared);
                            threads.push(std::thread::spawn(move || drop(Conversation::new(&shared, stream).hold())));
                        }
                        Err(_) => std::thread::sleep(Duration::from_millis(1)),
                    }
                }
                threads.into_iter().for_each(|thread| thread.join().unwrap());
            }
        }));
        Self { address, shared, acceptor }
    }

    /// From the next frame on.
    pub(crate) fn do_harm(&self, harm: Harm) {
        *self.shared.harm.lock().unwrap() = harm;
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        self.shared.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// The numbers of the messages that it has accepted, in that order.
    pub(crate) fn accepted(&self) -> Vec<u64> {
        self.shared.accepted.lock().unwrap().clone()
    }

    /// Connections that said hello.
    pub(crate) fn greeted(&self) -> u64 {
        self.shared.greeted.load(Ordering::SeqCst)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// One connection.
struct Conversation<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    /// Cuts when it began.
    cuts: u64,
    out: Vec<u8>,
}

/// What came, without the bytes in which it came.
enum Came {
    Hello,
    Watch(u64, u64),
    Ping(u64),
    Open(u64),
    Request(Request, Vec<u8>, usize),
    More(Vec<u8>),
    Other,
}

impl<'a> Conversation<'a> {
    fn new(shared: &'a Shared, stream: TcpStream) -> Self {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let cuts = shared.cuts.load(Ordering::SeqCst);
        Self { shared, stream, cuts, out: Vec::new() }
    }

    /// Until either side ends it.
    fn hold(mut self) -> std::io::Result<()> {
        let mut decoder = Decoder::new(Side::Client, 64 << 20);
        let mut buffer = vec![0; 64 << 10];
        let mut call: Option<(Request, Vec<u8>)> = None;
        loop {
            let bytes = match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(_) if self.is_over() => return Ok(()),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut rest = &buffer[..bytes];
            loop {
                let step = decoder.step(rest).expect("the server that calls keeps to the protocol");
                let came = match step.item {
                    None => break,
                    Some(Item::Request { request, payload, missing_bytes, .. }) => {
                        Came::Request(request, payload.to_vec(), missing_bytes as usize)
                    }
                    Some(Item::Payload { bytes, .. }) => Came::More(bytes.to_vec()),
                    Some(Item::Control { frame, .. }) => match frame {
                        Frame::Hello(_) => Came::Hello,
                        Frame::Watch(watch) => Came::Watch(watch.request_id, watch.after),
                        Frame::Ping(ping) => Came::Ping(ping.opaque),
                        Frame::OpenAs(open) => Came::Open(open.request_id),
                        _ => Came::Other,
                    },
                    Some(Item::Response { .. }) => Came::Other,
                };
                rest = &rest[step.consumed..];
                match came {
                    Came::Request(request, payload, 0) => self.answer(&request, &payload),
                    Came::Request(request, payload, _) => call = Some((request, payload)),
                    Came::More(bytes) => {
                        if let Some((request, mut payload)) = call.take() {
                            payload.extend_from_slice(&bytes);
                            if decoder.missing_payload_bytes() == 0 {
                                self.answer(&request, &payload);
                            } else {
                                call = Some((request, payload));
                            }
                        }
                    }
                    other => self.reply(&other),
                }
            }
            let out = std::mem::take(&mut self.out);
            self.stream.write_all(&out)?;
            if matches!(self.harm(), Harm::GoesAway | Harm::AnswersHalf) && !out.is_empty() && self.owes_nothing(&out) {
                return Ok(());
            }
        }
    }

    fn is_over(&self) -> bool {
        self.shared.over.load(Ordering::SeqCst) || self.shared.cuts.load(Ordering::SeqCst) != self.cuts
    }

    fn harm(&self) -> Harm {
        *self.shared.harm.lock().unwrap()
    }

    /// Whether these bytes were the harm itself and not a greeting.
    fn owes_nothing(&self, out: &[u8]) -> bool {
        matches!(out.get(4), Some(0x04 | 0x21))
    }

    fn reply(&mut self, came: &Came) {
        let harm = self.harm();
        match came {
            Came::Hello => {
                self.shared.greeted.fetch_add(1, Ordering::SeqCst);
                match harm {
                    Harm::Silent => {}
                    Harm::Junk => self.out.extend_from_slice(&[0xff; 100]),
                    _ => {
                        self.welcome(if harm == Harm::ImpossibleWelcome { 0 } else { 16 });
                        if harm == Harm::WelcomesTwice {
                            self.welcome(16);
                        }
                    }
                }
            }
            Came::Watch(id, 0) => {
                self.tell(*id);
                if harm == Harm::ImpossibleState {
                    // The state of the entry, behind header, count and number.
                    self.out[26] = 99;
                }
                if harm == Harm::TellsUnasked {
                    self.tell(*id);
                }
            }
            Came::Ping(opaque) => Pong { opaque: *opaque, received_ns: 0, sent_ns: 0 }.encode(&mut self.out),
            Came::Open(id) => {
                self.open(*id, 1);
                match harm {
                    Harm::HandleZero => {
                        let at = self.out.len() - 20;
                        self.out[at..at + 4].fill(0);
                    }
                    Harm::OpensTwice => self.open(*id, 2),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, request: &Request, payload: &[u8]) {
        let id = request.request_id;
        let response = Response { request_id: id, outcome_code: Outcome::Ok as u32, detail: 0, more: 0 };
        match self.harm() {
            Harm::AnswersOther => Response { request_id: id + 1000, ..response }.encode(payload, &mut self.out),
            Harm::AnswersTwice => {
                response.encode(payload, &mut self.out);
                response.encode(payload, &mut self.out);
            }
            Harm::AnswersTooMuch => self.out.extend_from_slice(&response.encode_head(i32::MAX.cast_unsigned())),
            Harm::AnswersHalf => {
                self.out.extend_from_slice(&response.encode_head(1_000_000));
                self.out.extend_from_slice(&[7; 500_000]);
            }
            Harm::UnknownOutcome => Response { outcome_code: 999, ..response }.encode(payload, &mut self.out),
            Harm::Calls => Request::new(1, 1, FunctionId::of("echo"), 0).encode(b"", &mut self.out),
            Harm::GoesAway => self.leave(id),
            Harm::LeavesFalsely => self.leave(id + 1000),
            Harm::RefusesLargeOnce => self.accept_all_but_one(request, payload),
            _ => response.encode(payload, &mut self.out),
        }
    }

    fn accept_all_but_one(&mut self, request: &Request, payload: &[u8]) {
        let response =
            Response { request_id: request.request_id, outcome_code: Outcome::Ok as u32, detail: 0, more: 0 };
        if payload.len() > 100_000 && !self.shared.has_refused.swap(true, Ordering::SeqCst) {
            // Time for its sender to send another one behind it.
            std::thread::sleep(Duration::from_millis(500));
            return Response { outcome_code: Outcome::Overloaded as u32, ..response }.encode(b"", &mut self.out);
        }
        if request.function != FunctionId::of(AWAIT_ROOM_FUNCTION) {
            let (head, _) = PutHead::decode(payload).expect("a message");
            self.shared.accepted.lock().unwrap().push(head.id.sequence);
        }
        response.encode(&[Accepted::Now as u8], &mut self.out);
    }

    fn leave(&mut self, last_request_id: u64) {
        let reason = GoawayReason::ShuttingDown;
        Goaway { last_request_id, reason, may_reconnect: true, message: "bye" }.encode(&mut self.out);
    }

    fn welcome(&mut self, in_flight_max: u32) {
        let welcome = Welcome {
            version: WIRE_VERSION,
            features: 0,
            connection_id: 1,
            incarnation: 7,
            host_id: [0; 16],
            payload_bytes_max: 1 << 20,
            in_flight_max,
            handles_max: 16,
            window_bytes: 4 << 20,
            reply_window_bytes: 1 << 20,
            socket_path: "",
        };
        welcome.encode(&mut self.out).unwrap();
    }

    fn open(&mut self, request_id: u64, handle: u32) {
        let limits = (1 << 20, 16);
        let (payload_bytes_max, in_flight_max) = limits;
        let opened =
            Opened { request_id, handle, payload_bytes_max, in_flight_max, workers_max: 1, phase: Phase::Active };
        opened.encode(&mut self.out);
    }

    fn tell(&mut self, request_id: u64) {
        let mut page = ChangesPage::begin(request_id, 1, true, &mut self.out);
        let ghost = DirectoryEntry {
            application: "hello".parse().unwrap(),
            address: "ghost".parse().unwrap(),
            state: Some(ProcessState::Active),
        };
        assert!(page.push(&ghost));
        page.end(false);
    }
}
