//! The servers that a client of the network knows: each with one shared connection, made again when it is lost.
//!
//! The first server is the one that the options name; others were named by a server when a process had moved.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::{ClientRequest, FunctionStats, ProcessStats, ServerMessage};
use praas_protocol::wire::{Pong, Refusal};

use crate::deadline::Deadline;
use crate::error::{ConnectError, RequestError};
use crate::limits::{BACKOFF_CONNECT_MAX, LIST_PAGES_MAX, REQUEST_DEADLINE, SERVERS_KNOWN_MAX};
use crate::options::Settings;
use crate::remote::calls::{Settlement, Ticket};
use crate::remote::dialing::{DialError, Dialing, Wish, dial};
use crate::remote::link::Link;
use crate::remote::questions::{Question, QuestionAnswer};
use crate::remote::state::Full;
use crate::remote::writing::SendError;
use crate::session::lock;
use crate::shared_connection::{Connection, SharedConnection};

/// A client of servers on the network.
pub(crate) struct RemoteClient {
    settings: Settings,
    home: Arc<Server>,
    others: Mutex<BTreeMap<String, Arc<Server>>>,
}

/// One server.
pub(crate) struct Server {
    addresses: Vec<String>,
    link: SharedConnection<Link>,
}

impl Server {
    pub(crate) fn new(addresses: Vec<String>, current: Option<Arc<Link>>) -> Arc<Self> {
        Arc::new(Self { addresses, link: SharedConnection::new(current) })
    }

    /// The connection, after a look whether the server has ended it.
    fn current(&self) -> Option<Arc<Link>> {
        self.link.current().filter(|link| link.is_usable_now())
    }

    /// The shared connection, made again if it was lost. At least one attempt is made, however close `end` is.
    fn link_until(&self, settings: &Settings, end: Instant) -> Result<Arc<Link>, ConnectError> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        self.link.until(end, || dial_shared(&self.addresses, settings, end))
    }
}

impl Connection for Link {
    fn is_usable(&self) -> bool {
        self.is_usable()
    }

    fn asked_pause(&self) -> Option<Duration> {
        match self.farewell() {
            Some((_, false)) => Some(BACKOFF_CONNECT_MAX),
            _ => None,
        }
    }
}

/// One connection for all who share it.
pub(crate) fn dial_shared(addresses: &[String], settings: &Settings, end: Instant) -> Result<Arc<Link>, ConnectError> {
    // Read each time: a fresh server may have written another token.
    let token = settings.token.read()?;
    let dialing = Dialing { token: &token, spins: settings.spins(), dedicate: None };
    dial(addresses, &dialing, end).map_err(|error| match error {
        DialError::Connect(error) => error,
        DialError::NotHandedOver(refusal) => {
            ConnectError::Greeting { address: addresses.join(", "), what: refusal.to_string() }
        }
    })
}

impl RemoteClient {
    /// A client with its first connection.
    pub(crate) fn new(settings: Settings, first: Arc<Link>) -> Self {
        let home = Server::new(settings.addresses.clone(), Some(first));
        Self { settings, home, others: Mutex::default() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn home(&self) -> &Arc<Server> {
        &self.home
    }

    /// The server at an address that a server named.
    pub(crate) fn server_at(&self, address: &str) -> Result<Arc<Server>, RequestError> {
        if self.settings.addresses.iter().any(|own| own == address) {
            return Ok(Arc::clone(&self.home));
        }
        let mut others = lock(&self.others);
        if let Some(server) = others.get(address) {
            return Ok(Arc::clone(server));
        }
        if others.len() >= SERVERS_KNOWN_MAX {
            others.retain(|_, server| Arc::strong_count(server) > 1);
        }
        let used = others.len();
        if used >= SERVERS_KNOWN_MAX {
            return Err(RequestError::TooManyOpen { used, limit: SERVERS_KNOWN_MAX });
        }
        let server = Server::new(vec![address.to_owned()], None);
        others.insert(address.to_owned(), Arc::clone(&server));
        Ok(server)
    }

    /// The shared connection to `server`.
    pub(crate) fn link_until(&self, server: &Server, end: Instant) -> Result<Arc<Link>, ConnectError> {
        server.link_until(&self.settings, end)
    }

    /// A connection of its own, which a worker took over.
    pub(crate) fn dial_worker(&self, server: &Server, wish: Wish, end: Instant) -> Result<Arc<Link>, DialError> {
        let token = self.settings.token.read()?;
        let dialing = Dialing { token: &token, spins: self.settings.spins(), dedicate: Some(wish) };
        dial(&server.addresses, &dialing, end)
    }

    /// Changes whenever the server program starts anew; `None` while there is no connection.
    pub(crate) fn server_incarnation(&self) -> Option<u64> {
        self.home.current().map(|link| link.greeting().incarnation)
    }

    /// Asks the server, in the words of the control socket. It is sent once.
    pub(crate) fn ask(&self, request: ClientRequest, limit: Duration) -> Result<ServerMessage, RequestError> {
        match request {
            ClientRequest::ApplicationList => return self.applications(limit),
            ClientRequest::ProcessStats { process } => return self.stats(process, limit),
            _ => {}
        }
        match self.ask_question(&Question::Control(request), limit)? {
            QuestionAnswer::Message(message) => Ok(message),
            _ => Err(RequestError::Unexpected { what: "something else than what was asked" }),
        }
    }

    fn applications(&self, limit: Duration) -> Result<ServerMessage, RequestError> {
        let mut applications = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            let after = applications.last().copied();
            let answer = self.ask_question(&Question::Applications { after }, limit)?;
            let QuestionAnswer::Applications { names, more } = answer else {
                return Err(RequestError::Unexpected { what: "something else than a list of applications" });
            };
            let ended = !more || names.is_empty();
            applications.extend(names);
            if ended {
                return Ok(ServerMessage::Applications { request: 0, applications });
            }
        }
        Err(RequestError::Unexpected { what: "more pages of applications than a server can have" })
    }

    fn stats(&self, process: ProcessId, limit: Duration) -> Result<ServerMessage, RequestError> {
        let mut functions: Vec<FunctionStats> = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            let after = functions.last().map(|last| last.function);
            let answer = self.ask_question(&Question::Counts { process, after }, limit)?;
            let QuestionAnswer::Counts { stats, more } = answer else {
                return Err(RequestError::Unexpected { what: "something else than counts" });
            };
            let ended = !more || stats.functions.is_empty();
            functions.extend(stats.functions);
            if ended {
                return Ok(ServerMessage::Stats { request: 0, stats: ProcessStats { functions, ..stats } });
            }
        }
        Err(RequestError::Unexpected { what: "more pages of functions than a process can have" })
    }

