//! Peers that break every rule: they write whatever they like, whenever they like, to all the memory that they map.
//!
//! Each test lets the other ends go on over spoiled memory. They must not panic, must come back from every call in bounded
//! time, and must go on serving another lane as if nothing had happened. What becomes of the spoiled lane's own calls is the
//! spoiler's business.
#![cfg(not(loom))]

mod support;

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::client_lane::{ClientLane, Payload, Ticket, WaitEnd};
use praas_shm::running_call::RunningCall;
use praas_shm::worker_end::{Next, WorkerEnd};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerTag};
use rustix::mm::{MapFlags, ProtFlags};

use support::{Host, Options, PATIENCE, pattern};

const WORKER: WorkerTag = WorkerTag::new(0, 1);
const OTHER_WORKER: WorkerTag = WorkerTag::new(1, 1);
const CELLS: usize = 4;
/// Where things lie in a lane segment, restated from its documentation.
const ATTENDANCE: usize = 256;
const RING: usize = 4096;
const SLOT: usize = 128;
const CELL_TABLE: usize = RING + CELLS * SLOT;
/// Header and records of a ledger of this many cells, and the beginning of its map.
const LEDGER_CONTROL: usize = 128 + CELLS * 8;
const LEDGER_MAP: usize = 4096;

/// Halves of words that mean something somewhere: states, tags, a worker's own tag, ends of ranges.
const NASTY: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 1024, 0x8000_0100, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];

/// Another mapping of a segment, as a peer has it that writes where it should not.
struct Spoiler {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: plain shared memory; all access is by atomics.
unsafe impl Send for Spoiler {}
// SAFETY: as above.
unsafe impl Sync for Spoiler {}

impl Spoiler {
    fn map(fd: BorrowedFd<'_>) -> Self {
        let bytes = usize::try_from(rustix::fs::fstat(fd).unwrap().st_size).unwrap();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) };
        Self { start: NonNull::new(start.unwrap().cast()).unwrap(), bytes }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.bytes);
        // SAFETY: inside the mapping, aligned, and any bit pattern is a valid atomic.
        unsafe { self.start.add(offset).cast().as_ref() }
    }

    fn write(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::SeqCst);
    }
}

impl Drop for Spoiler {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and references into it borrow the value.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) }.unwrap();
    }
}

/// A small generator of junk (xorshift); its seed is printed, and can be given again.
struct Junk(u64);

impl Junk {
    fn new(test: &str) -> Self {
        let seed = std::env::var("PRAAS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos()) << 20 | u64::from(std::process::id()) | 1
        });
        println!("{test}: PRAAS_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    /// A word that is nasty in both halves, in one, or just random.
    fn word(&mut self) -> u64 {
        let half = |junk: &mut Self| match junk.below(3) {
            0 => junk.next() & 0xffff_ffff,
            1 => junk.next() & 7,
            _ => u64::from(NASTY[junk.below(NASTY.len())]),
        };
        half(self) << 32 | half(self)
    }
}

fn words() -> Vec<u64> {
    let mut words = Vec::new();
    for half in NASTY.map(u64::from) {
        words.extend([half, half << 32, half << 32 | half, 1 << 32 | half, half << 32 | 1]);
    }
    words.sort_unstable();
    words.dedup();
    words
}

/// Every word by which the ends of a lane control each other, and the first words of inline payloads.
fn control_words() -> Vec<usize> {
    let mut offsets: Vec<usize> = (0..4).map(|word| word * 8).collect();
    // `spinning`, `parked`, and the client's bell in its own line.
    offsets.extend([ATTENDANCE, ATTENDANCE + 8, ATTENDANCE + 128]);
    // The slots that the calls of these tests use first; all are alike.
    for slot in 0..2 {
        offsets.extend((0..8).chain([15]).map(|word| RING + slot * SLOT + word * 8));
        offsets.extend((0..6).map(|word| CELL_TABLE + slot * SLOT + word * 8));
    }
    offsets
}

fn options(lane: u32) -> Options {
    let half = 1 << 20;
    let sizes = LaneGeometry {
        ring_entries: u32::try_from(CELLS).unwrap(),
        cells: u32::try_from(CELLS).unwrap(),
        request_arena_bytes: half,
        reply_arena_bytes: half,
    };
    Options {
        lane,
        trusted: false,
        wait_mode: WaitMode::Park,
        geometry: Some(sizes),
        workers_max: 2,
        ..Options::default()
    }
}

fn echo() -> FunctionId {
    FunctionId::of("echo")
}

fn answer(call: RunningCall<'_>, scratch: &mut Scratch) {
    let output = call.input(scratch).to_vec();
    let _ = (call.is_abandoned(), call.time_remaining(), call.output_in_place(100));
    // Condemned, where junk in the record says so.
    let _ = call.reply(Outcome::Ok, 0, 0, &output);
}

/// A worker, and a lane of a client that keeps to the rules.
struct Bystander {
    end: WorkerEnd,
    page: ServerWorkerPage,
    scratch: Scratch,
    _host: Host,
    lane: Arc<ClientLane>,
    calls: usize,
}

impl Bystander {
    fn new() -> Self {
        let host = Host::new(options(7));
        let (end, page) = host.worker(WORKER);
        let lane = host.client();
        Self { end, page, scratch: Scratch::new(), _host: host, lane, calls: 0 }
    }

