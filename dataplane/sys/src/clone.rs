//! Starting a child that borrows this process's memory until it executes another program.
//!
//! The child shares our memory (`CLONE_VM`) and the calling thread sleeps until it has executed or exited
//! (`CLONE_VFORK`): no page table is copied and no page of a running shard becomes copy-on-write, which a plain fork
//! costs a large server on each spawn. The price, paid here and in `child`:
//! 1. The child runs on a stack of its own, so it cannot spoil the frame that the caller returns to.
//! 2. Signals are blocked around the call, so none of our handlers runs in the child.
//! 3. The child makes system calls and nothing else: no allocation, no lock, no panic.
//! 4. A child that changes its user makes the shared memory non-dumpable for good, which is what keeps another process
//!    of the new user from attaching to it; a server is non-dumpable anyway.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::process_self::last_errno;

/// The child's stack: it calls a few leaf functions; measured use is under 1 KiB.
const STACK_BYTES: usize = 64 * 1024;
/// One inaccessible page below it, on the largest page size in use.
const GUARD_BYTES: usize = 64 * 1024;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child runs. It must not return and must keep to the rules of this file.
pub(crate) type ChildMain = extern "C" fn(*mut c_void) -> !;

/// A stack for one child at a time.
#[derive(Debug)]
pub(crate) struct ChildStack {
    base: NonNull<c_void>,
}

// SAFETY: the mapping is owned by this value alone and is reachable from every thread; nothing in it is bound to the
// thread that made it.
unsafe impl Send for ChildStack {}

impl ChildStack {
    pub(crate) fn new() -> Result<Self, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::STACK;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), GUARD_BYTES + STACK_BYTES, ProtFlags::READ | ProtFlags::WRITE, flags)
        }?;
        let base = NonNull::new(base).ok_or(Errno::NOMEM)?;
        let stack = Self { base };
        // SAFETY: the range is the start of the mapping made above, and nothing refers to it.
        unsafe { mprotect(base.as_ptr(), GUARD_BYTES, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    fn lowest(&self) -> *mut c_void {
        // SAFETY: the mapping is GUARD_BYTES + STACK_BYTES long.
        unsafe { self.base.as_ptr().byte_add(GUARD_BYTES) }
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, and page-aligned as the ABI's 16 bytes want.
        unsafe { self.lowest().byte_add(STACK_BYTES) }
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: made by `new`; `clone_child` borrows the stack until its child has left it.
        let _ = unsafe { munmap(self.base.as_ptr(), GUARD_BYTES + STACK_BYTES) };
    }
}

/// A child that was started: it has executed its program, or has exited.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_bytes: u64,
    tls: u64,
    set_tid: u64,
    set_tid_count: u64,
    cgroup: u64,
}
const _: () = assert!(size_of::<CloneArguments>() == 88);

static CLONE3_MISSING: AtomicBool = AtomicBool::new(false);

/// Whether `clone3` is known to be missing here, so that a child cannot be started inside a cgroup.
pub(crate) fn clone3_is_missing() -> bool {
    CLONE3_MISSING.load(Ordering::Relaxed)
}

/// Starts `main(argument)` as a child with the given namespace flags, inside `cgroup` (a v2 directory) if given.
/// [`Errno::NOSYS`] with a cgroup given means that the kernel or a container's filter forbids `clone3`: try without.
///
/// # Safety
/// `main` keeps to the rules of this file, and `argument` stays valid for it until this function returns.
pub(crate) unsafe fn clone_child(
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut ChildStack,
    main: ChildMain,
    argument: *mut c_void,
) -> Result<Cloned, Errno> {
    let blocked = BlockedSignals::all();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | namespaces;
    let mut result = Err(Errno::NOSYS);
    if !clone3_is_missing() {
        // SAFETY: the caller vouches for `main` and `argument`; signals are blocked.
        result = unsafe { by_clone3(flags, cgroup, stack, main, argument) };
        if matches!(result, Err(Errno::NOSYS)) {
            CLONE3_MISSING.store(true, Ordering::Relaxed);
        }
    }
    if matches!(result, Err(Errno::NOSYS)) && cgroup.is_none() {
        // SAFETY: as above.
        result = unsafe { by_clone(flags, stack, main, argument) };
    }
    drop(blocked);
    result
}

