//! A server of another system as a child of this program: started, waited for, and ended.
//!
//! It keeps its files in a directory of its own, which goes with it, in memory where the host has room: so no disk slows it
//! down. What it says is kept there too, for the words of an error.
//!
//! Invariants: a server is killed by its own process id when its [`ServerProgram`] is dropped, and by the kernel when the
//! thread that started it ends in whatever way (`setpriv --pdeathsig`). Nothing waits for it longer than its patience.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use praas_benches::floors::Pinned;
use tempfile::TempDir;

use super::BaselineError;

/// How long a server may take to answer first, unless its launch says otherwise.
const START_PATIENCE_DEFAULT: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const START_POLL: Duration = Duration::from_millis(20);
/// Bytes from the end of what a server said that an error quotes.
const LOG_BYTES_QUOTED: u64 = 1_500;
/// What a server says goes into this file of its directory.
const LOG_FILE: &str = "log";
/// A file system in memory, on most hosts.
const MEMORY: &str = "/dev/shm";
/// How the names of our directories begin.
const DIRECTORY_PREFIX: &str = "praas-perf-";
/// Age below which a directory may be one whose maker has not locked it yet.
const ABANDONED_AFTER: Duration = Duration::from_secs(60);
/// Has the kernel end the server with the thread that started it.
const WRAPPER: &str = "setpriv";

/// A directory for files of other systems, in memory where the host has it; removed when dropped, or by a later run if this
/// one is killed.
#[derive(Debug)]
pub struct PrivateDirectory {
    directory: TempDir,
    // While we live: says that the directory is in use.
    _locked: File,
}

