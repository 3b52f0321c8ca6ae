//! The network protocol's bytes: any stream is refused or read, in the same pieces however it is cut, within the memory that
//! the decoder promises; whatever frame it contains encodes into bytes that mean the same; and both sides' rules stand any
//! order of frames.
//!
//! Input: a byte of settings (bit 0 the server sends, bits 1 and 2 the largest payload), a byte of how the stream is cut,
//! then the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use praas_fuzz::Bytes;
use praas_protocol::wire::{
    ApplicationPage, ChangesPage, CountsPage, Decoder, Frame, HEADER_BYTES, Header, Item, ProcessPage, Session, Side, StoredPage,
    TransitionPage, WindowLimits, WireError,
};

const PAYLOADS: [u32; 4] = [64, 0, 1 << 20, 64 << 20];
/// Steps without progress in a row: the decoder may need one to say that all of the input was taken.
const IDLE_STEPS_MAX: usize = 2;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let settings = bytes.byte();
    let cut = bytes.byte();
    let stream = bytes.slice(usize::MAX);
    let sender = if settings & 1 == 0 { Side::Client } else { Side::Server };
    let payload_bytes_max = PAYLOADS[usize::from(settings >> 1 & 3)];
    let whole = read(sender, payload_bytes_max, stream, &mut |left| left);
    let mut state = u32::from(cut) | 1;
    let pieces = read(sender, payload_bytes_max, stream, &mut |left| {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        left.min(1 + (state >> 16) as usize % (1 + usize::from(cut)))
    });
    assert_eq!(whole, pieces, "the same stream reads differently when it is cut");
});

/// What a receiver has of a stream.
#[derive(Debug, Default, PartialEq)]
struct Received {
    frames: Vec<String>,
    payloads: Vec<u8>,
    error: Option<WireError>,
    between_frames: bool,
}

/// Reads `stream`, offered in pieces of which `size` chooses the sizes.
fn read(sender: Side, payload_bytes_max: u32, stream: &[u8], size: &mut dyn FnMut(usize) -> usize) -> Received {
    let mut decoder = Decoder::new(sender, payload_bytes_max);
    let limits = WindowLimits { calls: 4, bytes: 1 << 16 };
    let mut sessions = [Session::new(Side::Client), Session::dedicated(7, limits)];
    let mut received = Received::default();
    let (mut start, mut offered, mut idle) = (0, 0, 0);
    loop {
        if start == offered {
            if offered == stream.len() {
                break;
            }
            offered += size(stream.len() - offered);
        }
        let step = match decoder.step(&stream[start..offered]) {
            Ok(step) => step,
            Err(error) => {
                received.error = Some(error.clone());
                assert_eq!(decoder.step(stream).err(), Some(error), "an error was forgotten");
                assert_eq!(decoder.missing_payload_bytes(), 0, "the payload of a refused frame is asked for");
                break;
            }
        };
        assert!(step.consumed <= offered - start, "more was consumed than there was");
        idle = if step.consumed == 0 { idle + 1 } else { 0 };
        assert!(idle <= IDLE_STEPS_MAX, "no progress");
        start += step.consumed;
        if step.item.is_none() {
            assert_eq!(start, offered, "bytes are left over, and nothing was found in them");
        }
        step.item.iter().for_each(|item| note(item, &mut received, &mut sessions, sender));
        assert!(decoder.held_bytes() <= 2 * Decoder::held_bytes_max(sender), "the decoder holds too much");
    }
    received.between_frames = decoder.is_between_frames();
    received
}

fn note(item: &Item<'_>, received: &mut Received, sessions: &mut [Session; 2], sender: Side) {
    let header = match item {
        Item::Control { header, frame } => {
            check_frame(frame);
            received.frames.push(format!("{frame:?}"));
            header
        }
        Item::Request { header, request, payload, .. } => {
            check_frame(&Frame::Request(*request, payload));
            received.frames.push(format!("{request:?}"));
            received.payloads.extend_from_slice(payload);
            header
        }
        Item::Response { header, response, payload, .. } => {
            check_frame(&Frame::Response(*response, payload));
            received.frames.push(format!("{response:?}"));
            received.payloads.extend_from_slice(payload);
            header
        }
        Item::Payload { bytes, .. } => return received.payloads.extend_from_slice(bytes),
    };
    for session in sessions {
        let before = format!("{session:?}");
        if session.show(sender, header).is_err() {
            assert_eq!(format!("{session:?}"), before, "a refused frame changed the state");
        }
        if let Item::Control { frame: Frame::Goaway(goaway), .. } = item {
            let _ = session.show_goaway(goaway.last_request_id);
        }
        if let Item::Response { .. } = item {
            let _ = session.answered(header.payload_bytes());
        }
        assert!(session.window().calls() <= session.window().limits().calls);
    }
}

