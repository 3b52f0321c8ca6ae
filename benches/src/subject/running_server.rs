//! A server in a process of its own, on a temporary data directory, serving one application for each way of waiting.
//!
//! The server's process ends when its standard input does, so it cannot outlive the one that measures; it removes its
//! data directory itself.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use praas_client::{Client, ConnectOptions, ProcessId, WaitMode};
use praas_protocol::Durability;
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_server::{Application, DiskLog, Level, Network, Server, ServerOptions};
use praas_sys::data_directory::TOKEN_FILE;
use praas_sys::{Pidfd, Signal, SignalQueue};

use super::role::{KEEPER_ARGUMENT, SERVER_ARGUMENT};
use super::storage_place::{self, DISK_DIRECTORY, STORAGE_VARIABLE, StoragePlace};
use super::{SubjectError, Trust};
use crate::floors::Pinned;

/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// The file of the data directory that holds the secret that tokens are signed with.
const SECRET_FILE: &str = "secret";
/// The function binary beside this program, if it was built: see `noop_worker.rs`.
const SMALL_WORKER: &str = "noop-worker";
/// The application of that binary.
const SMALL_APPLICATION: &str = "small";
/// The application whose processes keep state and have two workers, which sleep between calls.
const STATE_APPLICATION: &str = "state";
/// Bytes that the state of such a process may grow to: old and new values of 64 MiB, and room for what waits for readers.
const STATE_BYTES_MAX: u64 = 1 << 30;
/// What the applications are called whose processes are logged, of a server that has storage, before the number of their workers.
const LOGGED_APPLICATION: &str = "logged";
/// How many workers a process can have whose changes are logged: see [`StateProcess::open_logged`](super::StateProcess::open_logged).
pub const LOGGED_WORKERS: [u32; 2] = [1, 3];
/// The directory of a server's data directory that has their logs.
const LOGS_DIRECTORY: &str = "logs";
/// The application whose only worker may use the host's network, and sleeps between calls: its functions keep what they
/// have elsewhere.
const NETWORKED_APPLICATION: &str = "networked";
/// The application whose processes sleep, and its function binary beside this program, if that was built.
const SLEEPER_APPLICATION: &str = "sleeper";
const SLEEPER_WORKER: &str = "sleeper-worker";
/// Bytes that the state of such a process may grow to: a gibibyte of values, and what comes with a million objects.
const SLEEPER_STATE_BYTES_MAX: u64 = 2 << 30;
/// Where the kernel says whether the clock may be trusted.
const CLOCK_TRUST: &str = "/proc/cpuinfo";
/// What a server is told that has a peer: where it listens, the secret of its tokens, where the peer listens, and the token for
/// that. In the environment, which only its own user reads.
const LISTEN_VARIABLE: &str = "PRAAS_BENCH_LISTEN";
const SECRET_VARIABLE: &str = "PRAAS_BENCH_SECRET";
const PEER_VARIABLE: &str = "PRAAS_BENCH_PEER";
const PEER_TOKEN_VARIABLE: &str = "PRAAS_BENCH_PEER_TOKEN";
/// Numbers that the names of one server's processes are taken from.
const PROCESSES_PER_SERVER: u32 = 1 << 16;
/// How long a server may take to end: it drains its processes first.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A running server; it ends, with all it started, when dropped.
#[derive(Debug)]
pub struct RunningServer {
    child: Child,
    /// Closed to end it.
    stdin: Option<ChildStdin>,
    data_directory: PathBuf,
    address: Option<SocketAddr>,
    processes: AtomicU32,
}

/// How a server with a network is to run.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPlan {
    /// How its shards wait for workers.
    pub wait: WaitMode,
    /// The core of everything, if it has one.
    pub cpu: Option<usize>,
}

impl RunningServer {
    /// Starts a server and waits until it is up.
    ///
    /// # Errors
    /// [`SubjectError::ServerNotUp`] and the like.
    pub fn start() -> Result<Self, SubjectError> {
        Self::start_as(Command::new(THIS_PROGRAM).arg(SERVER_ARGUMENT))
    }

    /// The same with a place where processes sleep.
    ///
    /// # Errors
    /// As [`RunningServer::start`].
    pub fn start_with_storage(place: &StoragePlace) -> Result<Self, SubjectError> {
        Self::start_as(Command::new(THIS_PROGRAM).arg(SERVER_ARGUMENT).env(STORAGE_VARIABLE, place.to_variable()))
    }

