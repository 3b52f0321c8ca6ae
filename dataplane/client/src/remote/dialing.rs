//! From an address to a connection that was greeted: names are looked up, each address is tried for a bounded time, HELLO is
//! said, and if the caller wants a worker of its own, DEDICATE.
//!
//! Everything here is done by one thread before the connection is shared, so it blocks, each time to a deadline.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use praas_protocol::ProcessId;
use praas_protocol::control::ControlError;
use praas_protocol::wire::{
    Dedicate, Frame, HEADER_BYTES, HandedOver, Header, Hello, Refusal, Session, Side, WIRE_VERSION, Welcome,
    WindowLimits,
};
use rustix::net::{RecvFlags, sockopt};

use crate::error::ConnectError;
use crate::limits::{
    ADDRESSES_PER_NAME_MAX, CONNECT_DEADLINE, KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES, READ_TICK,
    UNACKNOWLEDGED_MAX,
};
use crate::remote::link::Link;
use crate::remote::reader::{Came, Reader};
use crate::remote::state::Violation;

/// What a server said of itself.
#[derive(Clone)]
pub(crate) struct Greeting {
    /// Where it was reached.
    pub(crate) address: String,
    /// Changes whenever the server program starts anew.
    pub(crate) incarnation: u64,
    /// Names the host and the server's data directory.
    pub(crate) host_id: [u8; 16],
    /// The server's Unix socket on that host; empty if it has none.
    pub(crate) socket_path: String,
    /// Most bytes of one payload.
    pub(crate) payload_bytes_max: u32,
    /// The worker's word, if one took the connection.
    pub(crate) handed_over: Option<HandedOver>,
}

impl fmt::Debug for Greeting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Greeting")
            .field("address", &self.address)
            .field("incarnation", &self.incarnation)
            .field("dedicated", &self.handed_over.is_some())
            .finish_non_exhaustive()
    }
}

/// How to dial.
pub(crate) struct Dialing<'a> {
    /// The token in text form.
    pub(crate) token: &'a str,
    /// Callers poll the socket instead of sleeping.
    pub(crate) spins: bool,
    /// Ask that a worker of this process takes the connection over, with these limits wanted (0: none).
    pub(crate) dedicate: Option<Wish>,
}

/// A process, and what is wanted of the way to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish {
    /// The process.
    pub(crate) process: ProcessId,
    /// Largest payload; 0 for the application's limit.
    pub(crate) payload_bytes_max: u32,
    /// Calls in flight; 0 for the server's choice.
    pub(crate) in_flight_max: u32,
}

