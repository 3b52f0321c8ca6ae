//! `msg-remote-bulk`: messages of 1 MiB in one direction between functions of two processes on two servers, which are linked
//! over TCP on loopback: built in place, several on their way at a time, received and accepted where they lie. Beside a raw
//! stream of as many blocks. Everything blocks.

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::{Config, Placement, TcpBlocks};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{LinkedPlan, MessagePair};

pub(super) const BAR: Bar =
    Bar { id: "msg-remote-bulk", summary: "1 MiB messages between two servers, against a raw TCP stream", run };

const SAMPLES: u64 = 300;
const MESSAGE_BYTES: usize = 1 << 20;
const SHARE: f64 = 0.9;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let placement = Placement::two_cores()?;
    let mut stream = TcpBlocks::open(MESSAGE_BYTES, &Config::new(placement))?;
    let pair = MessagePair::open_linked(LinkedPlan { shards: WaitMode::Park, workers: WaitMode::Park, placement })?;
    let mut figure = Measured::new("1 MiB messages", |batch| Ok(pair.stream(batch, MESSAGE_BYTES)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut stream, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    // One message is one MiB.
    let [stream, figure] = [0, 1].map(|index: usize| outcomes[index].of_rounds(|round| round.per_second));
    let case = "1 MiB messages between two servers, all blocking; floor: raw TCP stream of as many bytes";
    let case = Case { id: BAR.id, case, placement: &placement.to_string(), unit: "MiB/s" };
    Ok(vec![case.judge_rounds(&figure, &stream, Condition::AtLeastTimesFloor(SHARE))])
}
