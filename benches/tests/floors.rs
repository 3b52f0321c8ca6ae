//! Every floor takes the samples it was asked for, ends when its other side dies or its deadline passes, and leaves
//! nothing behind. One test at a time: they count the process's descriptors and children.

use std::fs;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use praas_benches::floors::{
    Background, BareRing, Batch, Blocks, Clock, Config, Copy, CopyFromPeer, Crowd, EchoServer, FloorError,
    MessageQueue, PingPong, Placement, Redis, RedisPlacement, RedisQueue, SharedMemoryCrate, Spawn, TRIVIAL_PROGRAM,
    TcpBlock, TcpCrowd, TcpEcho, Touched, UnixSocket, Waiting, allowed_cpus, bare_ring, copy, copy_from_peer,
    futex_ping_pong, message_queue_ping_pong, shared_memory_crate_ping_pong, spawn, spin_ping_pong, tcp_block,
    tcp_crowd, tcp_echo, touched, unix_stream_ping_pong,
};
use praas_benches::interleave::{Comparison, Series, Turn, interleave};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_praas-benches");
const SAMPLES: u64 = 20;
/// More operations than any test lives to see.
const ENDLESS: Batch = Batch { warm_up: 1 << 40, samples: 1 };
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);
const SMALL_CROWD: Crowd = Crowd { connections: 5, in_flight: 3 };
const SMALL_BLOCKS: Blocks = Blocks { block_bytes: 4096, sources: 3, destinations: 2 };

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // The clock's calibration is not part of what a test counts.
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = Clock::calibrated();
    guard
}

fn config(placement: Placement) -> Config {
    Config::new(placement).samples(SAMPLES).warm_up(5).peer_program(PROGRAM)
}

/// Two cores, or free placement on a machine with one.
fn apart() -> Config {
    config(Placement::two_cores().unwrap_or(Placement::Free))
}

/// Whether two sides that spin can run at the same time; on one core each exchange would take a time slice.
fn can_spin() -> bool {
    match Placement::two_cores() {
        Ok(_) => true,
        Err(error) => {
            println!("skipped what spins on both sides: {error}");
            false
        }
    }
}

fn together() -> Config {
    config(Placement::one_core().expect("there is a core"))
}

fn link_targets() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").expect("a process lists its descriptors");
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// Descriptors, but for the one that lists them.
fn descriptors() -> usize {
    link_targets().iter().filter(|target| !target.starts_with("/proc/")).count()
}

/// The state letter and parent of a process, if it exists.
fn state_and_parent(process_id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    // The name, in brackets, may hold anything; the fields follow its last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("processes are listed");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| state_and_parent(*id).is_some_and(|(_, found)| found == parent))
        .collect()
}

