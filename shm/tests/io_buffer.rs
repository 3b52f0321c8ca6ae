//! Blocks and answers as buffers of the kernel: filled from outside, submitted, answered, sent, and given back.
#![cfg(not(loom))]

mod support;

use std::sync::Arc;

use praas_protocol::control::WaitMode;
use praas_protocol::{FunctionId, Outcome};
use praas_shm::WorkerTag;
use praas_shm::client_lane::{AnswerPayload, ClientLane, Payload, WaitEnd};
use praas_shm::io_buffer::{IoBuffer, LaneBuffer, LoanBuffer, ReplyBuffer};
use praas_shm::{Scratch, running_call::RunningCall};

use support::{Host, Options, PATIENCE, Serving, pattern};

const LARGE: usize = 300_000;

fn serve_echo(host: &Arc<Host>) -> Serving {
    let mut scratch = Scratch::new();
    Serving::start(host, WorkerTag::new(0, 1), move |call: RunningCall<'_>| {
        let output = call.input(&mut scratch).to_vec();
        call.reply(Outcome::Ok, 0, 0, &output).unwrap();
    })
}

fn loan(lane: &Arc<ClientLane>, bytes: usize) -> LoanBuffer {
    LoanBuffer::new(Arc::clone(lane), lane.loan(bytes).unwrap())
}

fn answer_to(lane: &Arc<ClientLane>, buffer: LoanBuffer) -> AnswerPayload {
    let (lane_of_loan, loan) = buffer.into_loan();
    assert!(Arc::ptr_eq(lane, &lane_of_loan));
    let ticket = lane.submit(FunctionId::of("echo"), Payload::Loan(loan), 0, 0).unwrap();
    assert_eq!(lane.wait(&ticket, WaitMode::Adaptive, PATIENCE), WaitEnd::Answered);
    lane.take(ticket).payload.unwrap()
}

fn bytes_of(buffer: &impl IoBuffer) -> &[u8] {
    // SAFETY: a buffer's bytes are readable and initialised, and the echo leaves its answer alone.
    unsafe { std::slice::from_raw_parts(buffer.start().as_ptr(), buffer.bytes()) }
}

#[test]
fn a_payload_goes_from_a_loan_to_the_worker_and_its_answer_is_sent_from_where_it_lies() {
    for trusted in [true, false] {
        let host = Arc::new(Host::new(Options { trusted, ..Options::default() }));
        let _worker = serve_echo(&host);
        let lane = host.client();
        for seed in 0..50 {
            let sent = pattern(LARGE, seed);
            let mut buffer = loan(&lane, LARGE);
            let half = LARGE / 2;
            assert!(buffer.store(half, &sent[half..]) && buffer.store(0, &sent[..half]));
            let start = buffer.start();
            let moved = LaneBuffer::Loan(buffer);
            assert_eq!(moved.start(), start, "the bytes stay where they are when the buffer moves");
            let LaneBuffer::Loan(buffer) = moved else { unreachable!("just made") };
            let mut reply = ReplyBuffer::new(answer_to(&lane, buffer)).expect("too long to be inline");
            assert_eq!(reply.start_mut(), None, "an answer is not written to");
            assert!(!reply.store(0, b"x"));
            let moved = Box::new(LaneBuffer::Reply(reply));
            assert_eq!(bytes_of(&*moved), sent);
        }
        assert_eq!(lane.in_flight(), 0, "each answer's cell is free again");
    }
}

#[test]
fn an_inline_answer_is_no_buffer_and_comes_back() {
    let host = Arc::new(Host::new(Options::default()));
    let _worker = serve_echo(&host);
    let lane = host.client();
    let mut buffer = loan(&lane, 5);
    assert!(buffer.store(0, b"short"));
    let payload = ReplyBuffer::new(answer_to(&lane, buffer)).expect_err("it lies in its value");
    assert_eq!(payload.as_slice(), Some(b"short".as_slice()));
}

#[test]
fn a_dropped_loan_is_free_again() {
    let host = Host::new(Options::default());
    let lane = host.client();
    for _ in 0..200 {
        let buffer = LaneBuffer::Loan(loan(&lane, 1 << 20));
        drop(buffer);
    }
}

#[test]
fn nothing_is_stored_beyond_the_end_of_a_buffer() {
    let host = Host::new(Options::default());
    let lane = host.client();
    let mut buffers = [LaneBuffer::Private(vec![7; 10]), LaneBuffer::Loan(loan(&lane, 10))];
    for buffer in &mut buffers {
        assert!(buffer.store(0, &[7; 10]));
        for (at, bytes) in [(0, 11), (1, 10), (10, 1), (11, 0), (usize::MAX, 1)] {
            assert!(!buffer.store(at, &vec![9; bytes]), "{bytes} bytes at {at}");
        }
        assert!(buffer.store(10, &[]) && buffer.store(9, &[8]));
        assert_eq!(bytes_of(buffer), [7, 7, 7, 7, 7, 7, 7, 7, 7, 8]);
    }
}
