//! The atomics that lock-free code is written over: the standard library's, or loom's when a model runs.
//!
//! Also the one way to sleep on a word. Under loom, sleeping is modelled by a lock and a condition variable, so that a
//! lost wake-up is a deadlock that loom reports.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(not(loom))]
pub(crate) use host::{
    full_fence, full_fence_after_exchange, pause, prefetch_for_read, prefetch_for_write, sleep_low_half, sleep_word,
    wake_low_half, wake_word,
};
#[cfg(loom)]
#[cfg_attr(not(test), allow(unused_imports, reason = "the models pause where the ends poll"))]
pub(crate) use model::{
    full_fence, full_fence_after_exchange, pause, prefetch_for_read, prefetch_for_write, sleep_low_half, sleep_word,
    wake_low_half, wake_word,
};

#[cfg(not(loom))]
mod host {
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::time::Duration;

    use rustix::thread::futex;

    #[cfg(target_endian = "big")]
    compile_error!("a reply cell's state is the low half of its word, which futexes address as its first four bytes");

    /// A sequentially consistent fence.
    #[inline(always)]
    pub(crate) fn full_fence() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: changes nothing: it locks and rewrites the word at the stack pointer with its own value. A locked
        // instruction orders all earlier stores before all later loads, as `mfence` does in a third of its time; without
        // `nomem` the compiler keeps memory accesses on their sides.
        unsafe {
            std::arch::asm!("lock or dword ptr [rsp], 0");
        };
        #[cfg(not(target_arch = "x86_64"))]
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// The same behind an atomic exchange (swap, compare-and-exchange, addition, bits set) of the same thread, which comes after the
    /// stores that are to be ordered: on x86-64 that was a fence already, whatever its ordering.
    #[inline(always)]
    pub(crate) fn full_fence_after_exchange() {
        #[cfg(target_arch = "x86_64")]
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
        #[cfg(not(target_arch = "x86_64"))]
        full_fence();
    }

    /// Asks for the cache line at `place`, to be written soon. Has no effect but on time.
    #[inline(always)]
    pub(crate) fn prefetch_for_write<T>(place: &T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; it cannot fault.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) std::ptr::from_ref(place), options(nostack, preserves_flags, readonly));
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// Asks for the cache line at `place`, to be read soon. Has no effect but on time.
    #[inline(always)]
    pub(crate) fn prefetch_for_read<T>(place: &T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; it cannot fault.
        unsafe {
            std::arch::asm!("prefetcht0 [{}]", in(reg) std::ptr::from_ref(place), options(nostack, preserves_flags, readonly));
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// Tells the processor that this is a polling loop.
    #[inline(always)]
    pub(crate) fn pause() {
        std::hint::spin_loop();
    }

    /// The first four bytes of `word`, for the kernel alone: the program itself touches the word in one size only.
    fn low_half(word: &AtomicU64) -> &AtomicU32 {
        // SAFETY: four bytes inside a live, aligned `AtomicU64`; the reference is only handed to the futex system call,
        // which compares the bytes itself, so there is no access of mixed size by this program.
        unsafe { &*std::ptr::from_ref(word).cast::<AtomicU32>() }
    }

    /// Sleeps while the low half of `word` is that of `expected`, at most for `timeout`. Returns early at will.
    #[allow(clippy::cast_possible_truncation, reason = "the half that a futex compares")]
    pub(crate) fn sleep_low_half(word: &AtomicU64, expected: u64, timeout: Duration) {
        sleep_word(low_half(word), expected as u32, timeout);
    }

    /// Wakes all who sleep on the low half of `word`.
    pub(crate) fn wake_low_half(word: &AtomicU64) {
        wake_word(low_half(word));
    }

    /// Sleeps while `word` is `expected`, at most for `timeout`. Returns early at will: callers look again.
    pub(crate) fn sleep_word(word: &AtomicU32, expected: u32, timeout: Duration) {
        if crate::simulation::rest() {
            return;
        }
        let timeout = rustix::thread::Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // Every result means the same to a caller that looks again: woken, changed already, timed out, interrupted.
        let _ = futex::wait(word, futex::Flags::empty(), expected, Some(&timeout));
    }

    /// Wakes all who sleep on `word`. Fails only for an address that is not mapped, which a reference excludes.
    pub(crate) fn wake_word(word: &AtomicU32) {
        let _ = futex::wake(word, futex::Flags::empty(), i32::MAX.unsigned_abs());
    }
}

#[cfg(loom)]
mod model {
    //! Sleeping without a timeout: a model must not be saved from a lost wake-up by its timer.

    use std::time::Duration;

    use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use loom::sync::{Condvar, Mutex};

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn pause() {
        loom::thread::yield_now();
    }

    pub(crate) fn full_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    pub(crate) fn full_fence_after_exchange() {
        full_fence();
    }

    pub(crate) fn prefetch_for_read<T>(_place: &T) {}

    pub(crate) fn prefetch_for_write<T>(_place: &T) {}

    fn sleep_while(asleep: impl Fn() -> bool) {
        let guard = SLEEPERS.0.lock().unwrap();
        if asleep() {
            drop(SLEEPERS.1.wait(guard).unwrap());
        }
    }

    fn wake() {
        let _guard = SLEEPERS.0.lock().unwrap();
        SLEEPERS.1.notify_all();
    }

    #[allow(clippy::cast_possible_truncation, reason = "the low half")]
    pub(crate) fn sleep_low_half(word: &AtomicU64, expected: u64, _timeout: Duration) {
        sleep_while(|| word.load(Ordering::SeqCst) as u32 == expected as u32);
    }

    pub(crate) fn wake_low_half(_word: &AtomicU64) {
        wake();
    }

    pub(crate) fn sleep_word(word: &AtomicU32, expected: u32, _timeout: Duration) {
        sleep_while(|| word.load(Ordering::SeqCst) == expected);
    }

    pub(crate) fn wake_word(_word: &AtomicU32) {
        wake();
    }
}
