//! The client's end of a control socket: whole messages instead of packets.
//!
//! Any thread may send; one reads. What comes from the server is decoded here or refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use praas_protocol::codec;
use praas_protocol::control::{ClientMessage, ServerMessage};
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_MESSAGE_FDS_MAX};
use praas_sys::message_socket::{MessageSocket, Received, Sending, SocketError};
use rustix::net::Shutdown;

use crate::error::ConnectError;

/// A connected control socket.
pub(crate) struct ControlSocket {
    socket: MessageSocket,
}

/// Room for one packet; its owner reads many messages with it.
pub(crate) struct PacketBuffer(Box<[u8]>);

impl PacketBuffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; CONTROL_MESSAGE_BYTES_MAX].into_boxed_slice())
    }
}

/// A message and the descriptors that came with it.
pub(crate) type Arrived = (ServerMessage, Vec<OwnedFd>);

impl ControlSocket {
    pub(crate) fn connect(path: &Path) -> Result<Self, ConnectError> {
        match MessageSocket::connect(path) {
            Ok(socket) => Ok(Self { socket }),
            Err(error) => Err(ConnectError::NoServer { path: path.to_owned(), source: as_io(error) }),
        }
    }

    /// Sends `message`, waiting at most `limit` for room in the socket.
    pub(crate) fn send(&self, message: &ClientMessage, limit: Duration) -> io::Result<()> {
        let bytes = codec::encode(message).map_err(|error| invalid(&error))?;
        match self.socket.send_deadline(&bytes, &[], limit).map_err(as_io)? {
            Sending::Sent => Ok(()),
            Sending::Full => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends `message` if the socket has room now. For hints, which are repeated or may be lost.
    pub(crate) fn send_hint(&self, message: &ClientMessage) {
        if let Ok(bytes) = codec::encode(message) {
            // A full or closed socket: the periodic check of a parked call rings again, or finds the connection lost.
            let _ = self.socket.try_send(&bytes, &[]);
        }
    }

    /// The next message; `None` when the server has closed the connection.
    pub(crate) fn receive(&self, buffer: &mut PacketBuffer) -> io::Result<Option<Arrived>> {
        let received = self.socket.recv(&mut buffer.0, CONTROL_MESSAGE_FDS_MAX);
        decode(received.map(Some), buffer)
    }

    /// The same within `limit`: an error of kind `TimedOut` when nothing came.
    pub(crate) fn receive_within(&self, buffer: &mut PacketBuffer, limit: Duration) -> io::Result<Option<Arrived>> {
        let received = self.socket.recv_deadline(&mut buffer.0, CONTROL_MESSAGE_FDS_MAX, limit);
        decode(received, buffer)
    }

    /// Ends the connection both ways; a blocked reader returns.
    pub(crate) fn shut_down(&self) {
        // Fails only when it is closed already, which is what is wanted.
        let _ = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Both);
    }
}

fn decode(received: Result<Option<Received>, SocketError>, buffer: &PacketBuffer) -> io::Result<Option<Arrived>> {
    match received {
        Ok(Some(Received { bytes, fds })) => {
            let message = codec::decode(&buffer.0[..bytes]).map_err(|error| invalid(&error))?;
            Ok(Some((message, fds)))
        }
        Ok(None) => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")),
        Err(SocketError::Closed) => Ok(None),
        Err(error) => Err(as_io(error)),
    }
}

fn invalid(error: &codec::CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn as_io(error: SocketError) -> io::Error {
    match error {
        SocketError::Call { errno, .. } => errno.into(),
        other => io::Error::other(other.to_string()),
    }
}
