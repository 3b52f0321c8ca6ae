//! Whether this host grants io_uring, found out by using it.

use rustix::io::Errno;

use super::io_uring::{BufferRing, Ring};
use super::pool::ReceivePool;
use super::{DriverLimits, IoUringRefusal};

/// What a host grants of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoUringGrant {
    /// Completions are worked off when the driver asks for them, not whenever the kernel returns to it (Linux 6.1).
    pub deferred: bool,
}

/// Opens a small ring, makes it do nothing once, and closes it.
///
/// # Errors
/// Why the host refuses.
pub fn probe() -> Result<IoUringGrant, IoUringRefusal> {
    let limits = DriverLimits {
        receive_buffers: 2,
        receive_buffer_bytes: 64,
        submission_entries: 2,
        completion_entries: 4,
        ..DriverLimits::default()
    };
    let mut ring = Ring::open(&limits)?;
    let buffers = BufferRing::register(&ring, ReceivePool::new(&limits))?;
    ring.try_nothing()?;
    buffers.unregister(&ring);
    Ok(IoUringGrant { deferred: ring.deferred() })
}

/// What the failure of one of io_uring's calls says about the host.
pub(super) fn refusal(call: &'static str, errno: Errno) -> IoUringRefusal {
    match errno {
        Errno::NOSYS => IoUringRefusal::Unsupported,
        Errno::PERM | Errno::ACCESS => match setting() {
            0 => IoUringRefusal::Filtered,
            setting => IoUringRefusal::Disabled { setting },
        },
        Errno::INVAL => {
            IoUringRefusal::TooOld { lacking: "cooperative task work or rings of provided buffers", since: "5.19" }
        }
        errno => IoUringRefusal::Call { call, errno },
    }
}

/// `kernel.io_uring_disabled`; 0 on kernels before 6.6, which do not have it.
fn setting() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
