//! A lane whose client is an event loop that sleeps until the reply doorbell is readable.

mod support;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use praas_protocol::control::WaitMode;
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::WorkerTag;
use praas_shm::client_lane::{ClientLane, Payload, Ticket};
use rustix::event::{PollFd, PollFlags};
use support::{Host, Options, PATIENCE, Serving};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
const OTHER: WorkerTag = WorkerTag::new(1, 1);

fn echo() -> FunctionId {
    FunctionId::of("echo")
}

fn options(workers_max: u32, wait_mode: WaitMode) -> Options {
    Options { workers_max, wait_mode, calls: 16, ..Options::default() }
}

fn serve(host: &Arc<Host>, tag: WorkerTag) -> Serving {
    let mut scratch = praas_shm::Scratch::new();
    Serving::start(host, tag, move |call| {
        let bytes = call.input(&mut scratch).to_vec();
        call.reply(Outcome::Ok, 0, 0, &bytes).unwrap();
    })
}

/// Bytes that are in the pipe now.
fn drain(listen: &OwnedFd) -> usize {
    let mut bytes = [0; 4096];
    rustix::io::read(listen, &mut bytes).unwrap_or(0)
}

fn is_readable(listen: &OwnedFd, timeout: Duration) -> bool {
    let mut polled = [PollFd::new(listen, PollFlags::IN)];
    let timeout =
        rustix::time::Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// The loop of a reactor that has nothing else to do: until every call is answered. Returns bytes heard and sleeps made.
fn run(lane: &Arc<ClientLane>, listen: &OwnedFd, mut tickets: Vec<(Ticket, u64)>) -> (usize, usize) {
    let (mut heard, mut sleeps) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while !tickets.is_empty() {
        assert!(Instant::now() < end, "{} calls are not answered", tickets.len());
        let seen = lane.begin_look();
        let (answered, rest): (Vec<_>, Vec<_>) = tickets.into_iter().partition(|(ticket, _)| lane.is_answered(ticket));
        tickets = rest;
        for (ticket, sent) in answered {
            let answer = lane.take(ticket);
            assert_eq!(answer.outcome_code, Outcome::Ok as u32);
            assert_eq!(answer.payload.unwrap().as_slice(), Some(&sent.to_le_bytes()[..]));
        }
        if !tickets.is_empty() && lane.arm(seen) {
            sleeps += 1;
            assert!(is_readable(listen, PATIENCE), "nobody rang for {} calls", tickets.len());
            heard += drain(listen);
        }
    }
    (heard, sleeps)
}

#[test]
fn every_answer_reaches_a_reactor_with_at_most_one_byte_a_sleep() {
    for wait_mode in [WaitMode::Park, WaitMode::Adaptive] {
        let (host, listen) = Host::with_reply_doorbell(options(2, wait_mode));
        let host = Arc::new(host);
        let _workers = [serve(&host, WORKER), serve(&host, OTHER)];
        let lane = host.reactor();
        for round in 0..200_u64 {
            let calls = 1 + round % 8;
            let submit = |call: u64| {
                let sent = round << 8 | call;
                (lane.submit(echo(), Payload::Bytes(&sent.to_le_bytes()), 0, 0).unwrap(), sent)
            };
            let (heard, sleeps) = run(&lane, &listen, (0..calls).map(submit).collect());
            assert!(heard <= sleeps, "{heard} bytes for {sleeps} sleeps");
        }
        assert_eq!((lane.in_flight(), drain(&listen)), (0, 0), "nobody writes while nobody sleeps");
    }
}

#[test]
fn a_sleeping_reactor_hears_of_a_refusal_and_of_a_dead_workers_call() {
    let (host, listen) = Host::with_reply_doorbell(options(1, WaitMode::Park));
    let lane = host.reactor();
    let submit = || lane.submit(echo(), Payload::Bytes(b"x"), 0, 0).unwrap();

    let refused = submit();
    let seen = lane.begin_look();
    assert!(!lane.is_answered(&refused) && lane.arm(seen));
    assert_eq!(host.lane.refuse_unclaimed(|_| false, Outcome::Unavailable, Phase::Closed as u32), 1);
    assert!(is_readable(&listen, PATIENCE) && drain(&listen) == 1);
    lane.begin_look();
    assert_eq!(lane.take(refused).outcome_code, Outcome::Unavailable as u32);

    // A worker that died may have taken the duty to wake with it: recovery wakes whatever the word says.
    let lost = submit();
    lane.begin_look();
    host.lane.recover_worker(WORKER);
    assert!(is_readable(&listen, PATIENCE));
    assert_eq!(drain(&listen), 1);
    assert!(!lane.is_answered(&lost), "nobody had taken it");
    assert!(lane.summon_if_unclaimed(&lost));
    lane.abandon(lost);
    assert_eq!(lane.quarantined(), 1);
}

#[test]
fn a_full_doorbell_and_one_that_nobody_reads_any_more_hold_no_worker_up() {
    let (host, listen) = Host::with_reply_doorbell(options(1, WaitMode::Park));
    let host = Arc::new(host);
    let _worker = serve(&host, WORKER);
    let lane = host.reactor();
    let ring = host.replies_ring.as_ref().unwrap();
    while rustix::io::write(ring, &[0; 4096]).is_ok() {}
    let call = |sent: u64| {
        let ticket = lane.submit(echo(), Payload::Bytes(&sent.to_le_bytes()), 0, 0).unwrap();
        let seen = lane.begin_look();
        // The answer may have come already: then the reactor does not sleep.
        let _ = lane.arm(seen);
        let end = Instant::now() + PATIENCE;
        while !lane.is_answered(&ticket) {
            assert!(Instant::now() < end, "the worker is held up");
            std::thread::yield_now();
        }
        assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32);
    };
    call(1);
    assert!(is_readable(&listen, Duration::ZERO), "a full pipe is as good as a byte");
    drop(listen);
    call(2);
}

