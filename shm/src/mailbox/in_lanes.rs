//! What lies in the message lanes of a process, for the server, which reads it where it is.
//!
//! Invariants:
//! 1. Nothing is taken out of a lane, and nothing in the segment changes: a state without a free byte is read like any other. Who
//!    goes on afterwards receives everything from the lanes as ever.
//! 2. A lane is closed by the exchange that its sender publishes by (`message_lane::entry`): a message is in the lane, or its sender
//!    knows that it is not. A lane whose ring is full takes nothing until somebody takes from it.
//! 3. Nothing is read by reference: bytes are copied from memory that workers can write. What a sender cannot have in its lane at
//!    once, because blocks would overlap, is junk: it is left out, and never more is read than the lane has.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use praas_protocol::Address;
use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::message::MessageId;

use crate::arena::{BLOCK_BYTES_MIN, order_for};
use crate::copy;
use crate::message_lane::{ArrivedRoom, Contents};
use crate::objects::error::StateError;
use crate::objects::words::Space;

use super::error::MailError;
use super::lanes::InboundLane;
use super::limits::LANES;
use super::message::LanePlace;
use super::table::Table;

/// The lanes of a process, for whoever reads what lies in them.
#[derive(Debug)]
pub(crate) struct InLanes {
    by_slot: BTreeMap<u16, InboundLane>,
}

/// A lane, as whoever makes it anew has to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneFacts {
    pub(crate) slot: u16,
    pub(crate) source: Address,
    pub(crate) geometry: MessageLaneGeometry,
    pub(crate) repeats: bool,
}

/// What the blocks of a lane can still hold beside those that were read.
#[derive(Debug)]
pub(crate) struct BlocksLeft {
    arena_bytes: usize,
    blocks: u32,
}

impl BlocksLeft {
    pub(crate) fn of(geometry: &MessageLaneGeometry) -> Self {
        Self { arena_bytes: geometry.arena_bytes as usize, blocks: geometry.blocks }
    }

    /// What both hold together in one lane of this geometry; none if it has no room for that.
    pub(crate) fn beside(&self, other: &Self, geometry: &MessageLaneGeometry) -> Option<Self> {
        let arena_bytes = (self.arena_bytes + other.arena_bytes).checked_sub(geometry.arena_bytes as usize)?;
        let blocks = (self.blocks + other.blocks).checked_sub(geometry.blocks)?;
        Some(Self { arena_bytes, blocks })
    }

    /// Whether there may be one more block of so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let rounded =
            order_for(bytes).and_then(|order| BLOCK_BYTES_MIN.checked_mul(1_usize.checked_shl(order.into())?));
        let arena_bytes = rounded.and_then(|rounded| self.arena_bytes.checked_sub(rounded));
        let (Some(arena_bytes), Some(blocks)) = (arena_bytes, self.blocks.checked_sub(1)) else { return false };
        *self = Self { arena_bytes, blocks };
        true
    }
}

impl InLanes {
    pub(crate) fn new(inbound: Vec<InboundLane>) -> Result<Self, MailError> {
        let mut by_slot = BTreeMap::new();
        for lane in inbound {
            let slot = lane.slot;
            if usize::from(slot) >= LANES {
                return Err(MailError::NoSuchSlot { slot, slots: LANES });
            }
            if by_slot.insert(slot, lane).is_some() {
                return Err(MailError::SlotTaken { slot });
            }
        }
        Ok(Self { by_slot })
    }

    /// Closes all of them, under the lock.
    pub(crate) fn close(&self, space: Space<'_>) -> Result<(), StateError> {
        let table = Table::find(space)?;
        self.by_slot.values().for_each(|lane| lane.inbound.close(position(space, table, lane)));
        Ok(())
    }

    /// Each lane, by their slots.
    pub(crate) fn facts(&self) -> impl Iterator<Item = LaneFacts> {
        self.by_slot.values().map(|lane| LaneFacts {
            slot: lane.slot,
            source: lane.source,
            geometry: lane.inbound.geometry(),
            repeats: lane.repeats,
        })
    }

