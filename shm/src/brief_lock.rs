//! A lock for critical sections of tens of nanoseconds: one atomic exchange to take it, one plain store to free it.
//!
//! `std::sync::Mutex` needs a second exchange to free itself, which waits until all earlier stores, those of the request
//! just published among them, have left the core: 60–100 ns a call here. The price is that a waiter cannot be woken: it
//! polls, then yields its core, then sleeps for short times. The holder does no I/O, takes no other lock and cannot panic.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Polls before the core is yielded: a running holder is done by then.
const POLLS: u32 = 128;
/// Yields before sleeping: a preempted holder on the same core gets its turn.
const YIELDS: u32 = 64;
/// Sleep between looks after that.
const SLEEP: Duration = Duration::from_micros(50);

/// A value that one thread at a time uses, briefly.
#[derive(Debug, Default)]
pub(crate) struct BriefLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, of which `taken` allows one at a time.
unsafe impl<T: Send> Sync for BriefLock<T> {}

/// Exclusive use of the value until dropped.
#[derive(Debug)]
pub(crate) struct Guard<'a, T> {
    lock: &'a BriefLock<T>,
}

impl<T> BriefLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the value.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // Acquire pairs with the Release in the guard's drop.
        if self.taken.swap(true, Ordering::Acquire) {
            self.wait();
        }
        Guard { lock: self }
    }

    #[cold]
    fn wait(&self) {
        let mut looks = 0_u32;
        while self.taken.load(Ordering::Relaxed) || self.taken.swap(true, Ordering::Acquire) {
            looks = looks.saturating_add(1);
            if looks < POLLS {
                std::hint::spin_loop();
            } else if looks < POLLS + YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(SLEEP);
            }
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one while it lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one while it lives, and borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_exclude_each_other() {
        let lock = BriefLock::new(0_u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut value = lock.lock();
                        let seen = *value;
                        *value = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 80_000);
    }
}
