//! Temporary measurement.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use praas_protocol::codec::{decode, encode};
use praas_protocol::control::*;
use praas_protocol::wire::*;
use praas_protocol::FunctionId;
use praas_sys::MessageSocket;

fn pin(cpu: usize) {
    if cpu == 99 { return; }
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
}
fn env(name: &str) -> usize { std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(99) }

fn echo_loop(mut s: TcpStream, ask: usize, answer: usize, spin: bool) {
    let mut buf = vec![0u8; ask.max(answer)];
    if spin { s.set_nonblocking(true).unwrap(); }
    loop {
        let mut got = 0;
        while got < ask {
            match s.read(&mut buf[got..ask]) { Ok(0) => return, Ok(n) => got += n, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}, Err(_) => return }
        }
        let mut sent = 0;
        while sent < answer {
            match s.write(&buf[sent..answer]) { Ok(n) => sent += n, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}, Err(_) => return }
        }
    }
}

struct Series { name: String, ns: Vec<u64> }
impl Series { fn show(&mut self) -> f64 { self.ns.sort(); let p = |q: f64| self.ns[(self.ns.len() as f64 * q) as usize] as f64 / 1000.0; println!("{:40} p50 {:8.2} p99 {:8.2}", self.name, p(0.5), p(0.99)); p(0.5) } }

fn round(s: &mut TcpStream, ask: &[u8], answer: usize, n: usize, spin: bool, out: &mut Vec<u8>, into: &mut Vec<u64>, patch: bool, id: &mut u64) {
    s.set_nonblocking(spin).unwrap();
    let mut ask = ask.to_vec();
    out.resize(answer, 0);
    for _ in 0..n {
        if patch { *id += 1; ask[8..16].copy_from_slice(&id.to_le_bytes()); }
        let t = Instant::now();
        let mut sent = 0; let mut got = 0;
        while sent < ask.len() {
            match s.write(&ask[sent..]) { Ok(n) => sent += n, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                // drain meanwhile
                if let Ok(n) = s.read(&mut out[got..]) { got += n; }
            }, Err(e) => panic!("{e}") }
        }
        while got < answer {
            match s.read(&mut out[got..answer]) { Ok(0) => panic!("closed"), Ok(n) => got += n, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}, Err(e) => panic!("{e}") }
        }
        into.push(t.elapsed().as_nanos() as u64);
    }
}

