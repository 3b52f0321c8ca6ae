//! Processes that are stopped for a while, as by a debugger or an overloaded host.
//!
//! A signal only asks: a thread that runs on another core stops some time later, on a loaded machine much later. A test that goes on at
//! once would meet a process that still works.

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Stops a process; every thread of it stands still when this returns.
pub(crate) fn stop(pid: u32) {
    signal(pid, Signal::STOP);
    eventually("every thread has stopped", || has_stopped(pid));
}

/// Lets it go on.
pub(crate) fn resume(pid: u32) {
    signal(pid, Signal::CONT);
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a process id"), signal).expect("it is there");
}

fn has_stopped(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
    let stats = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap());
    // NUMBER (NAME) STATE …
    stats.into_iter().all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}
