//! The payload of an echo: filled by the caller with a number of its own for every call, and found again in the answer.
//!
//! Every system of a plot is sent these bytes and has its answer looked at in the same way: its length, and the first and the
//! last word of every cache line, so that each line has been fetched. (A comparison of all bytes at once would wait for the
//! narrow stores that filled them, which is no part of a call.)

use super::BaselineError;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of a word.
const WORD_BYTES: usize = 8;

/// The payload of call `number`. `BYTES` is a multiple of [`LINE_BYTES`].
#[inline]
#[must_use]
pub fn filled<const BYTES: usize>(number: u64) -> [u8; BYTES] {
    const { assert!(BYTES > 0 && BYTES.is_multiple_of(LINE_BYTES), "a payload is of whole lines") };
    let mut payload = [0; BYTES];
    let (words, _) = payload.as_chunks_mut::<WORD_BYTES>();
    words.fill(number.to_ne_bytes());
    payload
}

/// Whether `answer` is the payload of call `number`.
///
/// # Errors
/// [`BaselineError::WrongAnswer`].
#[inline]
pub fn check<const BYTES: usize>(system: &'static str, number: u64, answer: &[u8]) -> Result<(), BaselineError> {
    let expected = number.to_ne_bytes();
    let (lines, _) = answer.as_chunks::<LINE_BYTES>();
    let is_line = |line: &[u8; LINE_BYTES]| {
        line.first_chunk() == Some(&expected) && line.last_chunk::<WORD_BYTES>() == Some(&expected)
    };
    if answer.len() == BYTES && lines.iter().all(is_line) {
        Ok(())
    } else {
        Err(wrong::<BYTES>(system, number, answer))
    }
}

#[cold]
fn wrong<const BYTES: usize>(system: &'static str, number: u64, answer: &[u8]) -> BaselineError {
    let start = &answer[..answer.len().min(2 * WORD_BYTES)];
    BaselineError::WrongAnswer {
        system,
        expected: format!("{BYTES} bytes of words {:02x?}", number.to_ne_bytes()),
        actual: format!("{} bytes that begin with {start:02x?}", answer.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_told_from_everything_else() {
        let payload = filled::<1024>(0x0123_4567_89ab_cdef);
        let is_echo = |answer: &[u8]| check::<1024>("test", 0x0123_4567_89ab_cdef, answer).is_ok();
        assert!(is_echo(&payload));
        assert!(!is_echo(&payload[..1023]) && !is_echo(&[]) && !is_echo(&[&payload[..], &[0]].concat()));
        for line in 0..1024 / LINE_BYTES {
            for word in [0, LINE_BYTES - 1] {
                let mut changed = payload;
                changed[line * LINE_BYTES + word] ^= 1;
                assert!(!is_echo(&changed), "line {line}, byte {word}");
            }
        }
        let error = check::<64>("test", 1, &filled::<64>(2)).expect_err("another call's");
        assert!(error.to_string().contains("64 bytes that begin with [02, 00"), "{error}");
    }
}
