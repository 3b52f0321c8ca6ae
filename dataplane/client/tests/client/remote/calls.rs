//! Calls, deadlines, room, loans and typed calls: the same as over a lane.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use praas_client::{CallError, Function, Phase, Process, RequestError, Route, WaitMode};
use praas_protocol::control::ControlError;

use super::wire_server::{Script, WireServer};
use crate::futures::{Together, block_on};
use crate::scripted::{alice, eventually};

const SHORT: Duration = Duration::from_millis(30);

#[test]
fn a_call_returns_what_its_function_returned() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    const ECHO: Function<'static> = Function::new("echo");
    assert_eq!(process.invoke("echo", b"hello").unwrap().as_slice(), b"hello");
    assert_eq!(process.invoke(ECHO, b"").unwrap().len(), 0);
    for bytes in [1, 64, 96, 97, 1024, 1025, 5000, 16_300, 16_384, 70_000, 1 << 20, 8 << 20] {
        let payload: Vec<u8> = (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let reply = process.invoke("echo", &payload).unwrap();
        assert_eq!(reply.as_slice().as_ptr().align_offset(16), 0);
        assert!(reply.into_vec() == payload, "{bytes} bytes");
    }
    assert!(!process.is_trusted());
    assert_eq!(process.route(), Route::Network { not_dedicated: None });
    assert_eq!(server.shared().opens.load(Ordering::SeqCst), 1);
}

#[test]
fn spinning_callers_get_their_answers_and_keep_their_deadlines() {
    let server = WireServer::start(Script::default());
    let client = praas_client::Client::connect(server.options().wait_mode(WaitMode::Spin)).unwrap();
    let process = client.process(alice()).unwrap();
    for round in 0..100_u32 {
        assert_eq!(process.invoke("echo", &round.to_le_bytes()).unwrap().as_slice(), round.to_le_bytes());
    }
    let late = process.call("silent").deadline(SHORT).send().unwrap_err();
    assert!(matches!(late, CallError::DeadlineExceeded { .. }), "{late}");
    assert_eq!(block_on(async { process.call("echo").payload(b"x").await }).unwrap().as_slice(), b"x");
}

#[test]
fn the_ways_in_which_a_function_ends_are_told_apart() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    let failed = CallError::FunctionFailed { code: 42, message: "no such document".into() };
    assert_eq!(process.invoke("fail", b"").unwrap_err(), failed);
    assert_eq!(process.invoke("crash", b"").unwrap_err(), CallError::WorkerLost);
    let unknown = CallError::UnknownFunction { function: "nothing".into() };
    assert_eq!(process.invoke("nothing", b"").unwrap_err(), unknown);
    assert_eq!(process.start("nothing", b"").unwrap().wait().unwrap_err(), unknown);
    assert_eq!(process.invoke("echo", b"still there").unwrap().as_slice(), b"still there");
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_sent() {
    let server = WireServer::start(Script { payload_bytes_max: 4096, ..Script::default() });
    let process = server.process();
    let refused = CallError::PayloadTooLarge { limit_bytes: 4096, actual_bytes: 4097 };
    assert_eq!(process.invoke("echo", vec![0; 4097]).unwrap_err(), refused);
    assert_eq!(process.loan(4097).unwrap_err(), refused);
    assert_eq!(process.payload_bytes_max(), 4096);
    assert_eq!(server.shared().runs(), 0);
}

#[test]
fn pipelined_calls_are_collected_in_any_order() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    let calls: Vec<_> = (0..20_u8).map(|index| process.start("echo", &[index]).unwrap()).collect();
    for (index, call) in calls.into_iter().enumerate().rev() {
        assert_eq!(usize::from(call.wait().unwrap()[0]), index);
    }
}

