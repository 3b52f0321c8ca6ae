//! The child's side of a spawn: from the clone to the execution of its program.
//!
//! It runs in its parent's memory while the parent's thread sleeps (see `clone`): system calls only. Everything it reads
//! was prepared in a [`ChildPlan`], which outlives it; the only memory it writes besides its stack is the plan's
//! failure cell and `errno` of the sleeping thread.
//!
//! The order matters:
//! 1. Entering cgroups comes first, while the user is still privileged to.
//! 2. Descriptors are numbered before anything else opens one, and all others are closed.
//! 3. The user changes before `PR_SET_PDEATHSIG`, which the kernel forgets on a change of user; then the parent is checked,
//!    because the signal is not sent for a parent that died before.
//! 4. `no_new_privs` before Landlock and seccomp, which need it; seccomp last, so that the list of refused calls need not
//!    spare what is used here.

use std::ffi::{c_char, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::landlock::{PROC_SELF_ACCESS, PathBeneath, RULE_PATH_BENEATH};
use crate::spawn::Step;

/// Everything the child needs, in the form that system calls take it.
#[derive(Debug)]
pub(crate) struct ChildPlan<'a> {
    pub(crate) program: *const c_char,
    pub(crate) program_file: i32,
    pub(crate) argv: *const *const c_char,
    pub(crate) envp: *const *const c_char,
    pub(crate) directory: i32,
    /// Descriptor and the number it gets; no number is among the descriptors.
    pub(crate) fds: &'a [(i32, i32)],
    /// Ranges of numbers to close, both ends included.
    pub(crate) gaps: &'a [(u32, u32)],
    /// First number above all targets: from here on everything closes at execution.
    pub(crate) above: u32,
    pub(crate) entrances: &'a [i32],
    pub(crate) user: Option<(u32, u32)>,
    /// Lines for `uid_map` and `gid_map` of a new user namespace.
    pub(crate) user_map: Option<(&'a [u8], &'a [u8])>,
    pub(crate) limits: &'a [(u32, libc::rlimit64)],
    pub(crate) liveness_read: i32,
    pub(crate) liveness_write: i32,
    /// Landlock ruleset, or -1.
    pub(crate) ruleset: i32,
    /// Filter, or null.
    pub(crate) filter: *const libc::sock_fprog,
    pub(crate) failed_step: AtomicI32,
    pub(crate) failed_errno: AtomicI32,
}

struct Failure {
    step: Step,
    errno: i32,
}

type Outcome = Result<(), Failure>;

/// Entry point of the child; `argument` points to its [`ChildPlan`].
pub(crate) extern "C" fn child_main(argument: *mut c_void) -> ! {
    // SAFETY: `spawn` passes a pointer to a plan that lives until this child has executed or exited.
    let plan = unsafe { &*argument.cast::<ChildPlan<'_>>() };
    let Err(failure) = become_worker(plan) else { exit() };
    // Relaxed: the parent sleeps until this child is gone, and the kernel orders the two.
    plan.failed_errno.store(failure.errno, Ordering::Relaxed);
    plan.failed_step.store(failure.step as i32, Ordering::Relaxed);
    exit()
}

fn exit() -> ! {
    // SAFETY: ends this process without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn become_worker(plan: &ChildPlan<'_>) -> Outcome {
    reset_signal_actions();
    call(Step::Session, libc::SYS_setsid, [0; 5])?;
    enter_cgroups(plan)?;
    map_user(plan);
    number_descriptors(plan)?;
    call(Step::WorkingDirectory, libc::SYS_fchdir, [word(plan.directory), 0, 0, 0, 0])?;
    call(Step::Limits, libc::SYS_umask, [0o077, 0, 0, 0, 0])?;
    limit_resources(plan)?;
    change_user(plan)?;
    die_with_parent(plan)?;
    let on = [libc::PR_SET_NO_NEW_PRIVS as usize, 1, 0, 0, 0];
    call(Step::NoNewPrivileges, libc::SYS_prctl, on)?;
    restrict_files(plan)?;
    if !plan.filter.is_null() {
        let filter = [libc::SECCOMP_SET_MODE_FILTER as usize, 0, plan.filter as usize, 0, 0];
        call(Step::Seccomp, libc::SYS_seccomp, filter)?;
    }
    unblock_signals()?;
    execute(plan)
}

fn call(step: Step, number: i64, arguments: [usize; 5]) -> Result<i64, Failure> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: each caller passes what that system call expects; pointers among the arguments point into the plan or into
    // the caller's frame, both alive. A call that changes state changes this child only.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result >= 0 { Ok(result) } else { Err(Failure { step, errno: errno() }) }
}