    /// Runs what there is to run, at most `most` calls. A worker that finds nothing goes to sleep, which ends this.
    fn work(&mut self, most: usize) {
        for _ in 0..most {
            match self.end.next(&mut || true) {
                Next::Call(call) => answer(call, &mut self.scratch),
                Next::Mail | Next::Closed => return,
            }
        }
    }

    /// A call on the lane that nobody spoils: it must be as good as ever.
    fn assert_served(&mut self) {
        self.calls += 1;
        let sent = pattern([10, 3000][self.calls % 2], self.calls as u64);
        let ticket = self.lane.submit(echo(), Payload::Bytes(&sent), 0, 0).unwrap();
        let start = Instant::now();
        while !self.lane.is_answered(&ticket) {
            assert!(start.elapsed() < PATIENCE, "the other lane is not served any more");
            self.work(CELLS + 1);
        }
        let answer = self.lane.take(ticket);
        let payload = answer.payload.unwrap();
        let mut bytes = vec![0; payload.len()];
        payload.copy_to(&mut bytes);
        assert!(answer.outcome_code == Outcome::Ok as u32 && bytes == sent, "the other lane's call was spoiled");
    }
}

/// How far a lane's calls are when it is spoiled.
#[derive(Debug, Clone, Copy)]
enum State {
    Idle,
    Published,
    PublishedBlock,
    Parked,
    Bell,
    Abandoned,
    Claimed,
    Answered,
    AnsweredBlock,
}

const STATES: [State; 9] = [
    State::Idle,
    State::Published,
    State::PublishedBlock,
    State::Parked,
    State::Bell,
    State::Abandoned,
    State::Claimed,
    State::Answered,
    State::AnsweredBlock,
];

/// All that a client can do with a call, over memory that may hold anything.
fn operate_client(lane: &Arc<ClientLane>, ticket: Option<Ticket>, step: usize) {
    let _ = (lane.in_flight(), lane.quarantined(), lane.phase());
    lane.drive(Duration::ZERO);
    let Some(ticket) = ticket else { return };
    for mode in [WaitMode::Spin, WaitMode::Park, WaitMode::Adaptive] {
        let _ = lane.wait(&ticket, mode, Duration::ZERO);
    }
    let _ = lane.poll(&ticket, Waker::noop(), Some(Instant::now()));
    match step % 3 {
        // Taken whether it is answered or not, as when a worker changes the word after the client has seen it.
        0 => {
            let taken = lane.take(ticket);
            if let Some(payload) = taken.payload {
                payload.copy_to(&mut vec![0; payload.len()]);
            }
        }
        1 => lane.abandon(ticket),
        _ => drop(lane.retract(ticket)),
    }
}

/// All that a server can do with a lane and the page of a worker that is dead.
fn operate_server(host: &Host, page: &ServerWorkerPage, dead: WorkerTag) {
    let _ = (host.lane.unclaimed(), host.lane.allocated_bytes());
    let claims: Vec<_> = page.claims().collect();
    for claim in &claims {
        host.lane.answer_lost(claim);
    }
    let _ = host.lane.refuse_unclaimed(|root| root & 1 == 1, Outcome::Unavailable, Phase::Draining as u32);
    let _ = host.lane.recover_worker(dead);
}

#[test]
fn any_word_in_any_state_costs_the_lane_that_it_is_in_and_nothing_else() {
    let mut bystander = Bystander::new();
    let mut junk = Junk::new("any word in any state");
    let mut step = 0;
    for state in STATES {
        for offset in control_words() {
            let mut values = words();
            values.extend([junk.word(), junk.word()]);
            for value in values {
                step += 1;
                spoil_once(&mut bystander, state, offset, value, step);
            }
        }
        bystander.assert_served();
    }
}

fn spoil_once(bystander: &mut Bystander, state: State, offset: usize, value: u64, step: usize) {
    let host = Host::new(options(1));
    let spoiler = Spoiler::map(host.lane.segment_fd());
    let lane = host.client();
    bystander.end.add_lane(host.worker_lane()).unwrap();
    let submit = |bytes: usize| lane.submit(echo(), Payload::Bytes(&vec![1; bytes]), 1 << 40, 0).ok();
    let ticket = match state {
        State::Idle => None,
        State::Published | State::Claimed => submit(5),
        State::PublishedBlock => submit(5000),
        State::Parked => submit(5).inspect(|ticket| {
            let _ = lane.wait(ticket, WaitMode::Park, Duration::ZERO);
        }),
        State::Bell => submit(5).inspect(|ticket| {
            let _ = lane.poll(ticket, Waker::noop(), None);
        }),
        State::Abandoned => {
            lane.abandon(submit(5).unwrap());
            None
        }
        State::Answered | State::AnsweredBlock => {
            let ticket = submit(if matches!(state, State::Answered) { 5 } else { 5000 });
            bystander.work(2);
            ticket
        }
    };
    if matches!(state, State::Claimed) {
        match bystander.end.next(&mut || true) {
            Next::Call(call) => {
                spoiler.write(offset, value);
                answer(call, &mut bystander.scratch);
            }
            other => panic!("{other:?} instead of the call"),
        }
    } else {
        spoiler.write(offset, value);
    }
    if step.is_multiple_of(2) {
        operate_client(&lane, ticket, step / 2);
        bystander.work(CELLS + 1);
    } else {
        bystander.work(CELLS + 1);
        operate_client(&lane, ticket, step / 2);
    }
    // A full ring or table is an answer too.
    let again = submit(70);
    bystander.work(CELLS + 1);
    operate_server(&host, &bystander.page, OTHER_WORKER);
    operate_client(&lane, again, step / 2 + 1);
    if step.is_multiple_of(16) {
        bystander.assert_served();
    }
    assert!(bystander.end.remove_lane(LaneId(1)));
}

#[test]
fn junk_all_over_a_lane_leaves_its_ends_bounded() {
    let mut bystander = Bystander::new();
    let mut junk = Junk::new("junk all over a lane");
    let offsets = control_words();
    for step in 0..400 {
        let host = Host::new(options(1));
        let spoiler = Spoiler::map(host.lane.segment_fd());
        let lane = host.client();
        bystander.end.add_lane(host.worker_lane()).unwrap();
        for round in 0..6 {
            let ticket = lane.submit(echo(), Payload::Bytes(&[2; 200]), 0, 0).ok();
            for _ in 0..=junk.below(2 * offsets.len()) {
                spoiler.write(offsets[junk.below(offsets.len())], junk.word());
            }
            bystander.work(2 * CELLS);
            operate_client(&lane, ticket, step + round);
            operate_server(&host, &bystander.page, OTHER_WORKER);
        }
        bystander.assert_served();
        assert!(bystander.end.remove_lane(LaneId(1)));
    }
}

/// Writes junk over `spoilers` until told to stop.
fn scribble(spoilers: &[(&Spoiler, &[usize])], junk: &mut Junk, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..8 {
            let (spoiler, offsets) = spoilers[junk.below(spoilers.len())];
            spoiler.write(offsets[junk.below(offsets.len())], junk.word());
        }
        // The other ends run between the writes, on machines with few cores.
        std::thread::yield_now();
    }
}

