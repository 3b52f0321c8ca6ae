//! Peers that write whatever they like to a lane, its ledger and a worker page, between any two operations of the others:
//! nothing panics, hangs, or reads outside the segments, and the worker serves another lane as if nothing had happened.
//!
//! Input: a byte of settings, then steps; [`Stage::step`] lists their letters. Writes go through the descriptors, as a
//! peer's own mapping would: no memory of this process is touched but by the code under test.
#![no_main]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use praas_fuzz::Bytes;
use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome, Phase};
use praas_shm::client_lane::{Answer, ClientLane, ClientLaneParts, LoanBlock, Payload, Retracted, SubmitError, Ticket};
use praas_shm::control_page::ControlPage;
use praas_shm::running_call::RunningCall;
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerLaneParts, WorkerTag};
use rustix::pipe::PipeFlags;

/// Slots of ring and cells: the fewest that a lane can have, so that they fill and wrap soon.
const SLOTS: usize = 4;
/// Bytes of each half of the arena: the fewest.
const HALF_BYTES: u32 = 1 << 20;
/// Steps of one input.
const STEPS_MAX: usize = 256;
/// Answers that are kept at a time; each keeps a cell.
const KEPT_MAX: usize = 3;
/// Turns of the worker within which the lane of a client that keeps to the rules is served.
const TURNS_MAX: usize = 64;

const SPOILED: LaneId = LaneId(1);
const BYSTANDER: LaneId = LaneId(2);
const WORKER: WorkerTag = WorkerTag::new(0, 1);
const DEAD_WORKER: WorkerTag = WorkerTag::new(1, 1);

/// Where things lie in a lane segment and a ledger, restated from their documentation.
const ATTENDANCE: u64 = 256;
const RING: u64 = 4096;
const SLOT: u64 = 128;
const CELLS: u64 = RING + SLOTS as u64 * SLOT;
const LEDGER_RECORDS: u64 = 128;
const LEDGER_MAP: u64 = 4096;

/// Halves of words that mean something somewhere: states, tags, generations, block offsets, ends of ranges.
const HALVES: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    96,
    1024,
    4096,
    HALF_BYTES - 1024,
    HALF_BYTES,
    0x8000_0100,
    0x8000_0101,
    u32::MAX - 1,
    u32::MAX,
];
/// Payloads around the sizes at which they travel differently.
const SIZES: [usize; 12] =
    [0, 1, 64, 65, 96, 97, 1024, 1025, 5000, 100_000, HALF_BYTES as usize, HALF_BYTES as usize + 1];

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let mut stage = Stage::new(bytes.byte());
    for _ in 0..STEPS_MAX {
        let Some(letter) = bytes.letter() else { break };
        stage.step(letter, &mut bytes);
    }
    stage.end();
});

/// A real lane with a server, a client and a worker, and another one beside it that nobody spoils.
struct Stage {
    control: ControlPage,
    server: ServerLane,
    client: Arc<ClientLane>,
    worker: WorkerEnd,
    _worker_page: ServerWorkerPage,
    /// The page of a worker that breaks the rules; the server alone reads it.
    hostile_page: ServerWorkerPage,
    parts: Parts,
    lane_file: File,
    ledger_file: File,
    page_file: File,
    bystander: Arc<ClientLane>,
    _bystander_server: ServerLane,
    scratch: Scratch,
    tickets: Vec<Ticket>,
    kept: Vec<Answer>,
    loans: Vec<LoanBlock>,
}

/// What both lanes are attached with.
struct Parts {
    trusted: bool,
    workers_max: u32,
    listen: OwnedFd,
    ring: OwnedFd,
}

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor")
}

