#[path = "../tests/support/mod.rs"]
mod support;
use praas_protocol::control::WaitMode;
use praas_protocol::*;
use praas_shm::client_lane::*;
use praas_shm::worker_end::Next;
use praas_shm::*;
use std::sync::Arc;
use std::sync::atomic::*;
use std::time::Instant;
use support::*;
fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}
fn main() {
    let mode = match std::env::args().nth(1).as_deref() {
        Some("park") => WaitMode::Park,
        Some("adaptive") => WaitMode::Adaptive,
        _ => WaitMode::Spin,
    };
    let pins: Vec<usize> =
        std::env::args().nth(2).map(|s| s.split(',').map(|x| x.parse().unwrap()).collect()).unwrap_or(vec![]);
    let host = Arc::new(Host::new(Options { wait_mode: mode, calls: 64, ..Options::default() }));
    let stop = Arc::new(AtomicBool::new(false));
    let (mut end, page) = host.worker(WorkerTag::new(0, 1));
    let t = {
        let (host, stop, pins) = (host.clone(), stop.clone(), pins.clone());
        std::thread::spawn(move || {
            if let Some(&c) = pins.get(1) {
                pin(c)
            }
            let mut scratch = Scratch::new();
            while !stop.load(Ordering::Relaxed) {
                if let Next::Call(call) = end.next(&mut || {
                    host.park();
                    false
                }) {
                    let out: [u8; 64] = call.input(&mut scratch).try_into().unwrap();
                    call.reply(Outcome::Ok, 0, 0, &out).unwrap();
                }
            }
        })
    };
    if let Some(&c) = pins.first() {
        pin(c)
    }
    let lane = host.client();
    let f = FunctionId::of("noop");
    let n = if mode == WaitMode::Spin { 100_000 } else { 50_000 };
    let payload = [7u8; 64];
    let mut v = Vec::with_capacity(n);
    for _ in 0..n {
        let s = Instant::now();
        let t = lane.submit(f, Payload::Bytes(&payload), 0, 0).unwrap();
        lane.wait(&t, mode, std::time::Duration::from_secs(9));
        let a = lane.take(t);
        assert_eq!(a.payload.unwrap().len(), 64);
        v.push(s.elapsed().as_nanos() as u64);
    }
    v.sort();
    println!("{mode:?} p50 {} p99 {} p999 {}", v[n / 2], v[n * 99 / 100], v[n * 999 / 1000]);
    for depth in [8usize, 32] {
        let mut rates = Vec::new();
        let mut q = std::collections::VecDeque::with_capacity(64);
        for _ in 0..2000 {
            let s = Instant::now();
            for _ in 0..5000 {
                if q.len() == depth {
                    let t = q.pop_front().unwrap();
                    lane.wait(&t, mode, std::time::Duration::from_secs(9));
                    lane.take(t);
                }
                q.push_back(lane.submit(f, Payload::Bytes(&payload), 0, 0).unwrap());
            }
            rates.push((s.elapsed().as_nanos() / 5000) as u64);
        }
        while let Some(t) = q.pop_front() {
            lane.wait(&t, mode, std::time::Duration::from_secs(9));
            lane.take(t);
        }
        rates.sort();
        println!("{depth} in flight: median {} ns best {} ns", rates[1000], rates[0]);
    }
    stop.store(true, Ordering::SeqCst);
    page.notify();
    let t2 = t;
    let _ = t2.join();
}
