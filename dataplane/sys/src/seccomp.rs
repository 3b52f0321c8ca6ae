//! The system calls that a worker is refused.
//!
//! A deny list: function code is arbitrary programs, so everything is allowed except what reaches into other processes, the
//! kernel's configuration, or around the other confinements. Refused calls fail with EPERM, so that libraries fall back.
//! Two cases need other care: numbers of the x32 ABI would walk past the list, and `clone3` hides its flags in memory
//! where a filter cannot look, so it answers ENOSYS and the C library uses `clone`, whose flags are checked.
//!
//! The filter is a binary search over call numbers, built here: the kernel compiles a new filter and runs it once for every
//! call number, so a list of 75 comparisons, as filter compilers emit, takes 307 µs to install, where a tree takes less than
//! a third of that and a filter of one instruction 64. That is paid by every spawn.

mod program;
mod refused;

use std::sync::{Arc, OnceLock};

use crate::sandbox::Network;
pub(crate) use program::Program;

/// A compiled filter, in the layout that the kernel reads.
pub(crate) type Filter = Arc<Program>;

/// Whether the kernel takes filters, and this code makes them for this architecture.
pub(crate) fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let action: u32 = libc::SECCOMP_RET_ERRNO;
        // SAFETY: the kernel reads four bytes, which live on this frame.
        let status = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
        status == 0 && program::ARCHITECTURE.is_some()
    })
}

/// The filter for workers with this network, made once; `None` on an architecture without one.
pub(crate) fn filter(network: Network) -> Option<Filter> {
    static WITHOUT: OnceLock<Option<Filter>> = OnceLock::new();
    static WITH: OnceLock<Option<Filter>> = OnceLock::new();
    let cell = match network {
        Network::None => &WITHOUT,
        Network::Host => &WITH,
    };
    cell.get_or_init(|| Some(Arc::new(Program::new(program::ARCHITECTURE?, &refused::verdicts(network))))).clone()
}
