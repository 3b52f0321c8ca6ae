//! Processes that wake before all of their state is back: the first call is answered while the rest is still in storage, nothing
//! that is away is ever taken for what does not exist, and what is damaged is an error of those who need it alone.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use common::mails::{ask, processes};
use common::random::Random;
use common::sleeping::{Sum, put_to_sleep_for, scattered, sleeping, sleeps, told};
use common::stage::{Stage, process, status};
use common::{PATIENCE, ROLE, eventually, is_keeper_socket, stage};
use praas_client::{CallError, Client, Process, ProcessState};
use praas_storage::{Backend, BlobName, Layer, MemoryBackend, StorageError};

/// Large objects of a process in these tests: far more than is read before a process runs.
const LARGE: u64 = LARGE_COUNT as u64;
const LARGE_COUNT: usize = 24;
/// Bytes of each.
const LARGE_BYTES: usize = 400_000;
/// The state of each process, in bytes: some pages.
const STATE_BYTES: u64 = 64 << 20;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("worker") if !is_keeper_socket(&std::io::stdin()) => common::sleeping::serve(),
        _ => stage::play(),
    }
}

/// What a test does to reads of blobs.
#[derive(Debug, Default)]
struct Plan {
    /// Reads of more bytes than this...
    small_bytes_max: Option<usize>,
    /// ...stall, or are refused.
    refuses: bool,
    /// Whatever is read and has these bytes in it has one bit of them changed.
    spoiled: Option<Vec<u8>>,
    stalled: usize,
}

/// Storage that gives little pieces only, or damaged ones.
#[derive(Debug, Default)]
struct Narrow {
    inner: MemoryBackend,
    plan: Mutex<Plan>,
    changed: Condvar,
}

impl Narrow {
    fn plan(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.plan.lock().unwrap());
        self.changed.notify_all();
    }

    /// Reads larger than that wait from now on.
    fn stall_over(&self, bytes: usize) {
        self.plan(|plan| (plan.small_bytes_max, plan.refuses) = (Some(bytes), false));
    }

    fn refuse_over(&self, bytes: usize) {
        self.plan(|plan| (plan.small_bytes_max, plan.refuses) = (Some(bytes), true));
    }

    fn heal(&self) {
        self.plan(|plan| (plan.small_bytes_max, plan.spoiled) = (None, None));
    }

    fn stalled(&self) -> usize {
        self.plan.lock().unwrap().stalled
    }
}

impl Layer for Narrow {
    fn inner(&self) -> &dyn Backend {
        &self.inner
    }

    fn pass_read(&self, blob: &BlobName, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let mut plan = self.plan.lock().unwrap();
        if plan.small_bytes_max.is_some_and(|max| into.len() > max) && plan.refuses {
            let (place, what, reason) = (self.place(), "reading a blob", "only little pieces today".into());
            return Err(StorageError::Failed { place, what, reason });
        }
        plan.stalled += 1;
        let is_large = |plan: &mut Plan| plan.small_bytes_max.is_some_and(|max| into.len() > max) && !plan.refuses;
        let (mut plan, waited) = self.changed.wait_timeout_while(plan, PATIENCE, is_large).unwrap();
        plan.stalled -= 1;
        if waited.timed_out() {
            let (place, limit_ms) = (self.place(), 30_000);
            return Err(StorageError::Late { place, what: "reading a blob", limit_ms });
        }
        let spoiled = plan.spoiled.clone();
        drop(plan);
        self.inner.read(blob, offset, into)?;
        if let Some(spoiled) = spoiled
            && let Some(at) = into.windows(spoiled.len()).position(|window| window == spoiled)
        {
            into[at + 1] ^= 4;
        }
        Ok(())
    }
}

fn with_narrow(workers: u32) -> (Stage, Arc<Narrow>) {
    let narrow = Arc::new(Narrow::default());
    let storage: Arc<dyn Backend> = Arc::clone(&narrow) as _;
    let mut application = sleeping();
    application.limits.state_bytes_max = STATE_BYTES;
    (application.workers_min, application.workers_max) = (workers, workers.max(2));
    (Stage::new(application, |options| options.storage = Some(storage)), narrow)
}

fn large(number: u64) -> String {
    format!("large-{number}")
}

