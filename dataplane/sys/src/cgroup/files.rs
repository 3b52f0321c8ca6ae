//! Reading and writing the small text files of a cgroup, and killing its members one by one.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read, retry_on_intr, write};

use crate::pidfd::Pidfd;

/// Longest file read: a list of members, 8 bytes each. More members than fit are met in the next round of killing.
const FILE_BYTES_MAX: usize = 256 * 1024;

pub(super) fn write_text(directory: BorrowedFd<'_>, file: &str, text: &str) -> Result<(), Errno> {
    let file = openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    retry_on_intr(|| write(&file, text.as_bytes())).map(drop)
}

fn read_text(directory: BorrowedFd<'_>, file: &str) -> Result<String, Errno> {
    let file = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < FILE_BYTES_MAX {
        let count = retry_on_intr(|| read(&file, &mut chunk))?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&chunk[..count]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number that is all of `file`.
pub(super) fn number_in(directory: BorrowedFd<'_>, file: &str) -> Option<u64> {
    read_text(directory, file).ok()?.trim().parse().ok()
}

/// The number on the line of `file` that starts with the word `key`.
pub(super) fn number_after(directory: BorrowedFd<'_>, file: &str, key: &str) -> Option<u64> {
    let text = read_text(directory, file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(word, _)| *word == key)?.1.trim().parse().ok()
}

/// Process ids inside, as this process's PID namespace numbers them.
pub(super) fn members(directory: BorrowedFd<'_>) -> Vec<u32> {
    let text = read_text(directory, "cgroup.procs").unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid != 0).collect()
}

/// Kills all members seen; returns how many there were. A number is only trusted if its process is still a member once a
/// handle pins it, so that a reused number never hits a stranger.
pub(super) fn kill_members(directory: BorrowedFd<'_>) -> usize {
    let seen = members(directory);
    let handles: Vec<(u32, Pidfd)> = seen.iter().filter_map(|&pid| Some((pid, Pidfd::open(pid).ok()?))).collect();
    let still = members(directory);
    for (pid, handle) in &handles {
        if still.contains(pid) {
            let _ = handle.kill();
        }
    }
    still.len()
}