#[test]
fn a_full_window_refuses_started_calls_and_lets_others_wait() {
    for script in [
        Script { in_flight_max: 4, ..Script::default() },
        Script { handle_in_flight_max: 4, ..Script::default() },
        Script { payload_bytes_max: 1000, window_bytes: 4000, ..Script::default() },
    ] {
        let server = WireServer::start(script);
        let process = server.process();
        let held: Vec<_> = (0..4).map(|_| process.start("hold", &[1; 1000]).unwrap()).collect();
        let refused = process.start("echo", &[1; 1000]).unwrap_err();
        assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
        let late = process.call("echo").payload(&[1; 1000]).deadline(SHORT).send().unwrap_err();
        assert!(matches!(late, CallError::Overloaded { .. }), "{late}");
        thread::scope(|scope| {
            let blocking: Vec<_> = (0..3).map(|_| scope.spawn(|| process.invoke("echo", &[2; 1000]))).collect();
            let future = scope.spawn(|| block_on(async { process.call("echo").payload(&[3; 1000]).await }));
            eventually("all are taken", || server.shared().held() == 4);
            server.shared().open_gate();
            for waiting in blocking {
                assert_eq!(waiting.join().unwrap().unwrap().as_slice(), [2; 1000]);
            }
            assert_eq!(future.join().unwrap().unwrap().as_slice(), [3; 1000]);
        });
        for call in held {
            assert_eq!(call.wait().unwrap().len(), 1000);
        }
    }
}

#[test]
fn room_that_only_abandoned_calls_use_is_not_waited_for() {
    let server = WireServer::start(Script { in_flight_max: 4, ..Script::default() });
    let process = server.process();
    for _ in 0..4 {
        process.start("hold", b"x").unwrap().cancel();
    }
    eventually("the server heard of the cancels", || server.shared().cancels.load(Ordering::SeqCst) == 4);
    let refused = process.invoke("echo", b"x").unwrap_err();
    assert!(matches!(refused, CallError::Overloaded { used: 4, limit: 4, .. }), "{refused}");
    let refused = block_on(async { process.call("echo").await }).unwrap_err();
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    server.shared().open_gate();
    eventually("there is room again", || process.invoke("echo", b"x").is_ok());
}

#[test]
fn deadlines_hold_when_the_server_is_silent() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    for deadline in [Duration::ZERO, Duration::from_millis(1), SHORT, Duration::from_millis(120)] {
        let started = Instant::now();
        let ended = process.call("silent").deadline(deadline).send().unwrap_err();
        assert!(matches!(ended, CallError::DeadlineExceeded { .. }), "{ended}");
        assert!(started.elapsed() >= deadline);
        let ended = block_on(async { process.call("silent").deadline(deadline).await }).unwrap_err();
        assert!(matches!(ended, CallError::DeadlineExceeded { .. }), "{ended}");
        let ended = process.call("silent").deadline(deadline).start().and_then(|call| call.wait()).unwrap_err();
        assert!(matches!(ended, CallError::DeadlineExceeded { .. }), "{ended}");
    }
    assert_eq!(process.invoke("echo", b"next").unwrap().as_slice(), b"next");
    eventually("every late call was cancelled", || server.shared().cancels.load(Ordering::SeqCst) >= 9);
}

#[test]
fn threads_whose_deadlines_differ_do_not_hold_each_other_up() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    thread::scope(|scope| {
        let held = scope.spawn(|| process.invoke("hold", b"last"));
        eventually("held", || server.shared().held() == 1);
        for milliseconds in [5_u64, 20, 60] {
            let process = &process;
            scope.spawn(move || {
                let ended = process.call("silent").deadline(Duration::from_millis(milliseconds)).send().unwrap_err();
                assert!(matches!(ended, CallError::DeadlineExceeded { .. }), "{ended}");
                assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
            });
        }
        for _ in 0..50 {
            assert_eq!(process.invoke("echo", b"y").unwrap().as_slice(), b"y");
        }
        server.shared().open_gate();
        assert_eq!(held.join().unwrap().unwrap().as_slice(), b"last");
    });
}

