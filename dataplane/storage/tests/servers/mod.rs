//! Real servers as children of a test: found where `perf/setup` puts them or on the search path, started on loopback with
//! files in a directory of their own, and killed by their own id when dropped, or by the kernel with the thread that started
//! them. A test whose server is not installed prints a line and passes.

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to answer first.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(50);
/// Bytes from the end of what a server said that a failure quotes.
const LOG_BYTES_QUOTED: usize = 1500;

/// A running server.
pub(crate) struct Server {
    child: Child,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program with arguments that may depend on its directory, and waits until it answers.
    pub(crate) fn start<T, E: ToString>(
        program: &Path,
        arguments: impl FnOnce(&Path) -> Vec<String>,
        mut answers: impl FnMut() -> Result<T, E>,
    ) -> (Self, T) {
        let directory = tempfile::tempdir().expect("a directory");
        let log = File::create(directory.path().join("log")).expect("a file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments(directory.path()));
        command.current_dir(directory.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = command.spawn().expect("setpriv of util-linux starts it");
        let mut server = Self { child, directory };
        let until = Instant::now() + PATIENCE;
        loop {
            let error = match answers() {
                Ok(answer) => return (server, answer),
                Err(error) => error.to_string(),
            };
            let ended = server.child.try_wait().expect("it is our child");
            let over = ended.is_some() || Instant::now() > until;
            assert!(!over, "{} did not come up ({ended:?}): {error}\n{}", program.display(), server.said());
            thread::sleep(POLL);
        }
    }

    /// The last of what it said.
    fn said(&self) -> String {
        let log = fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES_QUOTED)..]).into_owned()
    }
}

/// A program that `perf/setup` installs as `part`; without it a line is printed.
pub(crate) fn program(name: &str, part: &str) -> Option<PathBuf> {
    let folder = env::var_os("PRAAS_PERF_SERVERS")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../perf/servers"), PathBuf::from);
    let search = env::var_os("PATH").unwrap_or_default();
    let found = [folder.join("bin")].into_iter().chain(env::split_paths(&search)).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: there is no {name}; `perf/setup {part}` installs it");
    }
    found
}

/// Ports of loopback that nobody listens on now.
pub(crate) fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    // All are held until all are found.
    let listeners = [(); COUNT].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
