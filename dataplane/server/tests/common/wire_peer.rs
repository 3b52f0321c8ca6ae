//! The client's end of a TCP connection of the network protocol, by hand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use praas_protocol::wire::{Decoder, Frame, GoawayReason, HandedOver, Item, Pong, Request, Side};
use praas_protocol::{FunctionId, Outcome};

use crate::common::PATIENCE;

/// Something that the other side said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    HandedOver(HandedOver),
    Answer { id: u64, outcome: Outcome, detail: u32, payload: Vec<u8> },
    Pong(Pong),
    Goaway { last_request_id: u64, reason: GoawayReason },
    End,
}

/// A connection.
pub(crate) struct WirePeer {
    pub(crate) stream: TcpStream,
    decoder: Decoder,
    bytes: Vec<u8>,
    at: usize,
}

/// Both ends of a connection over loopback.
pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nodelay(true).unwrap();
    (near, far)
}

impl WirePeer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, decoder: Decoder::new(Side::Server, 64 << 20), bytes: Vec::new(), at: 0 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn call(&mut self, id: u64, function: &str, payload: &[u8]) {
        self.send(&request(id, function, payload));
    }

    /// Calls, and takes the answer, which must be the next thing that comes.
    pub(crate) fn answered(&mut self, id: u64, function: &str, payload: &[u8]) -> (Outcome, u32, Vec<u8>) {
        self.call(id, function, payload);
        match self.next() {
            Said::Answer { id: answered, outcome, detail, payload } if answered == id => (outcome, detail, payload),
            other => panic!("{other:?}"),
        }
    }

    /// The next thing that the other side says.
    pub(crate) fn next(&mut self) -> Said {
        let mut pieces: Option<(u64, u32, u32, Vec<u8>)> = None;
        loop {
            let step = self.decoder.step(&self.bytes[self.at..]).unwrap();
            self.at += step.consumed;
            match step.item {
                Some(Item::Response { response, payload, missing_bytes, .. }) => {
                    let head = (response.request_id, response.outcome_code, response.detail, payload.to_vec());
                    if missing_bytes == 0 {
                        return answer(head);
                    }
                    pieces = Some(head);
                }
                Some(Item::Payload { bytes, missing_bytes }) => {
                    pieces.as_mut().unwrap().3.extend_from_slice(bytes);
                    if missing_bytes == 0 {
                        return answer(pieces.unwrap());
                    }
                }
                Some(Item::Control { frame: Frame::HandedOver(limits), .. }) => return Said::HandedOver(limits),
                Some(Item::Control { frame: Frame::Pong(pong), .. }) => return Said::Pong(pong),
                Some(Item::Control { frame: Frame::Goaway(goaway), .. }) => {
                    return Said::Goaway { last_request_id: goaway.last_request_id, reason: goaway.reason };
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    self.bytes.resize(1 << 16, 0);
                    self.at = 0;
                    match self.stream.read(&mut self.bytes) {
                        Ok(0) => return Said::End,
                        Ok(count) => self.bytes.truncate(count),
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Said::End,
                        Err(error) => panic!("nothing came: {error}"),
                    }
                }
            }
        }
    }
}

fn answer((id, outcome, detail, payload): (u64, u32, u32, Vec<u8>)) -> Said {
    Said::Answer { id, outcome: Outcome::from_code(outcome).unwrap(), detail, payload }
}

/// The bytes of a call on a dedicated connection.
pub(crate) fn request(id: u64, function: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Request::new(id, 0, FunctionId::of(function), 0).encode(payload, &mut bytes);
    bytes
}
