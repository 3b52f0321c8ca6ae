//! Whether a child may have a PID namespace of its own here, found out once by making one.

use std::ffi::c_void;
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::clone::{ChildStack, clone_child};

/// How PID namespaces can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PidNamespaces {
    /// This process may make them.
    Direct,
    /// Only together with a user namespace.
    ThroughUser,
    /// Not at all.
    Refused(Errno),
}

impl PidNamespaces {
    pub(crate) fn clone_flags(self) -> Option<i32> {
        match self {
            Self::Direct => Some(libc::CLONE_NEWPID),
            Self::ThroughUser => Some(libc::CLONE_NEWPID | libc::CLONE_NEWUSER),
            Self::Refused(_) => None,
        }
    }
}

/// What this host grants; the first call starts a child or two that exit at once.
pub(crate) fn pid_namespaces() -> PidNamespaces {
    static FOUND: OnceLock<PidNamespaces> = OnceLock::new();
    *FOUND.get_or_init(|| match attempt(libc::CLONE_NEWPID) {
        Ok(()) => PidNamespaces::Direct,
        Err(direct) => match attempt(libc::CLONE_NEWPID | libc::CLONE_NEWUSER) {
            Ok(()) => PidNamespaces::ThroughUser,
            Err(_) => PidNamespaces::Refused(direct),
        },
    })
}

/// Whether user namespaces can be made, whoever asks.
pub(crate) fn user_namespaces() -> Result<(), Errno> {
    static FOUND: OnceLock<Result<(), Errno>> = OnceLock::new();
    *FOUND.get_or_init(|| attempt(libc::CLONE_NEWUSER))
}

extern "C" fn exit_at_once(_: *mut c_void) -> ! {
    // SAFETY: exiting is a system call that takes a number.
    unsafe { libc::_exit(0) }
}

fn attempt(namespaces: i32) -> Result<(), Errno> {
    let mut stack = ChildStack::new()?;
    // SAFETY: `exit_at_once` makes one system call and never returns; its argument is unused.
    let child = unsafe { clone_child(namespaces, None, &mut stack, exit_at_once, std::ptr::null_mut()) }?;
    // The child has exited already: clone_child returns after that.
    let _ = crate::pidfd::Pidfd::from(child.pidfd).wait_deadline(std::time::Duration::from_secs(5));
    Ok(())
}
