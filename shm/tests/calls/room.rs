//! What of a lane can be full.

use super::*;

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
