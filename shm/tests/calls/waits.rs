//! Waiting for answers, in every way, by threads and tasks.

use super::*;

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