/// A descriptor or small number as a system call's argument, sign-extended as the C library would.
fn word(number: i32) -> usize {
    #[expect(clippy::cast_sign_loss, reason = "the kernel takes the low 32 bits as a signed number")]
    let word = number as usize;
    word
}

fn errno() -> i32 {
    // SAFETY: the sleeping parent thread's errno, which nobody else uses now.
    unsafe { *libc::__errno_location() }
}

/// Signals that Rust or the application ignores stay ignored over an execution unless reset here.
fn reset_signal_actions() {
    /// `struct sigaction` as the kernel has it, at its longest; all zero is the default action.
    const DEFAULT_ACTION: [u64; 4] = [0; 4];
    const SIGNALS: usize = 64;
    const SET_BYTES: usize = 8;
    for signal in 1..=SIGNALS {
        // SIGKILL and SIGSTOP refuse, which is as well.
        let arguments = [signal, DEFAULT_ACTION.as_ptr() as usize, 0, SET_BYTES, 0];
        let _ = call(Step::Signals, libc::SYS_rt_sigaction, arguments);
    }
}

fn unblock_signals() -> Outcome {
    let none = 0_u64;
    let arguments = [libc::SIG_SETMASK as usize, (&raw const none) as usize, 0, size_of::<u64>(), 0];
    call(Step::Signals, libc::SYS_rt_sigprocmask, arguments).map(drop)
}

fn enter_cgroups(plan: &ChildPlan<'_>) -> Outcome {
    for &entrance in plan.entrances {
        let arguments = [word(entrance), c"0".as_ptr() as usize, 1, 0, 0];
        call(Step::Cgroup, libc::SYS_write, arguments)?;
    }
    Ok(())
}

/// Names the worker's own user in its user namespace. A non-dumpable parent makes these files unwritable; then the worker
/// sees itself as the overflow user, while files still see the real one.
fn map_user(plan: &ChildPlan<'_>) {
    if let Some((users, groups)) = plan.user_map {
        write_file(c"/proc/self/setgroups".as_ptr(), b"deny");
        write_file(c"/proc/self/uid_map".as_ptr(), users);
        write_file(c"/proc/self/gid_map".as_ptr(), groups);
    }
}

fn write_file(path: *const c_char, bytes: &[u8]) {
    let flags = word(libc::O_WRONLY | libc::O_CLOEXEC);
    let arguments = [word(libc::AT_FDCWD), path as usize, flags, 0, 0];
    if let Ok(file) = call(Step::UserNamespace, libc::SYS_openat, arguments) {
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a descriptor just returned")]
        let file = file as usize;
        let _ = call(Step::UserNamespace, libc::SYS_write, [file, bytes.as_ptr() as usize, bytes.len(), 0, 0]);
        let _ = call(Step::UserNamespace, libc::SYS_close, [file, 0, 0, 0, 0]);
    }
}

