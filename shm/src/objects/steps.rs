//! Steps: the instants after each store to shared memory, at which a test can look at what a death would leave behind.
//!
//! A test sets a hook on its own thread; the hook is called after every single store that the object store makes there. A
//! copy of the segment taken in the hook is what the server would find if the worker were killed at that instruction.
//! Without the feature `fault-points` a step is nothing.

/// Nothing.
#[cfg(not(feature = "fault-points"))]
#[inline(always)]
pub(crate) fn step() {}

#[cfg(feature = "fault-points")]
pub(crate) use hook::step;
#[cfg(feature = "fault-points")]
pub use hook::{Observing, observe};

#[cfg(feature = "fault-points")]
mod hook {
    use std::cell::RefCell;

    type Hook = Box<dyn FnMut()>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    }

    /// The hook stays until this is dropped; the one before it comes back then.
    #[must_use = "the hook goes with it"]
    pub struct Observing {
        before: Option<Hook>,
    }

    impl std::fmt::Debug for Observing {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("Observing")
        }
    }

    /// Has `hook` called after each store of this thread. While it runs there is no hook, and it may set one of its own.
    pub fn observe(hook: impl FnMut() + 'static) -> Observing {
        Observing { before: HOOK.replace(Some(Box::new(hook))) }
    }

    impl Drop for Observing {
        fn drop(&mut self) {
            HOOK.replace(self.before.take());
        }
    }

    #[inline]
    pub(crate) fn step() {
        let Ok(Some(mut hook)) = HOOK.try_with(RefCell::take) else { return };
        hook();
        HOOK.replace(Some(hook));
    }
}
