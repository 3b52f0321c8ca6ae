//! Calls from end to end: real segments and pipes, clients and workers on threads of this process.
#![cfg(not(loom))]

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::claim::Condemned;
use praas_shm::client_lane::{Answer, Bounded, ClientLane, Payload, Retracted, SubmitError, Ticket, WaitEnd};
use praas_shm::running_call::{ReserveError, RunningCall};
use praas_shm::worker_end::{Next, WorkerEnd};
use praas_shm::{ReplyArenaFull, Scratch, WorkerTag};

use support::tasks::{Reactor, settle_async};
use support::{Host, Options, PATIENCE, Serving, eventually, park_on, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
/// Around every boundary: inline request, inline reply, smallest block, page, whole arena half.
const SIZES: [usize; 18] =
    [0, 1, 7, 8, 63, 64, 65, 95, 96, 97, 1023, 1024, 1025, 4095, 4096, 4097, (1 << 20) - 1, 1 << 20];

fn echo() -> FunctionId {
    FunctionId::of("echo")
}

fn in_place() -> FunctionId {
    FunctionId::of("echo-in-place")
}

fn of_request() -> FunctionId {
    FunctionId::of("echo-where-it-lies")
}

/// Answers with the input, through lane memory where it was asked to and may.
fn run_echo(call: RunningCall<'_>, scratch: &mut Scratch) {
    if call.function() == of_request() && call.may_answer_with_input() {
        let bytes = call.payload_bytes();
        return call.reply_with_input(bytes).unwrap();
    }
    let copied;
    {
        let input = call.input(scratch);
        assert!(input.as_ptr().addr().is_multiple_of(16), "inputs are aligned for any archive");
        if call.function() == in_place()
            && let Some(output) = call.output_in_place(input.len()).unwrap()
        {
            output.copy_from_slice(input);
            copied = None;
        } else {
            copied = Some(input.to_vec());
        }
    }
    match copied {
        Some(output) => call.reply(Outcome::Ok, 0, 0, &output),
        None => {
            let bytes = call.payload_bytes();
            call.reply_in_place(bytes)
        }
    }
    .unwrap();
}

fn serve_echo(host: &Arc<Host>, tag: WorkerTag) -> Serving {
    let mut scratch = Scratch::new();
    Serving::start(host, tag, move |call| run_echo(call, &mut scratch))
}

/// Submits; again where a worker that was interrupted between its claim and its copy holds the ring's next entry, while
/// others have gone on for a lap.
fn submit(lane: &ClientLane, function: FunctionId, bytes: &[u8]) -> Ticket {
    let start = Instant::now();
    loop {
        match lane.submit(function, Payload::Bytes(bytes), 0, 0) {
            Err(SubmitError::Full { what: Bounded::Ring, .. }) if start.elapsed() < PATIENCE => {
                std::thread::yield_now();
            }
            submitted => return submitted.unwrap(),
        }
    }
}

fn settle(lane: &Arc<ClientLane>, ticket: Ticket, mode: WaitMode) -> Answer {
    assert_eq!(lane.wait(&ticket, mode, PATIENCE), WaitEnd::Answered);
    lane.take(ticket)
}

fn call(lane: &Arc<ClientLane>, function: FunctionId, bytes: &[u8]) -> Answer {
    settle(lane, submit(lane, function, bytes), WaitMode::Adaptive)
}

fn bytes_of(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.outcome_code, Outcome::Ok as u32);
    let payload = answer.payload.as_ref().expect("the descriptor lies inside the lane");
    let mut bytes = vec![0; payload.len()];
    payload.copy_to(&mut bytes);
    if let Some(in_place) = payload.as_slice() {
        assert_eq!(in_place, bytes);
    }
    bytes
}

