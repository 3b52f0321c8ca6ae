//! Servers that die, drain, restart and reload under load, and a soak. Calls leave an effect each in a file, so that the tests
//! can count how often each of them ran.

mod common;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::random::Random;
use common::stage::{Played, Stage, application, block_on, process, status};
use common::{PATIENCE, eventually, functions, is_running, kill, own_command, private_directory, stage};
use praas_client::{CallError, Client, ConnectOptions, Process, Reply};

/// Threads that call.
const CALLERS: u64 = 4;

/// Effects after which a load is under way.
const WARM: usize = 60;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Calls that were made, by id, and how each ended.
type Ends = HashMap<String, Result<Reply, CallError>>;

/// Calls `note` until `over`, each call with an id of its own.
fn call_until(over: &AtomicBool, alice: &Process, thread: u64) -> Ends {
    let mut random = Random::new(thread + 1);
    let mut ends = Ends::new();
    while !over.load(Ordering::Relaxed) {
        let ids: Vec<_> = (0..1 + random.below(6)).map(|call| format!("{thread}.{}.{call}", ends.len())).collect();
        let payload = |id: &String| format!("{id} {}", u8::from(id.ends_with('3')) * 3);
        let call = |id: &String| alice.call("note").payload(payload(id).into_bytes()).deadline(PATIENCE * 2);
        if thread.is_multiple_of(2) {
            let pending: Vec<_> = ids.iter().map(|id| (id, call(id).start())).collect();
            for (id, pending) in pending {
                let end = pending.and_then(praas_client::Pending::wait);
                ends.insert(id.clone(), if never_ran(&end) { insist(|| call(id).send()) } else { end });
            }
        } else {
            for id in &ids {
                let by_future = random.below(2) == 0;
                let once = || if by_future { block_on(call(id), PATIENCE * 3) } else { call(id).send() };
                ends.insert(id.clone(), insist(once));
            }
        }
    }
    ends
}

/// Whether a call ended so because its process was not there yet, or its lane had no room.
fn never_ran(end: &Result<Reply, CallError>) -> bool {
    matches!(end, Err(CallError::UnknownProcess { .. } | CallError::Overloaded { .. }))
}

/// Calls again while the process is not there: it certainly never ran.
fn insist(call: impl Fn() -> Result<Reply, CallError>) -> Result<Reply, CallError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let end = call();
        if !never_ran(&end) || Instant::now() > give_up {
            return end;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The effects of a process, kept readable when its directory is removed.
struct Effects(File);

impl Effects {
    /// Of the process as it runs now.
    fn of(directory: &Path, alice: &Process, first: &str) -> Self {
        insist(|| alice.invoke("note", format!("{first} 0").as_str())).unwrap();
        let path = directory.join("run").join("hello").join("alice").join(functions::EFFECTS);
        Self(File::open(path).unwrap())
    }

    fn lines(&self) -> Vec<String> {
        let bytes = usize::try_from(self.0.metadata().unwrap().len()).unwrap();
        let mut text = vec![0; bytes];
        self.0.read_exact_at(&mut text, 0).unwrap();
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }

    fn await_more(&self) {
        let before = self.lines().len();
        eventually("calls run", || self.lines().len() >= before + WARM);
    }
}

/// Runs `body` beside callers; then every call that was answered ran once, every other one at most once, and none without
/// having been made. Returns the errors.
fn under_load(alice: &Process, body: impl FnOnce() -> Vec<Effects>) -> Vec<CallError> {
    let over = AtomicBool::new(false);
    let (ends, effects) = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|thread| {
                let over = &over;
                scope.spawn(move || call_until(over, alice, thread))
            })
            .collect();
        let stop = StopAtEnd(&over);
        let effects = body();
        drop(stop);
        let mut ends = Ends::new();
        for caller in callers {
            ends.extend(caller.join().unwrap());
        }
        (ends, effects)
    });
    let mut runs: HashMap<String, u32> = HashMap::new();
    for line in effects.iter().flat_map(Effects::lines).filter(|line| line.contains('.')) {
        *runs.entry(line).or_default() += 1;
    }
    let mut errors = Vec::new();
    for (id, end) in &ends {
        let ran = runs.remove(id).unwrap_or(0);
        match end {
            Ok(reply) => assert_eq!((reply.as_slice(), ran), (id.as_bytes(), 1), "call {id} was answered"),
            Err(error) => {
                assert!(ran <= 1, "call {id} ran {ran} times and ended so: {error}");
                assert!(ran == 0 || may_have_run(error), "call {id} ran and ended so: {error}");
                errors.push(error.clone());
            }
        }
    }
    assert!(runs.is_empty(), "calls ran that nobody made: {runs:?}");
    assert!(ends.len() > WARM);
    println!("{} calls, {} errors", ends.len(), errors.len());
    errors
}

