//! `swapped-10k`: ten thousand processes that sleep on one server: the memory that each takes there, and how long waking one of
//! them, drawn at random, takes to its first reply, beside waking the only one of another server.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use praas_client::{Client, ProcessId};

use super::sleeping::{SMALL_BYTES, make_cold};
use super::{Bar, BarError, Settings};
use crate::floors::{Batch, Samples};
use crate::interleave::{Measured, SeriesError, Turn};
use crate::report::{Case, Condition, Row, readable};
use crate::subject::{
    Footprint, RunningServer, Sleeper, SleeperState, StoragePlace, SubjectError, Trust, descendants_of,
};

pub(super) const BAR: Bar =
    Bar { id: "swapped-10k", summary: "many processes that sleep on one server: their memory, and waking one", run };

const SLEEPERS: usize = 10_000;
const SLEEPERS_QUICK: usize = 500;
/// The memory of a server that has just learnt how processes fall asleep is not counted: that is what these are for.
const FIRST_SLEEPERS: usize = 64;
/// Threads that make them.
const MAKERS: usize = 4;
/// What each knows.
const STATE: SleeperState = SleeperState { objects: 1, value_bytes: SMALL_BYTES };
/// Wakings in a round of a full run.
const SAMPLES: u64 = 5;
const MEMORY_BYTES: f64 = 1024.0;
/// How long a server is left alone before its memory is looked at.
const SETTLING: Duration = Duration::from_secs(1);

/// A server and its processes, all of which sleep.
struct Dormitory {
    // Before the server, which it is connected to.
    client: Client,
    server: RunningServer,
    sleepers: Vec<ProcessId>,
    random: u64,
}

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let count = if settings.quick { SLEEPERS_QUICK } else { SLEEPERS };
    let (mut alone, mut crowded) = (Dormitory::open()?, Dormitory::open()?);
    alone.fill(1)?;
    crowded.fill(FIRST_SLEEPERS)?;
    let before_bytes = crowded.memory_bytes()?;
    crowded.fill(count)?;
    let added_bytes = crowded.memory_bytes()?.saturating_sub(before_bytes);
    let each_bytes = added_bytes as f64 / (count - FIRST_SLEEPERS) as f64;

    let mut one_of_one = Measured::new("the only one woken", |batch| alone.wake_some(batch));
    let mut one_of_many = Measured::new("one of many woken", |batch| crowded.wake_some(batch));
    let batch = settings.batch(SAMPLES);
    let mut turns = [Turn::new(&mut one_of_one, batch), Turn::new(&mut one_of_many, batch)];
    let outcomes = settings.interleave(BAR.id, &mut turns)?;
    let [one_of_one, one_of_many] = [0, 1].map(|index: usize| outcomes[index].of_rounds(|round| round.p50_ns));

    let placement = crowded.server.sleeper_words();
    let memory = format!("memory of server and keeper for each of {} that sleep", readable(count as f64));
    let woken = format!("one of {} woken, to its first reply, cold, p50; floor: the only one", readable(count as f64));
    let case = |case, unit| Case { id: BAR.id, case, placement, unit };
    Ok(vec![
        case(&memory, "B").judge(each_bytes, None, Condition::AtMost(MEMORY_BYTES)),
        case(&woken, "ns").judge_rounds(&one_of_many, &one_of_one, Condition::AtMostTimesFloor(1.3)),
    ])
}

impl Dormitory {
    fn open() -> Result<Self, SubjectError> {
        let server = RunningServer::start_with_storage(&StoragePlace::Disk)?;
        let client = server.connect(Trust::Trusted)?;
        Ok(Self { client, server, sleepers: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Until there are so many, made by several threads.
    fn fill(&mut self, count: usize) -> Result<(), SubjectError> {
        let new: Vec<ProcessId> = (self.sleepers.len()..count).map(|_| self.server.new_sleeper_id()).collect();
        let next = AtomicUsize::new(0);
        let make_some = || -> Result<(), SubjectError> {
            while let Some(id) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
                let sleeper = Sleeper::create_by(&self.client, *id, STATE)?;
                sleeper.fall_asleep()?;
                sleeper.leave();
            }
            Ok(())
        };
        thread::scope(|scope| {
            let makers: Vec<_> = (0..MAKERS).map(|_| scope.spawn(make_some)).collect();
            makers.into_iter().try_for_each(|maker| maker.join().unwrap_or(Err(SubjectError::ServerNotUp)))
        })?;
        self.sleepers.extend(new);
        Ok(())
    }

    /// What server and keeper take; all processes sleep, so nothing else is there.
    fn memory_bytes(&self) -> Result<u64, SubjectError> {
        thread::sleep(SETTLING);
        let footprint = Footprint::of(&descendants_of(self.server.process_id())?)?;
        Ok(footprint.pss_bytes + footprint.segment_bytes)
    }

    /// Wakes processes drawn at random, each cold, and has them sleep again.
    fn wake_some(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        let mut samples = Samples::empty(1);
        make_cold(&self.server)?;
        for number in 0..batch.operations() {
            let place = self.draw();
            let id = self.sleepers[place];
            let begun = Instant::now();
            let mut sleeper = Sleeper::open(&self.client, id, STATE)?;
            sleeper.wake()?;
            let span = begun.elapsed();
            if number >= batch.warm_up {
                samples.record(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
            }
            sleeper.fall_asleep()?;
            sleeper.leave();
        }
        Ok(samples)
    }

    /// The place of a process (xorshift).
    fn draw(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % self.sleepers.len().max(1) as u64).unwrap_or(0)
    }
}
