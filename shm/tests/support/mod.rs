//! A lane with real segments, for tests: the server's view, client ends, and worker ends on threads of this process.
#![allow(dead_code, reason = "each test file uses its part")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_shm::WorkerLaneParts;
use praas_shm::WorkerTag;
use praas_shm::client_lane::{ClientLane, ClientLaneParts};
use praas_shm::control_page::ControlPage;
use praas_shm::layout::geometry_for;
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use rustix::pipe::PipeFlags;

/// Longest wait of any test step; far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Options {
    pub trusted: bool,
    pub wait_mode: WaitMode,
    pub workers_max: u32,
    pub payload_bytes_max: u32,
    pub calls: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { trusted: true, wait_mode: WaitMode::Adaptive, workers_max: 1, payload_bytes_max: 1 << 20, calls: 8 }
    }
}

/// What a server would hold for one lane.
pub struct Host {
    pub options: Options,
    pub control: ControlPage,
    pub lane: ServerLane,
    pub listen: OwnedFd,
    pub ring: OwnedFd,
    pub server_rings: Arc<AtomicU32>,
}

impl Host {
    pub fn new(options: Options) -> Self {
        let geometry: LaneGeometry = geometry_for(options.payload_bytes_max, options.calls);
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (listen, ring) = rustix::pipe::pipe_with(flags).unwrap();
        Self {
            control: ControlPage::create(1, 1).unwrap(),
            lane: ServerLane::create(LaneId(1), geometry).unwrap(),
            listen,
            ring,
            server_rings: Arc::default(),
            options,
        }
    }

    pub fn client(&self) -> Arc<ClientLane> {
        let rings = Arc::clone(&self.server_rings);
        Arc::new(
            ClientLane::attach(ClientLaneParts {
                lane: self.lane.id(),
                geometry: self.lane.geometry(),
                trusted: self.options.trusted,
                payload_bytes_max: self.options.payload_bytes_max,
                workers_max: self.options.workers_max,
                segment: copy_of(self.lane.segment_fd()),
                control: copy_of(self.control.fd()),
                doorbell: copy_of(&self.ring),
                ring_server: Box::new(move || {
                    rings.fetch_add(1, Ordering::SeqCst);
                }),
            })
            .unwrap(),
        )
    }

    pub fn worker(&self, tag: WorkerTag) -> (WorkerEnd, ServerWorkerPage) {
        let page = ServerWorkerPage::create().unwrap();
        let mut end = WorkerEnd::new(WorkerStart {
            page: copy_of(page.fd()),
            control: copy_of(self.control.fd()),
            tag,
            wait_mode: self.options.wait_mode,
            workers_max: self.options.workers_max,
            payload_bytes_max: self.options.payload_bytes_max,
        })
        .unwrap();
        end.add_lane(self.worker_lane()).unwrap();
        (end, page)
    }

    pub fn worker_lane(&self) -> WorkerLaneParts {
        WorkerLaneParts {
            lane: self.lane.id(),
            geometry: self.lane.geometry(),
            trusted: self.options.trusted,
            segment: copy_of(self.lane.segment_fd()),
            ledger: copy_of(self.lane.ledger_fd()),
            doorbell: copy_of(&self.ring),
        }
    }

    /// Sleeps as a worker's runtime does, on the doorbell alone.
    pub fn park(&self) {
        park_on(&self.listen);
    }
}

pub fn park_on(listen: &OwnedFd) {
    let mut polled = [rustix::event::PollFd::new(listen, rustix::event::PollFlags::IN)];
    let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let _ = rustix::event::poll(&mut polled, Some(&timeout));
    let mut bytes = [0; 64];
    let _ = rustix::io::read(listen, &mut bytes);
}

pub fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// Polls `done` until it holds; fails after [`PATIENCE`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
