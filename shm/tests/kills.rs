//! Workers and clients that are killed at every named step of a call ([`praas_shm::fault`]).
//!
//! The test plays the server. It starts this very program again as a worker or as a client, with the lane's descriptors
//! inherited and one step armed, and goes on calling until that process has killed itself there. Then it does what a server
//! does for the dead, and checks that every caller hears of it, that another worker serves on, and that all memory has come
//! back: after each kill a payload as large as the whole arena passes in both directions.
#![cfg(not(loom))]

mod support;

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::client_lane::{Answer, ClientLane, ClientLaneParts, Payload, Ticket, WaitEnd};
use praas_shm::fault::{Step, VARIABLE};
use praas_shm::running_call::RunningCall;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerLaneParts, WorkerTag};

use support::tasks::{Counting, Reactor};
use support::{Host, Options, PATIENCE, Serving, copy_of, eventually, park_on, pattern};

/// What the child is, and the numbers of its descriptors.
const ROLE: &str = "PRAAS_KILLS_ROLE";
const DESCRIPTORS: &str = "PRAAS_KILLS_DESCRIPTORS";
const GENERATION: &str = "PRAAS_KILLS_GENERATION";
/// Calls of every kind, with the bytes of their payloads.
const EVERY_KIND: [(fn() -> FunctionId, usize); 5] =
    [(echo, 10), (echo, 5000), (in_place, 3000), (of_request, 4000), (fails, 2000)];
/// The whole of an arena half: passes only if no block is lost.
const ALL_BYTES: usize = 1 << 20;
/// Rounds over each step, on the same lane, each killing at a later passage.
const ROUNDS: u16 = 3;
/// The round in which the worker polls; steps on the way to sleep leave it out.
const POLLING_ROUND: u16 = 2;
const SIGKILL: i32 = 9;

fn options(lane: u32) -> Options {
    Options { lane, wait_mode: WaitMode::Park, workers_max: 2, ..Options::default() }
}

/// How the worker of a round waits. One that polls leaves other traces than one that sleeps.
fn wait_mode_in(round: u16) -> WaitMode {
    if round == POLLING_ROUND { WaitMode::Spin } else { WaitMode::Park }
}

fn echo() -> FunctionId {
    FunctionId::of("echo")
}

fn in_place() -> FunctionId {
    FunctionId::of("in place")
}

fn of_request() -> FunctionId {
    FunctionId::of("answers where its input lies")
}

fn fails() -> FunctionId {
    FunctionId::of("reserves and fails")
}

fn run(call: RunningCall<'_>, scratch: &mut Scratch) {
    let bytes = call.payload_bytes();
    let function = call.function();
    if function == of_request() {
        return call.reply_with_input(bytes).unwrap();
    }
    let input = call.input(scratch).to_vec();
    if function == echo() {
        call.reply(Outcome::Ok, 0, 0, &input).unwrap();
        return;
    }
    match call.output_in_place(bytes).unwrap() {
        Some(output) if function == in_place() => {
            output.copy_from_slice(&input);
            call.reply_in_place(bytes).unwrap();
        }
        _ => call.reply(Outcome::FunctionFailed, 1, 2, b"as it should").unwrap(),
    }
}

// ---- the children ---------------------------------------------------------------------------------------------------

/// Not a test of its own: what this program is when a test below has started it.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let descriptors: Vec<OwnedFd> = std::env::var(DESCRIPTORS)
        .unwrap()
        .split(',')
        // SAFETY: the parent made these descriptors for this process alone, and nothing has taken them yet.
        .map(|number| unsafe { OwnedFd::from_raw_fd(number.parse().unwrap()) })
        .collect();
    match role.as_str() {
        "worker" => be_worker(descriptors, std::env::var(GENERATION).unwrap().parse().unwrap()),
        "client" => be_client(descriptors),
        other => panic!("no such role: {other}"),
    }
}

fn be_worker(descriptors: Vec<OwnedFd>, generation: u16) {
    let [segment, ledger, control, page, listen, ring] = descriptors.try_into().unwrap();
    let options = options(1);
    let tag = WorkerTag::new(0, generation);
    let mut end = WorkerEnd::new(WorkerStart {
        page,
        control,
        tag,
        wait_mode: wait_mode_in(generation),
        workers_max: options.workers_max,
        payload_bytes_max: options.payload_bytes_max,
    })
    .unwrap();
    let geometry = praas_shm::layout::geometry_for(options.payload_bytes_max, options.calls);
    let trusted = options.trusted;
    let parts = WorkerLaneParts {
        lane: LaneId(1),
        geometry,
        in_place: trusted,
        segment,
        ledger,
        doorbell: ring,
        reply_doorbell: None,
    };
    end.add_lane(parts).unwrap();
    let mut scratch = Scratch::new();
    loop {
        let mut park = || {
            park_on(&listen);
            false
        };
        if let Next::Call(call) = end.next(&mut park) {
            run(call, &mut scratch);
        }
    }
}

