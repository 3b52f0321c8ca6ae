//! A call lane that an event loop of the server serves: what its client sees, and what a client can do to it.
#![cfg(not(loom))]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId};
use praas_protocol::limits::{REPLY_INLINE_BYTES, REQUEST_INLINE_BYTES};
use praas_protocol::{FunctionId, Idempotency, IdempotencyKey, Outcome};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, KeyedPayload, Payload, Ticket};
use praas_shm::control_page::ControlPage;
use praas_shm::gateway_lane::{GatewayLane, GatewayLaneParts, TakenBytes, TakenRequest};
use praas_shm::io_buffer::IoBuffer;
use praas_shm::layout::geometry_for;
use praas_shm::server_lane::ServerLane;
use rustix::pipe::PipeFlags;

const PATIENCE: Duration = Duration::from_secs(20);
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;

/// Both ends of a lane, in this process.
struct Ends {
    server: ServerLane,
    gateway: GatewayLane,
    client: Arc<ClientLane>,
    /// Read end of the doorbell.
    listen: OwnedFd,
    _control: ControlPage,
}

fn function() -> FunctionId {
    FunctionId::of("praas.message.deliver")
}

fn ends() -> Ends {
    ends_with(geometry_for(PAYLOAD_BYTES_MAX, 8))
}

