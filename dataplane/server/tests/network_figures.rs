mod common;
#[path = "common/functions.rs"]
mod functions;
#[path = "common/random.rs"]
mod random;
#[path = "common/remote.rs"]
mod remote;
#[path = "common/stage.rs"]
mod stage;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;
use praas_protocol::control::WaitMode;
use praas_protocol::wire::Request;
use praas_protocol::FunctionId;
use praas_server::DriverChoice;
use remote::Remote;
use stage::{Stage, application, process};
#[test]
fn role() { stage::play(); }

fn percentiles(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    format!("p50 {:.1} µs p99 {:.1}", times[times.len() / 2] as f64 / 1e3, times[times.len() * 99 / 100] as f64 / 1e3)
}
fn blocking(stream: &mut TcpStream, out: &[u8], back: usize, count: usize) -> String {
    let mut times = Vec::new();
    let mut buffer = vec![0; back];
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(out).unwrap();
        stream.read_exact(&mut buffer).unwrap();
        times.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
    }
    percentiles(times)
}
fn raw(bytes: usize, count: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut buffer = vec![0; bytes];
        while stream.read_exact(&mut buffer).is_ok() { stream.write_all(&buffer).unwrap(); }
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    println!("raw blocking echo {bytes}: {}", blocking(&mut stream, &vec![1; bytes], bytes, count));
    drop(stream);
    server.join().unwrap();
}
fn brokered(driver: DriverChoice, wait: WaitMode, worker_wait: WaitMode, shards: usize) {
    let mut application = application();
    application.wait = worker_wait;
    application.limits.payload_bytes_max = 1 << 20;
    let stage = Stage::new(application, |options| {
        remote::listening(driver)(options);
        options.network_wait = wait;
        options.network_shards = shards;
    });
    drop(stage.with_process("alice"));
    let mut remote = Remote::connect(&stage);
    let alice = remote.open(process("alice"));
    for (bytes, count) in [(64, 30_000), (1 << 20, 1000)] {
        let mut times = Vec::new();
        let mut out = Vec::new();
        let mut back = vec![0; 28 + bytes];
        for _ in 0..count {
            out.clear();
            let id = remote.id();
            Request::new(id, alice, FunctionId::of("echo"), 0).encode(&vec![1; bytes], &mut out);
            let start = Instant::now();
            remote.stream.write_all(&out).unwrap();
            remote.stream.read_exact(&mut back).unwrap();
            times.push(u64::try_from(start.elapsed().as_nanos()).unwrap());
        }
        println!("{driver:?} shard {wait:?} worker {worker_wait:?} {bytes}: {}", percentiles(times));
    }
    drop(remote);
    // 16 in flight on 16 connections
    let clients = 16;
    let start = Instant::now();
    let rounds = 2000;
    std::thread::scope(|scope| for _ in 0..clients { let stage = &stage; scope.spawn(move || {
        let mut remote = Remote::connect(stage);
        let alice = remote.open(process("alice"));
        let mut back = vec![0; (28 + 64) * 16];
        for _ in 0..rounds {
            let mut out = Vec::new();
            for _ in 0..16 { let id = remote.id(); Request::new(id, alice, FunctionId::of("echo"), 0).encode(&[1; 64], &mut out); }
            remote.stream.write_all(&out).unwrap();
            remote.stream.read_exact(&mut back).unwrap();
        }
    }); });
    println!("{driver:?} shard {wait:?} worker {worker_wait:?}: {:.0} calls/s", (clients * rounds * 16) as f64 / start.elapsed().as_secs_f64());
    drop(stage);
}
#[test]
fn figures() {
    for _ in 0..2 {
        raw(64, 30_000);
        raw(1 << 20, 1000);
        for driver in [DriverChoice::Epoll, DriverChoice::IoUring] {
            for (wait, worker) in [(WaitMode::Spin, WaitMode::Park), (WaitMode::Spin, WaitMode::Spin), (WaitMode::Adaptive, WaitMode::Adaptive)] {
                brokered(driver, wait, worker, 1);
            }
        }
    }
}