impl Parts {
    fn client(&self, lane: &ServerLane, control: &ControlPage) -> Arc<ClientLane> {
        let parts = ClientLaneParts {
            lane: lane.id(),
            geometry: lane.geometry(),
            trusted: self.trusted,
            payload_bytes_max: HALF_BYTES,
            workers_max: self.workers_max,
            segment: copy_of(lane.segment_fd()),
            control: copy_of(control.fd()),
            doorbell: copy_of(&self.ring),
            ring_server: Box::new(|| ()),
        };
        Arc::new(ClientLane::attach(parts).expect("a fresh lane"))
    }

    fn worker(&self, lane: &ServerLane) -> WorkerLaneParts {
        WorkerLaneParts {
            lane: lane.id(),
            geometry: lane.geometry(),
            in_place: self.trusted,
            segment: copy_of(lane.segment_fd()),
            ledger: copy_of(lane.ledger_fd()),
            doorbell: copy_of(&self.ring),
            reply_doorbell: None,
        }
    }
}

impl Stage {
    /// Settings: bit 0 one trust domain, bit 1 more workers allowed, bit 2 adaptive waiting instead of sleeping at once.
    fn new(settings: u8) -> Self {
        let slots = u32::try_from(SLOTS).expect("few slots");
        let geometry = LaneGeometry {
            ring_entries: slots,
            cells: slots,
            request_arena_bytes: HALF_BYTES,
            reply_arena_bytes: HALF_BYTES,
        };
        let (listen, ring) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
        let workers_max = if settings & 2 == 0 { 1 } else { 2 };
        let parts = Parts { trusted: settings & 1 == 1, workers_max, listen, ring };
        let control = ControlPage::create(1, 1).expect("a page");
        let server = ServerLane::create(SPOILED, geometry).expect("a lane");
        let bystander_server = ServerLane::create(BYSTANDER, geometry).expect("a lane");
        let (page, hostile_page) = (page(), page());
        let start = WorkerStart {
            page: copy_of(page.fd()),
            control: copy_of(control.fd()),
            tag: WORKER,
            wait_mode: if settings & 4 == 0 { WaitMode::Park } else { WaitMode::Adaptive },
            workers_max,
            payload_bytes_max: HALF_BYTES,
        };
        let mut worker = WorkerEnd::new(start).expect("fresh pages");
        worker.add_lane(parts.worker(&server)).expect("a fresh lane");
        worker.add_lane(parts.worker(&bystander_server)).expect("a fresh lane");
        Self {
            client: parts.client(&server, &control),
            bystander: parts.client(&bystander_server, &control),
            lane_file: copy_of(server.segment_fd()).into(),
            ledger_file: copy_of(server.ledger_fd()).into(),
            page_file: copy_of(hostile_page.fd()).into(),
            _worker_page: page,
            hostile_page,
            control,
            server,
            worker,
            parts,
            _bystander_server: bystander_server,
            scratch: Scratch::new(),
            tickets: Vec::new(),
            kept: Vec::new(),
            loans: Vec::new(),
        }
    }

    /// One step. Operands follow the letter; a call is named by its place among those in flight.
    fn step(&mut self, letter: u8, bytes: &mut Bytes<'_>) {
        match letter {
            // Writes of a peer: a control word by its number and two meaningful halves, or any bytes anywhere.
            b'w' | b'W' | b'g' | b'G' | b'p' | b'P' => self.write(letter, bytes),
            // Client: submit a payload or a loan.
            b's' => self.submit(bytes),
            b'l' => self.borrow(bytes),
            b'L' => self.submit_loan(),
            b'R' => self.loans.pop().into_iter().for_each(|loan| self.client.return_loan(loan)),
            // Client: look at, wait for, and end a call.
            b'y' => self.wait(bytes),
            b'o' => self.poll(bytes),
            b't' => self.take(bytes),
            b'k' => drop(self.kept.pop()),
            b'a' => self.ticket(bytes).into_iter().for_each(|ticket| self.client.abandon(ticket)),
            b'x' => self.retract(bytes),
            b'q' => {
                let _ = (self.client.quarantined(), self.client.in_flight(), self.client.phase());
            }
            b'v' => {
                self.client.drive(Duration::ZERO);
            }
            b'm' => self.client.mark_lost(),
            // Worker: run the next call; run it while peers write; leave the lane and come back.
            b'n' => self.work(bytes, false),
            b'h' => self.work(bytes, true),
            b'j' => self.come_back(),
            // Server.
            b'u' => {
                let keep = u128::from(bytes.byte());
                let _ = self.server.refuse_unclaimed(|root| root & keep != 0, Outcome::Unavailable, 2);
            }
            b'r' => self.recover(),
            b'f' => {
                let phase = bytes.pick(&[Phase::Active, Phase::Draining, Phase::Closed]);
                self.control.set_phase(phase);
            }
            b'e' => self.control.revoke(SPOILED),
            b'b' => {
                self.control.set_workers(bytes.byte().into());
                self.control.acknowledge_rings();
            }
            _ => {}
        }
    }

