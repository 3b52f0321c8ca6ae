//! The machine's floors: what two processes can do at best with each mechanism. Each exists once; bars, demo and
//! reports compare with these.
//!
//! A floor is opened ([`PingPong::open`] …), which starts its other side as a process of its own, and then measured
//! round by round; between rounds its peer sleeps. The functions below measure one round and close.
//!
//! What is timed: the caller reads the clock once between two operations and stores it ([`timed`]); the reading's cost
//! ([`Clock::reading_cost_ns`]) is part of every span, for floors and figures alike. Nothing else is in the loop: peers
//! that die and rounds that overrun are dealt with by a sleeping thread beside it (`watch.rs`).

mod background;
mod bare_ring;
mod bulk;
mod cell;
mod clock;
#[cfg(feature = "bars")]
mod disk;
mod error;
mod mapping;
mod message_queue;
mod one_way;
mod payload_echo;
mod peer;
mod ping_pong;
mod placement;
mod pointer_chase;
mod queue;
#[cfg(feature = "bars")]
mod redis;
#[cfg(feature = "bars")]
mod redis_get;
#[cfg(feature = "bars")]
mod redis_queue;
#[cfg(feature = "bars")]
mod redis_unix;
mod rotating_copy;
mod samples;
mod serve;
mod session;
#[cfg(feature = "bars")]
mod shared_memory_crate;
mod spawn;
mod synced_writes;
mod tcp;
mod unix_stream;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use background::{Background, Spinning};
pub use bare_ring::{BareRing, CALLS_PER_SAMPLE, IN_FLIGHT};
pub use bulk::{Blocks, Copy, CopyFromPeer, Touched, expected_sum, fill, is_filled, sum};
pub use clock::Clock;
#[cfg(feature = "bars")]
pub use disk::{SequentialFile, drop_cached_files};
pub use error::FloorError;
pub use message_queue::MessageQueue;
pub use one_way::OneWay;
pub use payload_echo::{Medium, PayloadEcho, QUEUE_MESSAGE_BYTES, QUEUE_MESSAGES};
pub use peer::Orders;
pub use ping_pong::{PingPong, Waiting};
pub use placement::{Pinned, Placement, allowed_cpus};
pub use pointer_chase::PointerChase;
pub use queue::Queue;
#[cfg(feature = "bars")]
pub use redis::Redis;
#[cfg(feature = "bars")]
pub use redis_get::RedisGet;
#[cfg(feature = "bars")]
pub use redis_queue::{RedisPlacement, RedisQueue};
pub use rotating_copy::RotatingCopy;
pub use samples::{Batch, Samples, timed, timed_groups, timed_spans};
pub use serve::{serve_peer_if_asked, serve_peer_if_asked_with};
pub use session::Session;
#[cfg(feature = "bars")]
pub use shared_memory_crate::SharedMemoryCrate;
pub use spawn::{Spawn, TRIVIAL_PROGRAM};
pub use synced_writes::SyncedWrites;
pub use tcp::{
    Crowd, EchoServer, Exchange, FRAME_BYTES, Load, Taken, TcpBlock, TcpBlocks, TcpCrowd, TcpEcho, allow_connections,
    connect,
};
pub use unix_stream::UnixSocket;

use session::batch_of;

/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Samples of a round unless configured: enough for a 99.9th percentile.
const SAMPLES_DEFAULT: u64 = 20_000;
/// Warm-up of a round unless configured.
const WARM_UP_DEFAULT: u64 = 1_000;
/// The longest round unless configured.
const ROUND_DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// How a floor is measured.
///
/// ```
/// use praas_benches::floors::{Config, Placement};
/// let config = Config::new(Placement::Free).samples(2_000).warm_up(200);
/// assert_eq!(config.label("ping-pong"), "ping-pong, free");
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    placement: Placement,
    background_cpu: Option<usize>,
    samples: u64,
    warm_up: u64,
    round_deadline: Duration,
    peer_program: PathBuf,
}

impl Config {
    /// 20,000 samples after 1,000 operations of warm-up, nothing beside it.
    #[must_use]
    pub fn new(placement: Placement) -> Self {
        Self {
            placement,
            background_cpu: None,
            samples: SAMPLES_DEFAULT,
            warm_up: WARM_UP_DEFAULT,
            round_deadline: ROUND_DEADLINE_DEFAULT,
            peer_program: PathBuf::from(THIS_PROGRAM),
        }
    }

    /// The same elsewhere.
    #[must_use]
    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Samples of the one-round functions.
    #[must_use]
    pub fn samples(mut self, samples: u64) -> Self {
        self.samples = samples;
        self
    }

    /// Unrecorded operations of the one-round functions.
    #[must_use]
    pub fn warm_up(mut self, warm_up: u64) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// Keeps `cpu` busy with an unrelated process during every round.
    #[must_use]
    pub fn beside_spinner(mut self, cpu: usize) -> Self {
        self.background_cpu = Some(cpu);
        self
    }

    /// The longest that a round may take; then its peer is killed and the round fails.
    #[must_use]
    pub fn round_deadline(mut self, deadline: Duration) -> Self {
        self.round_deadline = deadline;
        self
    }