#[test]
fn a_reply_that_finds_no_room_waits_until_the_reactor_has_sent_others() {
    let (host, _listen) = Host::with_reply_doorbell(options(1, WaitMode::Park));
    let host = Arc::new(host);
    let _worker = serve(&host, WORKER);
    let lane = host.reactor();
    let half = vec![5; 512 << 10];
    let call = || lane.submit(echo(), Payload::Bytes(&half), 0, 0).unwrap();
    let is_answered = |ticket: &Ticket| {
        let end = Instant::now() + PATIENCE;
        while !lane.is_answered(ticket) {
            assert!(Instant::now() < end, "no answer came");
            std::thread::yield_now();
        }
    };
    // A test that is held up for longer than the worker waits tries again.
    let waited = (0..10).any(|_| {
        let kept = [call(), call()].map(|ticket| {
            is_answered(&ticket);
            lane.take(ticket)
        });
        assert_eq!(lane.kept_reply_bytes(), 1 << 20);
        let waiting = call();
        let start = Instant::now();
        // The worker takes it, and cannot answer.
        while lane.summon_if_unclaimed(&waiting) {
            assert!(start.elapsed() < PATIENCE, "nobody takes the call");
        }
        drop(kept);
        is_answered(&waiting);
        let answer = lane.take(waiting);
        answer.outcome_code == Outcome::Ok as u32 && answer.payload.unwrap().len() == half.len()
    });
    assert!(waited && lane.kept_reply_bytes() == 0);

    // Nobody waits for these; their replies leave their room when they are swept.
    let abandoned = [call(), call()];
    abandoned.into_iter().for_each(|ticket| lane.abandon(ticket));
    // Their requests hold the request half until they are answered.
    let end = Instant::now() + PATIENCE;
    let last = loop {
        match lane.submit(echo(), Payload::Bytes(&half), 0, 0) {
            Ok(ticket) => break ticket,
            Err(refused) => assert!(Instant::now() < end, "{refused:?}"),
        }
    };
    while !lane.is_answered(&last) {
        assert!(Instant::now() < end, "no answer came");
        lane.sweep_abandoned();
    }
    assert_eq!(lane.take(last).outcome_code, Outcome::Ok as u32);
}

#[test]
fn requests_that_are_submitted_quietly_are_all_answered_after_one_announcement() {
    for wait_mode in [WaitMode::Park, WaitMode::Adaptive] {
        let (host, listen) = Host::with_reply_doorbell(options(1, wait_mode));
        let host = Arc::new(host);
        let _worker = serve(&host, WORKER);
        let lane = host.reactor();
        for round in 0..200_u64 {
            let calls = 1 + round % 16;
            let submit = |call: u64| {
                let sent = round << 8 | call;
                (lane.submit_quietly(echo(), Payload::Bytes(&sent.to_le_bytes()), 0, 0).unwrap(), sent)
            };
            let tickets: Vec<_> = (0..calls).map(submit).collect();
            lane.announce();
            // The worker holds rings back while more requests lie there, and makes up for all of them.
            let (heard, sleeps) = run(&lane, &listen, tickets);
            assert!(heard <= sleeps, "{heard} bytes for {sleeps} sleeps");
        }
        assert_eq!((lane.in_flight(), drain(&listen)), (0, 0), "nobody writes while nobody sleeps");
    }
}

#[test]
fn an_announcement_in_a_drain_rings_the_server() {
    let (host, _listen) = Host::with_reply_doorbell(options(1, WaitMode::Park));
    let lane = host.reactor();
    host.control.set_phase(Phase::Draining);
    let ticket = lane.submit_quietly(echo(), Payload::Bytes(b"x"), 0, 0).unwrap();
    lane.announce();
    assert_eq!(host.server_rings.load(Ordering::SeqCst), 1);
    lane.abandon(ticket);
}

#[test]
fn a_small_answer_is_taken_by_itself_and_another_one_stays() {
    let (host, listen) = Host::with_reply_doorbell(options(1, WaitMode::Park));
    let host = Arc::new(host);
    let _worker = serve(&host, WORKER);
    let lane = host.reactor();
    let answered = |payload: &[u8]| {
        let ticket = lane.submit(echo(), Payload::Bytes(payload), 0, 0).unwrap();
        let end = Instant::now() + PATIENCE;
        while !lane.is_answered(&ticket) {
            assert!(Instant::now() < end, "not answered");
            let seen = lane.begin_look();
            if !lane.is_answered(&ticket) && lane.arm(seen) {
                assert!(is_readable(&listen, PATIENCE));
                drain(&listen);
            }
        }
        ticket
    };
    assert_eq!(lane.take_small(answered(b"few")).unwrap().as_slice(), b"few");
    let large = lane.take_small(answered(&[7; 1000])).unwrap_err();
    assert_eq!(lane.take(large).payload.unwrap().len(), 1000);
    let early = lane.submit_quietly(echo(), Payload::Bytes(b"x"), 0, 0).unwrap();
    let early = match lane.take_small(early) {
        Ok(answer) => return assert_eq!(answer.as_slice(), b"x"),
        Err(ticket) => ticket,
    };
    lane.announce();
    lane.abandon(early);
}

#[test]
#[should_panic(expected = "the loan is another lane's")]
fn a_loan_of_another_lane_is_refused() {
    let [(one, _), (another, _)] = [(); 2].map(|()| Host::with_reply_doorbell(options(1, WaitMode::Park)));
    let loan = one.reactor().loan(1000).unwrap();
    another.reactor().return_loan(loan);
}
