//! `idle-100`: what a server with a hundred idle processes takes of the machine: processor time of server, keeper and
//! workers, and their memory. Each process has one worker and a lane over which it was called, so nothing of it is still
//! to be made.

use std::thread;
use std::time::{Duration, Instant};

use praas_client::WaitMode;

use super::{Bar, BarError, Settings};
use crate::progress::Progress;
use crate::report::{Case, Condition, Row};
use crate::subject::{CpuTime, Footprint, RunningServer, SubjectError, Trust, call_noop, descendants_of};

pub(super) const BAR: Bar = Bar { id: "idle-100", summary: "processor and memory of a hundred idle processes", run };

const PROCESSES: u32 = 100;
/// Between the last call and the first look: whatever follows a call is over then.
const SETTLING: Duration = Duration::from_secs(1);
const WATCHED: Duration = Duration::from_secs(10);
const WATCHED_QUICK: Duration = Duration::from_secs(3);
const CPU_PERCENT_MAX: f64 = 1.0;
const PROCESS_MIB_MAX: f64 = 4.0;

fn run(settings: Settings) -> Result<Vec<Row>, BarError> {
    let watched = if settings.quick { WATCHED_QUICK } else { WATCHED };
    let progress = Progress::new(BAR.id, u64::from(PROCESSES) + 1);
    let server = RunningServer::start()?;
    let client = server.connect(Trust::Trusted)?;
    let mut processes = Vec::new();
    for number in 0..PROCESSES {
        let id = server.new_id(WaitMode::Adaptive);
        client.create(id).map_err(SubjectError::from)?;
        let process = client.process(id).map_err(SubjectError::from)?;
        call_noop(&process, number.into())?;
        processes.push(process);
        progress.advance();
    }
    thread::sleep(SETTLING);

    let all = descendants_of(server.process_id())?;
    let (start, used_before) = (Instant::now(), CpuTime::of(&all)?);
    thread::sleep(watched);
    let used = CpuTime::of(&all)?.0.saturating_sub(used_before.0);
    let cpu_percent = 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64();
    let footprint = Footprint::of(&all)?;

    let judge = |case: &str, unit, figure, limit| {
        let case = format!("{case}, {PROCESSES} idle processes");
        Case { id: BAR.id, case: &case, placement: "free", unit }.judge(figure, None, Condition::AtMost(limit))
    };
    Ok(vec![
        judge("server, keeper and workers", "% of a core", cpu_percent, CPU_PERCENT_MAX),
        judge(
            "PSS and segments for each process",
            "MiB",
            mib_each(footprint.pss_bytes + footprint.segment_bytes),
            PROCESS_MIB_MAX,
        ),
        judge("of which segments", "MiB", mib_each(footprint.segment_bytes), PROCESS_MIB_MAX),
    ])
}

fn mib_each(bytes: u64) -> f64 {
    let bytes = bytes as f64;
    bytes / f64::from(PROCESSES) / f64::from(1 << 20)
}
