//! `praas serve`: the server of this host, until a signal ends it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use praas_protocol::{Durability, Name};
use praas_server::{
    Application, DiskLog, DriverChoice, DriverKind, Farewell, Level, NetworkFacts, Peer, Server, ServerHandle,
    ServerOptions,
};
use praas_storage::Backend;
use praas_sys::{Pidfd, Signal, SignalQueue};
use serde_json::{Value, json};

use crate::command::calling::WaitModeArgument;
use crate::command::check::warning;
use crate::command::storage::place::StoragePlace;
use crate::command::{Context, manifest_path, read_token};
use crate::duration;
use crate::failure::{Failure, ServerFailure};
use crate::metrics::{MetricsAddress, MetricsEndpoint};
use crate::table::Columns;

/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The file of the data directory that says how the last server ended.
const END_REPORT: &str = "last-end.json";

/// The directory of the data directory that has the logs of processes.
const LOGS: &str = "logs";

/// What its help begins with.
pub(crate) const LONG_ABOUT: &str = "\
Runs the server of this host: it starts processes of the applications it is given, watches over them, and joins clients to \
them. Processes that nobody needs may sleep: what they know is stored, and whatever needs them wakes them (--storage, and \
idle_swap_ms in praas.toml). It stays in the foreground. SIGTERM or Ctrl-C lets running calls finish, puts all processes to sleep \
and ends everything; the next server on the same storage has them. A second one does not wait for calls. What cannot be stored \
within --grace is named in last-end.json of the data directory, and held by the keeper for the next server; most valuable is \
stored first: unsaved changes, counted half for each minute without a call, and of equals the smaller process.";

const EXAMPLES: &str = "\
Examples:
  praas serve                          the application of ./praas.toml
  praas serve hello shop/praas.toml    two applications
  praas serve --listen 127.0.0.1:7411  clients reach it over TCP, too; see `praas token create`
  praas serve --peer 127.0.0.1:7412=other.token  processes of that server are called as if they were here
  praas serve --grace 100s --notice-command ./is-taken-away  a machine that may be taken away; the program says when
  praas serve --watch                  processes restart when their program was rebuilt
  praas serve --data /srv/praas        clients then need --data /srv/praas, or PRAAS_DATA";

/// Arguments of `praas serve`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArguments {
    /// praas.toml files, or directories that hold one
    #[arg(value_name = "PATH", default_value = ".")]
    pub paths: Vec<PathBuf>,
    /// Restart the processes of an application when its program was rebuilt
    #[arg(long)]
    pub watch: bool,
    /// Refuse to run where workers cannot be confined fully; `praas doctor` tells
    #[arg(long)]
    pub require_sandbox: bool,
    /// Memory that all lanes and processes may take together, such as 4GiB; the host's memory unless given. A process counts
    /// with a sixteenth of its state_bytes_max, or with what its state takes where that is more
    #[arg(long, value_name = "BYTES", value_parser = memory_bytes)]
    pub memory_budget: Option<u64>,
    /// Serve clients on the network at this address, HOST:PORT as digits; may be given again
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<SocketAddr>,
    /// Call processes of the server at HOST:PORT as if they were here, and exchange messages with them; TOKEN_FILE holds a token
    /// that was made there (`praas token create`). May be given again
    #[arg(long, value_name = "ADDRESS=TOKEN_FILE", value_parser = peer)]
    pub peer: Vec<PeerArgument>,
    /// Listen at addresses that other hosts reach, or call servers on them, although nothing is encrypted: calls and tokens can be read on the way
    #[arg(long)]
    pub insecure_network: bool,
    /// Threads that serve the network; one a core unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub network_threads: Option<u16>,
    /// How those threads wait for answers of workers
    #[arg(long, value_name = "MODE", default_value = "adaptive")]
    pub network_wait: WaitModeArgument,
    /// What drives the network's sockets; epoll measured as fast or faster on loopback
    #[arg(long, value_name = "DRIVER", value_enum, default_value_t)]
    pub driver: DriverArgument,
    /// Answer counts and latencies in the OpenMetrics format at 127.0.0.1:PORT, [::1]:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<MetricsAddress>,
    /// Least important lines to log on standard error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
    /// Store processes that sleep in this directory, in s3://BUCKET/PREFIX (with the AWS_… variables), or in redis://HOST:PORT;
    /// in `swapped` of the data directory unless given
    #[arg(long, value_name = "PLACE", env = "PRAAS_STORAGE", hide_env_values = true)]
    pub storage: Option<StoragePlace>,
    /// Store nothing: no process sleeps or is logged, and what processes know ends with the server
    #[arg(long, conflicts_with = "storage")]
    pub no_storage: bool,
    /// Time to end in: by then everything is stored, or named in last-end.json of the data directory; 25 s unless given, for the 30 s
    /// that containers have. Running calls may take half of it
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub grace: Option<Duration>,
    /// Run this program every 5 s: when it ends with 0, this host is about to go, and the server ends as with SIGTERM. A line of
    /// shell that asks the cloud's metadata service is enough
    #[arg(long, value_name = "PROGRAM")]
    pub notice_command: Option<PathBuf>,
    /// Keep a client's session, with the messages sent to it, so long after its client has left; a minute unless given
    #[arg(long, value_name = "TIME", value_parser = linger)]
    pub session_linger: Option<Duration>,
    /// Time that the keeper holds memory for after a crash of the server
    #[arg(long, value_name = "TIME", value_parser = linger, hide = true)]
    pub keeper_linger: Option<Duration>,
    /// End with standard input and remove the data directory: for a server that belongs to another program
    #[arg(long, hide = true)]
    pub temporary: bool,
}

