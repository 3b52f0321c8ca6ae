//! What a program takes over from the one that started it: file descriptors by number, and signals it must not die of.
//!
//! Invariant: a descriptor that was there when the program started is not close-on-exec (it would not have survived the
//! exec), and everything that the standard library or this project opens later is. [`take`] relies on that to tell the two
//! apart, and sets close-on-exec itself, so each number is handed out at most once and never one that other code owns.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// One taker at a time: reading the flag and setting it are two steps.
static TAKING: Mutex<()> = Mutex::new(());

/// The descriptor of this number, which the starting program left open for this one. It becomes close-on-exec.
///
/// # Errors
/// When no descriptor of this number is open, or when it was not inherited, or was taken before.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} is a standard stream")));
    }
    let _taking = TAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: `number` is not -1 (checked above); the borrow ends within this function, and a closed number gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("descriptor {number} is not an inherited one"),
        ));
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: the number is open and was inherited, not opened here (module invariant), so nothing else in this program
    // owns it; close-on-exec, set above under the lock, keeps it from being handed out again.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes this program ignore the terminal's Ctrl-C, which is meant for the server, and writes to a closed pipe, which then
/// fail with an error instead.
pub fn ignore_terminal_signals() {
    for signal in [libc::SIGINT, libc::SIGPIPE] {
        // SAFETY: `SIG_IGN` runs no code of ours; both signals exist, so the call cannot fail.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn an_inherited_descriptor_is_taken_once() {
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(take(reader.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let number = reader.into_raw_fd();
        // SAFETY: the number was just released by its owner and is open.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(borrowed, FdFlags::empty()).unwrap();
        let taken = take(number).unwrap();
        assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC));
        assert!(take(number).is_err());
    }

    #[test]
    fn standard_streams_and_closed_numbers_are_refused() {
        for number in [-1, 0, 2, RawFd::MAX] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
