//! Which calls may be in flight in a lane for their replies to find room in it.
//!
//! A worker whose reply finds no room waits a while, and the reply is lost after that though its function ran. So calls of
//! functions that were seen to give large replies wait before they run: until the replies that are expected, and those that
//! are kept until they are sent, leave room for one more; and until their own connection has less than its share of that
//! room, so that one that does not read keeps it from nobody.

use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_protocol::{FunctionId, Outcome};
use praas_shm::client_lane::Answer;

use crate::limits::{LARGE_REPLY_FUNCTIONS_MAX, REPLY_SHARE_PARTS};

/// Below this, the size of replies is of no interest: thousands of such blocks fit the smallest lane.
const BLOCK_BYTES_MIN: u64 = 1024;

/// The room for replies in one lane.
#[derive(Debug)]
pub(super) struct ReplyRoom {
    half_bytes: u64,
    /// Of the replies that are expected of calls in flight.
    expected_bytes: u64,
    /// Functions with large replies of late, and the size of their blocks.
    large: Vec<(FunctionId, u64)>,
}

impl ReplyRoom {
    pub(super) fn new(half_bytes: u32) -> Self {
        Self { half_bytes: half_bytes.into(), expected_bytes: 0, large: Vec::new() }
    }

    /// Bytes to be set aside for the reply of a function; 0 for one whose replies are small or unknown.
    #[inline]
    pub(super) fn expected_of(&self, function: FunctionId) -> u64 {
        if self.large.is_empty() {
            return 0;
        }
        self.large.iter().find(|(known, _)| *known == function).map_or(0, |(_, bytes)| *bytes)
    }

    /// Whether a reply of so many bytes finds room beside those that are expected and those that are `kept_bytes` long.
    pub(super) fn takes(&self, bytes: u64, kept_bytes: u64) -> bool {
        let used_bytes = self.expected_bytes + kept_bytes;
        used_bytes == 0 || used_bytes + bytes <= self.half_bytes
    }

    /// Whether a connection with so many bytes of replies on their way may have more.
    pub(super) fn shares(&self, bytes: u64, owed_bytes: u64) -> bool {
        owed_bytes == 0 || owed_bytes + bytes <= self.half_bytes / REPLY_SHARE_PARTS
    }

    pub(super) fn set_aside(&mut self, bytes: u64) {
        self.expected_bytes += bytes;
    }

    pub(super) fn give_back(&mut self, bytes: u64) {
        self.expected_bytes -= bytes;
    }

    /// Learns from an answer of a function.
    #[inline]
    pub(super) fn learn(&mut self, function: FunctionId, answer: &Answer) {
        let bytes = match Outcome::from_code(answer.outcome_code) {
            Some(Outcome::ReplyLost) => u64::from(answer.more),
            _ => answer.payload.as_ref().map_or(0, |payload| payload.len() as u64),
        };
        if bytes > REPLY_INLINE_BYTES as u64 || !self.large.is_empty() {
            self.learn_bytes(function, bytes);
        }
    }

    /// Learns from a small answer of a function.
    #[inline]
    pub(super) fn learn_small(&mut self, function: FunctionId) {
        if !self.large.is_empty() {
            self.learn_bytes(function, 0);
        }
    }

    fn learn_bytes(&mut self, function: FunctionId, bytes: u64) {
        let known = self.large.iter().position(|(known, _)| *known == function);
        let last_bytes = known.map_or(0, |at| self.large[at].1);
        // Blocks are powers of two. A large reply is forgotten after some dozens of small ones.
        let forgotten = last_bytes - last_bytes / 16;
        let block_bytes = if bytes < BLOCK_BYTES_MIN { forgotten } else { forgotten.max(bytes.next_power_of_two()) };
        match known {
            Some(at) if block_bytes < BLOCK_BYTES_MIN => drop(self.large.swap_remove(at)),
            Some(at) => self.large[at].1 = block_bytes,
            None if block_bytes < BLOCK_BYTES_MIN => {}
            None if self.large.len() < LARGE_REPLY_FUNCTIONS_MAX => self.large.push((function, block_bytes)),
            // Those of the smallest replies matter least.
            None => {
                if let Some(smallest) = self.large.iter_mut().min_by_key(|(_, bytes)| *bytes)
                    && smallest.1 < block_bytes
                {
                    *smallest = (function, block_bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(needed_bytes: u32) -> Answer {
        Answer {
            outcome_code: Outcome::ReplyLost as u32,
            detail: 0,
            more: needed_bytes,
            payload: None,
            returned_loan: None,
        }
    }

    #[test]
    fn large_replies_are_learned_at_once_by_function_and_forgotten_slowly() {
        let [large, small] = [FunctionId::of("large"), FunctionId::of("small")];
        let mut room = ReplyRoom::new(1 << 20);
        assert_eq!(room.expected_of(large), 0);
        room.learn(large, &lost(200_000));
        room.learn(small, &Answer { outcome_code: 0, ..lost(0) });
        assert_eq!((room.expected_of(large), room.expected_of(small)), (256 << 10, 0));
        let forgotten = (0..1000).find(|_| {
            room.learn(large, &Answer { outcome_code: 0, ..lost(0) });
            room.expected_of(large) == 0
        });
        assert!(forgotten.is_some_and(|answers| answers > 30), "{forgotten:?}");
    }

    #[test]
    fn replies_are_admitted_as_far_as_expected_and_kept_ones_leave_room() {
        let mut room = ReplyRoom::new(1 << 20);
        assert!(room.takes(2 << 20, 0), "one is always tried");
        room.set_aside(512 << 10);
        assert!(room.takes(512 << 10, 0) && !room.takes(512 << 10, 1024));
        room.give_back(512 << 10);
        assert!(room.takes(512 << 10, 512 << 10) && !room.takes(512 << 10, 600 << 10));
        assert!(room.shares(1 << 20, 0) && room.shares(128 << 10, 128 << 10) && !room.shares(256 << 10, 128 << 10));
    }

    #[test]
    fn the_table_of_functions_is_bounded_and_keeps_the_largest() {
        let mut room = ReplyRoom::new(1 << 20);
        for index in 0..2 * u64::try_from(LARGE_REPLY_FUNCTIONS_MAX).unwrap() {
            room.learn(FunctionId(index), &lost(2048));
        }
        assert_eq!(room.large.len(), LARGE_REPLY_FUNCTIONS_MAX);
        room.learn(FunctionId(9999), &lost(1 << 20));
        assert_eq!(room.expected_of(FunctionId(9999)), 1 << 20);
    }
}
