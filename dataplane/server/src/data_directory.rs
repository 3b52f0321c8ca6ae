//! The server's data directory: locked by one server at a time, private to its user.
//!
//! | entry | what |
//! |---|---|
//! | `lock` | held by flock for the server's life; the keeper accepts whoever holds it |
//! | `secret` | 32 bytes that sign tokens, mode 0600, made once |
//! | `owner` | 8 random bytes that tell what this directory's servers have stored from what others have, made once |
//! | `token` | a token with every right for local tools, mode 0600, written anew at each start |
//! | `praas.sock`, `keeper.sock` | sockets, there while their processes live |
//! | `keeper.log` | what the keeper had to say |
//! | `run/APPLICATION/PROCESS/` | working directory of a process, removed with it |
//! | `files/` | files directories of processes in memory ([`crate::files`]) |

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use praas_protocol::ProcessId;
use praas_protocol::token::{Claims, Rights, Scope, Secret};
use praas_storage::Owner;
use praas_sys::FileLock;
use praas_sys::data_directory::{SOCKET_FILE, TOKEN_FILE};
use praas_sys::private_directory::create_private_directory;

use crate::StartError;
use crate::limits::{LOCK_FREE_MAX, LOCK_LOOK_PAUSE, SOCKET_PATH_BYTES_MAX};
use crate::secret::{SECRET_FILE, SecretError, read_secret};

/// An open data directory. Dropping it releases the lock and leaves the files.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    lock: FileLock,
    owner: Owner,
}

/// The file of the owner.
const OWNER_FILE: &str = "owner";

