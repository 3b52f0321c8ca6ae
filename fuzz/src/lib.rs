//! What several fuzz targets share: reading the fuzzer's bytes as choices.
//!
//! Inputs are small programs: a printable letter names a step, the bytes after it are its operands. So the kept corpus can
//! be written and read by hand. An input that ends early reads as zeros, and letters that name nothing are passed over.

/// The fuzzer's bytes, read from the front.
#[derive(Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// All of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// The letter of the next step; `None` at the end.
    pub fn letter(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The letter that comes next, without taking it.
    pub fn next_letter(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// An operand of one byte.
    pub fn byte(&mut self) -> u8 {
        self.letter().unwrap_or(0)
    }

    /// An operand of two bytes, the first one least.
    pub fn pair(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// An operand of eight bytes, the first one least.
    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// The next `count` bytes, or as many as are left.
    pub fn slice(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One of `choices`, by one byte.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