fn be_client(descriptors: Vec<OwnedFd>) {
    let [segment, control, doorbell] = descriptors.try_into().unwrap();
    let options = options(1);
    let lane = Arc::new(
        ClientLane::attach(ClientLaneParts {
            lane: LaneId(1),
            geometry: praas_shm::layout::geometry_for(options.payload_bytes_max, options.calls),
            trusted: options.trusted,
            payload_bytes_max: options.payload_bytes_max,
            workers_max: options.workers_max,
            segment,
            control,
            doorbell,
            ring_server: Box::new(|| ()),
        })
        .unwrap(),
    );
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for (function, bytes) in EVERY_KIND.map(|(function, bytes)| (function(), bytes)) {
            let submit = || lane.submit(function, Payload::Bytes(&vec![1; bytes]), 0, 0).unwrap();
            let waited = submit();
            assert_eq!(lane.wait(&waited, WaitMode::Park, PATIENCE), WaitEnd::Answered);
            drop(lane.take(waited));
            let polled = submit();
            while lane.poll(&polled, Waker::noop(), None).is_none() {
                lane.drive(Duration::from_millis(20));
            }
            drop(lane.take(polled));
            lane.abandon(submit());
        }
    }
    panic!("the step was never reached");
}

// ---- the parent -----------------------------------------------------------------------------------------------------

/// A child that is killed and reaped with this value.
struct Armed(Child);

/// Descriptors without close-on-exec exist only under this lock, so that no other test's child inherits them.
static SPAWNING: Mutex<()> = Mutex::new(());