    /// The same with a network: it listens on a free port of loopback, on this core if one is given, with everything it
    /// starts.
    ///
    /// # Errors
    /// As [`RunningServer::start`].
    pub fn start_listening(plan: NetworkPlan) -> Result<Self, SubjectError> {
        // The child inherits the core.
        let _pinned = Pinned::to(plan.cpu)?;
        Self::start_as(Command::new(THIS_PROGRAM).arg(SERVER_ARGUMENT).arg(application_name(plan.wait)))
    }

    /// Two servers that call each other, as if they were on two hosts.
    ///
    /// # Errors
    /// As [`RunningServer::start`].
    pub fn start_linked(plans: [NetworkPlan; 2]) -> Result<[Self; 2], SubjectError> {
        let secret = || {
            let made = Secret::generate().map_err(|error| io::Error::other(error.to_string()));
            made.map_err(SubjectError::system("make a secret"))
        };
        let hosts = [(free_address()?, secret()?), (free_address()?, secret()?)];
        let start = |own: usize| -> Result<Self, SubjectError> {
            let ((address, secret), (peer, peer_secret)) = (&hosts[own], &hosts[1 - own]);
            // The child inherits the core.
            let _pinned = Pinned::to(plans[own].cpu)?;
            let mut server = Self::start_as(
                Command::new(THIS_PROGRAM)
                    .arg(SERVER_ARGUMENT)
                    .arg(application_name(plans[own].wait))
                    .env(LISTEN_VARIABLE, address.to_string())
                    .env(SECRET_VARIABLE, hexadecimal(secret.as_bytes()))
                    .env(PEER_VARIABLE, peer.to_string())
                    .env(PEER_TOKEN_VARIABLE, peer_token(peer_secret)),
            )?;
            // Processes of both are of one application, and have different names.
            server.processes = AtomicU32::new(u32::try_from(own).unwrap_or(0) * PROCESSES_PER_SERVER);
            Ok(server)
        };
        Ok([start(0)?, start(1)?])
    }

    fn start_as(command: &mut Command) -> Result<Self, SubjectError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(SubjectError::system("start a server"))?;
        let stdout = child.stdout.take();
        let stdin = child.stdin.take();
        // From here on dropping it ends the child.
        let mut server =
            Self { child, stdin, data_directory: PathBuf::new(), address: None, processes: AtomicU32::new(0) };
        let mut lines = BufReader::new(stdout.ok_or(SubjectError::ServerNotUp)?).lines();
        let mut line = || lines.next().transpose().map_err(SubjectError::system("hear of a server's start"));
        server.data_directory = line()?.ok_or(SubjectError::ServerNotUp)?.into();
        server.address = line()?.ok_or(SubjectError::ServerNotUp)?.parse().ok();
        Ok(server)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// [`SubjectError::ServerNotUp`] if it was started without a network.
    pub fn address(&self) -> Result<SocketAddr, SubjectError> {
        self.address.ok_or(SubjectError::ServerNotUp)
    }

    /// The token that it gives to its own user.
    ///
    /// # Errors
    /// [`SubjectError::System`] if it cannot be read.
    pub fn token(&self) -> Result<String, SubjectError> {
        let read = fs::read_to_string(self.data_directory.join(TOKEN_FILE));
        Ok(read.map_err(SubjectError::system("read the server's token"))?.trim().to_owned())
    }

    /// A client of this server, inside or outside the trust domain of its applications.
    ///
    /// # Errors
    /// [`SubjectError::Connect`] if the server refuses it.
    pub fn connect(&self, trust: Trust) -> Result<Client, SubjectError> {
        let options = ConnectOptions::new().data_directory(&self.data_directory);
        let options = match trust {
            Trust::Trusted => options,
            Trust::Untrusted => options.token(self.untrusted_token()?),
        };
        Ok(Client::connect(options)?)
    }

    /// A trusted client whose threads sleep while they wait, however the applications' workers wait.
    ///
    /// # Errors
    /// As [`RunningServer::connect`].
    pub fn connect_asleep(&self) -> Result<Client, SubjectError> {
        let options = ConnectOptions::new().data_directory(&self.data_directory).wait_mode(WaitMode::Park);
        Ok(Client::connect(options)?)
    }

    /// A token with every right but the one that makes a trust domain.
    fn untrusted_token(&self) -> Result<String, SubjectError> {
        let read = || -> io::Result<Secret> {
            let bytes = fs::read(self.data_directory.join(SECRET_FILE))?;
            Ok(Secret::from_bytes(bytes.try_into().map_err(|_| io::Error::other("it has another length"))?))
        };
        let secret = read().map_err(SubjectError::system("read the server's secret"))?;
        Ok(secret.sign(&Claims {
            principal: "stranger".parse().expect("a name"),
            scope: Scope::Any,
            rights: Rights::INVOKE.with(Rights::MANAGE),
            expires_unix_s: None,
        }))
    }

