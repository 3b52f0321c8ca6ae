//! Files: a directory that all workers of a process share, and that sleeps and wakes with it.
//!
//! The server makes it and hands it over; the kernel lets the workers write there and in their working directory alone. This
//! module only knows where it is and adds up what is in it: the limit holds when the process is put to sleep, not at each write,
//! because file systems keep no count of a directory.

use std::fs;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use praas_protocol::control::FilesPlace;
use praas_protocol::limits::{FILES_DEPTH_MAX, FILES_MAX};

use crate::context::Context;

/// Where the directory is.
#[derive(Debug)]
pub(crate) struct FilesRoom {
    path: PathBuf,
    bytes_max: u64,
}

impl From<FilesPlace> for FilesRoom {
    fn from(place: FilesPlace) -> Self {
        Self { path: place.path.into(), bytes_max: place.bytes_max }
    }
}

/// Why the files of a process cannot be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The application has no files.
    #[error("this application has no files directory: set `files_bytes_max` in the section [limits] of its praas.toml")]
    NoFiles,
    /// There would be more bytes than the process may sleep with.
    #[error(
        "the files directory has {used_bytes} bytes, {asked_bytes} more do not fit {bytes_max}: remove files, or raise \
         `files_bytes_max` in praas.toml"
    )]
    NoRoom {
        /// Bytes that its files have.
        used_bytes: u64,
        /// Bytes that were asked for.
        asked_bytes: u64,
        /// Bytes that it may have.
        bytes_max: u64,
    },
    /// There is more in it than can be stored.
    #[error("the files directory has more than {limit} {what}: the process cannot sleep until some are removed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// The system refused to look.
    #[error("the files directory cannot be looked at: {0}")]
    System(#[from] io::Error),
}

/// The files directory of a process; it derefs to its [`Path`].
///
/// What is in it belongs to the process: all its workers see it, those that come after a death and after a sleep too; it ends when the
/// process is stopped. It keeps regular files, directories and symbolic links with their permissions and times. The process cannot sleep
/// while there is anything else in it, or more than [`bytes_max`](Self::bytes_max).
///
/// ```
/// use praas_function::{Call, FunctionResult};
///
/// fn export(call: &mut Call) -> FunctionResult {
///     let files = call.context().files()?;
///     files.ensure_room(call.input().len() as u64)?;
///     std::fs::write(files.join("export.new"), call.input())?;
///     std::fs::rename(files.join("export.new"), files.join("export"))?; // whole or not at all, whoever dies
///     Ok(())
/// }
/// # let _ = export;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Files<'call> {
    room: &'call FilesRoom,
}

impl Deref for Files<'_> {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.room.path
    }
}

impl AsRef<Path> for Files<'_> {
    fn as_ref(&self) -> &Path {
        self
    }
}

impl Files<'_> {
    /// Bytes that it may have when the process is put to sleep: `files_bytes_max` of its praas.toml. One that has more stays awake.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.room.bytes_max
    }

    /// Bytes that its files have by their lengths, as they are found one by one: a system call for each.
    ///
    /// # Errors
    /// [`FilesError`] if there are too many, or the system refuses.
    pub fn used_bytes(&self) -> Result<u64, FilesError> {
        let mut used_bytes = 0_u64;
        let mut entries = 0;
        let mut found = vec![(self.room.path.clone(), 1)];
        while let Some((directory, depth)) = found.pop() {
            if depth > FILES_DEPTH_MAX {
                return Err(FilesError::TooMany { what: "directories above each other", limit: FILES_DEPTH_MAX });
            }
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                entries += 1;
                if entries > FILES_MAX {
                    return Err(FilesError::TooMany { what: "files, directories and links", limit: FILES_MAX });
                }
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Another worker has just removed it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                if metadata.is_dir() {
                    found.push((entry.path(), depth + 1));
                } else if metadata.is_file() {
                    used_bytes = used_bytes.saturating_add(metadata.len());
                }
            }
        }
        Ok(used_bytes)
    }

    /// Makes sure that so many bytes more fit, as far as no other worker writes at the same time.
    ///
    /// # Errors
    /// [`FilesError::NoRoom`] with figures; and as [`used_bytes`](Self::used_bytes).
    pub fn ensure_room(&self, asked_bytes: u64) -> Result<(), FilesError> {
        let (used_bytes, bytes_max) = (self.used_bytes()?, self.room.bytes_max);
        if used_bytes.saturating_add(asked_bytes) <= bytes_max {
            return Ok(());
        }
        Err(FilesError::NoRoom { used_bytes, asked_bytes, bytes_max })
    }
}

impl<'call> Context<'call> {
    /// The files directory of the process.
    ///
    /// # Errors
    /// [`FilesError::NoFiles`] if its praas.toml has no `files_bytes_max`.
    pub fn files(&self) -> Result<Files<'call>, FilesError> {
        let room = self.identity().files.as_ref().ok_or(FilesError::NoFiles)?;
        Ok(Files { room })
    }
}
