//! Random numbers and bytes that a printed seed makes again (splitmix64, by Steele, Lea and Flood).

/// Bytes after which a pattern repeats: a multiple of 8, and of nothing else that is even.
const PATTERN_BYTES: usize = 8 * 8191;

/// A generator.
pub(crate) struct Random(u64);

impl Random {
    /// The one of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// So many bytes. They repeat a pattern, because random bytes take long to make in a test build; but each repetition
    /// begins with a number of its own, and its length fits no buffer's, so no piece is like another at the same place.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + PATTERN_BYTES);
        while bytes.len() < count.min(PATTERN_BYTES) {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
            bytes.extend_from_within(8..PATTERN_BYTES);
        }
        bytes.truncate(count);
        bytes
    }
}

/// One that differs in each run.
pub(crate) fn from_the_system() -> Random {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).expect("the system gives random bytes");
    Random::new(u64::from_le_bytes(seed))
}