/// Encodes a frame and parses it again: it must mean the same.
fn check_frame(frame: &Frame<'_>) {
    let mut out = Vec::new();
    if !encode(frame, &mut out) {
        return;
    }
    let (head, body) = out.split_first_chunk::<HEADER_BYTES>().expect("a frame has a header");
    let header = Header::parse(head).expect("what was encoded has a good header");
    let again = Frame::parse(&header, body).expect("what was encoded parses");
    assert_eq!(format!("{frame:?}"), format!("{again:?}"));
}

/// False for a frame that nobody writes.
fn encode(frame: &Frame<'_>, out: &mut Vec<u8>) -> bool {
    match frame {
        Frame::Hello(frame) => frame.encode(out).expect("a token that was received fits"),
        Frame::Welcome(frame) => frame.encode(out).expect("a path that was received fits"),
        Frame::Refused(frame) => {
            if let Ok(refusal) = frame.refusal() {
                refusal.encode(frame.request_id, &mut Vec::new());
            }
            frame.encode(out);
        }
        Frame::Goaway(frame) => frame.encode(out),
        Frame::Ping(frame) => frame.encode(out),
        Frame::Pong(frame) => frame.encode(out),
        Frame::Open(frame) => frame.encode(out),
        Frame::Opened(frame) => frame.encode(out),
        Frame::Close(frame) => frame.encode(out),
        Frame::Dedicate(frame) => frame.encode(out),
        Frame::HandedOver(frame) => frame.encode(out),
        Frame::Request(frame, payload) => frame.encode(payload, out),
        Frame::Response(frame, payload) => frame.encode(payload, out),
        Frame::Cancel(frame) => frame.encode(out),
        Frame::Order(frame) => frame.encode(out),
        Frame::Done(frame) => frame.encode(out),
        Frame::List(frame) => frame.encode(out),
        Frame::Processes(frame) => {
            let mut page = ProcessPage::begin(frame.request_id, out);
            let all = frame.rows().all(|row| page.push(&row.to_status()));
            assert!(all, "a page that was received does not fit one");
            page.end(frame.more);
        }
        Frame::ListApplications(frame) => frame.encode(out),
        Frame::Applications(frame) => {
            let mut page = ApplicationPage::begin(frame.request_id, out);
            assert!(frame.names().all(|name| page.push(&name)), "a page that was received does not fit one");
            page.end(frame.more);
        }
        Frame::Output(frame) => frame.encode(out),
        Frame::OutputChunk(frame) => frame.encode(out),
        Frame::Stats(frame) => frame.encode(out),
        Frame::Counts(frame) => {
            let stats = frame.to_stats();
            let mut page = CountsPage::begin(frame.request_id, &stats, out);
            assert!(stats.functions.iter().all(|row| page.push(row)), "a page that was received does not fit one");
            page.end(frame.more);
        }
        Frame::OpenAs(frame) => frame.encode(out),
        Frame::Session(frame) => frame.encode(out),
        Frame::SessionOpened(frame) => frame.encode(out),
        Frame::Watch(frame) => frame.encode(out),
        Frame::Changes(frame) => {
            let mut page = ChangesPage::begin(frame.request_id, frame.upto, frame.is_whole, out);
            assert!(frame.entries().all(|entry| page.push(&entry)), "a page that was received does not fit one");
            page.end(frame.more);
        }
        Frame::WatchTransitions(frame) => frame.encode(out),
        Frame::Transitions(frame) => {
            let mut page = TransitionPage::begin(frame.request_id, frame.upto, frame.lost, out);
            assert!(frame.transitions().all(|row| page.push(&row)), "a page that was received does not fit one");
            page.end();
        }
        Frame::StorageUsage(frame) => frame.encode(out),
        Frame::Stored(frame) => {
            let mut page = StoredPage::begin(frame.request_id, frame.place, out);
            assert!(frame.folders().all(|row| page.push(&row)), "a page that was received does not fit one");
            page.end(frame.more);
        }
        Frame::Skipped(_) => return false,
    }
    true
}
