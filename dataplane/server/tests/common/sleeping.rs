//! Processes that sleep and wake: functions that keep something, callers that know what must be kept, and those who put to sleep.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use praas_client::{CallError, Client, Process, ProcessState, RequestError};
use praas_function::{Call, Condition, Context, FunctionResult, StateError};
use praas_protocol::control::ControlError;
use praas_server::Application;

use crate::common::PATIENCE;
use crate::common::mails::{self, ask, mailing};
use crate::common::random::Random;
use crate::common::stage::{process, status};

/// The state of each process in these tests, in bytes.
const STATE_BYTES: u64 = 16 << 20;

/// Serves as a worker: functions of messages, and some that keep objects.
pub(crate) fn serve() {
    functions(praas_function::Application::new()).run()
}

/// Adds these functions.
pub(crate) fn functions(application: praas_function::Application) -> praas_function::Application {
    mails::functions(application)
        .function("add", |call: &mut Call<'_>| FunctionResult::Ok(add(&call.context(), "sum")?.to_string()))
        .function("sum", |call: &mut Call<'_>| FunctionResult::Ok(sum(&call.context(), "sum")?.0.to_string()))
        .function("keep", |call: &mut Call<'_>| {
            let text = String::from_utf8_lossy(call.input()).into_owned();
            let words: Vec<_> = text.split(' ').collect();
            let value = vec![words[2].parse::<u8>()?; words[1].parse()?];
            call.context().put_bytes(words[0], &value)?;
            FunctionResult::Ok(())
        })
        .function("scatter", |call: &mut Call<'_>| {
            let text = String::from_utf8_lossy(call.input()).into_owned();
            let words: Vec<_> = text.split(' ').collect();
            call.context().put_bytes(words[0], &scattered(words[1].parse()?, words[2].parse()?))?;
            FunctionResult::Ok(())
        })
        .function("scattered", |call: &mut Call<'_>| {
            let key = String::from_utf8_lossy(call.input()).into_owned();
            FunctionResult::Ok(match call.context().state_bytes(&key)? {
                Some(object) => format!("{} {:016x}", object.len(), sum_of(&object)),
                None => "nothing".into(),
            })
        })
        .function("keys", |call: &mut Call<'_>| {
            let page = call.context().list("", None)?;
            let keys: Vec<_> = page.objects.iter().map(|object| object.key.to_string()).collect();
            FunctionResult::Ok(keys.join(" "))
        })
        .function("forget", |call: &mut Call<'_>| {
            let key = String::from_utf8_lossy(call.input()).into_owned();
            FunctionResult::Ok(call.context().delete(&key)?.to_string())
        })
        .function("kept", |call: &mut Call<'_>| {
            let key = String::from_utf8_lossy(call.input()).into_owned();
            FunctionResult::Ok(match call.context().state_bytes(&key)? {
                Some(object) if object.is_empty() => format!("0 at {}", object.version()),
                Some(object) => {
                    let same = object.iter().all(|byte| *byte == object[0]);
                    format!("{} of {} {same} at {}", object.len(), object[0], object.version())
                }
                None => "nothing".into(),
            })
        })
        .function("pause", |call: &mut Call<'_>| {
            std::thread::sleep(Duration::from_millis(String::from_utf8_lossy(call.input()).parse()?));
            FunctionResult::Ok(())
        })
        .function("uid", |_: &mut Call<'_>| rustix::process::getuid().as_raw().to_string())
}

/// Bytes that no compression makes smaller, and that a seed tells.
pub(crate) fn scattered(bytes: usize, seed: u64) -> Vec<u8> {
    Random::new(seed).bytes(bytes)
}

/// What `scattered` says of such an object.
pub(crate) fn told(bytes: usize, seed: u64) -> String {
    format!("{bytes} {:016x}", sum_of(&scattered(bytes, seed)))
}

pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| chunk.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks(8).fold(7, |sum: u64, chunk| sum.rotate_left(5).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ word(chunk))
}

fn sum(context: &Context<'_>, key: &str) -> Result<(u64, Condition), StateError> {
    Ok(match context.state_bytes(key)? {
        Some(object) => (u64::from_le_bytes((*object).try_into().unwrap()), Condition::Version(object.version())),
        None => (0, Condition::Absent),
    })
}

/// Adds one, however many others do at the same time.
fn add(context: &Context<'_>, key: &str) -> Result<u64, StateError> {
    let end = Instant::now() + PATIENCE;
    loop {
        let (before, condition) = sum(context, key)?;
        match context.put_bytes_if(key, &(before + 1).to_le_bytes(), condition) {
            Ok(_) => return Ok(before + 1),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => {}
        }
    }
}

/// An application of such processes.
pub(crate) fn sleeping() -> Application {
    let mut application = mailing();
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

/// What callers of one process know of its sum.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) added: AtomicU64,
    maybe: AtomicU64,
}

impl Sum {
    /// Adds until told to stop. A call that was refused has never run; only what was killed may have.
    pub(crate) fn add_until(&self, over: &AtomicBool, process: &Process) {
        while !over.load(Ordering::Relaxed) {
            match ask(process, "add", "") {
                Ok(_) => self.added.fetch_add(1, Ordering::Relaxed),
                Err(CallError::WorkerLost | CallError::ConnectionLost { may_have_run: true }) => {
                    self.maybe.fetch_add(1, Ordering::Relaxed)
                }
                Err(CallError::ConnectionLost { may_have_run: false }) => 0,
                Err(error) => panic!("{error}"),
            };
        }
    }

    /// Whether the process has what was added, and nothing twice.
    pub(crate) fn check(&self, process: &Process) {
        let sum: u64 = ask(process, "sum", "").unwrap().parse().unwrap();
        let (added, maybe) = (self.added.load(Ordering::Relaxed), self.maybe.load(Ordering::Relaxed));
        assert!((added..=added + maybe).contains(&sum), "{added} and perhaps {maybe} were added, the sum is {sum}");
    }
}

/// Puts a process to sleep and makes sure that it does; false if it was needed, or in another state, just then.
pub(crate) fn put_to_sleep(client: &Client, name: &str) -> bool {
    match client.swap(process(name)) {
        Ok(()) => true,
        Err(RequestError::Refused(ControlError::WrongState { .. } | ControlError::SwapFailed { .. })) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Puts processes to sleep again and again.
pub(crate) fn put_to_sleep_for(client: &Client, names: &[&str], rounds: usize, random: &mut Random) {
    let mut slept = 0;
    for _ in 0..rounds {
        let name = names[usize::try_from(random.below(names.len() as u64)).unwrap()];
        slept += usize::from(put_to_sleep(client, name));
        std::thread::sleep(Duration::from_millis(random.below(20)));
    }
    println!("put to sleep {slept} times in {rounds} rounds");
    assert!(slept > 0);
}

/// Whether a process sleeps, and has no worker then.
pub(crate) fn sleeps(client: &Client, name: &str) -> bool {
    let status = status(client, name);
    let sleeps = status.state == ProcessState::Swapped;
    assert!(!sleeps || status.worker_pids.is_empty() && status.stored_bytes > 0, "{status:?}");
    sleeps
}