/// A process with much and some small objects.
fn filled(client: &Client) -> Process {
    let [alice] = processes(client, ["alice"]);
    for number in 0..LARGE {
        ask(&alice, "scatter", &format!("{} {LARGE_BYTES} {number}", large(number))).unwrap();
    }
    for number in 0..20 {
        ask(&alice, "keep", &format!("small-{number} 100 {number}")).unwrap();
    }
    alice
}

fn assert_large(alice: &Process, number: u64) {
    assert_eq!(ask(alice, "scattered", &large(number)).unwrap(), told(LARGE_BYTES, number), "{number}");
}

fn assert_small(alice: &Process, number: u64) {
    let kept = ask(alice, "kept", &format!("small-{number}")).unwrap();
    assert!(kept.starts_with(&format!("100 of {number} true")), "{kept}");
}

fn is_whole(stage: &Stage, times: u64) -> bool {
    stage.server().metrics().unwrap().restores_whole >= times
}

#[test]
fn the_first_calls_are_answered_while_storage_stalls_on_everything_else() {
    let (stage, narrow) = with_narrow(2);
    let client = stage.client();
    let alice = filled(&client);
    client.swap(process("alice")).unwrap();
    let stored = narrow.inner.used_bytes();
    assert!(stored > LARGE * LARGE_BYTES as u64);
    narrow.stall_over(64 << 10);
    assert_small(&alice, 7);
    eventually("both workers are ready", || status(&client, "alice").state == ProcessState::Active);
    eventually("the background waits for storage", || narrow.stalled() > 0);
    // Gets, puts, deletes, lists and what does not exist need no large value.
    assert_eq!(ask(&alice, "kept", "never").unwrap(), "nothing");
    ask(&alice, "keep", "small-3 50 99").unwrap();
    ask(&alice, "keep", "new 70 5").unwrap();
    assert_eq!(ask(&alice, "forget", "small-4").unwrap(), "true");
    assert_eq!(ask(&alice, "forget", "small-4").unwrap(), "false");
    assert_eq!(ask(&alice, "forget", &large(0)).unwrap(), "true", "without its value");
    ask(&alice, "scatter", &format!("{} 5000 77", large(1))).unwrap();
    let keys = ask(&alice, "keys", "").unwrap();
    let keys: Vec<_> = keys.split(' ').collect();
    assert_eq!(keys.len(), LARGE_COUNT - 1 + 20, "{keys:?}");
    assert!(!keys.contains(&"large-0") && !keys.contains(&"small-4") && keys.contains(&"new"));
    // Who needs a large one waits, to its deadline, and is told what it waited for.
    let late = alice.call("scattered").payload(large(5).as_bytes()).deadline(Duration::from_millis(300)).send();
    println!("{}", late.unwrap_err());
    let metrics = stage.server().metrics().unwrap();
    assert!(metrics.state_fetches > 0 && metrics.restores_whole == 0, "{metrics:?}");
    assert!(metrics.swapped_in_bytes < stored / 10, "{metrics:?}");
    let pending = alice.call("scattered").payload(large(6).as_bytes()).deadline(PATIENCE).start().unwrap();
    narrow.heal();
    assert_eq!(pending.wait().unwrap().as_slice(), told(LARGE_BYTES, 6).as_bytes());
    eventually("everything is back", || is_whole(&stage, 1));
    let metrics = stage.server().metrics().unwrap();
    assert!(metrics.swapped_in_bytes > (LARGE - 3) * LARGE_BYTES as u64, "{metrics:?}");
    for number in 2..LARGE {
        assert_large(&alice, number);
    }
    assert_eq!(ask(&alice, "scattered", &large(0)).unwrap(), "nothing");
    assert_eq!(ask(&alice, "scattered", &large(1)).unwrap(), told(5000, 77));
    assert!(ask(&alice, "kept", "small-3").unwrap().starts_with("50 of 99"));
    assert_eq!(stage.server().metrics().unwrap().state_fetches, metrics.state_fetches, "nothing is away any more");
    drop((alice, client));
    stage.end();
}

