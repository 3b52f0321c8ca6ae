//! A Redis of its own on a Unix socket: it keeps nothing on disk, its socket lies in a directory that goes with it, and it
//! dies with the thread that started it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::FloorError;
use super::redis::{Program, SERVER, START_PATIENCE, answers, other_program};

const SOCKET: &str = "redis.sock";

/// A running Redis; ended when dropped.
#[derive(Debug)]
pub(super) struct RedisOnUnixSocket {
    socket: PathBuf,
    // Killed when dropped, before its directory goes.
    _server: Program,
    _directory: TempDir,
}

impl RedisOnUnixSocket {
    /// Starts a server on this core, if one is given, and waits until it answers.
    pub(super) fn start(cpu: Option<usize>) -> Result<Self, FloorError> {
        let directory = tempfile::tempdir().map_err(FloorError::system("make a directory"))?;
        let socket = directory.path().join(SOCKET);
        let mut command = Command::new(SERVER);
        command.args(["--port", "0", "--unixsocket"]).arg(&socket).args(["--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "no"]).current_dir("/").stdout(Stdio::null());
        let server = Program::start(command, cpu)?;
        if !answers(&server, || connect(&socket).map(drop))? {
            return Err(other_program(SERVER, "it ended at once".to_owned()));
        }
        Ok(Self { socket, _server: server, _directory: directory })
    }

    /// A connection to it.
    pub(super) fn connect(&self) -> Result<UnixStream, FloorError> {
        connect(&self.socket).map_err(|error| failed(&error))
    }
}

/// Redis did something else than it must.
pub(super) fn failed(error: &io::Error) -> FloorError {
    other_program(SERVER, error.to_string())
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(START_PATIENCE))?;
    Ok(stream)
}
