//! How long calls take at a given rate: one caller that calls at fixed instants, whatever became of the calls before.

use std::time::Duration;

use praas_benches::floors::{Pinned, Placement, Samples};
use praas_benches::interleave::SeriesError;
use praas_benches::progress::Progress;
use praas_benches::subject::{Lane, LanePlan, RunningServer, SubjectError, Trust, call_noop};
use praas_client::{Process, WaitMode};

use super::ID;
use super::closed::Network;
use crate::baselines::redis::RedisClient;
use crate::harness::open_loop::{self, Found, Schedule};
use crate::harness::{Key, Run};
use crate::report::readable;

const LANE: &str = "praas lane, one caller at a rate";
const DEDICATED: &str = "praas dedicated, one caller at a rate";
const BROKERED: &str = "praas brokered, one caller at a rate";
const REDIS: &str = "Redis GET (TCP), one caller at a rate";
/// All of them.
pub(super) const SERIES: [&str; 4] = [LANE, DEDICATED, BROKERED, REDIS];

/// Calls a second; the last ones only a lane can keep up with.
const RATES: [f64; 8] = [1e3, 5e3, 10e3, 20e3, 30e3, 40e3, 200e3, 800e3];
const RATES_QUICK: [f64; 5] = [1e3, 10e3, 30e3, 200e3, 800e3];
/// Rates above are the lane's alone: no caller over TCP that waits for each answer makes so many calls.
const NETWORK_RATE_MAX: f64 = 50e3;
const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 1;
const SPAN: Duration = Duration::from_millis(800);
const SPAN_QUICK: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(100);
/// How long a run goes on for calls that are late.
const OVERRUN: Duration = Duration::from_millis(200);
/// The value that Redis is asked for.
const VALUE_KEY: &str = "rate";
const VALUE: [u8; 64] = [7; 64];

/// A call of the given number, which returns when it is answered and checked.
type Caller<'a> = Box<dyn FnMut(u64) -> Result<(), SeriesError> + Send + 'a>;

pub(super) fn measure(run: &mut Run, network: &Network) {
    let lane = LaneSubject::open().map_err(|error| error.to_string());
    let quick = run.settings().quick;
    let rates: &[f64] = if quick { &RATES_QUICK } else { &RATES };
    let (rounds, span) = if quick { (ROUNDS_QUICK, SPAN_QUICK) } else { (ROUNDS, SPAN) };
    let progress = Progress::new(format!("{ID}, rates"), rates.len() as u64);
    for rate in rates {
        run.next_group();
        let schedule = Schedule { per_second: *rate, warm_up: WARM_UP, span, overrun: OVERRUN };
        let mut subjects: Vec<Subject<'_>> = subjects(network, lane.as_ref().map_err(Clone::clone));
        if *rate > NETWORK_RATE_MAX {
            subjects.retain(|subject| subject.key.series == LANE);
        }
        for _ in 0..rounds {
            subjects.iter_mut().for_each(|subject| subject.round(&schedule, network));
        }
        subjects.into_iter().for_each(|subject| subject.add_to(run, *rate));
        progress.advance();
    }
}

/// Something that is called at a rate.
struct Subject<'a> {
    key: Key,
    caller: Result<Caller<'a>, String>,
    found: Vec<Found>,
}

impl Subject<'_> {
    fn round(&mut self, schedule: &Schedule, network: &Network) {
        let Ok(caller) = &mut self.caller else { return };
        let cpu = network.placement.as_ref().ok().and_then(|placement: &Placement| placement.caller_cpu());
        // The load's thread inherits the core.
        let found = Pinned::to(cpu)
            .map_err(SeriesError::from)
            .and_then(|_pinned| open_loop::run(schedule, vec![|number| caller(number)]));
        match found {
            Ok(found) => self.found.push(found),
            Err(error) => self.caller = Err(error.to_string()),
        }
    }

    fn add_to(self, run: &mut Run, rate: f64) {
        let key = self.key.x("calls a second asked for", rate);
        match self.caller {
            Ok(_) => {
                let latencies: Vec<Samples> = self.found.iter().map(|found| found.latencies.clone()).collect();
                run.add_samples(&key.note(note(&self.found)), &latencies);
            }
            Err(reason) => run.absent(&key, reason),
        }
    }
}

