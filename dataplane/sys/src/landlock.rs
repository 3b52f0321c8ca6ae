//! Which files a worker may open: its program, the system's libraries, its working directory, and what the plan adds.
//!
//! What every worker may open is opened once, when its spawner starts; the rest when a sandbox is prepared. Each spawn makes a
//! fresh ruleset from those descriptors, because the child adds its own `/proc/self` to it, which is known only there
//! (programs that it starts see theirs refused). What Landlock cannot refuse (stat, readlink, connecting to a socket file on
//! older kernels) is left to file permissions and the worker's own user.
//!
//! The rights come from the `landlock` crate, for the kernel's version; the calls are made here, without its look at each
//! path again for each ruleset.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{ABI, Access, AccessFs, AccessNet, BitFlags, Scope};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::sandbox::Network;

/// Programs and libraries: read and executed.
const SYSTEM_EXECUTABLE: &[&str] = &["/lib", "/lib32", "/lib64", "/libx32", "/usr", "/bin", "/sbin"];
/// Configuration of libraries: time zones, name services, certificates.
const SYSTEM_READABLE: &[&str] = &["/etc"];
/// Devices without state.
const DEVICES_READABLE: &[&str] = &["/dev/zero", "/dev/urandom", "/dev/random"];
const DEVICES_WRITABLE: &[&str] = &["/dev/null", "/dev/full"];

/// Rights on `/proc/self`, added by the child; bits of the kernel's `LANDLOCK_ACCESS_FS_*`.
pub(crate) const PROC_SELF_ACCESS: u64 = (1 << 2) | (1 << 3);

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
pub(crate) struct PathBeneath {
    pub(crate) allowed_access: u64,
    pub(crate) parent_fd: i32,
}

/// The kernel's number for rules of that form.
pub(crate) const RULE_PATH_BENEATH: usize = 1;

/// The kernel's `struct landlock_ruleset_attr`. Older kernels know less of it and take the rest if it is zero.
#[repr(C)]
struct RulesetAttributes {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// A path and what may be done beneath it.
#[derive(Debug)]
struct Rule {
    path: OwnedFd,
    access: BitFlags<AccessFs>,
}

/// What every worker may open.
#[derive(Debug)]
pub(crate) struct SystemFiles(Vec<Rule>);

/// What the workers of one sandbox may open besides.
#[derive(Debug)]
pub(crate) struct FileRules {
    rules: Vec<Rule>,
    network: Network,
}

/// Why rules could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    #[error("cannot open {path:?}: {errno}")]
    Path { path: PathBuf, errno: Errno },
    #[error("the kernel refuses the ruleset: {0}")]
    Ruleset(Errno),
}

/// The kernel's Landlock version, 0 if there is none.
pub(crate) fn version() -> u32 {
    const VERSION: u32 = 1;
    static FOUND: OnceLock<u32> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: with this flag the kernel reads no memory and returns a number.
        let version =
            unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
        u32::try_from(version).unwrap_or(0)
    })
}

/// The newest set of rights that both this kernel and this code know.
fn known_rights() -> ABI {
    match version() {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        8 => ABI::V8,
        _ => ABI::V9,
    }
}

impl Rule {
    /// Rights that only directories have are left out for other files: the kernel refuses them there.
    fn open(path: &Path, access: BitFlags<AccessFs>) -> Result<Self, Errno> {
        let file = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let is_directory = FileType::from_raw_mode(fstat(&file)?.st_mode).is_dir();
        let possible =
            if is_directory { AccessFs::from_all(known_rights()) } else { AccessFs::from_file(known_rights()) };
        Ok(Self { path: file, access: access & possible })
    }
}

impl SystemFiles {
    pub(crate) fn open() -> Self {
        let read = BitFlags::from(AccessFs::ReadFile) | AccessFs::ReadDir;
        let write_device = BitFlags::from(AccessFs::ReadFile) | AccessFs::WriteFile;
        let groups = [
            (SYSTEM_EXECUTABLE, AccessFs::from_read(known_rights())),
            (SYSTEM_READABLE, read),
            (DEVICES_READABLE, AccessFs::ReadFile.into()),
            (DEVICES_WRITABLE, write_device),
        ];
        let paths = groups.iter().flat_map(|(paths, access)| paths.iter().map(move |path| (Path::new(path), *access)));
        // A system without one of these paths needs no rule for it.
        Self(paths.filter_map(|(path, access)| Rule::open(path, access).ok()).collect())
    }
}

impl FileRules {
    pub(crate) fn open(
        program: &Path,
        working_directory: &Path,
        read_only: &[PathBuf],
        read_write: &[PathBuf],
        network: Network,
    ) -> Result<Self, RulesError> {
        let execute = AccessFs::from_read(known_rights());
        let everything = AccessFs::from_all(known_rights())
            & !BitFlags::from(AccessFs::MakeChar)
            & !BitFlags::from(AccessFs::MakeBlock);
        let readable = [program].into_iter().chain(read_only.iter().map(PathBuf::as_path));
        let writable = [working_directory].into_iter().chain(read_write.iter().map(PathBuf::as_path));
        let paths = readable.map(|path| (path, execute)).chain(writable.map(|path| (path, everything)));
        let rules = paths.map(|(path, access)| {
            Rule::open(path, access).map_err(|errno| RulesError::Path { path: path.to_owned(), errno })
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, network })
    }

    /// A fresh ruleset.
    pub(crate) fn ruleset(&self, system: &SystemFiles) -> Result<OwnedFd, RulesError> {
        let rights = known_rights();
        // The seccomp filter refuses the sockets; this also stops sockets that were handed in.
        let network = if self.network == Network::None { AccessNet::from_all(rights) } else { BitFlags::EMPTY };
        let ruleset = create(&RulesetAttributes {
            handled_access_fs: AccessFs::from_all(rights).bits(),
            handled_access_net: network.bits(),
            scoped: Scope::from_all(rights).bits(),
        })
        .map_err(RulesError::Ruleset)?;
        for rule in system.0.iter().chain(&self.rules) {
            add(&ruleset, rule).map_err(RulesError::Ruleset)?;
        }
        Ok(ruleset)
    }
}

fn create(attributes: &RulesetAttributes) -> Result<OwnedFd, Errno> {
    let size = size_of::<RulesetAttributes>();
    // SAFETY: the kernel reads `size` bytes of a live local; a descriptor that it returns is new and ours.
    unsafe {
        let number = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const *attributes, size, 0_u32);
        let number = i32::try_from(number).ok().filter(|number| *number >= 0).ok_or_else(last_errno)?;
        Ok(OwnedFd::from_raw_fd(number))
    }
}

fn add(ruleset: &OwnedFd, rule: &Rule) -> Result<(), Errno> {
    if rule.access.is_empty() {
        return Ok(());
    }
    let beneath = PathBeneath { allowed_access: rule.access.bits(), parent_fd: rule.path.as_raw_fd() };
    // SAFETY: the kernel reads one attribute, a live local of the layout that the rule's number names.
    let status = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), RULE_PATH_BENEATH, &raw const beneath, 0_u32)
    };
    if status == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