/// Another server, as it is named on the command line.
#[derive(Debug, Clone)]
pub struct PeerArgument {
    /// Where it listens, `host:port`.
    pub address: String,
    /// The file that holds the token.
    pub token_file: PathBuf,
}

/// What drives the network's sockets.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DriverArgument {
    /// io_uring where the host grants it, else epoll
    Auto,
    /// io_uring, or refuse to start
    IoUring,
    /// epoll
    Epoll,
}

impl Default for DriverArgument {
    /// What the server takes when nobody chooses.
    fn default() -> Self {
        match DriverChoice::default() {
            DriverChoice::Auto => Self::Auto,
            DriverChoice::IoUring => Self::IoUring,
            DriverChoice::Epoll => Self::Epoll,
        }
    }
}

impl From<DriverArgument> for DriverChoice {
    fn from(argument: DriverArgument) -> Self {
        match argument {
            DriverArgument::Auto => Self::Auto,
            DriverArgument::IoUring => Self::IoUring,
            DriverArgument::Epoll => Self::Epoll,
        }
    }
}

/// Least important lines to log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogLevel {
    /// What needs a person
    Error,
    /// What went wrong and was dealt with
    Warning,
    /// What happened
    Info,
}

fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    praas_server::parse_bytes(text).filter(|&bytes| bytes > 0).ok_or("write a number of bytes, such as 512MiB or 4GiB")
}

fn peer(text: &str) -> Result<PeerArgument, &'static str> {
    let wanted = "write ADDRESS=TOKEN_FILE, such as 10.0.0.2:7411=other.token";
    let (address, token_file) = text.split_once('=').ok_or(wanted)?;
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !has_port || token_file.is_empty() {
        return Err(wanted);
    }
    Ok(PeerArgument { address: address.to_owned(), token_file: token_file.into() })
}

fn linger(text: &str) -> Result<Duration, duration::DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Runs a server until a signal ends it.
///
/// # Errors
/// [`Failure::Manifest`] or [`Failure::Server`].
pub fn serve(context: &Context, arguments: &ServeArguments) -> Result<(), Failure> {
    refuse_exposure(arguments)?;
    let applications = load(&arguments.paths)?;
    let data_directory = context.data_directory()?;
    // Before any thread starts: all of them are to leave these signals to the queue.
    let signals = SignalQueue::termination().map_err(Failure::host("taking signals over"))?;
    let mut options = options(arguments, data_directory, applications.clone());
    options.peers = peers(&arguments.peer)?;
    options.storage = storage(arguments, &options.data_directory)?;
    options.disk_log = disk_log(&options).map_err(Failure::host("opening the logs"))?;
    let keeper_linger = options.keeper_linger;
    let server = Server::start(options).map_err(ServerFailure::from)?;
    // Only now is it known that the directory is this server's own.
    let removal = arguments.temporary.then(|| RemovedAtEnd(server.data_directory().to_owned()));
    if arguments.temporary {
        end_with_standard_input()?;
    }
    let metrics = arguments.metrics.as_ref().map(|address| MetricsEndpoint::start(address, server.observer()));
    let metrics = metrics.transpose().map_err(Failure::host("answering metrics at that address"))?;
    announce(context, &server, metrics.as_ref(), &applications)?;
    let report = server.data_directory().join(END_REPORT);
    let farewell = server.run(signals).map_err(ServerFailure::Ended)?;
    let facts = farewell_as_json(&farewell);
    // Beside the socket, for whoever cannot read this program's output.
    let written = fs::write(&report, format!("{facts:#}\n"));
    drop(removal);
    context.output().value(&facts)?;
    if !farewell.unsaved.is_empty() {
        let (processes, linger) = (farewell.unsaved.len(), keeper_linger);
        let kept = farewell.unsaved.iter().filter(|unsaved| unsaved.is_kept).count();
        return Err(ServerFailure::Unsaved { processes, kept, linger, report }.into());
    }
    written.map_err(Failure::host("writing how the server ended"))?;
    context.output().line("ended; nothing is left running")
}