fn poll_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not come about in {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `floor` and proves that it took its samples and left neither descriptor nor process.
fn leaves_nothing(name: &str, floor: impl FnOnce() -> Result<praas_benches::floors::Samples, FloorError>) {
    let before = descriptors();
    let samples = floor().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(samples.count(), SAMPLES, "{name}");
    assert!(samples.p50_ns() > 0.0 && samples.per_second() > 0.0, "{name}: {samples:?}");
    assert_eq!(descriptors(), before, "{name} left descriptors: {:?}", link_targets());
    assert_eq!(children_of(process::id()), [0_u32; 0], "{name} left processes");
}

#[test]
fn each_floor_takes_its_samples_and_leaves_nothing() {
    let _turn = one_at_a_time();
    let (two, one, free) = (apart(), together(), config(Placement::Free));
    if can_spin() {
        leaves_nothing("spin, two cores", || spin_ping_pong(&two));
        leaves_nothing("spin, free", || spin_ping_pong(&free));
        leaves_nothing("shared_memory crate", || shared_memory_crate_ping_pong(&two));
        leaves_nothing("bare ring", || bare_ring(&two));
        leaves_nothing("TCP, spin", || tcp_echo(Waiting::Spin, &two));
        leaves_nothing("copy from peer", || copy_from_peer(&two, SMALL_BLOCKS));
        leaves_nothing("touched", || touched(&two, SMALL_BLOCKS));
    }
    for config in [&two, &one, &free] {
        let placement = config.placement();
        leaves_nothing(&format!("futex, {placement}"), || futex_ping_pong(config));
        leaves_nothing(&format!("message queue, {placement}"), || message_queue_ping_pong(config));
        leaves_nothing(&format!("Unix stream, {placement}"), || unix_stream_ping_pong(config));
        leaves_nothing(&format!("TCP, {placement}"), || tcp_echo(Waiting::Park, config));
        leaves_nothing(&format!("TCP block, {placement}"), || tcp_block(config, 1 << 18));
        leaves_nothing(&format!("TCP crowd, {placement}"), || tcp_crowd(EchoServer::Epoll, SMALL_CROWD, config));
    }
    let first_cpu = allowed_cpus().expect("the kernel tells")[0];
    leaves_nothing("futex beside a spinner", || futex_ping_pong(&free.clone().beside_spinner(first_cpu)));
    leaves_nothing("copy", || copy(&one, SMALL_BLOCKS));
    leaves_nothing("spawn", || spawn(&free));
}

#[test]
fn both_network_drivers_echo_a_crowd_and_leave_nothing() {
    let _turn = one_at_a_time();
    let free = config(Placement::Free);
    leaves_nothing("epoll driver", || tcp_crowd(EchoServer::EpollDriver, SMALL_CROWD, &free));
    if let Err(refusal) = praas_sys::driver::probe() {
        println!("skipped the io_uring driver: {refusal}");
        return;
    }
    leaves_nothing("io_uring driver", || tcp_crowd(EchoServer::IoUringDriver, SMALL_CROWD, &free));
    #[cfg(feature = "tokio-uring")]
    leaves_nothing("tokio-uring", || tcp_crowd(EchoServer::TokioUring, SMALL_CROWD, &free));
}

#[test]
fn redis_is_measured_where_it_is_installed_and_leaves_nothing() {
    let _turn = one_at_a_time();
    let before = descriptors();
    match Redis::start(&config(Placement::Free)) {
        Ok(mut redis) => {
            let samples = redis.round().expect("redis-benchmark gives its figure");
            assert!(samples.per_second() > 0.0, "{samples:?}");
        }
        Err(FloorError::NotInstalled { program, advice }) => {
            println!("skipped: {program} is not installed; install it with {advice}");
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(descriptors(), before, "{:?}", link_targets());
    assert_eq!(children_of(process::id()), [0_u32; 0]);
}

#[test]
fn messages_through_redis_come_back_and_leave_nothing() {
    let _turn = one_at_a_time();
    let placement = RedisPlacement { clients: Placement::Free, server_cpu: None };
    match RedisQueue::open(&config(Placement::Free), placement).map(drop) {
        Ok(()) => leaves_nothing("Redis queue", || {
            let mut queue = RedisQueue::open(&config(Placement::Free), placement)?;
            queue.round(Batch { warm_up: 1, samples: 7 })?;
            queue.round(Batch { warm_up: 5, samples: SAMPLES })
        }),
        Err(FloorError::NotInstalled { program, advice }) => {
            println!("skipped: {program} is not installed; install it with {advice}");
            return;
        }
        Err(error) => panic!("{error}"),
    }
    let short = config(Placement::Free).round_deadline(Duration::from_millis(100));
    let mut queue = RedisQueue::open(&short, placement).expect("it was there a moment ago");
    let error = queue.round(ENDLESS).expect_err("it never ends by itself");
    assert!(matches!(error, FloorError::DeadlineExceeded { .. }), "{error}");
}

#[test]
fn spinning_on_one_core_is_refused() {
    let _turn = one_at_a_time();
    let one = together();
    let refused = [
        PingPong::open(Waiting::Spin, &one).map(drop),
        TcpEcho::open(Waiting::Spin, &one).map(drop),
        SharedMemoryCrate::open(&one).map(drop),
        BareRing::open(&one).map(drop),
        Touched::open(&one, SMALL_BLOCKS).map(drop),
        CopyFromPeer::open(&one, SMALL_BLOCKS).map(drop),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(FloorError::SpinsOnOneCore { .. })), "{outcome:?}");
    }
}

#[test]
fn an_open_floor_has_no_name_in_the_system() {
    let _turn = one_at_a_time();
    let queue = MessageQueue::open(&apart()).expect("message queues");
    let segment = SharedMemoryCrate::open(&apart()).expect("a segment");
    let named: Vec<String> = link_targets()
        .into_iter()
        .filter(|target| target.contains("/praas-floor-") || target.starts_with("/dev/shm/"))
        .collect();
    assert_eq!(named.len(), 3, "two queues and a segment: {named:?}");
    for target in &named {
        assert!(target.ends_with("(deleted)"), "{target} can still be opened by name");
    }
    drop((queue, segment));
}

#[test]
fn rounds_of_several_floors_interleave_and_continue_where_they_were() {
    let _turn = one_at_a_time();
    if !can_spin() {
        return;
    }
    let (two, batch) = (apart(), Batch { warm_up: 2, samples: 30 });
    let mut floor = PingPong::open(Waiting::Park, &two).expect("a floor");
    let mut figure = MessageQueue::open(&two).expect("a floor");
    let mut ring = BareRing::open(&two).expect("a floor");
    let mut blocks = Touched::open(&two, SMALL_BLOCKS).expect("a floor");
    let mut turns = [
        Turn::new(&mut floor, batch),
        Turn::new(&mut figure, batch),
        Turn::new(&mut ring, batch),
        Turn::new(&mut blocks, batch),
    ];
    let outcomes = interleave(4, &mut turns, |_| {}).expect("all rounds");
    for outcome in &outcomes {
        assert_eq!(outcome.samples.count(), 120, "{}", outcome.label);
        assert_eq!(outcome.rounds.len(), 4);
    }
    assert!(Comparison::of(&outcomes[0], &outcomes[1]).ratio_of_medians > 0.0);
}

type Opened = Result<Box<dyn Series>, FloorError>;

fn boxed<S: Series + 'static>(series: Result<S, FloorError>) -> Opened {
    Ok(Box::new(series?))
}