#[test]
fn a_process_sleeps_again_and_again_before_it_is_whole_and_writes_only_what_it_changed() {
    let (stage, narrow) = with_narrow(1);
    let client = stage.client();
    let alice = filled(&client);
    client.swap(process("alice")).unwrap();
    let mut random = Random::printed("sleeps");
    let mut model: BTreeMap<String, (usize, u64)> =
        (0..LARGE).map(|number| (large(number), (LARGE_BYTES, number))).collect();
    for round in 0..8_u64 {
        // Little pieces only: the rest fails, and is tried again after the process has gone to sleep.
        narrow.refuse_over(64 << 10);
        let before = stage.server().metrics().unwrap();
        assert_small(&alice, round);
        let refused = ask(&alice, "scattered", &large(23)).unwrap_err().to_string();
        assert!(refused.contains("little pieces"), "{refused}");
        assert_eq!(ask(&alice, "add", "").unwrap(), (round + 1).to_string());
        let (key, seed) = (large(random.below(LARGE - 1)), 1000 + round);
        if random.below(3) == 0 {
            ask(&alice, "forget", &key).unwrap();
            model.remove(&key);
        } else {
            ask(&alice, "scatter", &format!("{key} 20000 {seed}")).unwrap();
            model.insert(key, (20_000, seed));
        }
        if random.below(2) == 0 {
            assert_eq!(ask(&alice, "keys", "").unwrap().split(' ').count(), model.len() + 21, "round {round}");
        }
        client.swap(process("alice")).unwrap();
        assert!(sleeps(&client, "alice"));
        let written = stage.server().metrics().unwrap().swapped_out_bytes - before.swapped_out_bytes;
        assert!(written < 200_000, "{written} bytes were written in round {round}");
    }
    narrow.heal();
    client.restore(process("alice")).unwrap();
    eventually("everything is back", || is_whole(&stage, 1));
    for number in 0..LARGE {
        let expected = model.get(&large(number)).map_or("nothing".to_owned(), |(bytes, seed)| told(*bytes, *seed));
        assert_eq!(ask(&alice, "scattered", &large(number)).unwrap(), expected, "{number}");
    }
    (0..20).for_each(|number| assert_small(&alice, number));
    assert_eq!(ask(&alice, "sum", "").unwrap(), "8");
    drop((alice, client));
    stage.end();
}

#[test]
fn what_is_damaged_is_an_error_that_names_it_and_all_else_goes_on() {
    let (stage, narrow) = with_narrow(1);
    let client = stage.client();
    let alice = filled(&client);
    client.swap(process("alice")).unwrap();
    // One value.
    narrow.plan(|plan| plan.spoiled = Some(scattered(LARGE_BYTES, 9)[1000..1032].to_vec()));
    for _ in 0..2 {
        let damaged = ask(&alice, "scattered", &large(9)).unwrap_err().to_string();
        assert!(damaged.contains("large-9") && damaged.contains("is damaged in storage"), "{damaged}");
    }
    (0..LARGE).filter(|number| *number != 9).for_each(|number| assert_large(&alice, number));
    (0..20).for_each(|number| assert_small(&alice, number));
    assert_eq!(ask(&alice, "keys", "").unwrap().split(' ').count(), LARGE_COUNT + 20);
    // It sleeps and wakes with the damage, which stays what it is.
    client.swap(process("alice")).unwrap();
    let damaged = ask(&alice, "scattered", &large(9)).unwrap_err().to_string();
    assert!(damaged.contains("large-9"), "{damaged}");
    assert!(!is_whole(&stage, 1));
    // Whoever replaces it has it whole.
    ask(&alice, "scatter", &format!("{} {LARGE_BYTES} 9000", large(9))).unwrap();
    client.swap(process("alice")).unwrap();
    assert_eq!(ask(&alice, "scattered", &large(9)).unwrap(), told(LARGE_BYTES, 9000));
    eventually("everything is back", || is_whole(&stage, 1));
    // A page: none of its objects can be looked up, put or deleted, and no list is made without them.
    client.swap(process("alice")).unwrap();
    narrow.plan(|plan| plan.spoiled = Some(b"small-11".to_vec()));
    let mut damaged = 0;
    for number in 0..20 {
        match ask(&alice, "kept", &format!("small-{number}")) {
            Ok(kept) => assert!(kept.starts_with(&format!("100 of {number} true")), "{kept}"),
            Err(error) => {
                damaged += 1;
                let words = error.to_string();
                assert!(words.contains("page") && words.contains("is damaged"), "{words}");
                let put = ask(&alice, "keep", &format!("small-{number} 1 1")).unwrap_err().to_string();
                assert!(put.contains("is damaged"), "{put}");
            }
        }
    }
    println!("{damaged} of 20 small objects are on the damaged page");
    assert!(damaged > 0 && ask(&alice, "kept", "small-11").is_err());
    let list = ask(&alice, "keys", "").unwrap_err().to_string();
    assert!(list.contains("is damaged"), "{list}");
    // Sound again, it is all there.
    narrow.heal();
    (0..20).for_each(|number| assert_small(&alice, number));
    (0..LARGE).filter(|number| *number != 9).for_each(|number| assert_large(&alice, number));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_process_that_is_stopped_before_it_is_whole_leaves_nothing() {
    let (stage, narrow) = with_narrow(1);
    let client = stage.client();
    let alice = filled(&client);
    client.swap(process("alice")).unwrap();
    narrow.stall_over(64 << 10);
    assert_small(&alice, 1);
    eventually("the background waits for storage", || narrow.stalled() > 0);
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| client.stop(process("alice")));
        eventually("it is stopped though storage stalls", || stop.is_finished());
        stop.join().unwrap().unwrap();
    });
    narrow.heal();
    assert_eq!((narrow.folders(None).unwrap().len(), narrow.inner.used_bytes()), (0, 0));
    let [alice] = {
        drop(alice);
        processes(&client, ["alice"])
    };
    assert_eq!(ask(&alice, "kept", "small-1").unwrap(), "nothing");
    drop((alice, client));
    stage.end();
}

