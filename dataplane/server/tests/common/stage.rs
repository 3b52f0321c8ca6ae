//! A stage for end-to-end tests: a real server, its keeper and sandboxed workers, clients over the client library, and a look
//! at what is left when all is over.
//!
//! Servers run inside the test, where their descriptors can be counted, or as an OS process of their own, where they can be
//! killed. Clients too.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use praas_client::{Client, ConnectOptions, ProcessId, ProcessStatus};
use praas_protocol::control::WaitMode;
use praas_server::{Application, Level, Server, ServerHandle, ServerOptions};
use tempfile::TempDir;

use crate::common::functions::{self, own_segments};
use crate::common::{
    PATIENCE, ROLE, children_with, eventually, is_keeper_socket, open_descriptors, own_command, private_directory,
};

/// Data directory of a role.
pub(crate) const DIRECTORY: &str = "TEST_DIRECTORY";

/// Program of the workers of a server role, if not this binary.
pub(crate) const BINARY: &str = "TEST_BINARY";

/// What a test binary does when it was started in a role: the body of its test called `role`.
pub(crate) fn play() {
    match std::env::var(ROLE).as_deref() {
        _ if is_keeper_socket(&std::io::stdin()) => praas_server::keeper::run().unwrap(),
        Ok("worker") => functions::serve(),
        Ok("server") => play_server(),
        Ok("poor server") => {
            let few = rustix::process::Rlimit { current: Some(FEW_FILES), maximum: Some(FEW_FILES) };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
            play_server();
        }
        Ok("client") => play_client(),
        _ => {}
    }
}

/// Descriptors of a server that is to run out of them; the spawner wants numbers above 64.
pub(crate) const FEW_FILES: u64 = 128;

fn role_directory() -> PathBuf {
    std::env::var_os(DIRECTORY).expect("a role has a directory").into()
}

/// A server of two to four workers that drains on SIGTERM.
fn play_server() {
    let signals = praas_sys::SignalQueue::termination().unwrap();
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 4);
    if let Some(binary) = std::env::var_os(BINARY) {
        application.binary = binary.into();
    }
    let server = Server::start(options(&role_directory(), application)).unwrap();
    println!("\nplaying");
    server.run(signals).unwrap();
    // Proves that it ended by itself: the test harness would exit with 0.
    std::process::exit(42);
}

/// A client that is never done: calls in flight, abandoned calls, loans, until it is killed.
fn play_client() {
    let client = connect(&role_directory());
    let lanes: Vec<_> = (0..3).map(|_| client.process(process("alice")).unwrap()).collect();
    let end = std::time::Instant::now() + crate::common::PATIENCE * 2;
    let mut said = false;
    while std::time::Instant::now() < end {
        for lane in &lanes {
            let _loan = lane.loan(100_000);
            let kept: Vec<_> = (0..6).map(|_| lane.start("echo", vec![3; 50_000])).collect();
            drop(lane.start("sleep", "3"));
            if !said {
                said = true;
                println!("\nplaying");
            }
            for pending in kept.into_iter().flatten().take(3) {
                let _ = pending.wait();
            }
        }
    }
}

/// A process of the application that all tests use.
pub(crate) fn process(name: &str) -> ProcessId {
    format!("hello/{name}").parse().unwrap()
}

/// This binary's workers: one of them, park mode, time to drain.
pub(crate) fn application() -> Application {
    let own = own_command();
    let mut application = Application::new("hello".parse().unwrap(), own[0].clone().into());
    application.arguments = own[1..].iter().map(|argument| argument.to_str().unwrap().to_owned()).collect();
    application.environment.insert(ROLE.into(), "worker".into());
    application.limits.drain_ms = 20_000;
    application.limits.payload_bytes_max = 1 << 20;
    application.wait = WaitMode::Park;
    application
}

/// The same workers, started by a shell that leaves them copies of their control socket and of the keeper's pipe.
pub(crate) fn application_with_copies() -> Application {
    let own = own_command();
    let mut application = application();
    application.binary = "/bin/sh".into();
    application.readable.push(own[0].clone().into());
    let (socket, pipe) = (functions::SOCKET_COPY, functions::KEEPER_PIPE_COPY);
    let copy = format!("exec {socket}<&3 {pipe}>&4; exec \"$0\" \"$@\"");
    let own = own.iter().map(|argument| argument.to_str().unwrap().to_owned());
    application.arguments = ["-c".to_owned(), copy].into_iter().chain(own).collect();
    application
}