/// Holds calls back until the test lets them go on.
#[derive(Default)]
struct Gate {
    state: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Worker: reports that a call has begun, and waits.
    fn enter(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        self.changed.notify_all();
        let (_state, late) = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.1).unwrap();
        assert!(!late.timed_out(), "the gate never opened");
    }

    fn wait_for_entries(&self, entries: u32) {
        let state = self.state.lock().unwrap();
        let (_state, late) = self.changed.wait_timeout_while(state, PATIENCE, |state| state.0 < entries).unwrap();
        assert!(!late.timed_out(), "fewer than {entries} calls began");
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[test]
fn payloads_of_every_size_go_both_ways_inside_and_outside_a_trust_domain() {
    for trusted in [true, false] {
        let host = Arc::new(Host::new(Options { trusted, ..Options::default() }));
        let _worker = serve_echo(&host, WORKER);
        let lane = host.client();
        for (seed, bytes) in SIZES.into_iter().enumerate() {
            let sent = pattern(bytes, seed as u64);
            for function in [echo(), in_place(), of_request()] {
                let answer = call(&lane, function, &sent);
                assert_eq!(bytes_of(&answer), sent, "{bytes} bytes, trusted {trusted}");
                let stays = function == of_request() && bytes > 64;
                let lies_in_lane = bytes > 96 || (function == in_place() || stays) && trusted;
                let readable = answer.payload.as_ref().unwrap().as_slice().is_some();
                assert_eq!(readable, trusted || !lies_in_lane, "{bytes} bytes, trusted {trusted}");
                drop(answer);

                let mut loan = lane.loan(bytes).unwrap();
                assert_eq!(loan.bytes(), bytes);
                match lane.loan_bytes_mut(&mut loan) {
                    Some(place) => place.copy_from_slice(&sent),
                    None => {
                        assert!(!trusted);
                        let half = bytes / 2;
                        lane.loan_write(&mut loan, 0, &sent[..half]);
                        lane.loan_write(&mut loan, half, &sent[half..]);
                    }
                }
                let mut back = vec![0; bytes];
                lane.loan_read(&loan, &mut back);
                assert_eq!(back, sent);
                let ticket = lane.submit(function, Payload::Loan(loan), 0, 0).unwrap();
                assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Adaptive)), sent);
            }
        }
        assert_eq!(lane.in_flight(), 0);
    }
}

#[test]
fn payloads_over_the_limit_are_refused_with_both_figures() {
    let host = Arc::new(Host::new(Options { payload_bytes_max: 40, ..Options::default() }));
    let _worker = Serving::start(&host, WORKER, |call| {
        assert!(matches!(call.output_in_place(41), Err(ReserveError::TooLarge { limit_bytes: 40, actual_bytes: 41 })));
        call.reply(Outcome::Ok, 0, 0, &[1; 41]).unwrap();
    });
    let lane = host.client();
    let error = lane.submit(echo(), Payload::Bytes(&[0; 65]), 0, 0).unwrap_err();
    assert!(matches!(error, SubmitError::TooLarge { limit_bytes: 40, actual_bytes: 65, loan: None }), "{error}");
    assert!(error.to_string().contains("65") && error.to_string().contains("40"));
    assert!(lane.loan(41).is_err());
    for sent in [&[0_u8; 41][..], &[0; 40]] {
        // Too large a request in the first round, too large a reply in the second.
        let answer = call(&lane, echo(), sent);
        assert_eq!((answer.outcome_code, answer.detail, answer.more), (Outcome::PayloadTooLarge as u32, 40, 41));
    }
}

#[test]
fn each_wait_mode_answers_every_call() {
    for mode in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park] {
        for client_mode in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park] {
            let host = Arc::new(Host::new(Options { wait_mode: mode, ..Options::default() }));
            let _worker = serve_echo(&host, WORKER);
            let lane = host.client();
            for number in 0_u64..60 {
                let ticket = submit(&lane, echo(), &number.to_le_bytes());
                assert_eq!(bytes_of(&settle(&lane, ticket, client_mode)), number.to_le_bytes());
            }
        }
    }
}

#[test]
fn waits_end_at_their_timeout_in_every_mode() {
    let host = Arc::new(Host::new(Options::default()));
    let lane = host.client();
    let ticket = submit(&lane, echo(), b"nobody is there");
    for mode in [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park] {
        for timeout in [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(130)] {
            assert_eq!(lane.wait(&ticket, mode, timeout), WaitEnd::DeadlinePassed);
        }
    }
    let _worker = serve_echo(&host, WORKER);
    assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Park)), b"nobody is there");
}

#[test]
fn a_later_call_may_be_answered_first() {
    let host = Arc::new(Host::new(Options { workers_max: 2, ..Options::default() }));
    let gate = Arc::new(Gate::default());
    let _workers = [0, 1].map(|index| {
        let gate = Arc::clone(&gate);
        let mut scratch = Scratch::new();
        Serving::start(&host, WorkerTag::new(index, 1), move |call| {
            if call.function() == FunctionId::of("gated") {
                gate.enter();
            }
            run_echo(call, &mut scratch);
        })
    });
    let lane = host.client();
    let slow = submit(&lane, FunctionId::of("gated"), b"slow");
    gate.wait_for_entries(1);
    for number in 0_u64..20 {
        assert_eq!(bytes_of(&call(&lane, echo(), &number.to_le_bytes())), number.to_le_bytes());
    }
    assert!(!lane.is_answered(&slow));
    gate.open();
    assert_eq!(bytes_of(&settle(&lane, slow, WaitMode::Park)), b"slow");
}