#[test]
fn puts_deletes_and_lists_race_with_swaps_and_with_what_comes_back() {
    let (stage, _narrow) = with_narrow(2);
    let client = stage.client();
    let alice = filled(&client);
    let (over, sum) = (AtomicBool::new(false), Sum::default());
    let mut random = Random::printed("races");
    let until = Instant::now() + PATIENCE;
    std::thread::scope(|scope| {
        for worker in 0..3_u64 {
            let (alice, over, mut random) =
                (client.process(process("alice")).unwrap(), &over, Random::new(random.next()));
            scope.spawn(move || {
                // Each has keys of its own.
                let mut model: BTreeMap<u64, (usize, u64)> = (0..LARGE)
                    .filter(|number| number % 3 == worker)
                    .map(|number| (number, (LARGE_BYTES, number)))
                    .collect();
                let keys: Vec<u64> = model.keys().copied().collect();
                let again = |function: &str, input: &str| loop {
                    match ask(&alice, function, input) {
                        Ok(answer) => return answer,
                        Err(CallError::ConnectionLost { may_have_run: false }) if Instant::now() < until => {}
                        Err(error) => panic!("{function} {input}: {error}"),
                    }
                };
                while !over.load(Ordering::Relaxed) {
                    let number = keys[usize::try_from(random.below(keys.len() as u64)).unwrap()];
                    let (key, seed) = (large(number), random.below(1 << 30));
                    match random.below(8) {
                        0 => {
                            let bytes = usize::try_from(random.below(300_000)).unwrap() + 8;
                            again("scatter", &format!("{key} {bytes} {seed}"));
                            model.insert(number, (bytes, seed));
                        }
                        1 => {
                            assert_eq!(again("forget", &key), model.remove(&number).is_some().to_string());
                        }
                        2 => {
                            let keys = again("keys", "");
                            let keys: Vec<_> = keys.split(' ').collect();
                            assert!(model.keys().all(|number| keys.contains(&&*large(*number))), "{keys:?}");
                        }
                        _ => {
                            let known = model.get(&number);
                            let known = known.map_or("nothing".to_owned(), |(bytes, seed)| told(*bytes, *seed));
                            assert_eq!(again("scattered", &key), known, "{key}");
                        }
                    }
                }
            });
        }
        scope.spawn(|| sum.add_until(&over, &alice));
        let end = scope.spawn(|| put_to_sleep_for(&client, &["alice"], 30, &mut random)).join();
        over.store(true, Ordering::Relaxed);
        end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    sum.check(&alice);
    (0..20).for_each(|number| assert_small(&alice, number));
    let metrics = stage.server().metrics().unwrap();
    println!("{metrics:?}");
    assert!(metrics.state_fetches > 0 && metrics.state_fetches_failed == 0, "{metrics:?}");
    drop((alice, client));
    stage.end();
}
