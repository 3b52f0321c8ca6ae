//! Cgroups for workers: limits on memory, processes and CPU, a way to kill everything inside, and what was used.
//!
//! Version 2 is used where its controllers are delegated to us; else the version 1 hierarchies, together with an empty
//! version 2 hierarchy if there is one (it gives `cgroup.kill`, CPU time, and entry at the instant of the clone).
//! On version 1 a child enters by writing `0` to `tasks`: that is a thread moving itself, which takes 50 µs, while
//! `cgroup.procs` takes a host-wide lock and waits for a grace period, about 7 ms.
//!
//! A [`Cgroup`] owns its directories and removes them when dropped; what is still busy then is removed by the root later.

mod files;
mod hierarchy;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;

use files::{kill_members, members, number_after, number_in, write_text};
pub use hierarchy::Controllers;
use hierarchy::{Controller, Hierarchy};

/// Names tried when making a cgroup, in case a predecessor's are still there.
const NAME_ATTEMPTS_MAX: usize = 4096;
/// Rounds of reading and killing members on version 1; each kills all it finds, so only a fork storm needs several.
const KILL_ROUNDS_MAX: usize = 1000;
/// Swap on top of a version 1 memory limit: just more than the kernel charges at once (64 pages of up to 16 KiB), so that
/// the memory counter, the only one that counts its refusals, is the one that is hit.
const SWAP_BYTES: u64 = 1024 * 1024;
/// How long the last owner of a root waits for busy cgroups to become removable.
const FINAL_REMOVAL: Duration = Duration::from_secs(1);

/// Limits of one cgroup. `None` leaves what the parent allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// Memory, in bytes, including pages of shared segments that its members touched first; at most 1 MiB of swap is
    /// allowed on top.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// CPU, in thousandths of a core.
    pub cpu_millicores: Option<u64>,
}

/// Why a cgroup operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// This host gives us no cgroup to write to.
    #[error("no cgroup hierarchy is writable here; {}", hierarchy::ADVICE)]
    Unavailable,
    /// A limit was asked for whose controller is missing.
    #[error("the {controller} controller is not available here, so its limit cannot be set; {}", hierarchy::ADVICE)]
    NoController {
        /// The controller.
        controller: &'static str,
    },
    /// All names are taken.
    #[error("no free name under {prefix:?} after {attempts} attempts; remove leftover cgroups")]
    NoFreeName {
        /// Prefix of the names.
        prefix: String,
        /// Names tried.
        attempts: usize,
    },
    /// Processes were still there when the time was up.
    #[error("{remaining} processes are left in cgroup {name} after {waited:?}")]
    StillPopulated {
        /// The cgroup.
        name: String,
        /// Members left.
        remaining: usize,
        /// How long they were given.
        waited: Duration,
    },
    /// A file operation failed.
    #[error("cannot {what} {path:?}: {errno}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel answered.
        errno: Errno,
    },
}

/// Where this process may make cgroups.
#[derive(Debug)]
pub struct CgroupRoot {
    hierarchies: Vec<Hierarchy>,
    controllers: Controllers,
    prefix: String,
    next: AtomicU64,
    prepared: Mutex<Vec<Prepared>>,
    leftovers: Mutex<Vec<PathBuf>>,
}

/// Directories of one cgroup, in the order of the root's hierarchies.
#[derive(Debug)]
struct Prepared {
    name: String,
    places: Vec<Place>,
}

/// One cgroup in one hierarchy.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    directory: OwnedFd,
    version: u8,
    controllers: Vec<Controller>,
    /// Version 1's `tasks`, version 2's `cgroup.procs`, open for writing.
    entrance: OwnedFd,
}

/// A cgroup that workers are spawned into.
#[derive(Debug)]
pub struct Cgroup {
    name: String,
    places: Vec<Place>,
    root: Option<Arc<CgroupRoot>>,
}

