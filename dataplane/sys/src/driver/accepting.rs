//! Accepting, the same for both drivers: the kernel says that a listener is ready, and the driver takes what is there, a
//! bounded number at a time. A connection is taken only when it is wanted: what is beyond waits in the backlog.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::limits::ACCEPTS_PER_TURN;
use super::{Refusal, Refused};

/// Why accepting stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// The backlog is empty.
    Empty,
    /// There may be more: it is the others' turn.
    Enough,
    /// The kernel refuses.
    Failed(Errno),
}

/// Takes connections out of the backlog.
pub(super) fn accept_some(listener: BorrowedFd<'_>, mut accepted: impl FnMut(OwnedFd)) -> Accepting {
    for _ in 0..ACCEPTS_PER_TURN {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => accepted(socket),
            Err(Errno::AGAIN) => return Accepting::Empty,
            Err(errno) if is_the_peers(errno) => {}
            Err(errno) => return Accepting::Failed(errno),
        }
    }
    Accepting::Enough
}

/// Errors of the connection that was to be accepted, which accept(2) hands on: the next one may be well.
fn is_the_peers(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::TIMEDOUT
    )
}

/// Makes calls on a descriptor return at once.
pub(super) fn set_nonblocking(descriptor: OwnedFd) -> Result<OwnedFd, Refused<OwnedFd>> {
    let set = fcntl_getfl(&descriptor).and_then(|flags| fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK));
    match set {
        Ok(()) => Ok(descriptor),
        Err(errno) => Err(Refused::new(Refusal::Call { call: "fcntl", errno }, descriptor)),
    }
}