/// Whether a call ends as it must, whatever its worker or its fellow client threads do to its lane: with an answer of some
/// kind, or at its deadline.
fn call_in_the_storm(lane: &Arc<ClientLane>, number: usize) {
    let bytes = vec![3; [0, 64, 65, 4000][number % 4]];
    let mode = [WaitMode::Park, WaitMode::Spin, WaitMode::Adaptive][number % 3];
    let Ok(ticket) = lane.submit(echo(), Payload::Bytes(&bytes), 0, 0) else {
        std::thread::yield_now();
        return;
    };
    match lane.wait(&ticket, mode, Duration::from_millis(1)) {
        WaitEnd::Answered => {
            let answer = lane.take(ticket);
            let _ = Outcome::from_code(answer.outcome_code);
            if let Some(payload) = answer.payload {
                payload.copy_to(&mut vec![0; payload.len()]);
            }
        }
        WaitEnd::DeadlinePassed | WaitEnd::Lost => lane.abandon(ticket),
    }
}

/// Both directions at once: every end of a lane goes on while somebody scribbles over lane, ledger and worker page, and
/// the worker serves another lane all the while.
#[test]
fn a_storm_of_junk_costs_the_lane_that_it_is_in_and_nothing_else() {
    const STORM: Duration = Duration::from_secs(4);
    let mut junk = Junk::new("a storm of junk");
    let bystander = Mutex::new(Bystander::new());
    let host = Host::new(options(1));
    // The ledger's lock is spoiled in a test of its own: a worker waits for seconds before it gives a spoiled one up.
    let ledger: Vec<usize> =
        (128..LEDGER_CONTROL).step_by(8).chain((LEDGER_MAP..LEDGER_MAP + 2048).step_by(8)).collect();
    let arenas: Vec<usize> = (8192..65536).step_by(8).collect();
    // All but the header, which is read once, by whoever attaches: spoiled, it is refused by its magic number.
    let mut lane_words: Vec<usize> = control_words().into_iter().filter(|&offset| offset >= ATTENDANCE).collect();
    lane_words.extend(arenas);
    let (lane_spoiler, ledger_spoiler) = (Spoiler::map(host.lane.segment_fd()), Spoiler::map(host.lane.ledger_fd()));
    bystander.lock().unwrap().end.add_lane(host.worker_lane()).unwrap();
    let page = ServerWorkerPage::create().unwrap();
    let page_spoiler = Spoiler::map(page.fd());
    let page_words: Vec<usize> = (8..128 + 16 * 64).step_by(8).collect();
    let (stop, lanes) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let spoilers: [(&Spoiler, &[usize]); 3] =
            [(&lane_spoiler, &lane_words), (&ledger_spoiler, &ledger), (&page_spoiler, &page_words)];
        let (stop, junk) = (&stop, &mut junk);
        scope.spawn(move || scribble(&spoilers, junk, stop));
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                operate_server(&host, &page, OTHER_WORKER);
                let claims: Vec<_> = page.claims().collect();
                assert!(claims.len() <= 16);
                for claim in claims {
                    let _ = page.condemn(&claim);
                }
                let _ = (page.phase_copied(), page.is_parked(), page.calls());
                std::thread::yield_now();
            }
        });
        for thread in 0..2 {
            let (host, lanes) = (&host, &lanes);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A lane end whose calls were all spoiled has no cells left: a client would ask for another lane.
                    let lane = host.client();
                    lanes.fetch_add(1, Ordering::Relaxed);
                    for number in 0..200 {
                        call_in_the_storm(&lane, number + thread);
                        lane.drive(Duration::ZERO);
                    }
                }
            });
        }
        let start = Instant::now();
        let mut served = 0;
        while start.elapsed() < STORM {
            bystander.lock().unwrap().assert_served();
            served += 1;
        }
        stop.store(true, Ordering::Relaxed);
        println!("{served} calls were served beside the storm, {} lane ends worn out", lanes.load(Ordering::Relaxed));
        assert!(served > 0);
    });
    bystander.lock().unwrap().assert_served();
}

