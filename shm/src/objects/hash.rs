//! The hash of keys: folded multiplication, 64 bits, seeded for each segment.
//!
//! Its values lie in memory that several builds of praas map and survive restarts of the server: it never changes without
//! a new layout version. A golden test holds it. The seed is random, so that keys from outside cannot be chosen to collide
//! by somebody who does not know it; it is no cryptographic hash.

use super::key::Key;

/// Odd numbers without pattern: digits of pi.
const FIRST: u64 = 0x243f_6a88_85a3_08d3;
const SECOND: u64 = 0x1319_8a2e_0370_7345;
const THIRD: u64 = 0xa409_3822_299f_31d1;

/// The halves of the product of both, folded into one.
#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    #[allow(clippy::cast_possible_truncation, reason = "the low half")]
    let low = product as u64;
    low ^ (product >> 64) as u64
}

/// The hash of a key in a segment with this seed.
#[inline]
pub(crate) fn of(seed: u64, key: &Key<'_>) -> u64 {
    of_words(seed, key.namespace().0, key.bytes(), key.words())
}

/// The same of a key that lies in the segment.
#[inline]
pub(crate) fn of_words(seed: u64, namespace: u8, bytes: usize, words: impl Iterator<Item = u64>) -> u64 {
    let start = seed ^ FIRST ^ u64::from(namespace) << 56;
    let mixed = words.fold(start, |hash, word| fold(hash ^ word, SECOND).wrapping_add(FIRST));
    fold(mixed ^ bytes as u64, THIRD)
}

/// What stands for a namespace in keys of messages.
#[cfg(not(loom))]
const MESSAGES: u8 = 0xff;

/// The hash of a message's key.
#[cfg(not(loom))]
#[inline]
pub(crate) fn of_message_key(seed: u64, bytes: usize, words: impl Iterator<Item = u64>) -> u64 {
    of_words(seed, MESSAGES, bytes, words)
}

/// The hash of an address, whose words are zero from some word on.
#[cfg(not(loom))]
#[inline]
pub(crate) fn of_address(seed: u64, words: &[u64; 8]) -> u64 {
    let used = words.iter().rposition(|&word| word != 0).map_or(0, |last| last + 1);
    of_words(seed, MESSAGES, used, words[..used].iter().copied())
}

/// The hash of two things together.
#[cfg(not(loom))]
#[inline]
pub(crate) fn joined(first: u64, second: u64) -> u64 {
    fold(first ^ THIRD, second ^ SECOND)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::key::Namespace;
    use super::*;

    fn user(text: &str) -> u64 {
        of(0x5eed, &Key::new(Namespace::USER, text).unwrap())
    }

    #[test]
    fn the_hash_stays_what_it_was() {
        assert_eq!(user("a"), GOLDEN[0]);
        assert_eq!(user("cart/42"), GOLDEN[1]);
        assert_eq!(user(&"long ".repeat(40)), GOLDEN[2]);
        assert_eq!(of(0, &Key::new(Namespace::SYSTEM, "a").unwrap()), GOLDEN[3]);
    }

    const GOLDEN: [u64; 4] =
        [0x648a_31dd_3e27_ce95, 0x9c55_5136_f699_24b6, 0x23cc_6e10_2d98_c0a5, 0xef74_50ce_0bc5_2aea];

    #[test]
    fn numbered_keys_spread_over_buckets_and_fingerprints() {
        for shift in [0, 8, 16, 24, 40] {
            let mut seen = [0_u32; 256];
            for number in 0..25_600 {
                seen[usize::from((user(&format!("key-{number}")) >> shift).to_le_bytes()[0])] += 1;
            }
            // Mean 100, deviation 10.
            assert!(seen.iter().all(|count| (40..180).contains(count)), "bits from {shift} on: {seen:?}");
        }
    }
}
