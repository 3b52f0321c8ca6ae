//! A lane whose client is an event loop that sleeps until the reply doorbell is readable.

mod support;

use std::os::fd::OwnedFd;
use std::sync::Arc;
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
