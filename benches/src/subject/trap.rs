//! A seccomp filter that traps every system call of the calling thread, and a handler that counts them. A trapped call is
//! not made; its caller gets a senseless result.
//!
//! There is no way back: a confined thread cannot even end by itself. Whoever confines one answers by memory alone and is
//! ended from outside.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

static TRAPPED: AtomicU64 = AtomicU64::new(0);
static LAST_TRAPPED: AtomicU64 = AtomicU64::new(0);

/// What the kernel tells about a trapped call; the head of its `siginfo_t` for SIGSYS.
#[repr(C)]
struct TrapInformation {
    signal: c_int,
    error: c_int,
    code: c_int,
    call_address: *const c_void,
    call_number: c_int,
}

/// Confines the calling thread.
pub(super) fn install() -> io::Result<()> {
    count_trapped_calls()?;
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    // The handler has to return.
    let allowed = BTreeMap::from([(libc::SYS_rt_sigreturn, Vec::new())]);
    let filter = SeccompFilter::new(allowed, SeccompAction::Trap, SeccompAction::Allow, architecture);
    let program = BpfProgram::try_from(filter.map_err(io::Error::other)?).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn count_trapped_calls() -> io::Result<()> {
    // SAFETY: all bytes zero are a valid `sigaction`: no flags, no mask, the default action.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = count as *const () as libc::sighandler_t;
    // SAFETY: the action outlives the call; its handler touches atomics alone, so it may run anywhere.
    let status = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn count(_: c_int, information: *const TrapInformation, _: *mut c_void) {
    // SAFETY: the kernel passes a handler with SA_SIGINFO a whole `siginfo_t`, which for SIGSYS begins as this type does.
    let call_number = unsafe { (*information).call_number };
    LAST_TRAPPED.store(u64::from(call_number.cast_unsigned()), Ordering::Relaxed);
    TRAPPED.fetch_add(1, Ordering::Relaxed);
}

/// System calls of this process that were trapped, and the number of the last one.
pub(super) fn trapped() -> (u64, u64) {
    (TRAPPED.load(Ordering::Relaxed), LAST_TRAPPED.load(Ordering::Relaxed))
}

/// Whether a system call made now by this thread is trapped and counted.
pub(super) fn counts_a_call() -> bool {
    let (before, _) = trapped();
    // SAFETY: getppid has no arguments and no effect.
    unsafe { libc::syscall(libc::SYS_getppid) };
    trapped().0 == before + 1
}
