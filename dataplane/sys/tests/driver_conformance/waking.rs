//! Sleeping and being woken: wakers, doorbells, timeouts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_sys::Doorbell;
use praas_sys::driver::{Completion, End};

use crate::harness::{Harness, SOON};

crate::for_each_driver!(
    a_waker_ends_a_sleep_without_end,
    no_call_of_a_waker_is_lost,
    a_sleep_ends_at_its_timeout,
    a_poll_does_not_sleep,
    a_doorbell_is_heard_each_time_it_rings,
    a_doorbell_that_rang_ends_after_it_is_heard,
    a_doorbell_that_rang_before_it_was_watched_is_heard,
    a_flooded_doorbell_does_not_keep_others_waiting,
    a_doorbell_without_writers_ends,
);

fn wait_for_call(harness: &mut Harness) -> bool {
    let end = Instant::now() + SOON;
    let mut completions = Vec::new();
    while Instant::now() < end {
        if harness.driver.wait(Some(SOON), &mut completions).expect("wait").woken {
            return true;
        }
    }
    false
}

fn a_waker_ends_a_sleep_without_end(harness: &mut Harness) {
    for _ in 0..20 {
        let waker = harness.driver.waker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            waker.wake();
        });
        assert!(wait_for_call(harness));
        thread.join().expect("the thread");
    }
    // A call before the sleep counts too, and several are one.
    harness.driver.waker().wake();
    harness.driver.waker().wake();
    assert!(wait_for_call(harness));
    let mut completions = Vec::new();
    assert!(!harness.driver.wait(Some(Duration::ZERO), &mut completions).expect("wait").woken);
}

fn no_call_of_a_waker_is_lost(harness: &mut Harness) {
    let (written, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (waker, stop) = (harness.driver.waker(), Arc::new(AtomicBool::new(false)));
    let thread = std::thread::spawn({
        let (written, seen, stop) = (Arc::clone(&written), Arc::clone(&seen), Arc::clone(&stop));
        move || {
            for value in 1..=5_000_u64 {
                written.store(value, Ordering::Relaxed);
                waker.wake();
                while seen.load(Ordering::Acquire) < value && !stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            }
        }
    });
    let end = Instant::now() + SOON;
    let mut completions = Vec::new();
    while seen.load(Ordering::Relaxed) < 5_000 {
        // A lost call would make this sleep its full time, and the last assertion fail.
        if harness.driver.wait(Some(SOON), &mut completions).expect("wait").woken {
            seen.store(written.load(Ordering::Relaxed), Ordering::Release);
        }
        if Instant::now() > end {
            stop.store(true, Ordering::Relaxed);
            break;
        }
    }
    thread.join().expect("the thread");
    assert_eq!(seen.load(Ordering::Relaxed), 5_000);
}

fn a_sleep_ends_at_its_timeout(harness: &mut Harness) {
    let (connection, _peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let mut completions = Vec::new();
    let (start, wanted) = (Instant::now(), Duration::from_millis(40));
    while start.elapsed() < wanted {
        let left = wanted.saturating_sub(start.elapsed());
        let turn = harness.driver.wait(Some(left), &mut completions).expect("wait");
        assert!(!turn.woken);
    }
    assert!(completions.is_empty());
    assert!(start.elapsed() < SOON);
}

fn a_poll_does_not_sleep(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let mut completions = Vec::new();
    for _ in 0..10_000 {
        harness.driver.wait(Some(Duration::ZERO), &mut completions).expect("wait");
        assert!(completions.is_empty());
    }
    crate::harness::write(&mut peer, b"hot");
    let end = Instant::now() + SOON;
    while completions.is_empty() {
        assert!(Instant::now() < end, "polling alone finds the bytes");
        harness.driver.wait(Some(Duration::ZERO), &mut completions).expect("wait");
    }
}

fn expect_ring(harness: &mut Harness) {
    harness.expect("a ring", |completion| match completion {
        Completion::Rang { token: 9 } => Ok(()),
        other => Err(other),
    });
}

fn a_doorbell_is_heard_each_time_it_rings(harness: &mut Harness) {
    let bell = Doorbell::new().expect("a doorbell");
    harness.driver.watch(bell.listen.try_clone().expect("duplicate"), 9).expect("room");
    for round in 0..50 {
        if round % 2 == 0 {
            harness.turn_for(Duration::from_millis(1));
        }
        bell.ring();
        if round % 5 == 0 {
            bell.ring();
        }
        expect_ring(harness);
        for completion in harness.everything_within_a_while() {
            // The second ring of a pair may have come after the first was drained.
            assert!(matches!(completion, Completion::Rang { token: 9 }) && round % 5 == 0, "{completion:?}");
        }
        assert!(!bell.drain(), "the driver has drained it");
    }
}

fn a_doorbell_that_rang_before_it_was_watched_is_heard(harness: &mut Harness) {
    let bell = Doorbell::new().expect("a doorbell");
    bell.ring();
    let watch = harness.driver.watch(bell.listen.try_clone().expect("duplicate"), 9).expect("room");
    expect_ring(harness);
    harness.driver.close(watch);
    harness.expect_closed(9);
    bell.ring();
    assert!(harness.everything_within_a_while().is_empty(), "nobody listens any more");
    assert!(bell.drain());
}

fn a_flooded_doorbell_does_not_keep_others_waiting(harness: &mut Harness) {
    let bell = Doorbell::new().expect("a doorbell");
    harness.driver.watch(bell.listen.try_clone().expect("duplicate"), 9).expect("room");
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let (stop, end) = (Arc::clone(&stop), Instant::now() + SOON);
        move || {
            let full = [1_u8; 4096];
            while !stop.load(Ordering::Relaxed) && Instant::now() < end {
                let _ = rustix::io::write(&bell.ring, &full);
            }
        }
    });
    for _ in 0..20 {
        crate::harness::write(&mut peer, b"through");
        assert_eq!(harness.expect_bytes(1, 7), b"through");
    }
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("the thread");
}

fn a_doorbell_that_rang_ends_after_it_is_heard(harness: &mut Harness) {
    for leaves_unheard in [true, false] {
        let Doorbell { ring, listen } = Doorbell::new().expect("a doorbell");
        let watch = harness.driver.watch(listen, 9).expect("room");
        harness.turn();
        rustix::io::write(&ring, &[1]).expect("a ring");
        if leaves_unheard {
            drop(ring);
            expect_ring(harness);
        } else {
            expect_ring(harness);
            drop(ring);
        }
        let end = harness.expect("the end", |completion| match completion {
            Completion::WatchEnded { token: 9, end } => Ok(end),
            other => Err(other),
        });
        assert_eq!(end, End::EndOfStream, "its writer left before the ring was heard: {leaves_unheard}");
        harness.driver.close(watch);
        harness.expect_closed(9);
    }
}

fn a_doorbell_without_writers_ends(harness: &mut Harness) {
    let Doorbell { ring, listen } = Doorbell::new().expect("a doorbell");
    let watch = harness.driver.watch(listen, 9).expect("room");
    harness.turn();
    drop(ring);
    let end = harness.expect("the end", |completion| match completion {
        Completion::WatchEnded { token: 9, end } => Ok(end),
        other => Err(other),
    });
    assert_eq!(end, End::EndOfStream);
    assert!(harness.everything_within_a_while().is_empty(), "it is said once");
    harness.driver.close(watch);
    harness.expect_closed(9);
}
