//! What the tests of the server share: roles that a test binary plays in processes of their own, and waiting with an end.
//!
//! A test binary runs itself again with a role in its environment; the test called `role` then does what the role says.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod answering;
pub(crate) mod bringing;
pub(crate) mod client;
pub(crate) mod correspondence;
pub(crate) mod deadly;
pub(crate) mod fake_server;
pub(crate) mod far;
pub(crate) mod filing;
pub(crate) mod functions;
pub(crate) mod hosts;
pub(crate) mod journal;
pub(crate) mod killed;
pub(crate) mod lane_parts;
pub(crate) mod lingering;
pub(crate) mod mails;
pub(crate) mod mixed;
pub(crate) mod namespaces;
pub(crate) mod nesting;
pub(crate) mod network;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod remote;
pub(crate) mod sessions;
pub(crate) mod signals;
pub(crate) mod sleeping;
pub(crate) mod stage;
pub(crate) mod sums;
pub(crate) mod wire_peer;

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Names the role of a test binary that was started by a test.
pub(crate) const ROLE: &str = "TEST_ROLE";

/// Longest time that anything in these tests may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The command that runs this binary in its role, given by the environment.
pub(crate) fn own_command() -> Vec<OsString> {
    let program = std::env::current_exe().expect("this binary has a path");
    [program.into(), "--exact".into(), "role".into(), "--nocapture".into(), "--quiet".into()].into()
}

/// This binary in a role, with a pipe to its standard output.
pub(crate) fn start_role(role: &str, variables: &[(&str, &str)]) -> Child {
    let own = own_command();
    let mut command = Command::new(&own[0]);
    command.args(&own[1..]).env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::piped());
    for (name, value) in variables {
        command.env(name, value);
    }
    command.spawn().expect("the role starts")
}

/// Waits until `is_so`; panics with `what` when it takes too long.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "still not after {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process exists and is not a zombie.
pub(crate) fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !matches!(stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]), Some("Z" | "X") | None)
}

/// Descriptors that this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// Child processes of `parent` whose command line names `word`.
pub(crate) fn children_with(parent: u32, word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let is_child = fields.split(' ').nth(1).and_then(|field| field.parse().ok()) == Some(parent);
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if is_child && is_running(pid) && String::from_utf8_lossy(&command).contains(word) {
            found.push(pid);
        }
    }
    found
}

/// Kills a process that this test started, directly or not.
pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Whether standard input is what a keeper gets as such.
pub(crate) fn is_keeper_socket(file: &impl std::os::fd::AsFd) -> bool {
    let address = rustix::net::getsockname(file).ok();
    let address = address.and_then(|address| rustix::net::SocketAddrUnix::try_from(address).ok());
    address.and_then(|address| address.path().map(|path| path.to_bytes().ends_with(b"/keeper.sock"))).unwrap_or(false)
}

/// A directory that only this user can enter, as a server wants it.
pub(crate) fn private_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let private = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix("praas-test-").permissions(private).tempdir().expect("a temporary directory")
}
