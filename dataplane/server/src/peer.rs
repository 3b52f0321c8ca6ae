//! One end of a packet socket whose other end may be slow, hostile or dead.
//!
//! Nothing here blocks. What the other end does not take is queued up to a bound, with descriptors duplicated; past the
//! bound, or when nothing was taken for too long, the peer is to be cut off. A packet that was cut by the kernel, or that
//! carries too many descriptors, ends the peer, and the descriptors are closed.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use praas_protocol::codec;
use praas_protocol::limits::CONTROL_MESSAGE_FDS_MAX;
use praas_sys::message_socket::{MessageSocket, Sending, SocketError};
use serde::Serialize;

use crate::clock;
use crate::limits::{OUT_QUEUE_BYTES_MAX, OUT_QUEUE_MESSAGES_MAX, PEER_STALL_MAX};

/// Packets that can wait in a socket's receive queue: the host's `net.unix.max_dgram_qlen` is far below this.
const UNREAD_PACKETS_MAX: usize = 1024;

/// Why a peer must be cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It closed its end.
    #[error("it closed the connection")]
    Closed,
    /// It sent something that breaks the protocol.
    #[error("it broke the protocol")]
    Protocol,
    /// It does not read what it is sent.
    #[error("it does not read its messages: {messages} of {bytes} bytes are queued")]
    Slow {
        /// Messages queued.
        messages: usize,
        /// Their bytes.
        bytes: usize,
    },
    /// The socket failed.
    #[error("{0}")]
    Socket(SocketError),
    /// A message of ours is too large for the protocol.
    #[error("{0}")]
    Codec(#[from] codec::CodecError),
}

impl From<SocketError> for PeerError {
    fn from(error: SocketError) -> Self {
        match error {
            SocketError::Closed => Self::Closed,
            error => Self::Socket(error),
        }
    }
}

/// A received packet; the bytes lie in the caller's buffer.
#[derive(Debug)]
pub(crate) struct Packet<'buffer> {
    pub(crate) bytes: &'buffer [u8],
    pub(crate) fds: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A packet socket with a bounded queue of what is still to be sent.
#[derive(Debug)]
pub(crate) struct Peer {
    socket: MessageSocket,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    stalled_since: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(socket: MessageSocket) -> Self {
        Self { socket, queue: VecDeque::new(), queued_bytes: 0, stalled_since: None }
    }

    pub(crate) fn socket(&self) -> &MessageSocket {
        &self.socket
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When the peer has to be cut off unless it reads.
    pub(crate) fn stall_end(&self) -> Option<Instant> {
        self.stalled_since.map(|since| since + PEER_STALL_MAX)
    }

    /// Sends `message`, or queues it behind what is queued already.
    pub(crate) fn send<M: Serialize>(&mut self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), PeerError> {
        let bytes = codec::encode(message)?;
        if self.queue.is_empty() && self.try_send(&bytes, fds)? {
            return Ok(());
        }
        if self.queue.len() >= OUT_QUEUE_MESSAGES_MAX || self.queued_bytes + bytes.len() > OUT_QUEUE_BYTES_MAX {
            return Err(PeerError::Slow { messages: self.queue.len(), bytes: self.queued_bytes });
        }
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<Vec<_>, _>>();
        let fds = fds.map_err(|_| PeerError::Slow { messages: self.queue.len(), bytes: self.queued_bytes })?;
        self.queued_bytes += bytes.len();
        self.queue.push_back(Queued { bytes, fds });
        self.stalled_since.get_or_insert_with(clock::now);
        Ok(())
    }

    /// Sends a message that only makes the peer look: while it has unread ones it will look anyway, so this one is never
    /// queued.
    pub(crate) fn hint<M: Serialize>(&mut self, message: &M) -> Result<(), PeerError> {
        let bytes = codec::encode(message)?;
        if self.queue.is_empty() {
            self.try_send(&bytes, &[])?;
        }
        Ok(())
    }

    /// Sends what is queued, as far as the peer takes it.
    pub(crate) fn flush(&mut self) -> Result<(), PeerError> {
        while let Some(first) = self.queue.front() {
            let fds: Vec<_> = first.fds.iter().map(AsFd::as_fd).collect();
            if !self.try_send(&first.bytes, &fds)? {
                return Ok(());
            }
            let sent = self.queue.pop_front().map_or(0, |sent| sent.bytes.len());
            self.queued_bytes -= sent;
            self.stalled_since = (!self.queue.is_empty()).then(clock::now);
        }
        Ok(())
    }

    fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<bool, PeerError> {
        match self.socket.try_send(bytes, fds) {
            Ok(Sending::Sent) => Ok(true),
            Ok(Sending::Full) => Ok(false),
            // The host's bound on descriptors under way: they free themselves when receivers read.
            Err(SocketError::Call { errno: rustix::io::Errno::TOOMANYREFS, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Last words to a peer that is about to be cut off. What it has sent is read and dropped before, and nothing more is
    /// let in: closing a socket with unread packets would destroy the words on their way.
    pub(crate) fn refuse<M: Serialize>(&mut self, message: &M, buffer: &mut [u8]) -> Result<(), PeerError> {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
        for _ in 0..UNREAD_PACKETS_MAX {
            if !matches!(self.socket.try_recv(buffer, CONTROL_MESSAGE_FDS_MAX), Ok(Some(_))) {
                break;
            }
        }
        self.send(message, &[])
    }

    /// The next packet, or `None` when there is none now.
    pub(crate) fn receive<'buffer>(&mut self, buffer: &'buffer mut [u8]) -> Result<Option<Packet<'buffer>>, PeerError> {
        match self.socket.try_recv(buffer, CONTROL_MESSAGE_FDS_MAX)? {
            Some(received) => Ok(Some(Packet { bytes: &buffer[..received.bytes], fds: received.fds })),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;

    #[test]
    fn a_peer_that_does_not_read_is_found_slow_and_loses_nothing_before() {
        let (ours, theirs) = MessageSocket::pair().unwrap();
        let mut peer = Peer::new(ours);
        let mut sent = 0_u32;
        let text = "x".repeat(8000);
        let error = loop {
            match peer.send(&(sent, &text), &[]) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 10_000, "the queue has no bound");
        };
        assert!(matches!(error, PeerError::Slow { .. }), "{error}");
        assert!(peer.has_queued() && peer.stall_end().is_some());
        let mut reader = Peer::new(theirs);
        let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
        for expected in 0..sent {
            if reader.socket().is_hung_up() {
                panic!("hung up at {expected}");
            }
            let packet = reader.receive(&mut buffer).unwrap().unwrap();
            let (number, body): (u32, String) = codec::decode(packet.bytes).unwrap();
            assert_eq!((number, body.len()), (expected, text.len()));
            peer.flush().unwrap();
        }
        assert!(!peer.has_queued() && peer.stall_end().is_none());
    }
}