#[test]
fn is_done_says_whether_waiting_would_return_at_once() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    let call = process.start("hold", b"x").unwrap();
    eventually("the call is taken", || server.shared().held() == 1);
    assert!(!call.is_done());
    server.shared().open_gate();
    eventually("the call is answered", || call.is_done());
    assert_eq!(call.wait().unwrap().as_slice(), b"x");
}

#[test]
fn refused_calls_are_sent_again_within_their_deadline() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    assert_eq!(process.invoke("refuse twice", b"x").unwrap().as_slice(), b"x");
    assert_eq!(server.shared().runs(), 3);
    server.shared().refusals.store(0, Ordering::SeqCst);
    assert_eq!(block_on(async { process.call("refuse twice").payload(b"y").await }).unwrap().as_slice(), b"y");
    // Between two attempts it is known that none ran; during one it is not.
    let refused = |end: &CallError| {
        matches!(end, CallError::Unavailable { phase: Phase::Draining } | CallError::DeadlineExceeded { .. })
    };
    let end = process.call("always refused").deadline(SHORT).send().unwrap_err();
    assert!(refused(&end), "{end}");
    let end = block_on(async { process.call("always refused").deadline(SHORT).await }).unwrap_err();
    assert!(refused(&end), "{end}");
}

#[test]
fn a_process_that_ended_is_opened_anew() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    assert_eq!(process.invoke("closed once", b"x").unwrap().as_slice(), b"x");
    assert_eq!(server.shared().opens.load(Ordering::SeqCst), 2);
    eventually("the old handle is given back", || server.shared().closes.load(Ordering::SeqCst) == 1);
    drop(process);
}

#[test]
fn loans_are_private_buffers() {
    let server = WireServer::start(Script::default());
    let process = server.process();
    let mut loan = process.loan(100_000).unwrap();
    loan.as_mut_slice().unwrap().fill(2);
    loan.write_at(10, &[3; 10]).unwrap();
    assert!(loan.write_at(99_999, &[9; 2]).is_err());
    let reply = process.invoke("echo", loan).unwrap();
    assert!(reply.len() == 100_000 && reply[9] == 2 && reply[10] == 3);
    let typed = process.invoke_typed::<_, Vec<u32>>("echo", &(0..5000_u32).collect::<Vec<_>>()).unwrap();
    assert_eq!(typed.to_value().unwrap().len(), 5000);
}

#[test]
fn futures_wait_for_room_and_for_answers() {
    let server = WireServer::start(Script { in_flight_max: 16, ..Script::default() });
    let process = server.process();
    let payloads: Vec<_> = (0..1000_u32).map(u32::to_le_bytes).collect();
    let calls = payloads.iter().map(|payload| process.call("echo").payload(payload).into_future());
    for (reply, payload) in block_on(Together::new(calls)).iter().zip(&payloads) {
        assert_eq!(reply.as_ref().unwrap().as_slice(), payload);
    }
    assert_eq!(server.shared().runs(), 1000);
}

