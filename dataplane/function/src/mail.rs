//! The control socket of a worker: one message a packet, with the descriptors that belong to it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use praas_protocol::codec;
use praas_protocol::control::{WorkerCommand, WorkerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_FDS_MAX;
use praas_sys::message_socket::{MessageSocket, Received, Sending};

use crate::limits::{COMMAND_BYTES_MAX, SERVER_ANSWER_MAX};
use crate::worker::WorkerError;

/// A message from the server.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) command: WorkerCommand,
    pub(crate) fds: Vec<OwnedFd>,
}

/// The worker's end of its control socket.
#[derive(Debug)]
pub(crate) struct Mail {
    socket: MessageSocket,
    buffer: Box<[u8]>,
}

impl Mail {
    pub(crate) fn new(socket: MessageSocket) -> Self {
        Self { socket, buffer: vec![0; COMMAND_BYTES_MAX].into() }
    }

    /// Sends `message`; waits for room for a bounded time.
    pub(crate) fn send(&self, message: &WorkerMessage) -> Result<(), WorkerError> {
        match self.socket.send_deadline(&codec::encode(message)?, &[], SERVER_ANSWER_MAX)? {
            Sending::Sent => Ok(()),
            Sending::Full => Err(WorkerError::Silence { expected: "room for an answer in the control socket" }),
        }
    }

    /// Sends `message` if there is room for it now. For what a call must not wait for: a closed socket is noticed by the
    /// next read, and a full one belongs to a server that has enough to read.
    pub(crate) fn hint(&self, message: &WorkerMessage) {
        if let Ok(bytes) = codec::encode(message) {
            let _ = self.socket.try_send(&bytes, &[]);
        }
    }

    /// The next message, if there is one now.
    pub(crate) fn next(&mut self) -> Result<Option<Parcel>, WorkerError> {
        let received = self.socket.try_recv(&mut self.buffer, CONTROL_MESSAGE_FDS_MAX)?;
        received.map(|received| self.parcel(received)).transpose()
    }

    /// The next message, if it comes within `time`.
    pub(crate) fn next_within(&mut self, time: Duration) -> Result<Option<Parcel>, WorkerError> {
        let received = self.socket.recv_deadline(&mut self.buffer, CONTROL_MESSAGE_FDS_MAX, time)?;
        received.map(|received| self.parcel(received)).transpose()
    }

    fn parcel(&self, Received { bytes, fds }: Received) -> Result<Parcel, WorkerError> {
        Ok(Parcel { command: codec::decode(&self.buffer[..bytes])?, fds })
    }
}
