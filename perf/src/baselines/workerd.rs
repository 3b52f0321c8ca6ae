//! workerd, the server of Cloudflare Workers, with a worker and a Durable Object that answer their input (`perf/peers`).
//!
//! It listens on a Unix socket. Both sides block. Beside calls from outside, over HTTP, the object is called by its worker,
//! which is in the same process and thread: what its users have at best.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use praas_benches::floors::{Batch, Pinned, Placement, Samples, timed, timed_groups};
use praas_benches::interleave::{Series, SeriesError};

use super::http::HttpConnection;
use super::server::{Launch, ServerProgram, version_line};
use super::{BaselineError, echo_payload, install};

const NAME: &str = "workerd";
/// What `perf/setup` calls it.
const PART: &str = "workerd";
/// The program in the private folder: the one of the package for this machine, which the package `workerd` starts.
const PROGRAM: &str = if cfg!(target_arch = "aarch64") {
    "workerd/node_modules/@cloudflare/workerd-linux-arm64/bin/workerd"
} else {
    "workerd/node_modules/@cloudflare/workerd-linux-64/bin/workerd"
};
const CONFIGURATION: (&str, &str) = ("echo.capnp", include_str!("../../peers/echo.capnp"));
const MODULE: (&str, &str) = ("echo.js", include_str!("../../peers/echo.js"));
/// Its socket, in its directory.
const SOCKET: &str = "http";
/// Longest wait for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// Calls that a worker makes of its object for one sample, which share the cost of the one request that has it do so.
pub const CALLS_PER_SAMPLE: u64 = 500;

/// How the echo is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A worker that keeps nothing, over HTTP.
    Stateless,
    /// The object, over HTTP by way of its worker.
    Object,
    /// The object, by its worker: a sample is the mean of [`CALLS_PER_SAMPLE`] calls.
    ObjectFromWorker,
}

/// A running workerd.
#[derive(Debug)]
pub struct Workerd {
    version: String,
    placement: Placement,
    server: ServerProgram,
}

impl Workerd {
    /// Starts it on the peer's core.
    ///
    /// # Errors
    /// [`BaselineError::NotInstalled`] and the like.
    pub fn start(placement: Placement) -> Result<Self, BaselineError> {
        let program = install::file(Path::new(PROGRAM), NAME, PART)?;
        let version = version_line(NAME, &program, "--version")?;
        let launch = Launch::new(NAME, program)?;
        for (name, content) in [CONFIGURATION, MODULE] {
            fs::write(launch.directory().join(name), content)
                .map_err(BaselineError::system("write its configuration"))?;
        }
        let socket = launch.directory().join(SOCKET);
        let launch = launch.args(["serve", CONFIGURATION.0, "--socket-addr"]);
        let launch = launch.arg(format!("http=unix:{}", socket.display())).cpu(placement.peer_cpu());
        let (server, _) = launch.start(|| connect(&socket)?.post("/object", b"up?").map(|_| ()))?;
        let version = version.strip_prefix("workerd ").map_or(version.clone(), str::to_owned);
        Ok(Self { version, placement, server })
    }

    /// As it says itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its working directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// A series of echoes of `BYTES` bytes over a connection of its own.
    ///
    /// # Errors
    /// [`BaselineError::System`] if it cannot be connected to.
    pub fn echo<const BYTES: usize>(self: &Rc<Self>, way: Way) -> Result<WorkerdEcho<BYTES>, BaselineError> {
        let connection = connect(&self.socket()).map_err(BaselineError::system("connect to workerd"))?;
        Ok(WorkerdEcho { way, number: 0, connection, workerd: Rc::clone(self) })
    }

    fn socket(&self) -> PathBuf {
        self.server.directory().join(SOCKET)
    }
}

fn connect(socket: &Path) -> std::io::Result<HttpConnection> {
    HttpConnection::connect(socket, ANSWER_PATIENCE)
}

/// Echoes of `BYTES` bytes.
#[derive(Debug)]
pub struct WorkerdEcho<const BYTES: usize> {
    way: Way,
    number: u64,
    connection: HttpConnection,
    workerd: Rc<Workerd>,
}

impl<const BYTES: usize> WorkerdEcho<BYTES> {
    fn over_http(&mut self, path: &str, batch: Batch) -> Result<Samples, BaselineError> {
        timed(batch, || {
            self.number += 1;
            let payload = echo_payload::filled::<BYTES>(self.number);
            let answer = self.connection.post(path, &payload).map_err(BaselineError::system("call workerd"))?;
            echo_payload::check::<BYTES>(NAME, self.number, answer)
        })
    }

    fn by_its_worker(&mut self, batch: Batch) -> Result<Samples, BaselineError> {
        let path = format!("/calls?calls={CALLS_PER_SAMPLE}&bytes={BYTES}");
        let expected = CALLS_PER_SAMPLE.to_string();
        timed_groups(batch, CALLS_PER_SAMPLE, || {
            let answer = self.connection.post(&path, b"").map_err(BaselineError::system("call workerd"))?;
            if answer == expected.as_bytes() {
                return Ok(());
            }
            let actual = String::from_utf8_lossy(answer).into_owned();
            Err(BaselineError::WrongAnswer { system: NAME, expected: expected.clone(), actual })
        })
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, BaselineError> {
        let placement = self.workerd.placement;
        let _pinned = Pinned::to(placement.caller_cpu())
            .map_err(|error| BaselineError::System { action: "pin a thread", source: std::io::Error::other(error) })?;
        match self.way {
            Way::Stateless => self.over_http("/stateless", batch),
            Way::Object => self.over_http("/object", batch),
            Way::ObjectFromWorker => self.by_its_worker(batch),
        }
    }
}

impl<const BYTES: usize> Series for WorkerdEcho<BYTES> {
    fn label(&self) -> String {
        format!("{NAME}, {:?}", self.way)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}
