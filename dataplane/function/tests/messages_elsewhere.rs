//! Messages to other hosts and to clients' sessions: whatever becomes of the link, each arrives once and in its order, and a
//! sender is never told what is not certain.

use std::time::{Duration, Instant};

use praas_function::testing::{Correspondent, Fate, Harness, HarnessOptions};
use praas_function::{
    Accepted, Address, Application, Call, Context, FunctionResult, IdempotencyKey, InvokeOptions, MessageId, SendError,
    Sources,
};
use praas_protocol::CallError;

/// Longer than anything here takes, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Short: for what does not come.
const BRIEF: Duration = Duration::from_millis(30);

/// A process of one host, and one of another, which is called `far`.
fn hosts<R: praas_function::Reply>(
    body: impl Fn(&mut Call<'_>) -> R + Copy + Send + Sync + 'static,
) -> (Harness, Harness) {
    let here = Harness::new(move || Application::new().function("body", body).function("take", take)).unwrap();
    let far = here.on_another_host("far").unwrap();
    (here, far)
}

/// Runs a body that asserts on a host that `far` is not on; its panic is the test's.
fn check(body: impl Fn(&Context<'_>) -> FunctionResult + Copy + Send + Sync + 'static) {
    let (here, _far) = hosts(move |call: &mut Call| body(&call.context()));
    here.invoke("body", b"").unwrap();
}

/// Answers with the next message of the process `harness`, under the key that is the input.
fn take(call: &mut Call) -> FunctionResult {
    let key = std::str::from_utf8(call.input()).unwrap().to_owned();
    let message = call.context().recv("harness", &key, PATIENCE)?;
    call.reply(&message)
}

fn taken(process: &Harness, key: &str) -> Vec<u8> {
    process.invoke("take", key.as_bytes()).unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn messages_between_hosts_arrive_in_order_and_unchanged_whatever_their_length() {
    const LENGTHS: [usize; 8] = [0, 1, 63, 64, 65, 1000, 70_000, 1 << 20];
    fn send(call: &mut Call) -> FunctionResult {
        let context = call.context();
        for (number, length) in (1..).zip(LENGTHS) {
            context.send_within("far", "copied", &vec![number; length], PATIENCE)?;
            let mut built = context.loan_message("far", length)?;
            assert_eq!(built.len(), length);
            assert!(built.as_ptr().addr().is_multiple_of(16));
            built.fill(number);
            built.send_within("built", PATIENCE)?;
        }
        Ok(())
    }
    let (here, far) = hosts(send);
    let sending = here.begin("body", b"", Some(PATIENCE)).unwrap();
    for (number, length) in (1..).zip(LENGTHS) {
        for key in ["copied", "built"] {
            assert!(taken(&far, key) == vec![number; length], "{length} bytes, {key}");
        }
    }
    sending.wait().unwrap();
}

#[test]
fn a_process_answers_one_of_another_host_by_the_source_of_its_message() {
    fn relay(call: &mut Call) -> FunctionResult {
        let context = call.context();
        let question = context.recv(Sources::Any, "questions", PATIENCE)?;
        context.send(question.source(), "answers", &[b"to ", question.bytes()].concat())?;
        Ok(())
    }
    let (here, far) = hosts(relay);
    let tester = here.correspondent("tester").unwrap();
    for question in ["one", "two"] {
        tester.send("far", "questions", question.as_bytes()).unwrap();
        far.invoke("body", b"").unwrap();
        assert_eq!(text(tester.recv("far", "answers", PATIENCE).unwrap().bytes), format!("to {question}"));
    }
}

/// Sends the numbers that the input tells of: from the first one on, so many; in the way that the third one names.
fn send_numbers(call: &mut Call) -> FunctionResult {
    let context = call.context();
    let [first, count, way] = <[u8; 3]>::try_from(call.input()).unwrap();
    let mut pending = Vec::new();
    for number in first..first + count {
        match way {
            0 => drop(context.send_within("far", "numbers", &[number], PATIENCE)?),
            1 => {
                let mut loan = context.loan_message("far", 3000)?;
                loan.fill(number);
                loan.send_within("numbers", PATIENCE)?;
            }
            _ => pending.push(context.start_send("far", "numbers", &[number; 100])?),
        }
    }
    // Whichever is waited for: those before it arrive first.
    while let Some(last) = pending.pop() {
        last.wait_within(PATIENCE)?;
    }
    Ok(())
}

/// Sets the seed, to repeat a failure.
const SEED_VARIABLE: &str = "PRAAS_SEED";

/// SplitMix64, by Steele, Lea and Flood: small, and good enough to choose fates.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = match std::env::var(SEED_VARIABLE) {
            Ok(text) => text.parse().expect("the seed is a decimal number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
        };
        println!("seed {seed}: repeat with {SEED_VARIABLE}={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u8) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()[0] % limit
    }

    fn fate(&mut self) -> Fate {
        match self.below(5) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            _ => Fate::Arrives,
        }
    }
}

#[test]
fn a_link_that_breaks_again_and_again_loses_doubles_and_reorders_nothing() {
    let mut random = Random::seeded();
    for round in 0..20 {
        let (here, far) = hosts(send_numbers);
        let fates = random.below(40);
        here.link().foretell((0..fates).map(|_| random.fate()));
        let mut sent = 0_u8;
        for _ in 0..1 + random.below(5) {
            let (count, way) = (1 + random.below(20), random.below(3));
            here.invoke("body", &[sent, count, way]).unwrap();
            sent += count;
        }
        for number in 0..sent {
            let bytes = taken(&far, "numbers");
            assert_eq!(bytes.first(), Some(&number), "round {round}");
            assert!(bytes.iter().all(|byte| *byte == number), "round {round}");
        }
        let end = far.begin("take", b"numbers", Some(BRIEF)).and_then(|call| call.wait());
        assert!(matches!(end, Err(CallError::DeadlineExceeded { .. })), "round {round}: {end:?} came once more");
    }
}

/// Fills the mailbox of `far` with `key`, so that nothing more finds room.
fn fill(context: &Context<'_>, key: &str) -> usize {
    let mut sent = 0;
    loop {
        match context.send("far", key, &[7; 500_000]) {
            Ok(_) => sent += 1,
            Err(error) => {
                assert!(matches!(error, SendError::FullElsewhere { .. }) && error.is_full(), "{error}");
                return sent;
            }
        }
    }
}

#[test]
fn a_message_to_a_full_mailbox_is_refused_or_waits_and_nobody_overtakes_it() {
    fn flood(call: &mut Call) -> FunctionResult<String> {
        let context = call.context();
        let filled = fill(&context, "filling");
        let late = context.send_within("far", "filling", &[8; 500_000], BRIEF).unwrap_err();
        assert!(matches!(late, SendError::DeadlineExceeded { .. }), "{late}");
        // Started while there is no room; the first of them waits for it.
        let large = context.start_send("far", "filling", &[9; 500_000])?;
        let small = context.start_send("far", "filling", &[10])?;
        context.send("tester", "state", &filled.to_le_bytes())?;
        large.wait_within(PATIENCE)?;
        small.wait_within(PATIENCE)?;
        Ok(filled.to_string())
    }
    let (here, far) = hosts(flood);
    let tester = here.correspondent("tester").unwrap();
    let flooding = here.begin("body", b"", Some(PATIENCE)).unwrap();
    let filled = tester.recv("harness", "state", PATIENCE).unwrap().bytes;
    let filled = usize::from_le_bytes(filled.try_into().unwrap());
    assert!(filled > 1);
    for _ in 0..filled {
        assert!(taken(&far, "filling") == vec![7; 500_000]);
    }
    assert_eq!(text(flooding.wait().unwrap()), filled.to_string());
    assert!(taken(&far, "filling") == vec![9; 500_000]);
    assert_eq!(taken(&far, "filling"), [10]);
}

#[test]
fn a_full_mailbox_keeps_nobody_from_sending_to_others() {
    let (here, _far) = hosts(|call: &mut Call| -> FunctionResult<String> {
        let context = call.context();
        fill(&context, "filling");
        let results = context.broadcast(&["far", "near", "other", "nobody"], "news", &[1; 400_000]);
        let end = |result: &Result<MessageId, SendError>| match result {
            Ok(_) => '+',
            Err(SendError::FullElsewhere { .. }) => '-',
            Err(SendError::UnknownProcess { .. }) => '?',
            Err(error) => panic!("{error}"),
        };
        Ok(results.iter().map(end).collect())
    });
    let near = here.correspondent("near").unwrap();
    let other = here.on_another_host("other").unwrap();
    assert_eq!(text(here.invoke("body", b"").unwrap()), "-++?");
    assert!(near.recv("harness", "news", PATIENCE).unwrap().bytes == vec![1; 400_000]);
    assert!(taken(&other, "news") == vec![1; 400_000]);
}

#[test]
fn while_the_link_is_down_messages_wait_and_one_that_was_not_sent_in_time_certainly_was_not() {
    let (here, far) = hosts(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let late = context.send_within("far", "news", b"late", BRIEF).unwrap_err();
        assert!(matches!(late, SendError::Unavailable { .. } | SendError::DeadlineExceeded { .. }), "{late}");
        context.send("tester", "state", b"waiting")?;
        context.send_within("far", "news", b"in time", PATIENCE)?;
        Ok(())
    });
    let tester = here.correspondent("tester").unwrap();
    here.link().cut();
    let sending = here.begin("body", b"", Some(PATIENCE)).unwrap();
    tester.recv("harness", "state", PATIENCE).unwrap();
    assert!(!sending.is_answered());
    here.link().mend();
    sending.wait().unwrap();
    assert_eq!(taken(&far, "news"), b"in time");
}