    /// Where the payload of a message lies that was taken out of a lane, and the lane; `at` says where the message is. The place is
    /// inside the lane's arena, for as long as this lives.
    pub(crate) fn place(&self, place: &LanePlace, at: usize) -> Result<(NonNull<u8>, usize, LaneFacts), MailError> {
        let missing = MailError::LaneMissing { slot: place.slot, serial: place.serial };
        let facts = self.facts().find(|facts| facts.slot == place.slot);
        let lane = self.by_slot.get(&place.slot).filter(|lane| lane.serial == place.serial);
        let (Some(lane), Some(facts)) = (lane, facts) else { return Err(missing) };
        let block = lane.inbound.place_of(place.words);
        let block = block.ok_or_else(|| StateError::corrupt("place of a payload in a lane", at))?;
        Ok((lane.inbound.block_start(&block), block.bytes(), facts))
    }

    /// Shows each message that waits in a lane to be taken, in their order: id, key, payload. What is none is passed over, as a
    /// receiver does.
    pub(crate) fn waiting(
        &self,
        space: Space<'_>,
        slot: u16,
        left: &mut BlocksLeft,
        mut each: impl FnMut(MessageId, &str, Vec<u8>),
    ) -> Result<(), StateError> {
        let Some(lane) = self.by_slot.get(&slot) else { return Ok(()) };
        let first = position(space, Table::find(space)?, lane);
        let mut room = ArrivedRoom::new();
        for position in (first..).take(lane.inbound.geometry().entries as usize) {
            let arrived = match lane.inbound.arrived_at(position, &mut room) {
                Ok(Some(arrived)) => arrived,
                Ok(None) => break,
                Err(_) => continue,
            };
            let payload = match arrived.contents {
                Contents::Inline(bytes) => bytes.to_vec(),
                Contents::Block(block) if left.take(block.bytes()) => {
                    let mut payload = vec![0; block.bytes()];
                    // SAFETY: `block_start` gives as many bytes inside the arena of a lane that is mapped.
                    unsafe { copy::from_shared(lane.inbound.block_start(&block), &mut payload) };
                    payload
                }
                Contents::Block(_) => continue,
            };
            each(arrived.id, arrived.key.as_str(), payload);
        }
        Ok(())
    }
}

/// How far a lane was taken.
fn position(space: Space<'_>, table: Option<Table>, lane: &InboundLane) -> u64 {
    table.map_or(0, |table| table.lane(lane.slot).position(space, lane.serial))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_of_a_lane_than_it_has() {
        let geometry = MessageLaneGeometry { entries: 8, blocks: 3, arena_bytes: 64 << 10 };
        let mut left = BlocksLeft::of(&geometry);
        assert!(left.take(32 << 10) && !left.take((32 << 10) + 1) && left.take(17 << 10));
        assert!(!left.take(1), "a block is of a power of two");
        let mut left = BlocksLeft::of(&geometry);
        assert!(left.take(0) && left.take(1) && left.take(1024) && !left.take(1), "it has three blocks");
        assert!(!BlocksLeft::of(&geometry).take(usize::MAX));
    }

    #[test]
    fn two_lanes_are_one_if_it_has_room_for_both() {
        let geometry = MessageLaneGeometry { entries: 8, blocks: 3, arena_bytes: 64 << 10 };
        let with = |blocks: &[usize]| {
            let mut left = BlocksLeft::of(&geometry);
            assert!(blocks.iter().all(|bytes| left.take(*bytes)));
            left
        };
        let mut both = with(&[32 << 10]).beside(&with(&[1024, 1024]), &geometry).unwrap();
        assert!(!both.take(1), "it has three blocks");
        assert!(with(&[32 << 10]).beside(&with(&[32 << 10]), &geometry).is_some());
        assert!(with(&[32 << 10, 1]).beside(&with(&[32 << 10]), &geometry).is_none());
        assert!(with(&[1, 1]).beside(&with(&[1, 1]), &geometry).is_none());
    }
}
