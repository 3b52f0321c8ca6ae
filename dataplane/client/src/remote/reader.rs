//! What reads a connection: the receive buffer, the decoder, and the payload that is just coming in.
//!
//! Whoever reads owns it for that time. Small answers are copied out of the buffer; the rest of a large payload is received
//! straight into the reply's own memory, which is made when its head has come and was found wanted.

use std::io;
use std::os::fd::AsFd;

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
    /// `None` when nobody wants it.
    bytes: Option<Vec<u8>>,
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
        let received = match self.incoming.as_mut().and_then(|incoming| incoming.bytes.as_mut()) {
            // The memory was made for this payload, so it has no room for more than is missing.
            Some(bytes) if bytes.capacity() - bytes.len() == missing as usize && missing > 0 => {
                recv(socket, spare_capacity(bytes), flags | RecvFlags::WAITALL)
                    .map(|(count, _)| (count > 0).then(|| Came::Direct(u32::try_from(count).unwrap_or(missing))))
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
                    state.response(response, ReplyBytes::copied(payload), &mut self.wakes)?;
                }
                Some(Item::Response { header, response, payload, missing_bytes }) => {
                    let wanted = state.response_head(&header)?;
                    let bytes = wanted.then(|| memory_for(payload, missing_bytes)).transpose()?;
                    self.incoming = Some(Incoming { response, bytes });
                }
                Some(Item::Payload { bytes: more, missing_bytes }) => {
                    if let Some(Incoming { bytes: Some(bytes), .. }) = &mut self.incoming {
                        bytes.extend_from_slice(more);
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
        let Some(Incoming { response, bytes }) = self.incoming.take() else { return Ok(()) };
        state.response(response, ReplyBytes::Owned(bytes.unwrap_or_default()), &mut self.wakes)
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

/// Memory for a payload whose beginning is here; what is missing is received into it.
fn memory_for(beginning: &[u8], missing_bytes: u32) -> Result<Vec<u8>, Violation> {
    let total = beginning.len() + missing_bytes as usize;
    let mut bytes = Vec::new();
    // The size is the server's word, within the limit that it announced itself: no memory is no reason to abort.
    bytes.try_reserve_exact(total).map_err(|_| Violation::NoMemory { bytes: missing_bytes })?;
    bytes.extend_from_slice(beginning);
    Ok(bytes)
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
