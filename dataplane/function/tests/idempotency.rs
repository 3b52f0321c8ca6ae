//! Calls with idempotency keys as functions and their callers see them: run once, answered as often as asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call, FunctionError, FunctionResult, IdempotencyKey};
use praas_protocol::CallError;
use praas_protocol::limits::{ERROR_MESSAGE_BYTES_MAX, IDEMPOTENCY_PREFIX_BYTES};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the functions have done, seen from the test.
#[derive(Default)]
struct Watch {
    runs: AtomicU64,
    may_end: AtomicBool,
}

impl Watch {
    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn start(options: HarnessOptions, kept_for: Option<Duration>) -> (Harness, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let watched = Arc::clone(&watch);
    let application = move || {
        let run = |watch: &Arc<Watch>| watch.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let [one, two, three, four, five] = std::array::from_fn(|_| Arc::clone(&watched));
        let application = Application::new()
            .function("count", move |call: &mut Call| -> FunctionResult {
                let number = run(&one);
                call.reply(&[number.to_string().as_bytes(), b" ", call.input()].concat())
            })
            .function("fail", move |call: &mut Call| -> FunctionResult {
                Err(FunctionError::new(7, format!("{} {}", run(&two), call.input().len())))
            })
            .function("panic", move |_: &mut Call| -> FunctionResult { panic!("run {}", run(&three)) })
            .function("slow", move |_: &mut Call| {
                run(&four);
                eventually("the end of a call", || four.may_end.load(Ordering::SeqCst));
                "done"
            })
            .function("large", move |call: &mut Call| -> FunctionResult {
                run(&five);
                let bytes = std::str::from_utf8(call.input())?.parse()?;
                call.output(bytes)?.fill(9);
                Ok(())
            });
        match kept_for {
            Some(time) => application.keep_answers_for(time),
            None => application,
        }
    };
    (Harness::with_options(options, application).unwrap(), watch)
}

fn key(text: &str) -> IdempotencyKey {
    text.parse().unwrap()
}

#[test]
fn a_repeated_call_gets_the_answer_of_the_first_and_the_function_runs_once() {
    let (harness, watch) = start(HarnessOptions::default(), None);
    for caller in [harness.trusted(), harness.untrusted()] {
        let before = watch.runs();
        let first = caller.invoke_once("count", key("a"), b"in").unwrap();
        assert_eq!(first, format!("{} in", before + 1).as_bytes());
        for _ in 0..5 {
            assert_eq!(caller.invoke_once("count", key("a"), b"in").unwrap(), first);
        }
        // Another key, another function and no key at all are other calls.
        assert_ne!(caller.invoke_once("count", key("b"), b"in").unwrap(), first);
        assert!(caller.invoke_once("fail", key("a"), b"in").is_err());
        assert_ne!(caller.invoke("count", b"in").unwrap(), first);
        assert_eq!(watch.runs(), before + 4);
    }
}

#[test]
fn keys_of_two_principals_are_not_the_same() {
    let (mut harness, watch) = start(HarnessOptions::default(), None);
    let [alice, bob, alice_again] = [("alice", true), ("bob", true), ("alice", false)]
        .map(|(name, trusted)| harness.caller(name, trusted).unwrap());
    let answers = [&alice, &bob, &alice_again].map(|caller| caller.invoke_once("count", key("a"), b"").unwrap());
    assert_eq!((watch.runs(), &answers[0], &answers[2]), (2, &answers[0], &answers[0]));
    assert_ne!(answers[0], answers[1]);
}

#[test]
fn errors_and_panics_are_ends_that_are_repeated_as_they_were() {
    let (harness, watch) = start(HarnessOptions::default(), None);
    for _ in 0..3 {
        match harness.trusted().invoke_once("fail", key("a"), b"four") {
            Err(CallError::FunctionFailed { code: 7, message }) => assert_eq!(message, "1 4"),
            other => panic!("{other:?}"),
        }
        match harness.trusted().invoke_once("panic", key("a"), b"") {
            Err(CallError::FunctionPanicked { message }) => assert!(message.contains("run 2"), "{message}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(watch.runs(), 2);
    // The longest message fits its record.
    let long = "m".repeat(ERROR_MESSAGE_BYTES_MAX + 10);
    let harness = Harness::new(move || {
        let long = long.clone();
        Application::new()
            .function("fail", move |_: &mut Call| -> FunctionResult { Err(FunctionError::new(1, long.clone())) })
    })
    .unwrap();
    let ends = [(); 2].map(|()| harness.trusted().invoke_once("fail", key("a"), b"").unwrap_err());
    assert_eq!(ends[0], ends[1]);
    assert!(matches!(&ends[0], CallError::FunctionFailed { message, .. } if message.len() == ERROR_MESSAGE_BYTES_MAX));
}

#[test]
fn another_payload_under_a_used_key_is_refused_and_does_not_run() {
    let (harness, watch) = start(HarnessOptions::default(), None);
    harness.trusted().invoke_once("count", key("a"), b"one").unwrap();
    for payload in [&b"two"[..], b"", b"one ", &[0; 5000]] {
        assert_eq!(harness.trusted().invoke_once("count", key("a"), payload), Err(CallError::KeyReused));
    }
    assert_eq!(watch.runs(), 1);
}

#[test]
fn what_does_not_run_uses_no_key_up() {
    let (harness, watch) = start(HarnessOptions { payload_bytes_max: 10_000, ..HarnessOptions::default() }, None);
    let caller = harness.trusted();
    assert!(matches!(caller.invoke_once("none", key("a"), b""), Err(CallError::UnknownFunction { .. })));
    let limit = 10_000 - IDEMPOTENCY_PREFIX_BYTES;
    match caller.invoke_once("count", key("a"), &vec![1; limit + 1]) {
        Err(CallError::PayloadTooLarge { limit_bytes, actual_bytes }) => {
            assert_eq!((limit_bytes, actual_bytes), (limit as u64, limit as u64 + 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(watch.runs(), 0);
    // The key is free for another payload; and the largest that there can be arrives whole.
    let answer = caller.invoke_once("count", key("a"), &vec![7; limit]).map(|answer| answer.len());
    assert_eq!(answer, Ok(limit + 2));
}

#[test]
fn payloads_and_answers_of_every_size_come_back_as_they_were() {
    let (harness, watch) = start(HarnessOptions::default(), None);
    for caller in [harness.trusted(), harness.untrusted()] {
        for bytes in [0, 1, 31, 32, 33, 63, 64, 65, 1000, 5000, 100_000, 1 << 20] {
            let payload: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let before = watch.runs();
            let expected = [format!("{} ", before + 1).as_bytes(), &payload].concat();
            for _ in 0..2 {
                let answer = caller.invoke_once("count", key(&format!("k{bytes}")), &payload).unwrap();
                assert!(answer == expected, "{bytes} bytes");
            }
            assert_eq!(watch.runs(), before + 1);
        }
    }
}

#[test]
fn an_answer_too_large_to_be_kept_is_given_once_and_its_call_not_run_again() {
    let (harness, watch) = start(HarnessOptions::default(), None);
    // More than a quarter of the state.
    let bytes = 20 << 20;
    let payload = bytes.to_string();
    assert_eq!(harness.trusted().invoke_once("large", key("a"), payload.as_bytes()).unwrap().len(), bytes);
    match harness.trusted().invoke_once("large", key("a"), payload.as_bytes()) {
        Err(CallError::ReplyLost { actual_bytes, .. }) => assert_eq!(actual_bytes, bytes as u64),
        other => panic!("{:?}", other.map(|answer| answer.len())),
    }
    assert_eq!(watch.runs(), 1);
}

#[test]
fn repetitions_that_race_with_the_first_wait_for_its_answer() {
    let options = HarnessOptions { workers: 4, ..HarnessOptions::default() };
    let (harness, watch) = start(options, None);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4)
            .map(|number| {
                let caller = if number % 2 == 0 { harness.trusted() } else { harness.untrusted() };
                scope.spawn(move || caller.invoke_once("slow", key("a"), b"").unwrap())
            })
            .collect();
        // One for each of the two principals.
        eventually("the first runs", || watch.runs() == 2);
        std::thread::sleep(Duration::from_millis(20));
        assert!(calls.iter().all(|call| !call.is_finished()));
        watch.may_end.store(true, Ordering::SeqCst);
        for call in calls {
            assert_eq!(call.join().unwrap(), b"done");
        }
    });
    assert_eq!(watch.runs(), 2);
}

#[test]
fn many_threads_with_many_keys_run_each_call_once() {
    let options = HarnessOptions { workers: 3, ..HarnessOptions::default() };
    let (harness, watch) = start(options, None);
    const KEYS: u64 = 100;
    let answers: Vec<Vec<Vec<u8>>> = std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|shift| {
            let caller = harness.trusted();
            scope.spawn(move || {
                let mut answers: Vec<_> = (0..KEYS).map(|_| Vec::new()).collect();
                for number in (0..KEYS).map(|number| (number + shift * 7) % KEYS) {
                    let index = usize::try_from(number).unwrap();
                    answers[index] = caller.invoke_once("count", key(&format!("k{number}")), b"").unwrap();
                }
                answers
            })
        });
        threads.map(|thread| thread.join().unwrap()).into()
    });
    assert!(answers.iter().all(|one| *one == answers[0]));
    assert_eq!(watch.runs(), KEYS);
}

#[test]
fn a_repetition_ends_with_its_own_deadline_and_its_callers_cancel() {
    let options = HarnessOptions { workers: 2, ..HarnessOptions::default() };
    let (harness, watch) = start(options, None);
    let first = harness.trusted().begin_once("slow", key("a"), b"", None).unwrap();
    eventually("the first runs", || watch.runs() == 1);
    let late = harness.trusted().begin_once("slow", key("a"), b"", Some(Duration::from_millis(30))).unwrap();
    assert!(matches!(late.wait(), Err(CallError::DeadlineExceeded { .. })));
    let given_up = harness.trusted().begin_once("slow", key("a"), b"", None).unwrap();
    given_up.cancel();
    // Its worker is free again, for others.
    assert_eq!(harness.invoke("count", b"free").unwrap(), b"2 free");
    watch.may_end.store(true, Ordering::SeqCst);
    assert_eq!(first.wait().unwrap(), b"done");
    assert_eq!(harness.trusted().invoke_once("slow", key("a"), b"").unwrap(), b"done");
    assert_eq!(watch.runs(), 2);
}

#[test]
fn answers_are_forgotten_after_the_time_that_the_application_names() {
    let (harness, watch) = start(HarnessOptions::default(), Some(Duration::from_millis(50)));
    harness.trusted().invoke_once("count", key("a"), b"one").unwrap();
    eventually("the end of its time", || harness.trusted().invoke_once("count", key("a"), b"two").is_ok());
    assert_eq!(watch.runs(), 2);
}
