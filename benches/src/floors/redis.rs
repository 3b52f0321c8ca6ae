//! Redis on the same machine, measured by its own `redis-benchmark`: what people have who ask for calls a second.
//!
//! A server of its own on a free port of loopback, which keeps nothing on disk. It dies with the thread that started it,
//! and is killed by its process id when dropped. Programs are found on the search path; where they are not installed, the
//! error says how to install them.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};

use super::peer::kill;
use super::placement::Pinned;
use super::watch::wait_readable;
use super::{Batch, Config, Crowd, FloorError, Samples};
use crate::interleave::{Series, SeriesError};

const NAME: &str = "Redis GET by redis-benchmark";
pub(super) const SERVER: &str = "redis-server";
const BENCHMARK: &str = "redis-benchmark";
/// Requests of a round: a few tenths of a second, because `redis-benchmark` counts in milliseconds.
const REQUESTS: u64 = 200_000;
/// Bytes of the value.
const VALUE_BYTES: usize = 64;
/// Ports tried: another program may take the one that was found free.
const PORTS_TRIED: u32 = 5;
/// How long the server may take to answer first.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is asked.
const START_POLL: Duration = Duration::from_millis(10);
/// The longest that a run of the benchmark may take: a hundred times what it takes.
const RUN_PATIENCE: Duration = Duration::from_secs(60);

/// A running Redis; ended when dropped. Not `Send`: the kernel ties the server to the thread that started it.
#[derive(Debug)]
pub struct Redis {
    // Killed when dropped.
    _server: Program,
    port: u16,
    config: Config,
    on_this_thread: PhantomData<*const ()>,
}

impl Redis {
    /// Starts a server on the peer's core and stores the value that is asked for.
    ///
    /// # Errors
    /// [`FloorError::NotInstalled`] where Redis is not, or [`FloorError::OtherProgram`] if it does not work.
    pub fn start(config: &Config) -> Result<Self, FloorError> {
        for _ in 0..PORTS_TRIED {
            let port = free_port().map_err(FloorError::system("find a free port"))?;
            let server = start_server(port, config.placement.peer_cpu())?;
            if answers(&server, || ping(port))? {
                let redis = Self { _server: server, port, config: config.clone(), on_this_thread: PhantomData };
                redis.benchmark("set", 1_000)?;
                return Ok(redis);
            }
        }
        Err(other_program(SERVER, format!("it ended at once on {PORTS_TRIED} ports")))
    }

    /// One run of the benchmark: one sample, which spans all its requests.
    ///
    /// # Errors
    /// [`FloorError::OtherProgram`] if it fails or says something else than its figures.
    pub fn round(&mut self) -> Result<Samples, FloorError> {
        let per_second = self.benchmark("get", REQUESTS)?;
        let mut samples = Samples::empty(REQUESTS);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        // Less than a minute, and positive: `parse_per_second` saw to it.
        samples.record((REQUESTS as f64 * 1e9 / per_second) as u64);
        Ok(samples)
    }

    /// What is run: for the words of a row.
    #[must_use]
    pub fn command() -> String {
        let Crowd { connections, in_flight } = Crowd::THROUGHPUT;
        format!("{BENCHMARK} -c {connections} -P {in_flight} -d {VALUE_BYTES} -t get")
    }

    /// Requests a second of one run.
    fn benchmark(&self, test: &str, requests: u64) -> Result<f64, FloorError> {
        let Crowd { connections, in_flight } = Crowd::THROUGHPUT;
        let mut command = Command::new(BENCHMARK);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-t", test, "-n", &requests.to_string()]);
        command.args(["-c", &connections.to_string(), "-P", &in_flight.to_string(), "-d", &VALUE_BYTES.to_string()]);
        command.arg("--csv").stdout(Stdio::piped());
        let mut program = Program::start(command, self.config.placement.caller_cpu())?;
        let text = program.output(RUN_PATIENCE)?;
        parse_per_second(&text, test).ok_or_else(|| other_program(BENCHMARK, format!("it said {text:?}")))
    }
}

