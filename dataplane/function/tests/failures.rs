//! What goes wrong in a function, and that the next call does not notice.

use std::time::{Duration, Instant};

use praas_function::testing::{Harness, HarnessError, HarnessOptions};
use praas_function::{Application, ApplicationError, Call, FunctionError, FunctionResult, WorkerError, codes};
use praas_protocol::CallError;
use praas_protocol::limits::ERROR_MESSAGE_BYTES_MAX;

const PATIENCE: Duration = Duration::from_secs(20);

fn application() -> Application {
    let mut calls = 0_u32;
    Application::new()
        .function("count", move |_: &mut Call| {
            calls += 1;
            calls.to_string()
        })
        .function("fail", |call: &mut Call| -> FunctionResult {
            let code = std::str::from_utf8(call.input())?.parse()?;
            Err(FunctionError::new(code, format!("failed with {code}")))
        })
        .function("wordy", |_: &mut Call| -> FunctionResult { Err(FunctionError::new(1, "é".repeat(5000))) })
        .function("panic", |call: &mut Call| -> FunctionResult {
            let output = call.output(100_000)?;
            output.fill(1);
            panic!("no {}", "way")
        })
        .function("wordy-panic", |_: &mut Call| -> FunctionResult { panic!("{}", "é".repeat(5000)) })
        .function("odd-panic", |_: &mut Call| -> FunctionResult { std::panic::panic_any(7_u8) })
        .function("large", |call: &mut Call| {
            call.output(600 << 10)?.fill(1);
            Ok(())
        })
        .function("echo", |call: &mut Call| call.reply(call.input()))
}

fn harness() -> Harness {
    Harness::new(application).unwrap()
}

#[test]
fn an_unknown_function_is_named() {
    let error = harness().invoke("absent", b"").unwrap_err();
    assert_eq!(error, CallError::UnknownFunction { function: "absent".to_owned() });
}

#[test]
fn error_codes_and_messages_reach_the_caller() {
    let harness = harness();
    for code in [0, 1, 404, codes::RESERVED - 1] {
        let error = harness.invoke("fail", code.to_string().as_bytes()).unwrap_err();
        assert_eq!(error, CallError::FunctionFailed { code, message: format!("failed with {code}") });
    }
    let error = harness.invoke("fail", b"not a number").unwrap_err();
    let message = "invalid digit found in string".to_owned();
    assert_eq!(error, CallError::FunctionFailed { code: codes::UNCODED, message });
    let error = harness.invoke("fail", codes::RESERVED.to_string().as_bytes()).unwrap_err();
    assert!(matches!(&error, CallError::FunctionPanicked { message } if message.contains("belongs to the SDK")));
}

#[test]
fn a_panic_is_told_with_its_place_and_the_next_call_works() {
    let harness = harness();
    for caller in [harness.trusted(), harness.untrusted()] {
        // More panics than the lane has cells and blocks: nothing is lost by one.
        for _ in 0..100 {
            match caller.invoke("panic", &[1; 100_000]).unwrap_err() {
                CallError::FunctionPanicked { message } => {
                    assert!(message.contains("failures.rs:") && message.ends_with("no way"), "{message}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(caller.invoke("echo", b"still here").unwrap(), b"still here");
        }
        assert!(matches!(caller.invoke("odd-panic", b""), Err(CallError::FunctionPanicked { .. })));
    }
    // The same worker all along: it kept its count.
    assert_eq!(harness.invoke("count", b"").unwrap(), b"1");
    assert_eq!(harness.untrusted().invoke("count", b"").unwrap(), b"2");
}

#[test]
fn a_reply_that_finds_no_room_is_lost_alone() {
    let options = HarnessOptions { payload_bytes_max: 1 << 20, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, application).unwrap();
    // The lane's room for replies is one payload of the largest size; an answer keeps its part until it is taken.
    let payload = vec![1; 600 << 10];
    for caller in [harness.trusted(), harness.untrusted()] {
        for _ in 0..3 {
            let kept = caller.begin("large", b"", None).unwrap();
            let start = Instant::now();
            while !kept.is_answered() {
                assert!(start.elapsed() < PATIENCE, "no answer came");
                std::thread::yield_now();
            }
            match caller.invoke("large", b"").unwrap_err() {
                CallError::ReplyLost { free_bytes, actual_bytes } => {
                    assert_eq!(actual_bytes, payload.len() as u64);
                    assert!(free_bytes < actual_bytes, "{free_bytes}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(caller.invoke("echo", b"small").unwrap(), b"small");
            assert!(kept.wait().unwrap() == payload);
            assert!(caller.invoke("large", b"").unwrap() == payload);
        }
    }
}

#[test]
fn a_caller_that_outlives_its_process_is_told() {
    let mut harness = harness();
    let caller = harness.caller("survivor", true).unwrap();
    assert_eq!(caller.invoke("echo", b"x").unwrap(), b"x");
    drop(harness);
    let error = caller.invoke("echo", b"x").unwrap_err();
    assert!(matches!(error, CallError::ConnectionLost { may_have_run: false }), "{error:?}");
}

#[test]
fn long_messages_are_cut_between_characters() {
    let harness = harness();
    let message = match harness.invoke("wordy", b"").unwrap_err() {
        CallError::FunctionFailed { code: 1, message } => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(message, "é".repeat(ERROR_MESSAGE_BYTES_MAX / 2));
    match harness.invoke("wordy-panic", b"").unwrap_err() {
        CallError::FunctionPanicked { message } => {
            assert!(message.starts_with("at ") && message.len() <= ERROR_MESSAGE_BYTES_MAX);
            assert!(message.ends_with('é'), "the cut broke a character");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_application_that_is_wrong_in_itself_does_not_start() {
    let error = Harness::new(|| Application::new().function("twice", |_| ()).function("twice", |_| ())).unwrap_err();
    match error {
        HarnessError::Worker(WorkerError::Application(ApplicationError::Duplicate {
            name,
            first_place,
            second_place,
        })) => {
            assert_eq!(name, "twice");
            assert!(first_place.file().ends_with("failures.rs") && second_place.file().ends_with("failures.rs"));
        }
        other => panic!("{other:?}"),
    }
    let error = Harness::new(|| Application::new().function("Not a name", |_| ())).unwrap_err();
    assert!(error.to_string().contains("Not a name"), "{error}");
    assert!(matches!(Harness::new(|| panic!("in main")).unwrap_err(), HarnessError::Panicked));
    let none = HarnessOptions { workers: 0, ..HarnessOptions::default() };
    assert!(matches!(Harness::with_options(none, application).unwrap_err(), HarnessError::Workers { workers: 0 }));
}