#[test]
fn a_round_ends_at_its_deadline_whatever_it_waits_for() {
    let _turn = one_at_a_time();
    let two = apart().round_deadline(Duration::from_millis(100));
    let floors: [(&str, Opened); 11] = [
        ("spin", boxed(PingPong::open(Waiting::Spin, &two))),
        ("park", boxed(PingPong::open(Waiting::Park, &two))),
        ("queue", boxed(MessageQueue::open(&two))),
        ("socket", boxed(UnixSocket::open(&two))),
        ("TCP", boxed(TcpEcho::open(Waiting::Park, &two))),
        ("TCP spin", boxed(TcpEcho::open(Waiting::Spin, &two))),
        ("TCP block", boxed(TcpBlock::open(1 << 18, &two))),
        ("TCP crowd", boxed(TcpCrowd::open(EchoServer::Epoll, SMALL_CROWD, &two))),
        ("segment", boxed(SharedMemoryCrate::open(&two))),
        ("ring", boxed(BareRing::open(&two))),
        ("blocks", boxed(Touched::open(&two, SMALL_BLOCKS))),
    ];
    for (name, floor) in floors {
        let mut floor = floor.unwrap_or_else(|error| panic!("{name}: {error}"));
        let error = floor.round(ENDLESS).expect_err("it never ends by itself");
        let error = error.downcast::<FloorError>().expect("a floor's own error");
        assert!(matches!(*error, FloorError::DeadlineExceeded { .. }), "{name}: {error}");
        let again = floor.round(ENDLESS).expect_err("its other side is dead");
        assert!(matches!(again.downcast_ref(), Some(FloorError::Spent { .. })), "{name}: {again}");
    }
}