/// Sends a message that is cut off, and again as often as the input says once the link is there.
fn send_in_doubt(call: &mut Call) -> FunctionResult<String> {
    let context = call.context();
    let begun = Instant::now();
    let (id, to) = loop {
        match context.send_within("far", "news", b"once", BRIEF).unwrap_err() {
            SendError::Unknown { id, to } => break (id, to),
            // On a busy machine it has not left in time: then it certainly was not sent.
            error => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert_eq!(to, "far".parse().unwrap());
    context.send("tester", "state", b"in doubt")?;
    context.recv("tester", "state", PATIENCE)?;
    let again = |_| context.send_again(id, to, "news", b"once", PATIENCE);
    let settled: Result<Vec<Accepted>, SendError> = (0..call.input()[0]).map(again).collect();
    Ok(format!("{:?}", settled?))
}

#[test]
fn a_message_in_doubt_is_settled_by_sending_it_again_with_its_id() {
    for (fate, expected) in [(Fate::Lost, "[Now, Before]"), (Fate::Unanswered, "[Before, Before]")] {
        let (here, far) = hosts(send_in_doubt);
        let tester = here.correspondent("tester").unwrap();
        // No repetition arrives before the sender has given up.
        let link = here.link();
        link.foretell([fate].into_iter().chain([Fate::Lost; 1000]));
        let sending = here.begin("body", &[2], Some(PATIENCE)).unwrap();
        tester.recv("harness", "state", PATIENCE).unwrap();
        link.forget_fates();
        tester.send("harness", "state", b"").unwrap();
        assert_eq!(text(sending.wait().unwrap()), expected, "{fate:?}");
        assert_eq!(taken(&far, "news"), b"once");
        let end = far.begin("take", b"news", Some(BRIEF)).and_then(|call| call.wait());
        assert!(matches!(end, Err(CallError::DeadlineExceeded { .. })), "{end:?}");
    }
}

#[test]
fn what_is_given_up_before_it_has_left_is_not_sent_and_does_not_stop_what_follows() {
    let (here, far) = hosts(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        for round in 0..50_u8 {
            let mut pending: Vec<_> =
                (0..10).map(|number| context.start_send("far", "news", &[round, number])).collect::<Result<_, _>>()?;
            let last = pending.pop().unwrap();
            drop(pending);
            last.wait_within(PATIENCE)?;
        }
        Ok(())
    });
    here.invoke("body", b"").unwrap();
    let mut last = [0, 0];
    while last != [49, 9] {
        let next = <[u8; 2]>::try_from(taken(&far, "news")).unwrap();
        assert!(last == [0, 0] || next > last, "{next:?} after {last:?}");
        last = next;
    }
}

#[test]
fn pending_messages_are_bounded_and_looked_at_without_waiting() {
    let (here, far) = hosts(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let mut pending = Vec::new();
        for number in 0..200_u8 {
            pending.push(context.start_send("far", "news", &[number])?);
        }
        let begun = Instant::now();
        while !pending.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{pending:?}");
            pending.retain_mut(|one| match one.try_wait() {
                Some(end) => {
                    assert_eq!(end.unwrap(), one.id());
                    false
                }
                None => true,
            });
        }
        Ok(())
    });
    here.invoke("body", b"").unwrap();
    for number in 0..200 {
        assert_eq!(taken(&far, "news"), [number]);
    }
}

