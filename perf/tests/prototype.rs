//! The prototype's local path carries payloads of every size whole, and a round whose other processes never finish ends at its
//! deadline.

use std::time::Duration;

use praas_benches::floors::{Batch, Config, FloorError, Placement};
use praas_perf::baselines::prototype::{Prototype, QUEUE_MESSAGE_BYTES, QUEUE_MESSAGES};

const PROGRAM: &str = env!("CARGO_BIN_EXE_praas-perf");
const BATCH: Batch = Batch { warm_up: 2, samples: 10 };
/// More operations than any test lives to see.
const ENDLESS: Batch = Batch { warm_up: 1 << 40, samples: 1 };

#[test]
fn payloads_of_every_size_come_back_through_three_processes() {
    let more_than_a_queue_holds = 2 * QUEUE_MESSAGES as usize * QUEUE_MESSAGE_BYTES + 3;
    let placements = [Placement::one_core(), Placement::two_cores(), Ok(Placement::Free)];
    for placement in placements {
        let placement = match placement {
            Ok(placement) => placement,
            Err(error) => {
                println!("skipped a placement: {error}");
                continue;
            }
        };
        let mut prototype = Prototype::open(&Config::new(placement).peer_program(PROGRAM)).expect("it starts");
        // Larger and smaller again, by the same processes.
        for payload_bytes in [10, QUEUE_MESSAGE_BYTES, more_than_a_queue_holds, 1] {
            let samples = prototype.round(BATCH, payload_bytes);
            let samples = samples.unwrap_or_else(|error| panic!("{placement}, {payload_bytes} bytes: {error}"));
            assert_eq!(samples.count(), BATCH.samples, "{placement}, {payload_bytes} bytes");
        }
    }
}

#[test]
fn a_round_that_never_ends_is_ended_and_the_prototype_is_spent() {
    let config = Config::new(Placement::Free).peer_program(PROGRAM).round_deadline(Duration::from_millis(100));
    for payload_bytes in [10, 1 << 20] {
        let mut prototype = Prototype::open(&config).expect("it starts");
        let error = prototype.round(ENDLESS, payload_bytes).expect_err("it never ends by itself");
        assert!(matches!(error, FloorError::DeadlineExceeded { .. }), "{payload_bytes} bytes: {error}");
        let error = prototype.round(BATCH, payload_bytes).expect_err("its other processes are dead");
        assert!(matches!(error, FloorError::Spent { .. }), "{payload_bytes} bytes: {error}");
    }
}
