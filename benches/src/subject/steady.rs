//! A caller in steady state: a process of its own, whose calling thread is trapped at every system call and counted at
//! every allocation, as its worker is.
//!
//! Neither confined thread can end by itself. The caller's other thread writes the report and ends the process; the worker
//! is killed, and its server replaces it.

use std::error::Error;
use std::ffi::OsString;
use std::hint;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use praas_client::{Client, ConnectOptions, ProcessId};

use super::functions::{CONFINE, COUNTS, Counts};
use super::lane::call_noop;
use super::role::STEADY_ARGUMENT;
use super::{Lane, RunningServer, SubjectError, trap};
use crate::floors::Pinned;

/// This very program, also when its file was replaced since it started.
const THIS_PROGRAM: &str = "/proc/self/exe";
/// Calls before the trap closes: the first ones touch fresh memory and grow buffers.
const WARM_UP_CALLS: u64 = 20_000;
/// The longest that all calls may take together: a hundred times what they take on a quiet machine.
const RUN_PATIENCE: Duration = Duration::from_secs(60);
/// How often the end of the calls is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// What both ends did in steady state that they must not.
#[derive(Clone, Copy, Debug)]
pub struct Steadiness {
    /// The calling thread.
    pub caller: Restlessness,
    /// The worker.
    pub worker: Restlessness,
}

/// What one end did.
#[derive(Clone, Copy, Debug)]
pub struct Restlessness {
    /// System calls.
    pub system_calls: u64,
    /// The number of the last of them.
    pub last_system_call: u64,
    /// Heap allocations.
    pub allocations: u64,
}

/// Makes `calls` no-op calls of `lane`'s process from a process of its own, both ends confined. The lane's worker does not
/// survive it.
///
/// # Errors
/// [`SubjectError::NoReport`] if a call fails, or the counters turn out not to count.
pub fn steady_calls(server: &RunningServer, lane: &Lane, calls: u64) -> Result<Steadiness, SubjectError> {
    let _awake = lane.wake()?;
    let report = report_of_caller(server, lane, calls);
    let _ = lane.worker().kill();
    report
}

fn report_of_caller(server: &RunningServer, lane: &Lane, calls: u64) -> Result<Steadiness, SubjectError> {
    let mut caller = Caller(
        Command::new(THIS_PROGRAM)
            .arg(STEADY_ARGUMENT)
            .arg(server.data_directory())
            .arg(lane.id().to_string())
            .arg(lane.placement().caller_cpu().unwrap_or(0).to_string())
            .arg(calls.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(SubjectError::system("start the steady caller"))?,
    );
    let no_report = |reason: &str| SubjectError::NoReport { reason: reason.to_owned() };
    let stdout = caller.0.stdout.take().ok_or_else(|| no_report("it has no standard output"))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(SubjectError::system("read the steady caller's report"))?;
    let words: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
    let (halves, _) = words.as_chunks::<4>();
    let [caller, worker] = halves else {
        return Err(no_report("its message is on standard error"));
    };
    Ok(Steadiness { caller: restlessness(*caller)?, worker: restlessness(*worker)? })
}

fn restlessness([trapped, last_trapped, allocations, proven]: [u64; 4]) -> Result<Restlessness, SubjectError> {
    if proven != 1 {
        let reason = "a system call or an allocation made on purpose was not counted".to_owned();
        return Err(SubjectError::NoReport { reason });
    }
    Ok(Restlessness { system_calls: trapped, last_system_call: last_trapped, allocations })
}

/// The caller's process, killed when dropped: its confined thread does not end by itself.
struct Caller(Child);

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the caller's process was asked to do.
struct Task {
    data_directory: PathBuf,
    process: ProcessId,
    cpu: usize,
    calls: u64,
}

impl Task {
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, Box<dyn Error>> {
        let data_directory = arguments.next().ok_or("the steady caller is not started by hand")?.into();
        let mut word = || {
            let word = arguments.next().and_then(|word| word.into_string().ok());
            word.ok_or("the steady caller is not started by hand")
        };
        Ok(Self { data_directory, process: word()?.parse()?, cpu: word()?.parse()?, calls: word()?.parse()? })
    }
}

type Outcome = Result<[Counts; 2], String>;

/// The caller's process.
pub(super) fn serve(arguments: impl Iterator<Item = OsString>) -> Result<(), Box<dyn Error>> {
    let task = Task::read(arguments)?;
    end_with_standard_input()?;
    let outcome = Arc::new(OnceLock::<Outcome>::new());
    let theirs = Arc::clone(&outcome);
    thread::Builder::new().name("bench-steady".into()).spawn(move || {
        let found = confined_calls(&task).map_err(|error| error.to_string());
        // Nobody else sets it, and nobody waits in it: this is plain memory.
        let _ = theirs.set(found);
        // A confined thread cannot end. This process does, soon.
        loop {
            hint::spin_loop();
        }
    })?;
    let until = Instant::now() + RUN_PATIENCE;
    while outcome.get().is_none() && Instant::now() < until {
        thread::sleep(LOOK_PERIOD);
    }
    let [caller, worker] = outcome.get().ok_or("the calls did not end in time")?.as_ref().map_err(String::as_str)?;
    let mut stdout = io::stdout().lock();
    for Counts { trapped, last_trapped, allocations, proven } in [caller, worker] {
        write!(stdout, "{trapped} {last_trapped} {allocations} {proven} ")?;
    }
    writeln!(stdout)?;
    Ok(())
}

/// Warms up, confines both ends, calls, and tells what was counted; both ends stay confined.
fn confined_calls(task: &Task) -> Result<[Counts; 2], Box<dyn Error>> {
    Pinned::to(Some(task.cpu))?.for_good();
    let client = Client::connect(ConnectOptions::new().data_directory(&task.data_directory))?;
    let process = client.process(task.process)?;
    for number in 0..WARM_UP_CALLS {
        call_noop(&process, number)?;
    }
    process.invoke(CONFINE, &[])?;
    trap::install()?;
    let start = Counts::now();
    for number in 0..task.calls {
        call_noop(&process, number)?;
    }
    let counts = Counts::now().since(start);
    let worker = Counts::from_bytes(&process.invoke(COUNTS, &[])?).ok_or("the worker's counts are no counts")?;
    let counts = counts.proven();
    // Dropping either would speak to the server.
    std::mem::forget((process, client));
    Ok([counts, worker])
}

/// Ends this process when the one that measures is gone.
fn end_with_standard_input() -> io::Result<()> {
    let wait = || {
        let mut byte = [0];
        let _ = io::stdin().lock().read(&mut byte);
        std::process::exit(1);
    };
    thread::Builder::new().name("bench-stdin".into()).spawn(wait).map(drop)
}
