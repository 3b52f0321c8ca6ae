//! Replies that wait until what their calls saw is durable: real segments, the client and the worker in this process.
#![cfg(not(loom))]

#[path = "support/logged.rs"]
mod logged;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use logged::{Logged, user};
use praas_protocol::control::WaitMode;
use praas_protocol::limits::CLAIMS_PER_WORKER;
use praas_protocol::{FunctionId, Outcome};
use praas_shm::client_lane::{ClientLane, Payload, Ticket, WaitEnd};
use praas_shm::control_page::ControlView;
use praas_shm::log_ring::DurableWatch;
use praas_shm::objects::{Condition, Meta, Store};
use praas_shm::running_call::RunningCall;
use praas_shm::worker_end::{Next, WorkerEnd};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerTag};

use support::{Host, Options, PATIENCE, copy_of, eventually, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
/// Around what fits a cell, and around a block.
const SIZES: [usize; 7] = [0, 1, 64, 65, 4096, 5000, 200_000];
/// Calls in the lane at once: more than one worker holds replies of.
const CALLS: u32 = 64;
/// The one whose answer stays where its request lies, in a trust domain.
const STAYS_BYTES: usize = 5000;

/// A logged process of one worker, and a client with a lane to it.
struct Stage {
    host: Host,
    process: Logged,
    store: Store,
    client: Arc<ClientLane>,
    end: WorkerEnd,
    page: ServerWorkerPage,
}

impl Stage {
    fn new(trusted: bool) -> Self {
        let host = Host::new(Options { trusted, calls: CALLS, wait_mode: WaitMode::Park, ..Options::default() });
        let process = Logged::create(4 << 20);
        let (mut end, page) = host.worker(WORKER);
        end.remove_lane(host.lane.id());
        let view = Arc::new(ControlView::attach(copy_of(host.control.fd())).unwrap());
        end.hold_replies(DurableWatch::new(Arc::clone(&process.objects), view)).unwrap();
        end.add_lane(host.worker_lane()).unwrap();
        let (store, client) = (process.store(WORKER), host.client());
        Self { host, process, store, client, end, page }
    }

    fn submit(&self, bytes: &[u8]) -> Ticket {
        self.client.submit(FunctionId::of("any"), Payload::Bytes(bytes), 0, 0).unwrap()
    }

    fn change(&self) -> u64 {
        self.store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap()
    }

    fn held(&self) -> usize {
        self.end.held_replies().unwrap().count()
    }
}

fn next_call(end: &mut WorkerEnd) -> RunningCall<'_> {
    match end.next(&mut || panic!("a request is there")) {
        Next::Call(call) => call,
        other => panic!("{other:?}"),
    }
}

fn answer_of(client: &Arc<ClientLane>, ticket: Ticket) -> (Outcome, Vec<u8>) {
    assert_eq!(client.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered);
    let answer = client.take(ticket);
    let mut bytes = vec![0; answer.payload.as_ref().map_or(0, |payload| payload.len())];
    if let Some(payload) = &answer.payload {
        payload.copy_to(&mut bytes);
    }
    (Outcome::from_code(answer.outcome_code).unwrap(), bytes)
}

#[test]
fn answers_of_every_size_are_held_for_their_own_positions_and_come_whole() {
    for trusted in [true, false] {
        let mut stage = Stage::new(trusted);
        let tickets: Vec<_> = SIZES.map(|bytes| stage.submit(&pattern(bytes, 7))).into();
        let mut positions = Vec::new();
        let mut scratch = Scratch::new();
        for _ in SIZES {
            positions.push(stage.store.put(&user("k"), b"v", Meta::RAW, Condition::Any).unwrap());
            let call = next_call(&mut stage.end);
            let input = call.input(&mut scratch).to_vec();
            if input.len() == STAYS_BYTES && call.may_answer_with_input() {
                call.reply_with_input(STAYS_BYTES).unwrap();
                continue;
            }
            match call.output_in_place(input.len()).unwrap() {
                Some(output) => {
                    output.copy_from_slice(&input);
                    let bytes = input.len();
                    call.reply_in_place(bytes).unwrap();
                }
                None => call.reply(Outcome::Ok, 0, 0, &input).unwrap(),
            }
        }
        assert_eq!(stage.held(), SIZES.len());
        let claims: Vec<_> = stage.page.claims().collect();
        assert!(claims.len() == SIZES.len() && claims.iter().all(|claim| claim.is_held()), "{claims:?}");
        std::thread::sleep(Duration::from_millis(20));
        assert!(tickets.iter().all(|ticket| !stage.client.is_answered(ticket)));
        let mut waiting: std::collections::VecDeque<_> = tickets.into();
        for (position, bytes) in positions.into_iter().zip(SIZES) {
            stage.host.control.set_durable(position);
            let ticket = waiting.pop_front().unwrap();
            assert_eq!(answer_of(&stage.client, ticket), (Outcome::Ok, pattern(bytes, 7)));
            assert!(waiting.iter().all(|ticket| !stage.client.is_answered(ticket)), "one came too early");
        }
        eventually("no claim is left", || stage.page.claims().next().is_none());
        assert_eq!(stage.held(), 0);
    }
}