#[test]
fn workers_that_claim_from_one_lane_run_each_call_once() {
    const CALLS: u64 = 3000;
    for mode in [WaitMode::Adaptive, WaitMode::Park, WaitMode::Spin] {
        let host = Arc::new(Host::new(Options { workers_max: 3, wait_mode: mode, ..Options::default() }));
        let runs: Arc<Mutex<HashMap<u64, u32>>> = Arc::default();
        let workers: Vec<_> = (0..3)
            .map(|index| {
                let runs = Arc::clone(&runs);
                let mut scratch = Scratch::new();
                Serving::start(&host, WorkerTag::new(index, 1), move |call| {
                    let number = u64::from_le_bytes(call.input(&mut scratch).try_into().unwrap());
                    *runs.lock().unwrap().entry(number).or_default() += 1;
                    run_echo(call, &mut scratch);
                })
            })
            .collect();
        let lane = host.client();
        let mut flight = std::collections::VecDeque::new();
        for number in 0..CALLS {
            if flight.len() == 8 {
                let (number, ticket): (u64, Ticket) = flight.pop_front().unwrap();
                assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Adaptive)), number.to_le_bytes());
            }
            flight.push_back((number, submit(&lane, echo(), &number.to_le_bytes())));
        }
        for (number, ticket) in flight {
            assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Adaptive)), number.to_le_bytes());
        }
        drop(workers);
        let runs = runs.lock().unwrap();
        assert!(runs.len() as u64 == CALLS && runs.values().all(|&times| times == 1), "{mode:?}");
    }
}

#[test]
fn threads_that_share_a_lane_each_get_their_own_answers() {
    let host = Arc::new(Host::new(Options { workers_max: 2, calls: 16, trusted: false, ..Options::default() }));
    let _workers = [0, 1].map(|index| serve_echo(&host, WorkerTag::new(index, 1)));
    let lane = host.client();
    std::thread::scope(|scope| {
        for thread in 0..6_usize {
            let lane = &lane;
            scope.spawn(move || {
                for number in 0..200 {
                    let bytes = pattern([8, 90, 300, 5000][number % 4], (thread << 32 | number) as u64);
                    let mode = [WaitMode::Park, WaitMode::Adaptive][number % 2];
                    let ticket = submit(lane, echo(), &bytes);
                    assert_eq!(bytes_of(&settle(lane, ticket, mode)), bytes);
                }
            });
        }
    });
    assert_eq!(lane.in_flight(), 0);
}

#[test]
fn tasks_are_woken_by_their_answers() {
    for mode in [WaitMode::Adaptive, WaitMode::Park] {
        let host = Arc::new(Host::new(Options { wait_mode: mode, ..Options::default() }));
        let _worker = serve_echo(&host, WORKER);
        let lane = host.client();
        let _reactor = Reactor::start(&lane);
        std::thread::scope(|scope| {
            for thread in 0_u64..3 {
                let lane = &lane;
                scope.spawn(move || {
                    for number in 0..100 {
                        let bytes = (thread << 32 | number).to_le_bytes();
                        let (end, ticket) = settle_async(lane, submit(lane, echo(), &bytes), None);
                        assert_eq!(end, WaitEnd::Answered);
                        assert_eq!(bytes_of(&lane.take(ticket)), bytes);
                    }
                });
            }
        });
        assert_eq!(lane.in_flight(), 0);
    }
}

#[test]
fn tasks_are_woken_by_their_deadlines_and_by_the_loss_of_the_connection() {
    let host = Arc::new(Host::new(Options::default()));
    let lane = host.client();
    let _reactor = Reactor::start(&lane);
    let ticket = submit(&lane, echo(), b"");
    let deadline = Instant::now() + Duration::from_millis(30);
    let (end, ticket) = settle_async(&lane, ticket, Some(deadline));
    assert!(end == WaitEnd::DeadlinePassed && Instant::now() >= deadline);
    let lost = std::thread::scope(|scope| {
        let task = scope.spawn(|| settle_async(&lane, ticket, Some(Instant::now() + PATIENCE)).0);
        std::thread::yield_now();
        lane.mark_lost();
        task.join().unwrap()
    });
    assert_eq!(lost, WaitEnd::Lost);
}