fn main() {
    if std::env::var("PRAAS_WORKER").is_ok() {
        pin(env("WORKER_CPU"));
        praas_function::Application::new().function("echo", |call: &mut praas_function::Call<'_>| call.reply(call.input())).run();
    }
    if std::env::var("ECHO").is_ok() {
        pin(env("WORKER_CPU"));
        let l = TcpListener::bind("127.0.0.1:0").unwrap();
        println!("{}", l.local_addr().unwrap());
        let (s, _) = l.accept().unwrap(); s.set_nodelay(true).unwrap();
        echo_loop(s, env("ASK"), env("ANSWER"), std::env::var("SPIN").is_ok());
        return;
    }
    use std::os::fd::AsFd;
    let a = rustix::net::getsockname(std::io::stdin().as_fd()).ok().and_then(|a| rustix::net::SocketAddrUnix::try_from(a).ok()).and_then(|a| a.path().map(|p| p.to_bytes().ends_with(b"/keeper.sock"))).unwrap_or(false);
    if a { praas_server::keeper::run().unwrap(); return; }
    let args: Vec<String> = std::env::args().collect();
    let (mode, client_cpu, worker_cpu, bytes, n) = (args[1].clone(), args[2].parse::<usize>().unwrap(), args[3].clone(), args[4].parse::<usize>().unwrap(), args[5].parse::<usize>().unwrap());
    let spin = mode == "spin";
    let own = std::env::current_exe().unwrap();
    let dir = std::env::temp_dir().join(format!("praas-lat-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut app = praas_server::Application::new("hello".parse().unwrap(), own.clone());
    app.environment.insert("WORKER_CPU".into(), worker_cpu.clone());
    app.wait = match mode.as_str() { "spin" => WaitMode::Spin, "park" => WaitMode::Park, _ => WaitMode::Adaptive };
    let mut options = praas_server::ServerOptions::new(&dir, vec![own.clone().into()]);
    options.keeper_linger = Duration::ZERO;
    options.log_level = praas_server::Level::Error;
    options.applications = vec![app];
    let server = praas_server::Server::start(options).unwrap();
    let token = std::fs::read_to_string(dir.join("token")).unwrap();
    let c = MessageSocket::connect(&dir.join("praas.sock")).unwrap();
    let mut buf = vec![0; 65536];
    let mut ask_server = |m: &ClientMessage, fds: &[std::os::fd::BorrowedFd<'_>]| -> ServerMessage {
        c.send(&encode(m).unwrap(), fds).unwrap();
        let r = c.recv_deadline(&mut buf, 8, Duration::from_secs(20)).unwrap().unwrap();
        decode(&buf[..r.bytes]).unwrap()
    };
    ask_server(&ClientMessage::Hello { version: CONTROL_VERSION, token, network: true }, &[]);
    let process: praas_protocol::ProcessId = "hello/alice".parse().unwrap();
    println!("{:?}", ask_server(&ClientMessage::Request { request: 1, body: ClientRequest::ProcessCreate { process } }, &[]));
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(l.local_addr().unwrap()).unwrap();
    let (far, _) = l.accept().unwrap();
    near.set_nodelay(true).unwrap();
    println!("{:?}", ask_server(&ClientMessage::Request { request: 2, body: ClientRequest::ConnectionGive { process, request_id: 1, payload_bytes_max: None, calls_in_flight: None } }, &[far.as_fd()]));
    drop(far);
    let mut hello = vec![0; 16 + 20];
    near.read_exact(&mut hello).unwrap();
    let mut ask = Vec::new();
    Request::new(2, 0, FunctionId::of("echo"), 0).encode(&vec![7; bytes], &mut ask);
    let answer = 28 + bytes;
    let mut cmd = std::process::Command::new(&own);
    cmd.env("ECHO", "1").env("WORKER_CPU", &worker_cpu).env("ASK", ask.len().to_string()).env("ANSWER", answer.to_string()).stdout(std::process::Stdio::piped());
    if spin { cmd.env("SPIN", "1"); }
    let mut child = cmd.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let mut raw = TcpStream::connect(line.trim()).unwrap(); raw.set_nodelay(true).unwrap();
    pin(client_cpu);
    let mut a = Series { name: format!("raw {mode} {client_cpu}/{worker_cpu} {bytes}"), ns: vec![] };
    let mut b = Series { name: format!("dedicated {mode}"), ns: vec![] };
    let (mut out, mut id) = (Vec::new(), 10);
    let stop = |pid: u32, sig: rustix::process::Signal| { let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), sig); };
    let worker_pid = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str().and_then(|n| n.parse::<u32>().ok())).find(|p| std::fs::read(format!("/proc/{p}/environ")).map(|e| { let e = String::from_utf8_lossy(&e).into_owned(); e.contains("PRAAS_WORKER") && std::fs::read_to_string(format!("/proc/{p}/cmdline")).map(|c| c.contains("zz_dedicated")).unwrap_or(false) }).unwrap_or(false)).expect("worker");
    for r in 0..10 {
        if spin { stop(worker_pid, rustix::process::Signal::STOP); stop(child.id(), rustix::process::Signal::CONT); }
        let mut x = Vec::new(); round(&mut raw, &ask, answer, n / 10, spin, &mut out, &mut x, false, &mut id); if r > 0 { a.ns.extend(x); }
        if spin { stop(child.id(), rustix::process::Signal::STOP); stop(worker_pid, rustix::process::Signal::CONT); }
        let mut x = Vec::new(); round(&mut near, &ask, answer, n / 10, spin, &mut out, &mut x, true, &mut id); if r > 0 { b.ns.extend(x); }
    }
    let (x, y) = (a.show(), b.show());
    println!("ratio {:.3}", y / x);
    if args.len() > 6 {
        // pipelined
        let depth = 16;
        for name in ["dedicated"] {
            let t = Instant::now();
            near.set_nonblocking(false).unwrap();
            let rounds = 20000;
            for _ in 0..rounds {
                let mut burst = Vec::new();
                for _ in 0..depth { id += 1; ask[8..16].copy_from_slice(&id.to_le_bytes()); burst.extend_from_slice(&ask); }
                near.write_all(&burst).unwrap();
                let mut all = vec![0; answer * depth];
                near.read_exact(&mut all).unwrap();
            }
            println!("{name} pipelined {depth}: {:.0}/s", rounds as f64 * depth as f64 / t.elapsed().as_secs_f64());
        }
    }
    stop(child.id(), rustix::process::Signal::CONT);
    child.kill().unwrap(); child.wait().unwrap();
    drop(near); 
    server.shutdown().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
}
