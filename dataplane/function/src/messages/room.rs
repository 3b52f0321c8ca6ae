//! The messages of a process as one of its workers has them: its end of the mailbox, and its lanes to other mailboxes.
//!
//! 1. Owned by the worker for its whole life; calls borrow it through their [`Context`](crate::Context). One thread.
//! 2. Nothing is mapped before the first message: a worker that sends and receives none pays for none.
//! 3. What a call has received ends with it: accepted before its answer is published if it succeeded, given back otherwise. A
//!    worker that could not give back runs no further call until it could, for that call would accept what it never saw.
//! 4. What the server says of message lanes is obeyed inside calls too, where they look at messages anyhow: a sender waits
//!    for its receivers to know of its lane.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::{MessageLaneSlot, WaitMode, WorkerCommand, WorkerMessage};
use praas_protocol::message::Accepted;
use praas_protocol::{Address, Key, MessageId, ProcessId};
use praas_shm::mail_bell::MailBell;
use praas_shm::mailbox::{InboundLane, MailError, Mailbox, NewMessage};
use praas_shm::message_lane::Inbound;
use praas_shm::objects::Objects;
use praas_shm::worker_page::MAIL_WAITS;
use praas_shm::{CallPolling, WorkerTag};

use super::around::Around;
use super::error::RecvError;
use super::gateway::Routes;
use super::outbound::OutboundLanes;
use super::receiving::{LANES_TOLD_MAX, unreachable_mailbox, unreachable_server};
use crate::invoke::CallLanes;
use crate::limits::MAIL_REST_PAUSE;
use crate::mail::{Mail, Parcel};
use crate::worker::WorkerError;

/// What a worker is told of its process's messages when it starts.
#[derive(Debug)]
pub(crate) struct MessageStart {
    /// Who sends and receives here.
    pub(crate) own: Address,
    /// The process that it is, or belongs to.
    pub(crate) process: ProcessId,
    /// Which life of it.
    pub(crate) incarnation: u64,
    pub(crate) tag: WorkerTag,
    pub(crate) wait_mode: WaitMode,
    pub(crate) payload_bytes_max: u32,
    pub(crate) objects: Arc<Objects>,
    pub(crate) bell: OwnedFd,
    pub(crate) mail: Rc<Mail>,
    pub(crate) call_lanes: Rc<CallLanes>,
}

/// A worker's end of its process's messages.
#[derive(Debug)]
pub(crate) struct MessageRoom {
    pub(super) own: Address,
    pub(super) process: ProcessId,
    incarnation: u64,
    pub(super) tag: WorkerTag,
    pub(super) payload_bytes_max: u32,
    objects: Arc<Objects>,
    bell: RefCell<Option<OwnedFd>>,
    mailbox: OnceCell<Mailbox>,
    pub(super) mail: Rc<Mail>,
    /// What the server had written when it was last heard inside a call.
    mail_seen: Cell<u32>,
    pub(super) wait_mode: WaitMode,
    pub(super) polling: CallPolling,
    /// Who was received from last, by name.
    pub(super) source_last: Cell<Address>,
    pub(super) outbound: OutboundLanes,
    /// Shared with the calls of functions.
    pub(super) call_lanes: Rc<CallLanes>,
    pub(super) routes: Routes,
    /// Invariant 3.
    owes_release: bool,
}

/// The bell of the process, for waits of other kinds: whatever a worker of this process can wait for is announced by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bell<'room> {
    bell: &'room MailBell,
    tag: WorkerTag,
}

impl Bell<'_> {
    /// Something was brought about that others may wait for. It stood where they look before.
    pub(crate) fn ring_if_parked(&self) {
        let _ = self.bell.ring_if_parked();
    }

    /// Sleeps until somebody rings, at most for `timeout`; not at all if `look` finds something once this worker is marked as
    /// sleeping.
    pub(crate) fn wait_unless<T>(&self, look: impl FnOnce() -> Option<T>, timeout: Duration) -> Option<T> {
        let seen = self.bell.prepare(self.tag);
        let found = look();
        if found.is_none() {
            self.bell.wait(seen, timeout);
        }
        self.bell.finish(self.tag);
        found
    }
}