#[test]
fn what_is_full_is_said_with_figures() {
    let full = |error: SubmitError| match error {
        SubmitError::Full { what, used, limit, loan } => (what, used, limit, loan),
        other => panic!("{other}"),
    };
    // More cells than entries, then more entries than cells.
    let sizes = LaneGeometry { ring_entries: 4, cells: 8, request_arena_bytes: 1 << 20, reply_arena_bytes: 1 << 20 };
    let host = Host::new(Options { geometry: Some(sizes), ..Options::default() });
    let lane = host.client();
    let tickets: Vec<_> = (0..4).map(|_| submit(&lane, echo(), b"")).collect();
    let error = lane.submit(echo(), Payload::Bytes(b""), 0, 0).unwrap_err();
    assert!(error.to_string().contains("4 of 4"), "{error}");
    assert!(matches!(full(error), (Bounded::Ring, 4, 4, None)));
    // A payload that had to be copied into a block leaves none behind when its request is refused.
    for _ in 0..5 {
        assert!(matches!(
            full(lane.submit(echo(), Payload::Bytes(&[1; 1 << 20]), 0, 0).unwrap_err()),
            (Bounded::Ring, 4, 4, None)
        ));
    }
    let loan = lane.loan(1 << 20).unwrap();
    assert!(
        matches!(full(lane.loan(1).unwrap_err()), (Bounded::Arena, used, limit, None) if used == 1 << 20 && limit == 1 << 20)
    );
    let (.., returned) = full(lane.submit(echo(), Payload::Loan(loan), 0, 0).unwrap_err());
    lane.return_loan(returned.expect("a refused submission gives the loan back"));
    lane.return_loan(lane.loan(1 << 20).unwrap());
    drop(tickets);

    let sizes = LaneGeometry { ring_entries: 8, cells: 4, ..sizes };
    let host = Arc::new(Host::new(Options { geometry: Some(sizes), ..Options::default() }));
    let lane = host.client();
    let mut tickets: Vec<_> = (0..4).map(|_| submit(&lane, echo(), b"")).collect();
    assert!(matches!(full(lane.submit(echo(), Payload::Bytes(b""), 0, 0).unwrap_err()), (Bounded::Cells, 4, 4, None)));
    for ticket in tickets.drain(..3) {
        lane.abandon(ticket);
    }
    assert!(matches!(
        full(lane.submit(echo(), Payload::Bytes(b""), 0, 0).unwrap_err()),
        (Bounded::Quarantine, 4, 4, None)
    ));
    assert_eq!((lane.quarantined(), lane.in_flight()), (3, 4));
    // What is answered makes room, abandoned or not.
    let _worker = serve_echo(&host, WORKER);
    settle(&lane, tickets.remove(0), WaitMode::Park);
    eventually("the quarantine empties", || lane.quarantined() == 0);
    assert_eq!(bytes_of(&call(&lane, echo(), b"room")), b"room");
}

#[test]
fn replies_that_a_caller_keeps_fill_the_reply_arena_and_come_back() {
    let host = Arc::new(Host::new(Options::default()));
    let mut scratch = Scratch::new();
    let _worker = Serving::start(&host, WORKER, move |call| match call.output_in_place(call.payload_bytes()) {
        Err(ReserveError::Full(ReplyArenaFull { free_bytes, needed_bytes })) => {
            assert_eq!((free_bytes, needed_bytes), (256 << 10, 300 << 10));
            let output = call.input(&mut scratch).to_vec();
            call.reply(Outcome::Ok, 0, 0, &output).unwrap();
        }
        reserved => {
            reserved.unwrap().unwrap().fill(7);
            let bytes = call.payload_bytes();
            call.reply_in_place(bytes).unwrap();
        }
    });
    let lane = host.client();
    for _ in 0..3 {
        let kept = [call(&lane, echo(), &vec![0; 512 << 10]), call(&lane, echo(), &vec![0; 200 << 10])];
        assert!(kept.iter().all(|answer| bytes_of(answer).iter().all(|&byte| byte == 7)));
        let refused = call(&lane, echo(), &vec![0; 300 << 10]);
        assert_eq!(
            (refused.outcome_code, refused.detail, refused.more),
            (Outcome::ReplyLost as u32, 256 << 10, 300 << 10)
        );
        drop(kept);
        assert_eq!(bytes_of(&call(&lane, echo(), &vec![0; 1 << 20])).len(), 1 << 20);
    }
}

#[test]
fn an_answer_that_stays_in_its_request_keeps_that_block_and_nothing_else() {
    let host = Arc::new(Host::new(Options::default()));
    let _worker = Serving::start(&host, WORKER, |call| {
        assert!(call.may_answer_with_input());
        // A block that is reserved meanwhile is given back.
        let reserves = call.payload_bytes() == 1 << 20;
        let reserved = reserves.then(|| call.output_in_place(1 << 20).unwrap().unwrap().len());
        assert_eq!(reserved.is_some(), reserves);
        call.reply_with_input(1 << 19).unwrap();
    });
    let lane = host.client();
    for bytes in [1 << 20, 1 << 19, (1 << 20) - 7] {
        let sent = pattern(bytes, 11);
        let mut loan = lane.loan(bytes).unwrap();
        let place = lane.loan_bytes_mut(&mut loan).unwrap();
        place.copy_from_slice(&sent);
        let at = place.as_ptr();
        let ticket = lane.submit(of_request(), Payload::Loan(loan), 0, 0).unwrap();
        let answer = settle(&lane, ticket, WaitMode::Park);
        let kept = answer.payload.as_ref().unwrap().as_slice().unwrap();
        assert_eq!((kept, kept.as_ptr()), (&sent[..1 << 19], at), "not where it was written");
        // Its cell is free, the whole reply half is, and of the request half what the request did not take.
        assert_eq!((lane.in_flight(), lane.kept_reply_bytes()), (0, 0));
        let left = if bytes == 1 << 19 { 1 << 19 } else { 0 };
        assert!(matches!(lane.loan(left + 1), Err(SubmitError::Full { what: Bounded::Arena, .. })));
        if left > 0 {
            lane.return_loan(lane.loan(left).unwrap());
        }
        assert_eq!(answer.payload.as_ref().unwrap().as_slice(), Some(&sent[..1 << 19]));
        drop(answer);
        lane.return_loan(lane.loan(1 << 20).unwrap());
    }
}

