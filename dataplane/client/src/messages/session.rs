//! [`Session`]: a client as a source and a destination of messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::message::SessionId;
use praas_protocol::session::{END_FUNCTION, ReceivedHead};
use praas_protocol::{Address, Key, MessageId, Name};

use super::error::{RecvError, SendError, SessionError};
use super::message::{Message, PeekedMessage};
use super::party::{Party, Sources};
use super::receiving::{Given, Verdict, Wish, settle};
use super::registration::Registration;
use super::room::{Attempts, Room, Setback};
use super::sending::{Letter, Sequences};
use super::ticket::SessionTicket;
use super::watch::Watch;
use crate::client::{Client, ClientWay};
use crate::destination::Destination;
use crate::function::Function;
use crate::process::Process;
use crate::reply::Reply;

const END: Function<'static> = Function::new(END_FUNCTION);

/// A client as a source and a destination of messages: it sends to processes of an application and to other clients'
/// sessions, and receives what they send to its address. Cheap to clone; one serves many threads.
///
/// The server keeps the session's mailbox. It goes on with it by itself when the connection is lost, or the server program
/// starts anew: no message is lost or doubled by that, and what was received and not accepted comes again. When the client
/// has been away for longer than the server keeps sessions (a minute, unless its operator says otherwise), the session has
/// lapsed. A thread looks after the connection meanwhile; dropping the last clone leaves the session, and until it lapses
/// [`Client::resume_session`] goes on with it by its [ticket](Session::ticket), in another program, too.
///
/// The client's token needs the right `messages`.
///
/// ```no_run
/// use std::time::Duration;
/// use praas_client::Sources;
///
/// # let client = praas_client::Client::connect_default()?;
/// let session = client.session("pipeline".parse()?)?;
/// session.send("splitter", "text", b"a few words")?;
/// // The last process answers to where the text came from.
/// let result = session.recv("counter", "counts", Duration::from_secs(5))?;
/// println!("{}", String::from_utf8_lossy(&result));
/// result.accept()?;
///
/// // From whoever, if there is one already.
/// if let Some(message) = session.try_recv(Sources::Any, "news")? {
///     println!("{} says {:?}", message.source(), message.bytes());
///     message.accept()?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Messages of one source under one key are received in the order in which they were sent, none of them twice unless it
/// was not accepted. Keys have 1–255 bytes of UTF-8 without control characters.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

/// What clones of a session and its messages share.
struct Shared {
    /// First: nothing is repaired any more when the session is left.
    _watch: Watch,
    room: Arc<Room>,
    sequences: Sequences,
    patience: Duration,
}

impl Client {
    /// Begins a session: an address as which this client sends messages to processes of `application`, and receives them.
    ///
    /// # Errors
    /// [`SessionError::Unauthorized`], [`SessionError::Request`] when the application is unknown, a limit is reached, or the
    /// server does not answer.
    pub fn session(&self, application: Name) -> Result<Session, SessionError> {
        Session::open(self, Registration::new(application, None))
    }

    /// Goes on with a session that was left, or is about to lapse because its program ended. What was received and not
    /// accepted comes again. A client that has it now loses it.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// let session = client.session("pipeline".parse()?)?;
    /// std::fs::write("session", session.ticket().to_string())?; // mode 0600: whoever has it can resume the session
    ///
    /// // Soon after, in another program:
    /// let session = client.resume_session(&std::fs::read_to_string("session")?.parse()?)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`SessionError::Lapsed`] when the server keeps it no longer, and as [`Client::session`].
    pub fn resume_session(&self, ticket: &SessionTicket) -> Result<Session, SessionError> {
        Session::open(self, Registration::new(ticket.application(), Some(ticket.known())))
    }
}