pub(crate) fn options(directory: &Path, application: Application) -> ServerOptions {
    let mut options = ServerOptions::new(directory, own_command());
    options.keeper_linger = Duration::ZERO;
    options.log_level = if std::env::var_os("TEST_LOG").is_some() { Level::Info } else { Level::Error };
    options.applications = vec![application];
    // A slow machine shows no process as idle that its test has just called.
    options.process_idle = PATIENCE * 100;
    options
}

pub(crate) fn connect(directory: &Path) -> Client {
    Client::connect(ConnectOptions::new().data_directory(directory)).unwrap()
}

/// One test at a time: each counts the descriptors of the process that it shares with its server.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data directory, and what must be as before when everything has ended.
pub(crate) struct Stage {
    server: Option<ServerHandle>,
    descriptors: usize,
    directory: TempDir,
    /// Last: taking the directory away opens descriptors, which the next test must not count as its own.
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// Without a server.
    pub(crate) fn empty() -> Self {
        let alone = alone();
        let directory = private_directory();
        Self { server: None, descriptors: open_descriptors(), directory, _alone: alone }
    }

    /// With a server inside this process.
    pub(crate) fn new(application: Application, change: impl FnOnce(&mut ServerOptions)) -> Self {
        let mut stage = Self::empty();
        let mut options = options(stage.path(), application);
        change(&mut options);
        stage.server = Some(Server::start(options).unwrap());
        stage
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn server(&self) -> &ServerHandle {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        connect(self.path())
    }

    /// A client with a process of this name, created.
    pub(crate) fn with_process(&self, name: &str) -> Client {
        let client = self.client();
        client.create(process(name)).unwrap();
        client
    }

    /// Ends the server, if there is one, and looks for whatever is left. Clients must be gone.
    pub(crate) fn end(mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().unwrap();
        }
        let own = std::process::id();
        eventually("no process is left", || children_with(own, "role").is_empty());
        eventually("no descriptor is left", || open_descriptors() <= self.descriptors);
        eventually("no segment is left", || own_segments() == 0);
        let run = self.path().join("run");
        assert!(!run.exists() || std::fs::read_dir(run).unwrap().count() == 0, "working directories are left");
        for socket in ["praas.sock", "keeper.sock"] {
            assert!(!self.path().join(socket).exists(), "{socket} is left");
        }
    }
}

/// The status of a process that exists.
pub(crate) fn status(client: &Client, name: &str) -> ProcessStatus {
    let all = client.list().unwrap();
    all.into_iter().find(|status| status.process == process(name)).expect("the process is listed")
}

/// A role that runs until it is killed or ends.
pub(crate) struct Played {
    pub(crate) child: Child,
}

impl Played {
    /// Starts a role with SIGTERM blocked, as roles that read signals need it: the harness has threads before them.
    /// `None` where this host has no program that can do so.
    pub(crate) fn start(role: &str, directory: &Path, variables: &[(&str, &Path)]) -> Option<Self> {
        let mut command = Command::new("env");
        command.envs(variables.iter().copied());
        Self::start_by(command, &[], role, directory)
    }

    /// The same, by a program that starts another one.
    pub(crate) fn start_within(program: &[&str], role: &str, directory: &Path) -> Option<Self> {
        Self::start_by(Command::new(program[0]), &[&program[1..], &["env"]].concat(), role, directory)
    }

    fn start_by(mut command: Command, arguments: &[&str], role: &str, directory: &Path) -> Option<Self> {
        command.args(arguments).arg("--block-signal=TERM").args(own_command());
        command.env(ROLE, role).env(DIRECTORY, directory).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the role starts");
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        if lines.map_while(Result::ok).any(|line| line.starts_with("playing")) {
            return Some(Self { child });
        }
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(125), "the role failed");
        println!("skipped: this host's env cannot block signals");
        None
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end; its exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        let mut code = None;
        eventually("the role ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code()
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        // Nothing is left behind when a test fails.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<F: IntoFuture>(future: F, patience: Duration) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future.into_future());
    let end = std::time::Instant::now() + patience;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = end.saturating_duration_since(std::time::Instant::now());
        assert!(!left.is_zero(), "the future did not end within {patience:?}");
        std::thread::park_timeout(left);
    }
}
