//! Sending.

use std::io::Read;

use praas_sys::Errno;
use praas_sys::driver::{End, Outgoing, Refusal};

use crate::harness::{Harness, narrow_pair, pattern, read_exactly, reset, write};

crate::for_each_driver!(
    heads_and_buffers_leave_in_order,
    more_parts_than_one_call_takes_leave_in_order,
    a_large_message_leaves_through_a_narrow_socket,
    messages_leave_in_the_order_of_their_sends,
    a_second_message_is_refused_until_the_first_is_sent,
    an_empty_message_is_sent_at_once,
    sending_to_a_peer_that_reset_fails_and_gives_the_message_back,
    both_directions_at_once_carry_large_transfers,
    an_echo_on_many_connections_is_right_on_each,
);

fn heads_and_buffers_leave_in_order(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let mut message = Outgoing::new();
    message.push_bytes(b"head ");
    message.push_buffer(harness.buffer(b"<first>".to_vec()), 1..6).expect("inside");
    message.push_bytes(b" head ");
    message.push_buffer(harness.buffer(b"second".to_vec()), 0..6).expect("inside");
    harness.driver.send(connection, message).expect("open");
    let (mut message, bytes, end) = harness.expect_sent(1);
    assert_eq!((bytes, end), (22, End::Done));
    assert_eq!(read_exactly(&mut peer, 22), b"head first head second");
    let buffers: Vec<_> = message.take_buffers().collect();
    assert_eq!(
        buffers.iter().map(|buffer| buffer.bytes.as_slice()).collect::<Vec<_>>(),
        [b"<first>".as_slice(), b"second"]
    );
    // The message's memory serves again.
    message.push_bytes(b"again");
    harness.driver.send(connection, message).expect("open");
    assert_eq!(harness.expect_sent(1).2, End::Done);
    assert_eq!(read_exactly(&mut peer, 5), b"again");
}

fn more_parts_than_one_call_takes_leave_in_order(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let mut message = Outgoing::new();
    let mut wanted = Vec::new();
    for part in 0..500_usize {
        let bytes = pattern(part % 37 + 1);
        message.push_bytes(&part.to_le_bytes());
        wanted.extend_from_slice(&part.to_le_bytes());
        wanted.extend_from_slice(&bytes);
        let end = bytes.len();
        message.push_buffer(harness.buffer(bytes), 0..end).expect("inside");
    }
    assert_eq!(message.parts(), 1000);
    harness.driver.send(connection, message).expect("open");
    let (message, bytes, end) = harness.expect_sent(1);
    assert_eq!((bytes, end), (wanted.len(), End::Done));
    assert_eq!(read_exactly(&mut peer, wanted.len()), wanted);
    drop(message);
}

fn a_large_message_leaves_through_a_narrow_socket(harness: &mut Harness) {
    let (socket, mut peer) = narrow_pair();
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    let bytes = pattern(300_000);
    let mut message = harness.message(&bytes);
    message.push_bytes(b"tail");
    harness.driver.send(connection, message).expect("open");
    let reader = std::thread::spawn(move || read_exactly(&mut peer, 300_004));
    let (_, count, end) = harness.expect_sent(1);
    assert_eq!((count, end), (300_004, End::Done));
    let read = reader.join().expect("the reader");
    assert!(read[..300_000] == bytes && read[300_000..] == *b"tail");
}

fn messages_leave_in_the_order_of_their_sends(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let mut wanted = Vec::new();
    for round in 0..200_u32 {
        let bytes = round.to_le_bytes();
        wanted.extend_from_slice(&bytes);
        let message = harness.message(&bytes);
        harness.driver.send(connection, message).expect("open");
        assert_eq!(harness.expect_sent(1).2, End::Done);
    }
    assert_eq!(read_exactly(&mut peer, wanted.len()), wanted);
}