#[test]
fn large_payloads_cross_in_both_directions_while_the_server_does_not_read() {
    let server = WireServer::start(Script { window_bytes: 64 << 20, ..Script::default() });
    let process = server.process();
    let payload: Vec<u8> = (0..4 << 20).map(|index: u32| u8::try_from(index % 253).unwrap()).collect();
    thread::scope(|scope| {
        let nap = scope.spawn(|| process.invoke("nap", b"zzz"));
        eventually("the server naps", || server.shared().napping.load(Ordering::SeqCst));
        let blocking: Vec<_> = (0..3).map(|_| scope.spawn(|| process.invoke("echo", &payload))).collect();
        let future = scope.spawn(|| block_on(async { process.call("echo").payload(&payload).await }));
        thread::sleep(SHORT);
        server.shared().open_gate();
        assert_eq!(nap.join().unwrap().unwrap().as_slice(), b"zzz");
        for call in blocking {
            assert!(call.join().unwrap().unwrap().as_slice() == payload);
        }
        assert!(future.join().unwrap().unwrap().as_slice() == payload);
    });
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_deadline_that_passes_within_a_request_leaves_the_connection_in_order() {
    let server = WireServer::start(Script { window_bytes: 64 << 20, ..Script::default() });
    let process = server.process();
    let nap = process.start("nap", b"zzz").unwrap();
    eventually("the server naps", || server.shared().napping.load(Ordering::SeqCst));
    // More than the sockets take, so the first is cut short and the second never begins.
    for _ in 0..2 {
        let late = process.call("echo").payload(vec![1; 8 << 20]).deadline(SHORT).send().unwrap_err();
        assert!(matches!(late, CallError::DeadlineExceeded { .. }), "{late}");
    }
    let call = process.call("echo").payload(vec![1; 8 << 20]).deadline(SHORT);
    let late = block_on(async { call.await }).unwrap_err();
    assert!(matches!(late, CallError::DeadlineExceeded { .. } | CallError::Overloaded { .. }), "{late}");
    server.shared().open_gate();
    assert_eq!(nap.wait().unwrap().as_slice(), b"zzz");
    assert_eq!(process.invoke("echo", b"x").unwrap().as_slice(), b"x");
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1);
    assert_eq!(server.shared().runs(), 3, "the nap, the request that was begun, and the last call");
}

#[test]
fn several_processes_are_called_together() {
    let server = WireServer::start(Script { in_flight_max: 8, ..Script::default() });
    let process = server.process();
    let here = crate::scripted::Installation::new(crate::scripted::Script::default());
    let mixed = [process.clone(), here.process.clone(), process.clone()];
    for reply in Process::invoke_all(&mixed, "echo", b"hello") {
        assert_eq!(reply.unwrap().as_slice(), b"hello");
    }
    let many = vec![process.clone(); 50];
    assert!(Process::invoke_all(&many, "echo", &[7; 100]).iter().all(|reply| reply.is_ok()));
    let ends = Process::call_all(&mixed, "fail").deadline(SHORT * 100).send();
    assert!(ends.iter().all(|end| matches!(end, Err(CallError::FunctionFailed { code: 42, .. }))), "{ends:?}");
    let late = Process::call_all(&many[..4], "silent").deadline(SHORT).send();
    assert!(late.iter().all(|end| matches!(end, Err(CallError::DeadlineExceeded { .. }))), "{late:?}");
    assert!(Process::invoke_all(&[], "echo", b"").is_empty());
}

#[test]
fn questions_are_asked_over_the_same_connection() {
    let server = WireServer::start(Script::default());
    let client = server.client();
    client.create(alice()).unwrap();
    client.restart(alice()).unwrap();
    client.stop(alice()).unwrap();
    match client.stop("hello/bob".parse().unwrap()) {
        Err(RequestError::Refused(ControlError::UnknownProcess { .. })) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(client.list().unwrap().len(), 2);
    assert_eq!(client.applications().unwrap(), ["hello".parse().unwrap(), "search".parse().unwrap()]);
    assert_eq!(client.output(alice(), 3).unwrap().bytes, b"output");
    let mut follower = client.follow_output(alice(), 0);
    assert!(!follower.next(SHORT * 100).unwrap().unwrap().ended);
    assert!(follower.next(SHORT * 100).unwrap().unwrap().ended);
    assert_eq!(follower.position(), 12);
    let stats = client.stats(alice()).unwrap();
    let functions: Vec<_> = stats.functions.iter().map(|row| (row.function.as_str(), row.calls)).collect();
    assert_eq!((functions, stats.queued), (vec![("echo", 3), ("search", 4)], 5), "both pages");
    assert_eq!(client.server_incarnation(), Some(7));
    let ping = client.ping(SHORT * 100).unwrap();
    assert_eq!(ping.in_server, Some(Duration::from_nanos(500)));
    assert!(!ping.round_trip.is_zero());
    assert_eq!(server.shared().connections.load(Ordering::SeqCst), 1);
}
