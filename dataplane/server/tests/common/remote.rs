//! A remote client of the tests: frames on a TCP connection, by hand.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use praas_client::ProcessId;
use praas_protocol::wire::{
    Dedicate, Frame, Goaway, GoawayReason, HEADER_BYTES, Header, Hello, Kind, Open, Opened, Request, Response,
    WIRE_VERSION,
};
use praas_protocol::{FunctionId, Outcome};

use crate::common::PATIENCE;
use crate::common::network::{address, token};
use crate::common::stage::Stage;

/// A frame that came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) header: Header,
    body: Vec<u8>,
}

impl Came {
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame::parse(&self.header, &self.body).expect("the server sends whole frames")
    }

    pub(crate) fn kind(&self) -> Kind {
        self.header.kind.expect("a kind of this version")
    }

    /// The code of a refusal.
    pub(crate) fn refused_code(&self) -> u16 {
        match self.frame() {
            Frame::Refused(refused) => refused.code,
            other => panic!("{other:?}"),
        }
    }
}

/// The limits of a welcome.
#[derive(Debug, Clone)]
pub(crate) struct Welcomed {
    pub(crate) payload_bytes_max: u32,
    pub(crate) in_flight_max: u32,
    pub(crate) handles_max: u32,
    pub(crate) window_bytes: u64,
    pub(crate) socket_path: String,
    pub(crate) host_id: [u8; 16],
}

/// A connection.
pub(crate) struct Remote {
    pub(crate) stream: TcpStream,
    pub(crate) last_id: u64,
    early: HashMap<u64, Came>,
}

impl Remote {
    /// A connection on which nothing was said.
    pub(crate) fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, last_id: 0, early: HashMap::new() }
    }

    /// A connection that was welcomed, with the local token of `stage`'s server.
    pub(crate) fn connect(stage: &Stage) -> Self {
        Self::greeted(stage).0
    }

    pub(crate) fn greeted(stage: &Stage) -> (Self, Welcomed) {
        Self::with_token(address(stage), &token(stage))
    }

    pub(crate) fn with_token(address: SocketAddr, token: &str) -> (Self, Welcomed) {
        let mut remote = Self::silent(address);
        remote.send(|out| hello(token.trim()).encode(out).unwrap());
        let came = remote.next().expect("a welcome");
        let welcomed = match came.frame() {
            Frame::Welcome(welcome) => Welcomed {
                payload_bytes_max: welcome.payload_bytes_max,
                in_flight_max: welcome.in_flight_max,
                handles_max: welcome.handles_max,
                window_bytes: welcome.window_bytes,
                socket_path: welcome.socket_path.to_owned(),
                host_id: welcome.host_id,
            },
            other => panic!("{other:?}"),
        };
        (remote, welcomed)
    }

    pub(crate) fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        self.stream.write_all(&out).expect("the server reads");
    }

    /// As much as the server takes; false if it takes no more.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end of the stream, however it ends.
    pub(crate) fn next(&mut self) -> Option<Came> {
        let mut head = [0; HEADER_BYTES];
        self.read_exactly(&mut head)?;
        let header = Header::parse(&head).expect("the server sends headers that can be read");
        let mut body = vec![0; header.body_bytes as usize];
        self.read_exactly(&mut body)?;
        Some(Came { header, body })
    }

    fn read_exactly(&mut self, buffer: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(buffer) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("nothing came in {PATIENCE:?}"),
            Err(_) => None,
        }
    }

    /// The next id.
    pub(crate) fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// The frame that answers `id`; others are kept.
    pub(crate) fn answer_to(&mut self, id: u64) -> Came {
        loop {
            if let Some(came) = self.early.remove(&id) {
                return came;
            }
            let came = self.next().expect("an answer before the end of the stream");
            assert!(came.kind() != Kind::Goaway, "{:?}", came.frame());
            self.early.insert(came.header.request_id, came);
        }
    }

    pub(crate) fn ask_to_open(&mut self, process: ProcessId) -> u64 {
        let request_id = self.id();
        self.send(|out| Open { request_id, process, payload_bytes_max: 0, in_flight_max: 0 }.encode(out));
        request_id
    }

    pub(crate) fn try_open(&mut self, process: ProcessId) -> Result<Opened, Came> {
        let id = self.ask_to_open(process);
        let came = self.answer_to(id);
        match came.frame() {
            Frame::Opened(opened) => Ok(opened),
            _ => Err(came),
        }
    }

    /// A handle of a process.
    pub(crate) fn open(&mut self, process: ProcessId) -> u32 {
        self.try_open(process).expect("the process takes calls").handle
    }

    /// Sends a call; its id.
    pub(crate) fn start(&mut self, handle: u32, function: &str, payload: &[u8]) -> u64 {
        let request_id = self.id();
        self.send(|out| Request::new(request_id, handle, FunctionId::of(function), 0).encode(payload, out));
        request_id
    }

    /// The end of a call.
    pub(crate) fn end_of(&mut self, id: u64) -> (Response, Vec<u8>) {
        let came = self.answer_to(id);
        match came.frame() {
            Frame::Response(response, payload) => (response, payload.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn call(&mut self, handle: u32, function: &str, payload: &[u8]) -> (Outcome, Vec<u8>) {
        let id = self.start(handle, function, payload);
        let (response, payload) = self.end_of(id);
        (response.outcome().expect("an outcome of this version"), payload)
    }

    /// Asks for a worker of its own.
    pub(crate) fn dedicate(&mut self, process: ProcessId) -> Came {
        let request_id = self.id();
        self.send(|out| Dedicate { request_id, process, payload_bytes_max: 0, in_flight_max: 0 }.encode(out));
        self.answer_to(request_id)
    }

    /// Reads on until the server says farewell: why, and the last id that it took.
    pub(crate) fn farewell(&mut self) -> (GoawayReason, u64) {
        loop {
            let came = self.next().expect("a farewell before the end of the stream");
            if let Frame::Goaway(Goaway { reason, last_request_id, .. }) = came.frame() {
                return (reason, last_request_id);
            }
            self.early.insert(came.header.request_id, came);
        }
    }

    /// Reads and forgets until the server has closed.
    pub(crate) fn await_end(&mut self) {
        while self.next().is_some() {}
    }
}

pub(crate) fn hello(token: &str) -> Hello<'_> {
    Hello { version_min: WIRE_VERSION, version_max: WIRE_VERSION, features: 0, reply_window_bytes: 0, token }
}
