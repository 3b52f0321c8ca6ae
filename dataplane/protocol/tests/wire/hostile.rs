//! Bytes of a peer that means harm: nothing panics, nothing is held beyond the limits, the error says what is wrong.

use praas_protocol::FunctionId;
use praas_protocol::wire::kind::KINDS;
use praas_protocol::wire::{
    Decoder, Frame, HEADER_BYTES, Header, Item, Kind, REQUEST_HEAD_BYTES_MAX, Request, Side, WireError,
};
use proptest::prelude::*;

use crate::samples::{PAYLOAD_BYTES_MAX, frames_of};

fn header_of(body_bytes: u32, kind: u8, flags: u8, reserved: u16, request_id: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..4].copy_from_slice(&body_bytes.to_le_bytes());
    (bytes[4], bytes[5]) = (kind, flags);
    bytes[6..8].copy_from_slice(&reserved.to_le_bytes());
    bytes[8..].copy_from_slice(&request_id.to_le_bytes());
    bytes
}

/// Feeds everything until it ends or breaks; the decoder must keep to its limits all the while.
fn feed(sender: Side, bytes: &[u8], piece_bytes: usize) -> Result<(), WireError> {
    let mut decoder = Decoder::new(sender, PAYLOAD_BYTES_MAX);
    for piece in bytes.chunks(piece_bytes) {
        let mut rest = piece;
        loop {
            let step = decoder.step(rest);
            let (consumed, done) = match step {
                Ok(step) => {
                    if let Some(Item::Control { frame: Frame::Refused(refused), .. }) = &step.item {
                        let _ = refused.refusal();
                    }
                    (step.consumed, step.item.is_none())
                }
                Err(error) => {
                    assert_eq!(decoder.step(&[]).err(), Some(error.clone()), "a broken stream stays broken");
                    assert!(decoder.held_bytes() <= Decoder::held_bytes_max(sender));
                    return Err(error);
                }
            };
            assert!(decoder.held_bytes() <= Decoder::held_bytes_max(sender));
            rest = &rest[consumed..];
            if done {
                break;
            }
        }
    }
    Ok(())
}

#[test]
fn a_server_holds_little_for_a_client_that_it_does_not_know_yet() {
    assert!(Decoder::held_bytes_max(Side::Client) <= 1100);
    assert!(Decoder::held_bytes_max(Side::Server) <= 64 * 1024 + HEADER_BYTES);
}

#[test]
fn memory_grows_with_what_came_and_not_with_what_was_announced() {
    let mut decoder = Decoder::new(Side::Server, PAYLOAD_BYTES_MAX);
    let header = header_of(64 << 10, Kind::Processes.code(), 0, 0, 1);
    assert!(decoder.step(&header).unwrap().item.is_none());
    assert!(decoder.held_bytes() <= 256, "{} bytes for a header", decoder.held_bytes());
}

#[test]
fn lengths_out_of_bounds_are_refused_at_the_header() {
    for facts in KINDS {
        let id = u64::from(facts.sender == Side::Client || facts.kind != Kind::Welcome);
        for request_id in [0, id] {
            for body_bytes in [facts.body_bytes_max.saturating_add(1), i32::MAX.cast_unsigned() + 200, u32::MAX] {
                let header = header_of(body_bytes, facts.kind.code(), 0, 0, request_id);
                assert!(feed(facts.sender, &header, 16).is_err(), "{} of {body_bytes} bytes", facts.name);
            }
            if facts.body_bytes_min > 0 {
                let header = header_of(facts.body_bytes_min - 1, facts.kind.code(), 0, 0, request_id);
                assert!(feed(facts.sender, &header, 16).is_err(), "{} too short", facts.name);
            }
        }
    }
    let beyond = header_of(20 + PAYLOAD_BYTES_MAX + 1, Kind::Request.code(), 0, 0, 1);
    let limit_bytes = PAYLOAD_BYTES_MAX;
    let expected = WireError::PayloadTooLarge { actual_bytes: PAYLOAD_BYTES_MAX + 1, limit_bytes };
    assert_eq!(feed(Side::Client, &beyond, 16), Err(expected));
    let at_most = header_of(20 + PAYLOAD_BYTES_MAX, Kind::Request.code(), 0, 0, 1);
    assert_eq!(feed(Side::Client, &at_most, 16), Ok(()));
}

#[test]
fn no_payload_is_taken_before_a_limit_is_agreed() {
    let mut bytes = Vec::new();
    Request::new(1, 1, FunctionId(1), 0).encode(b"x", &mut bytes);
    let mut decoder = Decoder::new(Side::Client, 0);
    assert!(matches!(decoder.step(&bytes), Err(WireError::PayloadTooLarge { actual_bytes: 1, limit_bytes: 0 })));
}