/// What the load's generator says of itself.
fn note(found: &[Found]) -> String {
    let rounds = found.len().max(1) as f64;
    let achieved = found.iter().map(|found| found.achieved_per_second).sum::<f64>() / rounds;
    let unfinished: u64 = found.iter().map(|found| found.unfinished).sum();
    let mut words = format!("calls were done at {}", readable::figure(achieved, "1/s"));
    if unfinished > 0 {
        words += &format!("; {unfinished} calls were not begun when the run ended");
    }
    let mut lateness = Samples::empty(1);
    found.iter().for_each(|found| lateness.merge(&found.lateness));
    if lateness.count() > 0 {
        words += &format!("; the caller itself was late by {} (p99)", readable::span_ns(lateness.p99_ns()));
    }
    words + "."
}

fn subjects<'a>(network: &'a Network, lane: Result<&'a LaneSubject, String>) -> Vec<Subject<'a>> {
    let place = network.placement_label();
    let ours = |series: &str| Key::ours(ID, series).placement(&place).wait("adaptive (default)").payload_bytes(64);
    let version = network.redis_version();
    let redis =
        Key::baseline(ID, REDIS, "redis", &version).placement(&place).wait("both sides sleep").payload_bytes(64);
    let opened = network.redis.as_ref().map_err(Clone::clone).and_then(|server| {
        let connect = || -> Result<RedisClient, SeriesError> {
            let mut client = RedisClient::connect(&server.tcp())?;
            client.set(VALUE_KEY, &VALUE)?;
            Ok(client)
        };
        connect().map_err(|error| error.to_string())
    });
    let remote = |remote: &'a Result<std::rc::Rc<praas_benches::subject::Remote>, String>| {
        remote.as_ref().map(|remote| calls_of(remote.process())).map_err(Clone::clone)
    };
    let subject = |key, caller| Subject { key, caller, found: Vec::new() };
    vec![
        subject(ours(LANE), lane.map(|lane| calls_of(lane.lane.process()))),
        subject(ours(DEDICATED), remote(&network.dedicated)),
        subject(ours(BROKERED), remote(&network.brokered)),
        subject(redis, opened.map(gets_of)),
    ]
}

fn calls_of(process: &Process) -> Caller<'_> {
    Box::new(move |number| Ok(call_noop(process, number)?))
}

fn gets_of<'a>(mut client: RedisClient) -> Caller<'a> {
    let mut room = [0; VALUE.len()];
    Box::new(move |_| match client.get_into(VALUE_KEY, &mut room)? {
        Some(_) if room == VALUE => Ok(()),
        other => Err(format!("Redis answered {other:?} bytes of another value").into()),
    })
}

/// A lane with default settings, and its server.
struct LaneSubject {
    // Before the server, which it is connected to.
    lane: Lane,
    _server: RunningServer,
}

impl LaneSubject {
    fn open() -> Result<Self, SubjectError> {
        let server = RunningServer::start()?;
        let placement = Placement::two_cores()?;
        let plan = LanePlan { wait: WaitMode::Adaptive, trust: Trust::Trusted, placement };
        Ok(Self { lane: Lane::open(&server, plan)?, _server: server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_was_not_done() {
        let mut latencies = Samples::empty(1);
        latencies.record(1_000);
        let found = Found { lateness: latencies.clone(), latencies, unfinished: 3, achieved_per_second: 12_300.0 };
        let words = note(&[found]);
        assert!(words.contains("12.3 k") && words.contains("3 calls were not begun"), "{words}");
        assert!(words.contains("1.00 µs (p99)"), "{words}");
    }
}