#[test]
fn a_message_that_was_started_goes_on_while_its_function_waits_for_something_else() {
    fn ask(call: &mut Call) -> FunctionResult {
        let context = call.context();
        let asked = context.start_send("far", "questions", b"again")?;
        let answer = context.recv("far", "answers", PATIENCE)?;
        assert_eq!(answer.bytes(), b"again");
        let called = context.start_send("far", "questions", b"and again")?;
        context.invoke("far", "answer", b"")?;
        asked.wait()?;
        called.wait()?;
        Ok(())
    }
    fn answer(call: &mut Call) -> FunctionResult {
        let context = call.context();
        let question = context.recv("harness", "questions", PATIENCE)?;
        context.send("harness", "answers", &question)?;
        Ok(())
    }
    // A repetition is taken by a worker, and one waits for the message.
    let options = HarnessOptions { workers: 2, ..HarnessOptions::default() };
    let here =
        Harness::with_options(options, || Application::new().function("body", ask).function("answer", answer)).unwrap();
    let far = here.on_another_host("far").unwrap();
    // Both messages are lost the first time.
    here.link().foretell([Fate::Lost, Fate::Arrives, Fate::Arrives, Fate::Lost]);
    let asking = here.begin("body", b"", Some(PATIENCE)).unwrap();
    far.invoke("answer", b"").unwrap();
    let end = asking.wait();
    // The call is cut off where the second message is.
    assert!(
        end.is_ok() || matches!(&end, Err(CallError::FunctionFailed { message, .. }) if message.contains("lost")),
        "{end:?}"
    );
}