/// Why a worker did not take a connection over.
#[derive(Debug)]
pub(crate) enum DialError {
    /// No connection came about.
    Connect(ConnectError),
    /// The server refused the hand-over.
    NotHandedOver(Refusal),
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

/// Tries each address in turn, each for a bounded time, all of them until `end`; at least one attempt is made.
pub(crate) fn dial(addresses: &[String], dialing: &Dialing<'_>, end: Instant) -> Result<Arc<Link>, DialError> {
    let mut failures = Vec::new();
    for address in addresses {
        if !failures.is_empty() && Instant::now() >= end {
            break;
        }
        match dial_one(address, dialing, end) {
            Ok(link) => return Ok(link),
            // The next address leads to the same service, which would refuse as well.
            Err(DialError::Connect(error)) if !error.is_final() => failures.push(error),
            Err(error) => return Err(error),
        }
    }
    let error = match failures.len() {
        1 => failures.remove(0),
        _ => ConnectError::NoneReachable {
            attempts: failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        },
    };
    Err(error.into())
}

fn dial_one(address: &str, dialing: &Dialing<'_>, end: Instant) -> Result<Arc<Link>, DialError> {
    let failed = |source| ConnectError::Unreachable { address: address.to_owned(), source };
    let limit = |now: Instant| CONNECT_DEADLINE.min(end.saturating_duration_since(now)).max(SHORTEST_ATTEMPT);
    let found = resolve(address, limit(Instant::now())).map_err(failed)?;
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for socket_address in found {
        let now = Instant::now();
        let attempt_end = now + limit(now);
        match TcpStream::connect_timeout(&socket_address, limit(now)) {
            Ok(socket) => {
                prepare(&socket).map_err(failed)?;
                return greet(socket, address, dialing, attempt_end);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last).into())
}

/// What even a late attempt gets: a local network answers within it.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(20);

/// The addresses of a name. The system's resolver knows no deadline, so it runs on a thread of its own, which is left
/// behind when it takes too long.
fn resolve(address: &str, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let (sender, receiver) = sync_channel(1);
    let name = address.to_owned();
    thread::Builder::new().name("praas-resolver".into()).spawn(move || {
        let found = name.to_socket_addrs().map(|found| found.take(ADDRESSES_PER_NAME_MAX).collect());
        // Nobody may be waiting any more.
        let _ = sender.send(found);
    })?;
    let late = |_| io::Error::new(ErrorKind::TimedOut, "the name was not resolved in time");
    receiver.recv_timeout(limit).map_err(late)?
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// A connection before it is shared.
struct Fresh<'a> {
    socket: TcpStream,
    address: &'a str,
    session: Session,
    reader: Reader,
    end: Instant,
}

fn greet(socket: TcpStream, address: &str, dialing: &Dialing<'_>, end: Instant) -> Result<Arc<Link>, DialError> {
    let mut fresh = Fresh { socket, address, session: Session::new(Side::Client), reader: Reader::new(), end };
    let mut greeting = fresh.say_hello(dialing.token)?;
    if let Some(wish) = &dialing.dedicate {
        greeting.handed_over = Some(fresh.ask_for_worker(wish)?);
    }
    fresh.socket.set_read_timeout(Some(READ_TICK)).map_err(|error| fresh.failed(error))?;
    let Fresh { socket, session, reader, .. } = fresh;
    Ok(Link::new(socket, session, reader, greeting, dialing.spins))
}

/// The answers that are expected before a connection is shared.
enum Reply {
    Welcome(Box<Greeting>, WindowLimits),
    WrongVersion(u16),
    HandedOver(HandedOver),
    Refused(Refusal),
    Goaway(String),
}

impl Fresh<'_> {
    fn say_hello(&mut self, token: &str) -> Result<Greeting, DialError> {
        let hello =
            Hello { version_min: WIRE_VERSION, version_max: WIRE_VERSION, features: 0, reply_window_bytes: 0, token };
        let mut frame = Vec::new();
        hello.encode(&mut frame).map_err(|error| self.broken(error))?;
        self.say(&frame)?;
        match self.next_reply()? {
            Reply::Welcome(greeting, limits) => {
                self.session.set_limits(limits);
                self.reader.set_payload_bytes_max(greeting.payload_bytes_max);
                Ok(*greeting)
            }
            Reply::WrongVersion(version) => {
                let (server, client) = (u32::from(version), u32::from(WIRE_VERSION));
                Err(ConnectError::Refused(ControlError::WrongVersion { server, client }).into())
            }
            Reply::Refused(Refusal::Control(refusal)) => Err(ConnectError::Refused(refusal).into()),
            Reply::Refused(refusal) => Err(self.broken(refusal).into()),
            Reply::Goaway(message) => Err(self.broken(format_args!("it said goodbye: {message}")).into()),
            Reply::HandedOver(_) => Err(self.broken("it handed over what it had not welcomed").into()),
        }
    }

    fn ask_for_worker(&mut self, wish: &Wish) -> Result<HandedOver, DialError> {
        let dedicate = Dedicate {
            request_id: 1,
            process: wish.process,
            payload_bytes_max: wish.payload_bytes_max,
            in_flight_max: wish.in_flight_max,
        };
        let mut frame = Vec::new();
        dedicate.encode(&mut frame);
        self.say(&frame)?;
        match self.next_reply()? {
            Reply::HandedOver(answer) => {
                self.session.set_limits(WindowLimits { calls: answer.in_flight_max, bytes: answer.window_bytes });
                self.reader.set_payload_bytes_max(answer.payload_bytes_max);
                Ok(answer)
            }
            Reply::Refused(refusal) => Err(DialError::NotHandedOver(refusal)),
            Reply::Goaway(_) => Err(DialError::NotHandedOver(Refusal::Control(ControlError::ShuttingDown))),
            Reply::Welcome(..) | Reply::WrongVersion(_) => Err(self.broken("it said WELCOME twice").into()),
        }
    }

    fn say(&mut self, frame: &[u8]) -> Result<(), ConnectError> {
        if let Some(header) = frame.first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(header).map_err(|error| self.broken(error))?;
            // Our own frame in its place: it is accepted.
            let _ = self.session.show(Side::Client, &header).map_err(|error| self.broken(error))?;
        }
        let limit = self.left();
        let sent = self.socket.set_write_timeout(Some(limit)).and_then(|()| (&self.socket).write_all(frame));
        match sent {
            Ok(()) => Ok(()),
            // A server that refuses a connection answers and closes without reading: its answer is the better word.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    fn next_reply(&mut self) -> Result<Reply, ConnectError> {
        loop {
            if Instant::now() >= self.end {
                return Err(self.failed(io::Error::new(ErrorKind::TimedOut, "it did not answer in time")));
            }
            self.socket.set_read_timeout(Some(self.left())).map_err(|error| self.failed(error))?;
            let came = self.reader.receive(&self.socket, RecvFlags::empty());
            match came.map_err(|error| self.failed(error))? {
                Came::Buffered(count) => {
                    let (session, address) = (&mut self.session, self.address);
                    let found = self.reader.next_control(count, |header, frame| reply(session, address, header, frame));
                    if let Some(reply) = found.map_err(|violation| self.broken(violation))? {
                        return Ok(reply);
                    }
                }
                Came::End => return Err(self.broken("it closed the connection")),
                Came::Nothing | Came::Direct(_) => {}
            }
        }
    }

    fn broken(&self, what: impl fmt::Display) -> ConnectError {
        ConnectError::Greeting { address: self.address.to_owned(), what: what.to_string() }
    }

    fn failed(&self, source: io::Error) -> ConnectError {
        ConnectError::Unreachable { address: self.address.to_owned(), source }
    }
}

fn reply(session: &mut Session, address: &str, header: &Header, frame: &Frame<'_>) -> Result<Option<Reply>, Violation> {
    let _ = session.show(Side::Server, header)?;
    Ok(match frame {
        Frame::Welcome(welcome) if welcome.version != WIRE_VERSION => Some(Reply::WrongVersion(welcome.version)),
        Frame::Welcome(welcome) => Some(Reply::Welcome(Box::new(greeting(address, welcome)), window(welcome))),
        Frame::HandedOver(answer) => Some(Reply::HandedOver(*answer)),
        Frame::Refused(refused) => Some(Reply::Refused(refused.refusal()?)),
        Frame::Goaway(goaway) => Some(Reply::Goaway(goaway.message.to_owned())),
        _ => None,
    })
}

fn greeting(address: &str, welcome: &Welcome<'_>) -> Greeting {
    Greeting {
        address: address.to_owned(),
        incarnation: welcome.incarnation,
        host_id: welcome.host_id,
        socket_path: welcome.socket_path.to_owned(),
        payload_bytes_max: welcome.payload_bytes_max,
        handed_over: None,
    }
}

fn window(welcome: &Welcome<'_>) -> WindowLimits {
    WindowLimits { calls: welcome.in_flight_max, bytes: welcome.window_bytes }
}
