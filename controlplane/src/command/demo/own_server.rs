//! The demo's own server: `praas serve` as a child, over a directory of its own.
//!
//! 1. The child ends when its standard input does, which this process holds: also when this process is killed. It removes
//!    its directory then, with all that lies in it.
//! 2. Dropping an [`OwnServer`] ends it and waits; what does not end in time is killed.

use std::collections::VecDeque;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_sys::Pidfd;
use serde_json::Value;
use tempfile::TempDir;

use super::interruption::Interruption;
use crate::command::MANIFEST_FILE;
use crate::demo::application::{APPLICATION, FUNCTIONS};
use crate::demo::limits::STATE_MIB_MAX;
use crate::failure::Failure;
use crate::limits::{DEMO_LOG_BYTES_MAX, DEMO_START_MAX, DEMO_STOP_MAX};

/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Period in which a starting server is asked about and Ctrl-C looked at.
const START_LOOK: Duration = Duration::from_millis(50);

/// Largest payload of the demo's calls: room for the batches that are on their way together.
const PAYLOAD_MIB_MAX: u32 = 4;

/// A running server and its directory.
#[derive(Debug)]
pub(super) struct OwnServer {
    /// Taken when it has ended.
    child: Option<Child>,
    /// Its standard input; the server ends with it.
    stdin: Option<ChildStdin>,
    log: Option<JoinHandle<VecDeque<u8>>>,
    directory: TempDir,
    started_ms: f64,
    pid: u32,
    /// Where it serves the network.
    address: Option<String>,
}

impl OwnServer {
    /// Starts a server and waits until it serves.
    pub(super) fn start(interruption: &Interruption) -> Result<Self, Failure> {
        let directory =
            tempfile::Builder::new().prefix("praas-demo-").permissions(Permissions::from_mode(0o700)).tempdir();
        let directory = directory.map_err(Failure::file("creating a directory in", std::env::temp_dir()))?;
        let manifest = directory.path().join(MANIFEST_FILE);
        std::fs::write(&manifest, manifest_text()?).map_err(Failure::file("writing", &manifest))?;
        let start = Instant::now();
        let mut child =
            command(directory.path(), &manifest).spawn().map_err(Failure::host("starting the demo's own server"))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let pid = child.id();
        let log = stderr.map(|stderr| std::thread::spawn(move || keep_end(stderr)));
        let mut server = Self { child: Some(child), stdin, log, directory, started_ms: 0.0, pid, address: None };
        let first_line = stdout.map(first_line);
        server.wait_until_serving(first_line.as_ref(), interruption)?;
        server.started_ms = start.elapsed().as_secs_f64() * 1e3;
        Ok(server)
    }

    /// Where clients find it.
    pub(super) fn data_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it serves clients over TCP.
    pub(super) fn address(&self) -> Option<&str> {
        self.address.as_deref()
    }

    /// Milliseconds from its start until it served.
    pub(super) fn started_ms(&self) -> f64 {
        self.started_ms
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Drains and ends it, and removes its directory.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let ended = end(&mut child, self.stdin.take());
        let status = child.wait().map_err(Failure::host("waiting for the demo's own server"));
        let log = self.take_log();
        // The server has removed its directory, unless it was killed.
        let removed = match std::fs::remove_dir_all(self.directory.path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        match status? {
            _ if !ended => {
                Err(Failure::DemoServer { what: format!("did not end within {DEMO_STOP_MAX:?} and was killed"), log })
            }
            status if !status.success() => Err(Failure::DemoServer { what: format!("ended badly ({status})"), log }),
            _ => removed.map_err(Failure::file("removing", self.directory.path())),
        }
    }

    /// What is left of it that should not be: its directory.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let path = self.directory.path();
        if path.exists() { vec![path.display().to_string()] } else { Vec::new() }
    }

    fn wait_until_serving(
        &mut self,
        first_line: Option<&Receiver<String>>,
        interruption: &Interruption,
    ) -> Result<(), Failure> {
        let end = Instant::now() + DEMO_START_MAX;
        while let Some(line) = first_line {
            interruption.check()?;
            match line.recv_timeout(START_LOOK) {
                Ok(line) if line.contains("\"serving\"") => {
                    let announced: Value = serde_json::from_str(&line).unwrap_or_default();
                    self.address = announced["addresses"][0].as_str().map(str::to_owned);
                    return Ok(());
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if Instant::now() > end => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // Ended before its words are read: they end with it.
        if let Some(mut child) = self.child.take() {
            end_now(&mut child);
        }
        Err(Failure::DemoServer { what: "did not start".into(), log: self.take_log() })
    }

    fn take_log(&mut self) -> String {
        let kept = self.log.take().and_then(|log| log.join().ok()).unwrap_or_default();
        String::from_utf8_lossy(&Vec::from(kept)).trim_end().to_owned()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // On the way out of a failure that is told already.
        let _ = self.stop();
    }
}

fn command(directory: &Path, manifest: &Path) -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command
        .args(["--json", "serve", "--temporary", "--keeper-linger", "0", "--log", "warning"])
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(directory)
        .arg(manifest)
        // Ctrl-C is this process's affair, which ends its server when it has no more use for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The description of the demo's application: this program, as its own worker.
fn manifest_text() -> Result<String, Failure> {
    let program = std::env::current_exe().map_err(Failure::host("finding this program's own file"))?;
    if !program.is_file() {
        let what = "cannot be started: the file of this program was replaced while it ran; run it again".to_owned();
        return Err(Failure::DemoServer { what, log: String::new() });
    }
    // JSON strings are TOML strings too; a path that is not text has no place in either.
    let program = serde_json::json!(program.to_string_lossy());
    let functions = serde_json::json!(FUNCTIONS);
    Ok(format!(
        "[application]\nname = \"{APPLICATION}\"\nbinary = {program}\narguments = [\"demo-worker\"]\n\
         functions = {functions}\n\n[limits]\npayload_bytes_max = \"{PAYLOAD_MIB_MAX}MiB\"\n\
         state_bytes_max = \"{STATE_MIB_MAX}MiB\"\n"
    ))
}

/// The first line that the server prints, from a thread that reads on until it ends, so that it never writes to nobody.
fn first_line(stdout: ChildStdout) -> Receiver<String> {
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut text = String::new();
        if stdout.read_line(&mut text).is_ok() && !text.is_empty() {
            let _ = sender.send(text);
        }
        drop(sender);
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    line
}

/// The end of what the server says on standard error.
fn keep_end(mut stderr: ChildStderr) -> VecDeque<u8> {
    let mut kept = VecDeque::new();
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = stderr.read(&mut buffer) {
        kept.extend(&buffer[..bytes]);
        let excess = kept.len().saturating_sub(DEMO_LOG_BYTES_MAX);
        kept.drain(..excess);
    }
    kept
}

/// Lets a server drain and end by closing its standard input; kills it if that takes too long. Whether it ended by itself.
fn end(child: &mut Child, stdin: Option<ChildStdin>) -> bool {
    drop(stdin);
    let gone = Pidfd::open(child.id()).and_then(|pidfd| pidfd.wait_gone(DEMO_STOP_MAX));
    if matches!(gone, Ok(true)) {
        return true;
    }
    end_now(child);
    false
}

fn end_now(child: &mut Child) {
    // Fails only when it has ended.
    let _ = child.kill();
    let _ = child.wait();
}
