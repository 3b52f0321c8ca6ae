//! The tag by which a worker marks what it holds in shared memory: (index, generation), issued by the server.
//!
//! A tag is never a process id: those are reused by the system and mean nothing across PID namespaces.

/// Names one worker of one process, and one life of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WorkerTag {
    index: u8,
    generation: u16,
}

/// Set in every worker's tag word, so that it never equals one of the ring's own tags.
const WORKER_BIT: u32 = 1 << 31;

impl WorkerTag {
    /// The tag of worker `index`, in its life number `generation`.
    ///
    /// # Panics
    /// If `index` is not below [`WORKERS_MAX`](praas_protocol::limits::WORKERS_MAX): indices come from the server itself.
    #[must_use]
    pub const fn new(index: u8, generation: u16) -> Self {
        assert!((index as usize) < praas_protocol::limits::WORKERS_MAX, "a lane has one bit a worker");
        Self { index, generation }
    }

    /// The worker's index among those of its process.
    #[must_use]
    pub const fn index(self) -> u8 {
        self.index
    }

    /// Which life of that worker this is.
    #[must_use]
    pub const fn generation(self) -> u16 {
        self.generation
    }

    /// The worker's bit in a lane's `spinning` and `parked` words.
    #[must_use]
    pub(crate) const fn bit(self) -> u64 {
        1 << self.index
    }

    /// The tag that a word stands for, if it stands for one.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the word")]
    pub(crate) const fn from_word(word: u32) -> Option<Self> {
        let (index, generation) = (word as u8, (word >> 8) as u16);
        let whole = word == WORKER_BIT | (generation as u32) << 8 | index as u32;
        if whole && (index as usize) < praas_protocol::limits::WORKERS_MAX {
            Some(Self { index, generation })
        } else {
            None
        }
    }

    /// Whether this is `other`, or an earlier life of it. Lives are counted modulo 2^16, so "earlier" is half of them.
    #[must_use]
    pub(crate) const fn is_life_up_to(self, other: Self) -> bool {
        self.index == other.index && self.generation.wrapping_sub(other.generation).cast_signed() <= 0
    }

    /// The tag as it stands in a ring entry or a lock.
    #[must_use]
    pub(crate) const fn word(self) -> u32 {
        WORKER_BIT | (self.generation as u32) << 8 | self.index as u32
    }
}