/// What a worker writes over its ledger concerns the lanes of its own process: replies are lost with figures, nothing
/// hangs, and once that worker is dead the server makes the ledger usable again.
#[test]
fn junk_over_a_ledger_is_recovered() {
    let mut junk = Junk::new("junk over a ledger");
    for round in 0..60 {
        let mut bystander = Bystander::new();
        let host = Host::new(options(1));
        let spoiler = Spoiler::map(host.lane.ledger_fd());
        let lane = host.client();
        bystander.end.add_lane(host.worker_lane()).unwrap();
        let ticket = lane.submit(echo(), Payload::Bytes(&[4; 5000]), 0, 0).unwrap();
        bystander.work(1);
        let kept = lane.take(ticket);
        for _ in 0..200 {
            let offset =
                if junk.below(2) == 0 { 128 + 8 * junk.below(CELLS) } else { LEDGER_MAP + 8 * junk.below(256) };
            spoiler.write(offset, junk.word());
        }
        // The spoiler dies inside the lock, in its own name, in an earlier life's, or in nobody's.
        let lock = [OTHER_WORKER_WORD, 0x8000_0001, 0xffff_ffff, 5][round % 4];
        spoiler.write(0, u64::from(lock));
        operate_server(&host, &bystander.page, OTHER_WORKER);
        assert_eq!(spoiler.word(0).load(Ordering::SeqCst) & 0xffff_ffff, 0, "lock {lock:#x} was not freed");
        for size in [97, 5000, 100_000] {
            let ticket = lane.submit(echo(), Payload::Bytes(&vec![5; size]), 0, 0).unwrap();
            bystander.work(1);
            assert_eq!(lane.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered);
            let code = lane.take(ticket).outcome_code;
            assert!([Outcome::Ok as u32, Outcome::ReplyLost as u32].contains(&code), "outcome {code}");
        }
        drop(kept);
        bystander.assert_served();
        assert!(bystander.end.remove_lane(LaneId(1)));
    }
}

