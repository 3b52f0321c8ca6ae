//! What people and programs ask of a server beside calls: processes, applications, captured output.

use std::time::{Duration, Instant};

use praas_protocol::control::{ClientRequest, ProcessStats, ProcessStatus, ServerMessage};
use praas_protocol::{Name, ProcessId};

use crate::client::{Client, ClientShared, ClientWay, request_end};
use crate::error::RequestError;
use crate::limits::{LIST_PAGES_MAX, REQUEST_DEADLINE};
use crate::options::Settings;
use crate::remote::OpenQuestion;
use crate::session::{ControlAnswer, OpenRequest};

/// One page of a process list.
#[derive(Debug, Clone)]
pub struct ProcessPage {
    /// The processes, in order of their ids.
    pub processes: Vec<ProcessStatus>,
    /// Whether further ones follow; ask for those after the last of this page.
    pub more: bool,
}

/// A piece of a process' captured output.
#[derive(Debug, Clone)]
pub struct OutputChunk {
    /// Position of its first byte in the stream of all output; larger than asked for when older output was dropped.
    pub position: u64,
    /// The output.
    pub bytes: Vec<u8>,
    /// Whether the process has ended and nothing follows.
    pub ended: bool,
}

/// How long a server took to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerPing {
    /// From the question to the answer, by this client's clock.
    pub round_trip: Duration,
    /// How much of it passed within the server, by its own clock; `None` on a control socket, which has no such question.
    pub in_server: Option<Duration>,
}

impl Client {
    /// Creates a process; returns when its first workers are ready.
    ///
    /// # Errors
    /// [`RequestError`]: the application is unknown, the process exists, a limit is reached, or its workers do not start.
    pub fn create(&self, process: ProcessId) -> Result<(), RequestError> {
        self.lifecycle(&ClientRequest::ProcessCreate { process, idle_swap_ms: None })
    }

    /// Drains and ends a process; returns when nothing of it is left.
    ///
    /// # Errors
    /// [`RequestError`], for example when there is no such process.
    pub fn stop(&self, process: ProcessId) -> Result<(), RequestError> {
        self.lifecycle(&ClientRequest::ProcessStop { process })
    }

    /// Drains a process and replaces its workers; returns when the new ones are ready.
    ///
    /// # Errors
    /// [`RequestError`], for example when there is no such process.
    pub fn restart(&self, process: ProcessId) -> Result<(), RequestError> {
        self.lifecycle(&ClientRequest::ProcessRestart { process })
    }

    /// One page of the processes that the token covers, after `after`.
    ///
    /// # Errors
    /// [`RequestError`] when the server does not answer or the token gives no right.
    pub fn list_page(&self, after: Option<ProcessId>) -> Result<ProcessPage, RequestError> {
        match self.ask(&ClientRequest::ProcessList { after }, REQUEST_DEADLINE)? {
            ServerMessage::Processes { processes, more, .. } => Ok(ProcessPage { processes, more }),
            _ => Err(RequestError::Unexpected { what: "something else than a list of processes" }),
        }
    }

    /// All processes that the token covers.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// for status in client.list()? {
    ///     println!("{} {:?} {} workers", status.process, status.state, status.workers);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RequestError`] when the server does not answer or the token gives no right.
    pub fn list(&self) -> Result<Vec<ProcessStatus>, RequestError> {
        let mut all: Vec<ProcessStatus> = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            let page = self.list_page(all.last().map(|last| last.process))?;
            let more = page.more && !page.processes.is_empty();
            all.extend(page.processes);
            if !more {
                return Ok(all);
            }
        }
        Err(RequestError::Unexpected { what: "more pages of processes than a server can have" })
    }

    /// What is counted of a process since it was created; asking stops nobody.
    ///
    /// ```no_run
    /// # let client = praas_client::Client::connect_default()?;
    /// for function in client.stats("hello/alice".parse()?)?.functions {
    ///     println!("{}: {} calls, half within {} ns", function.function, function.calls, function.p50_ns);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RequestError`], for example when there is no such process.
    pub fn stats(&self, process: ProcessId) -> Result<ProcessStats, RequestError> {
        match self.ask(&ClientRequest::ProcessStats { process }, REQUEST_DEADLINE)? {
            ServerMessage::Stats { stats, .. } => Ok(stats),
            _ => Err(RequestError::Unexpected { what: "something else than counts" }),
        }
    }

    /// The applications that the server serves.
    ///
    /// # Errors
    /// [`RequestError`] when the server does not answer.
    pub fn applications(&self) -> Result<Vec<Name>, RequestError> {
        match self.ask(&ClientRequest::ApplicationList, REQUEST_DEADLINE)? {
            ServerMessage::Applications { applications, .. } => Ok(applications),
            _ => Err(RequestError::Unexpected { what: "something else than a list of applications" }),
        }
    }

    /// Captured output of a process from byte `from` on, as far as there is some now.
    ///
    /// # Errors
    /// [`RequestError`], for example when there is no such process.
    pub fn output(&self, process: ProcessId, from: u64) -> Result<OutputChunk, RequestError> {
        let request = ClientRequest::ProcessOutput { process, from, follow: false };
        output_chunk(self.ask(&request, REQUEST_DEADLINE)?)
    }

    /// The captured output of a process from byte `from` on, as it comes.
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::time::Duration;
    /// # let client = praas_client::Client::connect_default()?;
    /// let mut output = client.follow_output("hello/alice".parse()?, 0);
    /// loop {
    ///     let Some(chunk) = output.next(Duration::from_secs(1))? else { continue };
    ///     std::io::stdout().write_all(&chunk.bytes)?;
    ///     if chunk.ended {
    ///         break;
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn follow_output(&self, process: ProcessId, from: u64) -> OutputFollower {
        OutputFollower { client: self.clone(), process, position: from, outstanding: None }
    }

    /// One round trip to the server itself, without any process.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # let client = praas_client::Client::connect_default()?;
    /// println!("{:?}", client.ping(Duration::from_secs(1))?.round_trip);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RequestError`] when the server does not answer within `limit`.
    pub fn ping(&self, limit: Duration) -> Result<ServerPing, RequestError> {
        match self.way() {
            ClientWay::Local(_) => {
                let start = Instant::now();
                self.ask(&ClientRequest::ApplicationList, limit)?;
                Ok(ServerPing { round_trip: start.elapsed(), in_server: None })
            }
            ClientWay::Remote(remote) => {
                let (round_trip, pong) = remote.ping(limit)?;
                let in_server = Duration::from_nanos(pong.sent_ns.saturating_sub(pong.received_ns));
                Ok(ServerPing { round_trip, in_server: Some(in_server) })
            }
        }
    }

    pub(crate) fn lifecycle(&self, request: &ClientRequest) -> Result<(), RequestError> {
        let limit = self.settings().lifecycle_deadline;
        match self.ask(request, limit)? {
            ServerMessage::Done { .. } => Ok(()),
            _ => Err(RequestError::Unexpected { what: "something else than that it is done" }),
        }
    }
}

