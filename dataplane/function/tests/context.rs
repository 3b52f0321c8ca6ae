//! What a function knows about its call: who calls, how long it may take, whether anyone still waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, FunctionResult};
use praas_protocol::CallError;
use praas_protocol::control::WaitMode;

/// No test takes this long; one that would is broken.
const PATIENCE: Duration = Duration::from_secs(20);

const RUNNING: u32 = 1;
const SAW_CANCEL: u32 = 2;
const SAW_DEADLINE: u32 = 3;
const GAVE_UP: u32 = 4;

/// An application whose function `wait` runs until nobody waits for it and, when it is called with the word `late`, until
/// its time is over; it says in `state` how it went.
fn waiter(state: &Arc<AtomicU32>) -> impl Fn() -> Application + Send + Sync + 'static {
    let state = Arc::clone(state);
    move || {
        let state = Arc::clone(&state);
        Application::new()
            .function("echo", |call: &mut Call| call.reply(call.input()))
            .function("wait", move |call: &mut Call| wait_for_end(call, &state))
    }
}

fn wait_for_end(call: &mut Call, state: &AtomicU32) -> FunctionResult {
    let context = call.context();
    let outlasts_deadline = call.input() == b"late";
    state.store(RUNNING, Ordering::Release);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let has_time = outlasts_deadline && context.time_remaining() != Some(Duration::ZERO);
        if context.is_cancelled() && !has_time {
            let error = context.ensure_wanted().unwrap_err();
            let saw = if error.to_string().contains("deadline") { SAW_DEADLINE } else { SAW_CANCEL };
            state.store(saw, Ordering::Release);
            return Err(error);
        }
        std::thread::yield_now();
    }
    state.store(GAVE_UP, Ordering::Release);
    Ok(())
}

fn await_state(state: &AtomicU32, wanted: u32) {
    let start = Instant::now();
    while state.load(Ordering::Acquire) != wanted {
        assert!(start.elapsed() < PATIENCE, "state {} instead of {wanted}", state.load(Ordering::Acquire));
        std::thread::yield_now();
    }
}

#[test]
fn a_running_function_sees_its_caller_cancel() {
    let state = Arc::new(AtomicU32::new(0));
    let harness = Harness::new(waiter(&state)).unwrap();
    for caller in [harness.trusted(), harness.untrusted()] {
        let call = caller.begin("wait", b"", None).unwrap();
        await_state(&state, RUNNING);
        assert!(!call.is_answered());
        call.cancel();
        await_state(&state, SAW_CANCEL);
        assert_eq!(caller.invoke("echo", b"next").unwrap(), b"next");
    }
}

#[test]
fn a_running_function_sees_its_callers_deadline_pass() {
    let state = Arc::new(AtomicU32::new(0));
    let harness = Harness::new(waiter(&state)).unwrap();
    let call = harness.begin("wait", b"late", Some(Duration::from_millis(100))).unwrap();
    let error = call.wait().unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error:?}");
    await_state(&state, SAW_DEADLINE);
    assert_eq!(harness.invoke("echo", b"next").unwrap(), b"next");
}

#[test]
fn a_function_knows_the_time_it_has() {
    let harness = Harness::new(|| {
        Application::new().function("time", |call: &mut Call| {
            let context = call.context();
            let first = context.time_remaining();
            let second = context.time_remaining();
            assert!(second <= first, "time runs backwards");
            match first {
                Some(remaining) => remaining.as_nanos().to_string(),
                None => "none".to_owned(),
            }
        })
    })
    .unwrap();
    let given = Duration::from_secs(1000);
    let answer = harness.begin("time", b"", Some(given)).unwrap().wait().unwrap();
    let remaining = Duration::from_nanos(String::from_utf8(answer).unwrap().parse().unwrap());
    assert!(remaining <= given && remaining > given / 2, "{remaining:?} of {given:?}");
    assert_eq!(harness.begin("time", b"", None).unwrap().wait().unwrap(), b"none");
}

#[test]
fn a_function_knows_who_calls_and_where_it_runs() {
    let mut harness = Harness::new(|| {
        Application::new().function("who", |call: &mut Call| {
            let context = call.context();
            let (principal, trusted) = (context.principal(), context.is_caller_trusted());
            format!("{principal} {trusted} {} {}", context.process(), context.worker_index())
        })
    })
    .unwrap();
    let third = harness.caller("third", true).unwrap();
    assert_eq!(harness.trusted().invoke("who", b"").unwrap(), b"insider true testing/harness 0");
    assert_eq!(harness.untrusted().invoke("who", b"").unwrap(), b"outsider false testing/harness 0");
    assert_eq!(third.invoke("who", b"").unwrap(), b"third true testing/harness 0");
    assert!(harness.caller("Not A Name", true).is_err());
    harness.close(third).unwrap();
    // More callers one after the other than a process has lanes at a time.
    for index in 0..300 {
        let name = format!("guest-{index}");
        let guest = harness.caller(&name, index % 2 == 0).unwrap();
        let expected = format!("{name} {} testing/harness 0", index % 2 == 0);
        assert_eq!(guest.invoke("who", b"").unwrap(), expected.as_bytes());
        harness.close(guest).unwrap();
    }
}

#[test]
fn a_clients_own_call_has_no_root_but_itself() {
    let harness = Harness::new(|| {
        Application::new().function("root", |call: &mut Call| format!("{:?}", call.context().root_id()))
    })
    .unwrap();
    assert_eq!(harness.invoke("root", b"").unwrap(), b"None");
}

#[test]
fn several_workers_run_calls_at_the_same_time() {
    let inside = Arc::new(AtomicU32::new(0));
    let shared = Arc::clone(&inside);
    let options = HarnessOptions { workers: 3, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, move || {
        let inside = Arc::clone(&shared);
        Application::new().function("meet", move |call: &mut Call| -> FunctionResult<String> {
            inside.fetch_add(1, Ordering::AcqRel);
            let start = Instant::now();
            while inside.load(Ordering::Acquire) < 3 {
                assert!(start.elapsed() < PATIENCE, "the others never came");
                std::thread::yield_now();
            }
            Ok(call.context().worker_index().to_string())
        })
    })
    .unwrap();
    let calls: Vec<_> = (0..3).map(|_| harness.begin("meet", b"", Some(PATIENCE * 2)).unwrap()).collect();
    let mut workers: Vec<Vec<u8>> = calls.into_iter().map(|call| call.wait().unwrap()).collect();
    workers.sort();
    assert_eq!(workers, [b"0", b"1", b"2"]);
}

#[test]
fn every_wait_mode_answers() {
    for wait_mode in [WaitMode::Park, WaitMode::Adaptive, WaitMode::Spin] {
        let state = Arc::new(AtomicU32::new(0));
        let options = HarnessOptions { wait_mode, ..HarnessOptions::default() };
        let harness = Harness::with_options(options, waiter(&state)).unwrap();
        for index in 0..200_u32 {
            assert_eq!(harness.invoke("echo", &index.to_le_bytes()).unwrap(), index.to_le_bytes(), "{wait_mode:?}");
        }
    }
}
