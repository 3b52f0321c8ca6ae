//! The nanosecond parts of a call, on one thread: client's and worker's end of one lane in this process, no server, no
//! other core. What they cost together is what two cores add to their two line transfers.
//!
//! Parts of one call that cannot be told apart from outside are measured in bursts: as many calls as the lane has cells
//! are taken through one step, which alone is timed.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use praas_protocol::control::{LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Payload, Ticket, WaitEnd};
use praas_shm::control_page::ControlPage;
use praas_shm::layout::geometry_for;
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerLaneParts, WorkerTag};
use praas_sys::Doorbell;

const FUNCTION: FunctionId = FunctionId::of("noop");
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// Calls of a burst: half of the lane's cells and entries.
const BURST: usize = 32;
/// Far above what any step takes.
const PATIENCE: Duration = Duration::from_secs(10);
const INLINE: [u8; 64] = [7; 64];

/// Both ends of a lane, and what a server would hold of it.
struct Bench {
    client: Arc<ClientLane>,
    worker: WorkerEnd,
    scratch: Scratch,
    _server: (ControlPage, ServerLane, ServerWorkerPage, Doorbell),
}

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor is left")
}

impl Bench {
    fn new(trusted: bool) -> Self {
        let control = ControlPage::create(1, 1).expect("memory is left");
        let lane = ServerLane::create(LaneId(1), geometry_for(PAYLOAD_BYTES_MAX, 64)).expect("memory is left");
        let page = ServerWorkerPage::create().expect("memory is left");
        let doorbell = Doorbell::new().expect("a pipe is left");
        let client = ClientLane::attach(ClientLaneParts {
            lane: lane.id(),
            geometry: lane.geometry(),
            trusted,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            workers_max: 1,
            segment: copy_of(lane.segment_fd()),
            control: copy_of(control.fd()),
            doorbell: copy_of(&doorbell.ring),
            ring_server: Box::new(|| {}),
        })
        .expect("the lane is sound");
        let mut worker = WorkerEnd::new(WorkerStart {
            page: copy_of(page.fd()),
            control: copy_of(control.fd()),
            tag: WorkerTag::new(0, 1),
            wait_mode: WaitMode::Spin,
            workers_max: 1,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
        })
        .expect("the page is sound");
        worker
            .add_lane(WorkerLaneParts {
                lane: lane.id(),
                geometry: lane.geometry(),
                in_place: trusted,
                segment: copy_of(lane.segment_fd()),
                ledger: copy_of(lane.ledger_fd()),
                doorbell: copy_of(&doorbell.ring),
                reply_doorbell: None,
            })
            .expect("the lane is sound");
        let _server = (control, lane, page, doorbell);
        let mut bench = Self { client: Arc::new(client), worker, scratch: Scratch::new(), _server };
        // The first turn announces that the worker polls; from then on no request rings.
        bench.whole_call(&INLINE);
        bench
    }

    fn submit(&self, payload: &[u8]) -> Ticket {
        self.client.submit(FUNCTION, Payload::Bytes(payload), 0, 0).expect("there is room")
    }

    /// The worker's part: claim, read the input, answer it.
    fn answer(&mut self) {
        let Next::Call(call) = self.worker.next(&mut || false) else { panic!("a request was submitted") };
        let input = call.input(&mut self.scratch);
        let mut output = [0; 64];
        let output = &mut output[..input.len().min(64)];
        output.copy_from_slice(&input[..output.len()]);
        call.reply(Outcome::Ok, 0, 0, output).expect("nobody condemns it");
    }

    fn take(&self, ticket: Ticket) {
        assert_eq!(self.client.wait(&ticket, WaitMode::Spin, PATIENCE), WaitEnd::Answered);
        black_box(self.client.take(ticket));
    }

    fn whole_call(&mut self, payload: &[u8]) {
        let ticket = self.submit(payload);
        self.answer();
        self.take(ticket);
    }

    /// Takes bursts of calls through all steps and adds up the time of one of them.
    fn time_step(&mut self, iterations: u64, payload: &[u8], step: Step) -> Duration {
        let mut total = Duration::ZERO;
        let mut tickets = Vec::with_capacity(BURST);
        for _ in 0..iterations {
            let start = Instant::now();
            tickets.extend((0..BURST).map(|_| self.submit(payload)));
            let submitted = Instant::now();
            for _ in 0..BURST {
                self.answer();
            }
            let answered = Instant::now();
            for ticket in tickets.drain(..) {
                self.take(ticket);
            }
            total += match step {
                Step::Submit => submitted - start,
                Step::Answer => answered - submitted,
                Step::Take => answered.elapsed(),
            };
        }
        total
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Ring: publish; cell: arm; inline copy; summon nobody.
    Submit,
    /// Ring: claim and free; claim record; cell: answer.
    Answer,
    /// Cell: read and release.
    Take,
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("steps of a call, 32 in a row");
    group.throughput(Throughput::Elements(BURST as u64));
    for (domain, trusted) in [("trusted", true), ("untrusted", false)] {
        for payload in [&INLINE[..0], &INLINE[..]] {
            for step in [Step::Submit, Step::Answer, Step::Take] {
                let mut bench = Bench::new(trusted);
                let id = BenchmarkId::new(format!("{step:?}, {domain}"), format!("{} B", payload.len()));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|iterations| bench.time_step(iterations, payload, step));
                });
            }
        }
    }
    group.finish();
}

fn whole_calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a call on one thread");
    for (domain, trusted) in [("trusted", true), ("untrusted", false)] {
        for bytes in [0, 64, 65, 4096] {
            let payload = vec![7; bytes];
            let mut bench = Bench::new(trusted);
            let id = BenchmarkId::new(domain, format!("{bytes} B"));
            group.bench_function(id, |bencher| bencher.iter(|| bench.whole_call(black_box(&payload))));
        }
    }
    group.finish();
}

fn loans(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("arena: allocate and free");
    for bytes in [64, 4096, 1 << 20] {
        let bench = Bench::new(true);
        group.bench_function(format!("{bytes} B"), |bencher| {
            bencher.iter(|| {
                let loan = bench.client.loan(black_box(bytes)).expect("the arena is empty");
                bench.client.return_loan(loan);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = lane;
    config = Criterion::default().without_plots();
    targets = steps, whole_calls, loans
}
criterion_main!(lane);
