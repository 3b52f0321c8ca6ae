//! What a praas process does to itself at its start.

use std::mem::MaybeUninit;

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use rustix::rand::{GetRandomFlags, getrandom};

/// Makes this process non-dumpable: no core file, and no process of the same user may attach to it or read its memory or
/// descriptors through `/proc`.
pub fn set_non_dumpable() -> Result<(), Errno> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Asks for `signal` when the thread that spawned this process exits. The kernel forgets this on a change of user, and
/// says nothing if that thread is gone already: check the parent afterwards.
pub fn set_parent_death_signal(signal: Signal) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(signal))
}

/// Fills `bytes` with random bytes fit for tokens and keys.
pub fn random_bytes(bytes: &mut [u8]) -> Result<(), Errno> {
    let mut filled = 0;
    while filled < bytes.len() {
        // At most `bytes.len()` turns: the kernel writes at least one byte a call or fails.
        let written = retry_on_intr(|| getrandom(&mut bytes[filled..], GetRandomFlags::empty()))?;
        if written == 0 {
            return Err(Errno::IO);
        }
        filled += written;
    }
    Ok(())
}

/// A random 128-bit number: root ids, segment ids, token ids.
pub fn random_u128() -> Result<u128, Errno> {
    let mut bytes = [0; 16];
    random_bytes(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

/// The soft limit of open files, before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFilesLimit {
    /// What it was.
    pub before: u64,
    /// What it is.
    pub now: u64,
}

/// Raises the soft limit of open files to the hard limit.
pub fn raise_open_files_limit() -> Result<OpenFilesLimit, Errno> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let before = limit.current.unwrap_or(u64::MAX);
    let now = limit.maximum.unwrap_or(u64::MAX);
    if before < now {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(OpenFilesLimit { before, now })
}

/// The last error of a raw `libc` call on this thread.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A zeroed value of a plain C struct.
///
/// # Safety
/// All-zero bytes must be a valid `T`.
pub(crate) unsafe fn zeroed<T>() -> T {
    // SAFETY: the caller vouches that zero bytes are a valid `T`.
    unsafe { MaybeUninit::zeroed().assume_init() }
}
