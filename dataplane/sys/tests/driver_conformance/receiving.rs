//! Receiving: whatever comes, and into buffers.

use std::net::Shutdown;

use praas_sys::Errno;
use praas_sys::driver::{Completion, DriverLimits, End, Refusal};

use crate::harness::{Harness, narrow_pair, pair, pattern, reset, write};

crate::for_each_driver!(
    bytes_come_in_order_whatever_the_pieces,
    bytes_that_were_there_before_the_socket_was_added_come,
    the_end_of_the_stream_comes_once_after_the_last_byte,
    a_reset_is_an_error_of_the_connection,
    a_paused_connection_hands_nothing_over_and_loses_nothing,
    a_buffer_is_filled_with_what_follows_the_bytes_handed_over,
    a_buffer_is_filled_while_a_receive_is_waiting,
    buffers_are_filled_one_after_the_other_and_then_bytes_come,
    an_end_within_a_buffer_says_how_far_it_came,
    a_reset_within_a_buffer_says_so,
    nothing_outside_the_range_is_written,
    an_unfit_buffer_comes_back_at_once,
    a_large_payload_arrives_through_a_narrow_socket,
    half_a_connection_goes_on_after_the_other_half_ended,
    few_receive_buffers_serve_many_connections,
    lent_buffers_hold_receiving_up_until_they_come_back,
);

fn bytes_come_in_order_whatever_the_pieces(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let bytes = pattern(100_000);
    let mut sent = 0;
    let mut received = Vec::new();
    for piece in [1, 2, 95, 1, 16 * 1024, 16 * 1024 - 1, 16 * 1024 + 1, 40_000, 10_747] {
        write(&mut peer, &bytes[sent..sent + piece]);
        sent += piece;
        received.extend(harness.expect_bytes(1, piece));
    }
    assert_eq!(received, bytes[..sent]);
}

fn bytes_that_were_there_before_the_socket_was_added_come(harness: &mut Harness) {
    let (socket, mut peer) = pair();
    write(&mut peer, b"early");
    std::thread::sleep(crate::harness::A_WHILE);
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    assert!(harness.everything_within_a_while().is_empty(), "nothing comes before it is asked for");
    harness.driver.receive(connection).expect("open");
    assert_eq!(harness.expect_bytes(1, 5), b"early");
}

fn the_end_of_the_stream_comes_once_after_the_last_byte(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    write(&mut peer, b"last words");
    drop(peer);
    assert_eq!(harness.expect_bytes(1, 10), b"last words");
    assert_eq!(harness.expect_end(1), End::EndOfStream);
    assert!(harness.everything_within_a_while().is_empty());
    // Whoever asks again is told again.
    harness.driver.receive(connection).expect("open");
    assert_eq!(harness.expect_end(1), End::EndOfStream);
}

fn a_reset_is_an_error_of_the_connection(harness: &mut Harness) {
    let (connection, peer) = harness.connect(1);
    let (other, mut other_peer) = harness.connect(2);
    harness.driver.receive(connection).expect("open");
    harness.driver.receive(other).expect("open");
    harness.turn();
    reset(peer);
    assert_eq!(harness.expect_end(1), End::Failed(Errno::CONNRESET));
    write(&mut other_peer, b"unharmed");
    assert_eq!(harness.expect_bytes(2, 8), b"unharmed");
}

fn a_paused_connection_hands_nothing_over_and_loses_nothing(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let bytes = pattern(3_000);
    let mut received = Vec::new();
    for (round, piece) in bytes.chunks(100).enumerate() {
        harness.driver.receive(connection).expect("open");
        if round % 3 == 0 {
            harness.turn();
        }
        harness.driver.pause(connection);
        if round % 2 == 0 {
            // Whatever was under way has come; now it rests.
            for completion in harness.everything_within_a_while() {
                let Completion::Received { bytes, .. } = completion else { panic!("{completion:?}") };
                received.extend_from_slice(&bytes);
            }
            write(&mut peer, piece);
            assert!(harness.everything_within_a_while().is_empty(), "paused");
        } else {
            write(&mut peer, piece);
        }
    }
    harness.driver.receive(connection).expect("open");
    let rest = bytes.len() - received.len();
    received.extend(harness.expect_bytes(1, rest));
    assert_eq!(received, bytes);
}

