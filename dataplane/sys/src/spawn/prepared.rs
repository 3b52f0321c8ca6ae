//! The parent's side of a spawn: a request turned into the words, tables and descriptors that the child's system calls
//! take, all owned here until the child has executed or exited.

use std::ffi::{CString, OsStr, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{FD_TARGET_MAX, Output, SpawnError, SpawnRequest, Step, above_targets};
use crate::child::{ChildPlan, child_main};
use crate::clone::{ChildStack, Cloned, clone_child, clone3_is_missing};
use crate::landlock::SystemFiles;
use crate::sandbox::own_ids;

/// What the child reads.
#[derive(Debug)]
pub(super) struct Prepared {
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    /// Duplicates above every target number.
    sources: Vec<(OwnedFd, i32)>,
    gaps: Vec<(u32, u32)>,
    ruleset: Option<OwnedFd>,
    outputs: (Option<OwnedFd>, Option<OwnedFd>),
}

impl Prepared {
    pub(super) fn new(request: &SpawnRequest, null: BorrowedFd<'_>, system: &SystemFiles) -> Result<Self, SpawnError> {
        check_targets(request)?;
        let program = c_string(request.sandbox.program().as_os_str())?;
        let mut arguments = vec![program.clone()];
        for argument in &request.arguments {
            arguments.push(c_string(argument)?);
        }
        let mut environment = Vec::with_capacity(request.environment.len());
        for (name, value) in &request.environment {
            environment.push(variable(name, value)?);
        }
        let mut sources = vec![(duplicate(null)?, 0)];
        let outputs = connect_outputs(request.output, null, &mut sources)?;
        for (fd, target) in &request.fds {
            sources.push((duplicate(fd.as_fd())?, *target));
        }
        let gaps = gaps_between(&sources);
        let ruleset = ruleset(request, system)?;
        Ok(Self { program, arguments, environment, sources, gaps, ruleset, outputs })
    }

    /// Makes the child; the second value says where it failed, if it did.
    pub(super) fn clone_child(
        &self,
        request: &SpawnRequest,
        liveness: (BorrowedFd<'_>, BorrowedFd<'_>),
        stack: &mut ChildStack,
    ) -> Result<(Cloned, Option<(Step, Errno)>), SpawnError> {
        let sandbox = &request.sandbox;
        let argv = pointers(&self.arguments);
        let envp = pointers(&self.environment);
        let fds: Vec<(i32, i32)> = self.sources.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect();
        let filter = sandbox.filter.as_ref().map(|program| program.as_raw());
        let new_user = sandbox.namespaces & libc::CLONE_NEWUSER != 0;
        let (uid, gid) = own_ids();
        let (users, groups) = (format!("{uid} {uid} 1"), format!("{gid} {gid} 1"));
        let unified = request.cgroup.as_ref().and_then(|cgroup| cgroup.unified_directory());
        let mut born_inside = unified.is_some() && !clone3_is_missing();
        loop {
            let entrances: Vec<i32> = match &request.cgroup {
                Some(cgroup) => cgroup.entrances(born_inside).map(|fd| fd.as_raw_fd()).collect(),
                None => Vec::new(),
            };
            let plan = ChildPlan {
                program: self.program.as_ptr(),
                program_file: sandbox.program_file.as_raw_fd(),
                argv: argv.as_ptr(),
                envp: envp.as_ptr(),
                directory: sandbox.directory.as_raw_fd(),
                fds: &fds,
                gaps: &self.gaps,
                above: FD_TARGET_MAX.cast_unsigned() + 1,
                entrances: &entrances,
                user: sandbox.user,
                user_map: new_user.then_some((users.as_bytes(), groups.as_bytes())),
                limits: &sandbox.limits,
                liveness_read: liveness.0.as_raw_fd(),
                liveness_write: liveness.1.as_raw_fd(),
                ruleset: self.ruleset.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                filter: filter.as_ref().map_or(std::ptr::null(), |filter| &raw const *filter),
                failed_step: AtomicI32::new(0),
                failed_errno: AtomicI32::new(0),
            };
            let inside = unified.filter(|_| born_inside);
            let argument = (&raw const plan).cast_mut().cast();
            // SAFETY: `child_main` makes system calls only and never returns; the plan and all that it points to
            // live in this frame, in `self` and in `request`, until the call returns, which is after the child has
            // executed or exited.
            match unsafe { clone_child(sandbox.namespaces, inside, stack, child_main, argument) } {
                Ok(cloned) => return Ok((cloned, failure(&plan))),
                // Containers may forbid clone3; the second turn enters by the file instead.
                Err(Errno::NOSYS) if born_inside => born_inside = false,
                Err(errno) => return Err(SpawnError::Clone { errno }),
            }
        }
    }

    pub(super) fn into_outputs(self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        self.outputs
    }
}

fn failure(plan: &ChildPlan<'_>) -> Option<(Step, Errno)> {
    // Relaxed: the child that wrote them is gone or has executed, and the kernel ordered its end before our waking.
    let step = Step::from_number(plan.failed_step.load(Ordering::Relaxed))?;
    Some((step, Errno::from_raw_os_error(plan.failed_errno.load(Ordering::Relaxed))))
}

fn check_targets(request: &SpawnRequest) -> Result<(), SpawnError> {
    let mut seen = 0_u64;
    for (_, target) in &request.fds {
        if !(3..=FD_TARGET_MAX).contains(target) {
            let what = format!("descriptor number {target} is not between 3 and {FD_TARGET_MAX}");
            return Err(SpawnError::BadRequest { what });
        }
        let bit = 1 << target;
        if seen & bit != 0 {
            return Err(SpawnError::BadRequest { what: format!("descriptor number {target} is given twice") });
        }
        seen |= bit;
    }
    Ok(())
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes())
        .map_err(|_| SpawnError::BadRequest { what: format!("{} contains a zero byte", text.display()) })
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, SpawnError> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(SpawnError::BadRequest { what: format!("{name:?} cannot name an environment variable") });
    }
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    c_string(&text)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, SpawnError> {
    above_targets(fd).map_err(|errno| SpawnError::Prepare { what: "duplicate a descriptor", errno })
}

