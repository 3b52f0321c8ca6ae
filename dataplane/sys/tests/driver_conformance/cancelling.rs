//! Cancelling at every point of every operation: the buffer comes back once, nothing is written to it afterwards, and no
//! byte of the stream is lost or doubled.

use std::io::Read;

use praas_sys::driver::{Completion, End};

use crate::harness::{Harness, narrow_pair, pattern, read_exactly, write};

crate::for_each_driver!(
    filling_can_be_cancelled_at_every_point_and_loses_no_byte,
    filling_cancelled_while_a_receive_waits_loses_no_byte,
    sending_can_be_cancelled_at_every_point_and_says_what_has_left,
    receiving_can_be_paused_at_every_point_and_loses_no_byte,
    cancelling_what_is_over_changes_nothing,
    a_cancelled_buffer_is_not_written_later,
);

const PIECE: usize = 700;
const PIECES: usize = 6;

fn filling_can_be_cancelled_at_every_point_and_loses_no_byte(harness: &mut Harness) {
    let bytes = pattern(PIECE * PIECES);
    for streams_first in [false, true] {
        for point in 0..=PIECES * 2 + 1 {
            let (connection, mut peer) = harness.connect(1);
            if streams_first {
                harness.driver.receive(connection).expect("open");
                harness.turn();
            }
            let buffer = harness.canary(bytes.len() + 2);
            harness.driver.receive_into(connection, buffer, 1..bytes.len() + 1).expect("open");
            // Points: before it is handed over, after it, and then before and after the driver sees each piece.
            let pieces = point / 2;
            for piece in bytes.chunks(PIECE).take(pieces) {
                harness.turn();
                write(&mut peer, piece);
            }
            if point % 2 == 1 {
                harness.turn();
            }
            harness.driver.cancel_receive_into(connection);
            let (buffer, count, end) = harness.expect_filled(1);
            assert!(end == End::Cancelled || end == End::Done && count == bytes.len(), "{end:?} at {count}");
            assert_eq!(buffer.bytes[1..=count], bytes[..count]);
            buffer.assert_untouched_outside(1..count + 1);
            for piece in bytes.chunks(PIECE).skip(pieces) {
                write(&mut peer, piece);
            }
            if !streams_first {
                harness.driver.receive(connection).expect("open");
            }
            assert_eq!(harness.expect_bytes(1, bytes.len() - count), bytes[count..], "after {count} bytes");
            buffer.assert_untouched_outside(1..count + 1);
            harness.driver.close(connection);
            harness.expect_closed(1);
            assert!(harness.everything_within_a_while().is_empty());
        }
    }
}

fn filling_cancelled_while_a_receive_waits_loses_no_byte(harness: &mut Harness) {
    for early in [false, true] {
        let (connection, mut peer) = harness.connect(1);
        harness.driver.receive(connection).expect("open");
        harness.turn();
        if early {
            write(&mut peer, b"bytes");
        }
        let buffer = harness.canary(3);
        harness.driver.receive_into(connection, buffer, 0..3).expect("open");
        harness.driver.cancel_receive_into(connection);
        let (buffer, count, end) = harness.expect_filled(1);
        assert_eq!((count, end), (0, End::Cancelled));
        buffer.assert_untouched_outside(0..0);
        if !early {
            write(&mut peer, b"bytes");
        }
        assert_eq!(harness.expect_bytes(1, 5), b"bytes");
    }
}