fn may_have_run(error: &CallError) -> bool {
    matches!(error, CallError::ConnectionLost { may_have_run: true } | CallError::WorkerLost)
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Creates alice on a server that may just be starting.
fn create(client: &Client) {
    eventually("the process is created", || client.create(process("alice")).is_ok());
}

#[test]
fn callers_of_a_killed_server_are_told_and_the_same_handle_goes_on_with_the_next() {
    let stage = Stage::empty();
    let Some(first) = Played::start("server", stage.path(), &[]) else { return stage.end() };
    let client = stage.client();
    create(&client);
    let alice = client.process(process("alice")).unwrap();
    let incarnation = client.server_incarnation();
    let held = alice.start("hold", "60000").unwrap();
    let mut next = None;
    let errors = under_load(&alice, || {
        let before = Effects::of(stage.path(), &alice, "first");
        before.await_more();
        let workers = status(&client, "alice").worker_pids;
        assert!(workers.len() >= 2);
        first.kill();
        // No other server is there yet: the callers are told by the end of the connection.
        assert_eq!(held.wait().unwrap_err(), CallError::ConnectionLost { may_have_run: true });
        eventually("no worker survives the server", || !workers.iter().any(|pid| is_running(*pid)));
        next = Played::start("server", stage.path(), &[]);
        create(&client);
        let after = Effects::of(stage.path(), &alice, "second");
        after.await_more();
        vec![before, after]
    });
    for error in errors {
        assert_eq!(error, CallError::ConnectionLost { may_have_run: true });
    }
    assert_ne!(client.server_incarnation(), incarnation);
    drop((alice, client));
    let next = next.unwrap();
    next.terminate();
    assert_eq!(next.end(), Some(42));
    stage.end();
}

#[test]
fn a_server_that_is_told_to_end_loses_no_call_and_runs_none_twice() {
    let stage = Stage::empty();
    let Some(first) = Played::start("server", stage.path(), &[]) else { return stage.end() };
    let client = stage.client();
    create(&client);
    let alice = client.process(process("alice")).unwrap();
    let mut next = None;
    let errors = under_load(&alice, || {
        let before = Effects::of(stage.path(), &alice, "first");
        before.await_more();
        let workers = status(&client, "alice").worker_pids;
        first.terminate();
        assert_eq!(first.end(), Some(42));
        assert!(!workers.iter().any(|pid| is_running(*pid)), "workers outlive the drained server");
        next = Played::start("server", stage.path(), &[]);
        create(&client);
        let after = Effects::of(stage.path(), &alice, "second");
        after.await_more();
        vec![before, after]
    });
    assert!(errors.is_empty(), "{errors:?}");
    drop((alice, client));
    let next = next.unwrap();
    next.terminate();
    assert_eq!(next.end(), Some(42));
    stage.end();
}

#[test]
fn restarts_under_load_lose_no_call_and_run_none_twice() {
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 3);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    let errors = under_load(&alice, || {
        let effects = Effects::of(stage.path(), &alice, "first");
        for _ in 0..4 {
            effects.await_more();
            client.restart(process("alice")).unwrap();
        }
        effects.await_more();
        vec![effects]
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    drop((alice, client));
    stage.end();
}

#[test]
fn reloads_of_a_rebuilt_program_under_load_lose_no_call_and_run_none_twice() {
    let programs = private_directory();
    let binary = programs.path().join("program");
    std::fs::copy(&own_command()[0], &binary).unwrap();
    let mut application = application();
    application.binary = binary.clone();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |options| options.watch = true);
    let client = stage.with_process("alice");
    let alice = client.process(process("alice")).unwrap();
    let errors = under_load(&alice, || {
        let effects = Effects::of(stage.path(), &alice, "first");
        for _ in 0..2 {
            effects.await_more();
            let before = status(&client, "alice").worker_pids;
            let rebuilt = programs.path().join("rebuilt");
            std::fs::copy(&own_command()[0], &rebuilt).unwrap();
            std::fs::rename(rebuilt, &binary).unwrap();
            eventually("the rebuilt program serves", || {
                let now = status(&client, "alice").worker_pids;
                now.len() == 2 && !now.iter().any(|pid| before.contains(pid))
            });
        }
        effects.await_more();
        vec![effects]
    });
    assert!(errors.is_empty(), "{errors:?}");
    drop((alice, client));
    stage.end();
}

/// What the soak counts.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    full: AtomicU64,
    abandoned: AtomicU64,
}