/// The word of [`OTHER_WORKER`]: its bit, generation 1, index 1.
const OTHER_WORKER_WORD: u32 = 1 << 31 | 1 << 8 | 1;

#[test]
fn a_ledger_lock_that_a_living_worker_spoiled_loses_one_reply_and_does_not_hang() {
    let mut bystander = Bystander::new();
    let host = Host::new(options(1));
    let spoiler = Spoiler::map(host.lane.ledger_fd());
    let lane = host.client();
    bystander.end.add_lane(host.worker_lane()).unwrap();
    spoiler.write(0, u64::from(OTHER_WORKER_WORD));
    let ticket = lane.submit(echo(), Payload::Bytes(&[4; 5000]), 0, 0).unwrap();
    bystander.work(1);
    assert_eq!(lane.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered);
    let answer = lane.take(ticket);
    assert_eq!((answer.outcome_code, answer.more), (Outcome::ReplyLost as u32, 5000));
    host.lane.recover_worker(OTHER_WORKER);
    let ticket = lane.submit(echo(), Payload::Bytes(&[4; 5000]), 0, 0).unwrap();
    bystander.work(1);
    assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32);
    bystander.assert_served();
}

#[test]
fn a_worker_page_full_of_junk_tells_the_server_nothing_that_it_acts_on_elsewhere() {
    let mut junk = Junk::new("a worker page full of junk");
    let mut bystander = Bystander::new();
    let host = Host::new(options(1));
    let lane = host.client();
    let waiting = lane.submit(echo(), Payload::Bytes(b"waits"), 0, 0).unwrap();
    let page = ServerWorkerPage::create().unwrap();
    let spoiler = Spoiler::map(page.fd());
    for _ in 0..2000 {
        for _ in 0..20 {
            spoiler.write(8 * junk.below(512), junk.word());
        }
        let claims: Vec<_> = page.claims().collect();
        for claim in &claims {
            // A server finds the lane by its number, among those of that worker's process.
            if claim.lane == 1 && (claim.cell, claim.generation) != (0, 1) {
                host.lane.answer_lost(claim);
            }
            let _ = page.condemn(claim);
        }
        let _ = (page.phase_copied(), page.is_parked(), page.calls());
        page.notify();
    }
    bystander.end.add_lane(host.worker_lane()).unwrap();
    bystander.work(1);
    assert_eq!(lane.wait(&waiting, WaitMode::Park, PATIENCE), WaitEnd::Answered);
    bystander.assert_served();
}

