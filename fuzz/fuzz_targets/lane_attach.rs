//! Every way in for a descriptor and a geometry from outside: each is refused with an error, or gives something that can be
//! used and dropped. Never a panic, a SIGBUS or a hang.
//!
//! Input: steps. A letter names what is attached (`c`lient's lane, `w`orker's lane, `k` control page, `p` worker page); a
//! lane is followed by its geometry; then come the descriptors it takes. See [`announced`] and [`descriptor`].
#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use praas_fuzz::Bytes;
use praas_protocol::control::{LaneGeometry, LaneId, WaitMode};
use praas_protocol::{FunctionId, Outcome};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Payload};
use praas_shm::control_page::{ControlPage, ControlView};
use praas_shm::layout::{LaneLayout, geometry_for};
use praas_shm::server_lane::ServerLane;
use praas_shm::worker_end::{Next, WorkerEnd, WorkerStart};
use praas_shm::worker_page::ServerWorkerPage;
use praas_shm::{Scratch, WorkerLaneParts, WorkerTag};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::pipe::PipeFlags;

/// Bytes of both kinds of pages.
const PAGE_BYTES: u64 = 4096;
/// Attempts of one input: each maps memory.
const STEPS_MAX: usize = 8;
/// Sizes that a geometry may name beside powers of two.
const ODD_SIZES: [u32; 8] = [0, 3, 5, 4095, 4097, (1 << 20) - 1, 0x7fff_ffff, u32::MAX];
/// Memory that a lane of this target may come to map.
const LANE_BYTES_MAX: usize = 256 << 20;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    for _ in 0..STEPS_MAX {
        match bytes.letter() {
            Some(b'c') => attach_client(&mut bytes),
            Some(b'w') => attach_worker(&mut bytes),
            Some(b'k') => attach_control(&mut bytes),
            Some(b'p') => attach_page(&mut bytes),
            Some(_) => {}
            None => return,
        }
    }
});

/// A geometry: `g` for one that a server would announce, or one byte a size, of which those below 32 are powers of two.
fn announced(bytes: &mut Bytes<'_>) -> LaneGeometry {
    if bytes.next_letter() == Some(b'g') {
        bytes.byte();
        return geometry_for(1 << 20, 4);
    }
    let mut size = || match bytes.byte() {
        power @ 0..32 => 1 << power,
        other => ODD_SIZES[usize::from(other) % ODD_SIZES.len()],
    };
    LaneGeometry { ring_entries: size(), cells: size(), request_arena_bytes: size(), reply_arena_bytes: size() }
}

/// A descriptor that should lead to a segment of `expected` bytes: `g` a copy of `good`, or `m` a memfd whose seals, size
/// and first bytes follow, or another kind of file.
fn descriptor(bytes: &mut Bytes<'_>, good: OwnedFd, expected: u64) -> OwnedFd {
    let opened = match bytes.letter() {
        Some(b'm') => Some(memfd(bytes, expected)),
        Some(b'f') => File::open("/proc/self/exe").map(OwnedFd::from).ok(),
        Some(b'd') => File::open("/").map(OwnedFd::from).ok(),
        Some(b'n') => File::options().read(true).write(true).open("/dev/zero").map(OwnedFd::from).ok(),
        Some(b'q') => rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok().map(|(read, _)| read),
        _ => None,
    };
    opened.unwrap_or(good)
}

/// A memfd: a byte of seals, a byte for its size (`e` as expected, `-` and `+` by a byte of 512 more or less, otherwise so
/// many pages), and its first bytes, counted by one.
fn memfd(bytes: &mut Bytes<'_>, expected: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("fuzzed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let seals = bytes.byte();
    let size = match bytes.byte() {
        b'e' => expected,
        b'-' => expected.saturating_sub(u64::from(bytes.byte()) * 512),
        b'+' => expected + u64::from(bytes.byte()) * 512,
        pages => u64::from(pages) * PAGE_BYTES,
    };
    rustix::fs::ftruncate(&fd, size).expect("a size");
    let head = bytes.byte();
    let head = bytes.slice(head.into());
    let file = File::from(fd);
    let fits = head.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    file.write_all_at(&head[..fits], 0).expect("content");
    let all = [
        SealFlags::SHRINK,
        SealFlags::GROW,
        SealFlags::SEAL,
        SealFlags::WRITE,
        SealFlags::FUTURE_WRITE,
        SealFlags::from_bits_retain(0x20),
    ];
    let chosen = all.iter().enumerate().filter(|(bit, _)| seals >> bit & 1 == 1);
    let chosen = chosen.fold(SealFlags::empty(), |seals, (_, seal)| seals | *seal);
    // A kernel without one of these seals refuses all of them: then the memfd stays unsealed.
    let _ = rustix::fs::fcntl_add_seals(&file, chosen);
    file.into()
}

fn copy_of(fd: impl std::os::fd::AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor")
}

fn doorbell() -> OwnedFd {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe").1
}

/// The layout of a geometry that this target can afford, and a real lane of it.
fn good_lane(geometry: LaneGeometry) -> Option<(LaneLayout, ServerLane)> {
    let layout = LaneLayout::new(&geometry).ok().filter(|layout| layout.segment_bytes() <= LANE_BYTES_MAX)?;
    Some((layout, ServerLane::create(LaneId(1), geometry).expect("a lane")))
}

/// A geometry without layout is offered with a small lane, and must be refused.
fn lane_for(geometry: LaneGeometry) -> Option<(u64, u64, ServerLane)> {
    match good_lane(geometry) {
        Some((layout, lane)) => Some((layout.segment_bytes() as u64, layout.ledger_bytes() as u64, lane)),
        None if LaneLayout::new(&geometry).is_ok() => None,
        None => good_lane(geometry_for(1 << 20, 4)).map(|(_, lane)| (PAGE_BYTES, PAGE_BYTES, lane)),
    }
}

