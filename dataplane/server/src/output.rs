//! Captured output of a process: the newest bytes of one endless stream, under a fixed limit.
//!
//! Every byte ever captured has a position. The ring keeps the last `limit` of them; a reader that asks for older ones is
//! given the oldest kept and sees from the position how many it missed.

use std::collections::VecDeque;

/// The kept end of a stream of output.
#[derive(Debug)]
pub(crate) struct OutputRing {
    kept: VecDeque<u8>,
    limit_bytes: usize,
    /// Position of the first kept byte, which is the number of dropped ones.
    start: u64,
}

impl OutputRing {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self { kept: VecDeque::new(), limit_bytes: limit_bytes.max(1), start: 0 }
    }

    /// Position after the last byte captured.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    /// Bytes that were captured and are kept no more.
    pub(crate) fn dropped(&self) -> u64 {
        self.start
    }

    /// Appends `bytes` and drops as many of the oldest as do not fit.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let skipped = bytes.len().saturating_sub(self.limit_bytes);
        let bytes = &bytes[skipped..];
        let surplus = (self.kept.len() + bytes.len()).saturating_sub(self.limit_bytes);
        self.kept.drain(..surplus);
        self.kept.extend(bytes);
        self.start += (skipped + surplus) as u64;
        if skipped > 0 {
            // Everything older was just drained as well, so the stream continues behind the skipped part.
            debug_assert_eq!(self.kept.len(), self.limit_bytes);
        }
    }

    /// At most `bytes_max` bytes from `position` on, and the position of the first of them.
    pub(crate) fn read(&self, position: u64, bytes_max: usize) -> (u64, Vec<u8>) {
        let position = position.clamp(self.start, self.end());
        // Cannot be cut: the difference is at most the length of the ring.
        let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        (position, self.kept.iter().skip(skip).take(bytes_max).copied().collect())
    }

    /// The end of the stream as text, for error messages.
    pub(crate) fn tail(&self, bytes_max: usize) -> String {
        let (_, bytes) = self.read(self.end().saturating_sub(bytes_max as u64), bytes_max);
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_bytes_and_counts_the_rest() {
        let mut ring = OutputRing::new(8);
        let mut all = Vec::new();
        for step in 0..40_u8 {
            let piece: Vec<u8> = (0..step % 13).map(|byte| byte.wrapping_add(step)).collect();
            ring.append(&piece);
            all.extend_from_slice(&piece);
            let kept = all.len().min(8);
            assert_eq!(ring.end(), all.len() as u64);
            assert_eq!(ring.dropped(), (all.len() - kept) as u64);
            let (position, bytes) = ring.read(0, usize::MAX);
            assert_eq!((position, bytes.as_slice()), (ring.dropped(), &all[all.len() - kept..]), "step {step}");
        }
    }

    #[test]
    fn a_reader_gets_what_it_asked_for_or_sees_what_it_missed() {
        let mut ring = OutputRing::new(4);
        ring.append(b"abcdef");
        assert_eq!(ring.read(3, 2), (3, b"de".to_vec()));
        assert_eq!(ring.read(0, 9), (2, b"cdef".to_vec()));
        assert_eq!(ring.read(99, 9), (6, Vec::new()));
        assert_eq!(ring.tail(3), "def");
    }
}
