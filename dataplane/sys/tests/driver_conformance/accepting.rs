//! Accepting.

use std::net::{TcpListener, TcpStream};

use praas_sys::Errno;
use praas_sys::driver::{Completion, SourceId};

use crate::harness::{Harness, connect_to, is_child, write};

crate::for_each_driver!(
    every_peer_is_accepted_once_and_can_talk,
    a_paused_listener_accepts_nobody_until_it_resumes,
    a_burst_beyond_one_turn_is_accepted_over_several,
    at_the_limit_of_open_files_accepting_pauses_and_the_peer_waits,
    a_closed_listener_refuses_peers,
    two_drivers_share_a_listener,
    peers_of_both_families_are_accepted,
);

const LISTENER: u64 = 7;

fn listen(harness: &mut Harness) -> (SourceId, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    (harness.driver.add_listener(listener.into(), LISTENER).expect("room"), address)
}

fn every_peer_is_accepted_once_and_can_talk(harness: &mut Harness) {
    let (_, address) = listen(harness);
    let mut peers = Vec::new();
    for round in 0..5_u8 {
        let mut peer = connect_to(address);
        let socket = harness.expect_accepted(LISTENER);
        let flags = rustix::io::fcntl_getfd(&socket).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let connection = harness.driver.add_connection(socket, round.into()).expect("room");
        harness.driver.receive(connection).expect("open");
        write(&mut peer, &[round]);
        assert_eq!(harness.expect_received(round.into()), [round]);
        peers.push(peer);
    }
    assert!(harness.everything_within_a_while().is_empty());
}

fn a_paused_listener_accepts_nobody_until_it_resumes(harness: &mut Harness) {
    let (listener, address) = listen(harness);
    harness.turn();
    harness.driver.pause_accepting(listener);
    let peers: Vec<TcpStream> = (0..3).map(|_| connect_to(address)).collect();
    assert!(harness.everything_within_a_while().is_empty(), "nobody is accepted while it is paused");
    harness.driver.resume_accepting(listener);
    for _ in &peers {
        drop(harness.expect_accepted(LISTENER));
    }
    // Paused and resumed in one go, it goes on as before.
    harness.driver.pause_accepting(listener);
    harness.driver.resume_accepting(listener);
    let _peer = connect_to(address);
    drop(harness.expect_accepted(LISTENER));
}

fn a_burst_beyond_one_turn_is_accepted_over_several(harness: &mut Harness) {
    let (_, address) = listen(harness);
    let peers: Vec<TcpStream> = (0..100).map(|_| connect_to(address)).collect();
    for _ in &peers {
        drop(harness.expect_accepted(LISTENER));
    }
    assert!(harness.everything_within_a_while().is_empty());
}

fn at_the_limit_of_open_files_accepting_pauses_and_the_peer_waits(harness: &mut Harness) {
    if !is_child(harness) {
        return;
    }
    let (listener, address) = listen(harness);
    harness.turn();
    let mut peer = TcpStream::connect(address).expect("connect");
    // No descriptor is left: the limit is what is in use.
    let next = std::fs::File::open("/dev/null").expect("a descriptor");
    let limit = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&next)).expect("not negative");
    drop(next);
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let none = rustix::process::Rlimit { current: Some(limit), maximum: before.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, none).expect("lower the limit");
    let errno = harness.expect("a refusal", |completion| match completion {
        Completion::AcceptFailed { token: LISTENER, errno } => Ok(errno),
        other => Err(other),
    });
    assert_eq!(errno, Errno::MFILE);
    assert!(harness.everything_within_a_while().is_empty(), "it does not try again by itself");
    rustix::process::setrlimit(rustix::process::Resource::Nofile, before).expect("raise the limit");
    harness.driver.resume_accepting(listener);
    let socket = harness.expect_accepted(LISTENER);
    let connection = harness.driver.add_connection(socket, 1).expect("room");
    harness.driver.receive(connection).expect("open");
    write(&mut peer, b"patience");
    assert_eq!(harness.expect_bytes(1, 8), b"patience");
}

fn a_closed_listener_refuses_peers(harness: &mut Harness) {
    let (listener, address) = listen(harness);
    harness.turn();
    harness.driver.close(listener);
    harness.expect_closed(LISTENER);
    TcpStream::connect(address).expect_err("nobody listens");
    harness.driver.close(listener);
    harness.driver.resume_accepting(listener);
    assert!(harness.everything_within_a_while().is_empty());
}

fn two_drivers_share_a_listener(harness: &mut Harness) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut other = praas_sys::driver::open::<Vec<u8>>(harness.choice, Default::default()).expect("open").driver;
    other.add_listener(listener.try_clone().expect("duplicate").into(), LISTENER).expect("room");
    harness.driver.add_listener(listener.into(), LISTENER).expect("room");
    let peers: Vec<TcpStream> = (0..20).map(|_| connect_to(address)).collect();
    let (mut accepted, mut completions) = (0, Vec::new());
    let end = std::time::Instant::now() + crate::harness::SOON;
    while accepted < peers.len() {
        assert!(std::time::Instant::now() < end);
        other.wait(Some(std::time::Duration::from_millis(1)), &mut completions).expect("wait");
        accepted += completions.drain(..).count();
        accepted += harness.everything_within_a_while().len();
    }
    assert_eq!(accepted, peers.len());
}

fn peers_of_both_families_are_accepted(harness: &mut Harness) {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            println!("skipped: this host has no {address}");
            continue;
        };
        let address = listener.local_addr().expect("address");
        let id = harness.driver.add_listener(listener.into(), LISTENER).expect("room");
        let _peer = connect_to(address);
        drop(harness.expect_accepted(LISTENER));
        harness.driver.close(id);
        harness.expect_closed(LISTENER);
    }
}
