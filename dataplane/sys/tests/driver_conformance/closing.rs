//! Closing, detaching, and dropping a driver, with operations in flight.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use praas_sys::driver::{Completion, End, Refusal};

use crate::harness::{Harness, narrow_sender_pair, pattern, read_exactly, write};

crate::for_each_driver!(
    closing_gives_all_buffers_back_before_it_says_closed,
    closing_before_anything_was_handed_over_gives_all_buffers_back,
    what_was_sent_before_closing_arrives,
    a_closed_connection_is_unknown_and_its_place_is_used_again,
    a_detached_socket_lives_on_and_no_byte_is_lost,
    connections_that_are_opened_and_dropped_leave_nothing,
    a_dropped_driver_gives_all_buffers_back_and_closes_all_sockets,
    a_driver_dropped_before_anything_was_handed_over_gives_all_buffers_back,
);

/// Receives into a buffer, with a send that the peer does not read.
fn keep_busy(harness: &mut Harness, token: u64) -> (praas_sys::driver::SourceId, TcpStream) {
    let (socket, peer) = narrow_sender_pair();
    let connection = harness.driver.add_connection(socket, token).expect("room");
    harness.driver.receive(connection).expect("open");
    let buffer = harness.canary(1_000);
    harness.driver.receive_into(connection, buffer, 0..1_000).expect("open");
    let message = harness.message(&pattern(500_000));
    harness.driver.send(connection, message).expect("open");
    (connection, peer)
}

fn assert_closed_at(peer: &mut TcpStream) {
    let mut bytes = Vec::new();
    match peer.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

fn expect_all_back(harness: &mut Harness, token: u64) {
    let (buffer, count, end) = harness.expect_filled(token);
    assert_eq!(end, End::Cancelled);
    buffer.assert_untouched_outside(0..count);
    let (_, count, end) = harness.expect_sent(token);
    assert_eq!(end, End::Cancelled);
    assert!(count < 500_000);
    harness.expect_closed(token);
}

fn closing_gives_all_buffers_back_before_it_says_closed(harness: &mut Harness) {
    let (connection, mut peer) = keep_busy(harness, 1);
    harness.turn();
    write(&mut peer, &pattern(100));
    harness.driver.close(connection);
    harness.driver.close(connection);
    // All completions, in their order.
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"closed") {
        let kind = harness.expect("a completion", |completion| match completion {
            Completion::Filled { .. } => Ok("filled"),
            Completion::Sent { .. } => Ok("sent"),
            Completion::Closed { .. } => Ok("closed"),
            other => Err(other),
        });
        kinds.push(kind);
    }
    kinds[..2].sort_unstable();
    assert_eq!(kinds, ["filled", "sent", "closed"]);
    assert_eq!(harness.live(), 0);
    assert_closed_at(&mut peer);
    assert!(harness.everything_within_a_while().is_empty());
}

fn closing_before_anything_was_handed_over_gives_all_buffers_back(harness: &mut Harness) {
    let (connection, mut peer) = keep_busy(harness, 1);
    harness.driver.close(connection);
    expect_all_back(harness, 1);
    assert_closed_at(&mut peer);
}

fn what_was_sent_before_closing_arrives(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let bytes = pattern(50_000);
    let message = harness.message(&bytes);
    harness.driver.send(connection, message).expect("open");
    assert_eq!(harness.expect_sent(1).2, End::Done);
    harness.driver.close(connection);
    harness.expect_closed(1);
    let mut read = Vec::new();
    peer.read_to_end(&mut read).expect("an orderly end");
    assert!(read == bytes);
}

fn a_closed_connection_is_unknown_and_its_place_is_used_again(harness: &mut Harness) {
    let (old, _peer) = harness.connect(1);
    harness.driver.close(old);
    assert_eq!(harness.driver.receive(old).expect_err("closing").refusal, Refusal::NotOpen);
    harness.expect_closed(1);
    let (new, mut peer) = harness.connect(2);
    assert_ne!(old, new);
    let message = harness.message(b"x");
    assert_eq!(harness.driver.send(old, message).expect_err("closed").refusal, Refusal::NotOpen);
    let buffer = harness.canary(1);
    assert_eq!(harness.driver.receive_into(old, buffer, 0..1).expect_err("closed").refusal, Refusal::NotOpen);
    harness.driver.close(old);
    harness.driver.pause(old);
    assert!(harness.driver.socket(old).is_none());
    assert!(harness.driver.socket(new).is_some());
    harness.driver.receive(new).expect("open");
    write(&mut peer, b"new");
    assert_eq!(harness.expect_bytes(2, 3), b"new");
    assert!(harness.everything_within_a_while().is_empty());
}

fn a_detached_socket_lives_on_and_no_byte_is_lost(harness: &mut Harness) {
    for waiting in [false, true] {
        let (connection, mut peer) = harness.connect(1);
        harness.driver.receive(connection).expect("open");
        write(&mut peer, b"before");
        assert_eq!(harness.expect_bytes(1, 6), b"before");
        if waiting {
            harness.turn();
        }
        harness.driver.detach(connection);
        let socket = harness.expect("the socket", |completion| match completion {
            Completion::Detached { token: 1, socket } => Ok(socket),
            other => Err(other),
        });
        write(&mut peer, b"after");
        let mut socket = TcpStream::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        assert_eq!(read_exactly(&mut socket, 5), b"after");
        // The driver has let go of it: it can be taken over again.
        let connection = harness.driver.add_connection(socket.into(), 2).expect("room");
        harness.driver.receive(connection).expect("open");
        write(&mut peer, b"again");
        assert_eq!(harness.expect_bytes(2, 5), b"again");
        harness.driver.close(connection);
        harness.expect_closed(2);
        assert!(harness.everything_within_a_while().is_empty());
    }
}

fn connections_that_are_opened_and_dropped_leave_nothing(harness: &mut Harness) {
    let room = harness.driver.room();
    for round in 0..300_u64 {
        let (connection, peer) = harness.connect(round);
        harness.driver.receive(connection).expect("open");
        match round % 3 {
            0 => drop(peer),
            1 => crate::harness::reset(peer),
            _ => {
                harness.driver.close(connection);
                harness.expect_closed(round);
                continue;
            }
        }
        harness.expect_end(round);
        harness.driver.close(connection);
        harness.expect_closed(round);
    }
    assert_eq!(harness.driver.room(), room);
    assert!(harness.everything_within_a_while().is_empty());
}

fn drop_driver(harness: &mut Harness, peers: &mut [TcpStream]) {
    let live = harness.live_counter();
    assert_eq!(live.load(Ordering::SeqCst), peers.len() * 2);
    harness.limit(praas_sys::driver::DriverLimits::default());
    assert_eq!(live.load(Ordering::SeqCst), 0);
    for peer in peers {
        assert_closed_at(peer);
    }
}

fn a_dropped_driver_gives_all_buffers_back_and_closes_all_sockets(harness: &mut Harness) {
    let mut peers: Vec<TcpStream> = (0..30).map(|token| keep_busy(harness, token).1).collect();
    for _ in 0..3 {
        harness.turn();
    }
    for peer in &mut peers {
        write(peer, b"unseen");
    }
    drop_driver(harness, &mut peers);
}

fn a_driver_dropped_before_anything_was_handed_over_gives_all_buffers_back(harness: &mut Harness) {
    let mut peers: Vec<TcpStream> = (0..30).map(|token| keep_busy(harness, token).1).collect();
    drop_driver(harness, &mut peers);
}