    fn write(&mut self, letter: u8, bytes: &mut Bytes<'_>) {
        let (lane, ledger, page) = (&self.lane_file, &self.ledger_file, &self.page_file);
        spoil(letter, bytes, [lane, ledger, page]);
    }

    fn ticket(&mut self, bytes: &mut Bytes<'_>) -> Option<Ticket> {
        let place = usize::from(bytes.byte());
        (!self.tickets.is_empty()).then(|| self.tickets.swap_remove(place % self.tickets.len()))
    }

    fn submit(&mut self, bytes: &mut Bytes<'_>) {
        let payload = vec![3; bytes.pick(&SIZES)];
        let deadline_ns = bytes.pick(&[0, 0, 1, u64::MAX]);
        let root = bytes.pick(&[0, 0, 1, u128::MAX]);
        let submitted = self.client.submit(FunctionId::of("echo"), Payload::Bytes(&payload), deadline_ns, root);
        self.note(submitted);
    }

    fn note(&mut self, submitted: Result<Ticket, SubmitError>) {
        match submitted {
            Ok(ticket) => self.tickets.push(ticket),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                let (SubmitError::Full { loan, .. }
                | SubmitError::TooLarge { loan, .. }
                | SubmitError::Unavailable { loan, .. }
                | SubmitError::Lost { loan }) = error
                else {
                    return;
                };
                self.loans.extend(loan);
            }
        }
    }

    fn borrow(&mut self, bytes: &mut Bytes<'_>) {
        let Ok(mut loan) = self.client.loan(bytes.pick(&SIZES)) else { return };
        let (middle, end) = (loan.bytes() / 2, loan.bytes());
        self.client.loan_write(&mut loan, middle, &vec![4; end - middle]);
        if let Some(bytes) = self.client.loan_bytes_mut(&mut loan) {
            bytes[..middle].fill(5);
        }
        self.client.loan_read(&loan, &mut vec![0; end]);
        self.loans.push(loan);
    }

    fn submit_loan(&mut self) {
        let Some(loan) = self.loans.pop() else { return };
        let submitted = self.client.submit(FunctionId::of("echo"), Payload::Loan(loan), 0, 0);
        self.note(submitted);
    }

    fn wait(&mut self, bytes: &mut Bytes<'_>) {
        let mode = bytes.pick(&[WaitMode::Park, WaitMode::Adaptive, WaitMode::Spin]);
        if let Some(ticket) = self.ticket(bytes) {
            let _ = self.client.wait(&ticket, mode, Duration::ZERO);
            self.tickets.push(ticket);
        }
    }

    fn poll(&mut self, bytes: &mut Bytes<'_>) {
        let deadline = bytes.pick(&[None, Some(Duration::ZERO), Some(Duration::from_secs(3600))]);
        if let Some(ticket) = self.ticket(bytes) {
            let _ = self.client.poll(&ticket, Waker::noop(), deadline.map(|left| Instant::now() + left));
            self.tickets.push(ticket);
        }
    }

    fn take(&mut self, bytes: &mut Bytes<'_>) {
        let Some(ticket) = self.ticket(bytes) else { return };
        let mut answer = self.client.take(ticket);
        let _ = Outcome::from_code(answer.outcome_code);
        self.loans.extend(answer.returned_loan.take());
        if let Some(payload) = &answer.payload {
            read(payload);
        }
        if self.kept.len() < KEPT_MAX {
            self.kept.push(answer);
        }
    }

    fn retract(&mut self, bytes: &mut Bytes<'_>) {
        let Some(ticket) = self.ticket(bytes) else { return };
        if let Retracted::NeverRan { loan } = self.client.retract(ticket) {
            self.loans.extend(loan);
        }
    }

    /// The worker's next call, if there is one: how it is answered follows. If `held`, so do writes of peers up to the
    /// first other step.
    fn work(&mut self, bytes: &mut Bytes<'_>, held: bool) {
        let how = bytes.byte();
        let output_bytes = SIZES[usize::from(how >> 4) % SIZES.len()];
        let mut spoils = Vec::new();
        while held && matches!(bytes.next_letter(), Some(b'w' | b'W' | b'g' | b'G')) && spoils.len() < 16 {
            let letter = bytes.byte();
            spoils.push((letter, bytes.slice(if letter.is_ascii_lowercase() { 3 } else { 10 })));
        }
        // Taken out of `self` for the time of the call, which borrows the worker's end and nothing else.
        let Self { worker, scratch, .. } = self;
        let mut park = || true;
        let Next::Call(call) = worker.next(&mut park) else { return };
        let mut scratch = std::mem::take(scratch);
        let in_place = how & 1 == 1 && matches!(call.output_in_place(output_bytes), Ok(Some(_)));
        let input = call.input(&mut scratch).len();
        assert_eq!(input, call.payload_bytes());
        for (letter, operands) in spoils {
            spoil(letter, &mut Bytes::new(operands), [&self.lane_file, &self.ledger_file, &self.page_file]);
        }
        answer(call, how, in_place, output_bytes, &mut scratch);
        self.scratch = scratch;
    }

    fn come_back(&mut self) {
        assert!(self.worker.remove_lane(SPOILED));
        // The header is left alone by these peers: junk there is refused, which `lane_attach` is about.
        self.worker.add_lane(self.parts.worker(&self.server)).expect("a lane with its header");
    }

    /// What a server does when a worker is dead whose page holds anything.
    fn recover(&mut self) {
        let claims: Vec<_> = self.hostile_page.claims().collect();
        for claim in &claims {
            let _ = self.hostile_page.condemn(claim);
            if claim.lane == SPOILED.0 {
                self.server.answer_lost(claim);
            }
        }
        let _ = (self.hostile_page.phase_copied(), self.hostile_page.is_parked(), self.hostile_page.calls());
        let recovered = self.server.recover_worker(DEAD_WORKER);
        assert!(recovered as usize <= SLOTS && self.server.unclaimed() as usize <= SLOTS);
    }

    /// The bystander's call is answered as ever; then everything goes.
    fn end(mut self) {
        self.control.set_phase(Phase::Active);
        let sent: [u8; 80] = std::array::from_fn(|at| at as u8);
        let submitted = self.bystander.submit(FunctionId::of("echo"), Payload::Bytes(&sent), 0, 0);
        let ticket = submitted.expect("a lane that nobody spoiled takes a call");
        for _ in 0..TURNS_MAX {
            if self.bystander.is_answered(&ticket) {
                break;
            }
            let mut drained = [0; 64];
            let _ = rustix::io::read(&self.parts.listen, &mut drained);
            if let Next::Call(call) = self.worker.next(&mut || true) {
                let output = call.input(&mut self.scratch).to_vec();
                let _ = call.reply(Outcome::Ok, 0, 0, &output);
            }
        }
        assert!(self.bystander.is_answered(&ticket), "the other lane is not served any more");
        let answer = self.bystander.take(ticket);
        let payload = answer.payload.expect("an answer inside its lane");
        let mut received = vec![0; payload.len()];
        payload.copy_to(&mut received);
        assert!(answer.outcome_code == Outcome::Ok as u32 && received == sent, "the other lane's call was spoiled");
        for ticket in self.tickets.drain(..) {
            self.client.abandon(ticket);
        }
        self.kept.iter().filter_map(|answer| answer.payload.as_ref()).for_each(read);
    }
}