#[test]
fn a_round_ends_when_its_other_side_is_killed() {
    let _turn = one_at_a_time();
    for waiting in [Waiting::Spin, Waiting::Park] {
        let mut floor = PingPong::open(waiting, &apart()).expect("a floor");
        let peer = i32::try_from(floor.peer_process_id()).ok().and_then(Pid::from_raw).expect("a process id");
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(Duration::from_millis(50));
                kill_process(peer, Signal::KILL).expect("our own child");
            });
            let error = floor.round(ENDLESS).expect_err("nobody answers");
            // Killed before the round began or in it: both are told as what they are.
            assert!(matches!(error, FloorError::PeerGone { .. }), "{waiting:?}: {error}");
        });
    }
    assert_eq!(children_of(process::id()), [0_u32; 0]);
}

#[test]
fn a_program_that_is_no_peer_is_told_apart() {
    let _turn = one_at_a_time();
    let before = descriptors();
    let error = futex_ping_pong(&apart().peer_program(TRIVIAL_PROGRAM)).expect_err("it ends at once");
    assert!(matches!(error, FloorError::PeerNotReady { .. }), "{error}");
    assert!(error.to_string().contains("serve_peer_if_asked"), "{error}");
    let error = futex_ping_pong(&apart().peer_program("/no/such/program")).expect_err("it does not exist");
    assert!(matches!(error, FloorError::PeerStart { .. }), "{error}");
    assert_eq!(descriptors(), before);
    assert_eq!(children_of(process::id()), [0_u32; 0]);
}

#[test]
fn a_failing_program_is_no_floor() {
    let _turn = one_at_a_time();
    let mut floor = Spawn::open(&config(Placement::Free), Path::new("/bin/false")).expect("a path");
    let error = floor.round(Batch { warm_up: 0, samples: 1 }).expect_err("it fails");
    assert!(matches!(error, FloorError::ProgramFailed { .. }), "{error}");
}

#[test]
fn a_spinner_spins_only_while_asked() {
    let _turn = one_at_a_time();
    let cpu = allowed_cpus().expect("the kernel tells")[0];
    let mut background = Background::start(Path::new(PROGRAM), cpu).expect("a spinner");
    let id = background.process_id();
    let is = |wanted: &str| state_and_parent(id).is_some_and(|(state, _)| state == wanted);
    poll_until("the idle spinner's sleep", || is("S"));
    for _ in 0..2 {
        let spinning = background.spin().expect("it starts");
        poll_until("the spinner's run", || is("R"));
        drop(spinning);
        poll_until("the stopped spinner's sleep", || is("S"));
    }
    drop(background);
    assert_eq!(state_and_parent(id), None);
}

#[test]
fn peers_die_with_a_killed_parent() {
    let _turn = one_at_a_time();
    let mut parent = Command::new(PROGRAM)
        .args(["floors"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let parent_id = parent.id();
    let mut peers = Vec::new();
    poll_until("a peer of the started program", || {
        peers = children_of(parent_id);
        !peers.is_empty()
    });
    parent.kill().expect("our own child");
    parent.wait().expect("our own child");
    // A dead peer may wait for its reaper; it does not run any more.
    let has_ended = |id: &u32| state_and_parent(*id).is_none_or(|(state, _)| state == "Z" || state == "X");
    poll_until("the peers' end", || peers.iter().all(has_ended));
}

#[test]
fn copies_rotate_through_all_blocks() {
    let _turn = one_at_a_time();
    let mut floor = Copy::open(&together(), SMALL_BLOCKS).expect("memory");
    for _ in 0..2 {
        let samples = floor.round(Batch { warm_up: 1, samples: 7 }).expect("copies");
        assert_eq!(samples.count(), 7);
    }
}
