//! Hears what one worker says on its control socket, and answers what it asks for.
//!
//! A thread a worker: a worker asks in the middle of its calls, while nobody else waits for it. What answers something that
//! the host has said is handed on to it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use praas_protocol::codec;
use praas_protocol::control::{WorkerCommand, WorkerMessage};
use praas_protocol::limits::CONTROL_MESSAGE_BYTES_MAX;
use praas_sys::message_socket::{MessageSocket, Sending};
use std::os::fd::BorrowedFd;

use super::asleep::Asleep;
use super::host::HarnessError;
use super::realm::{Realm, SenderId};
use crate::limits::SERVER_ANSWER_MAX;
use crate::worker::WorkerError;

/// How often a listener looks whether its worker is gone although the socket says nothing.
const LISTEN_SLICE: Duration = Duration::from_secs(60);

/// The server's end of a worker's control socket.
pub(super) struct Line {
    pub(super) socket: MessageSocket,
    /// Tells a worker that polls of what was sent.
    notify: Box<dyn Fn() + Send + Sync>,
    answers: Mutex<Receiver<WorkerMessage>>,
    /// What may be asked to come back, in a process that has slept.
    asleep: Option<Arc<Asleep>>,
}

impl Line {
    /// A line to a worker of the process of this name; a thread answers what it asks of `realm`.
    pub(super) fn open(
        socket: MessageSocket,
        notify: impl Fn() + Send + Sync + 'static,
        realm: &Arc<Realm>,
        sender: SenderId,
        asleep: Option<Arc<Asleep>>,
    ) -> Result<Arc<Self>, HarnessError> {
        let (heard, answers) = channel();
        let line = Arc::new(Self { socket, notify: Box::new(notify), answers: Mutex::new(answers), asleep });
        let (listening, realm) = (Arc::clone(&line), Arc::clone(realm));
        std::thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || listening.listen(&realm, &sender, &heard))?;
        Ok(line)
    }

    /// Until the worker is gone.
    fn listen(self: &Arc<Self>, realm: &Arc<Realm>, sender: &SenderId, heard: &Sender<WorkerMessage>) {
        let mut buffer = vec![0; CONTROL_MESSAGE_BYTES_MAX];
        loop {
            match self.socket.recv_deadline(&mut buffer, 0, LISTEN_SLICE) {
                Ok(None) => {}
                Ok(Some(received)) => match codec::decode(&buffer[..received.bytes]) {
                    Ok(message) => self.hear(message, realm, sender, heard),
                    Err(error) => eprintln!("a worker of a test harness broke the protocol: {error}"),
                },
                Err(_) => break,
            }
        }
        realm.forget_sender(sender);
    }

    fn hear(
        self: &Arc<Self>,
        message: WorkerMessage,
        realm: &Arc<Realm>,
        sender: &SenderId,
        heard: &Sender<WorkerMessage>,
    ) {
        match message {
            WorkerMessage::MessageLaneOpen { request, to, payload_bytes } => {
                realm.open_message_lane(self, sender, request, to, payload_bytes);
            }
            WorkerMessage::MessageLaneClose { serial } => realm.close_message_lane(serial),
            WorkerMessage::InboundLaneAttached { slot, error } => {
                if let Some(error) = error {
                    eprintln!("a worker of {} could not attach message lane {}: {error}", sender.source, slot.0);
                }
            }
            WorkerMessage::InboundLaneDetached { slot } => realm.message_lane_detached(&sender.source, slot),
            WorkerMessage::CallLaneOpen { request, to } => realm.open_call_lane(self, sender, request, &to),
            WorkerMessage::CallLaneRing { lane, to } => realm.ring_call_lane(sender, lane, &to),
            WorkerMessage::CallLaneClose { lane, to } => realm.close_call_lane(sender, lane, &to),
            WorkerMessage::StateFetch { request, wanted } => {
                let error = self.asleep.as_ref().and_then(|asleep| asleep.fetch(&wanted));
                if let Err(error) = self.tell(&WorkerCommand::StateFetched { request, error }, &[]) {
                    eprintln!("a worker of {} was not told that its state is back: {error}", sender.source);
                }
            }
            // A harness tells the time when its test does.
            WorkerMessage::WakeUps { is_answer: false, .. } => {}
            // A harness has as many workers as it was told to have.
            WorkerMessage::Ring => {}
            // The host may have gone already.
            other => drop(heard.send(other)),
        }
    }

    /// Sends a command. False if the worker is gone.
    pub(super) fn tell(&self, command: &WorkerCommand, fds: &[BorrowedFd<'_>]) -> Result<(), HarnessError> {
        let bytes = codec::encode(command).map_err(WorkerError::from)?;
        match self.socket.send_deadline(&bytes, fds, SERVER_ANSWER_MAX)? {
            Sending::Sent => (self.notify)(),
            Sending::Full => return Err(HarnessError::NoAnswer("its control socket is full".to_owned())),
        }
        Ok(())
    }

    /// The first answer that is wanted; others are dropped, nobody waits for them.
    pub(super) fn await_answer<T>(
        &self,
        expected: &str,
        mut wanted: impl FnMut(WorkerMessage) -> Option<T>,
    ) -> Result<T, HarnessError> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + SERVER_ANSWER_MAX;
        loop {
            match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(message) => {
                    if let Some(answer) = wanted(message) {
                        return Ok(answer);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(HarnessError::NoAnswer(format!("it ended before its {expected}")));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let limit_s = SERVER_ANSWER_MAX.as_secs();
                    return Err(HarnessError::NoAnswer(format!("no {expected} came within {limit_s} s")));
                }
            }
        }
    }
}
