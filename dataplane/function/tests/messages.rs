//! Messages as functions use them: order, sources, what a call holds and what becomes of it, payloads of all sizes.

use std::time::Duration;

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Address, Application, Call, Context, FunctionError, FunctionResult, RecvError, SELF, Sources};
use praas_protocol::CallError;

/// Longer than anything here takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process with one function.
fn process<R: praas_function::Reply>(body: impl Fn(&mut Call<'_>) -> R + Copy + Send + Sync + 'static) -> Harness {
    Harness::new(move || Application::new().function("body", body)).unwrap()
}

/// Runs a body that asserts; its panic is the test's.
fn check(body: impl Fn(&Context<'_>) -> FunctionResult + Copy + Send + Sync + 'static) {
    process(move |call: &mut Call| body(&call.context())).invoke("body", b"").unwrap();
}

/// Receives one message under `work` and answers with it; fails or panics if the message says so.
fn work(call: &mut Call) -> FunctionResult {
    let message = call.context().recv(Sources::Any, "work", PATIENCE)?;
    let again = if message.is_redelivered() { "again " } else { "" };
    match message.bytes() {
        _ if call.input() == b"fail" => Err(FunctionError::new(1, "told to fail")),
        _ if call.input() == b"panic" => panic!("told to panic"),
        bytes => call.reply(&[again.as_bytes(), bytes].concat()),
    }
}

fn text(answer: Result<Vec<u8>, CallError>) -> String {
    String::from_utf8(answer.unwrap()).unwrap()
}

#[test]
fn messages_of_one_source_and_key_come_in_the_order_in_which_they_were_sent() {
    const EACH: u32 = 2000;
    fn produce(call: &mut Call) -> FunctionResult {
        for number in 0..EACH {
            for key in ["even", "odd"] {
                call.context().send_within("consumer", key, &number.to_le_bytes(), PATIENCE)?;
            }
        }
        Ok(())
    }
    fn consume(call: &mut Call) -> FunctionResult {
        let context = call.context();
        for key in ["odd", "even"] {
            for number in 0..EACH {
                let message = context.recv("harness", key, PATIENCE)?;
                assert_eq!(message.bytes(), number.to_le_bytes(), "{key}");
                message.accept()?;
            }
        }
        assert!(context.try_recv(Sources::Any, "even")?.is_none());
        Ok(())
    }
    let producer =
        Harness::new(|| Application::new().function("produce", produce).function("consume", consume)).unwrap();
    let consumer = producer.another("consumer").unwrap();
    let consuming = consumer.begin("consume", b"", Some(2 * PATIENCE)).unwrap();
    producer.invoke("produce", b"").unwrap();
    consuming.wait().unwrap();
}

#[test]
fn a_message_is_received_whether_it_was_sent_before_or_while_it_is_waited_for() {
    let harness = process(work);
    let tester = harness.correspondent("tester").unwrap();
    tester.send("harness", "work", b"before").unwrap();
    assert_eq!(text(harness.invoke("body", b"")), "before");
    for mode in [praas_protocol::control::WaitMode::Park, praas_protocol::control::WaitMode::Adaptive] {
        let options = HarnessOptions { wait_mode: mode, ..HarnessOptions::default() };
        let harness = Harness::with_options(options, || Application::new().function("body", work)).unwrap();
        let tester = harness.correspondent("tester").unwrap();
        for round in 0..20 {
            let waiting = harness.begin("body", b"", Some(PATIENCE)).unwrap();
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(!waiting.is_answered(), "it was answered without a message");
            tester.send("harness", "work", b"while").unwrap();
            assert_eq!(text(waiting.wait()), "while");
        }
    }
}

#[test]
fn two_messages_of_one_key_from_different_senders_are_both_kept() {
    let harness = process(|call: &mut Call| -> FunctionResult<String> {
        let context = call.context();
        let from_bob = context.recv("bob", "greeting", PATIENCE)?;
        let from_anybody = context.recv(Sources::Any, "greeting", PATIENCE)?;
        assert_eq!(from_anybody.source(), "alice".parse()?);
        assert!(context.try_recv(Sources::Any, "greeting")?.is_none());
        Ok(format!("{} {}", String::from_utf8_lossy(&from_bob), String::from_utf8_lossy(&from_anybody)))
    });
    let (alice, bob) = (harness.correspondent("alice").unwrap(), harness.correspondent("bob").unwrap());
    alice.send("harness", "greeting", b"from alice").unwrap();
    bob.send("harness", "greeting", b"from bob").unwrap();
    assert_eq!(text(harness.invoke("body", b"")), "from bob from alice");
}

#[test]
fn a_list_of_sources_receives_from_these_alone_and_any_gives_each_its_turn() {
    let harness = process(|call: &mut Call| -> FunctionResult<String> {
        let context = call.context();
        let listed: [Address; 2] = ["alice".parse()?, "carol".parse()?];
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(context.recv(&listed, "key", PATIENCE)?.source());
        }
        assert!(context.try_recv(&listed, "key")?.is_none());
        let mut alices: Vec<_> = order.iter().map(|source| *source == listed[0]).collect();
        assert_ne!(alices[0], alices[1], "one had two turns while the other waited: {order:?}");
        alices.sort_unstable();
        assert_eq!(alices, [false, false, true, true]);
        Ok(context.recv(Sources::Any, "key", PATIENCE)?.source().to_string())
    });
    for name in ["alice", "bob", "carol"] {
        let sender = harness.correspondent(name).unwrap();
        for _ in 0..2 {
            sender.send("harness", "key", name.as_bytes()).unwrap();
        }
    }
    assert_eq!(text(harness.invoke("body", b"")), "bob");
}

#[test]
fn what_a_failed_call_had_received_comes_again_first_and_says_so() {
    let harness = process(work);
    let tester = harness.correspondent("tester").unwrap();
    for number in ["one", "two", "three"] {
        tester.send("harness", "work", number.as_bytes()).unwrap();
    }
    let failed = harness.invoke("body", b"fail").unwrap_err();
    assert!(matches!(failed, CallError::FunctionFailed { code: 1, .. }), "{failed}");
    assert_eq!(text(harness.invoke("body", b"")), "again one");
    let panicked = harness.invoke("body", b"panic").unwrap_err();
    assert!(matches!(panicked, CallError::FunctionPanicked { .. }), "{panicked}");
    assert_eq!(text(harness.invoke("body", b"")), "again two");
    assert_eq!(text(harness.invoke("body", b"")), "three");
}

#[test]
fn an_accepted_message_is_gone_although_the_call_fails_afterwards() {
    let harness = process(|call: &mut Call| -> FunctionResult<String> {
        let message = call.context().recv("tester", "work", PATIENCE)?;
        let held = String::from_utf8_lossy(&message).into_owned();
        message.accept()?;
        if held == "first" { Err(FunctionError::new(1, "after it was accepted")) } else { Ok(held) }
    });
    let tester = harness.correspondent("tester").unwrap();
    let first = tester.send("harness", "work", b"first").unwrap();
    let second = tester.send("harness", "work", b"second").unwrap();
    assert!(second > first);
    assert!(harness.invoke("body", b"").is_err());
    assert_eq!(text(harness.invoke("body", b"")), "second");
}

#[test]
fn while_a_call_holds_messages_only_it_receives_more_of_their_source_and_key() {
    fn hold(call: &mut Call) -> FunctionResult {
        let context = call.context();
        let held = context.recv("tester", "work", PATIENCE)?;
        context.send("tester", "holds", &held)?;
        context.recv("tester", "go", PATIENCE)?;
        assert_eq!(context.recv("tester", "work", PATIENCE)?.bytes(), b"two");
        Ok(())
    }
    fn look(call: &mut Call) -> FunctionResult<String> {
        let found = call.context().try_recv(Sources::Any, "work")?;
        Ok(found.map_or("nothing".to_owned(), |message| message.source().to_string()))
    }
    let options = HarnessOptions { workers: 2, ..HarnessOptions::default() };
    let application = || Application::new().function("hold", hold).function("look", look);
    let harness = Harness::with_options(options, application).unwrap();
    let (tester, other) = (harness.correspondent("tester").unwrap(), harness.correspondent("other").unwrap());
    for number in ["one", "two", "three"] {
        tester.send("harness", "work", number.as_bytes()).unwrap();
    }
    let holding = harness.begin("hold", b"", Some(PATIENCE)).unwrap();
    assert_eq!(tester.recv("harness", "holds", PATIENCE).unwrap().bytes, b"one");
    assert_eq!(text(harness.invoke("look", b"")), "nothing");
    other.send("harness", "work", b"from another").unwrap();
    assert_eq!(text(harness.invoke("look", b"")), "other");
    tester.send("harness", "go", b"").unwrap();
    holding.wait().unwrap();
    assert_eq!(text(harness.invoke("look", b"")), "tester");
    assert_eq!(text(harness.invoke("look", b"")), "nothing");
}

#[test]
fn payloads_of_all_sizes_arrive_whole() {
    const SIZES: [usize; 12] =
        [0, 1, 40, 64, 100, 200, 256, 1 << 10, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 3 << 20];
    fn filled(bytes: usize) -> Vec<u8> {
        (0..=250).cycle().take(bytes).collect()
    }
    let harness = process(|call: &mut Call| -> FunctionResult {
        let long_key = "k".repeat(255);
        for bytes in SIZES.into_iter().chain(SIZES.into_iter().rev()) {
            for key in ["k", &long_key] {
                let message = call.context().recv("tester", key, PATIENCE)?;
                assert!(message.bytes() == filled(bytes) && message.bytes().as_ptr().addr().is_multiple_of(16));
                message.accept()?;
            }
        }
        Ok(())
    });
    let tester = harness.correspondent("tester").unwrap();
    let receiving = harness.begin("body", b"", Some(2 * PATIENCE)).unwrap();
    // Larger ones open larger lanes, without overtaking smaller ones.
    for bytes in SIZES.into_iter().chain(SIZES.into_iter().rev()) {
        tester.send_within("harness", "k", &filled(bytes), PATIENCE).unwrap();
        tester.send_within("harness", &"k".repeat(255), &filled(bytes), PATIENCE).unwrap();
    }
    receiving.wait().unwrap();
}

#[test]
fn a_mebibyte_is_built_and_read_where_it_lies() {
    fn build(call: &mut Call) -> FunctionResult {
        let context = call.context();
        drop(context.loan_message("reader", 1 << 20)?);
        let mut loan = context.loan_message("reader", 1 << 20)?;
        for (byte, value) in loan.iter_mut().zip((0..=252).cycle()) {
            *byte = value;
        }
        loan.send("picture")?;
        // To itself: built in private memory, and copied.
        let mut own = context.loan_message(SELF, 5)?;
        own.copy_from_slice(b"mine!");
        own.send("own")?;
        assert_eq!(context.recv(SELF, "own", PATIENCE)?.bytes(), b"mine!");
        Ok(())
    }
    fn read(call: &mut Call) -> FunctionResult {
        let message = call.context().recv("harness", "picture", PATIENCE)?;
        // Blocks of lanes are aligned to 1 KiB, objects of the mailbox to less.
        assert!(message.len() == 1 << 20 && message.as_ptr().addr().is_multiple_of(1024));
        assert!(message.iter().zip((0..=252).cycle()).all(|(byte, value)| *byte == value));
        Ok(())
    }
    let harness = Harness::new(|| Application::new().function("build", build).function("read", read)).unwrap();
    let reader = harness.another("reader").unwrap();
    for _ in 0..10 {
        harness.invoke("build", b"").unwrap();
        reader.invoke("read", b"").unwrap();
    }
}

#[test]
fn a_process_sends_to_itself_by_self_and_by_name() {
    check(|context| {
        context.send(SELF, "note", b"one")?;
        context.send("harness", "note", b"two")?;
        context.send(context.process(), "note", b"three")?;
        for expected in ["one", "two", "three"] {
            let message = context.recv(SELF, "note", PATIENCE)?;
            assert_eq!((message.bytes(), message.source()), (expected.as_bytes(), "harness".parse()?));
        }
        assert!(context.try_recv(SELF, "note")?.is_none());
        Ok(())
    });
}

#[test]
fn keys_of_messages_and_of_state_have_nothing_to_do_with_each_other() {
    check(|context| {
        context.send(SELF, "shared", b"a message")?;
        assert!(context.state_bytes("shared")?.is_none());
        context.put_bytes("shared", b"an object")?;
        context.put_bytes("other", b"an object")?;
        assert_eq!(context.recv(SELF, "shared", PATIENCE)?.bytes(), b"a message");
        assert!(context.try_recv(SELF, "shared")?.is_none() && context.try_recv(Sources::Any, "other")?.is_none());
        assert_eq!(context.state_bytes("shared")?.as_deref(), Some(&b"an object"[..]));
        assert!(context.list("", None)?.objects.iter().all(|object| object.key == "shared" || object.key == "other"));
        Ok(())
    });
}

#[test]
fn a_peek_takes_nothing() {
    check(|context| {
        assert!(context.peek(Sources::Any, "note")?.is_none());
        let id = context.send(SELF, "note", b"look at me")?;
        for _ in 0..3 {
            let peeked = context.peek(SELF, "note")?.expect("it is there");
            assert_eq!((peeked.id, &peeked.bytes[..], peeked.is_redelivered), (id, &b"look at me"[..], false));
        }
        assert_eq!(context.recv(SELF, "note", PATIENCE)?.id(), id);
        assert!(context.peek(SELF, "note")?.is_none());
        Ok(())
    });
}

#[test]
fn what_is_no_key_and_no_name_is_refused() {
    check(|context| {
        assert!(matches!(context.try_recv(Sources::Any, ""), Err(RecvError::Key(_))));
        assert!(matches!(context.try_recv("No Name", "key"), Err(RecvError::Name(_))));
        assert!(context.send(SELF, "a\nb", b"").is_err() && context.send("../up", "key", b"").is_err());
        Ok(())
    });
}
