//! A POSIX message queue without a name: the name is unlinked as soon as the queue is open, so that nothing stays in the
//! system, and other processes get the descriptor.
//!
//! Sends and receives wait without a limit: those that use queues are bounded from outside, where the wait of a caller whose
//! peer has died is ended by [`Queue::end_wait`].

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::FloorError;

/// How long a caller may take to notice that its wait was ended.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How long [`Queue::end_wait`] waits for a further message before it looks again whether the caller has noticed.
const END_LOOK_PERIOD: Duration = Duration::from_millis(1);

/// The longest message that is thrown away: what the kernel allows at most by default.
const MESSAGE_BYTES_MAX: usize = 8192;

/// A queue, for both of its ends.
#[derive(Debug)]
pub struct Queue(OwnedFd);

impl Queue {
    /// Makes a queue that holds `messages` of at most `message_bytes` bytes.
    ///
    /// # Errors
    /// [`FloorError::System`], as for more than `/proc/sys/fs/mqueue/msg_max` or `msgsize_max` allow, or a kernel without
    /// POSIX message queues.
    pub fn create(messages: u32, message_bytes: usize) -> Result<Self, FloorError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("/praas-floor-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(name).expect("a name of letters and digits");
        // SAFETY: all-zero is a valid mq_attr, a struct of integers.
        let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
        attributes.mq_maxmsg = libc::c_long::from(messages);
        // What does not fit is far more than any kernel allows.
        attributes.mq_msgsize = libc::c_long::try_from(message_bytes).unwrap_or(libc::c_long::MAX);
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
        Ok(Self(queue))
    }

    /// Sends a message, asleep while the queue is full.
    ///
    /// # Errors
    /// The kernel's, as for a message that is too long.
    #[inline]
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: the kernel reads `message.len()` bytes, which the slice has.
        let sent = unsafe { libc::mq_send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Receives a message, asleep while there is none; how many bytes it has. `message` has room for any that the queue takes.
    ///
    /// # Errors
    /// The kernel's, as for too little room.
    #[inline]
    pub fn receive(&self, message: &mut [u8]) -> io::Result<usize> {
        let (address, room_bytes) = (message.as_mut_ptr(), message.len());
        // SAFETY: the kernel writes at most `room_bytes` bytes, which the slice has.
        let received = unsafe { libc::mq_receive(self.0.as_raw_fd(), address.cast(), room_bytes, ptr::null_mut()) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Waits until one of these has a message; which one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait_for_any(queues: &[&Self]) -> io::Result<usize> {
        let mut polled: Vec<PollFd<'_>> = queues.iter().map(|queue| PollFd::new(*queue, PollFlags::IN)).collect();
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        let ready = polled.iter().position(|fd| !fd.revents().is_empty());
        ready.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Sends a payload in messages of at most `message_bytes` bytes.
    ///
    /// # Errors
    /// As [`Queue::send`].
    #[inline]
    pub fn send_whole(&self, payload: &[u8], message_bytes: usize) -> io::Result<()> {
        payload.chunks(message_bytes).try_for_each(|message| self.send(message))
    }

    /// Receives a payload that was sent so, of `payload_bytes` bytes. `room` has as many, rounded up to whole messages.
    ///
    /// # Errors
    /// As [`Queue::receive`]; [`ErrorKind::UnexpectedEof`] if the wait was ended, [`ErrorKind::InvalidData`] for a message of
    /// another length than is due.
    #[inline]
    pub fn receive_whole(&self, room: &mut [u8], payload_bytes: usize, message_bytes: usize) -> io::Result<()> {
        let mut left = payload_bytes;
        for message in room.chunks_mut(message_bytes).take(payload_bytes.div_ceil(message_bytes)) {
            match self.receive(message)? {
                received if received == left.min(message_bytes) => left -= received,
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
        if left == 0 { Ok(()) } else { Err(ErrorKind::InvalidInput.into()) }
    }

    /// Ends the wait of a caller whose peers are dead: it sends to `requests` and receives from `self`. What it sends is thrown
    /// away until it has received the empty message that tells it so, which nobody else sends.
    pub fn end_wait(&self, requests: &Self) {
        let until = Instant::now() + END_PATIENCE;
        let mut is_told = false;
        while Instant::now() < until && !(is_told && self.waiting_messages() == 0) {
            is_told = is_told || self.send_at_once(&[]);
            requests.throw_one_away();
        }
    }

    fn waiting_messages(&self) -> libc::c_long {
        // SAFETY: all-zero is a valid mq_attr, a struct of integers.
        let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes the struct, which outlives the call.
        let asked = unsafe { libc::mq_getattr(self.0.as_raw_fd(), &raw mut attributes) };
        if asked == 0 { attributes.mq_curmsgs } else { 0 }
    }

    fn send_at_once(&self, message: &[u8]) -> bool {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel reads `message.len()` bytes, which the slice has, and the time, which outlives the call.
        let sent = unsafe {
            libc::mq_timedsend(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0, &raw const now)
        };
        sent == 0
    }

    /// Receives a message if one comes within [`END_LOOK_PERIOD`].
    fn throw_one_away(&self) {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let later = Duration::new(u64::try_from(clock.tv_sec).unwrap_or(0), u32::try_from(clock.tv_nsec).unwrap_or(0))
            + END_LOOK_PERIOD;
        let until = libc::timespec {
            tv_sec: libc::time_t::try_from(later.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(later.subsec_nanos()),
        };
        let mut message = vec![0_u8; MESSAGE_BYTES_MAX];
        let (address, room_bytes) = (message.as_mut_ptr(), message.len());
        // SAFETY: the kernel writes at most `room_bytes` bytes, which the vector has; the time outlives the call.
        let _ = unsafe {
            libc::mq_timedreceive(self.0.as_raw_fd(), address.cast(), room_bytes, ptr::null_mut(), &raw const until)
        };
    }
}

impl From<OwnedFd> for Queue {
    /// What another process made by [`Queue::create`].
    fn from(queue: OwnedFd) -> Self {
        Self(queue)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn messages_come_in_the_order_sent() {
        let queue = Queue::create(2, 64).expect("the kernel has message queues");
        queue.send(b"first").expect("there is room");
        queue.send(b"second").expect("there is room");
        let mut message = [0; 64];
        for expected in [&b"first"[..], b"second"] {
            let received = queue.receive(&mut message).expect("one is there");
            assert_eq!(&message[..received], expected);
        }
    }

    #[test]
    fn a_payload_comes_whole_and_only_as_long_as_is_due() {
        let queue = Queue::create(4, 64).expect("the kernel has message queues");
        let payload: Vec<u8> = (0..200).collect();
        let mut room = [0; 256];
        queue.send_whole(&payload, 64).expect("there is room");
        queue.receive_whole(&mut room, payload.len(), 64).expect("it is there");
        assert_eq!(room[..payload.len()], payload);
        queue.send(b"short").expect("there is room");
        let error = queue.receive_whole(&mut room, 64, 64).expect_err("64 bytes were due");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_caller_whose_peer_is_dead_is_freed_wherever_it_waits() {
        let [requests, replies] = [(); 2].map(|()| Queue::create(2, 64).expect("the kernel has message queues"));
        thread::scope(|scope| {
            let caller = scope.spawn(|| {
                for number in 0..20_u8 {
                    requests.send(&[number]).expect("it is thrown away");
                }
                replies.receive(&mut [0; 64]).expect("it is told")
            });
            replies.end_wait(&requests);
            assert_eq!(caller.join().expect("no panic"), 0);
        });
    }
}
