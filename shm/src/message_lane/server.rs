//! The server's view of a message lane: it makes it, hands it out, and tells when it can go.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use praas_protocol::control::MessageLaneGeometry;

use super::entry::{arrived, entry_at, stamp_of};
use super::inbound::Inbound;
use super::memory::MessageLaneMemory;
use crate::segment::AttachError;
use crate::sync::Ordering;

/// A message lane as the server holds it.
#[derive(Debug)]
pub struct ServerMessageLane {
    memory: Arc<MessageLaneMemory>,
}

impl ServerMessageLane {
    /// A fresh lane.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory; `InvalidInput` for a geometry that no lane can have.
    pub fn create(geometry: MessageLaneGeometry) -> io::Result<Self> {
        Ok(Self { memory: Arc::new(MessageLaneMemory::create(&geometry)?) })
    }

    /// A lane of a server before, as the keeper held it.
    ///
    /// # Errors
    /// [`AttachError`] when the descriptor is not a message lane of this geometry.
    pub fn attach(fd: OwnedFd, geometry: &MessageLaneGeometry) -> Result<Self, AttachError> {
        Ok(Self { memory: Arc::new(MessageLaneMemory::attach(fd, geometry)?) })
    }

    /// The descriptor, for sender, receivers and keeper.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.segment().fd()
    }

    /// A receiver's end, for a server that takes what lies in the lane; see [`crate::swap`].
    #[must_use]
    pub fn inbound(&self) -> Inbound {
        Inbound::over(Arc::clone(&self.memory))
    }

    /// Sizes of the lane.
    #[must_use]
    pub fn geometry(&self) -> MessageLaneGeometry {
        self.memory.geometry()
    }

    /// Bytes that are backed by memory now; the rest is sparse.
    ///
    /// # Errors
    /// The system's.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        self.memory.segment().allocated_bytes()
    }

    /// Whether the receiver has taken all messages and given back all blocks. To be asked once the sender has ended: what
    /// it still publishes would be overlooked. Junk in the lane makes any answer.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let consumed = self.memory.room().consumed();
        arrived(self.memory.entries(), consumed).is_none() && !self.has_blocks_out()
    }

    /// Whether a published message's block was not given back.
    fn has_blocks_out(&self) -> bool {
        let tables = self.memory.lent().iter().zip(self.memory.released());
        tables.into_iter().any(|(lent, released)| {
            let stamp = lent.load(Ordering::Acquire);
            released.load(Ordering::Acquire) != stamp && self.was_published(stamp)
        })
    }

    /// Whether the sender got as far as publishing this stamp.
    fn was_published(&self, stamp: u64) -> bool {
        let entry = entry_at(self.memory.entries(), stamp.wrapping_sub(1));
        debug_assert_eq!(stamp_of(stamp.wrapping_sub(1)), stamp);
        entry.was_published(stamp)
    }
}
