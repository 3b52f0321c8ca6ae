//! Connections that speak the network protocol over bare sockets, and a load over many of them: what a thread like that of
//! `redis-benchmark` does to a server, with none of the client library's own work in it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use praas_client::ProcessId;
use praas_protocol::wire::{Dedicate, Frame, HEADER_BYTES, Header, Hello, Kind, Open, Request, Response, WIRE_VERSION};
use praas_protocol::{FunctionId, Outcome};

use super::functions::NOOP;
use super::lane::{check_noop, noop_payload};
use super::{NOOP_BYTES, Route, SubjectError};
use crate::floors::{Crowd, Exchange, FRAME_BYTES, Load, Taken, connect};

/// How long a server may take to answer a greeting.
const GREETING_PATIENCE: Duration = Duration::from_secs(20);
/// What a call may take: the client library's default.
const CALL_DEADLINE_NS: u64 = 30_000_000_000;
/// The id of the only question that a connection asks.
const QUESTION: u64 = 1;

// The floors' frames are as long as a call.
const _: () = assert!(praas_protocol::limits::WIRE_REQUEST_HEAD_BYTES + NOOP_BYTES == FRAME_BYTES);

/// A connection that has been welcomed and can call a process.
#[derive(Debug)]
pub struct WireConnection {
    stream: TcpStream,
    /// Names the process in calls; 0 on a dedicated connection.
    handle: u32,
}

impl WireConnection {
    /// Connects, says hello and asks for `process`.
    ///
    /// # Errors
    /// [`SubjectError::Wire`] if the server answers something else than it must.
    pub fn open(address: SocketAddr, token: &str, process: ProcessId, route: Route) -> Result<Self, SubjectError> {
        let mut stream = connect(address)?;
        let limit = Some(GREETING_PATIENCE);
        stream.set_read_timeout(limit).map_err(SubjectError::system("limit a wait"))?;
        let hello =
            Hello { version_min: WIRE_VERSION, version_max: WIRE_VERSION, features: 0, reply_window_bytes: 0, token };
        let mut out = Vec::new();
        hello.encode(&mut out).map_err(|error| wire(error.to_string()))?;
        match exchange(&mut stream, &out)? {
            (header, body) if header.kind == Some(Kind::Welcome) => drop(body),
            (header, body) => return Err(unexpected(&header, &body)),
        }
        out.clear();
        let (payload_bytes_max, in_flight_max) = (0, 0);
        match route {
            Route::Brokered => {
                Open { request_id: QUESTION, process, payload_bytes_max, in_flight_max }.encode(&mut out);
            }
            Route::Dedicated => {
                Dedicate { request_id: QUESTION, process, payload_bytes_max, in_flight_max }.encode(&mut out);
            }
        }
        let (header, body) = exchange(&mut stream, &out)?;
        let handle = match Frame::parse(&header, &body) {
            Ok(Frame::Opened(opened)) if route == Route::Brokered => opened.handle,
            Ok(Frame::HandedOver(_)) if route == Route::Dedicated => 0,
            _ => return Err(unexpected(&header, &body)),
        };
        Ok(Self { stream, handle })
    }
}

/// Sends `bytes` and receives one frame.
fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<(Header, Vec<u8>), SubjectError> {
    stream.write_all(bytes).map_err(SubjectError::system("greet a server"))?;
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).map_err(SubjectError::system("hear a server's greeting"))?;
    let header = Header::parse(&header).map_err(|error| wire(error.to_string()))?;
    let mut body = Vec::new();
    let body_bytes = u64::from(header.body_bytes);
    stream.take(body_bytes).read_to_end(&mut body).map_err(SubjectError::system("hear a server's greeting"))?;
    Ok((header, body))
}

/// A load of no-op calls on these connections.
///
/// # Errors
/// [`SubjectError::Placement`] if the kernel does not watch them.
pub fn wire_load(connections: Vec<WireConnection>, in_flight: u32) -> Result<Load<WireCalls>, SubjectError> {
    let (streams, calls) = connections
        .into_iter()
        .map(|connection| (connection.stream, Numbering { handle: connection.handle, asked: QUESTION }))
        .unzip();
    Ok(Load::new(WireCalls { connections: calls, function: FunctionId::of(NOOP.name()) }, streams, in_flight)?)
}

/// As many connections as `crowd` has.
///
/// # Errors
/// As [`WireConnection::open`].
pub fn wire_crowd(
    crowd: Crowd,
    address: SocketAddr,
    token: &str,
    process: ProcessId,
    route: Route,
) -> Result<Vec<WireConnection>, SubjectError> {
    (0..crowd.connections).map(|_| WireConnection::open(address, token, process, route)).collect()
}