impl Armed {
    fn start(role: &str, generation: u16, step: Step, passage: u16, descriptors: &[&dyn AsFdDyn]) -> Self {
        let _alone = SPAWNING.lock().unwrap();
        let inherited: Vec<OwnedFd> = descriptors.iter().map(|fd| rustix::io::dup(fd.fd()).unwrap()).collect();
        let numbers: Vec<String> = inherited.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--test-threads=1", "--nocapture"])
            .env(ROLE, role)
            .env(DESCRIPTORS, numbers.join(","))
            .env(GENERATION, generation.to_string())
            .env(VARIABLE, format!("{}:{passage}", step.name()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Whether it is dead; fails if it died of anything but its step.
    fn has_died(&mut self, step: Step) -> bool {
        let Some(status) = self.0.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(SIGKILL), "{}: the child ended with {status}", step.name());
        true
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Descriptors of different types in one list.
trait AsFdDyn {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// The server's part after a worker's death.
fn recover(host: &Host, page: &ServerWorkerPage, dead: WorkerTag) {
    let claims: Vec<_> = page.claims().collect();
    assert!(claims.len() <= 1, "a worker runs one call at a time");
    for claim in &claims {
        host.lane.answer_lost(claim);
    }
    host.lane.recover_worker(dead);
    if host.lane.unclaimed() > 0 {
        let _ = rustix::io::write(&host.ring, &[0]);
    }
}

/// A worker that is to die, the server that looks after it, and its caller.
struct Scene<'a> {
    host: &'a Arc<Host>,
    lane: &'a Arc<ClientLane>,
    step: Step,
    tag: WorkerTag,
    page: ServerWorkerPage,
    /// The armed worker, until its death is noticed.
    armed: Option<Armed>,
    /// Serves on; from the beginning, or once the other one is dead.
    heir: Option<Serving>,
    heir_tag: WorkerTag,
}

impl<'a> Scene<'a> {
    fn start(host: &'a Arc<Host>, lane: &'a Arc<ClientLane>, step: Step, round: u16, accompanied: bool) -> Self {
        let (tag, heir_tag) = (WorkerTag::new(0, round), WorkerTag::new(1, round));
        let page = ServerWorkerPage::create().unwrap();
        let segments: [&dyn AsFdDyn; 6] =
            [&host.lane.segment_fd(), &host.lane.ledger_fd(), &host.control.fd(), &page.fd(), &host.listen, &host.ring];
        // Calls come in pairs: at an odd passage the worker has waited for its call, and shows how.
        let armed = Armed::start("worker", round, step, 2 * round - 1, &segments);
        let mut scene = Self { host, lane, step, tag, page, armed: Some(armed), heir: None, heir_tag };
        if accompanied {
            scene.start_heir();
        }
        scene
    }

    fn start_heir(&mut self) {
        let mut scratch = Scratch::new();
        self.heir = Some(Serving::start(self.host, self.heir_tag, move |call| run(call, &mut scratch)));
    }

    fn look_after_the_worker(&mut self) {
        let step = self.step;
        if self.armed.as_mut().is_some_and(|armed| armed.has_died(step)) {
            self.armed = None;
            recover(self.host, &self.page, self.tag);
            if self.heir.is_none() {
                self.start_heir();
            }
        }
    }

    /// Waits for a call in slices, doing the server's part in between.
    fn settle(&mut self, ticket: Ticket) -> Answer {
        let start = Instant::now();
        while self.lane.wait(&ticket, WaitMode::Park, Duration::from_millis(5)) != WaitEnd::Answered {
            self.assert_patience(start);
            self.look_after_the_worker();
        }
        self.lane.take(ticket)
    }

    /// The same for a task, whose reactor sleeps until it is rung.
    fn settle_task(&mut self, ticket: Ticket) -> Answer {
        let counting = Arc::new(Counting::default());
        let waker = Waker::from(Arc::clone(&counting));
        let start = Instant::now();
        while self.lane.poll(&ticket, &waker, None).is_none() {
            while !counting.take() {
                self.assert_patience(start);
                std::thread::sleep(Duration::from_millis(1));
                self.look_after_the_worker();
            }
        }
        self.lane.take(ticket)
    }

    fn assert_patience(&self, start: Instant) {
        assert!(start.elapsed() < PATIENCE, "{}: a caller was left waiting", self.step.name());
    }

    /// Calls of every kind, until a worker is lost. Each is answered as it should be, or that its worker was lost.
    fn call_everything(&mut self, losses: &mut u32) {
        for (function, bytes) in EVERY_KIND.map(|(function, bytes)| (function(), bytes)) {
            for as_task in [false, true] {
                // The call beside it ends later, so that the next call does not use a lost one's cell: what that one
                // held must be free all the same.
                let beside = self.submit(echo(), b"beside");
                let sent = pattern(bytes, 3);
                let ticket = self.submit(function, &sent);
                let answer = if as_task { self.settle_task(ticket) } else { self.settle(ticket) };
                let lost = self.is_lost(&answer, function, &sent);
                let answer = self.settle(beside);
                if lost | self.is_lost(&answer, echo(), b"beside") {
                    *losses += 1;
                    return;
                }
            }
        }
    }

    fn submit(&self, function: FunctionId, bytes: &[u8]) -> Ticket {
        self.lane.submit(function, Payload::Bytes(bytes), 0, 0).unwrap()
    }

    fn is_lost(&self, answer: &Answer, function: FunctionId, sent: &[u8]) -> bool {
        match Outcome::from_code(answer.outcome_code) {
            Some(Outcome::WorkerLost) => return true,
            Some(Outcome::FunctionFailed) => assert!(function == fails()),
            Some(Outcome::Ok) => assert!(holds(answer, sent)),
            other => panic!("{}: {other:?}", self.step.name()),
        }
        false
    }

    /// A call that must succeed: its worker is not to die.
    fn call(&mut self, function: FunctionId, sent: &[u8]) -> Answer {
        let ticket = self.submit(function, sent);
        let answer = self.settle(ticket);
        assert_eq!(answer.outcome_code, Outcome::Ok as u32, "{}: a block was lost", self.step.name());
        assert!(holds(&answer, sent), "{}: a reply was spoiled", self.step.name());
        answer
    }
}

fn holds(answer: &Answer, sent: &[u8]) -> bool {
    answer.payload.as_ref().is_some_and(|payload| payload.as_slice() == Some(sent))
}

fn worker_steps() -> impl Iterator<Item = Step> {
    Step::ALL.iter().copied().filter(|step| !["client-", "message-"].iter().any(|part| step.name().starts_with(part)))
}

fn kill_a_worker_at(step: Step) {
    let host = Arc::new(Host::new(options(1)));
    let lane = host.client();
    let _reactor = Reactor::start(&lane);
    let (whole, keep) = (pattern(ALL_BYTES, 5), pattern(5000, 7));
    let (mut losses, mut kept) = (0, None::<Answer>);
    let sleeps = matches!(step, Step::WorkerMarkedParked | Step::WorkerWoken);
    for round in (1..=ROUNDS).filter(|&round| !sleeps || wait_mode_in(round) == WaitMode::Park) {
        // In the last round another worker is there from the beginning.
        let mut scene = Scene::start(&host, &lane, step, round, round == ROUNDS);
        let start = Instant::now();
        while scene.armed.is_some() {
            assert!(start.elapsed() < PATIENCE, "{} was never reached for the {round}th time", step.name());
            scene.call_everything(&mut losses);
            scene.look_after_the_worker();
        }
        // A reply that is kept from the round before still lies where it lay.
        scene.call(in_place(), &pattern(300 << 10, 6));
        assert!(kept.take().is_none_or(|answer| holds(&answer, &keep)), "{}: a reply was spoiled", step.name());
        scene.call(echo(), &whole);
        scene.call(in_place(), &whole);
        scene.call(of_request(), &whole);
        scene.call_everything(&mut 0);
        assert_eq!((lane.in_flight(), lane.quarantined(), host.lane.unclaimed()), (0, 0, 0), "{}", step.name());
        kept = Some(scene.call(echo(), &keep));
        let heir_tag = scene.heir_tag;
        drop(scene);
        host.lane.recover_worker(heir_tag);
    }
    assert!(losses <= u32::from(ROUNDS), "{}: a worker's death costs one call, its own", step.name());
}

#[test]
fn a_worker_killed_at_any_step_costs_its_own_call_and_nothing_else() {
    for step in worker_steps().filter(|step| step.name().starts_with("worker-")) {
        kill_a_worker_at(step);
    }
}

#[test]
fn a_worker_killed_at_any_step_in_the_ledger_costs_its_own_call_and_no_block() {
    for step in worker_steps().filter(|step| step.name().starts_with("ledger-")) {
        kill_a_worker_at(step);
    }
}

#[test]
fn a_client_killed_at_any_step_leaves_its_lane_drainable_and_its_worker_well() {
    // Another client of the same worker, which must not notice anything.
    let host = Arc::new(Host::new(options(7)));
    let lane = host.client();
    let inbox: Arc<Mutex<Vec<Arc<Host>>>> = Arc::default();
    let worker = {
        let inbox = Arc::clone(&inbox);
        let mut scratch = Scratch::new();
        Serving::with_mail(
            &host,
            WorkerTag::new(0, 1),
            move |call| run(call, &mut scratch),
            move |end| {
                end.remove_lane(LaneId(1));
                for host in inbox.lock().unwrap().drain(..) {
                    end.add_lane(host.worker_lane()).unwrap();
                }
            },
        )
    };
    let assert_served = |step: Step| {
        let ticket = lane.submit(echo(), Payload::Bytes(b"beside"), 0, 0).unwrap();
        assert_eq!(lane.wait(&ticket, WaitMode::Park, PATIENCE), WaitEnd::Answered, "{}", step.name());
        assert_eq!(lane.take(ticket).outcome_code, Outcome::Ok as u32, "{}", step.name());
    };
    for step in Step::ALL.iter().copied().filter(|step| step.name().starts_with("client-")) {
        for passage in [1, 6] {
            // Its doorbell is the worker's: a worker listens to those of all its lanes.
            let theirs = Host::new(options(1));
            let theirs = Arc::new(Host { listen: copy_of(&host.listen), ring: copy_of(&host.ring), ..theirs });
            inbox.lock().unwrap().push(Arc::clone(&theirs));
            worker.notify();
            let segments: [&dyn AsFdDyn; 3] = [&theirs.lane.segment_fd(), &theirs.control.fd(), &theirs.ring];
            let mut armed = Armed::start("client", 0, step, passage, &segments);
            eventually("the client dies at its step", || armed.has_died(step));
            assert_served(step);
            // What it had published runs or is refused; what ran is answered, though nobody reads it.
            theirs.control.set_phase(Phase::Draining);
            theirs.lane.refuse_unclaimed(|_| false, Outcome::Unavailable, Phase::Draining as u32);
            assert_eq!(theirs.lane.unclaimed(), 0, "{}", step.name());
            eventually("its calls end", || worker.page.claims().count() == 0);
            assert_served(step);
        }
    }
}
