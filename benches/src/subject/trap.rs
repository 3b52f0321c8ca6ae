//! A seccomp filter that traps every system call of the calling thread, and a handler that counts them. A trapped call is
//! not made; its caller gets a senseless result.
//!
//! There is no way back: a confined thread cannot even end by itself. Whoever confines one answers by memory alone and is
//! ended from outside.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

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
    rustix::thread::set_no_new_privs(true)?;
    let mut instructions = filter();
    let program = libc::sock_fprog {
        len: u16::try_from(instructions.len()).expect("four instructions"),
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which outlives the call; without flags it confines this thread alone.
    let status = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u64, &raw const program) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Traps every call but the one by which the handler returns. The thread is our own and makes native calls only, so the
/// architecture need not be asked for.
fn filter() -> [libc::sock_filter; 4] {
    let instruction = |code: u32, jump_if: u8, jump_else: u8, operand: u32| libc::sock_filter {
        code: u16::try_from(code).expect("a classic instruction"),
        jt: jump_if,
        jf: jump_else,
        k: operand,
    };
    let call_number = u32::try_from(std::mem::offset_of!(libc::seccomp_data, nr)).expect("a small offset");
    let handler_returns = u32::try_from(libc::SYS_rt_sigreturn).expect("a small number");
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, call_number),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, handler_returns),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_TRAP),
    ]
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
