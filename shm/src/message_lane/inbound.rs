//! A receiver's end of a message lane. Every worker of the receiving process has one of each lane; the lock of their mailbox
//! says which of them uses it.
//!
//! The end keeps no position: that is the mailbox's, moved by the transaction that takes a message.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::{Key, MessageId};

use super::arrived::{Arrived, ArrivedRoom, BlockPlace, Contents, InPlace, PLACE_WORDS, block_bytes};
use super::entry::{self, Entry, stamp_of};
use super::error::Spoiled;
use super::memory::MessageLaneMemory;
use super::shape::{KEY_BYTES_BESIDE_BLOCK, Kind, Shape, checked_offset};
use crate::copy;
use crate::segment::AttachError;
use crate::sync::{AtomicU64, Ordering, prefetch_for_read};

/// A receiver's end of a message lane.
#[derive(Debug)]
pub struct Inbound {
    memory: Arc<MessageLaneMemory>,
}

impl Inbound {
    /// Worker: the receiver's end of the lane behind a descriptor from the server.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a message lane of this geometry.
    pub fn attach(fd: OwnedFd, geometry: &MessageLaneGeometry) -> Result<Self, AttachError> {
        Ok(Self { memory: Arc::new(MessageLaneMemory::attach(fd, geometry)?) })
    }

    pub(super) fn over(memory: Arc<MessageLaneMemory>) -> Self {
        Self { memory }
    }

    /// Sizes of the lane.
    #[must_use]
    pub fn geometry(&self) -> MessageLaneGeometry {
        self.memory.geometry()
    }

    /// Whether the message of this position is published: one load, of the word that the sender publishes. May be asked
    /// without the lock.
    #[must_use]
    #[inline]
    pub fn has_arrived(&self, position: u64) -> bool {
        entry::arrived(self.memory.entries(), position).is_some()
    }

