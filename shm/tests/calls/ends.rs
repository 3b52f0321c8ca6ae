//! Calls that end otherwise than by an answer.

use super::*;

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
