//! Whatever the order of answers, and whoever reads: each caller gets its own.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use praas_client::{CallError, Process};
use praas_protocol::Outcome;

use super::wire_server::{Reaction, Script, WireServer, lock, response};
use crate::futures::{Together, block_on};

/// xorshift64 by Marsaglia, "Xorshift RNGs" (2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

fn seed() -> u64 {
    let seed = std::env::var("TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos()) | 1
    });
    println!("TEST_SEED={seed}");
    seed
}

/// Keeps some requests back and answers them later, in any order, several in one write.
fn shuffling(seed: u64) -> Script {
    let state = Mutex::new((Random(seed), Vec::new()));
    Script {
        react: Arc::new(move |_, request, payload| {
            let mut state = lock(&state);
            let (random, kept) = &mut *state;
            kept.push(response(request.request_id, Outcome::Ok, 0, payload));
            // Callers wait for each other's answers at most this long: the last of a batch is always answered.
            if random.below(3) > 0 && kept.len() < 3 && payload.first() != Some(&1) {
                return Reaction::Silence;
            }
            let mut frames = Vec::new();
            while !kept.is_empty() {
                let index = random.below(kept.len());
                frames.extend(kept.swap_remove(index));
            }
            Reaction::Raw(frames)
        }),
        // The script answers without giving credit back, so there is plenty.
        in_flight_max: 60_000,
        handle_in_flight_max: 60_000,
        window_bytes: 4 << 30,
        ..Script::default()
    }
}

/// A payload that says whose it is. The first byte 1 asks for everything that is kept back.
fn payload(random: &mut Random, caller: u32, round: u32) -> Vec<u8> {
    let sizes = [0, 10, 60, 100, 900, 2000, 20_000, 60_000];
    let size = sizes[random.below(sizes.len())];
    let mut bytes = vec![u8::from(random.below(2) == 0)];
    bytes.extend(caller.to_le_bytes());
    bytes.extend(round.to_le_bytes());
    bytes.extend((0..size).map(|index| u8::try_from((index + round as usize) % 256).unwrap()));
    bytes
}

fn call_blocking(process: &Process, caller: u32, rounds: u32, seed: u64) {
    let mut random = Random(seed ^ (u64::from(caller) << 32) | 1);
    for round in 0..rounds {
        let sent = payload(&mut random, caller, round);
        match random.below(4) {
            0 => {
                // Given up early at times: the answer that comes later belongs to nobody.
                let deadline = Duration::from_micros(u64::try_from(random.below(2000)).unwrap());
                match process.call("any").payload(&sent).deadline(deadline).send() {
                    Ok(reply) => assert!(reply.as_slice() == sent),
                    Err(error) => assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{error}"),
                }
            }
            1 => {
                let started: Vec<_> = (0..3)
                    .map(|_| payload(&mut random, caller, round))
                    .map(|sent| (process.start("any", sent.clone()).unwrap(), sent))
                    .collect();
                flush(process);
                for (call, sent) in started.into_iter().rev() {
                    if random.below(8) == 0 {
                        call.cancel();
                    } else {
                        assert!(call.wait().unwrap().as_slice() == sent);
                    }
                }
            }
            _ => {
                let call = process.start("any", &sent).unwrap();
                flush(process);
                assert!(call.wait().unwrap().as_slice() == sent);
            }
        }
    }
}

/// Has the server answer what it keeps back.
fn flush(process: &Process) {
    process.start("any", &[1]).unwrap().cancel();
}

#[test]
fn threads_and_futures_get_their_own_answers_in_any_order() {
    let seed = seed();
    let server = WireServer::start(shuffling(seed));
    let process = server.process();
    thread::scope(|scope| {
        for caller in 0..5 {
            let process = &process;
            scope.spawn(move || call_blocking(process, caller, 60, seed));
        }
        for caller in 100..102 {
            let process = &process;
            scope.spawn(move || {
                let mut random = Random(seed ^ u64::from(caller) | 1);
                for round in 0..10 {
                    let payloads: Vec<_> = (0..20).map(|_| payload(&mut random, caller, round)).collect();
                    let calls = payloads.iter().map(|sent| process.call("any").payload(sent).into_future());
                    flush(process);
                    let stop = std::sync::atomic::AtomicBool::new(false);
                    thread::scope(|inner| {
                        inner.spawn(|| {
                            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                                flush(process);
                                thread::sleep(Duration::from_millis(1));
                            }
                        });
                        let replies = block_on(Together::new(calls));
                        stop.store(true, std::sync::atomic::Ordering::SeqCst);
                        for (reply, sent) in replies.iter().zip(&payloads) {
                            assert!(reply.as_ref().unwrap().as_slice() == sent);
                        }
                    });
                }
            });
        }
    });
}

#[test]
fn many_threads_share_one_connection_fairly() {
    let server = WireServer::start(Script { in_flight_max: 4, ..Script::default() });
    let process = server.process();
    thread::scope(|scope| {
        for caller in 0..16_u32 {
            let process = &process;
            scope.spawn(move || {
                for round in 0..100_u32 {
                    let sent = [caller.to_le_bytes(), round.to_le_bytes()].concat();
                    assert_eq!(process.invoke("echo", &sent).unwrap().as_slice(), sent);
                }
            });
        }
    });
    assert_eq!(server.shared().connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}