/// Workers do not look at the cell before they run a call: the cell may not even exist.
#[test]
fn a_request_that_names_no_cell_is_run_for_nobody() {
    for trusted in [true, false] {
        let mut bystander = Bystander::new();
        let host = Host::new(Options { trusted, ..options(1) });
        let spoiler = Spoiler::map(host.lane.segment_fd());
        let lane = host.client();
        bystander.end.add_lane(host.worker_lane()).unwrap();
        for (slot, cell) in [4, 5, 1 << 20, u64::from(u32::MAX)].into_iter().enumerate() {
            let ticket = lane.submit(echo(), Payload::Bytes(&[1; 2000]), 0, 0).unwrap();
            spoiler.write(RING + slot * SLOT + 8, 1 << 32 | cell);
            bystander.work(2);
            assert_eq!(lane.wait(&ticket, WaitMode::Park, Duration::ZERO), WaitEnd::DeadlinePassed);
            bystander.assert_served();
        }
    }
}

/// An answer may say that it lies in its request's block: only where there is one, no longer than the request, and to nobody who
/// serves many.
#[test]
fn an_answer_that_claims_more_of_its_request_than_there_is_has_no_payload() {
    const OF_REQUEST: u64 = 0xffff_fffe << 32;
    const DONE: u64 = 5;
    let (ok, lost) = (Outcome::Ok as u64, Outcome::WorkerLost as u64);
    let claims = [
        (2000, 2000, ok, true),
        (2000, 0, ok, true),
        (2000, 2001, ok, false),
        (2000, 4096, ok, false),
        (2000, 0xffff_ffff, ok, false),
        (2000, 100, lost, false),
        (64, 64, ok, false),
        (0, 0, ok, false),
    ];
    for (sent, claimed, outcome, is_there) in claims {
        for (trusted, is_loop) in [(true, false), (false, false), (true, true)] {
            let host = Host::new(Options { trusted, ..options(1) });
            let spoiler = Spoiler::map(host.lane.segment_fd());
            let lane = if is_loop { host.reactor() } else { host.client() };
            let ticket = lane.submit(echo(), Payload::Bytes(&vec![7; sent]), 0, 0).unwrap();
            let mut cells = (0..CELLS).map(|cell| CELL_TABLE + cell * SLOT);
            let cell = cells.find(|&cell| spoiler.word(cell).load(Ordering::SeqCst) & 7 != 0).expect("a cell waits");
            spoiler.write(cell + 8, outcome);
            spoiler.write(cell + 16, OF_REQUEST | claimed);
            let generation = spoiler.word(cell).load(Ordering::SeqCst) >> 32;
            spoiler.write(cell, generation << 32 | DONE);
            assert!(lane.is_answered(&ticket));
            let answer = lane.take(ticket);
            let found = answer.payload.as_ref().map(|payload| {
                let mut bytes = vec![0; payload.len()];
                payload.copy_to(&mut bytes);
                bytes
            });
            let expected = (is_there && !is_loop).then(|| vec![7; usize::try_from(claimed).unwrap()]);
            assert_eq!(found, expected, "{claimed} of {sent} bytes, outcome {outcome}, event loop {is_loop}");
            drop(answer);
            // The block has come back.
            lane.return_loan(lane.loan(1 << 20).unwrap());
        }
    }
}

#[test]
fn a_doorbell_that_is_full_or_without_listeners_stops_nobody() {
    let mut bystander = Bystander::new();
    let host = Host::new(options(1));
    let lane = host.client();
    bystander.end.add_lane(host.worker_lane()).unwrap();
    while rustix::io::write(&host.ring, &[0; 4096]).is_ok() {}
    for _ in 0..20 {
        let ticket = lane.submit(echo(), Payload::Bytes(b"full"), 0, 0).unwrap();
        bystander.work(2);
        assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32);
    }
    let Host { listen, lane: server, control, .. } = host;
    drop(listen);
    let ticket = lane.submit(echo(), Payload::Bytes(b"closed"), 0, 0).unwrap();
    assert_eq!(lane.wait(&ticket, WaitMode::Park, Duration::from_millis(250)), WaitEnd::DeadlinePassed);
    assert_eq!(server.unclaimed(), 1);
    bystander.work(2);
    assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32);
    drop(control);
    bystander.assert_served();
}
