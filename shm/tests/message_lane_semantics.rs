//! What a message lane promises: messages come whole, once and in order; who has no room hears of it; a payload lies where
//! its sender built it.
#![cfg(not(loom))]

#[path = "support/messages.rs"]
mod messages;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::control::MessageLaneGeometry;
use praas_shm::WorkerTag;
use praas_shm::message_lane::{
    Contents, INLINE_BYTES, Inbound, Outbound, SendError, ServerMessageLane, Wanting, geometry_for,
};

use messages::{Host, PATIENCE, Receiver, SMALL, Taken, copy_of, id, key, pattern};

const MIB: usize = 1 << 20;
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const RECEIVER: WorkerTag = WorkerTag::new(0, 1);

fn message(sequence: u64) -> Wanting {
    Wanting::Message { key_bytes: 1, payload_bytes: usize::try_from(sequence % 2).unwrap() }
}

#[test]
fn every_size_of_key_and_payload_comes_as_it_was_sent() {
    let host = Host::new(geometry_for(PAYLOAD_BYTES_MAX));
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    let mut sequence = 0;
    for key_bytes in [1, 7, 8, 9, 64, 200, 215, 216, 217, 223, 224, 225, 248, 255] {
        let text = "k".repeat(key_bytes);
        let inline = INLINE_BYTES.saturating_sub(key_bytes.next_multiple_of(8));
        for payload_bytes in [0, 1, 8, 63, 64, inline.saturating_sub(1), inline, inline + 1, 1000, 1024, 5000, MIB] {
            let payload = pattern(payload_bytes, sequence);
            sender.try_send(id(sequence), key(&text), &payload).unwrap();
            let arrived = receiver.look().unwrap();
            assert_eq!(arrived.payload_bytes(), payload_bytes);
            let fits = key_bytes.next_multiple_of(8) + payload_bytes <= INLINE_BYTES;
            assert_eq!(matches!(arrived.contents, Contents::Inline(_)), fits, "{key_bytes} and {payload_bytes} bytes");
            let expected = Taken { id: id(sequence), key: text.clone(), bytes: payload };
            assert_eq!(receiver.take(), Some(expected), "{key_bytes} and {payload_bytes} bytes");
            sequence += 1;
        }
    }
    assert_eq!(receiver.take(), None);
    assert!(host.lane.is_drained());
}

#[test]
fn a_megabyte_is_read_where_it_was_built() {
    let host = Host::new(geometry_for(PAYLOAD_BYTES_MAX));
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    let mut first = None;
    for sequence in 0..20 {
        let mut loan = sender.loan(MIB).unwrap();
        loan.copy_from_slice(&pattern(MIB, sequence));
        sender.send_loan(loan, id(sequence), key("large")).map_err(|(_, error)| error).unwrap();
        let Contents::Block(place) = receiver.look().unwrap().contents else { panic!("a megabyte came inline") };
        receiver.advance();
        let bytes = receiver.inbound.block(&place);
        assert_eq!(bytes.as_ptr() as usize % 1024, 0);
        assert_eq!(bytes, pattern(MIB, sequence));
        let kept = receiver.inbound.place_of(place.words()).unwrap();
        let in_place = receiver.inbound.in_place(&kept);
        assert_eq!((in_place.as_ptr(), in_place.len()), (bytes.as_ptr(), MIB));
        // The block that was just given back is the next one lent: its pages are warm.
        assert_eq!(*first.get_or_insert(bytes.as_ptr() as usize), bytes.as_ptr() as usize);
        receiver.inbound.release(place.descriptor(), place.stamp());
    }
}

#[test]
fn a_full_ring_refuses_and_takes_again_what_was_consumed() {
    let host = Host::new(SMALL);
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    for sequence in 0..16 {
        sender.try_send(id(sequence), key("k"), b"m").unwrap();
    }
    for _ in 0..3 {
        assert_eq!(sender.try_send(id(16), key("k"), b"m"), Err(SendError::LaneFull { entries: 16 }));
    }
    let loan = sender.loan(10).unwrap();
    let (loan, error) = sender.send_loan(loan, id(16), key("k")).unwrap_err();
    assert_eq!(error, SendError::LaneFull { entries: 16 });
    assert_eq!(receiver.take().unwrap().id, id(0));
    sender.send_loan(loan, id(16), key("k")).unwrap();
    assert!(sender.try_send(id(17), key("k"), b"m").unwrap_err().is_full());
    let taken: Vec<u64> = std::iter::from_fn(|| receiver.take()).map(|taken| taken.id.sequence).collect();
    assert_eq!(taken, (1..17).collect::<Vec<_>>());
}

