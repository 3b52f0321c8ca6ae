//! What reads a connection: the receive buffer, the decoder, and the payload that is just coming in.
//!
//! Whoever reads owns it for that time. Small answers are copied out of the buffer; the rest of a large payload is received
//! straight into the reply's own memory: its caller's, or memory that is made when its head has come and was found wanted.

use std::io;
use std::os::fd::AsFd;

use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::wire::{Decoder, Frame, Header, Item, Response, Side};
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, recv};

use crate::limits::RECEIVE_BUFFER_BYTES;
use crate::remote::calls::Waiter;
use crate::remote::questions::QuestionAnswer;
use crate::remote::reply_bytes::ReplyBytes;
use crate::remote::state::{State, Violation};

pub(super) struct Reader {
    buffer: Box<[u8]>,
    decoder: Decoder,
    incoming: Option<Incoming>,
    /// Whom to wake when the lock is given back.
    pub(super) wakes: Vec<Waiter>,
}

/// A payload of which the beginning has come.
struct Incoming {
    response: Response,
    memory: Memory,
}

/// Where an incoming payload goes.
enum Memory {
    /// Nobody wants it.
    Unwanted,
    /// Made for it: as large as it is, and as long as what has come.
    Fresh(Vec<u8>),
    /// Its caller's: as long as all of it, of which so many bytes have come.
    Given { bytes: Vec<u8>, received: usize },
}

impl Memory {
    /// Adds what came another way.
    fn append(&mut self, more: &[u8]) {
        match self {
            Self::Unwanted => {}
            Self::Fresh(bytes) => bytes.extend_from_slice(more),
            Self::Given { bytes, received } => {
                // The decoder gives out no more than the payload's length, which is this memory's.
                bytes[*received..*received + more.len()].copy_from_slice(more);
                *received += more.len();
            }
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Unwanted => Vec::new(),
            Self::Fresh(bytes) | Self::Given { bytes, .. } => bytes,
        }
    }
}

