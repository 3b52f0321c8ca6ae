//! Locks of directories: that somebody uses one, and that somebody publishes in one.
//!
//! The kernel lets go of a lock when its holder has died. One that is stopped, or hangs in its disk, keeps it: so no wait for one is
//! without end.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use praas_sys::Errno;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

/// Longest wait for a lock. Whoever has one publishes a manifest, or removes what a dead server left half written: both take
/// milliseconds, and a disk that stalls seconds.
pub(super) const LOCK_LIMIT_MS: u64 = 20_000;

/// Longest pause between two looks whether a lock is free: nobody waits longer than that for one that is.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Says that a directory is in use, until it is dropped, and whether nobody else said so before.
pub(super) fn lock_use(path: &Path) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
    let is_alone = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    if !is_alone {
        // Waits only for one that is just beginning, for as long as it removes what was left.
        lock_within_limit(&file, FlockOperation::NonBlockingLockShared)?;
    }
    Ok((file, is_alone))
}

/// Takes a lock that others give back soon; `WOULDBLOCK` when they have not after [`LOCK_LIMIT_MS`]. The kernel's own wait has
/// no end, and a server that is stopped, or hangs in its disk, may have the lock.
pub(super) fn lock_within_limit(file: &OwnedFd, operation: FlockOperation) -> Result<(), Errno> {
    lock_within(file, operation, LOCK_LIMIT_MS)
}

fn lock_within(file: &OwnedFd, operation: FlockOperation, limit_ms: u64) -> Result<(), Errno> {
    let until = Instant::now() + Duration::from_millis(limit_ms);
    let mut pause = Duration::from_micros(50);
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                thread::sleep(pause);
                pause = LOCK_PAUSE_MAX.min(pause * 2);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_another_keeps_is_not_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let opened = || open(directory.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (holder, waiter) = (opened(), opened());
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        lock_within(&holder, exclusive, 0).unwrap();
        assert_eq!(lock_within(&waiter, exclusive, 30), Err(Errno::WOULDBLOCK));
        // Given back while somebody waits.
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock_within_limit(&waiter, exclusive));
            drop(holder);
            assert_eq!(waits.join().unwrap(), Ok(()));
        });
    }
}
