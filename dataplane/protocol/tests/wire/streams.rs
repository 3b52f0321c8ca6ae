//! The same stream gives the same frames however it is cut, and never more is held than allowed.

use praas_protocol::wire::{Decoder, Frame, HEADER_BYTES, Header, Item, Request, Side, WireError};
use proptest::prelude::*;

use crate::samples::{PAYLOAD_BYTES_MAX, bytes_of, frames_of};

/// A frame as text, and its payload.
type Seen = (String, Vec<u8>);

/// What a decoder makes of a stream that comes in these pieces. Every other payload is received past the decoder, and every
/// other call that is plain is taken as such.
fn decoded<'a>(sender: Side, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Seen>, WireError> {
    let mut decoder = Decoder::new(sender, PAYLOAD_BYTES_MAX);
    let mut seen: Vec<Seen> = Vec::new();
    for (turn, piece) in pieces.enumerate() {
        let mut rest = piece;
        if turn % 2 == 1 {
            let direct = rest.len().min(decoder.missing_payload_bytes() as usize);
            if direct > 0 {
                seen.last_mut().unwrap().1.extend_from_slice(&rest[..direct]);
                decoder.payload_received(u32::try_from(direct).unwrap());
                rest = &rest[direct..];
            }
        }
        loop {
            if seen.len().is_multiple_of(2)
                && let Some(call) = decoder.plain_call(rest)
            {
                let request = Request::new(call.header.request_id, call.handle, call.function, call.time_remaining_ns);
                assert_eq!(call.header.payload_bytes() as usize, call.payload.len());
                seen.push((format!("{request:?}"), call.payload.to_vec()));
                rest = call.rest;
                continue;
            }
            let step = decoder.step(rest)?;
            let consumed = step.consumed;
            match step.item {
                None => {
                    assert_eq!(consumed, rest.len(), "bytes were left although nothing was found");
                    break;
                }
                Some(Item::Control { frame, .. }) => seen.push((format!("{frame:?}"), Vec::new())),
                Some(Item::Request { request, payload, missing_bytes, header }) => {
                    assert_eq!(payload.len() + missing_bytes as usize, header.payload_bytes() as usize);
                    seen.push((format!("{request:?}"), payload.to_vec()));
                }
                Some(Item::Response { response, payload, missing_bytes, header }) => {
                    assert_eq!(payload.len() + missing_bytes as usize, header.payload_bytes() as usize);
                    seen.push((format!("{response:?}"), payload.to_vec()));
                }
                Some(Item::Payload { bytes, .. }) => {
                    assert!(!bytes.is_empty());
                    seen.last_mut().unwrap().1.extend_from_slice(bytes);
                }
            }
            assert!(decoder.held_bytes() <= Decoder::held_bytes_max(sender));
            rest = &rest[consumed..];
        }
        assert!(decoder.held_bytes() <= Decoder::held_bytes_max(sender));
    }
    assert!(decoder.is_between_frames(), "the stream ended within a frame");
    Ok(seen)
}

/// What the frames of the stream are when each is parsed by itself.
fn one_by_one(frames: &[Vec<u8>]) -> Vec<Seen> {
    let mut seen = Vec::new();
    for bytes in frames {
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let frame = Frame::parse(&Header::parse(header).unwrap(), body).unwrap();
        match frame {
            Frame::Skipped(_) => continue,
            Frame::Request(request, payload) => seen.push((format!("{request:?}"), payload.to_vec())),
            Frame::Response(response, payload) => seen.push((format!("{response:?}"), payload.to_vec())),
            other => seen.push((format!("{other:?}"), Vec::new())),
        }
        assert_eq!(&bytes_of(&frame), bytes, "written otherwise than read");
    }
    seen
}

fn streams() -> impl Strategy<Value = (Side, Vec<Vec<u8>>)> {
    prop_oneof![Just(Side::Client), Just(Side::Server)].prop_flat_map(|side| (Just(side), frames_of(side)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_partition_of_a_stream_gives_the_same_frames(
        (sender, frames) in streams(),
        sizes in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..2000], 1..40),
    ) {
        let expected = one_by_one(&frames);
        let stream = frames.concat();
        prop_assert_eq!(&decoded(sender, std::iter::once(stream.as_slice())).unwrap(), &expected);
        prop_assert_eq!(&decoded(sender, stream.chunks(1)).unwrap(), &expected);
        let mut rest = stream.as_slice();
        let mut sizes = sizes.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(&decoded(sender, pieces).unwrap(), &expected);
    }

    #[test]
    fn a_frame_cut_at_every_byte_is_whole_again((sender, frames) in streams()) {
        let frame = &frames[0];
        let expected = one_by_one(&frames[..1]);
        for cut in 0..=frame.len() {
            let (front, back) = frame.split_at(cut);
            prop_assert_eq!(&decoded(sender, [front, back].into_iter()).unwrap(), &expected, "cut at {}", cut);
        }
    }

    #[test]
    fn a_body_that_ends_too_soon_is_never_a_frame((_, frames) in streams()) {
        for bytes in &frames {
            let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
            let header = Header::parse(header).unwrap();
            // Payloads and output may have any length: only their fixed fields are needed.
            let needed = match Frame::parse(&header, body).unwrap() {
                Frame::Request(..) | Frame::Response(..) => header.head_bytes() - HEADER_BYTES,
                Frame::OutputChunk(_) => 8,
                Frame::Skipped(_) => 0,
                _ => body.len(),
            };
            for cut in 0..needed {
                prop_assert!(Frame::parse(&header, &body[..cut]).is_err(), "{:?} cut at {}", header, cut);
            }
        }
    }
}
