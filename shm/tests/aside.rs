//! Calls that a worker gets beside its lanes: seen by the server as any other, and claimed only while the process is active.

mod support;

use std::time::Duration;

use praas_protocol::control::WaitMode;
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::WorkerTag;
use praas_shm::claim::Condemned;
use praas_shm::client_lane::Payload;
use praas_shm::worker_end::{Beside, NO_LANE, Next};
use support::{Host, Options};

const WORKER: WorkerTag = WorkerTag::new(0, 1);

fn host(wait_mode: WaitMode) -> Host {
    Host::new(Options { wait_mode, ..Options::default() })
}

#[test]
fn a_call_beside_the_lanes_has_a_claim_record_and_is_counted() {
    let host = host(WaitMode::Park);
    let (mut end, page) = host.worker(WORKER);
    let call = end.claim_aside(u32::MAX, 60_000_000_000, 77).unwrap();
    assert!(call.time_remaining().is_some_and(|left| left <= Duration::from_secs(60) && !left.is_zero()));
    let seen: Vec<_> = page.claims().collect();
    assert_eq!((seen.len(), seen[0].lane, seen[0].root), (1, NO_LANE.0, 77));
    call.count(0, FunctionId(9)).end(true);
    call.release().unwrap();
    assert_eq!((page.claims().count(), page.calls()), (0, 1));
    assert_eq!((page.functions().len(), page.functions()[0].calls), (1, 1));
    let call = end.claim_aside(u32::MAX, 0, 0).unwrap();
    assert_eq!(call.time_remaining(), None);
    let claim = page.claims().next().unwrap();
    assert!(page.condemn(&claim));
    assert_eq!(call.release(), Err(Condemned));
    // No lane is concerned: settling it answers nothing.
    host.lane.answer_lost(&claim);
    assert_eq!(host.lane.recover_worker(WORKER), 0);
}

#[test]
fn nothing_is_claimed_beside_the_lanes_of_a_process_that_drains() {
    let host = host(WaitMode::Park);
    let (mut end, page) = host.worker(WORKER);
    end.claim_aside(u32::MAX, 0, 0).unwrap().release().unwrap();
    for phase in [Phase::Draining, Phase::Closed] {
        let word = host.control.set_phase(phase);
        assert!(end.claim_aside(u32::MAX, 0, 0).is_none() && !end.is_active());
        assert_eq!(page.phase_copied(), word, "the server learns that nothing more is claimed");
    }
    host.control.set_phase(Phase::Active);
    end.claim_aside(u32::MAX, 0, 0).unwrap().release().unwrap();
    assert_eq!(page.claims().count(), 0);
}

#[test]
fn lanes_come_before_what_lies_beside_them_and_both_before_sleep() {
    for wait_mode in [WaitMode::Park, WaitMode::Adaptive, WaitMode::Spin] {
        let host = host(wait_mode);
        let (mut end, _page) = host.worker(WORKER);
        let lane = host.client();
        let ticket = lane.submit(FunctionId(1), Payload::Bytes(b"x"), 0, 0).unwrap();
        match end.next_or(|_| Beside::Found, &mut || panic!("a request lies there")) {
            Some(Next::Call(call)) => call.reply(Outcome::Ok, 0, 0, b"").unwrap(),
            other => panic!("{other:?}"),
        }
        assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32);
        assert!(end.next_or(|_| Beside::Found, &mut || panic!("something lies beside")).is_none());
        // While it polls, something comes after a while; a worker that sleeps looks again when it wakes.
        let (mut looks, mut sleeps) = (0, 0);
        let mut beside = |polls: bool| {
            assert!(wait_mode != WaitMode::Park || !polls);
            looks += 1;
            match looks {
                0..50 if polls => Beside::Asked,
                0..50 => Beside::Nothing,
                _ => Beside::Found,
            }
        };
        let found = end.next_or(&mut beside, &mut || {
            sleeps += 1;
            false
        });
        assert!(found.is_none());
        assert_eq!(looks, 50);
        match wait_mode {
            WaitMode::Spin => assert_eq!(sleeps, 0),
            WaitMode::Park => assert_eq!(sleeps, 49, "one before each look but the first"),
            WaitMode::Adaptive => assert!(sleeps <= 49),
        }
    }
}
