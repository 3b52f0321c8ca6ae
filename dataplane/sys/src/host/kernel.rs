//! What the kernel lets this process do.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::{PidfdFlags, geteuid, getpid, pidfd_open};

use super::{Finding, PROBE};
use crate::cgroup::{CgroupLimits, CgroupRoot};
use crate::namespace::{self, PidNamespaces};
use crate::process_self::last_errno;

/// The oldest kernel that has every call used here: `close_range` with CLOSE_RANGE_CLOEXEC.
const KERNEL_MIN: (u32, u32) = (5, 11);

pub(super) fn version() -> Finding {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let machine = uname.machine().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let detail = format!("Linux {release} on {machine}");
    if version >= KERNEL_MIN {
        return Finding::granted("kernel", detail);
    }
    Finding::lacking("kernel", detail, format!("Linux {}.{} or later is needed", KERNEL_MIN.0, KERNEL_MIN.1))
}

pub(super) fn io_uring() -> Finding {
    const NAME: &str = "io_uring";
    const ADVICE: &str = "the epoll driver is used instead; allow io_uring with \
                          `sysctl kernel.io_uring_disabled=0` or in the container's seccomp profile";
    /// The kernel's `struct io_uring_params` is 120 bytes, zero for the defaults.
    const PARAMETER_WORDS: usize = 15;
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let setting = match setting.trim() {
        "" => "no setting".to_owned(),
        value => format!("kernel.io_uring_disabled = {value}"),
    };
    let mut parameters = [0_u64; PARAMETER_WORDS];
    // SAFETY: the kernel reads and writes the 120 bytes of parameters, which live on this frame.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, parameters.as_mut_ptr()) };
    match i32::try_from(ring) {
        Ok(ring) if ring >= 0 => {
            // SAFETY: the kernel just returned this descriptor; nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(ring) });
            Finding::granted(NAME, setting)
        }
        _ => Finding::lacking(NAME, format!("refused ({}), {setting}", last_errno()), ADVICE),
    }
}

pub(super) fn pidfd() -> Finding {
    const NAME: &str = "process handles (pidfd)";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::granted(NAME, "available"),
        Err(errno) => {
            let advice = "workers cannot be supervised; Linux 5.4 or later is needed, unfiltered by the container";
            Finding::lacking(NAME, format!("refused ({errno})"), advice)
        }
    }
}

pub(super) fn user() -> Finding {
    let uid = geteuid();
    let detail = format!("uid {}", uid.as_raw());
    if uid.is_root() {
        return Finding::granted("workers' own users", format!("{detail} may give each process a user"));
    }
    let advice = "workers share the server's user, and are kept apart by Landlock and seccomp; \
                  run the server as root to give each process its own";
    Finding::limited("workers' own users", detail, advice)
}

pub(super) fn pid_namespaces() -> Finding {
    const NAME: &str = "PID namespaces";
    match namespace::pid_namespaces() {
        PidNamespaces::Direct => Finding::granted(NAME, "may be made directly"),
        PidNamespaces::ThroughUser => Finding::granted(NAME, "may be made inside a user namespace"),
        PidNamespaces::Refused(errno) => Finding::lacking(
            NAME,
            format!("refused ({errno})"),
            "what a worker starts may outlive it; run as root or allow user namespaces",
        ),
    }
}

pub(super) fn user_namespaces() -> Finding {
    const NAME: &str = "user namespaces";
    match namespace::user_namespaces() {
        Ok(()) => Finding::granted(NAME, "may be made"),
        Err(errno) if geteuid().is_root() => {
            Finding::limited(NAME, format!("refused ({errno})"), "nothing to do: a server that is root needs none")
        }
        Err(errno) => Finding::lacking(
            NAME,
            format!("refused ({errno})"),
            "set user.max_user_namespaces above 0 (and kernel.unprivileged_userns_clone=1 on Debian)",
        ),
    }
}

pub(super) fn landlock() -> Finding {
    /// From here on signals and abstract sockets are confined too.
    const FULL: u32 = 6;
    const NAME: &str = "Landlock";
    match crate::landlock::version() {
        0 => Finding::lacking(
            NAME,
            "none",
            "workers may open whatever their user may; boot Linux 5.13 or later with `landlock` in lsm=",
        ),
        version @ 1..FULL => Finding::limited(
            NAME,
            format!("version {version}"),
            "files are confined, signals and abstract sockets are not; Linux 6.12 or later has all of it",
        ),
        version => Finding::granted(NAME, format!("version {version}")),
    }
}

pub(super) fn seccomp() -> Finding {
    if crate::seccomp::is_available() {
        return Finding::granted("seccomp", "filters are taken");
    }
    let advice = "dangerous system calls and the network stay open to workers; use a kernel with CONFIG_SECCOMP_FILTER";
    Finding::lacking("seccomp", "no filters", advice)
}

pub(super) fn cgroups() -> Finding {
    const NAME: &str = "cgroups";
    let root = CgroupRoot::probe(&format!("praas-doctor-{}", std::process::id()));
    let controllers = *root.controllers();
    let tried = root.create(&CgroupLimits::default()).and_then(|cgroup| cgroup.kill_all(PROBE));
    if let Err(error) = tried {
        return Finding::lacking(NAME, error.to_string(), crate::cgroup::advice());
    }
    let parts = [
        (controllers.memory, "memory"),
        (controllers.pids, "processes"),
        (controllers.cpu, "cpu"),
        (controllers.cpu_time, "cpu time"),
        (controllers.kill, "kill"),
    ];
    let join = |wanted: bool| {
        let names: Vec<&str> = parts.iter().filter(|(has, _)| *has == wanted).map(|(_, name)| *name).collect();
        names.join(", ")
    };
    let detail = format!("writable; with {}", join(true));
    if controllers.memory && controllers.pids {
        return Finding::granted(NAME, detail);
    }
    Finding::limited(NAME, format!("{detail}; without {}", join(false)), crate::cgroup::advice())
}