impl DataDirectory {
    /// Opens `path` (made if missing) and becomes its one owner.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |what: &'static str| move |error: io::Error| StartError::host(what, &error);
        let path = std::path::absolute(path).map_err(failed("finding the data directory"))?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("creating the data directory's parent"))?;
        }
        create_private_directory(&path).map_err(|error| StartError::host("creating the data directory", &error))?;
        let path = path.canonicalize().map_err(failed("finding the data directory"))?;
        let longest = path.join("keeper.sock").as_os_str().len();
        if longest > SOCKET_PATH_BYTES_MAX {
            return Err(StartError::PathTooLong { path, bytes: longest, limit: SOCKET_PATH_BYTES_MAX });
        }
        let until = Instant::now() + LOCK_FREE_MAX;
        loop {
            match FileLock::try_exclusive(&path.join("lock")) {
                Ok(Some(lock)) => {
                    let owner = owner(&path)?;
                    return Ok(Self { path, lock, owner });
                }
                Ok(None) if Instant::now() < until => thread::sleep(LOCK_LOOK_PAUSE),
                Ok(None) => return Err(StartError::InUse { path }),
                Err(error) => return Err(StartError::host("locking the data directory", &error)),
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Who writes when a server of this directory does.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn lock(&self) -> &FileLock {
        &self.lock
    }

    pub(crate) fn lock_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    pub(crate) fn socket_path(&self) -> PathBuf {
        self.path.join(SOCKET_FILE)
    }

    pub(crate) fn keeper_socket_path(&self) -> PathBuf {
        self.path.join("keeper.sock")
    }

    pub(crate) fn keeper_log_path(&self) -> PathBuf {
        self.path.join("keeper.log")
    }

    /// What names of this server's cgroups begin with: the same for each server of this directory.
    pub(crate) fn cgroup_prefix(&self) -> String {
        let identity = fs::metadata(&self.path).map_or((0, 0), |found| (found.dev(), found.ino()));
        format!("praas-{:x}-{:x}", identity.0, identity.1)
    }

    /// Where the directories of all applications lie.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Where the workers of `process` run.
    pub(crate) fn run_path(&self, process: &ProcessId) -> PathBuf {
        self.run_directory().join(process.application.as_str()).join(process.process.as_str())
    }

    /// Removes what processes of an earlier server left. Only after all their workers ended.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(self.run_directory()))
    }

    /// Makes the working directory of `process`, unless its other workers have it already.
    pub(crate) fn create_run_path(&self, process: &ProcessId) -> io::Result<PathBuf> {
        let path = self.run_path(process);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Removes it, and the application's directory with its last process.
    pub(crate) fn remove_run_path(&self, process: &ProcessId) -> io::Result<()> {
        let path = self.run_path(process);
        // Most are empty: those take one call and no descriptor, of which there may be none.
        if let Err(error) = fs::remove_dir(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            absent_is_fine(fs::remove_dir_all(&path))?;
        }
        // Fails while other processes of the application run.
        if let Some(application) = path.parent() {
            let _ = fs::remove_dir(application);
        }
        Ok(())
    }

    /// The secret that signs this server's tokens; made when there is none.
    pub(crate) fn secret(&self) -> Result<Secret, StartError> {
        match read_secret(&self.path) {
            Ok(secret) => Ok(secret),
            Err(SecretError::Absent { .. }) => {
                let secret = Secret::generate().map_err(|error| StartError::host("making a secret", &error))?;
                write_private(&self.path, SECRET_FILE, secret.as_bytes())
                    .map_err(|error| StartError::host("writing the secret", &error))?;
                Ok(secret)
            }
            Err(SecretError::Bad { path }) => Err(StartError::BadSecret { path }),
            Err(SecretError::Unreadable { source, .. }) => Err(StartError::host("reading the secret", &source)),
        }
    }

    /// Writes the token that local tools of the same user find by themselves.
    pub(crate) fn write_local_token(&self, secret: &Secret) -> Result<(), StartError> {
        let claims = Claims {
            principal: "local".parse().expect("a name"),
            scope: Scope::Any,
            rights: Rights::ALL,
            expires_unix_s: None,
        };
        write_private(&self.path, TOKEN_FILE, secret.sign(&claims).as_bytes())
            .map_err(|error| StartError::host("writing the local token", &error))
    }
}

/// Puts `bytes` into a file of mode 0600 in that directory, whole or not at all.
fn write_private(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let partial = directory.join(format!("{name}.new"));
    absent_is_fine(fs::remove_file(&partial))?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(partial, directory.join(name))
}

/// The owner that a directory has; made when there is none.
fn owner(directory: &Path) -> Result<Owner, StartError> {
    let failed = |what: &'static str| move |error: io::Error| StartError::host(what, &error);
    let path = directory.join(OWNER_FILE);
    match fs::read(&path) {
        Ok(bytes) => {
            let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} is not 8 bytes", path.display()));
            <[u8; 8]>::try_from(bytes)
                .map(Owner::of_random)
                .map_err(wrong)
                .map_err(failed("reading who owns what is stored; remove that file, and it is made anew"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 8];
            praas_sys::process_self::random_bytes(&mut bytes)
                .map_err(|error| StartError::host("choosing an owner", &error))?;
            write_private(directory, OWNER_FILE, &bytes)
                // What is stored in its name must not outlive it.
                .and_then(|()| fs::File::open(directory)?.sync_all())
                .map_err(failed("writing who owns what is stored"))?;
            Ok(Owner::of_random(bytes))
        }
        Err(error) => Err(StartError::host("reading who owns what is stored", &error)),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_data_directory_has_one_owner_and_one_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        let first = DataDirectory::open(&path).unwrap();
        let secret = first.secret().unwrap();
        assert!(matches!(DataDirectory::open(&path), Err(StartError::InUse { .. })));
        first.write_local_token(&secret).unwrap();
        drop(first);
        let second = DataDirectory::open(&path).unwrap();
        assert_eq!(second.secret().unwrap().as_bytes(), secret.as_bytes());
        let token = fs::read_to_string(path.join(TOKEN_FILE)).unwrap();
        assert_eq!(secret.verify(&token, 0).unwrap().rights, Rights::ALL);
        for name in [TOKEN_FILE, "secret"] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_directory_has_an_owner_of_its_own_that_stays() {
        let directory = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| directory.path().join(name));
        let owner = |path: &Path| DataDirectory::open(path).map(|data| data.owner());
        let first = owner(&one).unwrap();
        assert_eq!(owner(&one).unwrap(), first);
        assert_ne!(owner(&other).unwrap(), first);
        fs::write(one.join(OWNER_FILE), "short").unwrap();
        let error = owner(&one).unwrap_err().to_string();
        assert!(error.contains("is not 8 bytes") && error.contains("remove that file"), "{error}");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(&directory.path().join("data")).unwrap();
        data.secret().unwrap();
        let file = data.path().join("secret");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(data.secret(), Err(StartError::BadSecret { .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "short").unwrap();
        assert!(matches!(data.secret(), Err(StartError::BadSecret { .. })));
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x".repeat(120));
        assert!(matches!(DataDirectory::open(&path), Err(StartError::PathTooLong { .. })));
    }

    #[test]
    fn working_directories_come_and_go_with_their_processes() {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(&directory.path().join("data")).unwrap();
        let [one, two] = ["a/one", "a/two"].map(|id| id.parse().unwrap());
        let path = data.create_run_path(&one).unwrap();
        data.create_run_path(&two).unwrap();
        fs::write(path.join("left"), "over").unwrap();
        assert_eq!(fs::read_dir(data.create_run_path(&one).unwrap()).unwrap().count(), 1, "its workers share it");
        data.remove_run_path(&one).unwrap();
        data.remove_run_path(&one).unwrap();
        data.remove_run_path(&two).unwrap();
        assert_eq!(fs::read_dir(data.path().join("run")).unwrap().count(), 0);
        data.sweep().unwrap();
        assert!(!data.path().join("run").exists());
    }
}