#[test]
fn a_call_that_saw_nothing_new_is_answered_at_once() {
    let mut stage = Stage::new(true);
    let position = stage.change();
    stage.host.control.set_durable(position);
    let ticket = stage.submit(b"input");
    next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, b"now").unwrap();
    assert!(stage.client.is_answered(&ticket));
    assert_eq!(answer_of(&stage.client, ticket), (Outcome::Ok, b"now".to_vec()));
    assert!(stage.page.claims().next().is_none());
}

#[test]
fn a_worker_without_a_free_record_waits_until_one_is() {
    let mut stage = Stage::new(true);
    let count = CLAIMS_PER_WORKER + 5;
    let tickets: Vec<_> = (0..count).map(|_| stage.submit(b"")).collect();
    let position = stage.change();
    for _ in 1..CLAIMS_PER_WORKER {
        next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, b"").unwrap();
    }
    assert_eq!((stage.held(), stage.page.claims().count()), (CLAIMS_PER_WORKER - 1, CLAIMS_PER_WORKER - 1));
    std::thread::scope(|scope| {
        let Stage { end, host, page, .. } = &mut stage;
        let worker = scope.spawn(move || {
            for _ in CLAIMS_PER_WORKER - 1..count {
                next_call(end).reply(Outcome::Ok, 0, 0, b"").unwrap();
            }
        });
        eventually("the next call runs", || page.claims().filter(|claim| !claim.is_held()).count() == 1);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!worker.is_finished());
        host.control.set_durable(position);
        worker.join().unwrap();
    });
    for ticket in tickets {
        assert_eq!(answer_of(&stage.client, ticket).0, Outcome::Ok);
    }
}

#[test]
fn callers_of_a_dead_worker_are_told_whether_its_calls_ran_or_were_held() {
    let mut stage = Stage::new(true);
    let tickets: Vec<_> = (0..3).map(|_| stage.submit(b"")).collect();
    stage.change();
    for bytes in [10, 5000] {
        next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, &pattern(bytes, 1)).unwrap();
    }
    std::mem::forget(next_call(&mut stage.end));
    // What the server does once the pidfd has fired.
    let claims: Vec<_> = stage.page.claims().collect();
    assert_eq!(claims.len(), 3);
    claims.iter().for_each(|claim| stage.host.lane.answer_lost(claim));
    stage.host.lane.recover_worker(WORKER);
    for ticket in tickets {
        assert_eq!(answer_of(&stage.client, ticket).0, Outcome::WorkerLost);
    }
}

#[test]
fn a_held_call_that_is_condemned_stays_named_and_one_that_was_released_cannot_be() {
    let mut stage = Stage::new(true);
    let tickets = [stage.submit(b""), stage.submit(b"")];
    let position = stage.change();
    for _ in &tickets {
        next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, b"").unwrap();
    }
    let claims: Vec<_> = stage.page.claims().collect();
    assert!(stage.page.condemn(&claims[0]));
    stage.host.control.set_durable(position);
    eventually("the other is released", || stage.page.claims().count() == 1);
    assert!(stage.page.claims().all(|claim| claim.condemned && claim.sequence == claims[0].sequence));
    assert!(!stage.page.condemn(&claims[1]));
    drop(tickets);
}

#[test]
fn replies_of_a_lane_that_is_removed_are_forgotten_and_its_records_free_again() {
    let mut stage = Stage::new(true);
    let _ticket = stage.submit(b"");
    let position = stage.change();
    next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, b"").unwrap();
    assert_eq!(stage.held(), 1);
    stage.end.remove_lane(stage.host.lane.id());
    assert_eq!((stage.held(), stage.page.claims().count()), (0, 0));
    stage.host.control.set_durable(position);
    assert!(stage.end.held_replies().unwrap().wait_until_released(Instant::now()));
}

#[test]
fn a_worker_that_ends_waits_for_its_held_replies_as_long_as_it_may() {
    let mut stage = Stage::new(true);
    let ticket = stage.submit(b"");
    let position = stage.change();
    next_call(&mut stage.end).reply(Outcome::Ok, 0, 0, b"last").unwrap();
    let held = stage.end.held_replies().unwrap();
    assert!(!held.wait_until_released(Instant::now() + Duration::from_millis(10)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| held.wait_until_released(Instant::now() + PATIENCE));
        stage.host.control.set_durable(position);
        assert!(waiting.join().unwrap());
    });
    assert_eq!(answer_of(&stage.client, ticket).1, b"last");
    drop(stage.process);
}
