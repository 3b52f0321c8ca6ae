//! Sleeps of a thread that is turned by its test, in virtual time: instead of sleeping, it gives way to whoever turns it.
//!
//! Without the feature `simulation` these are empty functions that are always inlined. Products are never built with it.

#[cfg(feature = "simulation")]
pub use turned::{is_turned, rest, turn_by};

/// Whether this thread is turned by a test: no.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
#[must_use]
pub fn is_turned() -> bool {
    false
}

/// Gives way instead of sleeping, if a test turns this thread: nobody does.
#[cfg(not(feature = "simulation"))]
#[inline(always)]
#[must_use]
pub fn rest() -> bool {
    false
}

#[cfg(feature = "simulation")]
mod turned {
    use std::cell::RefCell;
    use std::rc::Rc;

    thread_local! {
        static GIVE_WAY: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
    }

    /// From now on each sleep of this thread is one call of `give_way`, however long it were.
    pub fn turn_by(give_way: impl Fn() + 'static) {
        GIVE_WAY.set(Some(Rc::new(give_way)));
    }

    /// Whether this thread is turned by a test. What it waits for by the clock has passed then when it has given way once.
    #[must_use]
    pub fn is_turned() -> bool {
        GIVE_WAY.with_borrow(Option::is_some)
    }

    /// Gives way instead of sleeping, if a test turns this thread; whether one does.
    #[must_use]
    pub fn rest() -> bool {
        let give_way = GIVE_WAY.with_borrow(Clone::clone);
        give_way.inspect(|give_way| give_way()).is_some()
    }
}