#[test]
fn a_message_that_would_not_fit_with_its_head_is_refused_with_figures() {
    let options = HarnessOptions { payload_bytes_max: 1 << 20, ..HarnessOptions::default() };
    let here = Harness::with_options(options, || {
        Application::new().function("body", |call: &mut Call| -> FunctionResult {
            let context = call.context();
            let limit = praas_protocol::message::PUT_HEAD_BYTES_MAX;
            context.send("far", "key", &vec![1; (1 << 20) - limit])?;
            for over in [1, limit, limit + 1] {
                let error = context.send("far", &"k".repeat(255), &vec![1; (1 << 20) - limit + over]).unwrap_err();
                assert!(matches!(error, SendError::TooLarge { .. }), "{error}");
                let error = context.loan_message("far", (1 << 20) - limit + over).unwrap_err();
                assert!(matches!(error, SendError::TooLarge { .. }), "{error}");
            }
            Ok(())
        })
    })
    .unwrap();
    let _far = here.on_another_host("far").unwrap();
    here.invoke("body", b"").unwrap();
}

#[test]
fn a_process_that_has_ended_is_unknown_and_one_that_comes_after_it_is_reached() {
    let here = Harness::new(|| {
        Application::new().function("take", take).function("body", |call: &mut Call| {
            match call.context().send("far", "news", call.input()) {
                Ok(_) => "sent".to_owned(),
                Err(error) => format!("{error:?}"),
            }
        })
    })
    .unwrap();
    for round in 0..3_u8 {
        let far = here.on_another_host("far").unwrap();
        assert_eq!(text(here.invoke("body", &[round]).unwrap()), "sent");
        assert_eq!(taken(&far, "news"), [round]);
        drop(far);
        let end = text(here.invoke("body", b"late").unwrap());
        assert!(end.contains("UnknownProcess"), "{end}");
    }
    // The same name on this host.
    let far = here.another("far").unwrap();
    assert_eq!(text(here.invoke("body", b"near").unwrap()), "sent");
    assert_eq!(taken(&far, "news"), b"near");
}

