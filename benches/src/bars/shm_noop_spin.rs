//! `shm-noop-spin`: a no-op of 64 bytes, client and worker each spinning on a core of its own, in one trust domain, beside
//! the barest exchange that two spinning processes can make and beside a POSIX message queue.

use super::{Bar, BarError, Settings};
use crate::floors::{Config, MessageQueue, PingPong, Waiting};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{Lane, LanePlan, RunningServer, call_noop};

pub(super) const BAR: Bar =
    Bar { id: "shm-noop-spin", summary: "a no-op call, both sides spin, against a bare ping-pong", run };

const SAMPLES: u64 = 50_000;
/// The message queue takes thirty times as long.
const SAMPLES_QUEUE: u64 = 5_000;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let lane = Lane::open(&server, LanePlan::spinning()?)?;
    let config = Config::new(lane.placement());
    let mut floor = PingPong::open(Waiting::Spin, &config)?;
    let mut queue = MessageQueue::open(&config)?;
    let mut number = 0;
    let mut figure = Measured::new("no-op", |batch| {
        lane.measure(batch, |process| {
            number += 1;
            call_noop(process, number)
        })
    });
    let mut turns = [
        Turn::new(&mut floor, settings.batch(SAMPLES)),
        Turn::new(&mut figure, settings.batch(SAMPLES)),
        Turn::new(&mut queue, settings.batch(SAMPLES_QUEUE)),
    ];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [floor, figure, queue] = outcomes.as_slice() else { unreachable!("there are three turns") };

    let placement = lane.placement().to_string();
    let case = |case| Case { id: BAR.id, case, placement: &placement, unit: "ns" };
    let (p50s, p99s) = (figure.of_rounds(|round| round.p50_ns), figure.of_rounds(|round| round.p99_ns));
    let floors = floor.of_rounds(|round| round.p50_ns);
    let queues = queue.of_rounds(|round| round.p50_ns);
    Ok(vec![
        case("no-op 64 B, p50; floor: spin ping-pong, p50").judge_rounds(
            &p50s,
            &floors,
            Condition::AtMostTimesFloor(1.75),
        ),
        case("no-op 64 B, p99; floor: spin ping-pong, p50").judge_rounds(
            &p99s,
            &floors,
            Condition::AtMostTimesFloor(3.0),
        ),
        case("no-op 64 B, p50; floor: POSIX message queue, p50").judge_rounds(
            &p50s,
            &queues,
            Condition::TimesFasterThanFloor(20.0),
        ),
    ])
}
