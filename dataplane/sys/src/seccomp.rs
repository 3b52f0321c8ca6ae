//! The system calls that a worker is refused.
//!
//! A deny list: function code is arbitrary programs, so everything is allowed except what reaches into other processes, the
//! kernel's configuration, or around the other confinements. Refused calls fail with EPERM, so that libraries fall back.
//! Two cases need other care: numbers of the x32 ABI would walk past the list, and `clone3` hides its flags in memory
//! where a filter cannot look, so it answers ENOSYS and the C library uses `clone`, whose flags are checked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::sandbox::Network;

/// Numbers above 463 are newer than the C library's headers used here.
const SYS_OPEN_TREE_ATTR: i64 = 467;
const X32_SYSCALL_BIT: u32 = 0x4000_0000;
/// Requests of `ioctl` that write into a terminal, from the kernel's `asm-generic/ioctls.h`.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541C;

/// Calls refused whatever their arguments.
const REFUSED: &[i64] = &[
    // Other processes' memory, descriptors and pages.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // A ring's operations are not seen by this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The kernel itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // Large attack surface that functions do not need.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    SYS_OPEN_TREE_ATTR,
    // Kernel objects with names, which would outlive the worker.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
];

/// Flags of `clone` that make a namespace.
const NAMESPACE_FLAGS: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWCGROUP,
];

/// A compiled filter, in the layout that the kernel reads.
pub(crate) type Filter = Arc<BpfProgram>;

/// Why the filter could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("no filter for the architecture {0}")]
    Architecture(&'static str),
    #[error("the filter does not compile: {0}")]
    Compile(#[from] seccompiler::BackendError),
}

/// Whether the kernel takes filters.
pub(crate) fn is_available() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads four bytes, which live on this frame.
    let status =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    status == 0
}

/// The filter for workers with this network, compiled once.
pub(crate) fn filter(network: Network) -> Result<Filter, FilterError> {
    static WITHOUT: OnceLock<Filter> = OnceLock::new();
    static WITH: OnceLock<Filter> = OnceLock::new();
    let cell = match network {
        Network::None => &WITHOUT,
        Network::Host => &WITH,
    };
    if let Some(filter) = cell.get() {
        return Ok(Arc::clone(filter));
    }
    let compiled = Arc::new(compile(network)?);
    Ok(Arc::clone(cell.get_or_init(|| compiled)))
}

fn compile(network: Network) -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for flag in NAMESPACE_FLAGS {
        let flag = u64::from(flag.cast_unsigned());
        namespaces.push(when(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    // Pushing characters into a terminal's input, for a worker that was given one.
    let terminal = vec![
        when(1, SeccompCmpOp::Eq, TIOCSTI)?,
        when(1, SeccompCmpOp::Eq, TIOCLINUX)?,
    ];
    rules.insert(libc::SYS_ioctl, terminal);
    if network == Network::None {
        let unix = u64::from(libc::AF_UNIX.cast_unsigned());
        rules.insert(libc::SYS_socket, vec![when(0, SeccompCmpOp::Ne, unix)?]);
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| FilterError::Architecture(std::env::consts::ARCH))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let list: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()?;
    let mut program = prefix();
    program.extend(list);
    Ok(program)
}

fn when(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    SeccompRule::new(vec![condition])
}

/// What the list cannot say: a range of numbers, and another error for one call. Jumps are relative, so the list follows
/// unchanged.
fn prefix() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS, offset 0 of seccomp_data
    const JUMP_IF_EQUAL: u16 = 0x15;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    let refuse = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
    let step = |code, jt, jf, k| seccompiler::sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, X32_SYSCALL_BIT),
        step(RETURN, 0, 0, refuse(libc::EPERM)),
        step(JUMP_IF_EQUAL, 0, 1, clone3),
        step(RETURN, 0, 0, refuse(libc::ENOSYS)),
    ]
}
