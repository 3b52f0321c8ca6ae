//! Payloads of every kind of size, from trusted and untrusted callers, through a real lane.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use praas_function::testing::{Caller, Harness, HarnessOptions};
use praas_function::{Application, Call, FunctionResult};
use praas_protocol::CallError;
use praas_protocol::limits::{REPLY_INLINE_BYTES, REQUEST_INLINE_BYTES};

const LIMIT: u32 = 5 << 20;

fn reverse(call: &mut Call) -> FunctionResult {
    let input = call.input();
    let output = call.output(input.len())?;
    for (to, from) in output.iter_mut().zip(input.iter().rev()) {
        *to = *from;
    }
    Ok(())
}

fn length_from(call: &mut Call) -> FunctionResult<usize> {
    Ok(std::str::from_utf8(call.input())?.parse()?)
}

fn application() -> Application {
    Application::new()
        .function("echo", |call: &mut Call| call.reply(call.input()))
        .function("copy", |call: &mut Call| call.input().to_vec())
        .function("reverse", reverse)
        .function("nothing", |_: &mut Call| ())
        .function("text", |_: &mut Call| "some text")
        .function("bytes", |_: &mut Call| [1_u8, 2, 3])
        .function("fallible", |call: &mut Call| -> FunctionResult<String> {
            Ok(std::str::from_utf8(call.input())?.to_uppercase())
        })
        .function("output", |call: &mut Call| {
            let bytes = length_from(call)?;
            call.output(bytes)?.fill(7);
            Ok(())
        })
        .function("owned", |call: &mut Call| Ok(vec![7_u8; length_from(call)?]))
        .function("replaced", |call: &mut Call| {
            call.output(200_000)?.fill(1);
            call.output(100)?.fill(2);
            call.reply(b"third")
        })
        .function("untouched", |call: &mut Call| {
            let bytes = length_from(call)?;
            call.output(bytes)?;
            Ok(())
        })
}

fn harness() -> Harness {
    Harness::with_options(HarnessOptions { payload_bytes_max: LIMIT, ..HarnessOptions::default() }, application)
        .unwrap()
}

fn both(harness: &Harness) -> [&Caller; 2] {
    [harness.trusted(), harness.untrusted()]
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

fn sizes() -> Vec<usize> {
    let mut sizes = vec![0, 1, 4096, 4 << 20];
    for boundary in [REQUEST_INLINE_BYTES, REPLY_INLINE_BYTES, 1 << 20, LIMIT as usize] {
        sizes.extend([boundary - 1, boundary, boundary + 1].into_iter().filter(|&size| size <= LIMIT as usize));
    }
    sizes
}

#[test]
fn payloads_of_every_boundary_size_come_back_whole() {
    let harness = harness();
    for caller in both(&harness) {
        for bytes in sizes() {
            let payload = pattern(bytes);
            for function in ["echo", "copy"] {
                assert!(caller.invoke(function, &payload).unwrap() == payload, "{function} of {bytes} bytes");
            }
            let mut backwards = payload.clone();
            backwards.reverse();
            assert!(caller.invoke("reverse", &payload).unwrap() == backwards, "reverse of {bytes} bytes");
        }
    }
}

#[test]
fn a_payload_over_the_limit_is_refused_with_both_figures() {
    let harness = harness();
    let too_large = CallError::PayloadTooLarge { limit_bytes: LIMIT.into(), actual_bytes: u64::from(LIMIT) + 1 };
    for caller in both(&harness) {
        assert_eq!(caller.invoke("echo", &pattern(LIMIT as usize + 1)).unwrap_err(), too_large);
        for function in ["output", "owned"] {
            let text = (LIMIT + 1).to_string();
            assert_eq!(caller.invoke(function, text.as_bytes()).unwrap_err(), too_large, "{function}");
            let text = LIMIT.to_string();
            assert_eq!(caller.invoke(function, text.as_bytes()).unwrap().len(), LIMIT as usize, "{function}");
        }
    }
}

#[test]
fn whatever_a_function_returns_reaches_the_caller() {
    let harness = harness();
    for caller in both(&harness) {
        assert_eq!(caller.invoke("nothing", b"x").unwrap(), b"");
        assert_eq!(caller.invoke("text", b"").unwrap(), b"some text");
        assert_eq!(caller.invoke("bytes", b"").unwrap(), [1, 2, 3]);
        assert_eq!(caller.invoke("fallible", b"loud").unwrap(), b"LOUD");
        assert_eq!(caller.invoke("replaced", b"").unwrap(), b"third");
    }
}

#[test]
fn an_untrusted_caller_never_reads_the_output_of_another_call() {
    let harness = harness();
    assert_eq!(harness.trusted().invoke("output", b"90").unwrap(), [7; 90]);
    assert_eq!(harness.untrusted().invoke("output", b"200000").unwrap(), vec![7; 200_000]);
    for bytes in ["90", "200000"] {
        let answer = harness.untrusted().invoke("untouched", bytes.as_bytes()).unwrap();
        assert!(answer.iter().all(|byte| *byte == 0), "{bytes} bytes");
    }
}

#[test]
fn a_trusted_input_is_read_in_the_lane_and_an_untrusted_one_is_a_private_copy() {
    let seen = Arc::new(AtomicUsize::new(0));
    let record = Arc::clone(&seen);
    let harness = Harness::new(move || {
        let record = Arc::clone(&record);
        Application::new().function("where", move |call: &mut Call| {
            record.store(call.input().as_ptr().addr(), Ordering::Relaxed);
        })
    })
    .unwrap();
    for (caller, expected) in [(harness.trusted(), true), (harness.untrusted(), false)] {
        caller.invoke("where", &pattern(100_000)).unwrap();
        let address = seen.load(Ordering::Relaxed);
        assert_eq!(address % 16, 0);
        assert_eq!(is_shared_memory(address), expected);
    }
}

#[test]
fn a_trusted_output_is_written_in_the_lane_and_an_untrusted_one_in_private() {
    let seen = Arc::new(AtomicUsize::new(0));
    let record = Arc::clone(&seen);
    let harness = Harness::new(move || {
        let record = Arc::clone(&record);
        Application::new().function("where", move |call: &mut Call| {
            record.store(call.output(100_000)?.as_ptr().addr(), Ordering::Relaxed);
            Ok(())
        })
    })
    .unwrap();
    for (caller, expected) in [(harness.trusted(), true), (harness.untrusted(), false)] {
        assert_eq!(caller.invoke("where", b"").unwrap().len(), 100_000);
        let address = seen.load(Ordering::Relaxed);
        assert_eq!(address % 16, 0);
        assert_eq!(is_shared_memory(address), expected);
    }
}

/// Whether `address` lies in a mapping of a memfd, by the kernel's list of this process's mappings.
fn is_shared_memory(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let hit = maps.lines().find(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let bound = |text| usize::from_str_radix(text, 16).unwrap();
        (bound(start)..bound(end)).contains(&address)
    });
    hit.is_some_and(|line| line.contains("memfd:"))
}