unsafe fn by_clone3(
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut ChildStack,
    main: ChildMain,
    argument: *mut c_void,
) -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    let mut arguments = CloneArguments {
        flags: u64::from(flags.cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: stack.lowest() as u64,
        stack_bytes: STACK_BYTES as u64,
        ..CloneArguments::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: `arguments` is a valid clone_args naming a live stack of the stated length; the caller vouches for the rest.
    let status = unsafe { clone3_call(&raw const arguments, main, argument) };
    // SAFETY: the kernel stored a new descriptor in `pidfd` if the call succeeded.
    unsafe { cloned(status, pidfd) }
}

/// # Safety
/// As for [`clone_child`], and `arguments` is valid.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_call(arguments: *const CloneArguments, main: ChildMain, argument: *mut c_void) -> i64 {
    let status: i64;
    // SAFETY: in the parent this is one system call that clobbers what the ABI says. The child starts after `syscall` on
    // its own stack (16-aligned at its top) with our registers, and never leaves `main`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => status,
            in("rdi") arguments,
            in("rsi") size_of::<CloneArguments>(),
            in("r12") argument,
            in("r13") main,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    status
}

/// # Safety
/// As for [`clone_child`], and `arguments` is valid.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_call(arguments: *const CloneArguments, main: ChildMain, argument: *mut c_void) -> i64 {
    let status: i64;
    // SAFETY: in the parent this is one system call. The child starts after `svc` on its own stack with our registers, and
    // never leaves `main`.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments as i64 => status,
            in("x1") size_of::<CloneArguments>(),
            in("x20") argument,
            in("x21") main,
        );
    }
    status
}

unsafe fn by_clone(
    flags: i32,
    stack: &mut ChildStack,
    main: ChildMain,
    argument: *mut c_void,
) -> Result<Cloned, Errno> {
    let mut pidfd: i32 = -1;
    // SAFETY: a function that never returns is a function that returns no status; both take one pointer by the C ABI.
    let entry = unsafe { std::mem::transmute::<ChildMain, extern "C" fn(*mut c_void) -> i32>(main) };
    // SAFETY: the stack's top is page-aligned and 64 KiB lie below it; with CLONE_PIDFD the kernel writes a
    // descriptor through the fifth argument; the caller vouches for `main` and `argument`.
    let pid = unsafe { libc::clone(entry, stack.top(), flags | libc::SIGCHLD, argument, &raw mut pidfd) };
    let status = if pid < 0 { -i64::from(last_errno().raw_os_error()) } else { i64::from(pid) };
    // SAFETY: the kernel stored a new descriptor in `pidfd` if the call succeeded.
    unsafe { cloned(status, pidfd) }
}

/// # Safety
/// If `status` is positive, `pidfd` is a descriptor that nobody owns yet.
unsafe fn cloned(status: i64, pidfd: i32) -> Result<Cloned, Errno> {
    match u32::try_from(status) {
        Ok(pid) => {
            // SAFETY: see above.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned { pid, pidfd })
        }
        Err(_) => Err(Errno::from_raw_os_error(i32::try_from(-status).unwrap_or(libc::EIO))),
    }
}

/// All signals blocked on this thread until it is dropped.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn all() -> Self {
        // SAFETY: signal sets are plain integers; both are set before they are read.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (crate::process_self::zeroed(), crate::process_self::zeroed()) };
        // SAFETY: both sets are live locals; blocking signals on the own thread cannot fail with valid arguments.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        Self { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled by the call that blocked the signals, on this same thread.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::{CgroupLimits, CgroupRoot, Exit, Output, SandboxPlan, SpawnRequest, Spawner};

    /// Where a container's filter forbids `clone3`, the older call serves, and the cgroup is entered through its file. No
    /// other test of this program starts children, so the switch disturbs nobody.
    #[test]
    fn without_clone3_workers_start_by_the_older_call() {
        CLONE3_MISSING.store(true, Ordering::Relaxed);
        let root = CgroupRoot::probe(&format!("praas-unit-{}", std::process::id()));
        let cgroup = match root.create(&CgroupLimits::default()) {
            Ok(cgroup) => Some(Arc::new(cgroup)),
            Err(error) => {
                println!("skipped: the part with a cgroup: {error}");
                None
            }
        };
        let sandbox = SandboxPlan::new("/bin/sh", std::env::temp_dir()).prepare(Some(&root)).unwrap();
        let spawner = Spawner::start().unwrap();
        let request = SpawnRequest {
            arguments: vec!["-c".into(), "exit 9".into()],
            environment: Vec::new(),
            fds: Vec::new(),
            sandbox,
            cgroup: cgroup.clone(),
            output: Output::Discard,
        };
        let spawned = spawner.spawn(request).unwrap();
        assert_eq!(spawned.pidfd.wait_deadline(Duration::from_secs(30)).unwrap(), Some(Exit::Code(9)));
        if let Some(cgroup) = cgroup {
            assert!(cgroup.cpu_time_ns().is_some_and(|time| time > 0), "it ran inside");
        }
    }
}