fn page() -> ServerWorkerPage {
    ServerWorkerPage::create().expect("a page")
}

fn read(payload: &praas_shm::client_lane::AnswerPayload) {
    let mut copied = vec![0; payload.len()];
    payload.copy_to(&mut copied);
    if let Some(slice) = payload.as_slice() {
        assert_eq!(slice.len(), copied.len());
    }
}

/// Ends a call in one of the ways in which a runtime does.
fn answer(call: RunningCall<'_>, how: u8, in_place: bool, output_bytes: usize, scratch: &mut Scratch) {
    let _ = (call.function(), call.root(), call.time_remaining(), call.is_abandoned(), call.needs_help(), call.lane());
    let _ = match how >> 1 & 3 {
        0 if in_place => call.reply_in_place(output_bytes),
        1 => {
            drop(call);
            Ok(())
        }
        2 => call.reply(Outcome::FunctionFailed, u32::MAX, 1, &vec![6; output_bytes]),
        _ => {
            let echo = call.input(scratch).to_vec();
            call.reply(Outcome::Ok, 0, 0, &echo)
        }
    };
}

/// One write of a peer to lane, ledger or page.
fn spoil(letter: u8, bytes: &mut Bytes<'_>, [lane, ledger, page]: [&File; 3]) {
    let (file, words, any) = match letter.to_ascii_lowercase() {
        b'w' => (lane, lane_words as fn(u8) -> u64, ATTENDANCE..CELLS + SLOTS as u64 * SLOT + 8192),
        // Not the lock: a worker waits for seconds before it gives a spoiled one up. A test of its own does that.
        b'g' => (ledger, ledger_words as fn(u8) -> u64, LEDGER_RECORDS..LEDGER_MAP + 2048),
        _ => (page, page_words as fn(u8) -> u64, 0..4096),
    };
    let (offset, value) = if letter.is_ascii_lowercase() {
        let offset = words(bytes.byte());
        let (low, high) = (bytes.pick(&HALVES), bytes.pick(&HALVES));
        (offset, u64::from(high) << 32 | u64::from(low))
    } else {
        let offset = any.start + u64::from(bytes.pair()) * 8 % (any.end - any.start);
        (offset, bytes.word())
    };
    file.write_all_at(&value.to_le_bytes(), offset).expect("a word inside a segment");
}

/// The control words of a lane by number: attendance and bell, then nine words an entry, then six a cell.
fn lane_words(number: u8) -> u64 {
    let number = u64::from(number);
    match number % (3 + 9 * SLOTS as u64 + 6 * SLOTS as u64) {
        at @ 0..2 => ATTENDANCE + at * 8,
        2 => ATTENDANCE + 128,
        at if at < 3 + 9 * SLOTS as u64 => RING + (at - 3) / 9 * SLOT + (at - 3) % 9 * 8,
        at => {
            let at = at - 3 - 9 * SLOTS as u64;
            CELLS + at / 6 * SLOT + at % 6 * 8
        }
    }
}

/// The records of a ledger by number, then the first words of its map.
fn ledger_words(number: u8) -> u64 {
    match u64::from(number) {
        at if at < SLOTS as u64 => LEDGER_RECORDS + at * 8,
        at => LEDGER_MAP + (at - SLOTS as u64) * 8,
    }
}

/// The words of a worker page by number: its own, then those of its claim records.
fn page_words(number: u8) -> u64 {
    u64::from(number) * 8
}
