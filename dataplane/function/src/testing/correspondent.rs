//! [`Correspondent`]: a test that sends and receives messages itself.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use praas_protocol::{Address, MessageId, Name, Phase, ProcessId};
use praas_shm::WorkerTag;
use praas_shm::objects::{Objects, ObjectsLayout};
use praas_sys::message_socket::MessageSocket;

use super::HarnessOptions;
use super::host::{HarnessError, STATE_BYTES};
use super::listener::Line;
use super::realm::{HostNumber, Mailboxes, Realm, SESSION_PRINCIPAL, SenderId, process_id};
use crate::invoke::CallLanes;
use crate::mail::Mail;
use crate::messages::{Around, Aside, MessageRoom, MessageStart, Party, PeekedMessage, RecvError, SendError, Sources};

/// A process without functions whose mailbox is the test's, or the session of a client. Processes send to its address, and
/// receive from it.
///
/// What it receives, it has: nothing is held, and nothing comes again.
pub struct Correspondent {
    address: Address,
    realm: Arc<Realm>,
    room: MessageRoom,
    told: Arc<AtomicU32>,
}

impl Correspondent {
    /// A process on a host of the realm.
    pub(super) fn enter(
        realm: &Arc<Realm>,
        name: Name,
        host: HostNumber,
        options: &HarnessOptions,
    ) -> Result<Self, HarnessError> {
        let mailboxes = realm.enter(name, options.payload_bytes_max, host)?;
        let objects = Arc::new(Objects::create(layout())?);
        Self::join(realm, (name.into(), process_id(name)), host, options, &mailboxes, objects)
    }

    /// The session of a client that is connected to a host of the realm.
    pub(super) fn begin_session(
        realm: &Arc<Realm>,
        host: HostNumber,
        options: &HarnessOptions,
    ) -> Result<Self, HarnessError> {
        let objects = Arc::new(Objects::create(layout())?);
        let (session, mailboxes) = realm.enter_session(options.payload_bytes_max, &objects)?;
        let process = process_id(SESSION_PRINCIPAL.parse().map_err(HarnessError::Process)?);
        Self::join(realm, (session.into(), process), host, options, &mailboxes, objects)
    }

    fn join(
        realm: &Arc<Realm>,
        (address, process): (Address, ProcessId),
        host: HostNumber,
        options: &HarnessOptions,
        mailboxes: &Mailboxes,
        objects: Arc<Objects>,
    ) -> Result<Self, HarnessError> {
        let incarnation = realm.next_incarnation();
        let (socket, other_end) = MessageSocket::pair()?;
        let told = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&told);
        let count = move || {
            counter.fetch_add(1, Ordering::Release);
        };
        let sender = SenderId { source: address, incarnation, worker: 0, host };
        let line = Line::open(socket, count, realm, sender, None)?;
        mailboxes.add_worker(&line)?;
        let mail = Rc::new(Mail::new(other_end));
        let room = MessageRoom::new(MessageStart {
            own: address,
            process,
            incarnation,
            tag: WorkerTag::new(0, 1),
            wait_mode: options.wait_mode,
            payload_bytes_max: options.payload_bytes_max,
            objects,
            bell: mailboxes.bell.fd().try_clone_to_owned()?,
            call_lanes: Rc::new(CallLanes::new(Rc::clone(&mail))),
            mail,
        });
        Ok(Self { address, realm: Arc::clone(realm), room, told })
    }

    /// What it is sent to by, and its messages come from.
    #[must_use]
    pub fn address(&self) -> Address {
        self.address
    }

    fn circumstances(&self) -> Circumstances<'_> {
        Circumstances { told: &self.told }
    }

    /// As [`Context::send`](crate::Context::send).
    ///
    /// # Errors
    /// As there.
    pub fn send<'a>(&self, to: impl Into<Party<'a>>, key: &str, bytes: &[u8]) -> Result<MessageId, SendError> {
        self.room.send(&self.circumstances(), to.into(), key, bytes, None)
    }

    /// As [`Context::send_within`](crate::Context::send_within).
    ///
    /// # Errors
    /// As there.
    pub fn send_within<'a>(
        &self,
        to: impl Into<Party<'a>>,
        key: &str,
        bytes: &[u8],
        within: Duration,
    ) -> Result<MessageId, SendError> {
        self.room.send(&self.circumstances(), to.into(), key, bytes, Some(within))
    }

    /// As [`Context::recv`](crate::Context::recv), but that the message is accepted at once.
    ///
    /// # Errors
    /// As there.
    pub fn recv<'a>(
        &self,
        sources: impl Into<Sources<'a>>,
        key: &str,
        within: Duration,
    ) -> Result<PeekedMessage, RecvError> {
        let received = self.receive(sources.into(), key, Some(within))?;
        received.ok_or(RecvError::DeadlineExceeded { waited: within })
    }

    /// As [`Context::try_recv`](crate::Context::try_recv), but that the message is accepted at once.
    ///
    /// # Errors
    /// As there.
    pub fn try_recv<'a>(&self, sources: impl Into<Sources<'a>>, key: &str) -> Result<Option<PeekedMessage>, RecvError> {
        self.receive(sources.into(), key, None)
    }

    fn receive(
        &self,
        sources: Sources<'_>,
        key: &str,
        within: Option<Duration>,
    ) -> Result<Option<PeekedMessage>, RecvError> {
        let Some(message) = self.room.receive(&self.circumstances(), sources, key, within)? else { return Ok(None) };
        let copy = PeekedMessage {
            id: message.id(),
            source: message.source(),
            is_redelivered: message.is_redelivered(),
            bytes: message.bytes().to_vec(),
        };
        message.accept()?;
        Ok(Some(copy))
    }
}

impl Drop for Correspondent {
    fn drop(&mut self) {
        self.realm.leave(self.address);
    }
}

impl fmt::Debug for Correspondent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Correspondent").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The sizes of its mailbox.
fn layout() -> ObjectsLayout {
    ObjectsLayout::for_limit(STATE_BYTES).expect("the default lies within the limits")
}

/// A test is never drained, nor cancelled, nor needed elsewhere.
struct Circumstances<'a> {
    told: &'a AtomicU32,
}

/// It keeps nobody from working.
struct NotNeeded;

impl Around for Circumstances<'_> {
    type Aside = NotNeeded;

    fn mail_count(&self) -> u32 {
        // Nothing ever waits for room in its socket.
        self.told.load(Ordering::Acquire) << 1
    }

    fn phase(&self) -> Phase {
        Phase::Active
    }

    fn is_given_up(&self) -> bool {
        false
    }

    fn stand_aside(&self) -> NotNeeded {
        NotNeeded
    }

    fn begin_request(&self) -> u128 {
        0
    }

    fn time_left(&self) -> Option<Duration> {
        None
    }
}

impl Aside for NotNeeded {
    fn slice(&self) -> Duration {
        Duration::from_millis(praas_protocol::limits::PARKED_CHECK_MS)
    }

    fn look_again(&self) {}
}
