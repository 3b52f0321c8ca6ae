//! `msg-local-1mib`: a message of 1 MiB that one function builds in place and another one sums where it lies, whose answer is
//! checked; beside the same over a bare mapping, which rotates over as many blocks as the messages do. That is found out by
//! looking.

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::floors::{Blocks, Config, Placement, Touched};
use crate::interleave::{Measured, Turn};
use crate::report::{Case, Condition, Row};
use crate::subject::{MessagePair, RunningServer};

pub(super) const BAR: Bar =
    Bar { id: "msg-local-1mib", summary: "messages of 1 MiB built in place, against a bare mapping", run };

const SAMPLES: u64 = 300;
const MESSAGE_BYTES: usize = 1 << 20;
/// Messages from which the rotation is learnt: far more than there are blocks of this size.
const MESSAGES_LOOKED_AT: u64 = 256;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let server = RunningServer::start()?;
    let placement = Placement::two_cores()?;
    let pair = MessagePair::open(&server, WaitMode::Spin, placement)?;
    let sources = pair.build_places(MESSAGES_LOOKED_AT, MESSAGE_BYTES)?;
    let blocks = Blocks { block_bytes: MESSAGE_BYTES, sources, destinations: 1 };
    let mut bare = Touched::open(&Config::new(placement), blocks)?;
    let mut figure = Measured::new("1 MiB", |batch| Ok(pair.build(batch, MESSAGE_BYTES)?));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut bare, batch), Turn::new(&mut figure, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [bare, figure] = [0, 1].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));

    let case = format!("1 MiB built in place, summed, p50; floor: bare mapping, {sources} block(s), p50");
    let case = Case { id: BAR.id, case: &case, placement: &placement.to_string(), unit: "ns" };
    Ok(vec![case.judge_rounds(&figure, &bare, Condition::AtMostTimesFloor(1.2))])
}
