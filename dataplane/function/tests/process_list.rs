//! What a function sees of the processes of its application, without a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, FunctionResult, ProcessListError, ProcessState};
use praas_protocol::CallError;

/// No test takes this long; one that would is broken.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_function_sees_its_own_process_and_asks_for_it_in_no_time() {
    let harness = Harness::new(|| {
        Application::new().function("look", |call: &mut Call| -> FunctionResult<String> {
            let context = call.context();
            let first = context.processes()?;
            let own = context.process().process;
            assert_eq!(first.state_of(&own), Some(ProcessState::Active));
            assert_eq!(first.state_of(&"nobody".parse().unwrap()), None);
            assert!(!first.is_empty());
            for _ in 0..1000 {
                let list = context.processes()?;
                assert_eq!((list.change(), list.len()), (first.change(), 1));
            }
            assert_eq!(context.watch_processes(0, Duration::ZERO)?.change(), first.change(), "any list will do");
            Ok(own.to_string())
        })
    })
    .unwrap();
    assert_eq!(harness.invoke("look", b"").unwrap(), b"harness");
    assert_eq!(harness.untrusted().invoke("look", b"").unwrap(), b"harness");
}

#[test]
fn a_watch_in_which_nothing_changes_ends_when_its_time_is_over() {
    let harness = Harness::new(|| {
        Application::new().function("watch", |call: &mut Call| -> FunctionResult {
            let context = call.context();
            let change = context.processes()?.change();
            for within in [Duration::ZERO, Duration::from_millis(30)] {
                let start = Instant::now();
                let ended = context.watch_processes(change, within).unwrap_err();
                assert_eq!(ended, ProcessListError::DeadlineExceeded { waited: within });
                assert!(start.elapsed() >= within, "it ended early");
            }
            Ok(())
        })
    })
    .unwrap();
    harness.invoke("watch", b"").unwrap();
}

#[test]
fn a_watch_ends_when_its_caller_gives_up() {
    let (watches, has_ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let flags = (Arc::clone(&watches), Arc::clone(&has_ended));
    let harness = Harness::with_options(HarnessOptions::default(), move || {
        let (watches, has_ended) = flags.clone();
        Application::new().function("watch", move |call: &mut Call| -> FunctionResult {
            let context = call.context();
            let change = context.processes()?.change();
            watches.store(true, Ordering::Release);
            let ended = context.watch_processes(change, PATIENCE * 10);
            assert_eq!(ended.as_ref().unwrap_err(), &ProcessListError::Cancelled);
            has_ended.store(true, Ordering::Release);
            ended?;
            Ok(())
        })
    })
    .unwrap();
    let wait_for = |flag: &AtomicBool| {
        let start = Instant::now();
        while !flag.swap(false, Ordering::AcqRel) {
            assert!(start.elapsed() < PATIENCE, "it took too long");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let pending = harness.begin("watch", b"", None).unwrap();
    wait_for(&watches);
    pending.cancel();
    wait_for(&has_ended);
    let late = harness.begin("watch", b"", Some(Duration::from_millis(30))).unwrap().wait();
    assert!(matches!(late, Err(CallError::DeadlineExceeded { .. })), "{late:?}");
    wait_for(&has_ended);
}