impl MessageRoom {
    pub(crate) fn new(start: MessageStart) -> Self {
        let MessageStart {
            own,
            process,
            incarnation,
            tag,
            wait_mode,
            payload_bytes_max,
            objects,
            bell,
            mail,
            call_lanes,
        } = start;
        Self {
            own,
            process,
            incarnation,
            tag,
            payload_bytes_max,
            objects,
            bell: RefCell::new(Some(bell)),
            mailbox: OnceCell::new(),
            mail,
            mail_seen: Cell::new(0),
            wait_mode,
            polling: CallPolling::new(wait_mode),
            source_last: Cell::new(own),
            outbound: OutboundLanes::new(payload_bytes_max),
            call_lanes,
            routes: Routes::default(),
            owes_release: false,
        }
    }

    /// This worker's end of the mailbox; the reason if it cannot be mapped.
    #[inline]
    pub(super) fn mailbox(&self) -> Result<&Mailbox, String> {
        match self.mailbox.get() {
            Some(mailbox) => Ok(mailbox),
            None => self.open_mailbox(),
        }
    }

    #[inline]
    pub(super) fn mailbox_if_open(&self) -> Option<&Mailbox> {
        self.mailbox.get()
    }

    #[cold]
    fn open_mailbox(&self) -> Result<&Mailbox, String> {
        let bell = self.bell.borrow_mut().take().ok_or("the mailbox could not be mapped before")?;
        let bell = MailBell::attach(bell).map_err(|error| error.to_string())?;
        let mailbox = Mailbox::new(Arc::clone(&self.objects), self.tag, bell).map_err(|error| error.to_string())?;
        Ok(self.mailbox.get_or_init(|| mailbox))
    }

