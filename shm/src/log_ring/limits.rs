//! Every maximum of the log ring, with its unit and its reason.

use std::time::Duration;

use crate::mailbox::MESSAGES_BOUND;

/// Bytes of a ring that nobody chose: a disk that takes 400 MiB a second drains it in 10 ms.
pub const LOG_BYTES_DEFAULT: u64 = 4 << 20;
/// Bytes of the smallest ring: some of the largest records fit.
pub const LOG_BYTES_MIN: u64 = 1 << 20;
/// Bytes of the largest ring.
pub const LOG_BYTES_MAX: u64 = 1 << 30;
/// Bytes of a value or payload that go into its own record at most: copied under the lock in some ten microseconds.
pub const PIECE_BYTES: usize = 64 << 10;
/// Waits for a log that take longer on the whole do not poll: a disk behind a network, where a wake costs little beside it.
pub(super) const POLLED_WAIT_MAX: Duration = Duration::from_millis(1);
/// Bytes of a record. The largest ones name all messages of a full mailbox that one call has accepted, in words.
pub(super) const RECORD_BYTES_MAX: usize = 256 << 10;

const _: () = {
    assert!(LOG_BYTES_MIN.is_power_of_two() && LOG_BYTES_DEFAULT.is_power_of_two() && LOG_BYTES_MAX.is_power_of_two());
    assert!((MESSAGES_BOUND + 8) * 8 <= RECORD_BYTES_MAX as u64 && PIECE_BYTES + 1024 <= RECORD_BYTES_MAX);
    assert!(LOG_BYTES_MIN >= 4 * RECORD_BYTES_MAX as u64);
};
