//! What a process has beside its objects: its mailbox, what the filter remembers, the numbers of its messages, and the order of
//! the calls that it remembers. Plain data.

use std::ptr::NonNull;

use praas_protocol::message::ADDRESS_BYTES;

use crate::copy;
use crate::log_ring::{KeptMessage, KeptSource};
use crate::mailbox::lasting::{self, Kept, LanePayloads};
use crate::objects::layout::header::MAIL_SEQUENCE;
use crate::objects::{Objects, StateError, keyed_calls};

use super::held_cut::HeldCutError;

/// A message in a mailbox that sleeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMail {
    /// The position at which it came.
    pub arrival: u64,
    /// Whether somebody has received it before.
    pub is_redelivered: bool,
    /// The message.
    pub message: KeptMessage,
}

/// Everything of a process but its objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remainder {
    /// The number given out last for a message that the process sends.
    pub last_sequence: u64,
    /// Its messages, in the order in which they came.
    pub mail: Vec<KeptMail>,
    /// Sources that may repeat, that which was silent for the longest time first.
    pub sources: Vec<([u8; ADDRESS_BYTES], KeptSource)>,
    /// Hashes of the records of keyed calls, in the order in which the calls began. The records are objects.
    pub calls: Vec<u64>,
}

impl Remainder {
    /// What there is in a segment whose lock the caller has, and which has no lanes.
    pub(super) fn of(objects: &Objects) -> Result<Self, StateError> {
        Self::read(objects, |kept| {
            let (offset, bytes) = kept.payload_in_segment()?;
            Ok((objects.bytes(offset, bytes), bytes))
        })
    }

    /// The same of a process that goes on, with payloads of so many bytes in all at most.
    pub(super) fn of_running(
        objects: &Objects,
        payloads: &LanePayloads,
        limit_bytes: u64,
    ) -> Result<Self, HeldCutError> {
        let mut total_bytes = 0;
        Self::read(objects, |kept| {
            let (start, bytes) = payloads.place(objects.space(), kept)?;
            total_bytes += bytes as u64;
            if total_bytes > limit_bytes {
                return Err(HeldCutError::MailTooLarge { bytes: total_bytes, limit_bytes });
            }
            Ok((start, bytes))
        })
    }

    /// `place` says where a payload lies: bytes that are there for as long as the caller has the lock.
    fn read<E: From<StateError>>(
        objects: &Objects,
        mut place: impl FnMut(&Kept) -> Result<(NonNull<u8>, usize), E>,
    ) -> Result<Self, E> {
        let space = objects.space();
        let mut remainder = Self { last_sequence: space.words.load_acquire(MAIL_SEQUENCE), ..Self::default() };
        lasting::messages(space, |source, key, kept| -> Result<(), E> {
            let key = String::from_utf8(key);
            let key = key.map_err(|_| StateError::corrupt("key of a queue", kept.arrival_at))?;
            let (start, bytes) = place(&kept)?;
            let mut payload = vec![0; bytes];
            // SAFETY: who says the place has checked that it is inside the segment, or inside the arena of a lane that is mapped.
            unsafe { copy::from_shared(start, &mut payload) };
            let message = KeptMessage { source, key, id: kept.id, payload };
            let (arrival, is_redelivered) = (kept.arrival, kept.is_redelivered);
            remainder.mail.push(KeptMail { arrival, is_redelivered, message });
            Ok(())
        })?;
        remainder.mail.sort_unstable_by_key(|mail| mail.arrival);
        lasting::sources(space, |address, source| remainder.sources.push((address, source)))?;
        remainder.calls = keyed_calls::order(space)?;
        Ok(remainder)
    }
}