fn ends_with(geometry: LaneGeometry) -> Ends {
    let lane = LaneId(5);
    let server = ServerLane::create(lane, geometry).unwrap();
    let control = ControlPage::create(1, 1).unwrap();
    let (listen, doorbell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    let segment = || server.segment_fd().try_clone_to_owned().unwrap();
    let gateway = GatewayLane::attach(GatewayLaneParts {
        lane,
        geometry,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        segment: segment(),
        reply_doorbell: None,
    })
    .unwrap();
    let client = ClientLane::attach(ClientLaneParts {
        lane,
        geometry,
        trusted: false,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        workers_max: 1,
        segment: segment(),
        control: control.fd().try_clone_to_owned().unwrap(),
        doorbell,
        ring_server: Box::new(|| {}),
    })
    .unwrap();
    Ends { server, gateway, client: Arc::new(client), listen, _control: control }
}

impl Ends {
    fn submit(&self, bytes: &[u8]) -> Ticket {
        self.client.submit(function(), Payload::Bytes(bytes), 0, 0).unwrap()
    }

    fn take(&mut self) -> TakenRequest {
        self.gateway.take().expect("a request was submitted")
    }

    fn answer(&self, ticket: Ticket) -> (u32, u32, Vec<u8>) {
        let end = Instant::now() + PATIENCE;
        while !self.client.is_answered(&ticket) {
            assert!(Instant::now() < end, "the call is not answered");
        }
        let answer = self.client.take(ticket);
        let bytes = answer.payload.map_or_else(Vec::new, |payload| {
            let mut bytes = vec![0; payload.len()];
            payload.copy_to(&mut bytes);
            bytes
        });
        (answer.outcome_code, answer.detail, bytes)
    }

    fn rings(&self) -> usize {
        rustix::io::read(&self.listen, &mut [0_u8; 64]).unwrap_or(0)
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

#[test]
fn requests_and_replies_of_every_size_arrive_as_they_were_sent() {
    let mut ends = ends();
    let max = PAYLOAD_BYTES_MAX as usize;
    let sizes = [0, 1, REQUEST_INLINE_BYTES, REQUEST_INLINE_BYTES + 1, REPLY_INLINE_BYTES + 1, 5000, max - 1, max];
    for bytes in sizes {
        let sent = pattern(bytes);
        let ticket = ends.client.submit(function(), Payload::Bytes(&sent), 7_000, 9).unwrap();
        let taken = ends.take();
        assert_eq!((taken.function, taken.time_left_ns, taken.root), (function(), 7_000, 9));
        assert_eq!((taken.payload.len(), taken.idempotency), (bytes, None));
        assert_eq!(taken.payload.into_vec(), sent);
        ends.gateway.reply(taken.target, Outcome::Ok, 3, 0, &sent);
        assert_eq!(ends.answer(ticket), (Outcome::Ok as u32, 3, sent));
    }
    assert!(ends.gateway.take().is_none());
}

#[test]
fn calls_are_answered_in_any_order_while_others_lie_in_the_ring() {
    let mut ends = ends();
    let tickets: Vec<_> = (0..8_u8).map(|call| ends.submit(&[call])).collect();
    let taken: Vec<_> = (0..8).map(|_| ends.take()).collect();
    for call in taken.into_iter().rev() {
        let bytes = call.payload.into_vec();
        ends.gateway.reply(call.target, Outcome::FunctionFailed, bytes[0].into(), 0, &bytes);
    }
    for (call, ticket) in (0..8_u8).zip(tickets) {
        assert_eq!(ends.answer(ticket), (Outcome::FunctionFailed as u32, call.into(), vec![call]));
    }
}

#[test]
fn an_idempotency_key_is_taken_off_its_payload() {
    let mut ends = ends();
    let idempotency = Idempotency { key: IdempotencyKey::from_bytes([7; 16]), rerun_lost: true };
    for bytes in [0, 5, REQUEST_INLINE_BYTES, 4000] {
        let sent = pattern(bytes);
        let payload = KeyedPayload::Bytes(&sent);
        let ticket = ends.client.submit_keyed(function(), idempotency, payload, 0, 0).unwrap();
        let taken = ends.take();
        assert_eq!(taken.idempotency, Some(idempotency));
        assert_eq!(taken.payload.into_vec(), sent);
        ends.gateway.reply(taken.target, Outcome::Ok, 0, 0, &[]);
        assert_eq!(ends.answer(ticket).0, Outcome::Ok as u32);
    }
}

#[test]
fn a_reply_is_received_into_the_lane_and_its_room_comes_back() {
    let mut ends = ends();
    for round in 0..40_u8 {
        let bytes = vec![round; 700 << 10];
        let ticket = ends.submit(b"x");
        let taken = ends.take();
        let mut room = ends.gateway.room(taken.target, bytes.len()).expect("the last answer was read");
        assert!(ends.gateway.room(taken.target, 1).is_none(), "one room for a call");
        assert!(room.store(0, &bytes) && !room.store(1, &bytes));
        ends.gateway.reply_room(Outcome::Ok, 0, 0, room);
        assert_eq!(ends.answer(ticket), (Outcome::Ok as u32, 0, bytes));
        // One that is given up is free at once.
        let ticket = ends.submit(b"y");
        let taken = ends.take();
        drop(ends.gateway.room(taken.target, 700 << 10).expect("room"));
        ends.gateway.reply(taken.target, Outcome::ConnectionLost, 1, 0, &[]);
        assert_eq!(ends.answer(ticket).0, Outcome::ConnectionLost as u32);
    }
}

#[test]
fn a_client_that_waits_is_woken_and_the_doorbell_rings_only_while_the_loop_sleeps() {
    let mut ends = ends();
    let first = ends.submit(b"awake");
    assert_eq!(ends.rings(), 0, "the loop attends the lane");
    assert!(!GatewayLane::park([&mut ends.gateway].into_iter()), "there is work");
    ends.gateway.attend();
    let target = ends.take().target;
    assert!(GatewayLane::park([&mut ends.gateway].into_iter()));
    let second = ends.submit(b"asleep");
    assert_eq!(ends.rings(), 1);
    ends.gateway.attend();
    assert!(!ends.gateway.is_parked());
    let third = ends.submit(b"awake again");
    assert_eq!(ends.rings(), 0);
    let mut targets = vec![target, ends.take().target, ends.take().target];
    let client = Arc::clone(&ends.client);
    let waits = std::thread::spawn(move || {
        for ticket in [first, second, third] {
            let end = Instant::now() + PATIENCE;
            while !client.is_answered(&ticket) {
                assert!(Instant::now() < end);
                std::thread::yield_now();
            }
            drop(client.take(ticket));
        }
    });
    for target in targets.drain(..) {
        ends.gateway.reply(target, Outcome::Ok, 0, 0, b"");
        ends.gateway.ring_if_owed();
    }
    waits.join().unwrap();
}

#[test]
fn an_abandoned_call_is_seen_and_its_answer_frees_its_cell() {
    let mut ends = ends();
    let ticket = ends.submit(b"x");
    let target = ends.take().target;
    assert!(!ends.gateway.is_abandoned(target));
    ends.client.abandon(ticket);
    assert!(ends.gateway.is_abandoned(target));
    assert_eq!(ends.client.quarantined(), 1);
    ends.gateway.reply(target, Outcome::Cancelled, 0, 0, &[]);
    assert_eq!(ends.client.quarantined(), 0);
}

#[test]
fn a_payload_above_the_limit_and_one_outside_the_lane_are_answered_at_once() {
    let mut ends = ends();
    // A client that takes a larger limit for granted than it was given.
    let small = GatewayLaneParts {
        lane: LaneId(5),
        geometry: ends.server.geometry(),
        payload_bytes_max: 100,
        segment: ends.server.segment_fd().try_clone_to_owned().unwrap(),
        reply_doorbell: None,
    };
    ends.gateway = GatewayLane::attach(small).unwrap();
    let ticket = ends.submit(&[0; 101]);
    let fine = ends.submit(&[0; 100]);
    let taken = ends.take();
    assert_eq!(taken.payload.len(), 100);
    ends.gateway.reply(taken.target, Outcome::Ok, 0, 0, &[]);
    let answer = ends.answer(ticket);
    assert_eq!((answer.0, answer.1), (Outcome::PayloadTooLarge as u32, 100));
    assert_eq!(ends.answer(fine).0, Outcome::Ok as u32);
}

#[test]
fn junk_in_every_word_of_the_lane_costs_the_server_a_bounded_time_and_nothing_else() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    println!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..60 {
        let mut ends = ends_with(geometry_for(4096, 8));
        let file = File::from(ends.server.segment_fd().try_clone_to_owned().unwrap());
        let mut rooms = Vec::new();
        for round in 0..200 {
            for _ in 0..64 {
                let value = match random() % 4 {
                    0 => random(),
                    1 => random() % 8,
                    2 => ((random() % 4) << 32) | (random() % 6),
                    _ => (random() % 5000) | ((random() % 8192) << 32),
                };
                // Behind the header, which is checked by who attaches: attendance, ring and cells.
                file.write_all_at(&value.to_le_bytes(), 64 + 8 * (random() % 600)).unwrap();
            }
            for _ in 0..8 {
                let Some(taken) = ends.gateway.take() else { break };
                let bytes = taken.payload.into_vec();
                assert!(bytes.len() <= PAYLOAD_BYTES_MAX as usize);
                let _ = ends.gateway.is_abandoned(taken.target);
                match round % 3 {
                    0 => ends.gateway.reply(taken.target, Outcome::Ok, 0, 0, &bytes),
                    1 => rooms.extend(ends.gateway.room(taken.target, bytes.len())),
                    _ => {
                        if let Some(room) = ends.gateway.room(taken.target, 10) {
                            ends.gateway.reply_room(Outcome::Ok, 0, 0, room);
                        }
                    }
                }
                ends.gateway.ring_if_owed();
            }
            let mut places: Vec<_> = rooms.iter().map(|room| (room.start().addr().get(), room.bytes())).collect();
            places.sort_unstable();
            assert!(places.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "rooms overlap");
            if round % 50 == 49 {
                rooms.clear();
            }
            let _ = GatewayLane::park([&mut ends.gateway].into_iter());
            ends.gateway.attend();
        }
    }
}

#[test]
fn buffers_outlive_the_lane_that_they_came_from() {
    let mut ends = ends();
    let _ticket = ends.submit(&[9; 3000]);
    let taken = ends.take();
    let mut room = ends.gateway.room(taken.target, 2000).unwrap();
    let Ends { server, gateway, client, .. } = ends;
    drop((server, gateway, client));
    assert!(room.store(0, &[1; 2000]));
    match taken.payload {
        TakenBytes::Block(buffer) => assert_eq!(buffer.to_vec(), [9; 3000]),
        TakenBytes::Private(_) => panic!("a payload of that size lies in a block"),
    }
}
