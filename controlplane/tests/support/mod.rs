//! What the tests of the binary share: running it with a deadline, directories of their own, a server that ends with its
//! test.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_sys::{Pidfd, Signal};
use serde_json::Value;

/// Everything here takes milliseconds; a loaded machine may need seconds. What takes longer hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, finding no server but the one in `data`.
pub fn praas(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_praas"));
    command.env("PRAAS_DATA", data).env_remove("PRAAS_WORKER").stdin(Stdio::null());
    command
}

/// How a run ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl fmt::Debug for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\nstdout: {}\nstderr: {}", self.status, self.out(), self.err())
    }
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The one line of JSON that a failure is under `--json`.
    pub fn failure(&self) -> Value {
        let text = self.err();
        let line = text.lines().last().unwrap_or_else(|| panic!("nothing on standard error: {self:?}"));
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        value["error"].clone()
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

/// Runs a command to its end, with `input` as its standard input; kills it past the deadline.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Ended {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = Running::new(child);
    let mut stdin = running.child.stdin.take().unwrap();
    let input = input.to_vec();
    // Who does not read its input must not stop the test.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let ended = running.wait();
    writer.join().unwrap();
    ended
}

pub fn run(command: &mut Command) -> Ended {
    run_with_input(command, b"")
}

/// Runs the binary with these arguments.
pub fn run_praas<S: AsRef<OsStr>>(data: &Path, arguments: &[S]) -> Ended {
    run(praas(data).args(arguments))
}

/// A child whose output is collected as it comes; killed and reaped when dropped.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    pub fn new(mut child: Child) -> Self {
        let stdout = child.stdout.take().map(|stream: ChildStdout| collect(stream));
        let stderr = child.stderr.take().map(|stream: ChildStderr| collect(stream));
        Self { child, stdout, stderr }
    }

    pub fn start(command: &mut Command) -> Self {
        Self::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        Pidfd::open(self.child.id()).unwrap().send_signal(signal).unwrap();
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        let pidfd = Pidfd::open(self.child.id()).unwrap();
        let gone = pidfd.wait_gone(end.saturating_duration_since(Instant::now())).unwrap();
        if !gone {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        let taken = |stream: &mut Option<JoinHandle<Vec<u8>>>| stream.take().unwrap().join().unwrap();
        let ended = Ended { status, stdout: taken(&mut self.stdout), stderr: taken(&mut self.stderr) };
        assert!(gone, "it did not end within {PATIENCE:?}: {}\n{}", ended.out(), ended.err());
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

/// A directory that ends with its test, with a short path: sockets are to fit.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("praas-cli-").tempdir().unwrap()
}

/// A server of the demo's application.
#[derive(Debug)]
pub struct TestServer {
    child: Child,
    pub data: PathBuf,
    pub announced: Value,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl TestServer {
    /// Starts a server over `directory` and waits until it serves.
    pub fn start(directory: &Path) -> Self {
        let manifest = directory.join("praas.toml");
        fs::write(&manifest, demo_manifest()).unwrap();
        Self::start_with(directory, &manifest)
    }

    /// Starts a server of what `manifest` describes over `directory`.
    pub fn start_with(directory: &Path, manifest: &Path) -> Self {
        Self::start_with_arguments(directory, manifest, &[])
    }

    /// The same, with `arguments` to `praas serve`.
    pub fn start_with_arguments(directory: &Path, manifest: &Path, arguments: &[&str]) -> Self {
        let data = directory.join("data");
        let mut child = praas(&data)
            .args(["--json", "serve", "--keeper-linger", "0"])
            .args(arguments)
            .arg(manifest)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().map(collect);
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let mut server = Self { child, data, announced: Value::Null, stdout: None, stderr };
        if line.is_empty() {
            let _ = server.child.wait();
            let words = server.stderr.take().unwrap().join().unwrap();
            panic!("the server did not start: {}", String::from_utf8_lossy(&words));
        }
        server.announced = serde_json::from_str(&line).unwrap();
        server.stdout = Some(collect(stdout));
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it says of a process.
    pub fn status(&self, process: &str) -> Value {
        let listed = self.praas(&["--json", "process", "list"]).succeeded().json();
        let all = listed["processes"].as_array().unwrap();
        all.iter().find(|status| status["process"] == process).unwrap_or_else(|| panic!("{listed}")).clone()
    }

    /// Runs the binary against this server.
    pub fn praas<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ended {
        run_praas(&self.data, arguments)
    }

    /// Ends it as a person or a service manager would.
    pub fn end(mut self) -> Ended {
        let pidfd = Pidfd::open(self.child.id()).unwrap();
        pidfd.send_signal(Signal::TERM).unwrap();
        assert!(pidfd.wait_gone(PATIENCE).unwrap(), "the server did not end within {PATIENCE:?}");
        let status = self.child.wait().unwrap();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        Ended { status, stdout, stderr }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn demo_manifest() -> String {
    let binary = Value::from(env!("CARGO_BIN_EXE_praas"));
    let functions = Value::from(praas::demo::application::FUNCTIONS.as_slice());
    format!(
        "[application]\nname = \"demo\"\nbinary = {binary}\narguments = [\"demo-worker\"]\n\
         functions = {functions}\n\n[limits]\npayload_bytes_max = \"4MiB\"\n"
    )
}

/// Writes the manifest of an application whose function binary is this very test binary, with a test called `worker`, and what else
/// the manifest has to say.
pub fn manifest_of(directory: &Path, application: &str, more: &str) -> PathBuf {
    let manifest = directory.join("praas.toml");
    let binary = Value::from(std::env::current_exe().unwrap().to_str().unwrap());
    let text = format!(
        "[application]\nname = \"{application}\"\nbinary = {binary}\n\
         arguments = [\"worker\", \"--exact\", \"--nocapture\", \"--test-threads=1\"]\n{more}\n"
    );
    fs::write(&manifest, text).unwrap();
    manifest
}

/// Running processes whose command line or environment mentions `needle`, other than this one.
///
/// Without the right to look at a process it is not seen: tests look for their own user's.
pub fn processes_mentioning(needle: &str) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() || is_zombie(pid) {
            continue;
        }
        let mentions = ["cmdline", "environ"].iter().any(|file| {
            fs::read(entry.path().join(file)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(needle))
        });
        let stands_in = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.to_string_lossy().contains(needle));
        if mentions || stands_in {
            found.insert(pid);
        }
    }
    found
}

fn is_zombie(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
}

/// Waits until `condition` holds; fails with what it said last.
#[track_caller]
pub fn eventually<T: std::fmt::Debug>(mut look: impl FnMut() -> Result<(), T>) {
    let end = Instant::now() + PATIENCE;
    loop {
        match look() {
            Ok(()) => return,
            Err(found) if Instant::now() > end => panic!("not within {PATIENCE:?}: {found:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