fn number_descriptors(plan: &ChildPlan<'_>) -> Outcome {
    for &(source, target) in plan.fds {
        call(Step::Descriptors, libc::SYS_dup3, [word(source), word(target), 0, 0, 0])?;
    }
    for &(first, last) in plan.gaps {
        call(Step::Descriptors, libc::SYS_close_range, [first as usize, last as usize, 0, 0, 0])?;
    }
    // What is still needed lies above and closes at execution.
    let close_at_execution = libc::CLOSE_RANGE_CLOEXEC as usize;
    let arguments = [plan.above as usize, u32::MAX as usize, close_at_execution, 0, 0];
    call(Step::Descriptors, libc::SYS_close_range, arguments).map(drop)
}

fn limit_resources(plan: &ChildPlan<'_>) -> Outcome {
    for (resource, limit) in plan.limits {
        let arguments = [0, *resource as usize, (&raw const *limit) as usize, 0, 0];
        call(Step::Limits, libc::SYS_prlimit64, arguments)?;
    }
    Ok(())
}

fn change_user(plan: &ChildPlan<'_>) -> Outcome {
    let Some((uid, gid)) = plan.user else { return Ok(()) };
    let (uid, gid) = (uid as usize, gid as usize);
    call(Step::User, libc::SYS_setgroups, [0; 5])?;
    // The bare calls change this child only; the C library's wrappers would tell every thread of the parent.
    call(Step::User, libc::SYS_setresgid, [gid, gid, gid, 0, 0])?;
    call(Step::User, libc::SYS_setresuid, [uid, uid, uid, 0, 0]).map(drop)
}

fn die_with_parent(plan: &ChildPlan<'_>) -> Outcome {
    let arguments = [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0];
    call(Step::ParentDeath, libc::SYS_prctl, arguments)?;
    // In a PID namespace the parent has no number to ask for. A pipe tells instead: its write end is held by the parent
    // and, until the next line, by this child's copy.
    call(Step::ParentDeath, libc::SYS_close, [word(plan.liveness_write), 0, 0, 0, 0])?;
    let mut entry = libc::pollfd { fd: plan.liveness_read, events: 0, revents: 0 };
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let arguments = [(&raw mut entry) as usize, 1, (&raw const zero) as usize, 0, 0];
    let hung_up = call(Step::ParentDeath, libc::SYS_ppoll, arguments)? > 0;
    if hung_up { Err(Failure { step: Step::ParentGone, errno: libc::ESRCH }) } else { Ok(()) }
}

fn restrict_files(plan: &ChildPlan<'_>) -> Outcome {
    if plan.ruleset < 0 {
        return Ok(());
    }
    let flags = word(libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY);
    let arguments = [word(libc::AT_FDCWD), c"/proc/self".as_ptr() as usize, flags, 0, 0];
    // Without a mounted /proc there is nothing to allow.
    if let Ok(own) = call(Step::Landlock, libc::SYS_openat, arguments) {
        #[expect(clippy::cast_possible_truncation, reason = "a descriptor just returned")]
        let rule = PathBeneath { allowed_access: PROC_SELF_ACCESS, parent_fd: own as i32 };
        let add = [word(plan.ruleset), RULE_PATH_BENEATH, (&raw const rule) as usize, 0, 0];
        call(Step::Landlock, libc::SYS_landlock_add_rule, add)?;
    }
    call(Step::Landlock, libc::SYS_landlock_restrict_self, [word(plan.ruleset), 0, 0, 0, 0]).map(drop)
}

fn execute(plan: &ChildPlan<'_>) -> Outcome {
    let arguments = [plan.program as usize, plan.argv as usize, plan.envp as usize, 0, 0];
    let by_path = call(Step::Execute, libc::SYS_execve, arguments);
    let Err(Failure { errno: libc::EACCES | libc::ENOENT, .. }) = by_path else { return by_path.map(drop) };
    // The worker's user may not be able to walk to a program that lies in somebody's home; the open file needs no walk.
    let flags = word(libc::AT_EMPTY_PATH);
    let file = [word(plan.program_file), c"".as_ptr() as usize, plan.argv as usize, plan.envp as usize, flags];
    call(Step::Execute, libc::SYS_execveat, file).map(drop)
}
