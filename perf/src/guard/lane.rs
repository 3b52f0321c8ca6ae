//! Both ends of a lane on one thread: what a call costs its client and its worker beside the transfer of its lines. Calls are
//! taken through each step in bursts, so that no step waits for another.

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

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

use super::rig::{OPERATIONS, PAYLOAD_BYTES, Rig, Step};

const FUNCTION: FunctionId = FunctionId::of("noop");
const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
/// Calls that the lane holds: twice a burst.
const IN_FLIGHT_MAX: u32 = 64;
/// Far above what any step takes.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const STEPS: [Step; 3] = [
    Step { name: "lane: submit a call of 64 B (client)", function: "guarded_submit" },
    Step { name: "lane: take a call and answer 64 B (worker)", function: "guarded_answer" },
    Step { name: "lane: take an answer of 64 B (client)", function: "guarded_take" },
];

/// Both ends of a lane, and what a server would hold of it.
pub(super) struct LaneRig {
    client: Arc<ClientLane>,
    worker: WorkerEnd,
    scratch: Scratch,
    tickets: Vec<Ticket>,
    _server: (ControlPage, ServerLane, ServerWorkerPage, Doorbell),
}

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor is left")
}

impl LaneRig {
    pub(super) fn new() -> Self {
        let control = ControlPage::create(1, 1).expect("memory is left");
        let geometry = geometry_for(PAYLOAD_BYTES_MAX, IN_FLIGHT_MAX);
        let lane = ServerLane::create(LaneId(1), geometry).expect("memory is left");
        let page = ServerWorkerPage::create().expect("memory is left");
        let doorbell = Doorbell::new().expect("a pipe is left");
        let client = ClientLane::attach(ClientLaneParts {
            lane: lane.id(),
            geometry: lane.geometry(),
            trusted: true,
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
                in_place: true,
                segment: copy_of(lane.segment_fd()),
                ledger: copy_of(lane.ledger_fd()),
                doorbell: copy_of(&doorbell.ring),
                reply_doorbell: None,
            })
            .expect("the lane is sound");
        let _server = (control, lane, page, doorbell);
        let tickets = Vec::with_capacity(OPERATIONS);
        Self { client: Arc::new(client), worker, scratch: Scratch::new(), tickets, _server }
    }
}

impl Rig for LaneRig {
    fn step_count(&self) -> usize {
        STEPS.len()
    }

    fn run(&mut self, step: usize) {
        [guarded_submit, guarded_answer, guarded_take][step](self);
    }
}

#[inline(never)]
fn guarded_submit(rig: &mut LaneRig) {
    for number in 0..OPERATIONS {
        let payload = [u8::try_from(number).unwrap_or_default(); PAYLOAD_BYTES];
        let payload = Payload::Bytes(black_box(&payload));
        rig.tickets.push(rig.client.submit(FUNCTION, payload, 0, 0).expect("there is room"));
    }
}

#[inline(never)]
fn guarded_answer(rig: &mut LaneRig) {
    for _ in 0..OPERATIONS {
        let Next::Call(call) = rig.worker.next(&mut || false) else { panic!("a request was submitted") };
        let mut output = [0; PAYLOAD_BYTES];
        output.copy_from_slice(call.input(&mut rig.scratch));
        call.reply(Outcome::Ok, 0, 0, &output).expect("nobody condemns it");
    }
}

#[inline(never)]
fn guarded_take(rig: &mut LaneRig) {
    for ticket in rig.tickets.drain(..) {
        assert_eq!(rig.client.wait(&ticket, WaitMode::Spin, PATIENCE), WaitEnd::Answered);
        black_box(rig.client.take(ticket));
    }
}
