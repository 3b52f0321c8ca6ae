//! What workers, server and lanes have to do with each other beside single calls.

use super::*;

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