fn a_second_message_is_refused_until_the_first_is_sent(harness: &mut Harness) {
    let (socket, mut peer) = narrow_pair();
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    let bytes = pattern(200_000);
    let message = harness.message(&bytes);
    harness.driver.send(connection, message).expect("open");
    let message = harness.message(b"second");
    let refused = harness.driver.send(connection, message).expect_err("busy");
    assert_eq!(refused.refusal, Refusal::Busy);
    assert_eq!(refused.given.len(), 6);
    let reader = std::thread::spawn(move || read_exactly(&mut peer, 200_006));
    assert_eq!(harness.expect_sent(1).2, End::Done);
    harness.driver.send(connection, refused.given).expect("not busy any more");
    assert_eq!(harness.expect_sent(1).2, End::Done);
    assert!(reader.join().expect("the reader").ends_with(b"second"));
}

fn an_empty_message_is_sent_at_once(harness: &mut Harness) {
    let (connection, _peer) = harness.connect(1);
    harness.driver.send(connection, Outgoing::new()).expect("open");
    let (_, bytes, end) = harness.expect_sent(1);
    assert_eq!((bytes, end), (0, End::Done));
}

fn sending_to_a_peer_that_reset_fails_and_gives_the_message_back(harness: &mut Harness) {
    let (socket, mut peer) = narrow_pair();
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    let bytes = pattern(500_000);
    let message = harness.message(&bytes);
    harness.driver.send(connection, message).expect("open");
    harness.turn();
    assert_eq!(read_exactly(&mut peer, 100), bytes[..100]);
    reset(peer);
    let (mut message, count, end) = harness.expect_sent(1);
    assert!(matches!(end, End::Failed(Errno::CONNRESET | Errno::PIPE)), "{end:?}");
    assert!(count < bytes.len());
    assert_eq!(message.take_buffers().count(), 1);
    // No signal has ended the process, and the next send fails in the same way.
    let message = harness.message(b"more");
    harness.driver.send(connection, message).expect("open");
    assert!(matches!(harness.expect_sent(1).2, End::Failed(_)));
}

fn both_directions_at_once_carry_large_transfers(harness: &mut Harness) {
    let (connection, peer) = harness.connect(1);
    let bytes = pattern(4_000_000);
    let threads = [
        std::thread::spawn({
            let (mut peer, bytes) = (peer.try_clone().expect("duplicate"), bytes.clone());
            move || write(&mut peer, &bytes)
        }),
        std::thread::spawn({
            let (mut peer, bytes) = (peer.try_clone().expect("duplicate"), bytes.clone());
            move || assert!(read_exactly(&mut peer, bytes.len()) == bytes)
        }),
    ];
    let buffer = harness.canary(bytes.len() + 2);
    harness.driver.receive_into(connection, buffer, 1..bytes.len() + 1).expect("open");
    let message = harness.message(&bytes);
    harness.driver.send(connection, message).expect("open");
    let (buffer, count, end) = harness.expect_filled(1);
    assert_eq!((count, end), (bytes.len(), End::Done));
    assert!(buffer.bytes[1..=bytes.len()] == bytes);
    buffer.assert_untouched_outside(1..bytes.len() + 1);
    let (_, count, end) = harness.expect_sent(1);
    assert_eq!((count, end), (bytes.len(), End::Done));
    for thread in threads {
        thread.join().expect("the peer");
    }
}

fn an_echo_on_many_connections_is_right_on_each(harness: &mut Harness) {
    const CONNECTIONS: u64 = 100;
    let mut peers = Vec::new();
    for token in 0..CONNECTIONS {
        let (connection, peer) = harness.connect(token);
        harness.driver.receive(connection).expect("open");
        peers.push((connection, peer));
    }
    for round in 0..5_u64 {
        for (token, (_, peer)) in (0..).zip(&mut peers) {
            write(peer, &[token, round].map(u64::to_le_bytes).concat());
        }
        for token in 0..CONNECTIONS {
            let bytes = harness.expect_bytes(token, 16);
            let message = harness.message(&bytes);
            let connection = peers[usize::try_from(token).expect("small")].0;
            harness.driver.send(connection, message).expect("open");
        }
        for token in 0..CONNECTIONS {
            assert_eq!(harness.expect_sent(token).2, End::Done);
        }
        for (token, (_, peer)) in (0..).zip(&mut peers) {
            let mut bytes = [0; 16];
            peer.read_exact(&mut bytes).expect("the echo");
            assert_eq!(bytes[..], [token, round].map(u64::to_le_bytes).concat());
        }
    }
}
