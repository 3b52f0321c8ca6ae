//! The files directory of a harness: it ends with it.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use praas_protocol::control::FilesPlace;

/// A directory below the system's temporary one.
#[derive(Debug)]
pub(super) struct FilesDirectory(PathBuf);

impl FilesDirectory {
    pub(super) fn make() -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        // Relaxed: a name only has to differ from all others.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("praas-harness-{}-{number}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// What a worker is told of it.
    pub(super) fn place(&self, bytes_max: u64) -> FilesPlace {
        FilesPlace { path: self.0.display().to_string(), bytes_max }
    }
}

impl Drop for FilesDirectory {
    fn drop(&mut self) {
        // What stays lies in a directory for what is temporary.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
