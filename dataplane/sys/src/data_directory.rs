//! Where a local server keeps its files, found by server and clients alike without being told.
//!
//! The first that applies: the variable `PRAAS_DATA`; `praas` in `$XDG_RUNTIME_DIR`; `praas` in `/run/user/UID`;
//! `/tmp/praas-UID`. Nothing is created here. A directory below `/tmp` can be made by anybody, so one that exists there
//! is taken only when it is a real directory of this user that nobody else can enter: otherwise another user could offer
//! a server of their own and receive our token.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names the data directory, before anything else is looked at.
pub const DATA_VARIABLE: &str = "PRAAS_DATA";

/// The server's socket within its data directory.
pub const SOCKET_FILE: &str = "praas.sock";

/// The local token within the data directory, mode 0600.
pub const TOKEN_FILE: &str = "token";

/// Permission bits that a directory below `/tmp` must not have: anything for group or others.
const FOREIGN_MODE_BITS: u32 = 0o077;

/// Why no data directory could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    /// The directory in `/tmp` belongs to somebody else, or others can enter it.
    #[error(
        "{path} is not a private directory of user {user_id} ({what}); remove it, or name another directory in {DATA_VARIABLE}"
    )]
    NotPrivate {
        /// The refused directory.
        path: PathBuf,
        /// The user who asks.
        user_id: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The directory could not be examined.
    #[error("{path} could not be examined; name another directory in {DATA_VARIABLE}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The data directory of the user who asks. It need not exist yet.
///
/// # Errors
/// [`DataDirectoryError`] when only `/tmp/praas-UID` is left and somebody else controls it.
pub fn default_path() -> Result<PathBuf, DataDirectoryError> {
    let user_id = rustix::process::geteuid().as_raw();
    let places = Places {
        named: std::env::var_os(DATA_VARIABLE),
        session: std::env::var_os("XDG_RUNTIME_DIR"),
        user_runtime: PathBuf::from(format!("/run/user/{user_id}")),
        shared: PathBuf::from(format!("/tmp/praas-{user_id}")),
    };
    choose(places, user_id)
}

/// The candidates, in order.
struct Places {
    named: Option<OsString>,
    session: Option<OsString>,
    user_runtime: PathBuf,
    shared: PathBuf,
}

fn choose(places: Places, user_id: u32) -> Result<PathBuf, DataDirectoryError> {
    if let Some(named) = places.named.filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    if let Some(session) = places.session.filter(|session| Path::new(session).is_absolute()) {
        return Ok(Path::new(&session).join("praas"));
    }
    if places.user_runtime.is_dir() {
        return Ok(places.user_runtime.join("praas"));
    }
    check_private(&places.shared, user_id)?;
    Ok(places.shared)
}

/// Accepts a directory that does not exist, or that is `user_id`'s alone.
fn check_private(path: &Path, user_id: u32) -> Result<(), DataDirectoryError> {
    let refused = |what| DataDirectoryError::NotPrivate { path: path.to_owned(), user_id, what };
    // Not followed: a link could lead anywhere its owner likes.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(DataDirectoryError::Unreadable { path: path.to_owned(), source }),
    };
    if !found.is_dir() {
        return Err(refused("it is not a directory"));
    }
    if found.uid() != user_id {
        return Err(refused("it belongs to another user"));
    }
    if found.permissions().mode() & FOREIGN_MODE_BITS != 0 {
        return Err(refused("others have access to it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn own_user_id() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    /// A private directory that ends with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("praas-sys-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn places(scratch: &Scratch) -> Places {
        Places { named: None, session: None, user_runtime: scratch.0.join("absent"), shared: scratch.0.join("shared") }
    }

    #[test]
    fn the_first_place_that_applies_is_taken() {
        let scratch = Scratch::new("order");
        let user_id = own_user_id();
        assert_eq!(choose(places(&scratch), user_id).unwrap(), scratch.0.join("shared"));
        let runtime = Places { user_runtime: scratch.0.clone(), ..places(&scratch) };
        assert_eq!(choose(runtime, user_id).unwrap(), scratch.0.join("praas"));
        let session = Places { session: Some("/run/x".into()), ..places(&scratch) };
        assert_eq!(choose(session, user_id).unwrap(), Path::new("/run/x/praas"));
        let named = Places { named: Some("here".into()), session: Some("/run/x".into()), ..places(&scratch) };
        assert_eq!(choose(named, user_id).unwrap(), Path::new("here"));
    }

    #[test]
    fn a_shared_place_must_be_private() {
        let scratch = Scratch::new("private");
        let shared = scratch.0.join("shared");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(check_private(&shared, own_user_id()).is_ok());
        assert!(check_private(&shared, own_user_id() + 1).is_err());
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(check_private(&shared, own_user_id()).is_err());
        let link = scratch.0.join("link");
        symlink(&scratch.0, &link).unwrap();
        assert!(check_private(&link, own_user_id()).is_err());
        fs::write(scratch.0.join("file"), "").unwrap();
        assert!(check_private(&scratch.0.join("file"), own_user_id()).is_err());
    }
}