fn attach_client(bytes: &mut Bytes<'_>) {
    let geometry = announced(bytes);
    let Some((segment_bytes, _, lane)) = lane_for(geometry) else { return };
    let page = ControlPage::create(1, 1).expect("a page");
    let segment = descriptor(bytes, copy_of(lane.segment_fd()), segment_bytes);
    let control = descriptor(bytes, copy_of(page.fd()), PAGE_BYTES);
    let peer = [copy_of(&segment), copy_of(&control)];
    let attached = ClientLane::attach(ClientLaneParts {
        lane: LaneId(1),
        geometry,
        trusted: bytes.byte() & 1 == 1,
        payload_bytes_max: 1 << 20,
        workers_max: 2,
        segment,
        control,
        doorbell: doorbell(),
        ring_server: Box::new(|| ()),
    });
    match attached {
        Ok(lane) => {
            assert!(LaneLayout::new(&geometry).is_ok(), "a lane without layout was attached");
            peer.iter().for_each(shrink);
            use_client(&Arc::new(lane));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a peer does that has a descriptor of a segment: a seal must stand against it.
fn shrink(fd: &OwnedFd) {
    assert!(rustix::fs::ftruncate(fd, 0).is_err(), "an attached segment was shrunk");
}

fn use_client(lane: &Arc<ClientLane>) {
    let _ = (lane.phase(), lane.is_lost(), lane.in_flight(), lane.quarantined());
    lane.drive(Duration::ZERO);
    for payload in [&[1; 10][..], &[2; 5000]] {
        let Ok(ticket) = lane.submit(FunctionId::of("echo"), Payload::Bytes(payload), 0, 0) else { continue };
        let _ = lane.wait(&ticket, WaitMode::Park, Duration::ZERO);
        let _ = lane.poll(&ticket, Waker::noop(), Some(Instant::now()));
        if lane.is_answered(&ticket) {
            let answer = lane.take(ticket);
            if let Some(payload) = answer.payload {
                payload.copy_to(&mut vec![0; payload.len()]);
            }
        } else {
            lane.abandon(ticket);
        }
    }
    lane.mark_lost();
}

const WORKER: WorkerTag = WorkerTag::new(0, 1);

fn start_with(page: OwnedFd, control: OwnedFd) -> WorkerStart {
    let (wait_mode, tag) = (WaitMode::Park, WORKER);
    WorkerStart { page, control, tag, wait_mode, workers_max: 2, payload_bytes_max: 1 << 20 }
}

fn attach_worker(bytes: &mut Bytes<'_>) {
    let geometry = announced(bytes);
    let Some((segment_bytes, ledger_bytes, lane)) = lane_for(geometry) else { return };
    let (control, page) = (ControlPage::create(1, 1).expect("a page"), ServerWorkerPage::create().expect("a page"));
    let mut end = WorkerEnd::new(start_with(copy_of(page.fd()), copy_of(control.fd()))).expect("good pages");
    let segment = descriptor(bytes, copy_of(lane.segment_fd()), segment_bytes);
    let ledger = descriptor(bytes, copy_of(lane.ledger_fd()), ledger_bytes);
    let peer = [copy_of(&segment), copy_of(&ledger)];
    let in_place = bytes.byte() & 1 == 1;
    let parts = WorkerLaneParts {
        lane: LaneId(1),
        geometry,
        in_place,
        segment,
        ledger,
        doorbell: doorbell(),
        reply_doorbell: None,
    };
    match end.add_lane(parts) {
        Ok(()) => {
            assert!(LaneLayout::new(&geometry).is_ok(), "a lane without layout was attached");
            peer.iter().for_each(shrink);
            use_worker(&mut end);
            assert!(end.remove_lane(LaneId(1)));
        }
        Err(error) => assert!(!error.to_string().is_empty() && end.lane_count() == 0),
    }
}

/// Serves what lies in the lane, at most so many calls as fit one.
fn use_worker(end: &mut WorkerEnd) {
    let mut scratch = Scratch::new();
    for _ in 0..16 {
        let Next::Call(call) = end.next(&mut || true) else { return };
        let _ = (call.function(), call.root(), call.time_remaining(), call.is_abandoned(), call.needs_help());
        let _ = call.output_in_place(2000);
        let output = call.input(&mut scratch).to_vec();
        let _ = call.reply(Outcome::Ok, 0, 0, &output);
    }
}

fn attach_control(bytes: &mut Bytes<'_>) {
    let page = ControlPage::create(1, 1).expect("a page");
    let fd = descriptor(bytes, copy_of(page.fd()), PAGE_BYTES);
    let peer = copy_of(&fd);
    let Ok(view) = ControlView::attach(fd) else { return };
    shrink(&peer);
    let _ = (view.phase(), view.workers(), view.rings_acknowledged(), view.incarnation(), view.lease_is_unlimited());
    let _ = (view.is_revoked(LaneId(0)), view.is_revoked(LaneId(u32::MAX)));
}

fn attach_page(bytes: &mut Bytes<'_>) {
    let (control, page) = (ControlPage::create(1, 1).expect("a page"), ServerWorkerPage::create().expect("a page"));
    let page = descriptor(bytes, copy_of(page.fd()), PAGE_BYTES);
    let control = descriptor(bytes, copy_of(control.fd()), PAGE_BYTES);
    let peer = [copy_of(&page), copy_of(&control)];
    let Ok(mut end) = WorkerEnd::new(start_with(page, control)) else { return };
    peer.iter().for_each(shrink);
    use_worker(&mut end);
}
