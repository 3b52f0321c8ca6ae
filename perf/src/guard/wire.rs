//! The frames of a call on the network: made and read, without a network.

use std::hint::black_box;

use praas_protocol::FunctionId;
use praas_protocol::wire::{Decoder, Item, Request, Response, Side};

use super::rig::{OPERATIONS, PAYLOAD_BYTES, Rig, Step};

const FUNCTION: FunctionId = FunctionId::of("noop");
const PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const TIME_REMAINING_NS: u64 = 30_000_000_000;

pub(super) const STEPS: [Step; 4] = [
    Step { name: "wire: make a request of 64 B", function: "guarded_request_made" },
    Step { name: "wire: read a request of 64 B", function: "guarded_request_read" },
    Step { name: "wire: make a response of 64 B", function: "guarded_response_made" },
    Step { name: "wire: read a response of 64 B", function: "guarded_response_read" },
];

/// Frames that were made, and who reads them.
pub(super) struct WireRig {
    asked: u64,
    requests: Vec<u8>,
    responses: Vec<u8>,
    server: Decoder,
    client: Decoder,
}

impl WireRig {
    pub(super) fn new() -> Self {
        let server = Decoder::new(Side::Client, PAYLOAD_BYTES_MAX);
        let client = Decoder::new(Side::Server, PAYLOAD_BYTES_MAX);
        Self { asked: 0, requests: Vec::new(), responses: Vec::new(), server, client }
    }
}

impl Rig for WireRig {
    fn step_count(&self) -> usize {
        STEPS.len()
    }

    fn run(&mut self, step: usize) {
        [guarded_request_made, guarded_request_read, guarded_response_made, guarded_response_read][step](self);
    }
}

#[inline(never)]
fn guarded_request_made(rig: &mut WireRig) {
    rig.requests.clear();
    for _ in 0..OPERATIONS {
        rig.asked += 1;
        let request = Request::new(rig.asked, 1, FUNCTION, TIME_REMAINING_NS);
        black_box(request).encode(black_box(&PAYLOAD), &mut rig.requests);
    }
}

#[inline(never)]
fn guarded_request_read(rig: &mut WireRig) {
    let mut rest = rig.requests.as_slice();
    for _ in 0..OPERATIONS {
        let call = rig.server.plain_call(black_box(rest)).expect("a whole plain call");
        assert!(call.function == FUNCTION && call.payload.len() == PAYLOAD_BYTES);
        black_box(&call);
        rest = call.rest;
    }
    assert!(rest.is_empty());
}

#[inline(never)]
fn guarded_response_made(rig: &mut WireRig) {
    rig.responses.clear();
    for number in 1..=OPERATIONS as u64 {
        let response = Response { request_id: number, outcome_code: 0, detail: 0, more: 0 };
        black_box(response).encode(black_box(&PAYLOAD), &mut rig.responses);
    }
}

#[inline(never)]
fn guarded_response_read(rig: &mut WireRig) {
    let mut rest = rig.responses.as_slice();
    for _ in 0..OPERATIONS {
        let step = rig.client.step(black_box(rest)).expect("a frame");
        let Some(Item::Response { payload, missing_bytes: 0, .. }) = step.item else { panic!("a whole response") };
        assert_eq!(black_box(payload).len(), PAYLOAD_BYTES);
        rest = &rest[step.consumed..];
    }
    assert!(rest.is_empty());
}
