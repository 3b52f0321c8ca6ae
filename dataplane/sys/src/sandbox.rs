//! What a worker is confined by: asked for in a [`SandboxPlan`], prepared once into a [`Sandbox`], applied by each spawn.
//!
//! Everything that can be opened, compiled or found out ahead is done in [`SandboxPlan::prepare`], so that a spawn costs
//! little. What this host cannot give is in the [`SandboxReport`] with the reason and a remedy; a strict plan refuses
//! instead. Nothing is left out silently: a feature is granted, lacking, or was not asked for.

mod report;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Resource, getegid, geteuid, getrlimit};

use crate::cgroup::CgroupRoot;
use crate::landlock::{self, FileRules};
use crate::namespace::{PidNamespaces, pid_namespaces};
use crate::seccomp::{self, Filter};
pub use report::{Feature, Grant, SandboxReport};

/// Open files of a worker, unless its plan says otherwise: lanes, doorbells, segments and what the function opens.
pub const WORKER_OPEN_FILES: u64 = 4096;

/// What a worker may reach over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Nothing: only Unix sockets can be made.
    None,
    /// Whatever this host reaches.
    Host,
}

/// As whom a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerUser {
    /// As this process's user: what a server that is not root does.
    Same,
    /// As a user and group of its own, which a server that is root takes from a range set aside for workers.
    Private {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// Which confinements to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// A PID namespace whose first process is the worker: killing it kills everything it started.
    pub pid_namespace: bool,
    /// Landlock: only the files that the plan allows.
    pub landlock: bool,
    /// The list of refused system calls; needed for [`Network::None`].
    pub seccomp: bool,
    /// Cgroup limits on memory and processes.
    pub cgroup: bool,
}

impl Confinement {
    /// All of them.
    pub const ALL: Self = Self { pid_namespace: true, landlock: true, seccomp: true, cgroup: true };
    /// None of them: for code that is trusted as the server itself is.
    pub const NONE: Self = Self { pid_namespace: false, landlock: false, seccomp: false, cgroup: false };
}

/// Limits that the kernel keeps for each process. Raising one above this process's own hard limit has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Open files.
    pub open_files: u64,
    /// Address space, bytes. Segments count with their full mapped size, so leave it out unless cgroups are lacking.
    pub address_space_bytes: Option<u64>,
    /// Processes of the worker's user; applied only to a private user, because the kernel counts by user.
    pub processes: Option<u64>,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self { open_files: WORKER_OPEN_FILES, address_space_bytes: None, processes: None }
    }
}

/// How the workers of one process are to be confined.
#[derive(Clone, Debug)]
pub struct SandboxPlan {
    /// The program: an absolute path.
    pub program: PathBuf,
    /// Where it runs and may write; must exist, belong to the worker's user, and be an absolute path.
    pub working_directory: PathBuf,
    /// Network access.
    pub network: Network,
    /// As whom it runs.
    pub user: WorkerUser,
    /// Limits of the process.
    pub limits: ResourceLimits,
    /// Further files and directories it may read and execute: for instance libraries beside the program.
    pub read_only: Vec<PathBuf>,
    /// Further files and directories it may change.
    pub read_write: Vec<PathBuf>,
    /// What to ask for.
    pub confinement: Confinement,
    /// Refuse to prepare if anything asked for is lacking.
    pub strict: bool,
}

/// A prepared sandbox for one program and working directory. Spawning takes it any number of times.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) program: PathBuf,
    pub(crate) program_file: OwnedFd,
    pub(crate) directory: OwnedFd,
    pub(crate) namespaces: i32,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) limits: Vec<(u32, libc::rlimit64)>,
    pub(crate) files: Option<FileRules>,
    pub(crate) filter: Option<Filter>,
    report: SandboxReport,
}

/// Why a sandbox could not be prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The plan is strict and this host does not grant all of it.
    #[error("this host does not grant the whole sandbox, which was required:\n{report}")]
    Incomplete {
        /// What is granted and what is lacking.
        report: SandboxReport,
    },
    /// A path of the plan cannot be used.
    #[error("cannot use {what} {path:?}: {errno}")]
    Path {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel answered.
        errno: Errno,
    },
    /// File rules could not be made.
    #[error("cannot make the rules for files: {0}")]
    Landlock(String),
}

