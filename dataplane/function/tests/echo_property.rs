//! Property: whatever bytes go in come back, whoever calls, in whatever order of sizes, with calls in flight together.

use praas_function::testing::{Harness, HarnessOptions};
use praas_function::{Application, Call};

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const ROUNDS: u32 = 60;
const CALLS_TOGETHER: usize = 8;
/// Sets the seed, to repeat a failure.
const SEED_VARIABLE: &str = "PRAAS_SEED";

/// SplitMix64, by Steele, Lea and Flood: small, and good enough to choose sizes and bytes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Mostly small sizes, some of each order of magnitude.
    fn payload(&mut self) -> Vec<u8> {
        let magnitude = self.next() % 18;
        let bytes = self.next() % (1 << magnitude);
        (0..bytes).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().expect("the seed is a decimal number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
    }
}

#[test]
fn echoes_come_back_unchanged() {
    let seed = seed();
    println!("seed {seed}: repeat with {SEED_VARIABLE}={seed}");
    let mut random = Random(seed);
    let options = HarnessOptions { workers: 2, payload_bytes_max: PAYLOAD_BYTES_MAX, ..HarnessOptions::default() };
    let harness = Harness::with_options(options, || {
        Application::new()
            .function("echo", |call: &mut Call| call.reply(call.input()))
            .function("echo-owned", |call: &mut Call| call.input().to_vec())
    })
    .unwrap();
    for round in 0..ROUNDS {
        let caller = if random.next().is_multiple_of(2) { harness.trusted() } else { harness.untrusted() };
        let function = if random.next().is_multiple_of(2) { "echo" } else { "echo-owned" };
        let payloads: Vec<Vec<u8>> = (0..CALLS_TOGETHER).map(|_| random.payload()).collect();
        let calls: Vec<_> =
            payloads.iter().map(|payload| caller.begin(function, payload, None).expect("a call")).collect();
        for (payload, call) in payloads.iter().zip(calls) {
            let answer = call.wait().unwrap();
            assert!(answer == *payload, "seed {seed}, round {round}: {} bytes came back changed", payload.len());
        }
    }
}