/// What one receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// So many bytes in the buffer.
    Buffered(usize),
    /// So many bytes of the incoming payload, where they belong.
    Direct(u32),
    /// Nothing within the socket's time.
    Nothing,
    /// The server has closed the connection.
    End,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            decoder: Decoder::new(Side::Server, 0),
            incoming: None,
            wakes: Vec::new(),
        }
    }

    pub(super) fn set_payload_bytes_max(&mut self, bytes: u32) {
        self.decoder.set_payload_bytes_max(bytes);
    }

    /// Whether the server may close here without cutting a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.decoder.is_between_frames()
    }

    /// Receives once. A wait that blocks collects as much of a large payload as comes within the socket's time.
    #[inline]
    pub(super) fn receive(&mut self, socket: impl AsFd, flags: RecvFlags) -> io::Result<Came> {
        let missing = self.decoder.missing_payload_bytes();
        let direct = |count: usize| (count > 0).then(|| Came::Direct(u32::try_from(count).unwrap_or(missing)));
        let received = match self.incoming.as_mut().map(|incoming| &mut incoming.memory) {
            // The memory was made for this payload, so it has no room for more than is missing.
            Some(Memory::Fresh(bytes)) if bytes.capacity() - bytes.len() == missing as usize && missing > 0 => {
                recv(socket, spare_capacity(bytes), flags | RecvFlags::WAITALL).map(|(count, _)| direct(count))
            }
            Some(Memory::Given { bytes, received }) if missing > 0 => {
                let place = &mut bytes[*received..];
                recv(socket, place, flags | RecvFlags::WAITALL).map(|(_, count)| {
                    *received += count;
                    direct(count)
                })
            }
            _ => {
                recv(socket, &mut self.buffer[..], flags).map(|(count, _)| (count > 0).then_some(Came::Buffered(count)))
            }
        };
        match received {
            Ok(came) => Ok(came.unwrap_or(Came::End)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Came::Nothing),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hands out everything complete in what came.
    pub(super) fn dispatch(&mut self, came: Came, state: &mut State) -> Result<(), Violation> {
        match came {
            Came::Buffered(count) => self.dispatch_buffered(count, state),
            Came::Direct(count) => {
                self.decoder.payload_received(count);
                self.finish_payload(state)
            }
            Came::Nothing | Came::End => Ok(()),
        }
    }

    fn dispatch_buffered(&mut self, count: usize, state: &mut State) -> Result<(), Violation> {
        let mut at = 0;
        while at < count {
            let step = self.decoder.step(&self.buffer[at..count])?;
            at += step.consumed;
            match step.item {
                None => break,
                Some(Item::Response { header, response, payload, missing_bytes: 0 }) => {
                    state.response_head(&header)?;
                    let bytes = match payload.len() {
                        0..=REPLY_INLINE_BYTES => ReplyBytes::copied(payload),
                        _ => ReplyBytes::copied_into(state.calls.take_memory(header.request_id), payload),
                    };
                    state.response(response, bytes, &mut self.wakes)?;
                }
                Some(Item::Response { header, response, payload, missing_bytes }) => {
                    let wanted = state.response_head(&header)?;
                    let given = state.calls.take_memory(header.request_id);
                    let memory = if wanted { memory_for(given, payload, missing_bytes)? } else { Memory::Unwanted };
                    self.incoming = Some(Incoming { response, memory });
                }
                Some(Item::Payload { bytes: more, missing_bytes }) => {
                    if let Some(Incoming { memory, .. }) = &mut self.incoming {
                        memory.append(more);
                    }
                    if missing_bytes == 0 {
                        self.finish_payload(state)?;
                    }
                }
                Some(Item::Control { header, frame }) => control(&header, &frame, state, &mut self.wakes)?,
                // A request never passes the decoder of what a server sends.
                Some(Item::Request { .. }) => {}
            }
        }
        Ok(())
    }

    fn finish_payload(&mut self, state: &mut State) -> Result<(), Violation> {
        if self.decoder.missing_payload_bytes() > 0 {
            return Ok(());
        }
        let Some(Incoming { response, memory }) = self.incoming.take() else { return Ok(()) };
        state.response(response, ReplyBytes::Owned(memory.into_bytes()), &mut self.wakes)
    }

    /// For the frames before the first call: shows the next control frame to `found` until it says that it is enough.
    pub(super) fn next_control<T>(
        &mut self,
        count: usize,
        mut found: impl FnMut(&Header, &Frame<'_>) -> Result<Option<T>, Violation>,
    ) -> Result<Option<T>, Violation> {
        let mut at = 0;
        while at < count {
            let step = self.decoder.step(&self.buffer[at..count])?;
            at += step.consumed;
            match step.item {
                None => break,
                Some(Item::Control { header, frame }) => {
                    let Some(value) = found(&header, &frame)? else { continue };
                    // A server says nothing unasked here but a farewell, and that may wait for the first call's failure.
                    return if at == count { Ok(Some(value)) } else { Err(Violation::Unasked { bytes: count - at }) };
                }
                Some(_) => return Err(Violation::Unasked { bytes: count - at }),
            }
        }
        Ok(None)
    }
}

/// Memory for a payload whose beginning is here; what is missing is received into it. What its caller gave is used if there is any.
fn memory_for(given: Vec<u8>, beginning: &[u8], missing_bytes: u32) -> Result<Memory, Violation> {
    let total = beginning.len() + missing_bytes as usize;
    // The size is the server's word, within the limit that it announced itself: no memory is no reason to abort.
    let no_memory = |_| Violation::NoMemory { bytes: missing_bytes };
    if given.capacity() == 0 {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(total).map_err(no_memory)?;
        bytes.extend_from_slice(beginning);
        return Ok(Memory::Fresh(bytes));
    }
    let mut bytes = given;
    bytes.try_reserve_exact(total.saturating_sub(bytes.len())).map_err(no_memory)?;
    // Zeros go only where no earlier answer lay.
    bytes.resize(total, 0);
    bytes[..beginning.len()].copy_from_slice(beginning);
    Ok(Memory::Given { bytes, received: beginning.len() })
}

fn control(header: &Header, frame: &Frame<'_>, state: &mut State, wakes: &mut Vec<Waiter>) -> Result<(), Violation> {
    // There is nothing to act on in a frame of a later version, and nothing that could be ignored among ours.
    let _ = state.session.show(Side::Server, header)?;
    if let Frame::Goaway(goaway) = frame {
        return state.goaway(goaway, wakes);
    }
    match QuestionAnswer::of(frame)? {
        Some((id, answer)) => state.answer(id, answer, wakes),
        None => Ok(()),
    }
}
