//! Clients and workers that misuse every word, pipe and socket that they share: it costs the calls of the one who does it, or
//! of the process whose worker does it. Everybody else is served, and the server lives.

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::random::Random;
use common::stage::{Stage, application, application_with_copies, process, status};
use common::{client, eventually, functions, stage};
use praas_client::{CallError, Client, Process};
use praas_protocol::FunctionId;
use praas_protocol::codec::encode;
use praas_protocol::control::ClientMessage;
use praas_shm::client_lane::Payload;
use praas_sys::Sending;
use rustix::fs::OFlags;

/// Longest wait for an answer that may never come.
const BRIEF: Duration = Duration::from_millis(100);

/// Where the words of attendance lie in a lane: who spins, who is parked, the client's bell.
const ATTENDANCE: u64 = 256;

/// Not a test of its own: what this binary does when a test, or a server of a test, runs it again.
#[test]
fn role() {
    stage::play();
}

/// Calls, and fails the test when the answer is not the right one.
fn assert_served(process: &Process, what: &str) {
    let payload = vec![9; 5000];
    let answer = process.call("echo").payload(&payload).deadline(common::PATIENCE).send();
    assert_eq!(answer.unwrap_or_else(|error| panic!("after {what}: {error}")).as_slice(), payload);
}

/// Calls over new lanes, until one is answered: the worker of the process may just be replaced.
fn await_served(client: &Client, name: &str, what: &str) {
    eventually(what, || {
        let opened = client.process(process(name));
        opened.is_ok_and(|lane| lane.call("echo").payload("?").deadline(BRIEF * 10).send().is_ok())
    });
}

/// Runs what a hostile peer does on another thread, as long as the test needs it.
fn meanwhile(mischief: impl Fn() + Sync, body: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                mischief();
            }
        });
        let _stop = Stop(&over);
        body();
    });
}

/// The same pipe under an open file description of its own, which never blocks.
fn opened_anew(pipe: &OwnedFd) -> OwnedFd {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/self/fd/{}", pipe.as_raw_fd()), flags, rustix::fs::Mode::empty()).unwrap()
}

#[test]
fn a_client_that_fills_its_doorbell_and_makes_it_block_stops_nobody() {
    let mut application = application();
    // A worker that may have siblings rings for them when it leaves work behind.
    (application.workers_min, application.workers_max) = (1, 2);
    let stage = Stage::new(application, |_| ());
    let honest = stage.with_process("alice");
    let alice = honest.process(process("alice")).unwrap();
    assert_served(&alice, "nothing");
    let mut hostile = client::Client::connect(stage.path());
    let lane = hostile.open(process("alice"), 4096).unwrap();
    let segment = std::fs::File::from(lane.segment.try_clone().unwrap());
    let filler = opened_anew(&lane.doorbell);
    // Whoever shares this description would wait for room that there never is.
    rustix::fs::fcntl_setfl(&lane.doorbell, OFlags::empty()).unwrap();
    let rounds = AtomicU64::new(0);
    let mischief = || {
        rounds.fetch_add(1, Ordering::Relaxed);
        // Claims that everybody is asleep, so that workers ring, and leaves work behind, so that they want to. Claims that
        // everybody spins as well, so that its own library does not ring: it would block its own thread.
        segment.write_all_at(&[0xff; 16], ATTENDANCE).unwrap();
        for _ in 0..4 {
            if lane.lane.quarantined() < 12
                && let Ok(ticket) = lane.lane.submit(FunctionId::of("sleep"), Payload::Bytes(b"2"), 0, 0)
            {
                lane.lane.abandon(ticket);
            }
        }
        // A worker drains its bells before it sleeps, not between calls: there it finds the pipe full. When others drain it
        // meanwhile, there is an end to this all the same.
        let _ = (0..64).take_while(|_| rustix::io::write(&filler, &[0; 4096]).is_ok()).count();
        let _ = (0..4096).take_while(|_| rustix::io::write(&filler, &[0]).is_ok()).count();
    };
    meanwhile(mischief, || {
        let end = std::time::Instant::now() + common::PATIENCE;
        for call in 0.. {
            if call >= 100 && rounds.load(Ordering::Relaxed) >= 50 {
                break;
            }
            assert_served(&alice, &format!("{call} calls beside a blocking doorbell"));
            // A worker that waits for the bell gets on each time that another drains it.
            assert!(std::time::Instant::now() < end, "workers wait for the doorbell: {call} calls in time");
        }
    });
    drop((lane, segment, filler));
    assert_served(&alice, "the hostile lane is gone");
    assert_eq!(status(&honest, "alice").worker_restarts, 0);
    drop((alice, honest, hostile));
    stage.end();
}