#[test]
fn an_arena_is_refused_with_figures_and_comes_back_in_any_order() {
    let host = Host::new(SMALL);
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    let payload = pattern(16 << 10, 1);
    let mut places = Vec::new();
    for sequence in 0..4 {
        sender.try_send(id(sequence), key("k"), &payload).unwrap();
        let Contents::Block(place) = receiver.look().unwrap().contents else { panic!("came inline") };
        receiver.advance();
        places.push(place);
    }
    let full =
        |blocks_in_use| SendError::ArenaFull { wanted_bytes: 20_000, largest_free_bytes: 0, blocks_in_use, blocks: 8 };
    assert_eq!(sender.try_send(id(4), key("k"), &[0; 20_000]), Err(full(4)));
    let too_large = SendError::TooLarge { bytes: (64 << 10) + 1, limit_bytes: 64 << 10 };
    assert!(!too_large.is_full());
    assert_eq!(sender.try_send(id(4), key("k"), &vec![0; (64 << 10) + 1]), Err(too_large.clone()));
    assert_eq!(sender.loan((64 << 10) + 1).unwrap_err(), too_large);
    // Small messages need no arena.
    sender.try_send(id(4), key("k"), b"small").unwrap();

    for at in [2, 0, 3, 1] {
        let place = places[at];
        assert_eq!(receiver.inbound.block(&place), payload);
        receiver.inbound.release(place.descriptor(), place.stamp());
    }
    sender.try_send(id(5), key("k"), &pattern(64 << 10, 5)).unwrap();
    assert_eq!(receiver.take().unwrap().bytes, b"small");
    assert_eq!(receiver.take().unwrap().bytes, pattern(64 << 10, 5));
    assert!(host.lane.is_drained());
}

#[test]
fn blocks_run_out_before_their_descriptors_name_two() {
    let host = Host::new(SMALL);
    let mut sender = host.sender();
    let loans: Vec<_> = (0..8).map(|_| sender.loan(1).unwrap()).collect();
    let error = sender.loan(1).unwrap_err();
    assert!(matches!(error, SendError::ArenaFull { blocks_in_use: 8, blocks: 8, .. }), "{error}");
    drop(loans);
    assert_eq!(sender.loan(64 << 10).unwrap().len(), 64 << 10);
}

#[test]
fn a_loan_outlives_other_sends_is_cut_and_goes_back_when_dropped() {
    let host = Host::new(SMALL);
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    for sequence in 0..50 {
        drop(sender.loan(20_000).unwrap());
        let mut loan = sender.loan(20_000).unwrap();
        sender.try_send(id(2 * sequence), key("beside"), &pattern(3000, sequence)).unwrap();
        loan[..5].copy_from_slice(b"hello");
        loan.truncate(5);
        loan.truncate(100);
        sender.send_loan(loan, id(2 * sequence + 1), key("built")).unwrap();
        assert_eq!(receiver.take().unwrap().bytes, pattern(3000, sequence));
        assert_eq!(
            receiver.take().unwrap(),
            Taken { id: id(2 * sequence + 1), key: "built".into(), bytes: b"hello".into() }
        );
    }
    assert!(host.lane.is_drained());
}

#[test]
#[should_panic(expected = "another lane's")]
fn a_loan_of_another_lane_is_refused_loudly() {
    let (mut one, mut other) = (Host::new(SMALL).sender(), Host::new(SMALL).sender());
    let loan = one.loan(1).unwrap();
    let _ = other.send_loan(loan, id(0), key("k"));
}

