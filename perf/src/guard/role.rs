//! What this program becomes to run the guarded steps: a process with one worker in a thread, whose function runs them all,
//! either under callgrind or with its thread confined.

use std::env;
use std::hint;
use std::process;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use praas_benches::subject::ConfinedThread;
use praas_function::testing::Harness;
use praas_function::{Application, Call, Context, FunctionError, FunctionResult};
use serde::{Deserialize, Serialize};

use super::rig::{OPERATIONS, Rigs, steps};

/// The hidden first argument; the second one is [`INSTRUCTIONS`] or [`STEADY`].
pub(super) const ARGUMENT: &str = "__guard";
/// Run under callgrind.
pub(super) const INSTRUCTIONS: &str = "instructions";
/// Count system calls and allocations, and print them.
pub(super) const STEADY: &str = "steady";

/// Counted runs of every step.
const RUNS: usize = 20;
/// Counted operations of every step.
pub(super) const OPERATIONS_COUNTED: usize = RUNS * OPERATIONS;
/// The function that runs the steps.
const FUNCTION: &str = "guard";
/// The longest that the confined steps may take: some ten thousand times what they do.
const RUN_PATIENCE: Duration = Duration::from_secs(30);
/// How often their end is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(5);
/// What the function fails with.
const FAILED_CODE: u32 = 1;

/// What a step did in all counted operations that it should not do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// The step.
    pub(super) step: String,
    /// System calls.
    pub(super) system_calls: u64,
    /// The number of the last of them, if there was one.
    pub(super) last_system_call: Option<u64>,
    /// Heap allocations.
    pub(super) allocations: u64,
}

/// What the confined thread leaves: it cannot end by itself.
static CONFINED: OnceLock<Result<Vec<Counted>, String>> = OnceLock::new();

/// Becomes what this process was started as by the guard, and then never returns.
pub fn serve_role_if_asked() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return;
    }
    let outcome = match arguments.next().as_deref() {
        Some(INSTRUCTIONS) => run_for_callgrind(),
        Some(STEADY) => run_confined(),
        _ => Err("the guard's steps are not run by hand".to_owned()),
    };
    if let Err(error) = &outcome {
        eprintln!("{ARGUMENT}: {error}");
    }
    process::exit(i32::from(outcome.is_err()));
}

/// A process whose function is this one.
fn harness(function: fn(&mut Call<'_>) -> FunctionResult) -> Result<Harness, String> {
    Harness::new(move || Application::new().function(FUNCTION, function)).map_err(|error| error.to_string())
}

fn run_for_callgrind() -> Result<(), String> {
    let run = |call: &mut Call<'_>| {
        let mut rigs = Rigs::set_up(call.context())?;
        for _ in 0..RUNS {
            rigs.run(|_, step| collected(step));
        }
        Ok(())
    };
    harness(run)?.invoke(FUNCTION, b"").map(drop).map_err(|error| error.to_string())
}

/// Callgrind counts while this function runs, and only then.
#[inline(never)]
fn collected(step: &mut dyn FnMut()) {
    hint::black_box(step)();
}

fn run_confined() -> Result<(), String> {
    let run = |call: &mut Call<'_>| {
        // Nobody else sets it.
        let _ = CONFINED.set(confined(call.context()).map_err(|error| error.to_string()));
        // A confined thread cannot end. This process does, soon.
        loop {
            hint::spin_loop();
        }
    };
    // Neither is dropped: the worker does not end.
    let harness = Box::leak(Box::new(harness(run)?));
    let running = harness.begin(FUNCTION, b"", Some(2 * RUN_PATIENCE)).map_err(|error| error.to_string())?;
    std::mem::forget(running);
    let until = Instant::now() + RUN_PATIENCE;
    while CONFINED.get().is_none() && Instant::now() < until {
        thread::sleep(LOOK_PERIOD);
    }
    let counted = CONFINED.get().ok_or("the steps did not end in time; one waits, or has panicked without a voice")?;
    let text = serde_json::to_string(counted.as_ref()?).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

fn confined(context: Context<'_>) -> FunctionResult<Vec<Counted>> {
    let mut rigs = Rigs::set_up(context)?;
    let mut all: Vec<Counted> =
        steps().iter().map(|step| Counted { step: step.name.to_owned(), ..Counted::default() }).collect();
    let thread = ConfinedThread::begin().map_err(|error| FunctionError::new(FAILED_CODE, error.to_string()))?;
    for _ in 0..RUNS {
        rigs.run(|number, step| {
            let before = thread.so_far();
            step();
            let after = thread.so_far();
            let counted = &mut all[number];
            counted.allocations += after.allocations - before.allocations;
            if after.system_calls > before.system_calls {
                counted.system_calls += after.system_calls - before.system_calls;
                counted.last_system_call = Some(after.last_system_call);
            }
        });
    }
    // Dropping them would speak to the system.
    std::mem::forget(rigs);
    Ok(all)
}