#[test]
fn a_client_that_writes_junk_over_its_lane_spoils_its_own_calls_alone() {
    let mut random = Random::printed("a client that writes junk");
    let mut application = application();
    (application.workers_min, application.workers_max) = (2, 2);
    let stage = Stage::new(application, |_| ());
    let honest = stage.with_process("alice");
    let alice = honest.process(process("alice")).unwrap();
    for round in 0..6 {
        let mut hostile = client::Client::connect(stage.path());
        let lane = hostile.open(process("alice"), 4096).unwrap();
        let segment = std::fs::File::from(lane.segment.try_clone().unwrap());
        for _ in 0..30 {
            for _ in 0..3 {
                if let Ok(ticket) = lane.lane.submit(FunctionId::of("echo"), Payload::Bytes(&[1; 3000]), 0, 0) {
                    lane.lane.abandon(ticket);
                }
            }
            // Header and attendance, ring, cells and the first blocks lie there.
            let from = random.below(16_384);
            let bytes = 1 + random.below(4096);
            functions::spoil_file(&segment, from, bytes, &mut random);
            assert_served(&alice, &format!("junk, round {round}"));
        }
        drop((lane, hostile));
    }
    assert_served(&alice, "all junk");
    assert_eq!(status(&honest, "alice").worker_restarts, 0, "{:?}", status(&honest, "alice").last_exit);
    eventually("the hostile lanes are gone", || status(&honest, "alice").lanes == 1);
    drop((alice, honest));
    stage.end();
}

#[test]
fn a_client_that_floods_shuts_or_ignores_its_socket_is_cut_off_alone() {
    let stage = Stage::new(application(), |_| ());
    let honest = stage.with_process("alice");
    let alice = honest.process(process("alice")).unwrap();
    use rustix::net::Shutdown;
    for how in [Some(Shutdown::Read), Some(Shutdown::Write), Some(Shutdown::Both), None] {
        let mut hostile = client::Client::connect(stage.path());
        let lane = hostile.open(process("alice"), 4096).unwrap();
        // A call of the hostile client runs while its connection goes.
        let running = lane.lane.submit(FunctionId::of("sleep"), Payload::Bytes(b"50"), 0, 0).unwrap();
        let ring = encode(&ClientMessage::Ring { lane: lane.id, process: process("alice") }).unwrap();
        let list = encode(&ClientMessage::Request {
            request: 1,
            body: praas_protocol::control::ClientRequest::ProcessList { after: None },
        });
        let list = list.unwrap();
        match how {
            Some(half) => rustix::net::shutdown(hostile.socket(), half).unwrap(),
            // More rings than any queue holds, and questions whose answers nobody reads.
            None => {
                for number in 0..5000 {
                    let packet = if number % 7 == 0 { &list } else { &ring };
                    if !matches!(hostile.socket().try_send(packet, &[]), Ok(Sending::Sent)) {
                        assert_served(&alice, "a full socket");
                    }
                }
            }
        }
        for _ in 0..20 {
            assert_served(&alice, &format!("{how:?}"));
        }
        lane.lane.abandon(running);
        drop((lane, hostile));
        eventually("the hostile lane is gone", || status(&honest, "alice").lanes == 1);
    }
    assert_eq!(status(&honest, "alice").worker_restarts, 0);
    drop((alice, honest));
    stage.end();
}

/// What a worker of "mallory" does is tried on lanes to it, while "alice" must not notice.
fn beside_alice(stage: &Stage, function: &str, payload: &str) -> (Client, Result<praas_client::Reply, CallError>) {
    let client = stage.client();
    let alice = client.process(process("alice")).unwrap();
    let mallory = client.process(process("mallory")).unwrap();
    let ended = mallory.call(function).payload(payload).deadline(BRIEF * 20).send();
    assert_served(&alice, payload);
    for _ in 0..3 {
        // Any end but a hang or a panic will do: the lane is in the hands of a worker that may have spoiled it.
        let _ = mallory.call("echo").payload(vec![4; 2000]).deadline(BRIEF).send();
    }
    if let Ok(pending) = mallory.start("echo", vec![4; 200_000]) {
        let _ = stage::block_on(praas_within(pending), common::PATIENCE);
    }
    assert_served(&alice, payload);
    (client, ended)
}

