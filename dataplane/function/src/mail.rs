//! The control socket of a worker: one message a packet, with the descriptors that belong to it.
//!
//! 1. Messages are obeyed in the order in which they came, between calls. A call that needs the server's answer reads on until
//!    it is there; what comes before it waits in a queue, which is looked at before the worker looks for its next call.
//! 2. The queue is bounded. While it is full nothing more is read, and an answer that lies behind it does not come.
//! 3. One thread: the runtime and the call that it runs share the socket, never at the same instant.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use praas_protocol::codec;
use praas_protocol::control::{WorkerCommand, WorkerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_FDS_MAX;
use praas_shm::simulation;
use praas_sys::message_socket::{MessageSocket, Received, Sending};

use crate::limits::{COMMAND_BYTES_MAX, COMMANDS_QUEUED_MAX, SERVER_ANSWER_MAX};
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
    buffer: RefCell<Box<[u8]>>,
    /// Read and not obeyed yet.
    queued: RefCell<VecDeque<Parcel>>,
    /// Number of the last request.
    request_last: Cell<u32>,
}

impl Mail {
    pub(crate) fn new(socket: MessageSocket) -> Self {
        let buffer = RefCell::new(vec![0; COMMAND_BYTES_MAX].into());
        Self { socket, buffer, queued: RefCell::default(), request_last: Cell::new(0) }
    }

    pub(crate) fn socket(&self) -> &MessageSocket {
        &self.socket
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

    /// A number for the next request; not 0.
    pub(crate) fn next_request(&self) -> u32 {
        let number = self.request_last.get().checked_add(1).unwrap_or(1);
        self.request_last.set(number);
        number
    }

    /// The answer to the request of this number, if it comes within `time`; `None` otherwise, and then it comes with the other
    /// messages. Those that come before it are obeyed later.
    pub(crate) fn await_answer(&self, request: u32, time: Duration) -> Result<Option<Parcel>, WorkerError> {
        self.await_one(time, |command| answered_request(command) == Some(request))
    }

    /// The first message that is wanted, if it comes within `time`. Those that come before it are obeyed later.
    pub(crate) fn await_one(
        &self,
        time: Duration,
        is_wanted: impl Fn(&WorkerCommand) -> bool,
    ) -> Result<Option<Parcel>, WorkerError> {
        let until = Instant::now().checked_add(time);
        loop {
            // What was late before lies in the queue.
            if let Some(parcel) = self.take_queued(&is_wanted) {
                return Ok(Some(parcel));
            }
            if self.is_full() {
                return Err(WorkerError::Silence { expected: "answer among the many messages that wait" });
            }
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            match self.read_within(left)? {
                Some(parcel) => self.keep(parcel),
                None if simulation::is_turned() => return Ok(None),
                None => {}
            }
        }
    }

    /// Reads what is there into the queue, without waiting.
    pub(crate) fn hear(&self) -> Result<(), WorkerError> {
        while !self.is_full()
            && let Some(parcel) = self.read_now()?
        {
            self.keep(parcel);
        }
        Ok(())
    }

    /// Reads the next message into the queue, if it comes within `time`.
    pub(crate) fn hear_within(&self, time: Duration) -> Result<(), WorkerError> {
        if !self.is_full()
            && let Some(parcel) = self.read_within(time)?
        {
            self.keep(parcel);
        }
        Ok(())
    }

    /// The first message in the queue that is wanted.
    pub(crate) fn take_queued(&self, is_wanted: impl Fn(&WorkerCommand) -> bool) -> Option<Parcel> {
        let mut queued = self.queued.borrow_mut();
        let index = queued.iter().position(|parcel| is_wanted(&parcel.command))?;
        queued.remove(index)
    }

    /// Whether messages were read that are not obeyed yet.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.borrow().is_empty()
    }

    /// The next message, if there is one now.
    pub(crate) fn next(&self) -> Result<Option<Parcel>, WorkerError> {
        match self.queued.borrow_mut().pop_front() {
            Some(parcel) => Ok(Some(parcel)),
            None => self.read_now(),
        }
    }

    /// The next message, if it comes within `time`.
    pub(crate) fn next_within(&self, time: Duration) -> Result<Option<Parcel>, WorkerError> {
        match self.queued.borrow_mut().pop_front() {
            Some(parcel) => Ok(Some(parcel)),
            None => self.read_within(time),
        }
    }

    /// Keeps a message for later. One that asks to be awake has what it asks for: clients ring as often as they like, and what
    /// they fill the queue with must not keep other messages out.
    fn keep(&self, parcel: Parcel) {
        if !matches!(parcel.command, WorkerCommand::Wake) {
            self.queued.borrow_mut().push_back(parcel);
        }
    }

    /// Whether the queue has no room for what may still lie in the socket.
    pub(crate) fn is_full(&self) -> bool {
        self.queued.borrow().len() >= COMMANDS_QUEUED_MAX
    }

