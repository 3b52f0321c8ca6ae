//! Starting a trivial program and waiting for its end: `posix_spawn`, which on Linux is vfork and exec, of `/bin/true`
//! by default (dynamically linked against the C library, as most programs are). What a process costs at least.
//!
//! The wait goes through a pidfd with a deadline; opening, polling and closing it adds about a microsecond to a
//! millisecond.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, OwnedFd};

use super::peer::kill;
use super::placement::Pinned;
use super::watch::wait_readable;
use super::{Batch, Config, FloorError, Samples, timed};
use crate::interleave::{Series, SeriesError};

const NAME: &str = "vfork + exec + exit of a trivial program";
/// The program that does nothing.
pub const TRIVIAL_PROGRAM: &str = "/bin/true";
/// The longest that one run of it may take.
const RUN_PATIENCE: Duration = Duration::from_secs(10);

/// The floor, open for rounds.
#[derive(Debug)]
pub struct Spawn {
    config: Config,
    program: PathBuf,
    path: CString,
}

impl Spawn {
    /// Measures `program`; see [`TRIVIAL_PROGRAM`].
    ///
    /// # Errors
    /// [`FloorError::System`] if the path holds a NUL.
    pub fn open(config: &Config, program: &Path) -> Result<Self, FloorError> {
        let path = CString::new(program.as_os_str().as_bytes())
            .map_err(|error| FloorError::system("name a program")(io::Error::from(error)))?;
        Ok(Self { config: config.clone(), program: program.to_owned(), path })
    }

    /// One round of runs.
    ///
    /// # Errors
    /// [`FloorError::ProgramFailed`] if the program does not exit with success, or [`FloorError::System`].
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let _pin = Pinned::to(self.config.placement.caller_cpu())?;
        timed(batch, || self.run_once())
    }

    fn run_once(&self) -> Result<(), FloorError> {
        let run = Run::start(&self.path)?;
        match run.wait()? {
            0 => Ok(()),
            status => Err(FloorError::ProgramFailed { program: self.program.clone(), status }),
        }
    }
}

impl Series for Spawn {
    fn label(&self) -> String {
        format!("{} ({})", self.config.label(NAME), self.program.display())
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// A started program; reaped by `wait`, or killed and reaped when dropped.
struct Run {
    pid: libc::pid_t,
    is_reaped: bool,
}

impl Run {
    fn start(path: &CString) -> Result<Self, FloorError> {
        let mut pid = 0;
        let arguments = [path.as_ptr().cast_mut(), ptr::null_mut()];
        let environment: [*mut libc::c_char; 1] = [ptr::null_mut()];
        // SAFETY: path and argument end in NUL, both arrays end in a null pointer, all outlive the call; null actions
        // and attributes mean none.
        let error = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                path.as_ptr(),
                ptr::null(),
                ptr::null(),
                arguments.as_ptr(),
                environment.as_ptr(),
            )
        };
        if error != 0 {
            return Err(FloorError::system("start the trivial program")(io::Error::from_raw_os_error(error)));
        }
        Ok(Self { pid, is_reaped: false })
    }

    /// The program's wait status.
    fn wait(mut self) -> Result<i32, FloorError> {
        let pidfd = self.pidfd()?;
        if wait_readable(&[pidfd.as_fd()], Instant::now() + RUN_PATIENCE).is_none() {
            kill(pidfd.as_fd());
            return Err(FloorError::DeadlineExceeded { floor: NAME, deadline: RUN_PATIENCE });
        }
        self.reap()
    }

    fn pidfd(&self) -> Result<OwnedFd, FloorError> {
        let pid = Pid::from_raw(self.pid).expect("posix_spawn gave a process id");
        pidfd_open(pid, PidfdFlags::empty()).map_err(FloorError::system("open a pidfd"))
    }

    fn reap(&mut self) -> Result<i32, FloorError> {
        let mut status = 0;
        // SAFETY: the status outlives the call; the process is our unreaped child.
        let reaped = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        self.is_reaped = true;
        if reaped == self.pid {
            Ok(status)
        } else {
            Err(FloorError::system("wait for the trivial program")(io::Error::last_os_error()))
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_reaped {
            // SAFETY: an unreaped child keeps its process id, so no other process is meant.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            let _ = self.reap();
        }
    }
}