    /// The server's clock as it answers a ping, and how long that took once there was a connection.
    pub(crate) fn ping(&self, limit: Duration) -> Result<(Duration, Pong), RequestError> {
        let link = self.link_until(&self.home, Instant::now() + limit.min(REQUEST_DEADLINE))?;
        let start = Instant::now();
        match ask(&link, &Question::Ping, limit)? {
            QuestionAnswer::Pong(pong) => Ok((start.elapsed(), pong)),
            _ => Err(RequestError::Unexpected { what: "something else than its clock" }),
        }
    }

    fn ask_question(&self, question: &Question, limit: Duration) -> Result<QuestionAnswer, RequestError> {
        let end = Instant::now() + limit.min(REQUEST_DEADLINE);
        let link = self.link_until(&self.home, end)?;
        ask(&link, question, limit)
    }

    /// Asks for output as it comes.
    pub(crate) fn start(&self, request: ClientRequest, limit: Duration) -> Result<OpenQuestion, RequestError> {
        let link = self.link_until(&self.home, Instant::now() + limit.min(REQUEST_DEADLINE))?;
        OpenQuestion::send(link, &Question::Control(request), REQUEST_DEADLINE)
    }
}

/// Asks over one connection, and waits for the answer.
pub(crate) fn ask(link: &Arc<Link>, question: &Question, limit: Duration) -> Result<QuestionAnswer, RequestError> {
    let open = OpenQuestion::send(Arc::clone(link), question, limit)?;
    match open.wait_for_answer(limit)? {
        Some(answer) => Ok(answer),
        None => Err(RequestError::TimedOut { waited_ms: milliseconds(limit) }),
    }
}

/// A question whose answer has not been taken.
pub(crate) struct OpenQuestion {
    link: Arc<Link>,
    /// `None` once it was answered.
    ticket: Mutex<Option<Ticket>>,
}

impl OpenQuestion {
    fn send(link: Arc<Link>, question: &Question, limit: Duration) -> Result<Self, RequestError> {
        let mut deadline = Deadline::from_now(limit);
        let ticket = loop {
            match link.send_question(question, &mut deadline) {
                Ok(ticket) => break ticket,
                Err(SendError::Full(Full { used, limit, .. })) => {
                    let bounded = |count| usize::try_from(count).unwrap_or(usize::MAX);
                    return Err(RequestError::TooManyOpen { used: bounded(used), limit: bounded(limit) });
                }
                Err(SendError::Over) => return Err(RequestError::ConnectionLost),
                Err(SendError::Busy) => {}
                Err(SendError::TimedOut | SendError::Interrupted) => {
                    return Err(RequestError::TimedOut { waited_ms: milliseconds(limit) });
                }
            }
        };
        Ok(Self { link, ticket: Mutex::new(Some(ticket)) })
    }

    /// Waits for the answer; `None` when `limit` passed first, and then it can be awaited again.
    pub(crate) fn wait(&self, limit: Duration) -> Result<Option<ServerMessage>, RequestError> {
        match self.wait_for_answer(limit)? {
            None => Ok(None),
            Some(QuestionAnswer::Message(message)) => Ok(Some(message)),
            Some(_) => Err(RequestError::Unexpected { what: "something else than what was asked" }),
        }
    }

    fn wait_for_answer(&self, limit: Duration) -> Result<Option<QuestionAnswer>, RequestError> {
        let mut ticket = lock(&self.ticket);
        let Some(open) = &*ticket else { return Err(RequestError::ConnectionLost) };
        let Some(settlement) = self.link.wait(open, &mut Deadline::from_now(limit)) else { return Ok(None) };
        *ticket = None;
        match settlement {
            Settlement::Answer(answer) => match *answer {
                QuestionAnswer::Refused(refusal) => Err(refused(refusal)),
                answer => Ok(Some(answer)),
            },
            Settlement::Response(..) => Err(RequestError::Unexpected { what: "a question as if it were a call" }),
            Settlement::NotTaken | Settlement::NeverSent | Settlement::Lost => Err(RequestError::ConnectionLost),
        }
    }
}

impl Drop for OpenQuestion {
    fn drop(&mut self) {
        if let Some(ticket) = lock(&self.ticket).take() {
            self.link.abandon(ticket);
        }
    }
}

/// A refusal as the error of a request.
pub(crate) fn refused(refusal: Refusal) -> RequestError {
    match refusal {
        Refusal::Control(error) => RequestError::Refused(error),
        Refusal::Moved { to } => RequestError::Moved { to },
        other => RequestError::RefusedOtherwise { what: other.to_string() },
    }
}

fn milliseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for RemoteClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RemoteClient")
            .field("addresses", &self.settings.addresses)
            .field("link", &self.home.link.current())
            .finish_non_exhaustive()
    }
}