#[test]
fn a_lane_is_drained_when_nothing_is_left_to_take_or_give_back() {
    let host = Host::new(SMALL);
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    let again = ServerMessageLane::attach(copy_of(host.lane.fd()), &SMALL).unwrap();
    let is_drained = || {
        assert_eq!(again.is_drained(), host.lane.is_drained());
        host.lane.is_drained()
    };
    assert!(is_drained());
    // More than a turn of the ring, so that stamps of earlier turns stand there.
    for sequence in 0..40 {
        let loan = sender.loan(2000).unwrap();
        assert!(is_drained(), "an unsent loan is nobody's loss");
        sender.send_loan(loan, id(sequence), key("k")).unwrap();
        assert!(!is_drained(), "a message is there");
        let Contents::Block(place) = receiver.look().unwrap().contents else { panic!("came inline") };
        receiver.advance();
        assert!(!is_drained(), "its block is with the receiver");
        receiver.inbound.release(place.descriptor(), place.stamp());
        assert!(is_drained());
    }
    sender.try_send(id(40), key("k"), b"").unwrap();
    assert!(!is_drained());
    receiver.advance();
    assert!(is_drained());
}

/// Sends to a receiver that sleeps between messages, from one that sleeps when there is no room.
fn sleepy_traffic(messages: u64, geometry: MessageLaneGeometry, receivers: u8) {
    let host = Host::new(geometry);
    let mut sender = host.sender();
    let taken = AtomicU64::new(0);
    // The lock and the position of the receivers' mailbox.
    let position = Mutex::new(0);
    std::thread::scope(|scope| {
        for index in 0..receivers {
            let (mut receiver, bell, position, taken) = (host.receiver(), host.bell(), &position, &taken);
            scope.spawn(move || {
                let tag = WorkerTag::new(index, 1);
                let start = Instant::now();
                while taken.load(Ordering::Relaxed) < messages {
                    if take_next(&mut receiver, position) {
                        // The last one tells all others that there is nothing left to wait for.
                        if taken.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                            bell.ring();
                        }
                        continue;
                    }
                    let seen = bell.prepare(tag);
                    let is_over = taken.load(Ordering::Relaxed) == messages;
                    if !is_over && !receiver.inbound.has_arrived(*position.lock().unwrap()) {
                        bell.wait(seen, PATIENCE);
                    }
                    bell.finish(tag);
                    assert!(start.elapsed() < PATIENCE, "{} messages came", taken.load(Ordering::Relaxed));
                }
            });
        }
        for sequence in 0..messages {
            let payload = pattern(size_of_message(sequence), sequence);
            while let Err(error) = sender.try_send(id(sequence), key("k"), &payload) {
                assert!(error.is_full(), "{error}");
                sender.wait_for_room(Wanting::Message { key_bytes: 1, payload_bytes: payload.len() }, PATIENCE);
            }
        }
    });
    assert_eq!(*position.lock().unwrap(), messages);
    assert!(host.lane.is_drained());
}

fn size_of_message(sequence: u64) -> usize {
    [10, 64, 200, 300, 3000, 20_000][usize::try_from(sequence.wrapping_mul(0x9e37_79b9) >> 7).unwrap() % 6]
}

fn take_next(receiver: &mut Receiver, position: &Mutex<u64>) -> bool {
    let mut position = position.lock().unwrap();
    receiver.position = *position;
    let Some(taken) = receiver.take() else { return false };
    let expected = Taken { id: id(*position), key: "k".into(), bytes: pattern(size_of_message(*position), *position) };
    assert_eq!(taken, expected);
    *position = receiver.position;
    true
}

#[test]
fn all_comes_in_order_through_a_lane_that_is_always_full() {
    sleepy_traffic(6_000, SMALL, 1);
}

#[test]
fn all_comes_in_order_to_receivers_that_take_turns() {
    sleepy_traffic(6_000, geometry_for(64 << 10), 3);
}

#[test]
fn a_sleeping_receiver_is_woken_by_each_message() {
    let host = Host::new(SMALL);
    let (mut sender, bell) = (host.sender(), host.bell());
    let mut receiver = host.receiver();
    let (asked, answered) = (Mutex::new(0), std::sync::Condvar::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 0..300 {
                assert_eq!(receiver.await_one(&bell, RECEIVER).id, id(sequence));
                *asked.lock().unwrap() = sequence + 1;
                answered.notify_one();
            }
        });
        for sequence in 0..300 {
            sender.try_send(id(sequence), key("k"), b"wake").unwrap();
            let guard = asked.lock().unwrap();
            let (_guard, timed_out) = answered.wait_timeout_while(guard, PATIENCE, |asked| *asked <= sequence).unwrap();
            assert!(!timed_out.timed_out(), "message {sequence} was not received");
        }
    });
}

