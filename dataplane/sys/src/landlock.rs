//! Which files a worker may open: its program, the system's libraries, its working directory, and what the plan adds.
//!
//! Paths are opened once, when the sandbox is prepared; each spawn makes a fresh ruleset from those descriptors, because the
//! child adds its own `/proc/self` to it, which is known only there (programs that it starts see theirs refused). What Landlock cannot refuse (stat, readlink,
//! connecting to a socket file on older kernels) is left to file permissions and the worker's own user.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::sandbox::Network;

/// The newest set of rights this code knows; older kernels enforce the part they have.
const NEWEST: ABI = ABI::V9;

/// Programs and libraries: read and executed.
const SYSTEM_EXECUTABLE: &[&str] = &["/lib", "/lib32", "/lib64", "/libx32", "/usr", "/bin", "/sbin"];
/// Configuration of libraries: time zones, name services, certificates.
const SYSTEM_READABLE: &[&str] = &["/etc"];
/// Devices without state.
const DEVICES_READABLE: &[&str] = &["/dev/zero", "/dev/urandom", "/dev/random"];
const DEVICES_WRITABLE: &[&str] = &["/dev/null", "/dev/full"];

/// Rights on `/proc/self`, added by the child; bits of the kernel's `LANDLOCK_ACCESS_FS_*`.
pub(crate) const PROC_SELF_ACCESS: u64 = (1 << 2) | (1 << 3);

/// Paths and rights, ready to become rulesets.
#[derive(Debug)]
pub(crate) struct FileRules {
    rules: Vec<(PathFd, BitFlags<AccessFs>)>,
    network: Network,
}

/// Why rules could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    #[error(transparent)]
    Path(#[from] PathFdError),
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
}

/// The kernel's Landlock version, 0 if there is none.
pub(crate) fn version() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads no memory and returns a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(version).unwrap_or(0)
}

impl FileRules {
    pub(crate) fn open(
        program: &Path,
        working_directory: &Path,
        read_only: &[PathBuf],
        read_write: &[PathBuf],
        network: Network,
    ) -> Result<Self, RulesError> {
        let read = BitFlags::from(AccessFs::ReadFile) | AccessFs::ReadDir;
        let execute = AccessFs::from_read(NEWEST);
        let everything =
            AccessFs::from_all(NEWEST) & !BitFlags::from(AccessFs::MakeChar) & !BitFlags::from(AccessFs::MakeBlock);
        let write_device = BitFlags::from(AccessFs::ReadFile) | AccessFs::WriteFile;
        let mut rules = Vec::new();
        let mut present = |paths: &[&str], access: BitFlags<AccessFs>| {
            // A system without one of these directories needs no rule for it.
            rules.extend(paths.iter().filter_map(|path| Some((PathFd::new(path).ok()?, access))));
        };
        present(SYSTEM_EXECUTABLE, execute);
        present(SYSTEM_READABLE, read);
        present(DEVICES_READABLE, AccessFs::ReadFile.into());
        present(DEVICES_WRITABLE, write_device);
        rules.push((PathFd::new(program)?, execute));
        rules.push((PathFd::new(working_directory)?, everything));
        for path in read_only {
            rules.push((PathFd::new(path)?, execute));
        }
        for path in read_write {
            rules.push((PathFd::new(path)?, everything));
        }
        Ok(Self { rules, network })
    }

    /// A fresh ruleset; `None` where the kernel has no Landlock.
    pub(crate) fn ruleset(&self) -> Result<Option<OwnedFd>, RulesError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?;
        if self.network == Network::None {
            // The seccomp filter refuses the sockets; this also stops sockets that were handed in.
            ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
        }
        let mut created = ruleset.create()?;
        for (path, access) in &self.rules {
            created = created.add_rule(PathBeneath::new(path, *access))?;
        }
        Ok(created.into())
    }
}
