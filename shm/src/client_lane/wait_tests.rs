//! Waits that are disturbed: sleeps end early, by a signal or by a peer that wakes without reason.

use std::thread;

use super::wrap_tests::Lane;
use super::*;

#[test]
fn a_sleep_that_ends_early_does_not_bring_the_deadline_forward() {
    let lane = Lane::at(0, 0);
    let ticket = lane.client.submit(FunctionId::of("f"), Payload::Bytes(&[]), 0, 0).unwrap();
    let timeout = Duration::from_millis(PARKED_CHECK_MS + PARKED_CHECK_MS / 2);
    for timeout in [timeout / 4, timeout] {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    lane.client.cell(&ticket).wake_waiters();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let start = Instant::now();
            let end = lane.client.wait(&ticket, WaitMode::Park, timeout);
            let waited = start.elapsed();
            done.store(true, Ordering::Relaxed);
            assert_eq!(end, WaitEnd::DeadlinePassed);
            // A twentieth for the time-stamp counter, whose rate is measured.
            assert!(waited >= timeout - timeout / 20, "waited {waited:?} of {timeout:?}");
        });
    }
    assert!(matches!(lane.client.retract(ticket), Retracted::NeverRan { .. }));
}