impl Client {
    fn settings(&self) -> &Settings {
        match &self.way {
            ClientWay::Local(shared) => shared.settings(),
            ClientWay::Remote(remote) => remote.settings(),
        }
    }

    /// Asks the server, wherever it is; the request is sent once.
    pub(crate) fn ask(&self, body: &ClientRequest, limit: Duration) -> Result<ServerMessage, RequestError> {
        self.by_the_way(|way| match way {
            ClientWay::Local(shared) => shared.ask(body.clone(), limit).map(|answer| answer.message),
            ClientWay::Remote(remote) => remote.ask(body.clone(), limit),
        })
    }

    /// Asks something that may be answered much later; the request is sent within `limit`.
    pub(crate) fn start(&self, body: &ClientRequest, limit: Duration) -> Result<Outstanding, RequestError> {
        self.by_the_way(|way| match way {
            ClientWay::Local(shared) => {
                let session = shared.session_until(request_end(limit.min(REQUEST_DEADLINE)))?;
                session.start(body.clone()).map(Outstanding::Local)
            }
            ClientWay::Remote(remote) => remote.start(body.clone(), limit).map(Outstanding::Remote),
        })
    }
}

impl ClientShared {
    /// Sends a request over the connection, made again if needed, and waits for its answer. It is sent once.
    fn ask(&self, body: ClientRequest, limit: Duration) -> Result<ControlAnswer, RequestError> {
        self.session_until(request_end(limit.min(REQUEST_DEADLINE)))?.ask(body, limit)
    }
}

/// Reads a process' output as it comes. A request that found nothing yet stays open between two reads.
pub struct OutputFollower {
    client: Client,
    process: ProcessId,
    position: u64,
    outstanding: Option<Outstanding>,
}

/// A request that was sent and not answered yet.
pub(crate) enum Outstanding {
    Local(OpenRequest),
    Remote(OpenQuestion),
}

impl Outstanding {
    /// The answer; `None` when it did not come within `limit`, and may come yet.
    pub(crate) fn wait(&self, limit: Duration) -> Result<Option<ServerMessage>, RequestError> {
        match self {
            Self::Local(request) => Ok(request.wait(limit)?.map(|answer| answer.message)),
            Self::Remote(question) => question.wait(limit),
        }
    }
}

impl OutputFollower {
    /// The next piece; `None` when nothing came within `limit`.
    ///
    /// # Errors
    /// [`RequestError`]. After a lost connection the next read connects again and goes on at the same position.
    pub fn next(&mut self, limit: Duration) -> Result<Option<OutputChunk>, RequestError> {
        let request = match self.outstanding.take() {
            Some(request) => request,
            None => self.ask_for_more(limit)?,
        };
        match request.wait(limit)? {
            Some(answer) => {
                let chunk = output_chunk(answer)?;
                self.position = chunk.position.saturating_add(chunk.bytes.len() as u64);
                Ok(Some(chunk))
            }
            None => {
                self.outstanding = Some(request);
                Ok(None)
            }
        }
    }

    /// Position of the byte that comes next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    fn ask_for_more(&self, limit: Duration) -> Result<Outstanding, RequestError> {
        let request = ClientRequest::ProcessOutput { process: self.process, from: self.position, follow: true };
        self.client.start(&request, limit)
    }
}

impl std::fmt::Debug for OutputFollower {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OutputFollower")
            .field("process", &self.process)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

fn output_chunk(answer: ServerMessage) -> Result<OutputChunk, RequestError> {
    match answer {
        ServerMessage::Output { position, bytes, ended, .. } => Ok(OutputChunk { position, bytes, ended }),
        _ => Err(RequestError::Unexpected { what: "something else than output" }),
    }
}