fn sending_can_be_cancelled_at_every_point_and_says_what_has_left(harness: &mut Harness) {
    let bytes = pattern(400_000);
    for point in 0..=12_usize {
        let (socket, mut peer) = narrow_pair();
        let connection = harness.driver.add_connection(socket, 1).expect("room");
        let mut message = harness.message(&bytes[..1_000]);
        let rest = harness.buffer(bytes.clone());
        message.push_buffer(rest, 1_000..bytes.len()).expect("inside");
        harness.driver.send(connection, message).expect("open");
        let mut read = Vec::new();
        for _ in 0..point / 2 {
            harness.turn();
            let mut piece = vec![0; 30_000];
            let count = peer.read(&mut piece).expect("the peer reads");
            read.extend_from_slice(&piece[..count]);
        }
        if point % 2 == 1 {
            harness.turn();
        }
        harness.driver.cancel_send(connection);
        let (mut message, count, end) = harness.expect_sent(1);
        assert_eq!(end, End::Cancelled, "at point {point}");
        assert_eq!(message.take_buffers().count(), 2);
        harness.driver.close(connection);
        harness.expect_closed(1);
        peer.read_to_end(&mut read).expect("the rest");
        assert_eq!(read.len(), count, "as much has left as it says");
        assert!(read == bytes[..count]);
    }
}

fn receiving_can_be_paused_at_every_point_and_loses_no_byte(harness: &mut Harness) {
    let bytes = pattern(PIECE * PIECES);
    for point in 0..=PIECES * 2 + 1 {
        let (connection, mut peer) = harness.connect(1);
        harness.driver.receive(connection).expect("open");
        for piece in bytes.chunks(PIECE).take(point / 2) {
            harness.turn();
            write(&mut peer, piece);
        }
        if point % 2 == 1 {
            harness.turn();
        }
        harness.driver.pause(connection);
        let mut received = Vec::new();
        for completion in harness.everything_within_a_while() {
            let Completion::Received { bytes, .. } = completion else { panic!("{completion:?}") };
            received.extend_from_slice(&bytes);
        }
        for piece in bytes.chunks(PIECE).skip(point / 2) {
            write(&mut peer, piece);
        }
        harness.driver.receive(connection).expect("open");
        let rest = bytes.len() - received.len();
        received.extend(harness.expect_bytes(1, rest));
        assert_eq!(received, bytes, "paused at point {point}");
        harness.driver.close(connection);
        harness.expect_closed(1);
    }
}

fn cancelling_what_is_over_changes_nothing(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.cancel_send(connection);
    harness.driver.cancel_receive_into(connection);
    harness.driver.pause(connection);
    let message = harness.message(b"over");
    harness.driver.send(connection, message).expect("open");
    assert_eq!(harness.expect_sent(1).2, End::Done);
    harness.driver.cancel_send(connection);
    let message = harness.message(b"next");
    harness.driver.send(connection, message).expect("open");
    assert_eq!(harness.expect_sent(1).2, End::Done, "an old cancellation does not reach it");
    assert_eq!(read_exactly(&mut peer, 8), b"overnext");
    let buffer = harness.canary(4);
    harness.driver.receive_into(connection, buffer, 0..4).expect("open");
    write(&mut peer, b"full");
    assert_eq!(harness.expect_filled(1).2, End::Done);
    harness.driver.cancel_receive_into(connection);
    let buffer = harness.canary(4);
    harness.driver.receive_into(connection, buffer, 0..4).expect("open");
    write(&mut peer, b"more");
    assert_eq!(harness.expect_filled(1).2, End::Done, "an old cancellation does not reach it");
    assert!(harness.everything_within_a_while().is_empty());
}

fn a_cancelled_buffer_is_not_written_later(harness: &mut Harness) {
    let mut kept = Vec::new();
    for round in 0..20_usize {
        let (connection, mut peer) = harness.connect(1);
        let buffer = harness.canary(10_000);
        harness.driver.receive_into(connection, buffer, 0..10_000).expect("open");
        if round % 2 == 0 {
            harness.turn();
        }
        // The peer writes while the operation is being cancelled.
        let writer = std::thread::spawn(move || {
            write(&mut peer, &pattern(5_000));
            peer
        });
        harness.driver.cancel_receive_into(connection);
        let (buffer, count, _) = harness.expect_filled(1);
        kept.push((connection, buffer, count, writer.join().expect("the writer")));
    }
    assert!(harness.everything_within_a_while().is_empty());
    for (_, buffer, count, mut peer) in kept {
        write(&mut peer, b"late");
        harness.turn();
        buffer.assert_untouched_outside(0..count);
    }
}
