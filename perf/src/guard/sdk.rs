//! What a function does by its context: state of its process, and messages of the process to itself.

use std::hint::black_box;
use std::time::Duration;

use praas_function::{Context, FunctionError, SELF};

use super::rig::{OPERATIONS, PAYLOAD_BYTES, Rig, Step};

const KEY: &str = "guarded";
/// The message is there already.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const STEPS: [Step; 3] = [
    Step { name: "state: put 64 B", function: "guarded_put" },
    Step { name: "state: get 64 B", function: "guarded_get" },
    Step { name: "message to itself: send, receive, accept 64 B", function: "guarded_note" },
];

/// The context of the function that all of this runs in.
pub(super) struct SdkRig<'call> {
    context: Context<'call>,
}

impl<'call> SdkRig<'call> {
    pub(super) fn new(context: Context<'call>) -> Result<Self, FunctionError> {
        context.put_bytes(KEY, &[1; PAYLOAD_BYTES])?;
        Ok(Self { context })
    }
}

impl Rig for SdkRig<'_> {
    fn step_count(&self) -> usize {
        STEPS.len()
    }

    fn run(&mut self, step: usize) {
        [guarded_put, guarded_get, guarded_note][step](&self.context);
    }
}

fn payload(number: usize) -> [u8; PAYLOAD_BYTES] {
    [u8::try_from(number).unwrap_or_default(); PAYLOAD_BYTES]
}

#[inline(never)]
fn guarded_put(context: &Context<'_>) {
    for number in 0..OPERATIONS {
        context.put_bytes(black_box(KEY), black_box(&payload(number))).expect("there is room");
    }
}

#[inline(never)]
fn guarded_get(context: &Context<'_>) {
    for _ in 0..OPERATIONS {
        let seen = context.state_bytes(black_box(KEY)).expect("in order").expect("it was put");
        assert!(black_box(seen[0]) == seen[PAYLOAD_BYTES - 1] && seen.len() == PAYLOAD_BYTES);
    }
}

#[inline(never)]
fn guarded_note(context: &Context<'_>) {
    for number in 0..OPERATIONS {
        let sent = payload(number);
        context.send(SELF, black_box(KEY), black_box(&sent)).expect("there is room");
        let message = context.recv(SELF, black_box(KEY), PATIENCE).expect("it was sent");
        assert_eq!(message.bytes().first(), sent.first());
        message.accept().expect("it is held");
    }
}