/// How a server ended, for programs: in the data directory and with `--json`.
fn farewell_as_json(farewell: &Farewell) -> Value {
    let unsaved: Vec<Value> = farewell
        .unsaved
        .iter()
        .map(|unsaved| {
            json!({
                "process": unsaved.process.to_string(),
                "reason": unsaved.reason,
                "unsaved_changes": unsaved.unsaved_changes,
                "state_bytes": unsaved.state_bytes,
                "stored_unix_ms": unsaved.stored_unix_ms,
                "held_by_keeper": unsaved.is_kept,
                "in_log": unsaved.is_logged,
            })
        })
        .collect();
    json!({
        "event": "ended",
        "reason": farewell.reason,
        "began_unix_ms": farewell.began_unix_ms,
        "took_ms": farewell.took.as_secs_f64() * 1e3,
        "grace_ms": farewell.grace.as_secs_f64() * 1e3,
        "saved": farewell.saved,
        "saved_bytes": farewell.saved_bytes,
        "unsaved": unsaved,
    })
}

/// Nothing on the network is encrypted: whoever wants it reachable all the same has to say so.
fn refuse_exposure(arguments: &ServeArguments) -> Result<(), Failure> {
    if arguments.insecure_network {
        return Ok(());
    }
    if let Some(&address) = arguments.listen.iter().find(|address| !address.ip().is_loopback()) {
        return Err(ServerFailure::Exposed { address }.into());
    }
    match arguments.peer.iter().find(|peer| !is_loopback(&peer.address)) {
        Some(peer) => Err(ServerFailure::PeerExposed { address: peer.address.clone() }.into()),
        None => Ok(()),
    }
}

/// Whether an address certainly leads to this host.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback())
}

/// The other servers, with the tokens that their files hold.
fn peers(arguments: &[PeerArgument]) -> Result<Vec<Peer>, Failure> {
    let read = |peer: &PeerArgument| {
        let (address, token) = (peer.address.clone(), read_token(&peer.token_file)?);
        Ok(Peer { address, token })
    };
    arguments.iter().map(read).collect()
}

/// Where processes sleep, if they may.
fn storage(arguments: &ServeArguments, data_directory: &Path) -> Result<Option<Arc<dyn Backend>>, Failure> {
    if arguments.no_storage {
        return Ok(None);
    }
    let place = arguments.storage.clone().unwrap_or_else(|| StoragePlace::within(data_directory));
    place.open().map(Some).map_err(|error| ServerFailure::Storage(error).into())
}

/// Where the logs of processes are, if there are any or are to be. They go with storage, which a log begins with and is shortened by.
fn disk_log(options: &ServerOptions) -> io::Result<Option<DiskLog>> {
    let directory = options.data_directory.join(LOGS);
    let is_logged = |application: &Application| application.durability == Durability::Logged;
    // Of applications that are no longer logged there may be some.
    let has_logs = options.applications.iter().any(is_logged) || directory.exists();
    if options.storage.is_none() || !has_logs {
        return Ok(None);
    }
    DiskLog::open(&directory).map(Some)
}

fn options(arguments: &ServeArguments, data_directory: PathBuf, applications: Vec<Application>) -> ServerOptions {
    let keeper_command = vec![OsString::from(THIS_PROGRAM), OsString::from("keeper")];
    let mut options = ServerOptions::new(data_directory, keeper_command);
    options.applications = applications;
    options.watch = arguments.watch;
    options.require_sandbox = arguments.require_sandbox;
    options.memory_bytes_max = arguments.memory_budget;
    options.listen.clone_from(&arguments.listen);
    options.network_shards = arguments.network_threads.map_or(options.network_shards, usize::from);
    options.network_wait = arguments.network_wait.into();
    options.network_driver = arguments.driver.into();
    // Nobody starts another server on a temporary directory.
    let linger = if arguments.temporary { Duration::ZERO } else { options.keeper_linger };
    options.keeper_linger = arguments.keeper_linger.unwrap_or(linger);
    options.grace = arguments.grace.unwrap_or(options.grace);
    options.notice_program = arguments.notice_command.clone().map(Into::into);
    options.session_linger = arguments.session_linger.unwrap_or(options.session_linger);
    options.log_level = match arguments.log {
        LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Info => Level::Info,
    };
    options
}