    /// The message of this position, if it is published, copied into `room` and checked. Changes nothing.
    ///
    /// # Errors
    /// [`Spoiled`] when something is published there that is no message: go on with the next position.
    #[inline(always)]
    pub fn arrived_at<'room>(
        &self,
        position: u64,
        room: &'room mut ArrivedRoom,
    ) -> Result<Option<Arrived<'room>>, Spoiled> {
        self.arrived_expecting(position, None, room)
    }

    /// The same for a receiver that knows which key may come: one that equals a checked key is not checked again, and is
    /// answered as that one.
    ///
    /// # Errors
    /// As for [`Inbound::arrived_at`].
    #[inline(always)]
    pub fn arrived_expecting<'room>(
        &self,
        position: u64,
        expected: Option<Key<'room>>,
        room: &'room mut ArrivedRoom,
    ) -> Result<Option<Arrived<'room>>, Spoiled> {
        match entry::arrived(self.memory.entries(), position) {
            None => Ok(None),
            Some(entry) => {
                self.read(entry, position, expected, room).map(Some).map_err(|what| Spoiled { position, what })
            }
        }
    }

    #[inline(always)]
    fn read<'room>(
        &self,
        entry: &Entry,
        position: u64,
        expected: Option<Key<'room>>,
        room: &'room mut ArrivedRoom,
    ) -> Result<Arrived<'room>, &'static str> {
        let (id, said, contents) = self.read_parts(entry, position, room)?;
        let key = match expected {
            Some(key) if key.as_bytes() == said => key,
            _ => Key::from_bytes(said).map_err(|_| "its key is none")?,
        };
        Ok(Arrived { id, key, contents })
    }

    /// Id, bytes that should be a key, and payload.
    #[inline(always)]
    fn read_parts<'room>(
        &self,
        entry: &Entry,
        position: u64,
        room: &'room mut ArrivedRoom,
    ) -> Result<(MessageId, &'room [u8], Contents<'room>), &'static str> {
        let layout = self.memory.layout();
        let shape = Shape::checked(entry.shape.load(Ordering::Relaxed), layout).ok_or("its sizes fit no message")?;
        let id = MessageId {
            incarnation: entry.incarnation.load(Ordering::Relaxed),
            sequence: entry.sequence.load(Ordering::Relaxed),
        };
        let key_bytes = usize::from(shape.key_bytes);
        let (key, contents) = match shape.kind {
            Kind::Inline => {
                let start = key_bytes.next_multiple_of(8);
                let text = &mut room.0[..start + shape.payload_bytes as usize];
                copy::load_inline(&entry.text, text);
                let (key, payload) = text.split_at(start);
                (&key[..key_bytes], Contents::Inline(payload))
            }
            Kind::Block { descriptor } => {
                let offset = checked_offset(entry.text[0].load(Ordering::Relaxed), shape.payload_bytes, layout)
                    .ok_or("its block lies outside the arena")?;
                let (beside, end) = room.0[..key_bytes].split_at_mut(key_bytes.min(KEY_BYTES_BESIDE_BLOCK));
                copy::load_inline(&entry.text[1..], beside);
                copy::load_inline(&self.memory.key_ends()[usize::from(descriptor)].0, end);
                let place = BlockPlace { stamp: stamp_of(position), offset, bytes: shape.payload_bytes, descriptor };
                (&room.0[..key_bytes], Contents::Block(place))
            }
        };
        Ok((id, key, contents))
    }

    /// Asks for the rest of the message of this position, which is likely to have arrived.
    #[inline(always)]
    pub(crate) fn ask_for_rest(&self, position: u64) {
        prefetch_for_read(entry::entry_at(self.memory.entries(), position).second_line());
    }

    /// The message of this position if it is published, under just this key, and its payload lies in the entry and fits into
    /// `room`, to which it is copied. The key is in words, zero to the end of the last one. Changes nothing else.
    #[inline(always)]
    pub(crate) fn short_at(
        &self,
        position: u64,
        key_bytes: u8,
        key: &[u64],
        room: &[AtomicU64],
    ) -> Option<(MessageId, u32)> {
        let entry = entry::arrived(self.memory.entries(), position)?;
        let payload_bytes = Shape::inline_payload(entry.shape.load(Ordering::Relaxed), key_bytes)?;
        let (said, payload) = entry.text.split_at_checked(key.len())?;
        let is_other = said.iter().zip(key).fold(0, |bits, (said, word)| bits | said.load(Ordering::Relaxed) ^ word);
        let words = (payload_bytes as usize).div_ceil(size_of::<u64>());
        if is_other != 0 || words > room.len() || words > payload.len() {
            return None;
        }
        let id = MessageId {
            incarnation: entry.incarnation.load(Ordering::Relaxed),
            sequence: entry.sequence.load(Ordering::Relaxed),
        };
        for (place, word) in room.iter().zip(&payload[..words]) {
            place.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Some((id, payload_bytes))
    }

    /// Tells the sender that all entries before `position` may be used again, and wakes it if it waits for them. To be
    /// called under the lock, after what was taken is committed; repeating it costs a load, and makes up for a receiver that
    /// died before it had.
    #[inline]
    pub fn publish_consumed(&self, position: u64) {
        self.memory.room().publish_consumed(position);
    }

    /// The same without waking the sender: [`Inbound::tell_sender_after_exchange`] is to follow.
    #[inline]
    pub(crate) fn note_consumed(&self, position: u64) {
        self.memory.room().note_consumed(position);
    }

    /// Wakes the sender if it waits for the room that was noted, after the lock was given back.
    #[inline]
    pub(crate) fn tell_sender_after_exchange(&self) {
        self.memory.room().tell_sender_after_exchange();
    }

    /// Gives a block back to the sender, after the removal of its message is committed. Under the lock, for the last stamp
    /// that this descriptor had; repeating it costs a load. An unknown descriptor is none of this lane's, and left alone.
    #[inline]
    pub fn release(&self, descriptor: u16, stamp: u64) {
        let Some(released) = self.memory.released().get(usize::from(descriptor)) else { return };
        if released.load(Ordering::Relaxed) != stamp {
            // Release pairs with the Acquire in `blocks.rs`: the block's last read comes before its next write.
            released.store(stamp, Ordering::Release);
            self.memory.room().tell_sender();
        }
    }

    /// The place that [`BlockPlace::words`] stands for; `None` if there is no such place in this lane.
    #[must_use]
    #[inline]
    pub fn place_of(&self, words: [u64; PLACE_WORDS]) -> Option<BlockPlace> {
        BlockPlace::checked(words, self.memory.layout())
    }

    /// Receiver, under the lock: closes the lane, which was taken up to `position`: what its sender publishes from now on is
    /// refused. A ring that is full stays open, and takes nothing as long as nobody takes from it. Repeating it changes nothing.
    pub(crate) fn close(&self, position: u64) {
        entry::close(self.memory.entries(), position);
    }

    /// Where a payload begins, for the server, which copies it and trusts nobody not to write it meanwhile.
    pub(crate) fn block_start(&self, place: &BlockPlace) -> NonNull<u8> {
        self.memory.arena_bytes(place.offset, place.bytes)
    }

    /// The bytes of a payload where they lie, aligned to 1 KiB. They are the message's until its block is released.
    ///
    /// # Panics
    /// If the place is another lane's, and outside this one.
    #[must_use]
    #[inline]
    pub fn block(&self, place: &BlockPlace) -> &[u8] {
        block_bytes(&self.memory, place)
    }

    /// The same, keeping the lane mapped.
    #[must_use]
    pub fn in_place(&self, place: &BlockPlace) -> InPlace {
        InPlace { memory: Arc::clone(&self.memory), place: *place }
    }
}
