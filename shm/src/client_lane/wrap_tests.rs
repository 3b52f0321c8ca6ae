//! Counters that wrap: a lane whose ring and cells are about to begin their first turn again, and one that has been in use
//! for so long that a new worker's cursor is half of all turns behind.

use std::os::fd::AsFd;

use praas_protocol::control::LaneId;
use rustix::pipe::PipeFlags;

use super::*;
use crate::WorkerTag;
use crate::control_page::ControlPage;
use crate::layout::geometry_for;
use crate::scratch::Scratch;
use crate::server_lane::ServerLane;
use crate::worker_end::{Next, WorkerEnd, WorkerStart};
use crate::worker_lane::WorkerLaneParts;
use crate::worker_page::ServerWorkerPage;

const CALLS: u32 = 4;

pub(super) struct Lane {
    control: ControlPage,
    server: ServerLane,
    pub(super) client: Arc<ClientLane>,
    doorbell: OwnedFd,
}

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

impl Lane {
    /// A lane as it is when its ring has begun turn `turn`, and `generation` calls have used each cell.
    pub(super) fn at(turn: u32, generation: u32) -> Self {
        let control = ControlPage::create(1, 1).unwrap();
        let server = ServerLane::create(LaneId(1), geometry_for(1 << 20, CALLS)).unwrap();
        let (_listen, doorbell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let client = ClientLane::attach(ClientLaneParts {
            lane: LaneId(1),
            geometry: server.geometry(),
            trusted: true,
            payload_bytes_max: 1 << 20,
            workers_max: 1,
            segment: copy_of(server.segment_fd()),
            control: copy_of(control.fd()),
            doorbell: copy_of(&doorbell),
            ring_server: Box::new(|| ()),
        })
        .unwrap();
        {
            let mut submission = client.submission.lock();
            submission.producer = Producer::starting_at(u64::from(turn) * u64::from(CALLS));
            submission.generations.fill(generation);
        }
        client.memory.entries().iter().for_each(|entry| entry.free_at(turn));
        Self { control, server, client: Arc::new(client), doorbell }
    }

    fn worker(&self) -> WorkerEnd {
        let page = ServerWorkerPage::create().unwrap();
        let mut end = WorkerEnd::new(WorkerStart {
            page: copy_of(page.fd()),
            control: copy_of(self.control.fd()),
            tag: WorkerTag::new(0, 1),
            wait_mode: WaitMode::Park,
            workers_max: 1,
            payload_bytes_max: 1 << 20,
        })
        .unwrap();
        end.add_lane(WorkerLaneParts {
            lane: LaneId(1),
            geometry: self.server.geometry(),
            in_place: true,
            segment: copy_of(self.server.segment_fd()),
            ledger: copy_of(self.server.ledger_fd()),
            doorbell: copy_of(&self.doorbell),
            reply_doorbell: None,
        })
        .unwrap();
        end
    }

    /// A call that a worker finds at once.
    fn call(&self, worker: &mut WorkerEnd, bytes: usize) {
        let sent = vec![7; bytes];
        let ticket = self.client.submit(FunctionId(1), Payload::Bytes(&sent), 0, 0).unwrap();
        match worker.next(&mut || true) {
            Next::Call(call) => {
                let output = call.input(&mut Scratch::new()).to_vec();
                call.reply(Outcome::Ok, 0, 0, &output).unwrap();
            }
            other => panic!("the worker does not find the request: {other:?}"),
        }
        assert_eq!(self.client.wait(&ticket, WaitMode::Park, Duration::ZERO), WaitEnd::Answered);
        let answer = self.client.take(ticket);
        let mut back = vec![0; bytes];
        answer.payload.unwrap().copy_to(&mut back);
        assert_eq!((answer.outcome_code, back), (Outcome::Ok as u32, sent));
    }
}

#[test]
fn calls_go_on_while_turns_and_generations_begin_again() {
    let lane = Lane::at(u32::MAX - 2, u32::MAX - 3);
    let mut worker = lane.worker();
    for number in 0..10 * CALLS as usize {
        lane.call(&mut worker, [5, 3000][number % 2]);
        if number % 3 == 0 {
            // One that joins in the middle.
            worker = lane.worker();
        }
    }
    assert_eq!(lane.client.in_flight(), 0);
    // Zero means that no generation waits: it is never used.
    assert!(lane.client.submission.lock().generations.iter().all(|&generation| generation != 0));
}

#[test]
fn a_worker_that_joins_after_any_number_of_turns_finds_the_requests() {
    for turn in [0, 1, 2, 3, 1000, i32::MAX.unsigned_abs(), 1 << 31, (1 << 31) + 1, u32::MAX - 1] {
        let lane = Lane::at(turn, 1);
        let mut worker = lane.worker();
        for _ in 0..3 * CALLS {
            lane.call(&mut worker, 5);
        }
    }
}

#[test]
fn an_abandoned_call_across_the_wrap_keeps_its_cell_until_its_answer() {
    let lane = Lane::at(u32::MAX, u32::MAX - 1);
    let submit = || lane.client.submit(FunctionId(1), Payload::Bytes(b""), 0, 0).unwrap();
    for _ in 0..3 * CALLS {
        let ticket = submit();
        lane.client.abandon(ticket);
        assert_eq!(lane.client.quarantined(), 1);
        let mut worker = lane.worker();
        assert!(matches!(worker.next(&mut || true), Next::Call(call) if call.is_abandoned()));
        assert_eq!(lane.client.quarantined(), 0);
    }
}
