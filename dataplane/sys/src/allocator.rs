//! How this program's heap gives memory back.
//!
//! glibc takes large blocks from the kernel and gives them back when they are freed, but learns from the first one that is freed to
//! keep blocks of its size from then on (up to 32 MiB), in each thread's arena: they are never given back, and asking for
//! zeroes clears memory that was touched. A server that moves processes to and from storage has such blocks in many threads, for
//! some milliseconds each: kept, they were 260 MB of a server whose only process slept.

/// Blocks from this size on are the kernel's, and go back to it: below the buffers of storage, above what calls take.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK_BYTES: libc::c_int = 4 << 20;

/// Has the heap give blocks of 4 MiB and more back as soon as they are freed, for as long as this program runs; nothing to do where the
/// C library always does.
pub fn give_large_blocks_back() {
    // SAFETY: it takes two numbers, and sets an option of the heap under the heap's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        // It can only refuse a threshold beyond 32 MiB.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of memory of this program that are its own.
    fn anonymous_bytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("this program's own status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn large_blocks_that_are_freed_are_given_back_by_every_thread() {
        const BLOCK_BYTES: usize = 24 << 20;
        give_large_blocks_back();
        let before_bytes = anonymous_bytes();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 1..4_u8 {
                        // Every page of it is touched.
                        let block = std::hint::black_box(vec![round; BLOCK_BYTES]);
                        assert_eq!(block[BLOCK_BYTES - 1], round);
                    }
                });
            }
        });
        let kept_bytes = anonymous_bytes().saturating_sub(before_bytes);
        assert!(kept_bytes < BLOCK_BYTES, "{kept_bytes} bytes are kept");
    }
}
