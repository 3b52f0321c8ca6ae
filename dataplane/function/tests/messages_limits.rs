//! Messages at their limits: full mailboxes, deadlines, cancelled callers, drains, receivers that are gone, and messages that
//! come from outside.

use std::time::Duration;

use praas_function::testing::{Correspondent, Harness, HarnessOptions};
use praas_function::{
    Address, Application, Call, FunctionResult, MessageId, RecvError, SELF, SendError, SessionId, Sources,
};
use praas_protocol::limits::{ADDRESSES_PER_CALL_MAX, MESSAGE_LANE_BLOCKS, MESSAGE_LANE_ENTRIES};
use praas_protocol::message::{Accepted, PUT_FUNCTION, PutHead, codes};
use praas_protocol::{CallError, Key};

/// Longer than anything here takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A wait that is to end by itself.
const SHORT: Duration = Duration::from_millis(20);

fn process<R: praas_function::Reply>(body: impl Fn(&mut Call<'_>) -> R + Copy + Send + Sync + 'static) -> Harness {
    Harness::new(move || Application::new().function("body", body)).unwrap()
}

/// Takes what lies in the mailbox under `key`, and answers how much it was.
fn take_all(call: &mut Call) -> FunctionResult<String> {
    let mut count = 0;
    while let Some(message) = call.context().try_recv(Sources::Any, "key")? {
        message.accept()?;
        count += 1;
    }
    Ok(count.to_string())
}

/// Sends until there is no room; how many were taken, and the refusal.
fn fill(tester: &Correspondent, bytes: &[u8]) -> (u32, SendError) {
    for sent in 0..100_000 {
        if let Err(error) = tester.send("harness", "key", bytes) {
            return (sent, error);
        }
    }
    panic!("a mailbox without limits");
}

#[test]
fn a_mailbox_that_nobody_looks_into_takes_so_many_messages_and_loses_none() {
    let harness = process(take_all);
    let tester = harness.correspondent("tester").unwrap();
    for (bytes, limit) in [(&b"small"[..], MESSAGE_LANE_ENTRIES), (&[7; 1000], MESSAGE_LANE_BLOCKS)] {
        let (sent, refusal) = fill(&tester, bytes);
        assert_eq!(sent, limit);
        assert!(matches!(refusal, SendError::MailboxFull { .. }) && refusal.is_full(), "{refusal:?}");
        assert!(refusal.to_string().contains(&limit.to_string()), "{refusal}");
        let late = tester.send_within("harness", "key", bytes, SHORT).unwrap_err();
        assert!(matches!(late, SendError::DeadlineExceeded { .. }), "{late:?}");
        assert_eq!(harness.invoke("body", b"").unwrap(), limit.to_string().as_bytes());
        assert_eq!(harness.invoke("body", b"").unwrap(), b"0", "what was refused is not there");
    }
}

#[test]
fn a_sender_that_waits_goes_on_when_the_receiver_makes_room() {
    fn send_many(call: &mut Call) -> FunctionResult {
        for number in 0..3 * MESSAGE_LANE_ENTRIES {
            call.context().send_within("harness", "key", &number.to_le_bytes(), PATIENCE)?;
        }
        Ok(())
    }
    fn receive_many(call: &mut Call) -> FunctionResult {
        for number in 0..3 * MESSAGE_LANE_ENTRIES {
            let message = call.context().recv("sender", "key", PATIENCE)?;
            assert_eq!(message.bytes(), number.to_le_bytes());
            message.accept()?;
        }
        Ok(())
    }
    let application = || Application::new().function("send", send_many).function("receive", receive_many);
    let harness = Harness::new(application).unwrap();
    let sender = harness.another("sender").unwrap();
    let sending = sender.begin("send", b"", Some(2 * PATIENCE)).unwrap();
    // Full long before anybody receives.
    std::thread::sleep(SHORT);
    harness.begin("receive", b"", Some(2 * PATIENCE)).unwrap().wait().unwrap();
    sending.wait().unwrap();
}

#[test]
fn a_process_that_fills_its_own_mailbox_is_told_the_figures() {
    let harness = process(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let mut sent = 0;
        let refusal = loop {
            match context.send(SELF, "key", b"more") {
                Ok(_) => sent += 1,
                Err(refusal) => break refusal,
            }
        };
        assert!(refusal.is_full() && refusal.to_string().contains(&sent.to_string()), "{sent}: {refusal}");
        let late = context.send_within(SELF, "key", b"more", SHORT).unwrap_err();
        assert!(matches!(late, SendError::DeadlineExceeded { .. }), "{late:?}");
        context.recv(SELF, "key", PATIENCE)?.accept()?;
        context.send(SELF, "key", b"more")?;
        Ok(())
    });
    harness.invoke("body", b"").unwrap();
}

