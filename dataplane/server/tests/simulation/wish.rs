//! What a client of a run wants, and the call by which it gets that.

use praas_protocol::message::{Address, MessageId, PUT_FUNCTION, PutHead};
use praas_protocol::{FunctionId, Idempotency, IdempotencyKey, Key};
use praas_shm::client_lane::{ClientLane, KeyedPayload, Payload, SubmitError, Ticket};

use crate::functions::MESSAGE_KEY;
use crate::model::Operation;

/// Calls that a call brings about, one within the other.
pub(crate) const CALLS_DEEP_MAX: usize = 3;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Append,
    AppendOnce,
    /// A call with a key that has succeeded, so many before the last: what it has done stays as it is.
    AppendOnceAgain {
        back: u8,
    },
    Take,
    Send {
        sequence: u64,
    },
    /// The last message once more, with the same number: it must not come twice.
    SendAgain,
    /// A call that makes calls.
    Relay {
        way: [Option<u8>; CALLS_DEEP_MAX],
    },
    /// A call that sends a message to another process.
    Post {
        to: u8,
    },
    /// A call that puts a large object.
    Grow {
        number: u8,
    },
    /// A call that reads one.
    Look {
        number: u8,
    },
    /// A call that asks for a wake-up.
    Remind {
        seconds: u8,
    },
    /// A call that takes one that has come.
    TakeWake,
    Create,
    Stop,
    Restart,
    Swap,
    Restore,
}

impl Wish {
    /// Whether it is a call of a function.
    pub(crate) fn is_call(self) -> bool {
        !matches!(self, Self::Create | Self::Stop | Self::Restart | Self::Swap | Self::Restore)
    }

    /// Puts the call that it is into a lane; quietly: nobody is summoned for it.
    pub(crate) fn submit(
        self,
        lane: &ClientLane,
        sender: &str,
        operation: Operation,
        is_quiet: bool,
    ) -> Result<Ticket, SubmitError> {
        let payload = operation.to_le_bytes();
        let submit = |function, payload: &[u8]| {
            let (function, payload) = (FunctionId::of(function), Payload::Bytes(payload));
            let submit = if is_quiet { ClientLane::submit_quietly } else { ClientLane::submit };
            submit(lane, function, payload, 0, 0)
        };
        let submit_with = |function, more: u8| {
            let [a, b, c, d] = payload;
            submit(function, &[a, b, c, d, more])
        };
        match self {
            Wish::AppendOnce => {
                let key: IdempotencyKey = format!("operation {operation}").parse().expect("it is short");
                let (idempotency, payload) = (Idempotency::from(key), KeyedPayload::Bytes(&payload));
                let submit = if is_quiet { ClientLane::submit_keyed_quietly } else { ClientLane::submit_keyed };
                submit(lane, FunctionId::of("append"), idempotency, payload, 0, 0)
            }
            Wish::Send { sequence } => {
                let source = Address::Process(sender.parse().expect("it is a name"));
                let key = Key::new(MESSAGE_KEY).expect("it is short");
                let head = PutHead { source, id: MessageId { incarnation: 1, sequence }, key };
                submit(PUT_FUNCTION, &head.encode(&payload))
            }
            Wish::Relay { way } => {
                let input: Vec<u8> = payload.into_iter().chain(way.into_iter().flatten()).collect();
                submit("relay", &input)
            }
            Wish::Post { to } => submit_with("post", to),
            Wish::Remind { seconds } => submit_with("remind", seconds),
            Wish::Grow { number } => submit_with("grow", number),
            Wish::Look { number } => submit_with("look", number),
            Wish::TakeWake => submit("take_wake", &payload),
            Wish::Take => submit("take", &payload),
            _ => submit("append", &payload),
        }
    }
}
