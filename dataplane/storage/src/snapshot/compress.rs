//! Whether compressing pays, and doing it.
//!
//! Most large states are vectors, images or text: one kind for long stretches. So a few kilobytes of each stretch are tried, and
//! the rest of it is only compressed when these shrank. What does not shrink costs a hundredth of its time.

/// Bytes for which one trial decides.
const STRETCH_BYTES: usize = 1 << 20;
/// Bytes that a trial takes.
const TRIAL_BYTES: usize = 16 << 10;
/// A value that is shorter is stored as it is: a frame of zstd alone has some twenty bytes.
const VALUE_BYTES_MIN: usize = 128;
/// A trial has to save one part in so many of its bytes.
const TRIAL_SAVES: usize = 5;
/// A value has to save one part in so many: else its decompression would cost more than its bytes.
const VALUE_SAVES: usize = 8;
/// The level of zstd: the fastest of its plain ones, some hundreds of megabytes a second and core.
const LEVEL: i32 = 1;

/// Decides for the values that one thread stores, one after the other.
pub(crate) struct Compression {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
    /// Bytes of the stretch that are left.
    stretch_left: usize,
    /// What the trial of this stretch took and gave so far.
    tried: usize,
    gave: usize,
}

impl Compression {
    /// One that compresses where it pays, or never.
    pub(crate) fn new(wanted: bool) -> Self {
        let compressor = wanted.then(|| zstd::bulk::Compressor::new(LEVEL).ok()).flatten();
        Self { compressor, scratch: Vec::new(), stretch_left: 0, tried: 0, gave: 0 }
    }

    /// The bytes in fewer bytes, if that pays.
    pub(crate) fn shrink(&mut self, value: &[u8]) -> Option<&[u8]> {
        let compressor = self.compressor.as_mut().filter(|_| value.len() >= VALUE_BYTES_MIN)?;
        if self.stretch_left == 0 {
            (self.stretch_left, self.tried, self.gave) = (STRETCH_BYTES, 0, 0);
        }
        self.stretch_left = self.stretch_left.saturating_sub(value.len());
        if self.tried < TRIAL_BYTES {
            let trial = &value[..value.len().min(TRIAL_BYTES)];
            self.tried += trial.len();
            self.gave += squeeze(compressor, trial, &mut self.scratch).unwrap_or(trial.len());
        }
        if self.gave > self.tried - self.tried / TRIAL_SAVES {
            return None;
        }
        let bytes = squeeze(compressor, value, &mut self.scratch)?;
        (bytes <= value.len() - value.len() / VALUE_SAVES).then(|| &self.scratch[..bytes])
    }
}

/// Compresses into the scratch and says how many bytes it gave.
fn squeeze(compressor: &mut zstd::bulk::Compressor<'_>, bytes: &[u8], scratch: &mut Vec<u8>) -> Option<usize> {
    let bound = zstd::zstd_safe::compress_bound(bytes.len());
    if scratch.len() < bound {
        scratch.resize(bound, 0);
    }
    compressor.compress_to_buffer(bytes, &mut scratch[..]).ok()
}

/// Fills `into` with what `stored` holds, which must be just as much.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn expand(stored: &[u8], into: &mut [u8]) -> Result<(), String> {
    let filled = zstd::bulk::decompress_to_buffer(stored, into).map_err(|error| format!("zstd says: {error}"))?;
    if filled == into.len() {
        Ok(())
    } else {
        Err(format!("it has {filled} bytes, {} are missing", into.len() - filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shrinks_is_compressed_and_comes_back() {
        let text = b"the same words again and again, ".repeat(100);
        let mut compression = Compression::new(true);
        let small = compression.shrink(&text).expect("it repeats").to_vec();
        assert!(small.len() < text.len() / 4);
        let mut back = vec![0; text.len()];
        expand(&small, &mut back).unwrap();
        assert_eq!(back, text);
        assert!(expand(&small, &mut back[1..]).is_err() && expand(&small, &mut vec![0; text.len() + 1]).is_err());

        let mut noise = vec![0; STRETCH_BYTES - 1];
        getrandom::fill(&mut noise).unwrap();
        let mut compression = Compression::new(true);
        assert_eq!(compression.shrink(&noise), None);
        assert_eq!(compression.shrink(&text), None, "the next stretch has not begun, its trial is over");
        assert!(compression.shrink(&noise).is_none() && compression.shrink(&text).is_none());
        assert_eq!(Compression::new(false).shrink(&text), None);
    }
}