#[test]
fn messages_over_the_limit_of_payloads_are_refused_with_it() {
    let options = HarnessOptions { payload_bytes_max: 1 << 20, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, || Application::new().function("body", take_all)).unwrap();
    let tester = harness.correspondent("tester").unwrap();
    let refusal = tester.send("harness", "key", &vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(matches!(refusal, SendError::TooLarge { limit_bytes: 1_048_576, actual_bytes: 1_048_577 }), "{refusal:?}");
    tester.send("harness", "key", &vec![0; 1 << 20]).unwrap();
    assert_eq!(harness.invoke("body", b"").unwrap(), b"1");
}

#[test]
fn a_wait_for_a_message_ends_at_its_deadline() {
    let harness = process(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        context.send(SELF, "another", b"not this one")?;
        for within in [Duration::ZERO, SHORT] {
            let error = context.recv(Sources::Any, "key", within).unwrap_err();
            assert_eq!(error, RecvError::DeadlineExceeded { waited: within });
        }
        context.recv(SELF, "key", SHORT)?;
        Ok(())
    });
    let error = harness.invoke("body", b"").unwrap_err();
    assert!(matches!(error, CallError::FunctionFailed { code: codes::NOT_RECEIVED, .. }), "{error}");
}

/// Waits for a message that does not come, and tells the tester why it stopped.
fn wait_in_vain(call: &mut Call) -> FunctionResult {
    let context = call.context();
    context.send("tester", "waits", b"")?;
    let error = context.recv(Sources::Any, "never", PATIENCE).unwrap_err();
    let reason: &[u8] = match &error {
        RecvError::Cancelled => b"cancelled",
        RecvError::Interrupted { .. } => b"interrupted",
        _ => b"otherwise",
    };
    context.send("tester", "stopped", reason)?;
    Err(error.into())
}

#[test]
fn a_wait_ends_when_the_caller_gives_up() {
    let harness = process(wait_in_vain);
    let tester = harness.correspondent("tester").unwrap();
    let waiting = harness.begin("body", b"", None).unwrap();
    tester.recv("harness", "waits", PATIENCE).unwrap();
    waiting.cancel();
    assert_eq!(tester.recv("harness", "stopped", PATIENCE).unwrap().bytes, b"cancelled");
    let late = harness.begin("body", b"", Some(SHORT)).unwrap();
    assert!(matches!(late.wait(), Err(CallError::DeadlineExceeded { .. })));
    assert_eq!(tester.recv("harness", "stopped", PATIENCE).unwrap().bytes, b"cancelled");
}

#[test]
fn a_drain_interrupts_waits_and_leaves_what_is_there_to_be_received() {
    fn receive_while_draining(call: &mut Call) -> FunctionResult {
        let context = call.context();
        context.recv("tester", "go", PATIENCE)?;
        // A message that is there needs no wait.
        assert_eq!(context.recv("tester", "there", PATIENCE)?.bytes(), b"already");
        let error = context.recv("tester", "there", PATIENCE).unwrap_err();
        assert!(matches!(error, RecvError::Interrupted { .. }), "{error}");
        context.send("tester", "sent", b"although it drains")?;
        Err(error.into())
    }
    let harness = Harness::with_options(HarnessOptions { workers: 2, ..HarnessOptions::default() }, || {
        Application::new().function("wait", wait_in_vain).function("receive", receive_while_draining)
    })
    .unwrap();
    let tester = harness.correspondent("tester").unwrap();
    let waiting = harness.begin("wait", b"", Some(PATIENCE)).unwrap();
    let receiving = harness.begin("receive", b"", Some(PATIENCE)).unwrap();
    tester.recv("harness", "waits", PATIENCE).unwrap();
    tester.send("harness", "there", b"already").unwrap();
    tester.send("harness", "go", b"").unwrap();
    harness.drain().unwrap();
    assert_eq!(tester.recv("harness", "stopped", PATIENCE).unwrap().bytes, b"interrupted");
    assert!(matches!(waiting.wait(), Err(CallError::Interrupted)));
    let ended = receiving.wait();
    assert!(matches!(ended, Err(CallError::Interrupted)), "{ended:?}");
    harness.resume().unwrap();
    assert_eq!(tester.try_recv("harness", "sent").unwrap().map(|sent| sent.bytes), Some(b"although it drains".into()));
}

#[test]
fn a_broadcast_reaches_all_that_there_are_and_says_who_is_missing() {
    let harness = process(|call: &mut Call| -> FunctionResult<String> {
        let results = call.context().broadcast(&["alice", "nobody", "bob", "No name"], "news", call.input());
        let said: Vec<_> = results
            .iter()
            .map(|result| match result {
                Ok(_) => "sent",
                Err(SendError::UnknownProcess { .. }) => "unknown",
                Err(SendError::Name(_)) => "no name",
                Err(_) => "otherwise",
            })
            .collect();
        let many = vec![SELF; ADDRESSES_PER_CALL_MAX + 1];
        let last = call.context().broadcast(&many, "many", b"").pop();
        assert!(matches!(last, Some(Err(SendError::TooManyDestinations { .. }))), "{last:?}");
        Ok(said.join(", "))
    });
    let (alice, bob) = (harness.correspondent("alice").unwrap(), harness.correspondent("bob").unwrap());
    let news = vec![b'!'; 10_000];
    assert_eq!(harness.invoke("body", &news).unwrap(), b"sent, unknown, sent, no name");
    for reader in [alice, bob] {
        assert_eq!(reader.recv("harness", "news", PATIENCE).unwrap().bytes, news);
    }
}