#[test]
fn no_answer_stays_in_a_request_that_is_inline_untrusted_or_of_an_event_loop() {
    let bytes = [1; 2000];
    let (looped, _listen) = Host::with_reply_doorbell(Options::default());
    let hosts = [
        (Host::new(Options::default()), &bytes[..64]),
        (Host::new(Options { trusted: false, ..Options::default() }), &bytes[..]),
        (looped, &bytes[..]),
    ];
    for (host, sent) in hosts {
        let host = Arc::new(host);
        let lane = if host.replies_ring.is_some() { host.reactor() } else { host.client() };
        let ticket = submit(&lane, of_request(), sent);
        let mut scratch = Scratch::new();
        let worker = Serving::start(&host, WORKER, move |call| {
            assert!(!call.may_answer_with_input());
            run_echo(call, &mut scratch);
        });
        eventually("the answer comes", || lane.is_answered(&ticket));
        assert_eq!(bytes_of(&lane.take(ticket)), sent);
        drop(worker);
    }
}

#[test]
fn a_reserved_output_that_is_not_used_is_free_again() {
    let host = Arc::new(Host::new(Options::default()));
    let _worker = Serving::start(&host, WORKER, |call| {
        call.output_in_place(700 << 10).unwrap().unwrap();
        assert!(call.output_in_place(1).is_err(), "one reservation a call");
        match call.payload_bytes() {
            0 => call.reply(Outcome::FunctionFailed, 3, 0, b"no").unwrap(),
            1 => call.reply(Outcome::Ok, 0, 0, b"inline").unwrap(),
            2 => call.reply(Outcome::Ok, 0, 0, &[5; 700 << 10]).unwrap(),
            _ => drop(call),
        }
    });
    let lane = host.client();
    let outcomes = [Outcome::FunctionFailed, Outcome::Ok, Outcome::Ok, Outcome::WorkerLost];
    for _ in 0..3 {
        for (bytes, outcome) in outcomes.into_iter().enumerate() {
            // Other cells are in use meanwhile, so that each call has another one.
            let (a, b) = (submit(&lane, echo(), &[0]), submit(&lane, echo(), &vec![0; bytes]));
            assert_eq!(settle(&lane, a, WaitMode::Park).outcome_code, Outcome::Ok as u32);
            assert_eq!(settle(&lane, b, WaitMode::Park).outcome_code, outcome as u32);
        }
    }
}

#[test]
fn an_abandoned_call_keeps_its_cell_until_it_is_answered() {
    let host = Arc::new(Host::new(Options::default()));
    let gate = Arc::new(Gate::default());
    let seen = Arc::new(AtomicU32::new(0));
    let _worker = {
        let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
        let mut scratch = Scratch::new();
        Serving::start(&host, WORKER, move |call| {
            if call.function() == FunctionId::of("gated") {
                assert!(!call.is_abandoned());
                gate.enter();
                seen.store(u32::from(call.is_abandoned()), Ordering::SeqCst);
            }
            run_echo(call, &mut scratch);
        })
    };
    let lane = host.client();
    let loan = lane.loan(5000).unwrap();
    let ticket = lane.submit(FunctionId::of("gated"), Payload::Loan(loan), 0, 0).unwrap();
    gate.wait_for_entries(1);
    assert_eq!(lane.wait(&ticket, WaitMode::Park, Duration::from_millis(1)), WaitEnd::DeadlinePassed);
    lane.abandon(ticket);
    assert_eq!((lane.quarantined(), lane.in_flight()), (1, 1));
    gate.open();
    eventually("the late answer frees the cell", || lane.quarantined() == 0);
    assert_eq!((lane.in_flight(), seen.load(Ordering::SeqCst)), (0, 1));
    lane.return_loan(lane.loan(1 << 20).unwrap());
    // Abandoned after the answer: free at once.
    let ticket = submit(&lane, echo(), &[1; 200]);
    eventually("the answer comes", || lane.is_answered(&ticket));
    lane.abandon(ticket);
    assert_eq!((lane.quarantined(), lane.in_flight()), (0, 0));
}