impl SandboxPlan {
    /// Full confinement without network, as this process's user.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, working_directory: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            working_directory: working_directory.into(),
            network: Network::None,
            user: WorkerUser::Same,
            limits: ResourceLimits::default(),
            read_only: Vec::new(),
            read_write: Vec::new(),
            confinement: Confinement::ALL,
            strict: false,
        }
    }

    /// No confinement except `no_new_privs`, resource limits and exact descriptors: for our own programs.
    #[must_use]
    pub fn unconfined(program: impl Into<PathBuf>, working_directory: impl Into<PathBuf>) -> Self {
        Self { network: Network::Host, confinement: Confinement::NONE, ..Self::new(program, working_directory) }
    }

    /// Opens, compiles and finds out all that spawning needs. `cgroups` is where the workers' cgroups will be made; it is
    /// only asked what it can limit.
    pub fn prepare(&self, cgroups: Option<&CgroupRoot>) -> Result<Arc<Sandbox>, SandboxError> {
        let program_file = open_path("the program", &self.program, OFlags::empty())?;
        let directory = open_path("the working directory", &self.working_directory, OFlags::DIRECTORY)?;
        let mut report = SandboxReport::default();
        report.record(Feature::NoNewPrivileges, Grant::Granted);
        let namespaces = self.namespaces(&mut report);
        let user = self.worker_user(&mut report);
        let files = self.file_rules(&mut report)?;
        let filter = self.call_filter(&mut report);
        self.record_cgroups(cgroups, &mut report);
        if self.strict && !report.is_complete() {
            return Err(SandboxError::Incomplete { report });
        }
        let limits = self.resource_limits(user.is_some());
        let program = self.program.clone();
        Ok(Arc::new(Sandbox { program, program_file, directory, namespaces, user, limits, files, filter, report }))
    }

    fn namespaces(&self, report: &mut SandboxReport) -> i32 {
        if !self.confinement.pid_namespace {
            report.record(Feature::PidNamespace, Grant::NotAsked);
            return 0;
        }
        let found = pid_namespaces();
        let grant = match found {
            PidNamespaces::Refused(errno) => Grant::Lacking {
                why: format!("PID namespaces are refused ({errno}), so a worker's own children may outlive it"),
                advice: "run the server as root, or allow user namespaces \
                         (kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0)"
                    .to_owned(),
            },
            _ => Grant::Granted,
        };
        report.record(Feature::PidNamespace, grant);
        found.clone_flags().unwrap_or(0)
    }

    fn worker_user(&self, report: &mut SandboxReport) -> Option<(u32, u32)> {
        let WorkerUser::Private { uid, gid } = self.user else {
            report.record(Feature::PrivateUser, Grant::NotAsked);
            return None;
        };
        if geteuid().is_root() {
            report.record(Feature::PrivateUser, Grant::Granted);
            return Some((uid, gid));
        }
        let why = format!("uid {} may not become uid {uid}", geteuid().as_raw());
        let advice = "run the server as root to give each process a user of its own".to_owned();
        report.record(Feature::PrivateUser, Grant::Lacking { why, advice });
        None
    }

    fn file_rules(&self, report: &mut SandboxReport) -> Result<Option<FileRules>, SandboxError> {
        if !self.confinement.landlock {
            report.record(Feature::Landlock, Grant::NotAsked);
            return Ok(None);
        }
        if landlock::version() == 0 {
            let why = "the kernel has no Landlock, so a worker may open whatever its user may".to_owned();
            let advice = "boot a kernel of 5.13 or later with `landlock` in its lsm= list".to_owned();
            report.record(Feature::Landlock, Grant::Lacking { why, advice });
            return Ok(None);
        }
        let (program, directory) = (&self.program, &self.working_directory);
        let rules = FileRules::open(program, directory, &self.read_only, &self.read_write, self.network)
            .map_err(|error| SandboxError::Landlock(error.to_string()))?;
        report.record(Feature::Landlock, Grant::Granted);
        Ok(Some(rules))
    }

    fn call_filter(&self, report: &mut SandboxReport) -> Option<Filter> {
        let lacking = |why: String| Grant::Lacking {
            why,
            advice: "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64".to_owned(),
        };
        let (filter, grant) = if !self.confinement.seccomp {
            (None, Grant::NotAsked)
        } else if !seccomp::is_available() {
            (None, lacking("the kernel takes no system call filters".to_owned()))
        } else {
            match seccomp::filter(self.network) {
                Some(filter) => (Some(filter), Grant::Granted),
                None => (None, lacking("there is no filter for this architecture".to_owned())),
            }
        };
        report.record(Feature::Seccomp, grant);
        let network = match (self.network, &filter) {
            (Network::Host, _) => Grant::NotAsked,
            (Network::None, Some(_)) => Grant::Granted,
            (Network::None, None) => {
                lacking("the network is closed by the system call filter, which is off".to_owned())
            }
        };
        report.record(Feature::NetworkNone, network);
        filter
    }

    fn record_cgroups(&self, cgroups: Option<&CgroupRoot>, report: &mut SandboxReport) {
        let controllers = cgroups.map(|root| *root.controllers()).unwrap_or_default();
        let grant = |granted: bool, what: &str| match (self.confinement.cgroup, granted) {
            (false, _) => Grant::NotAsked,
            (true, true) => Grant::Granted,
            (true, false) => Grant::Lacking {
                why: format!("no writable cgroup limits {what}"),
                advice: crate::cgroup::advice().to_owned(),
            },
        };
        report.record(Feature::MemoryLimit, grant(controllers.memory, "memory"));
        report.record(Feature::ProcessLimit, grant(controllers.pids, "the number of processes"));
    }

    fn resource_limits(&self, private_user: bool) -> Vec<(u32, libc::rlimit64)> {
        let mut limits = vec![
            limit(libc::RLIMIT_CORE, Resource::Core, 0),
            limit(libc::RLIMIT_NOFILE, Resource::Nofile, self.limits.open_files),
        ];
        if let Some(bytes) = self.limits.address_space_bytes {
            limits.push(limit(libc::RLIMIT_AS, Resource::As, bytes));
        }
        if let Some(processes) = self.limits.processes.filter(|_| private_user) {
            limits.push(limit(libc::RLIMIT_NPROC, Resource::Nproc, processes));
        }
        limits
    }
}

impl Sandbox {
    /// What is granted and what is lacking.
    #[must_use]
    pub fn report(&self) -> &SandboxReport {
        &self.report
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }
}

/// A limit, no higher than this process may set.
fn limit(number: libc::__rlimit_resource_t, resource: Resource, value: u64) -> (u32, libc::rlimit64) {
    let value = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
    (number, libc::rlimit64 { rlim_cur: value, rlim_max: value })
}

fn open_path(what: &'static str, path: &Path, flags: OFlags) -> Result<OwnedFd, SandboxError> {
    let failed = |errno| SandboxError::Path { what, path: path.to_owned(), errno };
    if !path.is_absolute() {
        return Err(failed(Errno::INVAL));
    }
    let file = open(path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    crate::spawn::above_targets(file.as_fd()).map_err(failed)
}

/// The user and group that a worker of this process has where no private user is given.
pub(crate) fn own_ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}
