//! Calls from function to function through the harness: how they end, and what is refused before they begin.

use std::time::Duration;

use super::{CallError, InvokeOptions};
use crate::testing::{Harness, HarnessOptions};
use crate::{Application, Call, Context, FunctionResult, SELF};

fn application() -> Application {
    Application::new()
        .function("echo", |call: &mut Call<'_>| call.reply(call.input()))
        .function("fail", |_: &mut Call<'_>| -> FunctionResult { Err(crate::FunctionError::new(7, "as asked")) })
        .function("sleep", |_: &mut Call<'_>| std::thread::sleep(Duration::from_millis(200)))
        .function("pass-on", |call: &mut Call<'_>| {
            call.context().invoke("bob", "echo", call.input()).map_err(Into::into)
        })
        .function("reflect", |call: &mut Call<'_>| -> FunctionResult {
            let output = call.context().invoke(SELF, "echo", call.input())?;
            call.reply(&output)
        })
        .function("ends", |call: &mut Call<'_>| ends(&call.context()))
        .function("all", |call: &mut Call<'_>| {
            let answers = call.context().gather(["bob", "nobody", "carol"], "echo", call.input());
            answers.iter().map(|answer| char::from(if answer.is_ok() { b'+' } else { b'-' })).collect::<String>()
        })
}

/// Ends that are not answers, as their caller sees them.
fn ends(context: &Context<'_>) -> String {
    let brief = InvokeOptions::new().deadline(Duration::from_millis(10));
    let ends = [
        context.invoke("bob", "fail", b""),
        context.invoke("bob", "unheard-of", b""),
        context.invoke("nobody", "echo", b""),
        context.invoke_with("bob", "sleep", b"", &brief),
        context.invoke_with("bob", "echo", b"", &InvokeOptions::new().deadline(Duration::ZERO)),
        context.invoke("bob", "echo", &vec![0; 70 << 20]),
    ];
    ends.map(|end| format!("{:?}", end.err())).join("\n")
}

fn harness(workers: u8) -> Harness {
    Harness::with_options(HarnessOptions { workers, ..HarnessOptions::default() }, application).unwrap()
}

#[test]
fn functions_call_those_of_other_processes_and_of_their_own() {
    let harness = harness(2);
    let _bob = harness.another("bob").unwrap();
    for bytes in [0, 1, 64, 65, 96, 97, 100_000] {
        let input = vec![9; bytes];
        for _ in 0..20 {
            assert_eq!(harness.invoke("pass-on", &input).unwrap(), input);
            assert_eq!(harness.invoke("reflect", &input).unwrap(), input);
        }
    }
    let _carol = harness.another("carol").unwrap();
    assert_eq!(harness.invoke("all", b"x").unwrap(), b"+-+");
}

#[test]
fn every_end_of_a_call_is_typed() {
    let harness = harness(1);
    let _bob = harness.another("bob").unwrap();
    let ends = String::from_utf8(harness.invoke("ends", b"").unwrap()).unwrap();
    let expected = [
        "FunctionFailed { code: 7",
        "UnknownFunction { function: \"unheard-of\" }",
        "UnknownProcess",
        "DeadlineExceeded { deadline_ns: 10000000 }",
        "DeadlineExceeded { deadline_ns: 0 }",
        "PayloadTooLarge",
    ];
    for (end, expected) in ends.split('\n').zip(expected) {
        assert!(end.contains(expected), "{end} instead of {expected}");
    }
    assert!(matches!(harness.invoke("pass-on", b"x"), Ok(output) if output == b"x"));
}

#[test]
fn a_process_that_has_ended_is_unknown_and_one_that_comes_after_it_is_reached() {
    let harness = harness(1);
    for _ in 0..3 {
        let bob = harness.another("bob").unwrap();
        assert_eq!(harness.invoke("pass-on", b"there").unwrap(), b"there");
        drop(bob);
        let end = harness.begin("pass-on", b"gone", Some(Duration::from_millis(100))).and_then(|call| call.wait());
        assert!(!matches!(end, Ok(_) | Err(CallError::WorkerLost)), "{end:?}");
    }
}