#[test]
fn waiting_for_room_ends_when_there_is_some_or_the_time_is_up() {
    let host = Host::new(SMALL);
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    assert!(sender.wait_for_room(message(0), PATIENCE));
    for sequence in 0..16 {
        sender.try_send(id(sequence), key("k"), b"m").unwrap();
    }
    let start = Instant::now();
    assert!(!sender.wait_for_room(message(0), Duration::from_millis(3)));
    assert!(!sender.wait_for_room(Wanting::SendLoan, PATIENCE), "nobody made room");
    assert!(start.elapsed() >= Duration::from_millis(3));
    // One entry is room for whoever looks, though less than a sleeper is woken for.
    receiver.advance();
    assert!(sender.wait_for_room(message(0), PATIENCE));
    assert!(!sender.has_room(Wanting::Loan { bytes: (64 << 10) + 1 }));
    assert!(sender.has_room(Wanting::Loan { bytes: 64 << 10 }));
}

/// Where a lane says that its sender sleeps, and counts who woke it, restated from its documentation.
const SENDER_PARKED: u64 = 320;
const SENDER_RINGS: u64 = 328;

fn word(host: &Host, at: u64) -> u32 {
    let mut bytes = [0; 4];
    assert_eq!(rustix::io::pread(host.lane.fd(), &mut bytes, at).unwrap(), 4);
    u32::from_ne_bytes(bytes)
}

/// Lets a sender meet a full lane again and again, makes room only while it sleeps, and returns how often it was rung.
fn rings_of_a_sender_without_room(payload_bytes: usize) -> u32 {
    const ROUNDS: u64 = 20;
    let host = Host::new(MessageLaneGeometry { entries: 4, blocks: 1, arena_bytes: 64 << 10 });
    let (mut sender, mut receiver) = (host.sender(), host.receiver());
    let wanting = Wanting::Message { key_bytes: 1, payload_bytes };
    let payload = pattern(payload_bytes, 1);
    while sender.try_send(id(0), key("k"), &payload).is_ok() {}
    let full = sender.sent();
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            for _ in 0..ROUNDS {
                while sender.try_send(id(0), key("k"), &payload).is_err() {
                    sender.wait_for_room(wanting, PATIENCE);
                }
            }
        });
        let start = Instant::now();
        for round in 0..ROUNDS {
            while word(&host, SENDER_PARKED) == 0 {
                assert!(start.elapsed() < PATIENCE, "in round {round} the sender does not sleep");
                std::thread::yield_now();
            }
            assert!(receiver.take().is_some());
            // The next round begins when the sender has filled the lane again.
            while !receiver.inbound.has_arrived(receiver.position + full - 1) {
                assert!(start.elapsed() < PATIENCE, "in round {round} the sender does not wake");
                std::thread::yield_now();
            }
        }
        sending.join().unwrap();
    });
    word(&host, SENDER_RINGS)
}

/// At times its sleep ends by itself just before.
#[test]
fn a_sender_that_sleeps_is_woken_by_what_it_lacks() {
    for payload_bytes in [10, 1000] {
        assert_ne!(rings_of_a_sender_without_room(payload_bytes), 0, "{payload_bytes} bytes: nobody rang");
    }
}

#[test]
fn other_segments_and_other_sizes_are_refused() {
    let host = Host::new(SMALL);
    let fd = || copy_of(host.lane.fd());
    let others = [
        MessageLaneGeometry { entries: 32, ..SMALL },
        MessageLaneGeometry { arena_bytes: 128 << 10, ..SMALL },
        MessageLaneGeometry { entries: 3, ..SMALL },
        MessageLaneGeometry { blocks: 0, ..SMALL },
    ];
    for geometry in others {
        assert!(Inbound::attach(fd(), &geometry).is_err());
        assert!(Outbound::attach(fd(), &geometry, host.bell()).is_err());
        assert!(ServerMessageLane::attach(fd(), &geometry).is_err());
    }
    assert!(Inbound::attach(copy_of(host.bell.fd()), &SMALL).is_err());
    assert!(ServerMessageLane::create(MessageLaneGeometry { entries: 3, ..SMALL }).is_err());
}