    /// The program whose `main` calls [`serve_peer_if_asked`]; this one unless given.
    #[must_use]
    pub fn peer_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.peer_program = program.into();
        self
    }

    /// Where both sides run.
    #[must_use]
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// `name` with the placement, and the spinner if there is one.
    #[must_use]
    pub fn label(&self, name: &str) -> String {
        format!("{name}, {}", self.placement_label())
    }

    /// The placement, and the spinner if there is one.
    #[must_use]
    pub fn placement_label(&self) -> String {
        match self.background_cpu {
            Some(cpu) => format!("{}, spinner on core {cpu}", self.placement),
            None => self.placement.to_string(),
        }
    }
}

/// 64 bytes to another process and back through shared memory, both sides spinning.
///
/// # Errors
/// Any [`FloorError`]; one core is refused.
pub fn spin_ping_pong(config: &Config) -> Result<Samples, FloorError> {
    PingPong::open(Waiting::Spin, config)?.round(batch_of(config))
}

/// The same, both sides sleeping on a futex.
///
/// # Errors
/// Any [`FloorError`].
pub fn futex_ping_pong(config: &Config) -> Result<Samples, FloorError> {
    PingPong::open(Waiting::Park, config)?.round(batch_of(config))
}

/// 64 bytes there and back through two POSIX message queues.
///
/// # Errors
/// Any [`FloorError`].
pub fn message_queue_ping_pong(config: &Config) -> Result<Samples, FloorError> {
    MessageQueue::open(config)?.round(batch_of(config))
}

/// 64 bytes there and back through a Unix stream socket.
///
/// # Errors
/// Any [`FloorError`].
pub fn unix_stream_ping_pong(config: &Config) -> Result<Samples, FloorError> {
    UnixSocket::open(config)?.round(batch_of(config))
}

/// 64 bytes there and back over TCP on loopback; [`Waiting::Park`] sleeps in blocking calls.
///
/// # Errors
/// Any [`FloorError`]; spinning on one core is refused.
pub fn tcp_echo(waiting: Waiting, config: &Config) -> Result<Samples, FloorError> {
    TcpEcho::open(waiting, config)?.round(batch_of(config))
}

/// A block filled, received whole, sent back over TCP on loopback, and checked.
///
/// # Errors
/// Any [`FloorError`].
pub fn tcp_block(config: &Config, block_bytes: usize) -> Result<Samples, FloorError> {
    TcpBlock::open(block_bytes, config)?.round(batch_of(config))
}

/// Blocks sent over TCP on loopback in one direction.
///
/// # Errors
/// Any [`FloorError`].
pub fn tcp_blocks(config: &Config, block_bytes: usize) -> Result<Samples, FloorError> {
    TcpBlocks::open(block_bytes, config)?.round(batch_of(config))
}

/// Frames echoed on many TCP connections; a sample spans [`Crowd::calls_per_sample`] of them.
///
/// # Errors
/// Any [`FloorError`].
pub fn tcp_crowd(server: EchoServer, crowd: Crowd, config: &Config) -> Result<Samples, FloorError> {
    TcpCrowd::open(server, crowd, config)?.round(batch_of(config))
}

/// The spinning ping-pong over a segment of the `shared_memory` crate.
///
/// # Errors
/// Any [`FloorError`]; one core is refused.
#[cfg(feature = "bars")]
pub fn shared_memory_crate_ping_pong(config: &Config) -> Result<Samples, FloorError> {
    SharedMemoryCrate::open(config)?.round(batch_of(config))
}

/// Pipelined 64-byte calls over a bare ring; a sample spans [`CALLS_PER_SAMPLE`] calls.
///
/// # Errors
/// Any [`FloorError`]; one core is refused.
pub fn bare_ring(config: &Config) -> Result<Samples, FloorError> {
    BareRing::open(config)?.round(batch_of(config))
}

/// A copy from shared into private memory.
///
/// # Errors
/// Any [`FloorError`].
pub fn copy(config: &Config, blocks: Blocks) -> Result<Samples, FloorError> {
    Copy::open(config, blocks)?.round(batch_of(config))
}

/// A copy into private memory of a block that another core has just filled.
///
/// # Errors
/// Any [`FloorError`]; one core is refused.
pub fn copy_from_peer(config: &Config, blocks: Blocks) -> Result<Samples, FloorError> {
    CopyFromPeer::open(config, blocks)?.round(batch_of(config))
}

/// A block filled by one side, summed by the other, answered and checked.
///
/// # Errors
/// Any [`FloorError`]; one core is refused.
pub fn touched(config: &Config, blocks: Blocks) -> Result<Samples, FloorError> {
    Touched::open(config, blocks)?.round(batch_of(config))
}

/// vfork, exec, exit and wait of [`TRIVIAL_PROGRAM`].
///
/// # Errors
/// Any [`FloorError`].
pub fn spawn(config: &Config) -> Result<Samples, FloorError> {
    Spawn::open(config, Path::new(TRIVIAL_PROGRAM))?.round(batch_of(config))
}

/// Checks a message floor's answer.
#[inline]
fn expect_echo(floor: &'static str, message: &[u8], answer: Option<&[u8]>) -> Result<(), FloorError> {
    if answer == Some(message) {
        return Ok(());
    }
    let first_word = |bytes: &[u8]| bytes.first_chunk().map_or(u64::MAX, |word| u64::from_ne_bytes(*word));
    Err(FloorError::WrongAnswer { floor, expected: first_word(message), answer: answer.map_or(u64::MAX, first_word) })
}
