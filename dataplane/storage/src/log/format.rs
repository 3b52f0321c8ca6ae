//! The bytes of a segment's header and of a batch's. Little endian.
//!
//! ```text
//! segment  0 magic (8)   8 version (4)   12 zero (4)   16 position before its first record (8)   24 id (8)   32 checksum (8)
//! batch    0 magic (4)   4 bytes of records (4)   8 position before (8)   16 position at its end (8)   24 checksum (8)   records
//! ```
//!
//! A batch's checksum begins with the id of its segment, a random number: a block that a disk kept from an earlier file is
//! never taken for one of this.

use twox_hash::XxHash3_64;

/// The version that is written.
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"praaslog";
const BATCH_MAGIC: &[u8; 4] = b"prba";

pub(super) const SEGMENT_HEAD_BYTES: usize = 40;
pub(super) const BATCH_HEAD_BYTES: usize = 32;

/// A segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// The position before its first record.
    pub(super) after: u64,
    pub(super) id: u64,
}

/// Why bytes are no header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHead {
    Damaged,
    Version(u32),
}

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) bytes: u32,
    pub(super) after: u64,
    pub(super) position: u64,
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl SegmentHead {
    pub(super) fn write(self, into: &mut [u8]) {
        into[..8].copy_from_slice(SEGMENT_MAGIC);
        into[8..12].copy_from_slice(&VERSION.to_le_bytes());
        into[12..16].fill(0);
        into[16..24].copy_from_slice(&self.after.to_le_bytes());
        into[24..32].copy_from_slice(&self.id.to_le_bytes());
        let checksum = XxHash3_64::oneshot(&into[..32]);
        into[32..SEGMENT_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, BadHead> {
        let head = bytes.get(..SEGMENT_HEAD_BYTES).ok_or(BadHead::Damaged)?;
        let is_whole = head.starts_with(SEGMENT_MAGIC) && word(head, 32) == Some(XxHash3_64::oneshot(&head[..32]));
        match (is_whole, half(head, 8), word(head, 16), word(head, 24)) {
            (true, Some(VERSION), Some(after), Some(id)) => Ok(Self { after, id }),
            (true, Some(version), ..) => Err(BadHead::Version(version)),
            _ => Err(BadHead::Damaged),
        }
    }
}

impl BatchHead {
    /// Writes the header before records that lie behind it in the same memory.
    pub(super) fn write(self, id: u64, batch: &mut [u8]) {
        batch[..4].copy_from_slice(BATCH_MAGIC);
        batch[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        batch[8..16].copy_from_slice(&self.after.to_le_bytes());
        batch[16..24].copy_from_slice(&self.position.to_le_bytes());
        let checksum = checksum(id, batch, self.bytes as usize);
        batch[24..BATCH_HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header of a whole batch that begins here; `None` if there is none.
    pub(super) fn read(id: u64, bytes: &[u8]) -> Option<Self> {
        let head = Self { bytes: half(bytes, 4)?, after: word(bytes, 8)?, position: word(bytes, 16)? };
        let fits = bytes.starts_with(BATCH_MAGIC) && bytes.len() >= BATCH_HEAD_BYTES + head.bytes as usize;
        let is_whole = fits && word(bytes, 24) == Some(checksum(id, bytes, head.bytes as usize));
        is_whole.then_some(head)
    }
}

/// Of the header but for the checksum itself, and of the records.
fn checksum(id: u64, batch: &[u8], record_bytes: usize) -> u64 {
    let head = XxHash3_64::oneshot_with_seed(id, &batch[..24]);
    XxHash3_64::oneshot_with_seed(head, &batch[BATCH_HEAD_BYTES..BATCH_HEAD_BYTES + record_bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_version_1_stay_as_they_are() {
        let mut segment = [0; SEGMENT_HEAD_BYTES];
        SegmentHead { after: 7, id: 0x0123_4567_89ab_cdef }.write(&mut segment);
        let mut batch = [0; BATCH_HEAD_BYTES + 5];
        batch[BATCH_HEAD_BYTES..].copy_from_slice(b"hello");
        BatchHead { bytes: 5, after: 7, position: 9 }.write(0x0123_4567_89ab_cdef, &mut batch);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!((hex(&segment), hex(&batch)), (GOLDEN_SEGMENT.to_owned(), GOLDEN_BATCH.to_owned()));
    }

    const GOLDEN_SEGMENT: &str = "70726161736c6f6701000000000000000700000000000000efcdab896745230102c7fdebbe238987";
    const GOLDEN_BATCH: &str = "7072626105000000070000000000000009000000000000005cfe480d53da517168656c6c6f";

    #[test]
    fn any_changed_byte_is_noticed_and_any_bytes_are_read_without_a_panic() {
        let mut segment = [0; SEGMENT_HEAD_BYTES];
        let head = SegmentHead { after: 7, id: 5 };
        head.write(&mut segment);
        assert_eq!(SegmentHead::read(&segment), Ok(head));
        let mut batch = [1; BATCH_HEAD_BYTES + 100];
        let batch_head = BatchHead { bytes: 100, after: 7, position: 9 };
        batch_head.write(5, &mut batch);
        assert_eq!(BatchHead::read(5, &batch), Some(batch_head));
        assert_eq!(BatchHead::read(6, &batch), None, "of another segment");
        for length in 0..batch.len() {
            assert_eq!(BatchHead::read(5, &batch[..length]), None);
            assert!(length >= SEGMENT_HEAD_BYTES || SegmentHead::read(&segment[..length]).is_err());
        }
        for at in 0..batch.len() {
            for bit in 0..8 {
                batch[at] ^= 1 << bit;
                assert_eq!(BatchHead::read(5, &batch), None, "bit {bit} of byte {at}");
                batch[at] ^= 1 << bit;
                if let Some(byte) = segment.get_mut(at) {
                    *byte ^= 1 << bit;
                    assert!(SegmentHead::read(&segment).is_err(), "bit {bit} of byte {at}");
                    segment[at] ^= 1 << bit;
                }
            }
        }
    }
}
