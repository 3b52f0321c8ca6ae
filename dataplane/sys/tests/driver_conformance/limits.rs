//! Limits: reached ones are typed refusals that give everything back, and small ones slow a driver down but lose nothing.

use praas_sys::driver::{DriverLimits, End, OpenError, Refusal};

use crate::harness::{Harness, pair, pattern, read_exactly, write};

crate::for_each_driver!(
    a_full_table_gives_the_socket_back_until_there_is_room,
    tiny_queues_lose_nothing,
    limits_out_of_bounds_are_refused,
    descriptors_that_cannot_be_driven_are_refused_or_fail_typed,
);

fn a_full_table_gives_the_socket_back_until_there_is_room(harness: &mut Harness) {
    harness.limit(DriverLimits { sources_max: 3, ..DriverLimits::default() });
    let (first, _peer) = harness.connect(1);
    let (_second, _other) = harness.connect(2);
    let bell = praas_sys::Doorbell::new().expect("a doorbell");
    harness.driver.watch(bell.listen.try_clone().expect("duplicate"), 3).expect("room");
    assert_eq!(harness.driver.room(), 0);
    let (socket, mut peer) = pair();
    let refused = harness.driver.add_connection(socket, 4).expect_err("full");
    assert_eq!(refused.refusal, Refusal::Full { sources_max: 3 });
    harness.driver.close(first);
    harness.expect_closed(1);
    let connection = harness.driver.add_connection(refused.given, 4).expect("room");
    harness.driver.receive(connection).expect("open");
    write(&mut peer, b"in");
    assert_eq!(harness.expect_bytes(4, 2), b"in");
}

fn tiny_queues_lose_nothing(harness: &mut Harness) {
    harness.limit(DriverLimits {
        submission_entries: 2,
        completion_entries: 2,
        completions_per_turn: 3,
        receive_buffers: 1,
        ..DriverLimits::default()
    });
    let mut peers: Vec<_> = (0..64).map(|token| harness.connect(token)).collect();
    for (connection, peer) in &mut peers {
        harness.driver.receive(*connection).expect("open");
        write(peer, &pattern(1_000));
    }
    for round in 0..3 {
        for received in harness.expect_bytes_of_all(64, 1_000) {
            assert_eq!(received, pattern(1_000), "round {round}");
        }
        for (connection, _) in &peers {
            let message = harness.message(&pattern(1_000));
            harness.driver.send(*connection, message).expect("open");
        }
        for (token, (_, peer)) in (0..).zip(&mut peers) {
            assert_eq!(harness.expect_sent(token).2, End::Done);
            assert_eq!(read_exactly(peer, 1_000), pattern(1_000));
            write(peer, &pattern(1_000));
        }
    }
    for (connection, _) in &peers {
        harness.driver.close(*connection);
    }
    for token in 0..64 {
        harness.expect_closed(token);
    }
}

fn limits_out_of_bounds_are_refused(harness: &mut Harness) {
    let whole = DriverLimits::default();
    let broken = [
        ("sources_max", DriverLimits { sources_max: 0, ..whole }),
        ("sources_max", DriverLimits { sources_max: u32::MAX, ..whole }),
        ("receive_buffers", DriverLimits { receive_buffers: 3, ..whole }),
        ("receive_buffer_bytes", DriverLimits { receive_buffer_bytes: 0, ..whole }),
        ("submission_entries", DriverLimits { submission_entries: 0, ..whole }),
        ("completion_entries", DriverLimits { completion_entries: 100, ..whole }),
        ("completion_entries", DriverLimits { completion_entries: 128, ..whole }),
        ("completions_per_turn", DriverLimits { completions_per_turn: 0, ..whole }),
    ];
    for (name, limits) in broken {
        match praas_sys::driver::open::<Vec<u8>>(harness.choice, limits) {
            Err(OpenError::Limit { limit, .. }) => assert_eq!(limit, name),
            other => panic!("{name}: {:?}", other.map(|opened| opened.driver)),
        }
    }
}

fn descriptors_that_cannot_be_driven_are_refused_or_fail_typed(harness: &mut Harness) {
    let file = std::fs::File::open("/dev/null").expect("a descriptor");
    match harness.driver.add_connection(file.into(), 1) {
        // epoll does not take it.
        Err(refused) => assert!(matches!(refused.refusal, Refusal::Call { call: "epoll_ctl", .. }), "{refused}"),
        // io_uring finds out at the first operation.
        Ok(connection) => {
            harness.driver.receive(connection).expect("open");
            assert!(matches!(harness.expect_end(1), End::Failed(_)));
            let buffer = harness.canary(4);
            harness.driver.receive_into(connection, buffer, 0..4).expect("open");
            assert!(matches!(harness.expect_filled(1).2, End::Failed(_)));
            let message = harness.message(b"none");
            harness.driver.send(connection, message).expect("open");
            assert!(matches!(harness.expect_sent(1).2, End::Failed(_)));
            harness.driver.close(connection);
            harness.expect_closed(1);
        }
    }
}