fn session_id(client: &Correspondent) -> MessageId {
    let Address::Client(session) = client.address() else { panic!("{client:?}") };
    MessageId { incarnation: u64::try_from(session.0).expect("a small number"), sequence: 0 }
}

#[test]
fn functions_and_the_sessions_of_clients_exchange_messages() {
    let (here, _far) = hosts(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let question = context.recv(Sources::Any, "questions", PATIENCE)?;
        let client = question.source();
        let pending: Vec<_> = question
            .bytes()
            .iter()
            .map(|byte| context.start_send(client, "answers", &[*byte]))
            .collect::<Result<_, _>>()?;
        pending.into_iter().try_for_each(|one| one.wait().map(drop))?;
        let mut loan = context.loan_message(client, 5000)?;
        loan.fill(9);
        loan.send("answers")?;
        Ok(())
    });
    let clients = [here.session().unwrap(), here.session().unwrap()];
    assert_ne!(session_id(&clients[0]), session_id(&clients[1]));
    for client in &clients {
        client.send("harness", "questions", b"abc").unwrap();
        here.invoke("body", b"").unwrap();
        for byte in *b"abc" {
            assert_eq!(client.recv("harness", "answers", PATIENCE).unwrap().bytes, [byte]);
        }
        assert!(client.recv("harness", "answers", PATIENCE).unwrap().bytes == [9; 5000]);
        assert!(client.try_recv(Sources::Any, "answers").unwrap().is_none());
    }
    let [client, other] = clients;
    client.send("harness", "questions", b"late").unwrap();
    drop(client);
    let end = here.invoke("body", b"").unwrap_err();
    assert!(matches!(&end, CallError::FunctionFailed { message, .. } if message.contains("no session")), "{end}");
    // Sessions send to each other, too.
    let third = here.session().unwrap();
    other.send(third.address(), "greetings", b"hello").unwrap();
    let greeting = third.recv(other.address(), "greetings", PATIENCE).unwrap();
    assert_eq!((greeting.source, &greeting.bytes[..]), (other.address(), &b"hello"[..]));
}

