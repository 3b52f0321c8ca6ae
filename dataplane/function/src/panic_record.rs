//! Catches a function's panic and tells what it said and where.
//!
//! The message and the place of a panic are known only to the panic hook, so the first worker of an OS process puts one
//! in front of the hook that is there, which still runs and prints to the process's log. The new one records only panics
//! of a thread that is inside [`catch`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use crate::error::cut;

thread_local! {
    static IS_RECORDING: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Installs the hook, once in the life of the OS process.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let earlier = take_hook();
        set_hook(Box::new(move |info| {
            record(info);
            earlier(info);
        }));
    });
}

/// What `body` returns, or the message of its panic with its place in the source.
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    // A panic that an earlier body caught by itself left its words behind: they are not this caller's to read.
    LAST_PANIC.with_borrow_mut(|last| *last = None);
    IS_RECORDING.set(true);
    // The body's state may be half changed after a panic; that is the function author's to know, as the SDK documents.
    let end = catch_unwind(AssertUnwindSafe(body));
    IS_RECORDING.set(false);
    end.map_err(|payload| {
        let message = LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_else(|| words_of(&*payload).to_owned());
        // Dropping what was thrown can panic in turn.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            std::mem::forget(again);
        }
        message
    })
}

fn record(info: &PanicHookInfo<'_>) {
    if !IS_RECORDING.get() {
        return;
    }
    let words = words_of(info.payload());
    let message = match info.location() {
        // The place first: it must survive when a long message is cut.
        Some(place) => format!("at {}:{}: {words}", place.file(), place.line()),
        None => words.to_owned(),
    };
    LAST_PANIC.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = Some(cut(&message).to_owned());
        }
    });
}

fn words_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        install_hook();
        let number = 7;
        let message = catch(|| panic!("number {number} is up")).unwrap_err();
        assert!(message.starts_with("at ") && message.contains("panic_record.rs:"), "{message}");
        assert!(message.ends_with("number 7 is up"), "{message}");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        struct Grenade;
        impl Drop for Grenade {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        install_hook();
        let message = catch(|| std::panic::panic_any(Grenade)).unwrap_err();
        assert!(message.ends_with("a panic without words"), "{message}");
        assert_eq!(catch(|| 5), Ok(5));
    }

    #[test]
    fn words_of_a_panic_that_was_caught_inside_are_not_told_later() {
        install_hook();
        assert!(catch(|| catch_unwind(|| panic!("a secret")).is_err()).unwrap());
        let message = catch(|| std::panic::resume_unwind(Box::new("plain"))).unwrap_err();
        assert_eq!(message, "plain");
    }
}