impl CgroupRoot {
    /// Looks at what this host gives. Cgroups are named `PREFIX.N`; the prefix should be the same for the same data
    /// directory, so that a later server finds what a dead one left behind ([`CgroupRoot::sweep`]).
    #[must_use]
    pub fn probe(prefix: &str) -> Arc<Self> {
        let hierarchies = hierarchy::writable();
        let controllers = Controllers::of(&hierarchies);
        Arc::new(Self {
            hierarchies,
            controllers,
            prefix: prefix.to_owned(),
            next: AtomicU64::new(0),
            prepared: Mutex::new(Vec::new()),
            leftovers: Mutex::new(Vec::new()),
        })
    }

    /// What can be limited here.
    #[must_use]
    pub fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    /// Whether any cgroup can be made.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.hierarchies.is_empty()
    }

    /// Makes empty cgroups ahead of need, so that [`CgroupRoot::create`] only sets limits.
    pub fn prepare(&self, count: usize) -> Result<(), CgroupError> {
        for _ in 0..count {
            let prepared = self.make()?;
            lock(&self.prepared).push(prepared);
        }
        Ok(())
    }

    /// How many prepared cgroups are left.
    #[must_use]
    pub fn prepared(&self) -> usize {
        lock(&self.prepared).len()
    }

    /// A cgroup with these limits, prepared earlier or made now.
    pub fn create(self: &Arc<Self>, limits: &CgroupLimits) -> Result<Cgroup, CgroupError> {
        self.retry_leftovers();
        let prepared = lock(&self.prepared).pop();
        let Prepared { name, places } = match prepared {
            Some(prepared) => prepared,
            None => self.make()?,
        };
        let cgroup = Cgroup { name, places, root: Some(Arc::clone(self)) };
        cgroup.set_limits(limits)?;
        Ok(cgroup)
    }

    /// An existing cgroup, by the name that its maker told: to watch and kill what is inside. Dropping it removes nothing.
    pub fn open(&self, name: &str) -> Result<Cgroup, CgroupError> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(CgroupError::Call { what: "open", path: name.into(), errno: Errno::INVAL });
        }
        let mut places = Vec::new();
        for hierarchy in &self.hierarchies {
            match Place::open(hierarchy, name) {
                Ok(place) => places.push(place),
                Err(CgroupError::Call { errno: Errno::NOENT, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if places.is_empty() {
            return Err(CgroupError::Call { what: "open", path: name.into(), errno: Errno::NOENT });
        }
        Ok(Cgroup { name: name.to_owned(), places, root: None })
    }

    /// Kills and removes what a dead predecessor with the same prefix left behind; returns how many directories went.
    /// Call it only with the lock on the data directory held, before the first [`CgroupRoot::create`].
    pub fn sweep(&self, wait: Duration) -> Result<usize, CgroupError> {
        let mut removed = 0;
        let end = Instant::now() + wait;
        for name in self.leftover_names() {
            let cgroup = self.open(&name)?;
            cgroup.kill_all(end.saturating_duration_since(Instant::now()))?;
            removed += cgroup.places.iter().filter(|place| remove_directory(&place.path, end)).count();
        }
        Ok(removed)
    }

    fn leftover_names(&self) -> Vec<String> {
        let start = format!("{}.", self.prefix);
        let mut names: Vec<String> = self
            .hierarchies
            .iter()
            .filter_map(|hierarchy| std::fs::read_dir(&hierarchy.base).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.strip_prefix(&start).is_some_and(|rest| rest.parse::<u64>().is_ok()))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn make(&self) -> Result<Prepared, CgroupError> {
        if self.hierarchies.is_empty() {
            return Err(CgroupError::Unavailable);
        }
        for _ in 0..NAME_ATTEMPTS_MAX {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}.{number}", self.prefix);
            let mut places = Vec::with_capacity(self.hierarchies.len());
            let mut taken = false;
            for hierarchy in &self.hierarchies {
                match Place::make(hierarchy, &name) {
                    Ok(place) => places.push(place),
                    Err(CgroupError::Call { errno: Errno::EXIST, .. }) => {
                        taken = true;
                        break;
                    }
                    Err(error) => {
                        remove_places(&places);
                        return Err(error);
                    }
                }
            }
            if !taken {
                return Ok(Prepared { name, places });
            }
            remove_places(&places);
        }
        Err(CgroupError::NoFreeName { prefix: self.prefix.clone(), attempts: NAME_ATTEMPTS_MAX })
    }

    fn retry_leftovers(&self) {
        lock(&self.leftovers).retain(|path| !remove_directory(path, Instant::now()));
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        let end = Instant::now() + FINAL_REMOVAL;
        for prepared in lock(&self.prepared).drain(..) {
            remove_places(&prepared.places);
        }
        for path in lock(&self.leftovers).drain(..) {
            remove_directory(&path, end);
        }
    }
}

impl Place {
    fn make(hierarchy: &Hierarchy, name: &str) -> Result<Self, CgroupError> {
        let path = hierarchy.base.join(name);
        mkdirat(CWD, &path, Mode::from_raw_mode(0o755)).map_err(|errno| CgroupError::Call {
            what: "create",
            path: path.clone(),
            errno,
        })?;
        Self::open(hierarchy, name).inspect_err(|_| {
            let _ = unlinkat(CWD, &path, AtFlags::REMOVEDIR);
        })
    }

    fn open(hierarchy: &Hierarchy, name: &str) -> Result<Self, CgroupError> {
        let path = hierarchy.base.join(name);
        let failed = |errno| CgroupError::Call { what: "open", path: path.clone(), errno };
        let directory =
            open(&path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let entrance = if hierarchy.version == 2 { "cgroup.procs" } else { "tasks" };
        let entrance = openat(&directory, entrance, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let controllers = hierarchy.controllers.clone();
        Ok(Self { path, directory, version: hierarchy.version, controllers, entrance })
    }

    fn set(&self, file: &str, text: &str) -> Result<(), CgroupError> {
        write_text(self.directory.as_fd(), file, text).map_err(|errno| CgroupError::Call {
            what: "write",
            path: self.path.join(file),
            errno,
        })
    }
}

impl Cgroup {
    /// The name that [`CgroupRoot::open`] takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets or changes limits; those left out stay as they are.
    pub fn set_limits(&self, limits: &CgroupLimits) -> Result<(), CgroupError> {
        if let Some(bytes) = limits.memory_bytes {
            self.limit_memory(bytes)?;
        }
        if let Some(pids) = limits.pids {
            self.place(Controller::Pids)?.set("pids.max", &pids.to_string())?;
        }
        if let Some(millicores) = limits.cpu_millicores {
            self.limit_cpu(millicores)?;
        }
        Ok(())
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let place = self.place(Controller::Memory)?;
        let with_swap = bytes.saturating_add(SWAP_BYTES).to_string();
        let bytes = bytes.to_string();
        // The swap file is absent where the kernel does not account swap; memory alone is limited then.
        if place.version == 2 {
            place.set("memory.max", &bytes)?;
            let _ = place.set("memory.swap.max", "0");
            let _ = place.set("memory.oom.group", "1");
        } else {
            // Lowering must go in this order, raising in the other: memory may never exceed memory plus swap.
            if place.set("memory.limit_in_bytes", &bytes).is_err() {
                let _ = place.set("memory.memsw.limit_in_bytes", &with_swap);
                place.set("memory.limit_in_bytes", &bytes)?;
            }
            let _ = place.set("memory.memsw.limit_in_bytes", &with_swap);
        }
        Ok(())
    }

    fn limit_cpu(&self, millicores: u64) -> Result<(), CgroupError> {
        const PERIOD_US: u64 = 100_000;
        /// The kernel's shortest quota.
        const QUOTA_US_MIN: u64 = 1000;
        let place = self.place(Controller::Cpu)?;
        let quota_us = millicores.saturating_mul(PERIOD_US / 1000).max(QUOTA_US_MIN);
        if place.version == 2 {
            place.set("cpu.max", &format!("{quota_us} {PERIOD_US}"))
        } else {
            place.set("cpu.cfs_period_us", &PERIOD_US.to_string())?;
            place.set("cpu.cfs_quota_us", &quota_us.to_string())
        }
    }

    fn place(&self, controller: Controller) -> Result<&Place, CgroupError> {
        self.find(controller).ok_or(CgroupError::NoController { controller: controller.name() })
    }

    fn find(&self, controller: Controller) -> Option<&Place> {
        self.places.iter().find(|place| place.controllers.contains(&controller))
    }

    /// Kills every member, again and again until none is left or `wait` has passed.
    pub fn kill_all(&self, wait: Duration) -> Result<(), CgroupError> {
        let end = Instant::now().checked_add(wait);
        for _ in 0..KILL_ROUNDS_MAX {
            let mut remaining = 0;
            for place in &self.places {
                if place.version == 2 && place.set("cgroup.kill", "1").is_ok() {
                    remaining = remaining.max(self.count(place));
                } else {
                    remaining = remaining.max(kill_members(place.directory.as_fd()));
                }
            }
            if remaining == 0 {
                return Ok(());
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            // Killed members are leaving; their number falls without further help.
            std::thread::sleep(Duration::from_millis(1));
        }
        match self.population() {
            0 => Ok(()),
            remaining => Err(CgroupError::StillPopulated { name: self.name.clone(), remaining, waited: wait }),
        }
    }

    /// Members at this instant, over all hierarchies.
    #[must_use]
    pub fn population(&self) -> usize {
        self.places.iter().map(|place| self.count(place)).max().unwrap_or(0)
    }

    #[expect(clippy::unused_self, reason = "reads as a question to the cgroup")]
    fn count(&self, place: &Place) -> usize {
        members(place.directory.as_fd()).len()
    }

    /// Members killed because the memory limit was hit.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let place = self.find(Controller::Memory)?;
        let file = if place.version == 2 { "memory.events" } else { "memory.oom_control" };
        number_after(place.directory.as_fd(), file, "oom_kill")
    }

    /// How often the memory limit was reached, whether or not somebody was killed for it.
    #[must_use]
    pub fn memory_limit_hits(&self) -> Option<u64> {
        let place = self.find(Controller::Memory)?;
        let directory = place.directory.as_fd();
        if place.version == 2 {
            return number_after(directory, "memory.events", "max");
        }
        number_in(directory, "memory.failcnt")
    }

    /// Memory charged now.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        let place = self.find(Controller::Memory)?;
        let file = if place.version == 2 { "memory.current" } else { "memory.usage_in_bytes" };
        number_in(place.directory.as_fd(), file)
    }

    /// CPU time used by all members so far.
    #[must_use]
    pub fn cpu_time_ns(&self) -> Option<u64> {
        if let Some(unified) = self.places.iter().find(|place| place.version == 2) {
            return number_after(unified.directory.as_fd(), "cpu.stat", "usage_usec").map(|us| us.saturating_mul(1000));
        }
        let place = self.find(Controller::CpuAccounting)?;
        number_in(place.directory.as_fd(), "cpuacct.usage")
    }

    /// The version 2 directory, into which a child can be born.
    pub(crate) fn unified_directory(&self) -> Option<BorrowedFd<'_>> {
        self.places.iter().find(|place| place.version == 2).map(|place| place.directory.as_fd())
    }

    /// Files to which a child writes `0` to enter; the version 2 one only if it was not born inside.
    pub(crate) fn entrances(&self, born_inside: bool) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.places.iter().filter(move |place| place.version == 1 || !born_inside).map(|place| place.entrance.as_fd())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(root) = &self.root else { return };
        let now = Instant::now();
        let busy = self.places.iter().filter(|place| !remove_directory(&place.path, now));
        lock(&root.leftovers).extend(busy.map(|place| place.path.clone()));
    }
}

fn remove_places(places: &[Place]) {
    for place in places {
        remove_directory(&place.path, Instant::now());
    }
}

/// Removes an empty cgroup, retrying until `end` while it is busy; true if it is gone.
fn remove_directory(path: &Path, end: Instant) -> bool {
    loop {
        match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return true,
            Err(Errno::BUSY) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The lists stay whole if a holder panics: each change is one push or pop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do where cgroups are lacking.
pub(crate) fn advice() -> &'static str {
    hierarchy::ADVICE
}
