//! Functions of the tests of state: they keep one object, a sum, and misuse its lock where a test wants that. And callers that
//! know what the sum must be.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use praas_client::{CallError, Process};
use praas_function::Call;
use praas_server::Application;
use praas_shm::WorkerTag;
use praas_shm::objects::{Condition, Key, Meta, Namespace, Objects, ObjectsLayout, StateError, Store};

use crate::common::PATIENCE;
use crate::common::stage::{application, block_on};

/// The state of each process in these tests, in bytes.
const STATE_BYTES: u64 = 1 << 20;

/// Functions that keep one object, a sum.
pub(crate) fn serve() {
    praas_function::Application::new()
        .function("add", |call: &mut Call<'_>| {
            let (number, index) = (u64::from(call.input()[0]), call.context().worker_index());
            with_store(index, |store| add(store, number)).to_le_bytes()
        })
        .function("sum", |call: &mut Call<'_>| with_store(call.context().worker_index(), sum).0.to_le_bytes())
        .function("uid", |_: &mut Call<'_>| rustix::process::getuid().as_raw().to_le_bytes())
        .function("hold", |_: &mut Call<'_>| std::thread::sleep(PATIENCE))
        // Locks the state with the word in the input, or in its own name, and then dies or just answers.
        .function("lock", |call: &mut Call<'_>| {
            let word = match u64::from_le_bytes(call.input()[1..].try_into().unwrap()) {
                0 => lock_word(call.context().worker_index()),
                word => word,
            };
            state_file().write_all_at(&word.to_le_bytes(), LOCK_AT).unwrap();
            if call.input()[0] == 1 {
                std::process::abort();
            }
        })
        .run();
}

/// Where the word of the writers' lock lies.
const LOCK_AT: u64 = 128;

/// The lock's word of the first worker with this index.
pub(crate) fn lock_word(index: u8) -> u64 {
    1 << 31 | 1 << 8 | u64::from(index)
}

/// The worker's state segment, opened anew.
fn state_file() -> File {
    let is_state = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("praas-objects"))
    };
    let mut descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let path = descriptors.find(is_state).expect("the server gave the state to the worker");
    File::options().read(true).write(true).open(path).unwrap()
}

/// The worker's end of the state, made at its first use.
fn with_store<T>(index: u8, body: impl FnOnce(&Store) -> T) -> T {
    thread_local!(static STORE: RefCell<Option<Store>> = const { RefCell::new(None) });
    STORE.with_borrow_mut(|store| {
        let make = || {
            let layout = ObjectsLayout::for_limit(STATE_BYTES).unwrap();
            let objects = Objects::attach(state_file().into(), layout).unwrap();
            Arc::new(objects).worker_store(WorkerTag::new(index, 1)).unwrap()
        };
        body(store.get_or_insert_with(make))
    })
}

fn sum(store: &Store) -> (u64, Condition) {
    let key = Key::new(Namespace::USER, "sum").unwrap();
    store.get(&key).unwrap().map_or((0, Condition::Absent), |guard| {
        let sum = u64::from_le_bytes(guard.in_place().unwrap().try_into().unwrap());
        (sum, Condition::Version(guard.version()))
    })
}

/// Adds to the sum, however many others do at the same time.
fn add(store: &Store, number: u64) -> u64 {
    let key = Key::new(Namespace::USER, "sum").unwrap();
    loop {
        let (before, condition) = sum(store);
        match store.put(&key, &(before + number).to_le_bytes(), Meta::RAW, condition) {
            Ok(_) => return before + number,
            Err(StateError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn stateful(name: &str) -> Application {
    let mut application = application();
    application.name = name.parse().unwrap();
    application.limits.state_bytes_max = STATE_BYTES;
    application
}

pub(crate) fn sum_of(process: &Process) -> u64 {
    let reply = process.call("sum").deadline(PATIENCE).send().unwrap();
    u64::from_le_bytes(reply.as_slice().try_into().unwrap())
}

/// What callers of one process know of its sum.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) added: AtomicU64,
    maybe_added: AtomicU64,
}

impl Known {
    fn count(&self, end: Result<praas_client::Reply, CallError>) {
        match end {
            Ok(_) => self.added.fetch_add(1, Ordering::Relaxed),
            Err(CallError::ConnectionLost { may_have_run: true } | CallError::WorkerLost) => {
                self.maybe_added.fetch_add(1, Ordering::Relaxed)
            }
            Err(CallError::ConnectionLost { may_have_run: false }) => 0,
            Err(error) => panic!("{error}"),
        };
    }

    pub(crate) fn check(&self, sum: u64) {
        let (added, maybe) = (self.added.load(Ordering::Relaxed), self.maybe_added.load(Ordering::Relaxed));
        assert!((added..=added + maybe).contains(&sum), "{added} and perhaps {maybe} were added, the sum is {sum}");
    }
}

/// Adds until told to stop, in every way that the library has.
pub(crate) fn add_until(over: &AtomicBool, process: &Process, known: &Known) {
    let call = || process.call("add").payload(&[1]).deadline(PATIENCE);
    let mut turn = 0;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        match turn % 3 {
            0 => known.count(call().send()),
            1 => known.count(block_on(call(), PATIENCE * 2)),
            _ => {
                let pending: Vec<_> = (0..4).map(|_| call().start()).collect();
                pending.into_iter().for_each(|pending| known.count(pending.and_then(praas_client::Pending::wait)));
            }
        }
    }
}
