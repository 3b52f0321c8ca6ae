//! The list itself.

use std::collections::BTreeMap;

use super::program::Verdict;
use crate::sandbox::Network;

/// Newer than the C library's headers.
const SYS_OPEN_TREE_ATTR: i64 = 467;
/// Requests of `ioctl` that write into a terminal, from the kernel's `asm-generic/ioctls.h`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;

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
const NAMESPACE_FLAGS: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// Verdicts on all calls that are not simply allowed.
pub(super) fn verdicts(network: Network) -> BTreeMap<u32, Verdict> {
    let unless_unix = Verdict::RefuseOthers { argument: 0, value: libc::AF_UNIX.cast_unsigned() };
    let conditional = [
        (libc::SYS_clone, Verdict::RefuseBits { argument: 0, bits: NAMESPACE_FLAGS.cast_unsigned() }),
        (libc::SYS_clone3, Verdict::Refuse(libc::ENOSYS)),
        (libc::SYS_ioctl, Verdict::RefuseValues { argument: 1, values: [TIOCSTI, TIOCLINUX] }),
        (libc::SYS_socket, if network == Network::None { unless_unix } else { Verdict::Allow }),
    ];
    let refused = REFUSED.iter().map(|&call| (call, Verdict::Refuse(libc::EPERM)));
    // Call numbers are small and positive by the kernel's convention.
    refused.chain(conditional).filter_map(|(call, verdict)| Some((u32::try_from(call).ok()?, verdict))).collect()
}