fn a_buffer_is_filled_with_what_follows_the_bytes_handed_over(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let bytes = pattern(200_000);
    for round in 0..4 {
        write(&mut peer, &bytes[..100]);
        // The rest may already be there when the first bytes are handed over, or not.
        let writer = std::thread::spawn({
            let (mut peer, rest) = (peer.try_clone().expect("duplicate"), bytes[100..].to_vec());
            move || write(&mut peer, &rest)
        });
        if round % 2 == 0 {
            std::thread::sleep(crate::harness::A_WHILE);
        }
        let first = harness.expect_received(1);
        assert_eq!(first, bytes[..first.len()]);
        let rest = bytes.len() - first.len();
        let buffer = harness.canary(rest + 20);
        harness.driver.receive_into(connection, buffer, 10..10 + rest).expect("open");
        let (buffer, count, end) = harness.expect_filled(1);
        assert_eq!((count, end), (rest, End::Done));
        assert_eq!(buffer.bytes[10..10 + rest], bytes[first.len()..]);
        buffer.assert_untouched_outside(10..10 + rest);
        writer.join().expect("the writer");
    }
    // Receiving goes on by itself.
    write(&mut peer, b"next");
    assert_eq!(harness.expect_bytes(1, 4), b"next");
}

fn a_buffer_is_filled_while_a_receive_is_waiting(harness: &mut Harness) {
    let bytes = pattern(1_000);
    for early in [false, true] {
        let (connection, mut peer) = harness.connect(1);
        harness.driver.receive(connection).expect("open");
        harness.turn();
        if early {
            // The waiting receive brings bytes, of which the driver does not know yet.
            write(&mut peer, &bytes);
        }
        let buffer = harness.canary(600);
        harness.driver.receive_into(connection, buffer, 0..600).expect("open");
        if !early {
            harness.turn();
            write(&mut peer, &bytes);
        }
        let (buffer, count, end) = harness.expect_filled(1);
        assert_eq!((count, end), (600, End::Done));
        assert_eq!(buffer.bytes, bytes[..600]);
        assert_eq!(harness.expect_bytes(1, 400), bytes[600..]);
        harness.driver.close(connection);
        harness.expect_closed(1);
    }
}

fn buffers_are_filled_one_after_the_other_and_then_bytes_come(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    harness.turn();
    let bytes = pattern(10_000);
    write(&mut peer, &bytes);
    let mut at = 0;
    for length in [1, 3_000, 500, 4_000] {
        let buffer = harness.canary(length);
        harness.driver.receive_into(connection, buffer, 0..length).expect("open");
        let (buffer, count, end) = harness.expect_filled(1);
        assert_eq!((count, end), (length, End::Done));
        assert_eq!(buffer.bytes, bytes[at..at + length], "from {at}");
        at += length;
    }
    assert_eq!(harness.expect_bytes(1, bytes.len() - at), bytes[at..]);
}

fn an_end_within_a_buffer_says_how_far_it_came(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    let buffer = harness.canary(100);
    harness.driver.receive_into(connection, buffer, 0..100).expect("open");
    write(&mut peer, &pattern(60));
    harness.turn();
    drop(peer);
    let (buffer, count, end) = harness.expect_filled(1);
    assert_eq!((count, end), (60, End::EndOfStream));
    assert_eq!(buffer.bytes[..60], pattern(60));
    buffer.assert_untouched_outside(0..60);
}

fn a_reset_within_a_buffer_says_so(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    let buffer = harness.canary(100);
    harness.driver.receive_into(connection, buffer, 0..100).expect("open");
    write(&mut peer, &pattern(60));
    harness.turn();
    reset(peer);
    let (buffer, count, end) = harness.expect_filled(1);
    // With io_uring, the bytes that came before the reset may hide it.
    assert!(end == End::Failed(Errno::CONNRESET) || end == End::EndOfStream && count == 60, "{end:?} at {count}");
    buffer.assert_untouched_outside(0..count);
    // The failure was reported once, with the buffer.
    assert!(harness.everything_within_a_while().is_empty());
}

fn nothing_outside_the_range_is_written(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    write(&mut peer, &pattern(5_000));
    let buffer = harness.canary(3_000);
    harness.driver.receive_into(connection, buffer, 1_000..2_000).expect("open");
    let (buffer, count, end) = harness.expect_filled(1);
    assert_eq!((count, end), (1_000, End::Done));
    buffer.assert_untouched_outside(1_000..2_000);
    assert_eq!(buffer.bytes[1_000..2_000], pattern(1_000));
}

