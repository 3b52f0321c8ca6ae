//! Payload echoes over every medium: each takes its samples at every size, and a round whose other side never finishes ends at its
//! deadline wherever the caller waits.

use std::time::Duration;

use praas_benches::floors::{
    Batch, Config, FloorError, Medium, PayloadEcho, Placement, QUEUE_MESSAGE_BYTES, QUEUE_MESSAGES, Waiting,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_praas-benches");
const SLEEPING: [Medium; 4] =
    [Medium::MessageQueue, Medium::UnixSocket, Medium::Tcp(Waiting::Park), Medium::SharedMemory(Waiting::Park)];
const SPINNING: [Medium; 2] = [Medium::Tcp(Waiting::Spin), Medium::SharedMemory(Waiting::Spin)];
/// Inline, a message, more than one, more than a queue holds, and none of them whole words or messages.
const PAYLOADS_BYTES: [usize; 5] =
    [1, 10, QUEUE_MESSAGE_BYTES, QUEUE_MESSAGE_BYTES + 1, (QUEUE_MESSAGES as usize + 3) * QUEUE_MESSAGE_BYTES + 10];
const BATCH: Batch = Batch { warm_up: 2, samples: 10 };
/// More operations than any test lives to see.
const ENDLESS: Batch = Batch { warm_up: 1 << 40, samples: 1 };

fn config(placement: Placement) -> Config {
    Config::new(placement).peer_program(PROGRAM)
}

fn echoes(medium: Medium, config: &Config) {
    for payload_bytes in PAYLOADS_BYTES {
        let mut echo = PayloadEcho::open(medium, payload_bytes, config).expect("it starts");
        for _ in 0..2 {
            let samples = echo.round(BATCH).unwrap_or_else(|error| panic!("{medium:?}, {payload_bytes}: {error}"));
            assert_eq!(samples.count(), BATCH.samples);
        }
    }
}

#[test]
fn every_medium_echoes_payloads_of_every_size() {
    let one = Placement::one_core().expect("there is a core");
    for medium in SLEEPING {
        echoes(medium, &config(Placement::Free));
        echoes(medium, &config(one));
    }
    match Placement::two_cores() {
        Ok(two) => SPINNING.into_iter().for_each(|medium| echoes(medium, &config(two))),
        Err(error) => println!("skipped what spins on both sides: {error}"),
    }
    for medium in SPINNING {
        let error = PayloadEcho::open(medium, 10, &config(one)).map(drop).expect_err("it would measure time slices");
        assert!(matches!(error, FloorError::SpinsOnOneCore { .. }), "{medium:?}: {error}");
    }
}

#[test]
fn a_round_that_never_ends_is_ended_wherever_it_waits() {
    let short = config(Placement::Free).round_deadline(Duration::from_millis(100));
    for medium in SLEEPING {
        for payload_bytes in [10, PAYLOADS_BYTES[4]] {
            let mut echo = PayloadEcho::open(medium, payload_bytes, &short).expect("it starts");
            let error = echo.round(ENDLESS).expect_err("it never ends by itself");
            assert!(matches!(error, FloorError::DeadlineExceeded { .. }), "{medium:?}: {error}");
            let error = echo.round(BATCH).expect_err("its other side is dead");
            assert!(matches!(error, FloorError::Spent { .. }), "{medium:?}: {error}");
        }
    }
}
