//! The sender's end of a message lane: of one worker, which is single-threaded.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::limits::PARKED_CHECK_MS;
use praas_protocol::{Key, MessageId};

use super::blocks::Blocks;
use super::entry::{self, Entry, stamp_of};
use super::error::SendError;
use super::loan::{Lender, MessageLoan};
use super::memory::MessageLaneMemory;
use super::shape::{KEY_BYTES_BESIDE_BLOCK, Kind, Shape, is_inline};
use crate::arena::Block;
use crate::copy;
use crate::fault::{self, Step};
use crate::mail_bell::MailBell;
use crate::segment::AttachError;
use crate::sync::{Ordering, prefetch_for_write};

/// The share of the ring, one part in so many, that a sender sleeps for once it has filled all of it.
const ROOM_SHARE: u64 = 8;

/// The sender's end of a message lane. A lane has one in its life.
#[derive(Debug)]
pub struct Outbound {
    lender: Arc<Lender>,
    bell: MailBell,
    /// Next position to publish.
    tail: u64,
    /// What is consumed, as last believed.
    consumed: u64,
    blocks: Blocks,
    /// Whether a receiver was woken since that was asked last.
    has_woken: bool,
}

/// What a sender waits for room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanting {
    /// [`Outbound::try_send`] of a message of these sizes.
    Message {
        /// Bytes of its key.
        key_bytes: usize,
        /// Bytes of its payload.
        payload_bytes: usize,
    },
    /// [`Outbound::loan`].
    Loan {
        /// Bytes of the payload.
        bytes: usize,
    },
    /// [`Outbound::send_loan`].
    SendLoan,
}

impl Outbound {
    /// Worker: the sender's end of a fresh lane that the server made for it, and the bell of its receiver.
    ///
    /// # Errors
    /// [`AttachError`] when the descriptor is not a message lane of this geometry.
    pub fn attach(fd: OwnedFd, geometry: &MessageLaneGeometry, bell: MailBell) -> Result<Self, AttachError> {
        let memory = MessageLaneMemory::attach(fd, geometry)?;
        let blocks = Blocks::new(geometry.arena_bytes as usize, geometry.blocks);
        Ok(Self { lender: Arc::new(Lender::new(memory)), bell, tail: 0, consumed: 0, blocks, has_woken: false })
    }