    /// The id of a process that does not exist yet, of the application that waits so.
    #[must_use]
    pub fn new_id(&self, wait: WaitMode) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{}/p{number}", application_name(wait)).parse().expect("two names")
    }

    /// The same of the application whose workers run the smallest function binary, if that was built. Its only function is
    /// the no-op.
    #[must_use]
    pub fn new_small_id(&self) -> Option<ProcessId> {
        small_worker()?;
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        Some(format!("{SMALL_APPLICATION}/p{number}").parse().expect("two names"))
    }

    /// The same of the application whose processes keep state.
    #[must_use]
    pub fn new_state_id(&self) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{STATE_APPLICATION}/p{number}").parse().expect("two names")
    }

    /// The same of an application whose processes are logged and have so many workers, on a server with storage.
    #[must_use]
    pub fn new_logged_id(&self, workers: u32) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{LOGGED_APPLICATION}-{workers}/p{number}").parse().expect("two names")
    }

    /// The same of the application whose processes are put to sleep.
    #[must_use]
    pub fn new_sleeper_id(&self) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{SLEEPER_APPLICATION}/p{number}").parse().expect("two names")
    }

    /// What the workers of those processes run, in words.
    #[must_use]
    pub fn sleeper_words(&self) -> &'static str {
        if worker_beside(SLEEPER_WORKER).is_some() { "small worker" } else { "this program as worker" }
    }

    /// Where processes sleep, of a server whose processes sleep on a disk.
    #[must_use]
    pub fn disk_directory(&self) -> PathBuf {
        self.data_directory.join(DISK_DIRECTORY)
    }

    /// The same of the application whose only worker may use the host's network, and sleeps between calls.
    #[must_use]
    pub fn new_networked_id(&self) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{NETWORKED_APPLICATION}/p{number}").parse().expect("two names")
    }

    /// The same of the application that waits so and whose processes have two workers: a function of theirs can call its
    /// own process.
    #[must_use]
    pub fn new_pair_id(&self, wait: WaitMode) -> ProcessId {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        format!("{}/p{number}", pair_application_name(wait)).parse().expect("two names")
    }

    /// Where it keeps its files.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data_directory
    }

    /// The server's own process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stdin = None;
        let ended = Pidfd::open(self.child.id()).and_then(|pidfd| pidfd.wait_gone(END_PATIENCE));
        if !ended.unwrap_or(false) {
            eprintln!("the server did not end in {END_PATIENCE:?} and was killed");
            let _ = self.child.kill();
        }
        // Ended or killed, and our own child: the wait is short.
        let _ = self.child.wait();
    }
}

const WAITS: [WaitMode; 3] = [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park];

fn wait_named(name: &OsStr) -> Option<WaitMode> {
    WAITS.into_iter().find(|wait| name == application_name(*wait))
}

fn application_name(wait: WaitMode) -> &'static str {
    match wait {
        WaitMode::Spin => "spin",
        WaitMode::Adaptive => "adaptive",
        WaitMode::Park => "park",
    }
}

fn pair_application_name(wait: WaitMode) -> String {
    format!("{}-pair", application_name(wait))
}

/// The server's process. It listens if an argument says how its shards wait.
pub(super) fn serve(mut arguments: impl Iterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    // Before any thread starts: all of them are to leave these signals to the queue.
    let signals = SignalQueue::termination()?;
    let private = fs::Permissions::from_mode(0o700);
    let directory = tempfile::Builder::new().prefix("praas-bench-").permissions(private).tempdir()?;
    let mut options = ServerOptions::new(directory.path(), vec![OsString::from(THIS_PROGRAM), KEEPER_ARGUMENT.into()]);
    options.applications = applications()?;
    options.keeper_linger = Duration::ZERO;
    options.log_level = Level::Error;
    options.storage = storage_place::told(directory.path())?;
    if options.storage.is_some() {
        options.disk_log = Some(DiskLog::open(&directory.path().join(LOGS_DIRECTORY))?);
        for workers in LOGGED_WORKERS {
            options.applications.push(logged_application(workers)?);
        }
    }
    if let Some(wait) = arguments.next() {
        options.network_wait = wait_named(&wait).ok_or("there is no such way of waiting")?;
        options.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    }
    if let Ok(peer) = env::var(PEER_VARIABLE) {
        options.listen = vec![env::var(LISTEN_VARIABLE)?.parse()?];
        keep_secret(directory.path(), &bytes_of(&env::var(SECRET_VARIABLE)?).ok_or("the secret is none")?)?;
        options = options.peer(peer, env::var(PEER_TOKEN_VARIABLE)?);
    }
    let server = Server::start(options)?;
    end_with_standard_input()?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", server.data_directory().display())?;
    let address = server.network().and_then(|network| network.addresses().first());
    writeln!(stdout, "{}", address.map_or_else(|| "no network".to_owned(), ToString::to_string))?;
    stdout.flush()?;
    server.run(signals)?;
    directory.close()?;
    Ok(())
}

