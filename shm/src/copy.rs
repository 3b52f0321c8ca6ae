//! The one place where bytes cross between private memory and memory that a peer can write.
//!
//! A peer may write shared bytes while they are copied. Ordinary Rust reads of such memory are undefined behaviour, so
//! the bulk copy is inline assembly (`rep movsb` on x86-64: as fast as memcpy for large blocks), which the compiler
//! cannot assume anything about, and short inline payloads are copied word by word through relaxed atomics, or two words at once. A concurrent
//! write yields mixed bytes in a private copy, never more.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies `bytes` of shared memory at `source` into private memory at `destination`, or the other way round.
///
/// # Safety
/// Both ranges must be mapped for `bytes`, `source` readable and `destination` writable, and they must not overlap. The
/// private one must be borrowed as its side of the copy demands.
#[inline]
unsafe fn copy(source: *const u8, destination: *mut u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's promise; `rep movsb` touches just these two ranges, and the direction flag is clear by ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") bytes => _,
            inout("rsi") source => _,
            inout("rdi") destination => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's promise; the loop copies 16 bytes at a time and then single bytes, within both ranges.
    unsafe {
        std::arch::asm!(
            "2: cmp {left}, #16",
            "b.lo 3f",
            "ldp {a}, {b}, [{source}], #16",
            "stp {a}, {b}, [{destination}], #16",
            "sub {left}, {left}, #16",
            "b 2b",
            "3: cbz {left}, 4f",
            "ldrb {a:w}, [{source}], #1",
            "strb {a:w}, [{destination}], #1",
            "sub {left}, {left}, #1",
            "b 3b",
            "4:",
            left = inout(reg) bytes => _,
            source = inout(reg) source => _,
            destination = inout(reg) destination => _,
            a = out(reg) _,
            b = out(reg) _,
            options(nostack)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("praas runs on x86-64 and aarch64; add a copy loop for this architecture");
}

/// Copies shared bytes into a private buffer.
///
/// # Safety
/// `source` must be mapped and readable for `destination.len()` bytes.
#[inline]
pub(crate) unsafe fn from_shared(source: NonNull<u8>, destination: &mut [u8]) {
    // SAFETY: the caller vouches for the source; the destination is a private exclusive borrow.
    unsafe { copy(source.as_ptr(), destination.as_mut_ptr(), destination.len()) }
}

/// Copies private bytes into shared memory.
///
/// # Safety
/// `destination` must be mapped and writable for `source.len()` bytes.
#[inline]
pub(crate) unsafe fn to_shared(source: &[u8], destination: NonNull<u8>) {
    // SAFETY: the caller vouches for the destination; the source is a private borrow.
    unsafe { copy(source.as_ptr(), destination.as_ptr(), source.len()) }
}

/// Copies shared bytes to other shared memory.
///
/// # Safety
/// Both ranges must be mapped for `bytes`, `source` readable and `destination` writable, and they must not overlap.
#[inline]
pub(crate) unsafe fn between_shared(source: NonNull<u8>, destination: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(source.as_ptr(), destination.as_ptr(), bytes) }
}

/// Reads the first `destination.len()` bytes of inline payload words.
#[inline]
pub(crate) fn load_inline(words: &[AtomicU64], destination: &mut [u8]) {
    assert!(destination.len() <= words.len() * 8, "the words hold as many bytes");
    let (pairs, rest) = destination.as_chunks_mut::<16>();
    for (index, bytes) in pairs.iter_mut().enumerate() {
        load_pair(&words[2 * index..], bytes);
    }
    let words = &words[2 * pairs.len()..];
    let (whole, rest) = rest.as_chunks_mut::<8>();
    for (bytes, word) in whole.iter_mut().zip(words) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&words[whole.len()].load(Ordering::Relaxed).to_ne_bytes()[..rest.len()]);
    }
}

/// Reads two words, and writes them as one: whoever then moves the bytes on reads as much at once, and a processor waits
/// for narrow stores to leave its store buffer before it can serve a wider load.
#[inline(always)]
fn load_pair(words: &[AtomicU64], destination: &mut [u8; 16]) {
    let pair: &[AtomicU64; 2] = words.first_chunk().expect("two words are left");
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: sixteen bytes that `pair` borrows are read and sixteen that are borrowed exclusively are written. The
    // compiler assumes nothing about what was read, so a concurrent write yields mixed bytes, as by two relaxed loads.
    unsafe {
        std::arch::asm!(
            "movups {pair}, xmmword ptr [{source}]",
            "movups xmmword ptr [{destination}], {pair}",
            pair = out(xmm_reg) _,
            source = in(reg) pair.as_ptr(),
            destination = in(reg) destination.as_mut_ptr(),
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for (bytes, word) in destination.as_chunks_mut::<8>().0.iter_mut().zip(pair) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
}

/// Writes `source` as inline payload words; bytes after it in its last word become zero.
#[inline(always)]
pub(crate) fn store_inline(source: &[u8], words: &[AtomicU64]) {
    debug_assert!(source.len() <= words.len() * 8);
    let (whole, rest) = source.as_chunks::<8>();
    for (bytes, word) in whole.iter().zip(words) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words[whole.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_copies_are_exact_at_every_length_and_alignment() {
        let source: Vec<u8> = (0..=255).cycle().take(300).collect();
        for start in 0..17 {
            for bytes in 0..=260 {
                let mut there = vec![0xEE_u8; 320];
                let mut back = vec![0_u8; bytes];
                // SAFETY: both ranges lie inside their vectors.
                unsafe {
                    let place = NonNull::new(there.as_mut_ptr().add(start)).unwrap();
                    to_shared(&source[..bytes], place);
                    from_shared(place, &mut back);
                }
                assert_eq!(back, &source[..bytes]);
                assert!(there[..start].iter().chain(&there[start + bytes..]).all(|&byte| byte == 0xEE));
            }
        }
    }

    #[test]
    fn inline_copies_are_exact_at_every_length() {
        let source: Vec<u8> = (1..=96).collect();
        for bytes in 0..=96 {
            let words: [AtomicU64; 12] = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
            store_inline(&source[..bytes], &words);
            let mut back = vec![0; bytes];
            load_inline(&words, &mut back);
            assert_eq!(back, &source[..bytes]);
        }
    }
}
