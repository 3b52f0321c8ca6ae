//! iceoryx2's request-response between two processes, as its own benchmark sets it up: one client, one server, no queue longer
//! than it has to be; both poll without a pause. The next request's memory is taken while the server works on the last one.
//!
//! Its files and segments carry the name of a private directory and go with it. Between rounds the server sleeps in a socket.

use std::fmt::{Debug, Display};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ::iceoryx2::port::client::Client;
use ::iceoryx2::port::server::Server;
use ::iceoryx2::prelude::{
    Alignment, Config, FileName, LogLevel, Node, NodeBuilder, Path as IceoryxPath, SemanticString, ServiceName,
    SignalHandlingMode, ipc, set_log_level,
};
use ::iceoryx2::service::port_factory::request_response::PortFactory;
use praas_benches::floors::{Batch, Pinned, Placement, Samples, timed};
use praas_benches::interleave::{Series, SeriesError};

use super::control::{Control, END};
use super::server::ServerProgram;
use super::{BaselineError, echo_payload, role};

pub(super) const ROLE: &str = "iceoryx2-echo";
const NAME: &str = "iceoryx2";
const SERVICE: &str = "praas-perf/echo";
/// Where its files are, in the private directory.
const FILES: &str = "iceoryx2";
/// Where the kernel shows POSIX shared memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// The longest that a round may take.
const ROUND_PATIENCE: Duration = Duration::from_secs(60);
/// The clock is read once in so many polls: so rarely that no call meets it.
const POLLS_A_READING: u32 = 1 << 16;
/// A request that is being answered, and the one that is built meanwhile.
const REQUESTS_MAX: usize = 2;

type Service<const BYTES: usize> = PortFactory<ipc::Service, [u8; BYTES], (), [u8; BYTES], ()>;

fn failed<E: Debug>(action: &'static str) -> impl FnOnce(E) -> BaselineError {
    move |error| BaselineError::System { action, source: io::Error::other(format!("{NAME}: {error:?}")) }
}

/// A configuration whose files are in `directory`, and whose segments carry its name.
fn config(directory: &Path) -> Result<Config, BaselineError> {
    let files = directory.join(FILES);
    let mut config = Config::default();
    config.global.prefix = FileName::new(prefix(directory).as_bytes()).map_err(failed("name its segments"))?;
    let path = IceoryxPath::new(files.as_os_str().as_encoded_bytes()).map_err(failed("name its directory"))?;
    config.global.set_root_path(&path);
    Ok(config)
}

/// What the names of its segments begin with: the directory's own, which no other is called.
fn prefix(directory: &Path) -> String {
    format!("{}_", directory.file_name().and_then(|name| name.to_str()).unwrap_or_default())
}

fn node(directory: &Path) -> Result<Node<ipc::Service>, BaselineError> {
    set_log_level(LogLevel::Error);
    let config = config(directory)?;
    // Ctrl-C stays this program's own.
    let builder = NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled);
    builder.create::<ipc::Service>().map_err(failed("make a node"))
}

fn service<const BYTES: usize>(node: &Node<ipc::Service>) -> Result<Service<BYTES>, BaselineError> {
    let name = ServiceName::new(SERVICE).map_err(failed("name its service"))?;
    let alignment = Alignment::new(64).expect("a power of two");
    node.service_builder(&name)
        .request_response::<[u8; BYTES], [u8; BYTES]>()
        .request_payload_alignment(alignment)
        .response_payload_alignment(alignment)
        .max_clients(1)
        .max_servers(1)
        .max_loaned_requests(REQUESTS_MAX)
        .max_active_requests_per_client(REQUESTS_MAX)
        .max_response_buffer_size(1)
        .open_or_create()
        .map_err(failed("open its service"))
}

/// Polls until there is something.
#[inline]
fn poll_until<T>(
    deadline: Instant,
    mut poll: impl FnMut() -> Result<Option<T>, BaselineError>,
) -> Result<T, BaselineError> {
    let mut polls = 0_u32;
    loop {
        if let Some(found) = poll()? {
            return Ok(found);
        }
        polls = polls.wrapping_add(1);
        if polls.is_multiple_of(POLLS_A_READING) && Instant::now() > deadline {
            return Err(overdue());
        }
    }
}

#[cold]
fn overdue() -> BaselineError {
    let reason = format!("no answer in the {ROUND_PATIENCE:?} of a round");
    BaselineError::System {
        action: "finish a round of iceoryx2",
        source: io::Error::new(io::ErrorKind::TimedOut, reason),
    }
}

/// A client and its server, which is a process of its own.
#[derive(Debug)]
pub struct Iceoryx2<const BYTES: usize> {
    placement: Placement,
    number: u64,
    client: Client<ipc::Service, [u8; BYTES], (), [u8; BYTES], ()>,
    _service: Service<BYTES>,
    _node: Node<ipc::Service>,
    control: Control,
    server: ServerProgram,
    // Last, when nobody uses any.
    _segments: Segments,
}

/// The shared memory whose names begin so. What two nodes share is left behind by both of them.
#[derive(Debug)]
struct Segments {
    prefix: String,
}