    /// Bytes of the largest payload that the lane can carry.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.memory().geometry().arena_bytes as usize
    }

    /// The bell of the receiver.
    #[must_use]
    pub fn bell(&self) -> &MailBell {
        &self.bell
    }

    /// Whether what was sent since this was asked last has woken a receiver that slept. One that waits for the sender's core
    /// runs only when the sender leaves it.
    #[inline]
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.has_woken)
    }

    /// Messages sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.tail
    }

    #[inline]
    fn memory(&self) -> &MessageLaneMemory {
        &self.lender.memory
    }

    /// Publishes a message, and wakes the receiver if it sleeps. It has been accepted when this returns.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    #[inline]
    pub fn try_send(&mut self, id: MessageId, key: Key<'_>, payload: &[u8]) -> Result<(), SendError> {
        self.ensure_entry()?;
        let text = key.as_str().as_bytes();
        if !is_inline(text.len(), payload.len()) {
            return self.send_in_block(id, text, payload);
        }
        self.publish(id, Shape::of(text, payload.len(), Kind::Inline), |entry| {
            let payload_words = text.len().div_ceil(8);
            copy::store_inline(text, &entry.text);
            copy::store_inline(payload, &entry.text[payload_words..]);
        })
    }

    fn send_in_block(&mut self, id: MessageId, key: &[u8], payload: &[u8]) -> Result<(), SendError> {
        let (descriptor, block) = self.lend(payload.len())?;
        fault::point(Step::MessageBlockLent);
        let place = self.memory().arena_bytes(block.offset, length(payload));
        // SAFETY: the range lies inside the arena of the mapping (`arena_bytes` checks), and the block is this message's.
        unsafe { copy::to_shared(payload, place) };
        self.publish_block(id, key, descriptor, block, payload.len())
    }

    /// A block to build a payload of `bytes` in.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] for ever, [`SendError::ArenaFull`] for now.
    pub fn loan(&mut self, bytes: usize) -> Result<MessageLoan, SendError> {
        let (descriptor, block) = self.lend(bytes)?;
        let bytes = u32::try_from(bytes).expect("what was lent lies in an arena of 32 bits");
        Ok(MessageLoan { lender: Arc::clone(&self.lender), block, descriptor, bytes, is_sent: false })
    }

    /// Publishes what was built in a loan, as [`Outbound::try_send`] does.
    ///
    /// # Errors
    /// The loan comes back, with [`SendError::LaneFull`] or [`SendError::Closed`].
    ///
    /// # Panics
    /// If another lane lent it.
    pub fn send_loan(
        &mut self,
        mut loan: MessageLoan,
        id: MessageId,
        key: Key<'_>,
    ) -> Result<(), (MessageLoan, SendError)> {
        assert!(Arc::ptr_eq(&loan.lender, &self.lender), "the loan is another lane's");
        if let Err(error) = self.ensure_entry() {
            return Err((loan, error));
        }
        match self.publish_block(id, key.as_str().as_bytes(), loan.descriptor, loan.block, loan.len()) {
            Ok(()) => {
                loan.is_sent = true;
                Ok(())
            }
            Err(error) => Err((loan, error)),
        }
    }

    /// Sleeps once, unless there is room, until the receiver has made some, at most for `timeout` and [`PARKED_CHECK_MS`].
    /// Returns whether there is room now; the caller looks at what else may have happened, and calls again.
    ///
    /// A sender that has filled the ring is woken when an eighth of it is free, and finds less when it looks by itself.
    pub fn wait_for_room(&mut self, wanting: Wanting, timeout: Duration) -> bool {
        let lender = Arc::clone(&self.lender);
        let entries = lender.memory.entries().len() as u64;
        let wanted = if self.has_entry() { 0 } else { self.tail - entries + (entries / ROOM_SHARE).max(1) };
        let timeout = timeout.min(Duration::from_millis(PARKED_CHECK_MS));
        lender.memory.room().sleep_for_room(wanted, timeout, || self.has_room(wanting))
    }

    /// Whether there is room now. Answers for a payload that never fits are no.
    #[must_use]
    pub fn has_room(&mut self, wanting: Wanting) -> bool {
        match wanting {
            Wanting::SendLoan => self.has_entry(),
            Wanting::Loan { bytes } => self.has_block(bytes),
            Wanting::Message { key_bytes, payload_bytes } => {
                self.has_entry() && (is_inline(key_bytes, payload_bytes) || self.has_block(payload_bytes))
            }
        }
    }

    fn has_block(&mut self, bytes: usize) -> bool {
        self.take_given_back();
        self.blocks.has_room(bytes, self.lender.memory.released())
    }

    #[inline]
    fn has_entry(&mut self) -> bool {
        let entries = self.memory().entries().len() as u64;
        if self.tail - self.consumed < entries {
            return true;
        }
        // A claim of the receiver's: believed only where it can be true.
        let consumed = self.memory().room().consumed();
        if (self.consumed..=self.tail).contains(&consumed) {
            self.consumed = consumed;
        }
        self.tail - self.consumed < entries
    }

    #[inline]
    fn ensure_entry(&mut self) -> Result<(), SendError> {
        if self.has_entry() { Ok(()) } else { Err(SendError::LaneFull { entries: self.memory().geometry().entries }) }
    }

    fn take_given_back(&mut self) {
        for descriptor in self.lender.take_given_back() {
            self.blocks.give_back(descriptor);
        }
    }

    fn lend(&mut self, bytes: usize) -> Result<(u16, Block), SendError> {
        let limit_bytes = self.payload_bytes_max();
        if bytes > limit_bytes {
            return Err(SendError::TooLarge { bytes, limit_bytes });
        }
        self.take_given_back();
        self.blocks.lend(bytes, self.lender.memory.released()).ok_or_else(|| SendError::ArenaFull {
            wanted_bytes: bytes,
            largest_free_bytes: self.blocks.largest_free_bytes(),
            blocks_in_use: self.blocks.in_use(),
            blocks: self.lender.memory.released().len(),
        })
    }

    fn publish_block(
        &mut self,
        id: MessageId,
        key: &[u8],
        descriptor: u16,
        block: Block,
        bytes: usize,
    ) -> Result<(), SendError> {
        let stamp = stamp_of(self.tail);
        let memory = &self.lender.memory;
        let (beside, end) = key.split_at(key.len().min(KEY_BYTES_BESIDE_BLOCK));
        copy::store_inline(end, &memory.key_ends()[usize::from(descriptor)].0);
        // Published with the entry's stamp. A sender that dies between the two has named a message that never was, which the
        // server tells by the ring.
        memory.lent()[usize::from(descriptor)].store(stamp, Ordering::Relaxed);
        fault::point(Step::MessageBlockNamed);
        self.blocks.sent(descriptor, stamp);
        self.publish(id, Shape::of(key, bytes, Kind::Block { descriptor }), |entry| {
            entry.text[0].store(block.offset.into(), Ordering::Relaxed);
            copy::store_inline(beside, &entry.text[1..]);
        })
    }

    #[inline]
    fn publish(&mut self, id: MessageId, shape: Shape, fill: impl FnOnce(&Entry)) -> Result<(), SendError> {
        let is_published = entry::publish(self.memory().entries(), self.tail, |entry| {
            entry.incarnation.store(id.incarnation, Ordering::Relaxed);
            entry.sequence.store(id.sequence, Ordering::Relaxed);
            entry.shape.store(shape.word(), Ordering::Relaxed);
            fault::point(Step::MessageHalfWritten);
            fill(entry);
        });
        if !is_published {
            return Err(closed(self.tail));
        }
        self.tail += 1;
        fault::point(Step::MessagePublished);
        self.has_woken |= self.bell.ring_if_parked_after_exchange();
        // Of the next entry, the second line alone: the first is polled by the receiver, and would be taken from it.
        prefetch_for_write(entry::entry_at(self.memory().entries(), self.tail).second_line());
        Ok(())
    }
}

#[cold]
fn closed(accepted: u64) -> SendError {
    SendError::Closed { accepted }
}

impl Shape {
    #[inline]
    fn of(key: &[u8], payload_bytes: usize, kind: Kind) -> Self {
        Self {
            payload_bytes: u32::try_from(payload_bytes).expect("it fits an arena of 32 bits"),
            key_bytes: u8::try_from(key.len()).expect("a key has at most 255 bytes"),
            kind,
        }
    }
}

fn length(payload: &[u8]) -> u32 {
    u32::try_from(payload.len()).expect("what was lent lies in an arena of 32 bits")
}