    fn read_now(&self) -> Result<Option<Parcel>, WorkerError> {
        let buffer = &mut *self.buffer.borrow_mut();
        let received = self.socket.try_recv(buffer, CONTROL_MESSAGE_FDS_MAX)?;
        received.map(|received| parcel(buffer, received)).transpose()
    }

    fn read_within(&self, time: Duration) -> Result<Option<Parcel>, WorkerError> {
        if simulation::rest() {
            return self.read_now();
        }
        let buffer = &mut *self.buffer.borrow_mut();
        let received = self.socket.recv_deadline(buffer, CONTROL_MESSAGE_FDS_MAX, time)?;
        received.map(|received| parcel(buffer, received)).transpose()
    }
}

fn parcel(buffer: &[u8], Received { bytes, fds }: Received) -> Result<Parcel, WorkerError> {
    Ok(Parcel { command: codec::decode(&buffer[..bytes])?, fds })
}

/// The number of the request that a message answers, if it answers one.
pub(crate) fn answered_request(command: &WorkerCommand) -> Option<u32> {
    match command {
        WorkerCommand::Refused { request, .. }
        | WorkerCommand::CallLaneOpened { request, .. }
        | WorkerCommand::StateFetched { request, .. }
        | WorkerCommand::MessageLaneOpened { request, .. } => Some(*request),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use praas_protocol::control::ControlError;

    use super::*;

    fn pair() -> (MessageSocket, Mail) {
        let (server, worker) = MessageSocket::pair().unwrap();
        (server, Mail::new(worker))
    }

    fn tell(server: &MessageSocket, command: &WorkerCommand) {
        server.send(&codec::encode(command).unwrap(), &[]).unwrap();
    }

    fn refused(request: u32) -> WorkerCommand {
        WorkerCommand::Refused { request, error: ControlError::ShuttingDown }
    }

    fn gone(serial: u64) -> WorkerCommand {
        WorkerCommand::MessageLaneGone { serial }
    }

    #[test]
    fn however_often_the_worker_is_woken_other_messages_find_room() {
        let (server, mail) = pair();
        for _ in 0..4 * COMMANDS_QUEUED_MAX / 64 {
            (0..64).for_each(|_| tell(&server, &WorkerCommand::Wake));
            mail.hear().unwrap();
        }
        assert!(!mail.has_queued() && !mail.is_full());
        tell(&server, &refused(1));
        assert!(mail.await_answer(1, SERVER_ANSWER_MAX).unwrap().is_some());
    }

    #[test]
    fn what_comes_before_an_answer_is_obeyed_later_in_its_order() {
        let (server, mail) = pair();
        let request = mail.next_request();
        for command in [gone(1), WorkerCommand::Wake, refused(request + 1), refused(request), WorkerCommand::Exit] {
            tell(&server, &command);
        }
        let answer = mail.await_answer(request, SERVER_ANSWER_MAX).unwrap().expect("it is there");
        assert!(matches!(answer.command, WorkerCommand::Refused { request: 1, .. }), "{answer:?}");
        assert!(mail.has_queued());
        assert!(matches!(mail.next().unwrap().unwrap().command, WorkerCommand::MessageLaneGone { serial: 1 }));
        let late = mail.await_answer(request + 1, Duration::ZERO).unwrap().expect("it was read before");
        assert!(matches!(late.command, WorkerCommand::Refused { request: 2, .. }), "{late:?}");
        assert!(!mail.has_queued());
        assert!(matches!(mail.next().unwrap().unwrap().command, WorkerCommand::Exit));
        assert!(mail.next().unwrap().is_none());
    }

    #[test]
    fn an_answer_that_does_not_come_is_waited_for_as_long_as_was_said() {
        let (server, mail) = pair();
        tell(&server, &gone(1));
        assert!(mail.await_answer(7, Duration::from_millis(5)).unwrap().is_none());
        assert!(mail.has_queued());
        drop(server);
        assert!(mail.await_answer(7, SERVER_ANSWER_MAX).is_err(), "the server is gone");
    }

    #[test]
    fn a_server_that_only_talks_fills_the_queue_and_no_more() {
        let (server, mail) = pair();
        let mut told = 0;
        while told < 4 * COMMANDS_QUEUED_MAX {
            let gone = codec::encode(&gone(1)).unwrap();
            match server.try_send(&gone, &[]).unwrap() {
                Sending::Sent => told += 1,
                Sending::Full => {
                    let before = mail.queued.borrow().len();
                    mail.hear().unwrap();
                    if mail.queued.borrow().len() == before {
                        break;
                    }
                }
            }
        }
        assert!(mail.await_answer(1, SERVER_ANSWER_MAX).is_err());
        assert_eq!(mail.queued.borrow().len(), COMMANDS_QUEUED_MAX);
        for _ in 0..told {
            assert!(mail.next().unwrap().is_some());
        }
        assert!(mail.next().unwrap().is_none());
    }
}
