//! Numbers out of bytes that nobody has checked yet, and into them. All are little endian.

use super::limits::VALUE_BYTES_MAX;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Another release wrote them.
    #[error("format version {actual}, {known} is the one known")]
    Version {
        /// What stands there.
        actual: u32,
        /// The one that is understood.
        known: u32,
    },
    /// Their checksum is another.
    #[error("the checksum is {actual:016x}, not {expected:016x}")]
    Checksum {
        /// What was written down.
        expected: u64,
        /// What the bytes give.
        actual: u64,
    },
    /// They cannot be understood.
    #[error("{what} at byte {at}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// The checksum of everything that is stored.
#[must_use]
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// Whether bytes have this checksum. A fuzzer gets past it: what is behind has to hold by itself.
pub(crate) fn check(bytes: &[u8], expected: u64) -> Result<(), FormatError> {
    let actual = checksum(bytes);
    if actual == expected || cfg!(fuzzing) { Ok(()) } else { Err(FormatError::Checksum { expected, actual }) }
}

/// Bytes that are read from their start on.
#[derive(Debug)]
pub(crate) struct Reading<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reading<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// That something is wrong where the last number ended.
    pub(crate) fn malformed(&self, what: &'static str) -> FormatError {
        FormatError::Malformed { at: self.at, what }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'b [u8], FormatError> {
        let taken =
            self.bytes[self.at..].get(..bytes).ok_or(FormatError::Malformed { at: self.at, what: "an early end" })?;
        self.at += bytes;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, FormatError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.array()
    }

    /// A number of seven bits a byte, the lowest first; the highest bit of a byte says that another follows.
    pub(crate) fn var(&mut self) -> Result<u64, FormatError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                break;
            }
            number |= part << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 {
                    Err(self.malformed("a number of more bytes than it needs"))
                } else {
                    Ok(number)
                };
            }
        }
        Err(self.malformed("a number of more than 64 bits"))
    }

    pub(crate) fn var_u32(&mut self, what: &'static str) -> Result<u32, FormatError> {
        u32::try_from(self.var()?).map_err(|_| self.malformed(what))
    }

    /// A count of bytes of a value.
    pub(crate) fn value_bytes(&mut self) -> Result<u32, FormatError> {
        let bytes = self.var_u32("a value of more than 2 GiB")?;
        if bytes <= VALUE_BYTES_MAX { Ok(bytes) } else { Err(self.malformed("a value of more than 2 GiB")) }
    }

    /// That nothing follows.
    pub(crate) fn end(&self) -> Result<(), FormatError> {
        if self.left() == 0 { Ok(()) } else { Err(self.malformed("bytes behind the end")) }
    }
}

/// A length or count as it is stored. All are far below 4 Gi; one that is not would become one that no reader takes, never
/// another one.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Appends a number as [`Reading::var`] reads it.
pub(crate) fn put_var(into: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            into.push(low);
            return;
        }
        into.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_only_in_one_form() {
        for number in [0, 1, 127, 128, 1 << 14, u64::from(u32::MAX), u64::MAX >> 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_var(&mut bytes, number);
            let mut reading = Reading::new(&bytes);
            assert_eq!(reading.var(), Ok(number));
            assert_eq!(reading.end(), Ok(()));
        }
        let long: &[u8] = &[0xff; 11];
        let over: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        for bytes in [&[0x80, 0][..], &[0x80], &[], long, over] {
            assert!(Reading::new(bytes).var().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_checksum_stays_what_it_was() {
        assert_eq!(checksum(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(checksum(b"abc"), 0x78af_5f94_892f_3950);
    }
}