#[test]
fn headers_that_do_not_go_together_are_refused() {
    let parse = |bytes: [u8; HEADER_BYTES]| Header::parse(&bytes).unwrap_err();
    assert!(matches!(parse(header_of(8, 0x05, 0, 1, 0)), WireError::HeaderReserved { value: 1 }));
    for code in (0..0x80).filter(|code| Kind::from_code(*code).is_none()) {
        assert_eq!(parse(header_of(0, code, 0, 0, 1)), WireError::UnknownKind { code });
    }
    assert!(matches!(parse(header_of(20, 0x20, 0x20, 0, 1)), WireError::UnknownFlags { flags: 0x20, .. }));
    assert!(matches!(parse(header_of(20, 0x20, 0, 0, 0)), WireError::RequestId { request_id: 0, .. }));
    assert!(matches!(parse(header_of(8, 0x05, 0, 0, 3)), WireError::RequestId { request_id: 3, .. }));
    // Flags make a head longer: the length must agree.
    assert!(matches!(parse(header_of(35, 0x20, 1, 0, 1)), WireError::BodyTooShort { needed_bytes: 36, .. }));
    assert!(Header::parse(&header_of(36, 0x20, 1, 0, 1)).is_ok());
}

#[test]
fn a_frame_of_the_wrong_side_is_refused_at_its_header() {
    for facts in KINDS {
        let zero_id = header_of(facts.body_bytes_min, facts.kind.code(), 0, 0, 0);
        let some_id = header_of(facts.body_bytes_min, facts.kind.code(), 0, 0, 1);
        let header = if Header::parse(&zero_id).is_ok() { zero_id } else { some_id };
        let refused = feed(facts.sender.other(), &header, 16);
        assert!(matches!(refused, Err(WireError::WrongSide { .. })), "{}: {refused:?}", facts.name);
    }
}

#[test]
fn unknown_kinds_that_may_be_skipped_are_skipped_and_nothing_else() {
    let ping = Header::parse(&header_of(8, 5, 0, 0, 0)).unwrap();
    let stream = [
        &header_of(3, 0x80, 0xff, 0, 77)[..],
        b"new",
        &header_of(0, 0xff, 0, 0, 0)[..],
        &header_of(8, 5, 0, 0, 0)[..],
        &[7; 8],
    ]
    .concat();
    let mut decoder = Decoder::new(Side::Client, 0);
    let step = decoder.step(&stream).unwrap();
    assert_eq!(step.consumed, stream.len());
    assert!(matches!(step.item, Some(Item::Control { header, .. }) if header == ping));
    assert!(feed(Side::Client, &header_of((64 << 10) + 1, 0x80, 0, 0, 0), 16).is_err());
}

#[test]
fn something_else_than_praas_is_told_apart_at_once() {
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert!(feed(Side::Client, http, http.len()).is_err());
    let hello = [&header_of(26, 1, 0, 0, 0)[..], &[0; 26]].concat();
    assert_eq!(feed(Side::Client, &hello, 100), Err(WireError::NotPraas));
}

#[test]
fn a_principal_is_a_name_and_zeros() {
    let mut head = [0; REQUEST_HEAD_BYTES_MAX];
    let request = Request { principal: Some("bob".parse().unwrap()), ..Request::new(1, 1, FunctionId(1), 0) };
    let frame = request.encode_head(0, &mut head).to_vec();
    assert_eq!(feed(Side::Client, &frame, 100), Ok(()));
    for (position, byte) in [(36, 0), (36, 2), (36, 4), (36, 63), (36, 64), (36, 255), (37, b'/'), (40, 1), (99, 1)] {
        let mut changed = frame.clone();
        changed[position] = byte;
        assert!(feed(Side::Client, &changed, 100).is_err(), "byte {position} = {byte}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn arbitrary_bytes_never_panic(
        sender in prop_oneof![Just(Side::Client), Just(Side::Server)],
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        piece_bytes in 1_usize..64,
    ) {
        let _ = feed(sender, &bytes, piece_bytes);
    }

    #[test]
    fn plausible_headers_with_arbitrary_bodies_never_panic(
        kind in prop::sample::select(KINDS),
        flags in any::<u8>(),
        request_id in 0_u64..3,
        body in prop::collection::vec(any::<u8>(), 0..200),
        piece_bytes in 1_usize..64,
    ) {
        let length = u32::try_from(body.len()).unwrap();
        let stream = [&header_of(length, kind.kind.code(), flags & kind.flags, 0, request_id)[..], &body].concat();
        let _ = feed(kind.sender, &stream, piece_bytes);
    }

    #[test]
    fn a_changed_byte_never_panics(
        (sender, frames) in prop_oneof![Just(Side::Client), Just(Side::Server)]
            .prop_flat_map(|side| (Just(side), frames_of(side))),
        position in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        piece_bytes in 1_usize..500,
    ) {
        let mut stream = frames.concat();
        let position = position.index(stream.len());
        stream[position] = byte;
        let _ = feed(sender, &stream, piece_bytes);
    }
}