type ReadEnds = (Option<OwnedFd>, Option<OwnedFd>);

fn connect_outputs(
    output: Output,
    null: BorrowedFd<'_>,
    sources: &mut Vec<(OwnedFd, i32)>,
) -> Result<ReadEnds, SpawnError> {
    match output {
        Output::Capture => {
            let (stdout, write) = capture()?;
            sources.push((write, 1));
            let (stderr, write) = capture()?;
            sources.push((write, 2));
            Ok((Some(stdout), Some(stderr)))
        }
        Output::Inherit => {
            sources.push((duplicate(rustix::stdio::stdout())?, 1));
            sources.push((duplicate(rustix::stdio::stderr())?, 2));
            Ok((None, None))
        }
        Output::Discard => {
            sources.push((duplicate(null)?, 1));
            sources.push((duplicate(null)?, 2));
            Ok((None, None))
        }
    }
}

/// A pipe whose read end alone is non-blocking: the worker's writes wait for the server to read them.
fn capture() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    let failed = |errno| SpawnError::Prepare { what: "make a pipe", errno };
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let flags = fcntl_getfl(&read).map_err(failed)?;
    fcntl_setfl(&read, flags | OFlags::NONBLOCK).map_err(failed)?;
    Ok((read, duplicate(write.as_fd())?))
}

/// Ranges of numbers up to the highest possible target that the worker does not get.
fn gaps_between(sources: &[(OwnedFd, i32)]) -> Vec<(u32, u32)> {
    let mut taken: Vec<u32> = sources.iter().map(|(_, target)| target.cast_unsigned()).collect();
    taken.sort_unstable();
    let mut gaps = Vec::new();
    let mut next = 0;
    for target in taken {
        if target > next {
            gaps.push((next, target - 1));
        }
        next = target + 1;
    }
    let highest = FD_TARGET_MAX.cast_unsigned();
    if next <= highest {
        gaps.push((next, highest));
    }
    gaps
}

fn ruleset(request: &SpawnRequest, system: &SystemFiles) -> Result<Option<OwnedFd>, SpawnError> {
    let Some(files) = &request.sandbox.files else { return Ok(None) };
    let made = files.ruleset(system).map_err(|error| SpawnError::Landlock { reason: error.to_string() })?;
    duplicate(made.as_fd()).map(Some)
}
