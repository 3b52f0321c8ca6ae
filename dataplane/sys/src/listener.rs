//! The listening end of a Unix message socket, at a path in a private directory.
//!
//! The socket file is 0600 from the moment it can be connected to. A file that is already there is replaced only by a
//! caller who holds the lock that proves its former owner dead. Dropping the listener removes the file if it is still
//! the one it made.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, chmod, lstat, unlink};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, bind, listen};

use crate::file_lock::FileLock;
use crate::message_socket::{MessageSocket, SocketError, address, failed, new_socket};

/// Connections that may wait to be accepted. A burst of clients after a restart is served in a few turns of the loop;
/// more than this wait in `connect`.
const BACKLOG: i32 = 512;

/// What to do with a socket file that is already there.
#[derive(Clone, Copy, Debug)]
pub enum StaleSocket<'a> {
    /// Fail: its owner may be alive.
    Refuse,
    /// Replace it: the lock proves that no other server uses this directory.
    ReplaceHolding(&'a FileLock),
}

/// A listening socket. Non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`.
    pub fn bind(path: &Path, stale: StaleSocket<'_>) -> Result<Self, SocketError> {
        let address = address(path)?;
        let socket = new_socket(SocketFlags::NONBLOCK)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => replace(&socket, path, stale)?,
            other => other.map_err(failed("bind"))?,
        }
        // Nobody can connect before `listen`, so the mode is in force in time.
        chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed("chmod"))?;
        let identity = identity_of(path);
        let listener = Self { socket, path: path.to_owned(), identity };
        listen(&listener.socket, BACKLOG).map_err(failed("listen"))?;
        Ok(listener)
    }

    /// The next waiting connection, if there is one. At the open-files limit this is an error for which
    /// [`SocketError::is_fd_exhaustion`] is true; the connection stays in the backlog.
    pub fn accept(&self) -> Result<Option<MessageSocket>, SocketError> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(Some(MessageSocket::from(socket))),
                Err(Errno::AGAIN) => return Ok(None),
                // The connection was given up before it was accepted: the backlog shrinks with each, so this ends.
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(errno) => return Err(SocketError::Call { call: "accept4", errno }),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn replace(socket: &OwnedFd, path: &Path, stale: StaleSocket<'_>) -> Result<(), SocketError> {
    let StaleSocket::ReplaceHolding(_) = stale else {
        return Err(SocketError::AddressInUse { path: path.to_owned() });
    };
    let is_socket = lstat(path).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket());
    if !is_socket {
        // Whatever this is, it is not ours to delete.
        return Err(SocketError::AddressInUse { path: path.to_owned() });
    }
    unlink(path).map_err(failed("unlink"))?;
    bind(socket, &address(path)?).map_err(failed("bind"))
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.identity.is_some() && identity_of(&self.path) == self.identity {
            let _ = unlink(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
