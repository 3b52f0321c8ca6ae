//! Ping-pong of 64 bytes through two POSIX message queues. Their names are unlinked as soon as they are open, so that
//! nothing stays in the system; the peer gets the descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cell::PAYLOAD_BYTES;
use super::peer::Orders;
use super::session::Session;
use super::{Batch, Config, FloorError, Samples, timed};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "message-queue";
const NAME: &str = "POSIX message queue ping-pong";
/// Messages that a queue holds: one in flight, one that tells of the peer's death.
const QUEUE_MESSAGES: libc::c_long = 2;
/// Bytes of a message that a queue takes.
#[allow(clippy::cast_possible_wrap)] // 64
const MESSAGE_BYTES: libc::c_long = PAYLOAD_BYTES as libc::c_long;

/// The floor, open for rounds.
#[derive(Debug)]
pub struct MessageQueue {
    session: Session,
    requests: OwnedFd,
    replies: OwnedFd,
    calls: u64,
}

impl MessageQueue {
    /// Makes the queues and starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`], such as a kernel without POSIX message queues.
    pub fn open(config: &Config) -> Result<Self, FloorError> {
        let requests = open_queue()?;
        let replies = open_queue()?;
        let session = Session::open(NAME, ROLE, config, &[requests.as_fd(), replies.as_fd()], &[])?;
        Ok(Self { session, requests, replies, calls: 0 })
    }

    /// One round of calls.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let (requests, replies) = (self.requests.as_fd(), self.replies.as_fd());
        let calls = &mut self.calls;
        // An empty message can only come from here.
        let tell_of_death = || {
            let _ = send(replies, &[]);
        };
        self.session.round(batch.operations(), &tell_of_death, || {
            timed(batch, || {
                let mut message = [0_u8; PAYLOAD_BYTES];
                message[..8].copy_from_slice(&calls.to_ne_bytes());
                send(requests, &message).map_err(FloorError::system("send to a message queue"))?;
                let mut answer = [0_u8; PAYLOAD_BYTES];
                let received =
                    receive(replies, &mut answer).map_err(FloorError::system("receive from a message queue"))?;
                super::expect_echo(NAME, &message, answer.get(..received))?;
                *calls += 1;
                Ok(())
            })
        })
    }
}

impl Series for MessageQueue {
    fn label(&self) -> String {
        self.session.config().label(NAME)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let requests = orders.take_fd()?;
    let replies = orders.take_fd()?;
    orders.serve(|operations| {
        let mut message = [0_u8; PAYLOAD_BYTES];
        for _ in 0..operations {
            let received = receive(requests.as_fd(), &mut message)?;
            send(replies.as_fd(), message.get(..received).unwrap_or(&[]))?;
        }
        Ok(())
    })
}

/// Makes a queue whose name is gone when this returns.
fn open_queue() -> Result<OwnedFd, FloorError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("/praas-floor-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let name = CString::new(name).expect("a name of letters and digits");
    // SAFETY: all-zero is a valid mq_attr, a struct of integers.
    let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
    attributes.mq_maxmsg = QUEUE_MESSAGES;
    attributes.mq_msgsize = MESSAGE_BYTES;
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the name ends in NUL and the attributes outlive the call, which only reads both.
    let queue = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600 as libc::mode_t, &raw const attributes) };
    if queue < 0 {
        return Err(FloorError::system("open a POSIX message queue")(io::Error::last_os_error()));
    }
    // SAFETY: on Linux a queue descriptor is a file descriptor; this one was just opened and has no other owner.
    let queue = unsafe { OwnedFd::from_raw_fd(queue) };
    // SAFETY: the name ends in NUL.
    if unsafe { libc::mq_unlink(name.as_ptr()) } != 0 {
        return Err(FloorError::system("unlink a POSIX message queue")(io::Error::last_os_error()));
    }
    Ok(queue)
}

#[inline]
fn send(queue: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `message.len()` bytes, which the slice has.
    let sent = unsafe { libc::mq_send(queue.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[inline]
fn receive(queue: BorrowedFd<'_>, message: &mut [u8]) -> io::Result<usize> {
    let (address, length_bytes) = (message.as_mut_ptr(), message.len());
    // SAFETY: the kernel writes at most `length_bytes` bytes, which the slice has.
    let received = unsafe { libc::mq_receive(queue.as_raw_fd(), address.cast(), length_bytes, std::ptr::null_mut()) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}