#[test]
fn a_receiver_that_has_ended_is_unknown_and_its_successor_is_another() {
    let harness =
        process(|call: &mut Call| -> FunctionResult { Ok(call.context().send("bob", "key", call.input()).map(drop)?) });
    let unknown = |answer: Result<_, CallError>| match answer {
        Err(CallError::FunctionFailed { code: codes::NOT_SENT, message }) => {
            assert!(message.contains("no process bob"));
        }
        other => panic!("{other:?}"),
    };
    unknown(harness.invoke("body", b"too early"));
    for life in ["first", "second", "third"] {
        let bob = harness.correspondent("bob").unwrap();
        harness.invoke("body", life.as_bytes()).unwrap();
        assert_eq!(bob.recv("harness", "key", PATIENCE).unwrap().bytes, life.as_bytes());
        harness.invoke("body", b"goes with him").unwrap();
        drop(bob);
        unknown(harness.invoke("body", b"too late"));
    }
}

#[test]
fn what_a_sender_has_sent_stays_when_it_ends_and_its_lane_goes_when_that_was_received() {
    let harness = process(take_all);
    for round in 0..3 {
        for _ in 0..100 {
            let sender = harness.correspondent("sender").unwrap();
            sender.send("harness", "key", &[round; 300]).unwrap();
        }
        // More senders than a mailbox has lanes, in all.
        assert_eq!(harness.invoke("body", b"").unwrap(), b"100", "round {round}");
    }
}

#[test]
fn messages_from_outside_are_accepted_once_however_often_they_are_sent() {
    let harness = process(|call: &mut Call| -> FunctionResult<String> {
        let message = call.context().try_recv(Sources::Any, "key")?;
        Ok(message.map_or("nothing".into(), |message| {
            format!("{} {:?} {}", message.source(), message.id(), String::from_utf8_lossy(&message))
        }))
    });
    let session = Address::Client(SessionId(7));
    let put = |source, sequence, bytes: &[u8]| {
        let id = MessageId { incarnation: 1, sequence };
        PutHead { source, id, key: Key::new("key").unwrap() }.encode(bytes)
    };
    let accepted = |answer: Result<Vec<u8>, CallError>| Accepted::from_answer(&answer.unwrap());
    let letter = put(session, 5, b"hello");
    assert_eq!(accepted(harness.invoke(PUT_FUNCTION, &letter)), Some(Accepted::Now));
    assert_eq!(accepted(harness.invoke(PUT_FUNCTION, &letter)), Some(Accepted::Before));
    let received = String::from_utf8(harness.invoke("body", b"").unwrap()).unwrap();
    assert!(received.starts_with("client ") && received.contains("sequence: 5") && received.ends_with("hello"));
    assert_eq!(accepted(harness.invoke(PUT_FUNCTION, &letter)), Some(Accepted::Before));
    assert_eq!(harness.invoke("body", b"").unwrap(), b"nothing");

    assert_eq!(accepted(harness.invoke(PUT_FUNCTION, &put(session, 9000, b""))), Some(Accepted::Now));
    let old = harness.invoke(PUT_FUNCTION, &put(session, 6, b"")).unwrap_err();
    assert!(matches!(old, CallError::FunctionFailed { code: codes::TOO_OLD, .. }), "{old}");
    let junk = harness.invoke(PUT_FUNCTION, b"junk").unwrap_err();
    assert!(matches!(junk, CallError::FunctionFailed { code: codes::BAD_REQUEST, .. }), "{junk}");
    let refused = harness.untrusted().invoke(PUT_FUNCTION, &letter).unwrap_err();
    assert!(matches!(refused, CallError::Unauthorized { .. }), "{refused}");
    // The application's own domain may speak for a process.
    let from_alice = put("alice".parse().unwrap(), 1, b"");
    assert_eq!(accepted(harness.invoke(PUT_FUNCTION, &from_alice)), Some(Accepted::Now));
}

#[test]
fn answers_go_to_where_a_message_came_from() {
    let harness = process(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let question = context.recv(Sources::Any, "questions", PATIENCE)?;
        context.send(question.source(), "answers", &question)?;
        Ok(())
    });
    let tester = harness.correspondent("tester").unwrap();
    tester.send("harness", "questions", b"why?").unwrap();
    harness.invoke("body", b"").unwrap();
    let answer = tester.recv("harness", "answers", PATIENCE).unwrap();
    assert_eq!((answer.source, &answer.bytes[..]), ("harness".parse().unwrap(), &b"why?"[..]));
}
