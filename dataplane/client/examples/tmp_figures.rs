#![allow(missing_docs)]
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;
use praas_client::*;
use praas_protocol::wire::*;

fn raw_server(core: usize, bytes: usize) -> String {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = l.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let _g = praas_sys::affinity::pin_thread(core);
        let (mut s, _) = l.accept().unwrap();
        s.set_nodelay(true).unwrap();
        let mut b = vec![0; bytes];
        loop {
            if s.read_exact(&mut b).is_err() { return }
            s.write_all(&b).unwrap();
        }
    });
    a
}
fn wire_server(core: usize) -> String {
    let l = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = l.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let _g = praas_sys::affinity::pin_thread(core);
        for s in l.incoming() {
        let mut s = s.unwrap();
        s.set_nodelay(true).unwrap();
        let mut d = Decoder::new(Side::Client, 64 << 20);
        let mut buf = vec![0; 256 << 10];
        let mut out = Vec::new();
        let mut pay: Vec<u8> = Vec::new();
        let mut cur: u64 = 0;
        'c: loop {
            let n = match s.read(&mut buf) { Ok(0) | Err(_) => break 'c, Ok(n) => n };
            let mut at = 0;
            while at < n {
                let step = d.step(&buf[at..n]).unwrap();
                at += step.consumed;
                match step.item {
                    None => break,
                    Some(Item::Request { request, payload, missing_bytes, .. }) => {
                        cur = request.request_id;
                        pay.clear(); pay.extend_from_slice(payload);
                        if missing_bytes == 0 { out.clear(); Response { request_id: cur, outcome_code: 0, detail: 0, more: 0 }.encode(&pay, &mut out); s.write_all(&out).unwrap(); }
                    }
                    Some(Item::Payload { bytes, missing_bytes }) => {
                        pay.extend_from_slice(bytes);
                        if missing_bytes == 0 { out.clear(); Response { request_id: cur, outcome_code: 0, detail: 0, more: 0 }.encode(&pay, &mut out); s.write_all(&out).unwrap(); }
                    }
                    Some(Item::Control { frame, .. }) => {
                        let mut out = Vec::new();
                        match frame {
                            Frame::Hello(_) => Welcome { version: 1, features: 0, connection_id: 1, incarnation: 1, host_id: [0; 16], payload_bytes_max: 64 << 20, in_flight_max: 64, handles_max: 4, window_bytes: 128 << 20, reply_window_bytes: 1 << 20, socket_path: "" }.encode(&mut out).unwrap(),
                            Frame::Open(o) => Opened { request_id: o.request_id, handle: 1, payload_bytes_max: 64 << 20, in_flight_max: 64, workers_max: 1, phase: Phase::Active }.encode(&mut out),
                            _ => {}
                        }
                        s.write_all(&out).unwrap();
                    }
                    _ => {}
                }
            }
        }
        }
    });
    a
}
fn p(mut v: Vec<u64>) -> (u64, u64) { v.sort_unstable(); (v[v.len() / 2], v[v.len() * 99 / 100]) }
fn main() {
    for (bytes, rounds) in [(64usize, 20_000usize), (1 << 20, 600)] {
    for core in [1usize, 0] {
        let _g = praas_sys::affinity::pin_thread(0);
        let mut raw = TcpStream::connect(raw_server(core, bytes)).unwrap();
        raw.set_nodelay(true).unwrap();
        let client = Client::connect(ConnectOptions::new().address(wire_server(core)).token("t").transport(Transport::Network)).unwrap();
        let proc = client.process("hello/alice".parse().unwrap()).unwrap();
        let data = vec![7u8; bytes];
        let mut back = vec![0u8; bytes];
        for rep in 0..3 {
            let mut a = Vec::new(); let mut b = Vec::new(); let mut c = Vec::new();
            for _ in 0..10 {
                for _ in 0..rounds / 10 { let t = Instant::now(); raw.write_all(&data).unwrap(); raw.read_exact(&mut back).unwrap(); a.push(t.elapsed().as_nanos() as u64); }
                for _ in 0..rounds / 10 { let t = Instant::now(); let r = proc.invoke("echo", &data).unwrap(); b.push(t.elapsed().as_nanos() as u64); assert_eq!(r.len(), bytes); }
                for _ in 0..rounds / 10 { let t = Instant::now(); let r = proc.start("echo", &data).unwrap().wait().unwrap(); c.push(t.elapsed().as_nanos() as u64); assert_eq!(r.len(), bytes); }
            }
            let (a50, a99) = p(a); let (b50, b99) = p(b); let (c50, c99) = p(c);
            println!("{bytes} B, client core 0, server core {core}, rep {rep}: raw {a50}/{a99} invoke {b50}/{b99} ({:.3}x) start+wait {c50}/{c99} ({:.3}x)", b50 as f64 / a50 as f64, c50 as f64 / a50 as f64);
        }
    }
    }
}