impl Drop for Segments {
    fn drop(&mut self) {
        let entries = fs::read_dir(SHARED_MEMORY).into_iter().flatten().flatten();
        let is_ours = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(self.prefix.as_bytes());
        // One that is gone already is what is wanted.
        entries.filter(|entry| is_ours(&entry.file_name())).for_each(|entry| drop(fs::remove_file(entry.path())));
    }
}

impl<const BYTES: usize> Iceoryx2<BYTES> {
    /// Starts the server and connects to it.
    ///
    /// # Errors
    /// Any [`BaselineError`].
    pub fn open(placement: Placement) -> Result<Self, BaselineError> {
        Self::open_by(&role::this_program(), placement)
    }

    /// The same with another program whose `main` calls [`role::serve_role_if_asked`].
    ///
    /// # Errors
    /// As [`Iceoryx2::open`].
    pub fn open_by(program: &Path, placement: Placement) -> Result<Self, BaselineError> {
        let launch = role::launch(NAME, program, ROLE)?.arg(BYTES.to_string()).cpu(placement.peer_cpu());
        let directory = launch.directory().to_owned();
        let _segments = Segments { prefix: prefix(&directory) };
        let (server, control) = launch.start(|| Control::connect(&directory))?;
        let node = node(&directory)?;
        let service = service::<BYTES>(&node)?;
        let client = service.client_builder().create().map_err(failed("make a client"))?;
        Ok(Self { placement, number: 0, client, _service: service, _node: node, control, server, _segments })
    }

    /// The directory of its files, whose name all that it makes begins with.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    fn calls(&mut self, batch: Batch) -> Result<Samples, BaselineError> {
        let Self { client, number, .. } = self;
        let deadline = Instant::now() + ROUND_PATIENCE;
        let loan = || client.loan_uninit().map_err(failed("take memory for a request"));
        let mut next = Some(loan()?);
        timed(batch, || {
            *number += 1;
            let request = match next.take() {
                Some(request) => request,
                None => loan()?,
            };
            let request = request.write_payload(echo_payload::filled::<BYTES>(*number));
            let pending = request.send().map_err(failed("send a request"))?;
            next = Some(loan()?);
            let answer = poll_until(deadline, || pending.receive().map_err(failed("receive an answer")))?;
            echo_payload::check::<BYTES>(NAME, *number, answer.payload())
        })
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, BaselineError> {
        let _pinned = Pinned::to(self.placement.caller_cpu()).map_err(failed("pin a thread"))?;
        let order = batch.operations().to_string();
        self.control.say(&order).map_err(BaselineError::system("begin a round"))?;
        let samples = self.calls(batch);
        // In any case: a server that is in the middle of a round has to come to its end.
        let done = self.control.hear(Some(ROUND_PATIENCE)).map_err(BaselineError::system("end a round"))?;
        let samples = samples?;
        if done.as_deref() == Some(&order) {
            return Ok(samples);
        }
        let answered = |words: Option<String>| words.unwrap_or_else(|| format!("nothing{}", self.server.log_end()));
        Err(BaselineError::WrongAnswer { system: NAME, expected: format!("{order} answers"), actual: answered(done) })
    }
}

impl<const BYTES: usize> Series for Iceoryx2<BYTES> {
    fn label(&self) -> String {
        format!("{NAME} request-response, {}", self.placement)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

impl<const BYTES: usize> Drop for Iceoryx2<BYTES> {
    fn drop(&mut self) {
        // So that it removes its segments.
        self.control.end();
    }
}

/// The server's process; its word is the payload's size.
pub(super) fn serve(words: &[String]) -> Result<(), BaselineError> {
    match words.first().map(String::as_str) {
        Some("64") => serve_rounds::<64>(),
        Some("1024") => serve_rounds::<1024>(),
        other => Err(unknown_size(other.unwrap_or("none"))),
    }
}

fn unknown_size(size: impl Display) -> BaselineError {
    let source =
        io::Error::new(io::ErrorKind::InvalidInput, format!("no server is built for payloads of {size} bytes"));
    BaselineError::System { action: "serve iceoryx2", source }
}

fn serve_rounds<const BYTES: usize>() -> Result<(), BaselineError> {
    let directory = std::env::current_dir().map_err(BaselineError::system("find the directory"))?;
    let node = node(&directory)?;
    let service = service::<BYTES>(&node)?;
    let server = service.server_builder().create().map_err(failed("make a server"))?;
    let mut control = Control::accept().map_err(BaselineError::system("await the client"))?;
    while let Some(order) = control.hear(None).map_err(BaselineError::system("hear an order"))? {
        if order == END {
            break;
        }
        let answers = order.parse().map_err(|_| unknown_size(&order))?;
        answer(&server, answers)?;
        control.say(&order).map_err(BaselineError::system("end a round"))?;
    }
    Ok(())
}

fn answer<const BYTES: usize>(
    server: &Server<ipc::Service, [u8; BYTES], (), [u8; BYTES], ()>,
    answers: u64,
) -> Result<(), BaselineError> {
    let deadline = Instant::now() + ROUND_PATIENCE;
    for _ in 0..answers {
        let request = poll_until(deadline, || server.receive().map_err(failed("receive a request")))?;
        let answer = request.loan_uninit().map_err(failed("take memory for an answer"))?;
        answer.write_payload(*request.payload()).send().map_err(failed("send an answer"))?;
    }
    Ok(())
}
