//! How many calls of a lane may be in flight for their replies to find room in it.

use praas_protocol::Outcome;
use praas_protocol::limits::REPLY_INLINE_BYTES;
use praas_shm::client_lane::Answer;

/// Below this, the size of replies is of no interest: thousands of such blocks fit the smallest lane.
const BLOCK_BYTES_MIN: u64 = 1024;

/// How many calls' replies fit the lane's half for them, by the largest one seen of late. A reply that finds no room there
/// is lost though its function ran, so calls wait before they run.
#[derive(Debug)]
pub(super) struct ReplyRoom {
    half_bytes: u64,
    block_bytes: u64,
}

impl ReplyRoom {
    pub(super) fn new(half_bytes: u32) -> Self {
        Self { half_bytes: half_bytes.into(), block_bytes: 0 }
    }

    /// Whether one more call may be in flight.
    pub(super) fn takes(&self, in_flight: usize) -> bool {
        (in_flight as u64 + 1) * self.block_bytes <= self.half_bytes || in_flight == 0
    }

    pub(super) fn learn(&mut self, answer: &Answer) {
        let bytes = match Outcome::from_code(answer.outcome_code) {
            Some(Outcome::ReplyLost) => u64::from(answer.more),
            _ => answer.payload.as_ref().map_or(0, |payload| payload.len() as u64),
        };
        // Blocks are powers of two. A large reply is forgotten after some dozens of small ones.
        let forgotten = self.block_bytes - self.block_bytes / 16;
        self.block_bytes =
            if bytes <= REPLY_INLINE_BYTES as u64 { forgotten } else { forgotten.max(bytes.next_power_of_two()) };
        if self.block_bytes < BLOCK_BYTES_MIN {
            self.block_bytes = 0;
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
    fn large_replies_are_learned_at_once_and_forgotten_slowly() {
        let mut room = ReplyRoom::new(1 << 20);
        assert!(room.takes(1000));
        room.learn(&lost(200_000));
        assert!(room.takes(3) && !room.takes(4));
        room.learn(&lost(2 << 20));
        assert!(room.takes(0) && !room.takes(1), "one is always tried");
        let small = Answer { outcome_code: 0, ..lost(0) };
        let forgotten = (0..1000).find(|_| {
            room.learn(&small);
            room.takes(1000)
        });
        assert!(forgotten.is_some_and(|answers| answers > 30), "{forgotten:?}");
    }
}