impl Session {
    fn open(client: &Client, registration: Registration) -> Result<Self, SessionError> {
        let registration = Arc::new(registration);
        let way = client.by_the_way(|way| {
            let destination = Destination::Session(Arc::clone(&registration));
            match way {
                ClientWay::Local(shared) => Process::open(Arc::clone(shared), destination),
                ClientWay::Remote(remote) => Process::open_remote(Arc::clone(remote), destination, false),
            }
        });
        let way = match way {
            Ok(way) => way,
            Err(error) => {
                let ending = registration.ending();
                return Err(ending.unwrap_or_else(|| SessionError::of_request(error, registration.application())));
            }
        };
        let patience = way.call_deadline();
        let room = Arc::new(Room { registration, way });
        let watch = Watch::start(Arc::downgrade(&room))?;
        Ok(Self { shared: Arc::new(Shared { _watch: watch, room, sequences: Sequences::begin(), patience }) })
    }

    /// Where others send messages to this client. It stays the same as long as the session lasts.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Client(self.id())
    }

    /// The session's number, which its address consists of.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.ticket().session()
    }

    /// The application whose processes it exchanges messages with.
    #[must_use]
    pub fn application(&self) -> Name {
        self.shared.room.registration.application()
    }

    /// What [`Client::resume_session`] goes on with it by. Whoever has it can receive what is sent to the session.
    #[must_use]
    pub fn ticket(&self) -> SessionTicket {
        let ticket = self.shared.room.registration.ticket();
        ticket.expect("a session is opened with the ticket that the server gave")
    }

    /// Largest message in bytes that it sends, less up to 368 bytes of head.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u32 {
        self.shared.room.way.payload_bytes_max()
    }

    /// Sends `bytes` under `key` to a process of the application, to another client's session, or to where a message came
    /// from. When it returns, the receiver's mailbox has the message, which stays there until it is taken. Returns its id.
    ///
    /// A lost connection or a receiver that is just being restarted is waited for, up to the client's call deadline; a full
    /// mailbox is not.
    ///
    /// # Errors
    /// [`SendError`]. Nothing was sent, but for [`SendError::Unknown`], which [`Session::send_again`] settles: until then
    /// the message may still come, and not in the order in which later ones are sent.
    pub fn send<'a>(&self, to: impl Into<Party<'a>>, key: &str, bytes: &[u8]) -> Result<MessageId, SendError> {
        let letter = self.letter(to.into(), key, bytes, None, self.shared.patience)?;
        letter.send(&self.shared.room, &self.shared.sequences)
    }

    /// [`Session::send`], waiting at most for `within`, for room in the receiver's mailbox as well.
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
        let letter = self.letter(to.into(), key, bytes, None, within)?.waiting();
        letter.send(&self.shared.room, &self.shared.sequences)
    }

    /// Repeats a send that ended as [`SendError::Unknown`], with the id that it had, and the same receiver, key and bytes:
    /// if the receiver has the message already, nothing happens. Waits at most for `within`, for room as well.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use praas_client::SendError;
    ///
    /// # let client = praas_client::Client::connect_default()?;
    /// # let session = client.session("shop".parse()?)?;
    /// match session.send_within("orders", "new", b"two apples", Duration::from_secs(1)) {
    ///     Err(SendError::Unknown { id, .. }) => {
    ///         session.send_again(id, "orders", "new", b"two apples", Duration::from_secs(60))?;
    ///     }
    ///     sent => drop(sent?),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::send`], and [`SendError::TooOld`] when the receiver cannot tell any more.
    pub fn send_again<'a>(
        &self,
        id: MessageId,
        to: impl Into<Party<'a>>,
        key: &str,
        bytes: &[u8],
        within: Duration,
    ) -> Result<MessageId, SendError> {
        let letter = self.letter(to.into(), key, bytes, Some(id), within)?.waiting().repeated();
        letter.send(&self.shared.room, &self.shared.sequences)
    }

    fn letter<'a>(
        &self,
        to: Party<'_>,
        key: &'a str,
        bytes: &'a [u8],
        again: Option<MessageId>,
        limit: Duration,
    ) -> Result<Letter<'a>, SendError> {
        let (to, key) = (to.resolve()?, Key::new(key)?);
        let incarnation = self.shared.room.registration.incarnation();
        let id = match again {
            Some(id) if id.incarnation != incarnation => return Err(SendError::TooOld { to, id }),
            Some(id) => id,
            None => MessageId { incarnation, sequence: self.shared.sequences.next() },
        };
        Ok(Letter::new(to, key, bytes, id, limit))
    }

    /// The next message under `key` from `sources`, waiting at most for `within` until one comes. Messages of one source under
    /// one key come in the order in which they were sent; of several sources, each has its turn.
    ///
    /// The session holds the message until it is [accepted](Message::accept).
    ///
    /// # Errors
    /// [`RecvError::DeadlineExceeded`] when none came, or why the session could not be asked.
    pub fn recv<'a>(&self, sources: impl Into<Sources<'a>>, key: &str, within: Duration) -> Result<Message, RecvError> {
        let given = self.wish(sources.into(), key, false, Some(within))?;
        given.map(|given| Message::new(self.clone(), key, given)).ok_or(RecvError::DeadlineExceeded { waited: within })
    }

    /// The next message under `key` from `sources` if there is one now.
    ///
    /// # Errors
    /// [`RecvError`] when the session could not be asked.
    pub fn try_recv<'a>(&self, sources: impl Into<Sources<'a>>, key: &str) -> Result<Option<Message>, RecvError> {
        let given = self.wish(sources.into(), key, false, None)?;
        Ok(given.map(|given| Message::new(self.clone(), key, given)))
    }

    /// A copy of the message that [`Session::try_recv`] would receive. It stays in the mailbox.
    ///
    /// # Errors
    /// As [`Session::try_recv`].
    pub fn peek<'a>(&self, sources: impl Into<Sources<'a>>, key: &str) -> Result<Option<PeekedMessage>, RecvError> {
        Ok(self.wish(sources.into(), key, true, None)?.map(PeekedMessage::new))
    }

    fn wish(
        &self,
        sources: Sources<'_>,
        key: &str,
        peeks: bool,
        within: Option<Duration>,
    ) -> Result<Option<Given>, RecvError> {
        let wish = Wish { sources: sources.resolve()?, key: Key::new(key)?, peeks, within };
        wish.fulfil(&self.shared.room, self.shared.patience)
    }

    pub(super) fn settle(&self, head: &ReceivedHead, key: Key<'_>, verdict: Verdict) -> Result<(), RecvError> {
        settle(&self.shared.room, head, key, verdict, self.shared.patience)
    }

    /// Ends the session with everything that its mailbox has, or just gets: soon whoever sends to its address finds nobody.
    /// Without this a session that is left is kept for a while.
    ///
    /// # Errors
    /// [`SessionError`] when the server could not be told: then the session lapses by itself. One that is over is no error.
    pub fn end(&self) -> Result<(), SessionError> {
        let room = &self.shared.room;
        if room.registration.ending().is_some() {
            return Ok(());
        }
        // From here on nothing resumes it.
        let ended = ask_until_answered(room, END, self.shared.patience);
        room.registration.end();
        room.way.leave_way();
        match ended {
            Ok(_) | Err(SessionError::Lapsed { .. } | SessionError::TakenOver { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Calls a function that can be called again without harm, and asks for nothing.
fn ask_until_answered(room: &Room, function: Function<'static>, limit: Duration) -> Result<Reply, SessionError> {
    let mut attempts = Attempts::within(limit);
    loop {
        let reason = match room.ask(function, b"", attempts.left()) {
            Ok(reply) => return Ok(reply),
            Err(Setback::NoWay(error)) => return Err(error),
            Err(Setback::Again { error, .. }) => error.to_string(),
            Err(Setback::TimeOver | Setback::Unanswered) => "the server did not answer".to_owned(),
            Err(Setback::Failed { message, .. }) => return Err(SessionError::Unreachable { reason: message }),
            Err(Setback::Ended(error)) => return Err(SessionError::Call(error)),
        };
        if !attempts.pause() {
            return Err(SessionError::Unreachable { reason });
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("registration", &self.shared.room.registration).finish_non_exhaustive()
    }
}