#[test]
fn a_request_is_taken_back_only_while_nobody_has_it() {
    let host = Arc::new(Host::new(Options::default()));
    let lane = host.client();
    let mut loan = lane.loan(3000).unwrap();
    lane.loan_write(&mut loan, 0, &pattern(3000, 1));
    let ticket = lane.submit(echo(), Payload::Loan(loan), 0, 0).unwrap();
    let Retracted::NeverRan { loan: Some(loan) } = lane.retract(ticket) else { panic!("nobody was there to take it") };
    let mut back = vec![0; 3000];
    lane.loan_read(&loan, &mut back);
    assert_eq!(back, pattern(3000, 1));
    assert_eq!((lane.in_flight(), host.lane.unclaimed()), (0, 0));
    lane.return_loan(loan);

    let gate = Arc::new(Gate::default());
    let _worker = {
        let gate = Arc::clone(&gate);
        let mut scratch = Scratch::new();
        Serving::start(&host, WORKER, move |call| {
            gate.enter();
            run_echo(call, &mut scratch);
        })
    };
    let ticket = submit(&lane, echo(), b"taken");
    gate.wait_for_entries(1);
    assert!(matches!(lane.retract(ticket), Retracted::MayHaveRun));
    assert_eq!(lane.quarantined(), 1);
    gate.open();
    eventually("the answer of the taken request frees its cell", || lane.quarantined() == 0);
    assert_eq!(bytes_of(&call(&lane, echo(), b"after")), b"after");
}

#[test]
fn a_refused_request_never_ran_and_its_loan_is_sent_again() {
    let host = Arc::new(Host::new(Options::default()));
    let lane = host.client();
    let keep = 42;
    host.control.set_phase(Phase::Draining);
    let mut loan = lane.loan(70_000).unwrap();
    lane.loan_write(&mut loan, 0, &pattern(70_000, 9));
    let rings = || host.server_rings.load(Ordering::SeqCst);
    let before = rings();
    let refused = lane.submit(echo(), Payload::Loan(loan), 0, 0).unwrap();
    let kept = lane.submit(echo(), Payload::Bytes(b"descendant"), 0, keep).unwrap();
    assert_eq!(rings(), before + 2, "a draining server is told of each request");
    let code = Phase::Draining as u32;
    assert_eq!(host.lane.refuse_unclaimed(|root| root == keep, Outcome::Unavailable, code), 1);
    assert_eq!(host.lane.refuse_unclaimed(|root| root == keep, Outcome::Unavailable, code), 0);
    let answer = settle(&lane, refused, WaitMode::Park);
    assert_eq!((answer.outcome_code, answer.detail), (Outcome::Unavailable as u32, code));
    let loan = answer.returned_loan.expect("the payload was not read by anyone");

    host.control.set_phase(Phase::Closed);
    let Err(SubmitError::Unavailable { phase: Phase::Closed, loan: Some(loan) }) =
        lane.submit(echo(), Payload::Loan(loan), 0, 0)
    else {
        panic!("a closed process takes no request")
    };
    assert!(matches!(
        lane.submit(echo(), Payload::Bytes(&[1; 4000]), 0, 0),
        Err(SubmitError::Unavailable { phase: Phase::Closed, loan: None })
    ));
    assert_eq!((host.lane.unclaimed(), lane.in_flight()), (1, 1));

    host.control.set_phase(Phase::Active);
    let again = lane.submit(echo(), Payload::Loan(loan), 0, 0).unwrap();
    let _worker = serve_echo(&host, WORKER);
    assert_eq!(bytes_of(&settle(&lane, again, WaitMode::Park)), pattern(70_000, 9));
    assert_eq!(bytes_of(&settle(&lane, kept, WaitMode::Park)), b"descendant");
}

#[test]
fn a_worker_notes_each_phase_before_it_claims_and_claims_nothing_once_closed() {
    let host = Arc::new(Host::new(Options::default()));
    let worker = serve_echo(&host, WORKER);
    let lane = host.client();
    call(&lane, echo(), b"");
    let draining = host.control.set_phase(Phase::Draining);
    worker.notify();
    eventually("the worker notes the drain", || worker.page.phase_copied() == draining);
    assert_eq!(bytes_of(&call(&lane, echo(), b"a descendant")), b"a descendant");
    let closed = host.control.set_phase(Phase::Closed);
    worker.notify();
    eventually("the worker notes the end", || worker.page.phase_copied() == closed);
    assert_eq!(worker.page.claims().count(), 0);
    assert!(matches!(lane.submit(echo(), Payload::Bytes(b""), 0, 0), Err(SubmitError::Unavailable { .. })));
    let active = host.control.set_phase(Phase::Active);
    assert_eq!(bytes_of(&call(&lane, echo(), b"back")), b"back");
    assert_eq!(worker.page.phase_copied(), active);
}