impl PrivateDirectory {
    /// A new one, empty. Everyone may enter it, because a function's worker, which is another user, connects to sockets in
    /// it.
    ///
    /// # Errors
    /// [`BaselineError::System`] if none can be made.
    pub fn new() -> Result<Self, BaselineError> {
        Self::in_directory(Path::new(MEMORY)).or_else(|_| Self::in_directory(&std::env::temp_dir()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn in_directory(parent: &Path) -> Result<Self, BaselineError> {
        remove_abandoned(parent);
        let make = || -> io::Result<Self> {
            let directory = tempfile::Builder::new().prefix(DIRECTORY_PREFIX).tempdir_in(parent)?;
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
            let locked = File::open(directory.path())?;
            locked.lock()?;
            Ok(Self { directory, _locked: locked })
        };
        make().map_err(BaselineError::system("make a directory for a server"))
    }
}

/// Removes what killed runs left: directories of ours that nobody holds and that are not just being made.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(DIRECTORY_PREFIX);
        let age = entry.metadata().and_then(|it| it.modified()).ok().and_then(|at| at.elapsed().ok());
        if !is_ours || age.is_none_or(|age| age < ABANDONED_AFTER) {
            continue;
        }
        if let Ok(directory) = File::open(entry.path())
            && directory.try_lock().is_ok()
        {
            // What cannot be removed is another user's, and that user's next run removes it.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A port of loopback that nobody listens on now. Another program may take it before the server does; then the server does
/// not come up, and whoever starts it tries another.
///
/// # Errors
/// [`BaselineError::System`] if there is none.
pub fn free_port() -> Result<u16, BaselineError> {
    free_ports::<1>().map(|[port]| port)
}

/// Several such ports, all different.
///
/// # Errors
/// [`BaselineError::System`] if there are not so many.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT], BaselineError> {
    let found = || -> io::Result<Vec<(TcpListener, u16)>> {
        // All are held until all are found.
        let listen = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        (0..COUNT)
            .map(listen)
            .map(|listener| listener.and_then(|it| it.local_addr().map(|at| (it, at.port()))))
            .collect()
    };
    let found = found().map_err(BaselineError::system("find a free port"))?;
    let mut ports = [0; COUNT];
    for (port, (_, found)) in ports.iter_mut().zip(&found) {
        *port = *found;
    }
    Ok(ports)
}

/// What a program says of itself when it is asked for its version: the first line of its output.
///
/// # Errors
/// [`BaselineError::NotUp`] if it cannot be started or fails.
pub fn version_line(program: &'static str, path: &Path, argument: &str) -> Result<String, BaselineError> {
    let failed = |reason: String| BaselineError::NotUp { program, reason, log: String::new() };
    let output = Command::new(path).arg(argument).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => Err(failed(format!("asked for its version, it ended with {}", output.status))),
    }
}

/// A server that is to be started.
#[derive(Debug)]
pub struct Launch {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    cpu: Option<usize>,
    patience: Duration,
    directory: PrivateDirectory,
}

impl Launch {
    /// This program, which people know by `name`, with a directory of its own.
    ///
    /// # Errors
    /// [`BaselineError::System`] if no directory can be made.
    pub fn new(name: &'static str, program: impl Into<PathBuf>) -> Result<Self, BaselineError> {
        Ok(Self {
            name,
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cpu: None,
            patience: START_PATIENCE_DEFAULT,
            directory: PrivateDirectory::new()?,
        })
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of its environment, beside those of this program.
    #[must_use]
    pub fn env(mut self, variable: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((variable.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The core that it runs on with all its threads; `None` leaves it to the scheduler.
    #[must_use]
    pub fn cpu(mut self, cpu: Option<usize>) -> Self {
        self.cpu = cpu;
        self
    }

    /// How long it may take to answer first.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Its own directory, which is also its working directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until `answers` succeeds, which is asked again and again and must not wait long itself. What it
    /// says counts only while the server runs: another program's server may have answered on its port.
    ///
    /// # Errors
    /// [`BaselineError::NotUp`] if it ends, even behind its answer, or its patience does.
    pub fn start<T, E: ToString>(
        self,
        mut answers: impl FnMut() -> Result<T, E>,
    ) -> Result<(ServerProgram, T), BaselineError> {
        let mut server = self.spawn()?;
        let until = Instant::now() + server.patience;
        loop {
            match answers() {
                Ok(answer) => {
                    server.check_runs()?;
                    return Ok((server, answer));
                }
                Err(error) => server.check_not_over(until, &error)?,
            }
            thread::sleep(START_POLL);
        }
    }

    fn spawn(self) -> Result<ServerProgram, BaselineError> {
        let log = File::create(self.directory.path().join(LOG_FILE)).and_then(|log| Ok((log.try_clone()?, log)));
        let (errors, output) = log.map_err(BaselineError::system("make a log file"))?;
        let mut command = Command::new(WRAPPER);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program).args(&self.arguments);
        command.envs(self.environment).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // The child inherits the core.
        let pinned = Pinned::to(self.cpu);
        let pinned = pinned.map_err(|error| BaselineError::System {
            action: "pin a server to a core",
            source: io::Error::other(error),
        })?;
        let child = command.spawn().map_err(BaselineError::system("start a server by `setpriv` of util-linux"))?;
        drop(pinned);
        Ok(ServerProgram {
            name: self.name,
            child,
            patience: self.patience,
            directory: self.directory,
            on_this_thread: PhantomData,
        })
    }
}

/// A running server; killed and reaped when dropped. Not `Send`: the kernel ties it to the thread that started it.
#[derive(Debug)]
pub struct ServerProgram {
    name: &'static str,
    child: Child,
    patience: Duration,
    directory: PrivateDirectory,
    on_this_thread: PhantomData<*const ()>,
}

impl ServerProgram {
    /// Its process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Its own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The last of what it said, on lines of its own.
    #[must_use]
    pub fn log_end(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.directory.path().join(LOG_FILE))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_QUOTED)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match read() {
            Ok(text) if !text.is_empty() => format!("; it said:\n{text}"),
            _ => String::new(),
        }
    }

    fn check_runs(&mut self) -> Result<(), BaselineError> {
        let ended = self.child.try_wait().map_err(BaselineError::system("look at a server"))?;
        ended.map_or(Ok(()), |status| Err(self.not_up(format!("it ended with {status}"))))
    }

    fn check_not_over(&mut self, until: Instant, last: &impl ToString) -> Result<(), BaselineError> {
        self.check_runs()?;
        if Instant::now() < until {
            return Ok(());
        }
        Err(self.not_up(format!("it did not answer in {:?}: {}", self.patience, last.to_string())))
    }

    fn not_up(&self, reason: String) -> BaselineError {
        BaselineError::NotUp { program: self.name, reason, log: self.log_end() }
    }
}

impl Drop for ServerProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // Killed, and our own child: the wait is short.
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn alive(process: u32) -> bool {
        Path::new(&format!("/proc/{process}")).exists()
    }

    #[test]
    fn a_server_is_waited_for_and_ends_when_dropped_with_its_directory() {
        let launch = Launch::new("a shell", "/bin/sh").expect("a directory");
        let mark = launch.directory().join("up");
        let launch = launch.arg("-c").arg("touch up; exec sleep 100");
        let (server, ()) = launch.start(|| fs::metadata(&mark).map(drop)).expect("it comes up");
        let (process, directory) = (server.process_id(), server.directory().to_owned());
        assert!(alive(process) && directory.exists());
        drop(server);
        assert!(!alive(process) && !directory.exists());
    }

    #[test]
    fn a_server_that_ends_is_an_error_with_its_words() {
        let launch = Launch::new("a shell", "/bin/sh").expect("a directory").args(["-c", "echo no such port; exit 3"]);
        let error = launch.start(|| Err::<(), _>("not yet")).expect_err("it ends");
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("no such port"), "{text}");
    }

    #[test]
    fn an_answer_does_not_count_when_the_server_has_ended() {
        let launch = Launch::new("a shell", "/bin/sh").expect("a directory").args(["-c", "echo $$; exit 4"]);
        let log = launch.directory().join(LOG_FILE);
        // Somebody answers as soon as the server is a zombie.
        let answers = || {
            let text = fs::read_to_string(&log).map_err(|error| error.to_string())?;
            let state = fs::read_to_string(format!("/proc/{}/stat", text.trim())).map_err(|error| error.to_string())?;
            if state.contains(") Z ") { Ok(()) } else { Err("it runs".to_owned()) }
        };
        let error = launch.start(answers).expect_err("it has ended");
        assert!(error.to_string().contains("exit status: 4"), "{error}");
    }

    #[test]
    fn a_server_that_never_answers_is_given_up_and_killed() {
        let launch =
            Launch::new("a shell", "/bin/sh").expect("a directory").args(["-c", "echo $$ > id; exec sleep 100"]);
        let id = launch.directory().join("id");
        let mut process = None;
        let answers = || {
            process = fs::read_to_string(&id).ok().and_then(|text| text.trim().parse().ok());
            Err::<(), _>("silence")
        };
        let error = launch.patience(Duration::from_secs(2)).start(answers).expect_err("nobody answers");
        assert!(error.to_string().contains("silence"), "{error}");
        assert!(!alive(process.expect("it said its process id")));
    }

    #[test]
    fn what_a_killed_run_left_is_removed_and_what_is_in_use_or_new_stays() {
        let parent = tempfile::tempdir().expect("a directory");
        let used = PrivateDirectory::in_directory(parent.path()).expect("a directory");
        let [abandoned, new, foreign] =
            ["praas-perf-old", "praas-perf-new", "other-old"].map(|name| parent.path().join(name));
        for path in [&abandoned, &new, &foreign] {
            fs::create_dir(path).expect("a directory");
        }
        let long_ago = SystemTime::now() - 2 * ABANDONED_AFTER;
        for path in [&abandoned, &foreign, &used.path().to_owned()] {
            File::open(path).and_then(|it| it.set_modified(long_ago)).expect("an older time");
        }
        remove_abandoned(parent.path());
        assert!(!abandoned.exists());
        assert!(used.path().exists() && new.exists() && foreign.exists());
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports::<5>().expect("there are some");
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]) && ports[0] > 0, "{ports:?}");
    }
}