impl Tally {
    /// Counts an end; only those that a sound system may have under this load.
    fn count(&self, end: Result<Reply, CallError>, expected: &[u8], short: bool) {
        let counter = match end {
            Ok(reply) => {
                // Not `assert_eq`: nobody reads a megabyte of differences.
                assert!(reply.as_slice() == expected, "a wrong answer of {} bytes", reply.len());
                &self.answered
            }
            Err(CallError::WorkerLost) => &self.lost,
            Err(CallError::DeadlineExceeded { .. } | CallError::Unavailable { .. }) if short => &self.late,
            Err(CallError::Overloaded { .. }) => &self.full,
            // Replies of other calls held the memory.
            Err(CallError::ReplyLost { .. }) => &self.full,
            Err(error) => panic!("{error} (short: {short})"),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn soak_caller(lanes: &[Process], mut random: Random, end: Instant, tally: &Tally) {
    let material = random.bytes(2 << 20);
    while Instant::now() < end {
        let lane = &lanes[usize::try_from(random.below(lanes.len() as u64)).unwrap()];
        let most = [1, 64, 200, 4096, 70_000, 1 << 20][usize::try_from(random.below(6)).unwrap()];
        let bytes = usize::try_from(random.below(most + 1)).unwrap();
        let from = usize::try_from(random.below(1 << 20)).unwrap();
        let payload = material[from..from + bytes].to_vec();
        match random.below(8) {
            0 | 1 => tally.count(lane.invoke("echo", &payload), &payload, false),
            2 => {
                let call = lane.call("digest").payload(&payload);
                tally.count(block_on(call, PATIENCE * 2), &functions::digest(&payload).to_le_bytes(), false);
            }
            3 => {
                let calls: Vec<_> = (0..8).map(|_| lane.start("echo", payload.clone())).collect();
                for pending in calls {
                    tally.count(pending.and_then(praas_client::Pending::wait), &payload, false);
                }
            }
            4 => match lane.loan(bytes) {
                Ok(mut loan) => {
                    loan.write_at(0, &payload).unwrap();
                    tally.count(lane.invoke("echo", loan), &payload, false);
                }
                Err(error) => tally.count(Err(error), &[], false),
            },
            5 => {
                let short = Duration::from_micros(random.below(3000));
                tally.count(lane.call("echo").payload(&payload).deadline(short).send(), &payload, true);
            }
            6 => {
                drop(lane.start("echo", payload));
                tally.abandoned.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                let reply = lane.invoke("grow", bytes.to_string().as_str());
                tally.count(reply, &vec![7; bytes], false);
            }
        }
    }
}

#[test]
fn a_soak_of_everything_at_once_answers_rightly_and_leaves_nothing() {
    let seconds = std::env::var("TEST_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(4);
    let mut random = Random::printed("soak");
    let mut application = application();
    (application.workers_min, application.workers_max) = (1, 3);
    let stage = Stage::new(application, |_| ());
    let manager = stage.client();
    for name in ["alice", "bob"] {
        manager.create(process(name)).unwrap();
    }
    let tally = Tally::default();
    let mut kills = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for connection in 0..2 {
            let options = ConnectOptions::new().data_directory(stage.path()).calls_in_flight(16 << connection);
            let client = Client::connect(options).unwrap();
            let lanes: Vec<_> = ["alice", "bob"].map(|name| client.process(process(name)).unwrap()).into();
            for _ in 0..2 {
                let (lanes, seed, tally) = (lanes.clone(), Random::new(random.next()), &tally);
                scope.spawn(move || soak_caller(&lanes, seed, end, tally));
            }
        }
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50 + random.below(150)));
            match random.below(3) {
                0 => manager.restart(process("alice")).unwrap(),
                1 => {
                    if let Some(&pid) = status(&manager, "bob").worker_pids.first() {
                        kill(pid);
                        kills += 1;
                    }
                }
                _ => drop(manager.process(process("bob"))),
            }
        }
    });
    println!("{kills} workers killed: {tally:?}");
    assert!(tally.answered.load(Ordering::Relaxed) > 100);
    // A worker runs one call at a time.
    assert!(tally.lost.load(Ordering::Relaxed) <= kills);
    eventually("every lane is gone", || ["alice", "bob"].iter().all(|name| status(&manager, name).lanes == 0));
    assert!(stage.server().metrics().unwrap().clients_cut == 0);
    drop(manager);
    stage.end();
}