#[test]
fn a_lane_whose_rights_are_withdrawn_runs_nothing_more() {
    let host = Arc::new(Host::new(Options::default()));
    let runs = Arc::new(AtomicU32::new(0));
    let _worker = {
        let runs = Arc::clone(&runs);
        Serving::start(&host, WORKER, move |call| {
            runs.fetch_add(1, Ordering::SeqCst);
            call.reply(Outcome::Ok, 0, 0, b"").unwrap();
        })
    };
    let lane = host.client();
    call(&lane, echo(), b"");
    host.control.revoke(host.lane.id());
    for payload in [&[0_u8; 10][..], &[0; 1000]] {
        assert_eq!(call(&lane, echo(), payload).outcome_code, Outcome::Unauthorized as u32);
    }
    assert_eq!((runs.load(Ordering::SeqCst), lane.in_flight()), (1, 0));
}

#[test]
fn a_lost_connection_ends_every_wait_and_gives_loans_back() {
    let host = Arc::new(Host::new(Options::default()));
    let lane = host.client();
    let loan = lane.loan(2000).unwrap();
    let waits = [WaitMode::Spin, WaitMode::Adaptive, WaitMode::Park].map(|mode| {
        let (waits, ticket) = (Arc::clone(&lane), submit(&lane, echo(), b""));
        std::thread::spawn(move || waits.wait(&ticket, mode, PATIENCE))
    });
    let task = {
        let (waits, ticket) = (Arc::clone(&lane), submit(&lane, echo(), b""));
        std::thread::spawn(move || settle_async(&waits, ticket, None).0)
    };
    lane.mark_lost();
    for wait in waits {
        assert_eq!(wait.join().unwrap(), WaitEnd::Lost);
    }
    assert_eq!(task.join().unwrap(), WaitEnd::Lost);
    let Err(SubmitError::Lost { loan: Some(loan) }) = lane.submit(echo(), Payload::Loan(loan), 0, 0) else {
        panic!("a lost lane takes no request")
    };
    assert_eq!(loan.bytes(), 2000);
    assert!(matches!(lane.submit(echo(), Payload::Bytes(b""), 0, 0), Err(SubmitError::Lost { loan: None })));
}

#[test]
fn a_request_without_workers_rings_the_server_once_and_waits_for_one() {
    let host = Arc::new(Host::new(Options { workers_max: 2, ..Options::default() }));
    let lane = host.client();
    let tickets: Vec<_> = (0_u64..5).map(|number| submit(&lane, echo(), &number.to_le_bytes())).collect();
    assert_eq!(host.server_rings.load(Ordering::SeqCst), 1);
    host.control.acknowledge_rings();
    let late = submit(&lane, echo(), &5_u64.to_le_bytes());
    assert_eq!(host.server_rings.load(Ordering::SeqCst), 2);
    host.control.set_workers(2);
    host.control.acknowledge_rings();
    drop(submit(&lane, echo(), b"12345678"));
    assert_eq!(host.server_rings.load(Ordering::SeqCst), 2, "there are as many workers as there may be");
    let _worker = serve_echo(&host, WORKER);
    for (number, ticket) in tickets.into_iter().chain([late]).enumerate() {
        assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Park)), (number as u64).to_le_bytes());
    }
    // Another joins later, at whatever turn the ring has reached.
    for number in 0_u64..100 {
        call(&lane, echo(), &number.to_le_bytes());
    }
    let _other = serve_echo(&host, WorkerTag::new(1, 1));
    for number in 0_u64..100 {
        call(&lane, echo(), &number.to_le_bytes());
    }
}

#[test]
fn lanes_come_and_go_while_a_worker_serves() {
    let first = Arc::new(Host::new(Options::default()));
    enum Command {
        Add(Arc<Host>),
        Remove(LaneId),
    }
    let (commands, inbox) = mpsc::channel();
    let served = Arc::new(AtomicU64::new(0));
    let mut scratch = Scratch::new();
    let worker = {
        let served = Arc::clone(&served);
        Serving::with_mail(
            &first,
            WORKER,
            move |call| run_echo(call, &mut scratch),
            move |end| {
                for command in inbox.try_iter() {
                    match command {
                        Command::Add(host) => end.add_lane(host.worker_lane()).unwrap(),
                        Command::Remove(lane) => assert!(end.remove_lane(lane)),
                    }
                }
                served.store(end.lane_count() as u64, Ordering::SeqCst);
            },
        )
    };
    let lane = first.client();
    for round in 0..3_u64 {
        // New lanes each time: that of a client that is gone is never given to another.
        let others: Vec<_> = (2..5).map(|lane| Arc::new(Host::new(Options { lane, ..Options::default() }))).collect();
        for (index, host) in others.iter().enumerate() {
            commands.send(Command::Add(Arc::clone(host))).unwrap();
            worker.notify();
            // A client that comes before its worker, and one lane that is never left alone.
            let other = host.client();
            let ticket = submit(&other, echo(), b"other");
            assert_eq!(bytes_of(&call(&lane, echo(), &round.to_le_bytes())), round.to_le_bytes());
            assert_eq!(bytes_of(&settle(&other, ticket, WaitMode::Park)), b"other");
            eventually("the lane is counted", || served.load(Ordering::SeqCst) == index as u64 + 2);
        }
        for host in &others {
            commands.send(Command::Remove(host.lane.id())).unwrap();
        }
        worker.notify();
        eventually("the lanes are gone", || served.load(Ordering::SeqCst) == 1);
        assert_eq!(bytes_of(&call(&lane, echo(), b"still here")), b"still here");
    }
}