    /// The bell of the process; `None` if it cannot be mapped.
    pub(crate) fn bell(&self) -> Option<Bell<'_>> {
        self.mailbox().ok().map(|mailbox| Bell { bell: mailbox.bell(), tag: self.tag })
    }

    /// The id of a message that this process sends now.
    #[inline]
    pub(super) fn next_id(&self, mailbox: &Mailbox) -> MessageId {
        MessageId { incarnation: self.incarnation, sequence: mailbox.next_sequence() }
    }

    // --- what others send to this process without a lane

    /// Puts a message into this process's own mailbox. Of one that may be a repetition, the first transmission may lie in a lane
    /// that the server has just told of.
    pub(crate) fn put(&self, around: &impl Around, message: &NewMessage<'_>) -> Result<Accepted, RecvError> {
        let mailbox = self.mailbox().map_err(unreachable_mailbox)?;
        for _ in 0..LANES_TOLD_MAX {
            self.heed(around).map_err(|error| unreachable_server(&error))?;
            match mailbox.put_if(message, &|| self.is_heeded(around)) {
                // The server has told of a lane meanwhile, or is about to.
                Err(MailError::Outdated) => self.await_the_rest(around).map_err(|error| unreachable_server(&error))?,
                put => return Ok(put?),
            }
        }
        Err(RecvError::Mailbox(MailError::Outdated))
    }

    /// Puts a message of this process to itself into its mailbox. The error says why not.
    pub(crate) fn put_own(&self, key: Key<'_>, bytes: &[u8]) -> Result<(), String> {
        let mailbox = self.mailbox()?;
        let new = NewMessage { source: &self.own, id: self.next_id(mailbox), key, bytes, repeats: false };
        mailbox.put(&new).map(drop).map_err(|error| error.to_string())
    }

    // --- the server's messages

    /// Whether the server has said nothing since the last look, and said all that it has to say.
    #[inline]
    pub(super) fn is_heeded(&self, around: &impl Around) -> bool {
        let mail = around.mail_count();
        mail == self.mail_seen.get() && mail & MAIL_WAITS == 0
    }

    /// The server has told of a lane meanwhile; or waits for room in the socket to tell more, which is waited for a moment.
    #[cold]
    pub(super) fn await_the_rest(&self, around: &impl Around) -> Result<(), WorkerError> {
        if around.mail_count() & MAIL_WAITS == 0 { Ok(()) } else { self.mail.hear_within(MAIL_REST_PAUSE) }
    }

    /// Obeys what the server has said of message lanes since the last look.
    #[inline]
    pub(super) fn heed(&self, around: &impl Around) -> Result<(), WorkerError> {
        if self.is_heeded(around) { Ok(()) } else { self.hear(around, around.mail_count()) }
    }

    #[cold]
    fn hear(&self, around: &impl Around, mail_count: u32) -> Result<(), WorkerError> {
        // A further round takes a queue full of announcements, and a mailbox has a bounded number of lanes.
        loop {
            self.mail.hear()?;
            let was_full = self.mail.is_full();
            let mut obeyed = false;
            while let Some(parcel) = self.mail.take_queued(is_of_mailbox) {
                match parcel.command {
                    WorkerCommand::WakeUpsLook { now_unix_ms } => around.look_at_wake_ups(now_unix_ms)?,
                    _ => self.obey(parcel)?,
                }
                obeyed = true;
            }
            if !was_full {
                // All that was announced was read and obeyed: from here on this worker may say that it knows every lane, unless
                // the count says that more waits.
                self.mail_seen.set(mail_count);
                return Ok(());
            }
            if !obeyed {
                return Err(WorkerError::Silence { expected: "end of the many messages that wait" });
            }
        }
    }

    /// Obeys a message that may be obeyed inside a call.
    pub(crate) fn obey(&self, Parcel { command, fds }: Parcel) -> Result<(), WorkerError> {
        match command {
            WorkerCommand::InboundLaneAdd { slot, serial, geometry, source, incarnation: _, repeats } => {
                let added = match <[OwnedFd; 1]>::try_from(fds) {
                    Ok([fd]) => Inbound::attach(fd, &geometry).map_err(|error| error.to_string()),
                    Err(fds) => Err(format!("{} descriptors came with a message lane instead of 1", fds.len())),
                };
                let error = added.and_then(|inbound| self.add_inbound(slot, serial, source, inbound, repeats)).err();
                self.mail.send(&WorkerMessage::InboundLaneAttached { slot, error })
            }
            WorkerCommand::MessageLaneGone { serial } => {
                self.outbound.forget(serial);
                Ok(())
            }
            WorkerCommand::MessageLaneOpened { .. } | WorkerCommand::Refused { .. } => {
                self.outbound.settle_late(Parcel { command, fds }, &self.mail)
            }
            _ => Err(WorkerError::Protocol(format!("{command:?} was not expected now"))),
        }
    }

    fn add_inbound(
        &self,
        MessageLaneSlot(slot): MessageLaneSlot,
        serial: u64,
        source: Address,
        inbound: Inbound,
        repeats: bool,
    ) -> Result<(), String> {
        let lane = InboundLane { slot, serial, source, inbound, repeats };
        self.mailbox()?.add_lane(lane).map_err(|error| error.to_string())
    }

    /// Forgets an inbound lane. Between calls: nothing received lies in it.
    pub(crate) fn remove_inbound(&mut self, slot: MessageLaneSlot) -> Result<(), WorkerError> {
        if let Some(mailbox) = self.mailbox.get_mut() {
            // One that could not be attached is not there.
            mailbox.remove_lane(slot.0);
        }
        self.mail.send(&WorkerMessage::InboundLaneDetached { slot })
    }

    // --- the end of a call

    /// Before a call: whether the one before has left nothing.
    #[inline]
    pub(crate) fn begin_call(&mut self) -> Result<(), MailError> {
        if self.owes_release { self.settle(false) } else { Ok(()) }
    }

    /// Ends what the call has received: accepted if it succeeded, given back otherwise.
    #[inline]
    pub(crate) fn settle(&mut self, is_ok: bool) -> Result<(), MailError> {
        match self.mailbox.get_mut() {
            Some(mailbox) if mailbox.held() > 0 => {
                let accepted = if is_ok { mailbox.accept_all() } else { Ok(()) };
                let released = if is_ok && accepted.is_ok() { Ok(()) } else { mailbox.release_all() };
                self.owes_release = released.is_err();
                accepted.and(released)
            }
            _ => Ok(()),
        }
    }
}

/// Messages of the server that are obeyed inside calls too, where they look into the mailbox.
fn is_of_mailbox(command: &WorkerCommand) -> bool {
    is_of_message_lanes(command) || matches!(command, WorkerCommand::WakeUpsLook { .. })
}

/// Those of them that only say what there is.
pub(super) fn is_of_message_lanes(command: &WorkerCommand) -> bool {
    matches!(command, WorkerCommand::InboundLaneAdd { .. } | WorkerCommand::MessageLaneGone { .. })
}
