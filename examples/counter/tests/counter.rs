//! The functions, called over real lanes in this very process: no server is needed.

use std::thread;

use counter::{Addition, TOO_MUCH};
use praas_client::CallError;
use praas_function::testing::{Harness, HarnessOptions};

fn addition(key: &str, amount: u64) -> Addition {
    Addition { key: key.to_owned(), amount }
}

#[test]
fn each_counter_counts_for_itself() {
    let harness = Harness::new(counter::application).unwrap();
    assert_eq!(harness.invoke("read", b"visitors").unwrap(), b"0");
    assert_eq!(harness.invoke("count", b"visitors").unwrap(), b"1");
    assert_eq!(harness.invoke("count", b"visitors").unwrap(), b"2");
    assert_eq!(harness.invoke_typed::<u64>("add", &addition("bread", 12)).unwrap(), 12);
    assert_eq!(harness.invoke("read", b"visitors").unwrap(), b"2");
    harness.invoke("reset", b"visitors").unwrap();
    assert_eq!(harness.invoke("read", b"visitors").unwrap(), b"0");
    assert_eq!(harness.invoke("read", b"bread").unwrap(), b"12");
}

#[test]
fn what_a_counter_cannot_hold_is_refused_and_changes_nothing() {
    let harness = Harness::new(counter::application).unwrap();
    assert_eq!(harness.invoke_typed::<u64>("add", &addition("bread", u64::MAX)).unwrap(), u64::MAX);
    let refused = harness.invoke("count", b"bread").unwrap_err();
    assert!(matches!(refused, CallError::FunctionFailed { code: TOO_MUCH, .. }), "{refused}");
    assert_eq!(harness.invoke("read", b"bread").unwrap(), u64::MAX.to_string().as_bytes());
    assert!(harness.invoke("count", b"").is_err(), "a key has at least one character");
}

#[test]
fn workers_that_count_at_the_same_time_lose_no_count() {
    const CALLERS: usize = 3;
    const COUNTS: usize = 200;
    let options = HarnessOptions { workers: 3, ..HarnessOptions::default() };
    let mut harness = Harness::with_options(options, counter::application).unwrap();
    let callers: Vec<_> = (0..CALLERS).map(|index| harness.caller(&format!("caller-{index}"), true).unwrap()).collect();
    thread::scope(|scope| {
        for caller in callers {
            scope.spawn(move || (0..COUNTS).for_each(|_| drop(caller.invoke("count", b"visitors").unwrap())));
        }
    });
    assert_eq!(harness.invoke("read", b"visitors").unwrap(), (CALLERS * COUNTS).to_string().as_bytes());
}