#[test]
fn a_session_whose_mailbox_is_full_makes_its_sender_wait() {
    let (here, _far) = hosts(|call: &mut Call| -> FunctionResult<String> {
        let context = call.context();
        let client = context.recv(Sources::Any, "hello", PATIENCE)?.source();
        let mut sent = 0;
        while context
            .send(client, "news", &[sent; 1_000_000])
            .map_err(|error| assert!(error.is_full(), "{error}"))
            .is_ok()
        {
            sent += 1;
        }
        context.send("tester", "state", &[sent])?;
        context.send_within(client, "news", &[sent; 1_000_000], PATIENCE)?;
        Ok(sent.to_string())
    });
    let (tester, client) = (here.correspondent("tester").unwrap(), here.session().unwrap());
    client.send("harness", "hello", b"").unwrap();
    let sending = here.begin("body", b"", Some(PATIENCE)).unwrap();
    let sent = tester.recv("harness", "state", PATIENCE).unwrap().bytes[0];
    for number in 0..=sent {
        assert!(client.recv("harness", "news", PATIENCE).unwrap().bytes == vec![number; 1_000_000]);
    }
    assert_eq!(text(sending.wait().unwrap()), sent.to_string());
}

#[test]
fn functions_call_those_of_other_hosts_and_are_called_back() {
    let application = || {
        Application::new()
            .function("echo", |call: &mut Call| call.reply(call.input()))
            .function("back", |call: &mut Call| -> FunctionResult {
                let output = call.context().invoke("harness", "echo", call.input())?;
                call.reply(&output)
            })
            .function("there", |call: &mut Call| -> FunctionResult {
                let context = call.context();
                let several = context.gather(["far", "nobody", "far"], "echo", b"x");
                assert!(several[0].is_ok() && several[2].is_ok());
                assert!(matches!(several[1], Err(CallError::UnknownProcess { .. })), "{several:?}");
                let once = InvokeOptions::new().idempotency_key(IdempotencyKey::from_bytes([3; 16]));
                assert_eq!(&*context.invoke_with("far", "echo", call.input(), &once)?, call.input());
                assert_eq!(&*context.invoke_with("far", "echo", call.input(), &once)?, call.input());
                assert_eq!(context.invoke_with("far", "echo", b"other", &once).unwrap_err(), CallError::KeyReused);
                let output = context.invoke("far", "back", call.input())?;
                call.reply(&output)
            })
    };
    let here = Harness::with_options(HarnessOptions { workers: 2, ..HarnessOptions::default() }, application).unwrap();
    let _far = here.on_another_host("far").unwrap();
    for length in [0, 1, 64, 97, 100_000] {
        let input = vec![5; length];
        assert!(here.invoke("there", &input).unwrap() == input, "{length} bytes");
        // Keys are used once.
        if length == 0 {
            break;
        }
    }
}

#[test]
fn a_call_to_another_host_that_is_cut_off_may_have_run_and_one_that_was_not_sent_has_not() {
    let (here, _far) = hosts(|call: &mut Call| -> FunctionResult {
        let context = call.context();
        let brief = InvokeOptions::new().deadline(BRIEF);
        let unsent = context.invoke_with("far", "take", b"nothing", &brief).unwrap_err();
        assert!(matches!(unsent, CallError::Unavailable { .. } | CallError::DeadlineExceeded { .. }), "{unsent}");
        context.send("tester", "state", b"")?;
        let lost = context.invoke("far", "take", b"nothing").unwrap_err();
        assert_eq!(lost, CallError::ConnectionLost { may_have_run: true });
        Ok(())
    });
    let tester = here.correspondent("tester").unwrap();
    let link = here.link();
    link.cut();
    let calling = here.begin("body", b"", Some(PATIENCE)).unwrap();
    tester.recv("harness", "state", PATIENCE).unwrap();
    link.mend();
    let begun = Instant::now();
    while !calling.is_answered() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
        link.cut();
        link.mend();
    }
    calling.wait().unwrap();
}

#[test]
fn nothing_is_sent_to_another_host_that_has_no_key_or_no_name() {
    check(|context| {
        assert!(matches!(context.send("far", "", b"x"), Err(SendError::Key(_))));
        assert!(matches!(context.start_send("far", "", b"x"), Err(SendError::Key(_))));
        assert!(matches!(context.start_send("no name", "k", b"x"), Err(SendError::Name(_))));
        Ok(())
    });
}
