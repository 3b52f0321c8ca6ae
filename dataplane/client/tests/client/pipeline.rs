//! Calls through a [`praas_client::Pipeline`]: their order, their bounds, and what happens to those on their way when the
//! process drains, the server dies, or the pipeline is dropped.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use praas_client::CallError;

use crate::scripted::{Installation, Script, ScriptedServer, eventually};

const SHORT: Duration = Duration::from_millis(50);

#[test]
fn replies_come_in_the_order_of_the_calls_whatever_their_size() {
    let here = Installation::new(Script::default());
    let mut pipeline = here.process.pipeline(8);
    let payload = |number: usize| vec![u8::try_from(number).unwrap(); [0, 1, 63, 64, 65, 97, 5000][number % 7]];
    let (mut sent, mut received) = (0, 0);
    while received < 100 {
        if pipeline.is_full() || sent == 100 {
            assert_eq!(pipeline.receive().unwrap().unwrap().into_vec(), payload(received), "call {received}");
            received += 1;
        } else if sent % 11 == 5 {
            pipeline.send("echo", payload(sent)).unwrap();
            sent += 1;
        } else {
            let borrowed = payload(sent);
            pipeline.send("echo", &borrowed).unwrap();
            sent += 1;
        }
        assert_eq!(pipeline.len(), sent - received);
    }
    assert!(pipeline.is_empty() && pipeline.receive().is_none());
}

#[test]
fn a_loan_travels_between_small_payloads() {
    let here = Installation::new(Script::default());
    let mut pipeline = here.process.pipeline(3);
    let mut loan = here.process.loan(3000).unwrap();
    loan.write_at(0, &[9; 3000]).unwrap();
    pipeline.send("echo", b"before").unwrap();
    pipeline.send("echo", loan).unwrap();
    pipeline.send("echo", b"after").unwrap();
    let replies: Vec<_> = std::iter::from_fn(|| pipeline.receive()).map(|reply| reply.unwrap().into_vec()).collect();
    assert_eq!(replies, [b"before".to_vec(), vec![9; 3000], b"after".to_vec()]);
}

#[test]
fn a_full_pipeline_and_a_full_lane_refuse_and_take_calls_again() {
    let here = Installation::new(Script::default());
    let mut pipeline = here.process.pipeline(2);
    pipeline.send("hold", b"a").unwrap();
    pipeline.send("hold", b"b").unwrap();
    let refused = pipeline.send("echo", b"c").unwrap_err();
    assert_eq!(refused, CallError::Overloaded { what: "the pipeline", used: 2, limit: 2 });
    here.shared().open_gate();
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"a");
    pipeline.send("echo", b"c").unwrap();
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"b");
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"c");

    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let mut deep = here.process.pipeline(1000);
    let refused = loop {
        if let Err(error) = deep.send("hold", b"x") {
            break error;
        }
        assert!(deep.len() <= 64, "a lane for 4 calls took {}", deep.len());
    };
    assert!(matches!(refused, CallError::Overloaded { .. }), "{refused}");
    here.shared().open_gate();
    while let Some(reply) = deep.receive() {
        assert_eq!(reply.unwrap().as_slice(), b"x");
    }
}

#[test]
fn each_call_gets_its_own_end() {
    let here = Installation::new(Script::default());
    let mut pipeline = here.process.pipeline(8);
    for function in ["echo", "fail", "nothing", "crash", "echo"] {
        pipeline.send(function, b"x").unwrap();
    }
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"x");
    let failed = CallError::FunctionFailed { code: 42, message: "no such document".into() };
    assert_eq!(pipeline.receive().unwrap().unwrap_err(), failed);
    let unknown = CallError::UnknownFunction { function: "nothing".into() };
    assert_eq!(pipeline.receive().unwrap().unwrap_err(), unknown);
    assert_eq!(pipeline.receive().unwrap().unwrap_err(), CallError::WorkerLost);
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"x");
}

#[test]
fn a_dropped_pipeline_cancels_its_calls_and_leaves_the_lane_whole() {
    let here = Installation::new(Script { calls_in_flight: 4, ..Script::default() });
    let mut pipeline = here.process.pipeline(4);
    pipeline.send("hold", b"x").unwrap();
    pipeline.send("echo", b"y").unwrap();
    drop(pipeline);
    here.shared().open_gate();
    for round in 0..100_u32 {
        eventually("there is room", || {
            here.process.invoke("echo", &round.to_le_bytes()).is_ok_and(|reply| *reply == round.to_le_bytes())
        });
    }
}

#[test]
fn refused_calls_are_sent_again_and_keep_their_order() {
    for close in [false, true] {
        let here = Installation::new(Script::default());
        let mut pipeline = here.process.pipeline(8);
        pipeline.send("hold", b"0").unwrap();
        eventually("the worker is busy", || here.shared().held.load(Ordering::SeqCst) == 1);
        pipeline.send("echo", b"1").unwrap();
        here.shared().drain();
        pipeline.send("echo", b"2").unwrap();
        thread::scope(|scope| {
            let receiving = scope.spawn(move || {
                std::iter::from_fn(|| pipeline.receive()).map(|reply| reply.unwrap().into_vec()).collect::<Vec<_>>()
            });
            here.shared().open_gate();
            if close {
                eventually("the held call ends", || here.shared().runs.load(Ordering::SeqCst) == 1);
                here.shared().close();
            }
            thread::sleep(SHORT);
            here.shared().activate();
            assert_eq!(receiving.join().unwrap(), [b"0", b"1", b"2"]);
        });
        assert_eq!(here.shared().runs.load(Ordering::SeqCst), 3, "each ran once");
    }
}

#[test]
fn a_pipeline_goes_on_after_the_server_came_back() {
    let Installation { process, client, server, directory } = Installation::new(Script::default());
    let mut pipeline = process.pipeline(8);
    pipeline.send("hold", b"taken").unwrap();
    eventually("the call is taken", || server.shared().held.load(Ordering::SeqCst) == 1);
    pipeline.send("echo", b"never claimed").unwrap();
    server.kill();
    let server = ScriptedServer::start(directory.path(), Script::default());
    // Over the old lane it finds no way; over the new one it does.
    pipeline.send("echo", b"after").unwrap();
    assert_eq!(pipeline.receive().unwrap().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"never claimed");
    assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), b"after");
    for round in 0..20_u8 {
        pipeline.send("echo", &[round]).unwrap();
        assert_eq!(pipeline.receive().unwrap().unwrap().as_slice(), [round]);
    }
    assert_eq!(server.shared().lanes_opened(), 1, "calls share the one lane that was opened anew");
    drop(client);
}
