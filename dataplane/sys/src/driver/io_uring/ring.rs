//! The ring itself: set up with what the kernel has, filled without ever refusing an entry, handed over in one call.
//!
//! An entry that finds the submission queue full makes the ring hand it over at once; what the kernel does not take even
//! then waits in `backlog`, which is bounded by the operations that the sources may have, and goes first next time.
//! Completions that the completion queue cannot hold are kept by the kernel (all kernels that get here do) until the next
//! call, which is made as soon as the queue's flag says so.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use ::io_uring::types::{SubmitArgs, Timespec};
use ::io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use crate::driver::probe::refusal;
use crate::driver::{DriverLimits, IoUringRefusal, SourceId};

/// Which of a source's operations an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum Operation {
    Receive = 0,
    Send = 1,
    Listen = 2,
    Watch = 3,
    Waker = 4,
}

/// What an entry is, as its user data says: an operation of a source, or the cancellation of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) operation: Operation,
    pub(super) is_cancellation: bool,
    pub(super) id: SourceId,
}

impl Label {
    /// The lower three bits are the operation, the next says whether it is a cancellation, 28 are the source's index, and
    /// the upper 32 its generation.
    const CANCELLATION: u64 = 1 << 3;
    const INDEX_SHIFT: u32 = 4;

    pub(super) fn user_data(self) -> u64 {
        let cancellation = if self.is_cancellation { Self::CANCELLATION } else { 0 };
        let SourceId { index, generation } = self.id;
        u64::from(generation) << 32 | u64::from(index) << Self::INDEX_SHIFT | cancellation | self.operation as u64
    }

    pub(super) fn of(user_data: u64) -> Option<Self> {
        let operation = match user_data & 7 {
            0 => Operation::Receive,
            1 => Operation::Send,
            2 => Operation::Listen,
            3 => Operation::Watch,
            4 => Operation::Waker,
            _ => return None,
        };
        let low = u32::try_from(user_data & u64::from(u32::MAX)).ok()?;
        let generation = u32::try_from(user_data >> 32).ok()?;
        let id = SourceId { index: low >> Self::INDEX_SHIFT, generation };
        Some(Self { operation, is_cancellation: user_data & Self::CANCELLATION != 0, id })
    }
}

/// A completion, as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finished {
    pub(super) user_data: u64,
    /// Usually a number of bytes.
    pub(super) result: Result<usize, Errno>,
    /// The receive buffer that the kernel took.
    pub(super) buffer: Option<u16>,
    /// Whether the socket has more bytes already.
    pub(super) more_bytes: bool,
}

pub(in crate::driver) struct Ring {
    ring: IoUring,
    backlog: VecDeque<squeue::Entry>,
    deferred: bool,
}

impl Ring {
    pub(in crate::driver) fn open(limits: &DriverLimits) -> Result<Self, IoUringRefusal> {
        let build = |deferred: bool| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(limits.completion_entries).setup_taskrun_flag().dontfork();
            if deferred {
                builder.setup_single_issuer().setup_defer_taskrun();
            } else {
                builder.setup_coop_taskrun();
            }
            builder.build(limits.submission_entries).map_err(|error| errno_of(&error))
        };
        let (ring, deferred) = match build(true) {
            Ok(ring) => (ring, true),
            // A kernel before 6.1.
            Err(Errno::INVAL) => (build(false).map_err(|errno| refusal("io_uring_setup", errno))?, false),
            Err(errno) => return Err(refusal("io_uring_setup", errno)),
        };
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(IoUringRefusal::TooOld { lacking: "kept completions or timed waits", since: "5.11" });
        }
        Ok(Self { ring, backlog: VecDeque::new(), deferred })
    }

    pub(in crate::driver) fn deferred(&self) -> bool {
        self.deferred
    }

    pub(super) fn registrar(&self) -> ::io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Hands an operation over that does nothing: a filter may allow setting a ring up, but not using it.
    pub(in crate::driver) fn try_nothing(&mut self) -> Result<(), IoUringRefusal> {
        let id = SourceId { index: 0, generation: 0 };
        let label = Label { operation: Operation::Waker, is_cancellation: true, id };
        // SAFETY: the operation names no memory.
        unsafe { self.push(&opcode::Nop::new().build(), label) };
        self.sleep(Some(Duration::from_secs(1))).map_err(|errno| refusal("io_uring_enter", errno))?;
        self.take_finished(&mut Vec::new(), usize::MAX);
        Ok(())
    }

    /// Writes an entry, to be handed over with the next call.
    ///
    /// # Safety
    /// Memory and descriptors that the entry names must stay as they are until its final completion.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry, label: Label) {
        let entry = entry.clone().user_data(label.user_data());
        if !self.backlog.is_empty() || self.ring.submission().is_full() {
            let _ = self.ring.submit();
            self.push_backlog();
        }
        // SAFETY: the caller's promise.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    fn push_backlog(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever wrote the entry has promised that what it names stays.
            if unsafe { submission.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Hands over what was written and works off what is due, without sleeping; no call at all if there is nothing.
    pub(super) fn hand_over(&mut self) -> Result<(), Errno> {
        self.push_backlog();
        let submission = self.ring.submission();
        let is_due = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if !is_due {
            return Ok(());
        }
        tolerate(self.ring.submit().map_err(|error| errno_of(&error)))
    }

    /// As [`hand_over`](Self::hand_over), and sleeps until something completes or `timeout` has passed.
    pub(super) fn sleep(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        self.push_backlog();
        if !self.backlog.is_empty() {
            return self.hand_over();
        }
        let entered = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        tolerate(entered.map_err(|error| errno_of(&error)))
    }

    pub(super) fn has_finished(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Moves at most `count_max` completions out of the completion queue.
    pub(super) fn take_finished(&mut self, finished: &mut Vec<Finished>, count_max: usize) {
        for entry in self.ring.completion().take(count_max) {
            let flags = entry.flags();
            finished.push(Finished {
                user_data: entry.user_data(),
                result: usize::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result())),
                buffer: cqueue::buffer_select(flags),
                more_bytes: cqueue::sock_nonempty(flags),
            });
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Interruptions, timeouts and a completion queue that has to be emptied first are no errors: what was not handed over
/// goes with the next call.
fn tolerate(entered: Result<usize, Errno>) -> Result<(), Errno> {
    match entered {
        Ok(_) | Err(Errno::INTR | Errno::TIME | Errno::BUSY | Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_operation_and_source_and_nothing_else() {
        let operations = [Operation::Receive, Operation::Send, Operation::Listen, Operation::Watch, Operation::Waker];
        for (index, generation) in [(0, 0), (1, u32::MAX), ((1 << 28) - 1, 0), ((1 << 28) - 1, u32::MAX)] {
            for operation in operations {
                for is_cancellation in [false, true] {
                    let label = Label { operation, is_cancellation, id: SourceId { index, generation } };
                    assert_eq!(Label::of(label.user_data()), Some(label));
                }
            }
        }
        assert_eq!(Label::of(7), None);
    }
}
