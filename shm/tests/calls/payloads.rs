//! Payloads on their ways to a function and back, and where answers may stay.

use super::*;

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
