//! The secret that signs a server's tokens: 32 bytes in the file `secret` of its data directory, mode 0600, made once.
//!
//! Whoever can read it can make tokens with any rights; a file that others can read is therefore not believed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use praas_protocol::token::Secret;

/// Its file within a data directory.
pub(crate) const SECRET_FILE: &str = "secret";

/// Why there is no secret to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// No server ever ran there.
    #[error("{path} does not exist: start the server once with `praas serve`, or name its data directory with --data")]
    Absent {
        /// The file.
        path: PathBuf,
    },
    /// It was damaged or exposed.
    #[error("{path} must have 32 bytes and mode 0600; remove it to make a new one (earlier tokens become invalid)")]
    Bad {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("reading {path} failed: {source}; tokens are made by the user that the server runs as")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Reads the secret of the server whose data directory this is, running or not: to make tokens for its clients.
///
/// ```no_run
/// let secret = praas_server::read_secret("/run/user/1000/praas".as_ref())?;
/// # Ok::<(), praas_server::SecretError>(())
/// ```
///
/// # Errors
/// [`SecretError`].
pub fn read_secret(data_directory: &Path) -> Result<Secret, SecretError> {
    let path = data_directory.join(SECRET_FILE);
    let read = fs::read(&path).and_then(|bytes| Ok((bytes, fs::metadata(&path)?.mode())));
    match read {
        Ok((bytes, mode)) => {
            let bytes: Option<[u8; 32]> = bytes.try_into().ok();
            bytes.filter(|_| mode & 0o077 == 0).map(Secret::from_bytes).ok_or(SecretError::Bad { path })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SecretError::Absent { path }),
        Err(source) => Err(SecretError::Unreadable { path, source }),
    }
}