impl Series for Redis {
    fn label(&self) -> String {
        self.config.label(NAME)
    }

    fn round(&mut self, _batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self)?)
    }
}

fn start_server(port: u16, cpu: Option<usize>) -> Result<Program, FloorError> {
    let mut command = Command::new(SERVER);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no"]);
    command.args(["--save", "", "--appendonly", "no"]).current_dir("/").stdout(Stdio::null());
    Program::start(command, cpu)
}

/// Whether the server answers `ping` before it ends.
pub(super) fn answers(server: &Program, ping: impl Fn() -> io::Result<()>) -> Result<bool, FloorError> {
    let until = Instant::now() + START_PATIENCE;
    while Instant::now() < until {
        if wait_readable(&[server.pidfd.as_fd()], Instant::now()).is_some() {
            return Ok(false);
        }
        if ping().is_ok() {
            return Ok(true);
        }
        thread::sleep(START_POLL);
    }
    Err(other_program(SERVER, format!("it did not answer in {START_PATIENCE:?}")))
}

fn ping(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), START_PATIENCE)?;
    stream.set_read_timeout(Some(START_PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"+PONG\r\n" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// The figure of `test` in the benchmark's comma-separated lines.
fn parse_per_second(text: &str, test: &str) -> Option<f64> {
    let mut rows = text.lines().map(|line| line.split(',').map(|field| field.trim_matches('"')));
    let per_second =
        rows.find_map(|mut row| row.next()?.eq_ignore_ascii_case(test).then(|| row.next()?.parse().ok())?)?;
    (per_second > 1.0).then_some(per_second)
}

pub(super) fn other_program(program: &'static str, reason: String) -> FloorError {
    FloorError::OtherProgram { program, reason }
}

/// A started program, killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    child: Child,
    pidfd: OwnedFd,
}

impl Program {
    /// Starts it on `cpu`; it ends with the calling thread at the latest.
    pub(super) fn start(mut command: Command, cpu: Option<usize>) -> Result<Self, FloorError> {
        let name = if command.get_program() == OsStr::new(SERVER) { SERVER } else { BENCHMARK };
        // SAFETY: between fork and exec only one system call is made, which takes no lock and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        // The child inherits the core.
        let pinned = Pinned::to(cpu)?;
        let started = command.stdin(Stdio::null()).spawn();
        drop(pinned);
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(FloorError::NotInstalled { program: name, advice: "`apt-get install redis-server`" });
            }
            Err(error) => return Err(other_program(name, error.to_string())),
        };
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { name, child, pidfd }),
            Err(error) => {
                // Without a pidfd there is no `Program` whose drop would do this.
                let _ = child.kill();
                let _ = child.wait();
                Err(FloorError::system("open a pidfd")(error))
            }
        }
    }

    /// What it says, once it has ended. It must say less than a pipe holds.
    fn output(&mut self, patience: Duration) -> Result<String, FloorError> {
        let failed = |reason: String| other_program(self.name, reason);
        if wait_readable(&[self.pidfd.as_fd()], Instant::now() + patience).is_none() {
            return Err(failed(format!("it did not end in {patience:?}")));
        }
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
        }
        match self.child.wait() {
            Ok(status) if status.success() => Ok(text),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        kill(self.pidfd.as_fd());
        // Ended or killed, and our own child: the wait is short.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_a_second_are_read_from_the_benchmarks_lines() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\"GET\",\"598802.38\",\"1.2\"\n";
        assert_eq!(parse_per_second(text, "get"), Some(598_802.38));
        assert_eq!(parse_per_second(text, "set"), None);
        assert_eq!(parse_per_second("\"GET\",\"0.00\"\n", "get"), None);
        assert_eq!(parse_per_second("Could not connect\n", "get"), None);
    }
}