#[derive(Debug)]
struct Numbering {
    handle: u32,
    /// Id of the last call.
    asked: u64,
}

/// Calls of the no-op as frames.
#[derive(Debug)]
pub struct WireCalls {
    connections: Vec<Numbering>,
    function: FunctionId,
}

impl Exchange for WireCalls {
    type Error = SubjectError;

    #[inline]
    fn ask(&mut self, connection: usize, calls: u32, out: &mut Vec<u8>) {
        let numbering = &mut self.connections[connection];
        for _ in 0..calls {
            numbering.asked += 1;
            let request = Request::new(numbering.asked, numbering.handle, self.function, CALL_DEADLINE_NS);
            request.encode(&noop_payload(numbering.asked), out);
        }
    }

    #[inline]
    fn take(&mut self, connection: usize, bytes: &[u8]) -> Result<Taken, SubjectError> {
        let numbering = &self.connections[connection];
        let mut taken = Taken::default();
        while let Some((answer, frame_bytes)) = next_answer(&bytes[taken.bytes..])? {
            // A process of several workers may answer in another order, so the id is checked against those asked.
            if answer.request_id <= QUESTION || answer.request_id > numbering.asked {
                return Err(wire(format!("an answer to call {}, which was never made", answer.request_id)));
            }
            check_noop(answer.request_id, answer.payload)?;
            taken.answers += 1;
            taken.bytes += frame_bytes;
        }
        Ok(taken)
    }
}

struct Answer<'a> {
    request_id: u64,
    payload: &'a [u8],
}

/// The answer at the front of `bytes` and the length of its frame, if all of it is there.
#[inline]
fn next_answer(bytes: &[u8]) -> Result<Option<(Answer<'_>, usize)>, SubjectError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::parse(header).map_err(|error| wire(error.to_string()))?;
    let Some(body) = rest.get(..header.body_bytes as usize) else { return Ok(None) };
    if header.kind != Some(Kind::Response) {
        return Err(unexpected(&header, body));
    }
    let (response, payload) = Response::parse(&header, body).map_err(|error| wire(error.to_string()))?;
    if response.outcome() != Some(Outcome::Ok) {
        return Err(wire(format!("the outcome {:?} ({})", response.outcome(), response.outcome_code)));
    }
    Ok(Some((Answer { request_id: response.request_id, payload }, HEADER_BYTES + body.len())))
}

#[cold]
fn unexpected(header: &Header, body: &[u8]) -> SubjectError {
    match Frame::parse(header, body) {
        Ok(frame) => wire(format!("{frame:?}")),
        Err(error) => wire(error.to_string()),
    }
}

#[cold]
fn wire(answer: String) -> SubjectError {
    SubjectError::Wire { answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> WireCalls {
        let numbering = Numbering { handle: 7, asked: QUESTION };
        WireCalls { connections: vec![numbering], function: FunctionId::of(NOOP.name()) }
    }

    fn answers_to(calls: u32, outcome: Outcome) -> Vec<u8> {
        let mut bytes = Vec::new();
        for request_id in (QUESTION + 1)..=(QUESTION + u64::from(calls)) {
            let response = Response { request_id, outcome_code: outcome as u32, detail: 0, more: 0 };
            response.encode(&noop_payload(request_id), &mut bytes);
        }
        bytes
    }

    #[test]
    fn calls_are_frames_of_the_floors_length() {
        let mut out = Vec::new();
        calls().ask(0, 3, &mut out);
        assert_eq!(out.len(), 3 * FRAME_BYTES);
        let header = Header::parse(out.first_chunk().expect("a header")).expect("a frame");
        assert_eq!((header.kind, header.request_id), (Some(Kind::Request), QUESTION + 1));
    }

    #[test]
    fn answers_are_counted_whole_wherever_the_bytes_are_cut() {
        let bytes = answers_to(3, Outcome::Ok);
        let one = bytes.len() / 3;
        for cut in 0..=bytes.len() {
            let mut calls = calls();
            calls.ask(0, 3, &mut Vec::new());
            let taken = calls.take(0, &bytes[..cut]).expect("they are right");
            assert_eq!((taken.answers as usize, taken.bytes), (cut / one, cut / one * one), "cut at {cut}");
        }
    }

    #[test]
    fn an_answer_nobody_asked_for_and_a_failed_one_are_told() {
        let error = calls().take(0, &answers_to(1, Outcome::Ok)).expect_err("nothing was asked");
        assert!(error.to_string().contains("never made"), "{error}");
        let mut failing = calls();
        failing.ask(0, 1, &mut Vec::new());
        let error = failing.take(0, &answers_to(1, Outcome::Overloaded)).expect_err("it failed");
        assert!(error.to_string().contains("Overloaded"), "{error}");
    }
}
