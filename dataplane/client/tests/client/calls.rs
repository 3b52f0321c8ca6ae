//! Blocking and pipelined calls, deadlines, cancels, and threads that share a process.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Function, WaitMode};

use crate::scripted::{Installation, Script, eventually};

const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_call_returns_what_its_function_returned() {
    let here = Installation::new(Script::default());
    const ECHO: Function<'static> = Function::new("echo");
    assert_eq!(here.process.invoke("echo", b"hello").unwrap().as_slice(), b"hello");
    assert_eq!(here.process.invoke(ECHO, b"").unwrap().len(), 0);
    for bytes in [1, 64, 65, 96, 97, 5000, 1 << 20] {
        let payload: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
        assert_eq!(here.process.invoke("echo", &payload).unwrap().into_vec(), payload, "{bytes} bytes");
    }
}

#[test]
fn every_wait_mode_brings_the_answer() {
    for mode in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park] {
        let here = Installation::with_options(Script::default(), |options| options.wait_mode(mode));
        for round in 0..100_u32 {
            let reply = here.process.invoke("echo", &round.to_le_bytes()).unwrap();
            assert_eq!(reply.as_slice(), round.to_le_bytes(), "{mode:?}");
        }
    }
}

#[test]
fn the_ways_in_which_a_function_ends_are_told_apart() {
    let here = Installation::new(Script::default());
    let failed = CallError::FunctionFailed { code: 42, message: "no such document".into() };
    assert_eq!(here.process.invoke("fail", b"").unwrap_err(), failed);
    assert_eq!(here.process.invoke("crash", b"").unwrap_err(), CallError::WorkerLost);
    let unknown = CallError::UnknownFunction { function: "nothing".into() };
    assert_eq!(here.process.invoke("nothing", b"").unwrap_err(), unknown);
    assert_eq!(here.process.start("nothing", b"").unwrap().wait().unwrap_err(), unknown);
    assert_eq!(here.process.invoke("echo", b"still there").unwrap().as_slice(), b"still there");
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_sent() {
    let here = Installation::new(Script { payload_bytes_max: 4096, ..Script::default() });
    let refused = CallError::PayloadTooLarge { limit_bytes: 4096, actual_bytes: 4097 };
    assert_eq!(here.process.invoke("echo", vec![0; 4097]).unwrap_err(), refused);
    assert_eq!(here.process.loan(4097).unwrap_err(), refused);
    assert_eq!(here.shared().runs.load(Ordering::SeqCst), 0);
}

#[test]
fn pipelined_calls_are_all_on_their_way_before_one_is_collected() {
    let here = Installation::new(Script::default());
    let calls: Vec<_> = (0..10_u8).map(|index| here.process.start("echo", &[index]).unwrap()).collect();
    for (index, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(usize::from(call.wait().unwrap()[0]), index);
    }
}

#[test]
fn a_full_lane_refuses_the_next_call_at_once() {
    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let mut held = Vec::new();
    let refused = loop {
        match here.process.start("hold", b"x") {
            Ok(call) => held.push(call),
            Err(error) => break error,
        }
        assert!(held.len() <= 64, "a lane for 4 calls took {}", held.len());
    };
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    here.shared().open_gate();
    for call in held {
        assert_eq!(call.wait().unwrap().as_slice(), b"x");
    }
    here.process.invoke("echo", b"room again").unwrap();
}

#[test]
fn a_deadline_ends_the_wait_alone() {
    let here = Installation::new(Script::default());
    let ended = here.process.call("hold").payload(b"x").deadline(SHORT).send().unwrap_err();
    assert_eq!(ended, CallError::DeadlineExceeded { deadline_ns: 30_000_000 });
    eventually("the function still runs", || here.shared().held.load(Ordering::SeqCst) == 1);
    here.shared().open_gate();
    assert_eq!(here.process.invoke("echo", b"next").unwrap().as_slice(), b"next");
}

#[test]
fn a_spinning_wait_ends_at_its_deadline_too() {
    let here = Installation::with_options(Script::default(), |options| options.wait_mode(WaitMode::Spin));
    let ended = here.process.call("hold").deadline(SHORT).send().unwrap_err();
    assert!(matches!(ended, CallError::DeadlineExceeded { .. }), "{ended}");
    here.shared().open_gate();
}

#[test]
fn abandoned_calls_fill_the_quarantine_and_leave_it_when_answered() {
    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let mut abandoned = 0;
    let refused = loop {
        match here.process.start("hold", &[0; 100]) {
            // Some by dropping, some by word.
            Ok(call) if abandoned % 2 == 0 => call.cancel(),
            Ok(call) => drop(call),
            Err(error) => break error,
        }
        abandoned += 1;
        assert!(abandoned <= 64);
    };
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    // A future would wait for room; but room that only abandoned calls could give is not waited for.
    let future = here.process.call("echo").payload(b"x");
    let refused = crate::futures::block_on(async { future.await }).unwrap_err();
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    here.shared().open_gate();
    eventually("there is room again", || here.process.invoke("echo", b"x").is_ok());
}

#[test]
fn is_done_says_whether_waiting_would_return_at_once() {
    let here = Installation::new(Script::default());
    let call = here.process.start("hold", b"x").unwrap();
    eventually("the call is taken", || here.shared().held.load(Ordering::SeqCst) == 1);
    assert!(!call.is_done());
    here.shared().open_gate();
    eventually("the call is answered", || call.is_done());
    assert_eq!(call.wait().unwrap().as_slice(), b"x");
}

#[test]
fn threads_share_a_process_and_calls_complete_out_of_order() {
    let here = Installation::new(Script { workers: 2, ..Script::default() });
    // One worker is held by the first call; all later ones overtake it on the other.
    let first = here.process.start("hold", b"first").unwrap();
    eventually("the first call is taken", || here.shared().held.load(Ordering::SeqCst) == 1);
    thread::scope(|scope| {
        for thread in 0..4_u32 {
            let process = &here.process;
            scope.spawn(move || {
                for round in 0..200_u32 {
                    let payload = [thread.to_le_bytes(), round.to_le_bytes()].concat();
                    assert_eq!(process.invoke("echo", &payload).unwrap().as_slice(), payload);
                }
            });
        }
    });
    assert!(!first.is_done());
    here.shared().open_gate();
    assert_eq!(first.wait().unwrap().as_slice(), b"first");
}

#[test]
fn replies_in_place_outlive_the_process_handle() {
    let here = Installation::new(Script::default());
    let Installation { process, client, server, directory } = here;
    let reply = process.invoke("in place", &5000_u32.to_le_bytes()).unwrap();
    drop(process);
    eventually("the lane is closed", || server.shared().lanes_closed.load(Ordering::SeqCst) == 1);
    assert_eq!(reply.as_slice(), [5; 5000]);
    drop((client, server, directory));
    assert_eq!(reply.into_vec(), [5; 5000]);
}
