//! Limits of the SDK alone. Limits that other crates share are in [`praas_protocol::limits`].

use std::num::NonZeroUsize;
use std::time::Duration;

/// Pointers that a typed input may nest. Validation recurses once a pointer; 128 levels fit any thread's stack, and data
/// made by people stays far below it.
pub const ARCHIVE_DEPTH_MAX: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// Bytes of the private output buffer of a new worker: one page, which nearly all replies fit.
pub(crate) const PRIVATE_OUTPUT_BYTES_START: usize = 4096;

/// Bytes of private output buffer kept from call to call: large replies are rare, and workers are many.
pub(crate) const PRIVATE_OUTPUT_BYTES_KEPT: usize = 4 << 20;

/// Time from the worker's hello to its start message, and from a message's announcement to the message itself. The server
/// answers in microseconds; a server that needs longer is stopped or gone.
pub(crate) const SERVER_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Lanes reported rung by one wait; further ones are reported by the next.
pub(crate) const EVENTS_PER_WAIT: usize = 64;

/// Longest sleep of an idle worker. Every ring wakes it earlier; this one wake a minute costs nothing and ends a sleep that
/// a peer caused by breaking the doorbell's protocol.
pub(crate) const PARK_MAX: Duration = Duration::from_secs(60);