/// A pending call, given up after a moment.
async fn praas_within(pending: praas_client::Pending<'static>) -> Option<praas_client::Reply> {
    let end = std::time::Instant::now() + BRIEF;
    let mut pending = std::pin::pin!(pending);
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(reply) = pending.as_mut().poll(context) {
            return std::task::Poll::Ready(reply.ok());
        }
        if std::time::Instant::now() >= end {
            return std::task::Poll::Ready(None);
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await
}

#[test]
fn a_worker_that_writes_junk_over_every_region_of_its_lanes_spoils_its_own_process_alone() {
    let mut random = Random::printed("a worker that writes junk");
    let mut application = application();
    application.limits.drain_ms = 300;
    application.limits.call_ms_max = Some(2000);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    client.create(process("mallory")).unwrap();
    // The first bytes of a lane in the order of its regions, see `LaneLayout`: header 4 KiB, ring and cells 8 KiB each.
    let regions = [
        ("praas-lane", 0, 256),
        ("praas-lane", ATTENDANCE, 256),
        ("praas-lane", 4096, 8192),
        ("praas-lane", 12_288, 8192),
        ("praas-lane", 20_480, 1 << 20),
        ("praas-lane", 20_480 + (1 << 20), 1 << 20),
        ("praas-lane", 0, 1 << 22),
        ("praas-ledger", 0, 4096),
        ("praas-ledger", 0, 1 << 20),
        ("praas-worker", 0, 4096),
        ("praas-control", 0, 4096),
    ];
    let mut reached = 0;
    for (segment, from, bytes) in regions {
        for _ in 0..2 {
            let order = format!("{segment} {from} {bytes} {}", random.next());
            let (own, ended) = beside_alice(&stage, "spoil", &order);
            reached += u32::from(ended.is_ok_and(|words| words.starts_with(b"spoiled") && !words.ends_with(b" 0")));
            drop(own);
            // With new lanes the process serves again, its worker new or old.
            if client
                .process(process("mallory"))
                .and_then(|lane| {
                    let answered = lane.call("echo").payload("?").deadline(BRIEF * 5).send();
                    answered.map_err(|_| praas_client::RequestError::ConnectionLost)
                })
                .is_err()
            {
                client.restart(process("mallory")).unwrap();
                await_served(&client, "mallory", &order);
            }
        }
    }
    // A call whose cell was spoiled is not answered, so not every order reports back.
    println!("{reached} of {} orders were reported as carried out", regions.len() * 2);
    assert!(reached > 0, "the worker reached none of its segments");
    client.restart(process("mallory")).unwrap();
    await_served(&client, "mallory", "a restart");
    assert_served(&client.process(process("alice")).unwrap(), "everything");
    assert_eq!(status(&client, "alice").worker_restarts, 0);
    drop(client);
    stage.end();
}

#[test]
fn a_worker_that_misuses_its_control_socket_is_replaced_and_nobody_else_notices() {
    let mut application = application_with_copies();
    application.limits.call_ms_max = Some(5000);
    let stage = Stage::new(application, |_| ());
    let client = stage.with_process("alice");
    client.create(process("mallory")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    let pid = status(&client, "alice").worker_pids;
    for how in ["rings", "blocking", "junk", "huge", "lies", "hello", "descriptors", "half shut", "shut down", "steal"]
    {
        let (own, ended) = beside_alice(&stage, "socket", how);
        assert!(
            matches!(&ended, Err(CallError::WorkerLost | CallError::DeadlineExceeded { .. }))
                || ended.as_ref().is_ok_and(|words| words.as_slice() == b"done"),
            "{how}: {ended:?}"
        );
        drop(own);
        await_served(&client, "mallory", how);
    }
    let restarts = status(&client, "mallory").worker_restarts;
    assert!(restarts >= 4, "{restarts} workers were replaced");
    assert_served(&alice, "everything");
    assert_eq!((status(&client, "alice").worker_pids, status(&client, "alice").worker_restarts), (pid, 0));
    drop((alice, client));
    stage.end();
}

#[test]
fn a_worker_that_fills_and_drains_its_pipes_and_babbles_stops_nobody() {
    let stage = Stage::new(application_with_copies(), |_| ());
    let client = stage.with_process("alice");
    client.create(process("mallory")).unwrap();
    let alice = client.process(process("alice")).unwrap();
    for function in ["pipes", "babble"] {
        let mallory = client.process(process("mallory")).unwrap();
        let pending = mallory.start(function, "700").unwrap();
        let mut served = 0;
        eventually("the mischief ends", || {
            assert_served(&alice, function);
            served += 1;
            pending.is_done()
        });
        let words = pending.wait().unwrap();
        if words.starts_with(b"0 pipes") {
            println!("skipped the doorbells: this worker has a user of its own and may not open them anew");
        }
        println!("{function}: {}; {served} calls beside it", String::from_utf8_lossy(&words));
        // Its own clients may lose wake-ups, and are served within the period in which they look again.
        for _ in 0..5 {
            assert_served(&mallory, function);
        }
    }
    drop((alice, client));
    stage.end();
}