/// An address of loopback that nobody listens on now, and probably nobody will in the next moments.
fn free_address() -> Result<SocketAddr, SubjectError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map_err(SubjectError::system("find a free port"))
}

/// What the other server of a pair shows.
fn peer_token(secret: &Secret) -> String {
    secret.sign(&Claims {
        principal: "other-host".parse().expect("a name"),
        scope: Scope::Any,
        rights: Rights::INVOKE.with(Rights::TRUSTED).with(Rights::STATE).with(Rights::MESSAGES),
        expires_unix_s: None,
    })
}

/// Leaves a secret where a server looks for it.
fn keep_secret(directory: &Path, secret: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new();
    file.write(true).create_new(true).mode(0o600).open(directory.join(SECRET_FILE))?.write_all(secret)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// One application for each way of waiting, one with much state, and one of the smallest binary; everything else is as it is
/// by default.
fn applications() -> Result<Vec<Application>, Box<dyn Error>> {
    let program = env::current_exe()?;
    let mut applications = Vec::new();
    for wait in WAITS {
        let mut application = Application::new(application_name(wait).parse()?, program.clone());
        application.wait = wait;
        applications.push(application);
    }
    for wait in WAITS {
        let mut application = Application::new(pair_application_name(wait).parse()?, program.clone());
        application.wait = wait;
        (application.workers_min, application.workers_max) = (2, 2);
        application.limits.state_bytes_max = STATE_BYTES_MAX;
        application.readable = vec![PathBuf::from(CLOCK_TRUST)];
        applications.push(application);
    }
    applications.push(networked_application(program.clone())?);
    applications.push(state_application(program.clone())?);
    applications.push(sleeper_application(program)?);
    if let Some(program) = small_worker() {
        applications.push(Application::new(SMALL_APPLICATION.parse()?, program));
    }
    Ok(applications)
}

fn state_application(program: PathBuf) -> Result<Application, Box<dyn Error>> {
    let mut application = Application::new(STATE_APPLICATION.parse()?, program);
    application.wait = WaitMode::Park;
    (application.workers_min, application.workers_max) = (2, 2);
    application.limits.state_bytes_max = STATE_BYTES_MAX;
    application.readable = vec![PathBuf::from(CLOCK_TRUST)];
    Ok(application)
}

fn logged_application(workers: u32) -> Result<Application, Box<dyn Error>> {
    let mut application = state_application(env::current_exe()?)?;
    application.name = format!("{LOGGED_APPLICATION}-{workers}").parse()?;
    application.durability = Durability::Logged;
    (application.workers_min, application.workers_max) = (workers, workers);
    Ok(application)
}

fn sleeper_application(program: PathBuf) -> Result<Application, Box<dyn Error>> {
    let program = worker_beside(SLEEPER_WORKER).unwrap_or(program);
    let mut application = Application::new(SLEEPER_APPLICATION.parse()?, program);
    application.limits.state_bytes_max = SLEEPER_STATE_BYTES_MAX;
    Ok(application)
}

fn networked_application(program: PathBuf) -> Result<Application, Box<dyn Error>> {
    let mut application = Application::new(NETWORKED_APPLICATION.parse()?, program);
    application.wait = WaitMode::Park;
    application.network = Network::Host;
    application.readable = vec![PathBuf::from(CLOCK_TRUST)];
    Ok(application)
}

fn small_worker() -> Option<PathBuf> {
    worker_beside(SMALL_WORKER)
}

fn worker_beside(name: &str) -> Option<PathBuf> {
    let program = env::current_exe().ok()?.with_file_name(name);
    program.is_file().then_some(program)
}

/// Sends this process a SIGTERM when standard input ends.
fn end_with_standard_input() -> Result<(), Box<dyn Error>> {
    let this = Pidfd::this_process()?;
    let wait = move || {
        let mut byte = [0];
        // Nobody writes there.
        let _ = io::stdin().lock().read(&mut byte);
        let _ = this.send_signal(Signal::TERM);
    };
    thread::Builder::new().name("bench-stdin".into()).spawn(wait)?;
    Ok(())
}
