//! A lane with real segments, for tests: the server's view, client ends, and worker ends on threads of this process.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod tasks;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_shm::WorkerLaneParts;
use praas_shm::WorkerTag;
use praas_shm::client_lane::{ClientLane, ClientLaneParts};
use praas_shm::control_page::ControlPage;
use praas_shm::layout::geometry_for;
use praas_shm::running_call::RunningCall;
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
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
    pub lane: u32,
    /// Instead of the one that follows from `payload_bytes_max` and `calls`.
    pub geometry: Option<LaneGeometry>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trusted: true,
            wait_mode: WaitMode::Adaptive,
            workers_max: 1,
            payload_bytes_max: 1 << 20,
            calls: 8,
            lane: 1,
            geometry: None,
        }
    }
}

/// What a server would hold for one lane.
pub struct Host {
    pub options: Options,
    pub control: ControlPage,
    pub lane: ServerLane,
    pub listen: OwnedFd,
    pub ring: OwnedFd,
    /// The workers' end of the reply doorbell, for a client that is a reactor.
    pub replies_ring: Option<OwnedFd>,
    pub server_rings: Arc<AtomicU32>,
}

impl Host {
    pub fn new(options: Options) -> Self {
        let geometry = options.geometry.unwrap_or_else(|| geometry_for(options.payload_bytes_max, options.calls));
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (listen, ring) = rustix::pipe::pipe_with(flags).unwrap();
        Self {
            control: ControlPage::create(1, 1).unwrap(),
            lane: ServerLane::create(LaneId(options.lane), geometry).unwrap(),
            listen,
            ring,
            replies_ring: None,
            server_rings: Arc::default(),
            options,
        }
    }

    /// With a reply doorbell, whose read end the test gets.
    pub fn with_reply_doorbell(options: Options) -> (Self, OwnedFd) {
        let mut host = Self::new(options);
        let (listen, ring) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        host.lane.wake_client_by(copy_of(&ring));
        host.replies_ring = Some(ring);
        (host, listen)
    }

    pub fn client(&self) -> Arc<ClientLane> {
        Arc::new(ClientLane::attach(self.client_parts()).unwrap())
    }

    /// The client's end for an event loop.
    pub fn reactor(&self) -> Arc<ClientLane> {
        Arc::new(ClientLane::attach_for_reactor(self.client_parts()).unwrap())
    }

    fn client_parts(&self) -> ClientLaneParts {
        let rings = Arc::clone(&self.server_rings);
        ClientLaneParts {
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
        }
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
            in_place: self.options.trusted,
            segment: copy_of(self.lane.segment_fd()),
            ledger: copy_of(self.lane.ledger_fd()),
            doorbell: copy_of(&self.ring),
            reply_doorbell: self.replies_ring.as_ref().map(copy_of),
        }
    }

    /// Sleeps as a worker's runtime does, on the doorbell alone.
    pub fn park(&self) {
        park_on(&self.listen);
    }
}

pub fn park_on(listen: &OwnedFd) {
    park_for(listen, Duration::from_millis(50));
}

/// Sleeps until the doorbell is rung, and drains it.
pub fn park_for(listen: &OwnedFd, timeout: Duration) {
    let mut polled = [rustix::event::PollFd::new(listen, rustix::event::PollFlags::IN)];
    let timeout =
        rustix::time::Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
    let _ = rustix::event::poll(&mut polled, Some(&timeout));
    let mut bytes = [0; 64];
    let _ = rustix::io::read(listen, &mut bytes);
}

/// A worker on a thread of this process, which sleeps until it is rung: a doorbell that is not rung is noticed. Dropping it
/// ends it.
pub struct Serving {
    pub page: Arc<ServerWorkerPage>,
    host: Arc<Host>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves `host`'s lane, running each call by `run`.
    pub fn start(host: &Arc<Host>, tag: WorkerTag, run: impl FnMut(RunningCall<'_>) + Send + 'static) -> Self {
        Self::with_mail(host, tag, run, |_| ())
    }

    /// The same, with `mail` for what the server has to say.
    pub fn with_mail(
        host: &Arc<Host>,
        tag: WorkerTag,
        mut run: impl FnMut(RunningCall<'_>) + Send + 'static,
        mut mail: impl FnMut(&mut WorkerEnd) + Send + 'static,
    ) -> Self {
        let (mut end, page) = host.worker(tag);
        let (page, stop) = (Arc::new(page), Arc::new(AtomicBool::new(false)));
        let (served, stopped) = (Arc::clone(host), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let mut park = || {
                    park_for(&served.listen, PATIENCE);
                    false
                };
                let is_mail = match end.next(&mut park) {
                    Next::Call(call) => {
                        run(call);
                        false
                    }
                    Next::Mail => true,
                    Next::Closed => {
                        std::thread::sleep(Duration::from_millis(1));
                        false
                    }
                };
                if is_mail {
                    mail(&mut end);
                }
            }
        });
        Self { page, host: Arc::clone(host), stop, thread: Some(thread) }
    }

    /// Makes the worker look at its mail, asleep or not. The doorbell stands for the control socket here.
    pub fn notify(&self) {
        self.page.notify();
        let _ = rustix::io::write(&self.host.ring, &[0]);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Several workers may listen to one doorbell, and whoever wakes drains it: rung until the right one has heard.
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            self.notify();
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the worker's thread panicked");
        }
    }
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let byte = |at: u64| at.wrapping_mul(31) ^ at >> 8 ^ seed.wrapping_mul(0x9e37);
    (0..bytes as u64).map(|at| byte(at).to_le_bytes()[0]).collect()
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
