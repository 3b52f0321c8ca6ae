//! Calls from function to function through the harness: how they end, and what is refused before they begin.

use std::time::Duration;

use super::{CallError, IdempotencyKey, InputLoan, InvokeOptions};
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
        .function("part", |call: &mut Call<'_>| call.reply(&call.input()[..call.input().len() / 2]))
        .function("tail", |call: &mut Call<'_>| call.reply(&call.input()[call.input().len() / 2..]))
        .function("fill-lane", |call: &mut Call<'_>| -> FunctionResult<&'static str> {
            let bytes = u64::from_le_bytes(call.input().try_into().expect("eight bytes"));
            let bytes = usize::try_from(bytes).expect("a size");
            for _ in 0..2 {
                let kept = call.context().loan("bob", bytes)?.invoke("echo")?;
                assert_eq!(kept.len(), bytes);
                let refused = call.context().loan("bob", bytes);
                assert!(matches!(refused, Err(CallError::Overloaded { .. })), "{refused:?}");
            }
            Ok("full")
        })
        .function("watch", |call: &mut Call<'_>| -> FunctionResult<Vec<u8>> {
            let (bytes, function) = call.input().split_first_chunk().expect("a size");
            let bytes = usize::try_from(u32::from_le_bytes(*bytes)).expect("a size");
            let loan = call.context().loan(SELF, bytes)?;
            let place = loan.as_ptr();
            let answer = loan.invoke(std::str::from_utf8(function).expect("a name"))?;
            Ok(vec![u8::from(answer.as_ptr() == place)])
        })
        .function("build", |call: &mut Call<'_>| build(&call.context(), call.input().len()))
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

/// Calls whose input is built in the lane, in every way that they can be made.
fn build(context: &Context<'_>, bytes: usize) -> FunctionResult {
    let wanted: Vec<u8> = (0..=u8::MAX).cycle().skip(bytes % 7).take(bytes).collect();
    let built = || -> FunctionResult<InputLoan<'_>> {
        let mut loan = context.loan("bob", bytes)?;
        assert!(loan.len() == bytes && loan.as_ptr().addr().is_multiple_of(16));
        loan.copy_from_slice(&wanted);
        Ok(loan)
    };
    let whole = built()?.invoke("echo")?;
    assert_eq!(*whole, *wanted);
    drop(built()?);
    assert_eq!(*built()?.invoke("part")?, wanted[..bytes / 2]);
    assert_eq!(*built()?.invoke("tail")?, wanted[bytes / 2..]);
    let options = InvokeOptions::new().idempotency_key(IdempotencyKey::random());
    for _ in 0..2 {
        assert_eq!(*built()?.invoke_with("echo", &options)?, *wanted);
    }
    let (first, second) = (built()?.start("part")?, built()?.start("echo")?);
    assert_eq!(*second.wait()?, *wanted);
    assert_eq!(*first.wait()?, wanted[..bytes / 2]);
    drop(built()?.start("echo")?);
    let brief = InvokeOptions::new().deadline(Duration::from_millis(1));
    assert!(matches!(built()?.invoke_with("sleep", &brief), Err(CallError::DeadlineExceeded { .. })));
    assert!(matches!(built()?.invoke("unheard-of"), Err(CallError::UnknownFunction { .. })));
    // What was kept meanwhile is as it was.
    assert_eq!(*whole, *wanted);
    Ok(())
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
fn inputs_that_are_built_in_the_lane_arrive_and_their_memory_comes_back() {
    let harness = harness(1);
    let _bob = harness.another("bob").unwrap();
    for bytes in [0, 1, 64, 65, 96, 97, 1024, 5000, 100_000] {
        for _ in 0..3 {
            harness.invoke("build", &vec![0; bytes]).unwrap();
        }
    }
    // Two of this size have no room at once: the lane takes one payload of the largest size.
    let limit = HarnessOptions::default().payload_bytes_max as usize;
    assert_eq!(harness.invoke("fill-lane", &(limit as u64).to_le_bytes()).unwrap(), b"full");
}

#[test]
fn an_answer_that_is_its_input_is_read_where_it_was_written() {
    let harness = harness(2);
    for (function, stays) in [("echo", true), ("part", true), ("tail", false)] {
        for bytes in [200_u32, 100_000] {
            let input = [&bytes.to_le_bytes()[..], function.as_bytes()].concat();
            let seen = harness.invoke("watch", &input).unwrap();
            assert_eq!(seen, [u8::from(stays)], "{function} of {bytes} bytes");
        }
    }
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
