//! What all shards know.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::token::Secret;

use crate::elsewhere::{Elsewhere, Peer};
use crate::limits::WINDOW_BYTES_MIN;
use crate::log::Log;
use crate::network::generations::Generations;
use crate::sessions::SessionNews;

/// What all shards know.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) secret: Secret,
    pub(crate) incarnation: u64,
    pub(crate) host_id: [u8; 16],
    /// The server's own socket.
    pub(crate) socket_path: PathBuf,
    /// The largest limit of all applications.
    pub(crate) payload_bytes_max: u32,
    /// Time in which a connection must say hello.
    pub(crate) client_hello: Duration,
    pub(crate) wait: WaitMode,
    /// Connections that one shard serves at a time.
    pub(crate) connections_max: usize,
    pub(crate) log: Log,
    pub(crate) connections: AtomicU64,
    pub(crate) generations: Generations,
    pub(crate) elsewhere: Arc<Elsewhere>,
    pub(crate) session_news: Arc<SessionNews>,
    /// Servers to be linked to.
    pub(crate) peers: Vec<Peer>,
}

impl Plan {
    /// Payload bytes that one connection may have unanswered.
    pub(super) fn window_bytes(&self) -> u64 {
        u64::from(self.payload_bytes_max).max(WINDOW_BYTES_MIN)
    }

    pub(super) fn next_connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }
}