/// One worker end on this thread, for tests that look at a call from both sides.
fn next_call(end: &mut WorkerEnd) -> RunningCall<'_> {
    match end.next(&mut || panic!("a request lies there")) {
        Next::Call(call) => call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_caller_says_about_a_call_reaches_its_function() {
    let host = Host::new(Options { wait_mode: WaitMode::Park, ..Options::default() });
    let lane = host.client();
    let (mut end, page) = host.worker(WORKER);
    let root = u128::MAX / 3;
    let minute = Duration::from_secs(60);
    let payload = Payload::Bytes(b"x");
    let ticket = lane.submit(echo(), payload, u64::try_from(minute.as_nanos()).unwrap(), root).unwrap();
    {
        let call = next_call(&mut end);
        let facts = (call.function(), call.payload_bytes(), call.in_place(), call.lane(), call.root());
        assert_eq!(facts, (echo(), 1, true, host.lane.id(), root));
        assert!(call.time_remaining().is_some_and(|left| left <= minute && left > Duration::ZERO));
        let seen: Vec<_> = page.claims().collect();
        assert_eq!((seen.len(), seen[0].root, seen[0].lane), (1, root, 1));
        call.reply(Outcome::FunctionFailed, 5, 6, b"why").unwrap();
    }
    assert_eq!((page.claims().count(), page.calls()), (0, 1));
    let answer = settle(&lane, ticket, WaitMode::Park);
    assert_eq!((answer.outcome_code, answer.detail, answer.more), (Outcome::FunctionFailed as u32, 5, 6));
    drop(submit(&lane, echo(), b""));
    assert_eq!(next_call(&mut end).time_remaining(), None);
}

#[test]
fn a_condemned_worker_learns_it_from_its_release_and_a_dropped_call_is_lost() {
    let host = Host::new(Options { wait_mode: WaitMode::Park, ..Options::default() });
    let lane = host.client();
    let (mut end, page) = host.worker(WORKER);
    let ticket = submit(&lane, echo(), b"");
    drop(next_call(&mut end));
    assert_eq!(settle(&lane, ticket, WaitMode::Park).outcome_code, Outcome::WorkerLost as u32);
    let ticket = submit(&lane, echo(), b"");
    let call = next_call(&mut end);
    let claim = page.claims().next().unwrap();
    assert!(page.condemn(&claim));
    assert_eq!(call.reply(Outcome::Ok, 0, 0, b"too late, and yet"), Err(Condemned));
    assert!(!page.condemn(&claim), "condemned once");
    // The answer was published before the release failed: settling the claim leaves it alone.
    host.lane.answer_lost(&claim);
    assert_eq!(host.lane.recover_worker(WORKER), 0);
    assert_eq!(bytes_of(&settle(&lane, ticket, WaitMode::Park)), b"too late, and yet");
}

#[test]
fn a_worker_shows_that_it_sleeps_and_is_rung_awake() {
    let host = Arc::new(Host::new(Options { wait_mode: WaitMode::Park, ..Options::default() }));
    let (mut end, page) = host.worker(WORKER);
    let lane = host.client();
    let sleeps = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                let next = end.next(&mut || {
                    sleeps.fetch_add(1, Ordering::SeqCst);
                    park_on(&host.listen);
                    false
                });
                let Next::Call(call) = next else { panic!("{next:?}") };
                call.reply(Outcome::Ok, 0, 0, b"").unwrap();
            }
        });
        for _ in 0..50 {
            eventually("the worker sleeps", || page.is_parked());
            call(&lane, echo(), b"");
        }
    });
    assert!(sleeps.load(Ordering::SeqCst) >= 50);
}

#[test]
fn mail_is_noticed_by_a_sleeping_and_by_a_busy_worker() {
    let host = Host::new(Options { wait_mode: WaitMode::Park, ..Options::default() });
    let (mut end, page) = host.worker(WORKER);
    assert!(matches!(end.next(&mut || true), Next::Mail), "the control socket is readable");
    page.notify();
    assert!(matches!(end.next(&mut || panic!("there is mail")), Next::Mail));
    let lane = host.client();
    drop(submit(&lane, echo(), b""));
    page.notify();
    assert!(matches!(end.next(&mut || panic!("there is mail")), Next::Mail), "mail comes before calls");
    drop(next_call(&mut end));
    host.control.set_phase(Phase::Closed);
    assert!(matches!(end.next(&mut || panic!("it is closed")), Next::Closed));
}