fn an_unfit_buffer_comes_back_at_once(harness: &mut Harness) {
    let (connection, _peer) = harness.connect(1);
    let buffer = harness.canary(10);
    let refused = harness.driver.receive_into(connection, buffer, 5..11).expect_err("outside");
    assert_eq!(refused.refusal, Refusal::OutOfRange { start: 5, end: 11, bytes: 10 });
    let refused =
        harness.driver.receive_into(connection, refused.given.make_read_only(), 5..10).expect_err("not to be written");
    assert_eq!(refused.refusal, Refusal::ReadOnly);
    drop(refused);
    let buffer = harness.canary(10);
    harness.driver.receive_into(connection, buffer, 0..10).expect("open");
    let buffer = harness.canary(10);
    let refused = harness.driver.receive_into(connection, buffer, 0..10).expect_err("busy");
    assert_eq!(refused.refusal, Refusal::Busy);
    // An empty range is full from the start.
    let (connection, _peer) = harness.connect(2);
    let buffer = harness.canary(0);
    harness.driver.receive_into(connection, buffer, 0..0).expect("open");
    assert_eq!(harness.expect_filled(2).2, End::Done);
}

fn a_large_payload_arrives_through_a_narrow_socket(harness: &mut Harness) {
    let (socket, mut peer) = narrow_pair();
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    let bytes = pattern(300_000);
    let buffer = harness.canary(bytes.len());
    harness.driver.receive_into(connection, buffer, 0..bytes.len()).expect("open");
    let writer = std::thread::spawn({
        let bytes = bytes.clone();
        move || {
            write(&mut peer, &bytes);
            peer
        }
    });
    let (buffer, count, end) = harness.expect_filled(1);
    assert_eq!((count, end), (bytes.len(), End::Done));
    assert!(buffer.bytes == bytes);
    drop(writer.join().expect("the writer"));
}

fn half_a_connection_goes_on_after_the_other_half_ended(harness: &mut Harness) {
    let (connection, mut peer) = harness.connect(1);
    harness.driver.receive(connection).expect("open");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(harness.expect_end(1), End::EndOfStream);
    let message = harness.message(b"still here");
    harness.driver.send(connection, message).expect("open");
    assert_eq!(harness.expect_sent(1).2, End::Done);
    assert_eq!(crate::harness::read_exactly(&mut peer, 10), b"still here");
}

fn few_receive_buffers_serve_many_connections(harness: &mut Harness) {
    harness.limit(DriverLimits { receive_buffers: 2, receive_buffer_bytes: 64, ..DriverLimits::default() });
    let mut peers: Vec<_> = (0..40).map(|token| harness.connect(token)).collect();
    for (connection, _) in &peers {
        harness.driver.receive(*connection).expect("open");
    }
    for round in 0..3 {
        let bytes = pattern(150 + round);
        for (_, peer) in &mut peers {
            write(peer, &bytes);
        }
        for received in harness.expect_bytes_of_all(40, bytes.len()) {
            assert_eq!(received, bytes);
        }
    }
}

fn lent_buffers_hold_receiving_up_until_they_come_back(harness: &mut Harness) {
    harness.limit(DriverLimits { receive_buffers: 2, receive_buffer_bytes: 64, ..DriverLimits::default() });
    let mut peers: Vec<_> = (0..3).map(|token| harness.connect(token)).collect();
    for (connection, peer) in &mut peers {
        harness.driver.receive(*connection).expect("open");
        write(peer, b"hello");
    }
    // The harness keeps the completions, and with them both buffers.
    let kept = harness.everything_within_a_while();
    assert_eq!(kept.len(), 2, "{kept:?}");
    let served: Vec<u64> = kept
        .iter()
        .map(|completion| match completion {
            Completion::Received { token, .. } => *token,
            other => panic!("{other:?}"),
        })
        .collect();
    // Filling needs no receive buffer.
    let busy = peers[0].0;
    let buffer = harness.canary(5);
    harness.driver.receive_into(busy, buffer, 0..5).expect("open");
    if served.contains(&0) {
        write(&mut peers[0].1, b"again");
    }
    let (buffer, _, end) = harness.expect_filled(0);
    assert_eq!(end, End::Done);
    assert_eq!(buffer.bytes, if served.contains(&0) { b"again" } else { b"hello" });
    drop(kept);
    for token in (0..3).filter(|token| !served.contains(token) && *token != 0) {
        assert_eq!(harness.expect_bytes(token, 5), b"hello");
    }
}
