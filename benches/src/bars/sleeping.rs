//! What the bars of processes that sleep have in common: how much state, how many rounds, and their figures.
//!
//! Values have bytes that nothing makes less of. Figure and floor take turns, round by round, because disks change their pace.
//! *Cold* means that the kernel was told to drop every page that it kept of the files that processes sleep in (`POSIX_FADV_DONTNEED`,
//! after all of them were synced); names and places of files are still known to it.

use std::time::Duration;

use super::{BarError, Settings};
use crate::floors::{Batch, Samples, drop_cached_files};
use crate::interleave::SeriesError;
use crate::report::readable;
use crate::subject::{RunningServer, Sleeper, SleeperState};

/// Bytes of large objects.
pub(super) const LARGE_BYTES: u64 = 1 << 20;
/// Bytes of small ones.
pub(super) const SMALL_BYTES: u64 = 1 << 10;
/// Rounds in which a gibibyte is moved more than once, and of a quick run.
const HEAVY_ROUNDS: u32 = 9;
const HEAVY_ROUNDS_QUICK: u32 = 3;
/// How much smaller a large state is in a quick run.
const QUICK_DIVISOR: u64 = 8;
/// One operation a round: each is long, and has to be prepared.
pub(super) const ONCE: Batch = Batch { warm_up: 0, samples: 1 };

/// A gibibyte in objects of 1 MiB; less in a quick run.
pub(super) fn large(settings: Settings) -> SleeperState {
    SleeperState { objects: scaled(settings, 1024), value_bytes: LARGE_BYTES }
}

/// A million objects of 1 KiB; fewer in a quick run.
pub(super) fn many(settings: Settings) -> SleeperState {
    SleeperState { objects: scaled(settings, 1_000_000), value_bytes: SMALL_BYTES }
}

fn scaled(settings: Settings, objects: u64) -> u64 {
    if settings.quick { objects / QUICK_DIVISOR } else { objects }
}

pub(super) fn heavy_rounds(settings: Settings) -> u32 {
    if settings.quick { HEAVY_ROUNDS_QUICK } else { HEAVY_ROUNDS }
}

/// A state in words, such as `1 GiB in 1 MiB objects` or `1,000,000 objects of 1 KiB`.
pub(super) fn words(state: SleeperState) -> String {
    let mebibytes = state.bytes() >> 20;
    match state.value_bytes {
        LARGE_BYTES if mebibytes.is_multiple_of(1024) => format!("{} GiB in 1 MiB objects", mebibytes / 1024),
        LARGE_BYTES => format!("{mebibytes} MiB in 1 MiB objects"),
        bytes => format!("{} objects of {} KiB", readable(state.objects as f64), bytes >> 10),
    }
}

/// A round of one span.
pub(super) fn one(span: Duration) -> Samples {
    let mut samples = Samples::empty(1);
    samples.record(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
    samples
}

/// Makes everything cold that sleeps on this server's disk.
pub(super) fn make_cold(server: &RunningServer) -> Result<(), SeriesError> {
    Ok(drop_cached_files(&server.disk_directory())?)
}

/// Rounds as mebibytes a second.
pub(super) fn mebibytes_a_second(bytes: u64, spans_ns: &[f64]) -> Vec<f64> {
    spans_ns.iter().map(|span_ns| bytes as f64 / f64::from(1 << 20) / (span_ns / 1e9)).collect()
}

/// A process that sleeps already.
pub(super) fn asleep(server: &RunningServer, state: SleeperState) -> Result<Sleeper, BarError> {
    let sleeper = Sleeper::create(server, state)?;
    sleeper.fall_asleep()?;
    Ok(sleeper)
}

/// Cold, wakes it by a call, and puts it to sleep again; how long until the call's reply.
pub(super) fn wake_cold(server: &RunningServer, sleeper: &mut Sleeper) -> Result<Duration, SeriesError> {
    make_cold(server)?;
    let span = sleeper.wake()?;
    sleeper.fall_asleep()?;
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named_as_people_do_and_quick_ones_are_smaller() {
        let (full, quick) = (Settings::default(), Settings { quick: true });
        assert_eq!(words(large(full)), "1 GiB in 1 MiB objects");
        assert_eq!(words(many(full)), "1,000,000 objects of 1 KiB");
        assert_eq!(words(large(quick)), "128 MiB in 1 MiB objects");
        assert_eq!(words(many(quick)), "125,000 objects of 1 KiB");
        assert!(heavy_rounds(quick) < heavy_rounds(full));
    }

    #[test]
    fn a_gibibyte_in_two_seconds() {
        assert_eq!(mebibytes_a_second(1 << 30, &[2e9]), [512.0]);
    }
}
