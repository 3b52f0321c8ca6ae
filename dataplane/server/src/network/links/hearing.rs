//! What the other server sends, frame by frame.

use praas_protocol::control::DirectoryEntry;
use praas_protocol::wire::{Frame, GoawayReason, Item, Opened, Refusal, Side, Verdict, WireError};

use super::super::shard::NetworkShard;
use super::LinkConnectionKey;

/// What is of interest in a WELCOME.
#[derive(Debug, Clone, Copy)]
pub(super) struct Welcomed {
    pub(super) incarnation: u64,
    pub(super) payload_bytes_max: u32,
    pub(super) in_flight_max: u32,
    pub(super) handles_max: u32,
    pub(super) window_bytes: u64,
}

/// A page of what changed.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) request_id: u64,
    pub(super) upto: u64,
    pub(super) is_whole: bool,
    pub(super) more: bool,
    pub(super) entries: Vec<DirectoryEntry>,
}

/// A frame that is no answer to a call, without the bytes in which it came.
enum Word {
    Welcome(Welcomed),
    Refused(u64, Result<Refusal, WireError>),
    Goaway(u64, GoawayReason, String),
    Opened(Opened),
    Changes(Told),
    /// A pong, or a frame of a later version.
    Nothing,
    /// Nobody asked for it.
    Unasked(&'static str),
}

impl Word {
    fn of(frame: &Frame<'_>, name: &'static str) -> Self {
        match frame {
            Frame::Welcome(welcome) => Self::Welcome(Welcomed {
                incarnation: welcome.incarnation,
                payload_bytes_max: welcome.payload_bytes_max,
                in_flight_max: welcome.in_flight_max,
                handles_max: welcome.handles_max,
                window_bytes: welcome.window_bytes,
            }),
            Frame::Refused(refused) => Self::Refused(refused.request_id, refused.refusal()),
            Frame::Goaway(goaway) => Self::Goaway(goaway.last_request_id, goaway.reason, goaway.message.to_owned()),
            Frame::Opened(opened) => Self::Opened(*opened),
            Frame::Changes(changes) => Self::Changes(Told {
                request_id: changes.request_id,
                upto: changes.upto,
                is_whole: changes.is_whole,
                more: changes.more,
                entries: changes.entries().collect(),
            }),
            Frame::Pong(_) | Frame::Skipped(_) => Self::Nothing,
            _ => Self::Unasked(name),
        }
    }
}

impl NetworkShard {
    /// Bytes came from another server.
    pub(in super::super) fn peer_bytes_came(&mut self, key: LinkConnectionKey, bytes: &[u8]) {
        if let Some(connection) = self.links.connections.get_mut(key) {
            connection.heard = self.now;
        }
        if let Err(why) = self.read_from_peer(key, bytes) {
            self.break_link(key, &why);
        }
    }

    /// Reads frames until all of `input` is used.
    fn read_from_peer(&mut self, key: LinkConnectionKey, mut input: &[u8]) -> Result<(), String> {
        loop {
            let connection = self.links.connections.get_mut(key).filter(|connection| !connection.is_closing);
            let Some(connection) = connection else { return Ok(()) };
            let step = connection.decoder.step(input).map_err(|error| error.to_string())?;
            let (used, rest) = input.split_at(step.consumed);
            match step.item {
                None => return self.receive_rest_of_answer(key),
                Some(Item::Response { header, response, payload, missing_bytes }) => {
                    // Payloads lie in the input, not in the decoder.
                    let payload = &used[used.len() - payload.len()..];
                    self.response_came(key, &header, response, payload, missing_bytes as usize)?;
                }
                Some(Item::Payload { bytes, .. }) => {
                    let payload = &used[used.len() - bytes.len()..];
                    self.more_of_answer_came(key, payload);
                }
                Some(Item::Control { header, frame }) => {
                    let word = Word::of(&frame, header.kind.map_or("", praas_protocol::wire::Kind::name));
                    match connection.rules.show(Side::Server, &header).map_err(|error| error.to_string())? {
                        Verdict::Accept => self.word_of_peer(key, word)?,
                        Verdict::Ignore => {}
                    }
                }
                Some(Item::Request { .. }) => {}
            }
            input = rest;
        }
    }

    fn word_of_peer(&mut self, key: LinkConnectionKey, word: Word) -> Result<(), String> {
        match word {
            Word::Welcome(welcomed) => self.peer_welcomes(key, &welcomed),
            Word::Refused(0, refusal) => Err(super::greeting::refused(refusal)),
            Word::Refused(request_id, refusal) => {
                self.question_refused(key, request_id, &refusal.map_err(|error| error.to_string())?)
            }
            Word::Goaway(last_request_id, reason, message) => {
                self.peer_goes_away(key, last_request_id, reason, &message)
            }
            Word::Opened(opened) => self.peer_opened(key, &opened),
            Word::Changes(told) => self.peer_tells(key, told),
            Word::Nothing => Ok(()),
            Word::Unasked(name) => Err(format!("it sends {name}, which nobody asked for")),
        }
    }
}
