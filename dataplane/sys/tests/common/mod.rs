//! Helpers of the tests: scratch directories, polling with a deadline, and shells in sandboxes.
#![allow(dead_code, reason = "each test file uses some of these")]

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use praas_sys::{Exit, Output, Sandbox, SandboxPlan, SpawnRequest, Spawned, WorkerUser};

/// Longest wait for anything that must happen: generous, because machines that run tests are loaded.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A directory that goes away with its owner.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("praas-sys-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "waited {SOON:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A user of its own where that is possible.
pub(crate) fn private_user() -> WorkerUser {
    if is_root() { WorkerUser::Private { uid: 61_234, gid: 61_234 } } else { WorkerUser::Same }
}

/// A plan for a shell in `directory`, which is given to the worker's user.
pub(crate) fn shell_plan(directory: &Scratch) -> SandboxPlan {
    let user = private_user();
    if let WorkerUser::Private { uid, gid } = user {
        std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).expect("chown");
    }
    SandboxPlan { user, ..SandboxPlan::new("/bin/sh", directory.path()) }
}

/// A request to run a shell script.
pub(crate) fn script(sandbox: &Arc<Sandbox>, text: &str) -> SpawnRequest {
    SpawnRequest {
        arguments: vec!["-c".into(), text.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        fds: Vec::new(),
        sandbox: Arc::clone(sandbox),
        cgroup: None,
        output: Output::Capture,
    }
}

/// A request to run one test of this test binary, which does what `role` says.
pub(crate) fn helper(sandbox: &Arc<Sandbox>, test: &str, role: &str) -> SpawnRequest {
    SpawnRequest {
        arguments: [test, "--exact", "--nocapture", "--test-threads=1"].map(OsString::from).to_vec(),
        environment: vec![(ROLE.into(), role.into())],
        ..script(sandbox, "")
    }
}

/// The variable that makes a test binary a helper.
pub(crate) const ROLE: &str = "PRAAS_SYS_TEST_ROLE";

pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// How a worker ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Waits for a worker and collects its output, which must fit the pipes.
pub(crate) fn finish(spawned: Spawned) -> Ended {
    let exit = spawned.pidfd.wait_deadline(SOON).expect("wait").expect("the worker ends");
    Ended { exit, stdout: drain(spawned.stdout), stderr: drain(spawned.stderr) }
}

fn drain(pipe: Option<OwnedFd>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // The read end is non-blocking: what is there is all there is, because the writer is gone.
        let _ = std::fs::File::from(pipe).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads from a live worker's output until it has written `lines` lines.
pub(crate) fn read_lines(pipe: &OwnedFd, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    until("lines of output", || {
        let mut chunk = [0; 4096];
        if let Ok(count) = rustix::io::read(pipe.as_fd(), &mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
        }
        bytes.iter().filter(|byte| **byte == b'\n').count() >= lines
    });
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Open descriptors of this process.
pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc").count()
}
