//! Where cgroups may be made: the hierarchies mounted here, this process's own place in them, and which are writable.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// What to do where cgroups are lacking.
pub(crate) const ADVICE: &str = "run the server as root, or with a delegated cgroup (systemd: `Delegate=yes` and \
                                 `DelegateSubgroup=server`; containers: mount /sys/fs/cgroup writable)";

/// A resource controller that praas uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
    CpuAccounting,
}

impl Controller {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Memory, Self::Pids, Self::Cpu, Self::CpuAccounting].into_iter().find(|one| one.name() == name)
    }
}

/// One mounted hierarchy in which we may make directories.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) version: u8,
    /// The directory under which ours are made: this process's own cgroup.
    pub(super) base: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

/// Which limits can be set and figures read on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    /// Memory can be limited and measured.
    pub memory: bool,
    /// The number of processes can be limited.
    pub pids: bool,
    /// CPU can be limited.
    pub cpu: bool,
    /// CPU time can be measured.
    pub cpu_time: bool,
    /// Everything inside can be killed by one write (version 2).
    pub kill: bool,
}

impl Controllers {
    pub(super) fn of(hierarchies: &[Hierarchy]) -> Self {
        let has = |controller| hierarchies.iter().any(|hierarchy| hierarchy.controllers.contains(&controller));
        let unified = hierarchies.iter().any(|hierarchy| hierarchy.version == 2);
        Self {
            memory: has(Controller::Memory),
            pids: has(Controller::Pids),
            cpu: has(Controller::Cpu),
            cpu_time: unified || has(Controller::CpuAccounting),
            kill: unified,
        }
    }
}

/// The hierarchies that are of use and writable. A version 1 `cpuacct` is left out beside a version 2 hierarchy, which
/// counts CPU time by itself: one directory less to make for each worker.
pub(super) fn writable() -> Vec<Hierarchy> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found: Vec<Hierarchy> = mounts.lines().filter_map(|line| hierarchy(line, &own)).collect();
    // A hierarchy may be mounted twice: the first is enough.
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut claimed: Vec<Controller> = Vec::new();
    found.retain_mut(|one| {
        one.controllers.retain(|controller| !claimed.contains(controller));
        claimed.extend(&one.controllers);
        let again = seen.contains(&one.base);
        seen.push(one.base.clone());
        !again && (one.version == 2 || !one.controllers.is_empty())
    });
    let mut unified = false;
    found.retain(|one| one.version != 2 || !std::mem::replace(&mut unified, true));
    if unified {
        found.retain(|one| one.controllers != [Controller::CpuAccounting]);
    }
    found
}

fn hierarchy(mount: &str, own: &str) -> Option<Hierarchy> {
    // ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELDS…] - TYPE SOURCE SUPER-OPTIONS
    let (left, right) = mount.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    match kind {
        "cgroup2" => {
            let base = base(Path::new(point), root, own_path(own, None)?)?;
            Some(Hierarchy { version: 2, controllers: delegated(&base), base })
        }
        "cgroup" => {
            let controllers: Vec<Controller> = options.split(',').filter_map(Controller::named).collect();
            let path = own_path(own, Some(controllers.first()?.name()))?;
            let base = base(Path::new(point), root, path)?;
            Some(Hierarchy { version: 1, base, controllers })
        }
        _ => None,
    }
}

/// This process's path in the hierarchy of `controller`, or in version 2.
fn own_path<'a>(own: &'a str, controller: Option<&str>) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match controller {
            Some(controller) => names.split(',').any(|name| name == controller),
            None => names.is_empty(),
        };
        ours.then_some(path)
    })
}

/// The directory of our own cgroup, if it is visible through this mount and writable.
fn base(point: &Path, root: &str, path: &str) -> Option<PathBuf> {
    let below = path.strip_prefix(root).unwrap_or(path).trim_start_matches('/');
    // In a container the path may name a place outside the mount; then the mount's own top is ours.
    let candidates = [point.join(below), point.to_owned()];
    let base = candidates.into_iter().find(|candidate| candidate.is_dir())?;
    access(&base, Access::WRITE_OK | Access::EXEC_OK).ok()?;
    Some(base)
}

/// Controllers of a version 2 cgroup that its children have, after asking for those that may be switched on.
fn delegated(base: &Path) -> Vec<Controller> {
    let switch = base.join("cgroup.subtree_control");
    let available = std::fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    for name in available.split_whitespace().filter(|name| Controller::named(name).is_some()) {
        // Refused while the cgroup itself has members, unless it is the top: then the controller is reported as lacking.
        let _ = std::fs::write(&switch, format!("+{name}"));
    }
    let granted = std::fs::read_to_string(&switch).unwrap_or_default();
    granted.split_whitespace().filter_map(Controller::named).collect()
}
