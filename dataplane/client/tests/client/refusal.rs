//! Requests that a draining or closed process refuses: sent again until it is active, within their deadline.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Phase};

use crate::scripted::{Installation, Script, alice, eventually};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn refused_calls_are_sent_again_when_the_process_is_active_again() {
    for close in [false, true] {
        let here = Installation::new(Script::default());
        let held = here.process.start("hold", b"held").unwrap();
        eventually("the worker is busy", || here.shared().held.load(Ordering::SeqCst) == 1);
        let before = here.process.start("echo", b"published before").unwrap();
        here.shared().drain();
        thread::scope(|scope| {
            let during = scope.spawn(|| here.process.invoke("echo", b"published during").unwrap().into_vec());
            let large = scope.spawn(|| here.process.invoke("echo", &[7; 5000]).unwrap().into_vec());
            let awaited = scope.spawn(|| {
                crate::futures::block_on(async { here.process.call("echo").payload(b"awaited").await })
                    .unwrap()
                    .into_vec()
            });
            here.shared().open_gate();
            assert_eq!(held.wait().unwrap().as_slice(), b"held");
            if close {
                here.shared().close();
            }
            thread::sleep(SHORT);
            here.shared().activate();
            assert_eq!(before.wait().unwrap().as_slice(), b"published before");
            assert_eq!(during.join().unwrap(), b"published during");
            assert_eq!(large.join().unwrap(), [7; 5000]);
            assert_eq!(awaited.join().unwrap(), b"awaited");
        });
        assert_eq!(here.shared().runs.load(Ordering::SeqCst), 5, "each ran once");
    }
}

#[test]
fn at_its_deadline_a_refused_call_says_that_the_process_is_unavailable() {
    let here = Installation::new(Script::default());
    // A free worker would claim some of them before the server refuses them.
    let held = here.process.start("hold", b"held").unwrap();
    eventually("the worker is busy", || here.shared().held.load(Ordering::SeqCst) == 1);
    here.shared().drain();
    let is_unavailable = |ended: CallError| match ended {
        CallError::Unavailable { phase } => phase == Phase::Draining,
        // The deadline fell between the taking of an attempt by the server and its refusal.
        CallError::DeadlineExceeded { .. } => false,
        other => panic!("{other}"),
    };
    eventually("a blocking call is unavailable", || {
        is_unavailable(here.process.call("echo").payload(b"x").deadline(SHORT).send().unwrap_err())
    });
    eventually("an awaited call is unavailable", || {
        let call = here.process.call("echo").deadline(SHORT);
        is_unavailable(crate::futures::block_on(async { call.await }).unwrap_err())
    });
    here.shared().open_gate();
    held.wait().unwrap();
    assert_eq!(here.shared().runs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_stopped_process_is_unknown_as_soon_as_the_server_says_so() {
    let here = Installation::new(Script::default());
    here.shared().rewrite(|script| script.known.clear());
    here.shared().close();
    let gone = CallError::UnknownProcess { process: alice() };
    assert_eq!(here.process.invoke("echo", b"x").unwrap_err(), gone);
    assert_eq!(here.process.start("echo", b"x").unwrap_err(), gone);
    assert_eq!(crate::futures::block_on(async { here.process.call("echo").await }).unwrap_err(), gone);
}

#[test]
fn a_refused_loan_is_sent_again_with_its_content() {
    for script in [Script::default(), Script { trusted: false, ..Script::default() }] {
        let here = Installation::new(script);
        let held = here.process.start("hold", b"held").unwrap();
        eventually("the worker is busy", || here.shared().held.load(Ordering::SeqCst) == 1);
        let mut loan = here.process.loan(5000).unwrap();
        loan.write_at(0, &[3; 5000]).unwrap();
        let call = here.process.start("echo", loan).unwrap();
        here.shared().drain();
        eventually("the call is refused", || call.is_done());
        here.shared().open_gate();
        held.wait().unwrap();
        here.shared().activate();
        assert_eq!(call.wait().unwrap().as_slice(), [3; 5000]);
    }
}