fn load(paths: &[PathBuf]) -> Result<Vec<Application>, Failure> {
    let mut loaded: Vec<(PathBuf, Application)> = Vec::new();
    for path in paths {
        let path = manifest_path(path);
        let application = Application::load(&path)?;
        if let Some((first, _)) = loaded.iter().find(|(_, other)| other.name == application.name) {
            let (name, first) = (application.name.to_string(), first.clone());
            return Err(Failure::SameApplication { name, first, second: path });
        }
        loaded.push((path, application));
    }
    Ok(loaded.into_iter().map(|(_, application)| application).collect())
}

fn announce(
    context: &Context,
    server: &ServerHandle,
    metrics: Option<&MetricsEndpoint>,
    applications: &[Application],
) -> Result<(), Failure> {
    let output = context.output();
    let socket = server.socket_path();
    let addresses = server.network().map(NetworkFacts::addresses).unwrap_or_default();
    let peers = server.network().map(NetworkFacts::peers).unwrap_or_default();
    let listed: Vec<Value> = applications.iter().map(as_json).collect();
    output.value(&json!({
        "event": "serving",
        "socket": socket.display().to_string(),
        "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "peers": peers.iter().map(|peer| peer.address.as_str()).collect::<Vec<_>>(),
        "driver": server.network().map(|network| driver_name(network.driver())),
        "metrics": metrics.map(|endpoint| endpoint.address().to_string()),
        "applications": listed,
    }))?;
    let mut columns = Columns::new(&["APPLICATION", "WORKERS", "PROGRAM"]);
    for application in applications {
        let workers = match (application.workers_min, application.workers_max) {
            (min, max) if min == max => min.to_string(),
            (min, max) => format!("{min} to {max}"),
        };
        columns.row(vec![application.name.to_string(), workers, application.binary.display().to_string()]);
    }
    output.line(format_args!("serving on {}; Ctrl-C ends it\n\n{}\n", socket.display(), columns.render("  ")))?;
    if let Some(network) = server.network().filter(|_| !addresses.is_empty()) {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        output.line(format_args!("network: {} ({})\n", addresses.join(", "), driver_name(network.driver())))?;
    }
    if !peers.is_empty() {
        let addresses: Vec<_> = peers.iter().map(|peer| peer.address.as_str()).collect();
        output.line(format_args!("calls processes of the servers at {}\n", addresses.join(", ")))?;
    }
    if addresses.iter().any(|address| !address.ip().is_loopback()) {
        // To standard error too, where programs that read the other stream leave it for a person.
        eprintln!("{EXPOSED}");
    }
    if let Some(endpoint) = metrics {
        output.line(format_args!("metrics at {}\n", endpoint.address()))?;
    }
    for warning in applications.iter().filter_map(warning) {
        output.line(format_args!("warning: {warning}"))?;
    }
    match applications.first() {
        Some(first) => output.line(how_to_call(first)),
        None => Ok(()),
    }
}

/// Said at each start of a server that other hosts reach.
const EXPOSED: &str = "warning: the network is not encrypted: whoever can read it sees calls, answers and tokens. Use it \
    only inside a network that you trust, or through a tunnel.";

fn driver_name(driver: DriverKind) -> &'static str {
    match driver {
        DriverKind::IoUring => "io_uring",
        DriverKind::Epoll => "epoll",
    }
}

fn as_json(application: &Application) -> Value {
    json!({
        "name": application.name,
        "binary": application.binary.display().to_string(),
        "workers_min": application.workers_min,
        "workers_max": application.workers_max,
        "functions": application.functions,
        "warning": warning(application),
    })
}

fn how_to_call(application: &Application) -> String {
    let name = application.name;
    let function = application.functions.as_ref().and_then(|functions| functions.first()).map(Name::as_str);
    let function = function.unwrap_or("FUNCTION");
    format!(
        "In another terminal:\n  praas process create {name}/alice\n  praas invoke {name}/alice {function} PAYLOAD\n"
    )
}

/// The data directory of a temporary server, gone with it however it ends.
struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // Whoever started this server looks after it too.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends this process a SIGTERM when standard input ends: the program that this server belongs to closed it, or died.
fn end_with_standard_input() -> Result<(), Failure> {
    let this = Pidfd::this_process().map_err(|error| Failure::host("opening this process")(io::Error::other(error)))?;
    let wait = move || {
        let mut byte = [0];
        // Nobody writes there; a byte is as good as the end.
        let _ = io::stdin().lock().read(&mut byte);
        let _ = this.send_signal(Signal::TERM);
    };
    let thread = std::thread::Builder::new().name("praas-stdin".into());
    thread.spawn(wait).map(drop).map_err(Failure::host("starting a thread"))
}
