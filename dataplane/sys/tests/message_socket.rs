//! Message sockets: boundaries, descriptors, limits, truncation, exhaustion, credentials.
//! One test function runs them in order, because two of them change or count this process's descriptors.

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use common::{SOON, Scratch, open_fds, until};
use praas_sys::{
    Doorbell, FileLock, Listener, MESSAGE_FDS_MAX, MessageSocket, Sending, SocketError, StaleSocket, doorbell,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn pair() -> (MessageSocket, MessageSocket) {
    MessageSocket::pair().expect("a pair")
}

#[test]
fn message_sockets_keep_their_promises() {
    let before = open_fds();
    messages_keep_their_boundaries();
    descriptors_arrive_close_on_exec_and_usable();
    too_many_descriptors_are_refused_on_both_sides();
    a_message_longer_than_the_buffer_is_an_error_and_its_descriptors_are_closed();
    an_empty_message_is_refused();
    a_full_queue_is_told_apart_from_a_dead_peer();
    waiting_ends_at_the_deadline();
    a_closed_peer_is_noticed();
    a_pair_knows_its_maker();
    a_listener_is_private_and_replaced_only_under_the_lock();
    a_doorbell_never_blocks();
    at_the_open_files_limit_a_message_with_descriptors_fails_typed();
    assert_eq!(open_fds(), before, "descriptors leaked");
}

fn messages_keep_their_boundaries() {
    let (one, other) = pair();
    one.send(b"first", &[]).expect("send");
    one.send(b"second", &[]).expect("send");
    let mut buffer = [0; 64];
    let received = other.recv(&mut buffer, 0).expect("recv");
    assert_eq!(&buffer[..received.bytes], b"first");
    let received = other.recv_deadline(&mut buffer, 0, SOON).expect("recv").expect("a message");
    assert_eq!(&buffer[..received.bytes], b"second");
    assert!(other.try_recv(&mut buffer, 0).expect("recv").is_none());
}

fn descriptors_arrive_close_on_exec_and_usable() {
    let (one, other) = pair();
    let bell = Doorbell::new().expect("a doorbell");
    let fds = vec![bell.ring.as_fd(); MESSAGE_FDS_MAX];
    one.send(b"x", &fds).expect("send");
    let mut buffer = [0; 8];
    let received = other.recv(&mut buffer, MESSAGE_FDS_MAX).expect("recv");
    assert_eq!(received.fds.len(), MESSAGE_FDS_MAX);
    for fd in &received.fds {
        let flags = rustix::io::fcntl_getfd(fd).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    assert!(!bell.drain());
    assert!(doorbell::ring(received.fds[7].as_fd()));
    assert!(bell.drain());
}

fn too_many_descriptors_are_refused_on_both_sides() {
    let (one, other) = pair();
    let fds = vec![one.as_fd(); MESSAGE_FDS_MAX + 1];
    assert!(matches!(one.send(b"x", &fds), Err(SocketError::TooManyFds { given: 17, limit: 16 })));
    let before = open_fds();
    one.send(b"x", &fds[..3]).expect("send");
    let mut buffer = [0; 8];
    assert!(matches!(other.try_recv(&mut buffer, 2), Err(SocketError::TooManyFds { given: 3, limit: 2 })));
    assert_eq!(open_fds(), before, "refused descriptors are closed");
}

fn a_message_longer_than_the_buffer_is_an_error_and_its_descriptors_are_closed() {
    let (one, other) = pair();
    let before = open_fds();
    one.send(&[7; 100], &[one.as_fd(), other.as_fd()]).expect("send");
    one.send(b"next", &[]).expect("send");
    let mut buffer = [0; 64];
    assert!(matches!(other.try_recv(&mut buffer, 4), Err(SocketError::TruncatedData { buffer_bytes: 64 })));
    assert_eq!(open_fds(), before, "descriptors of a truncated message are closed");
    let received = other.recv(&mut buffer, 0).expect("the connection goes on");
    assert_eq!(&buffer[..received.bytes], b"next");
    let long = vec![0; 8 << 20];
    assert!(matches!(one.try_send(&long, &[]), Err(SocketError::MessageTooLong { bytes }) if bytes == long.len()));
}

fn an_empty_message_is_refused() {
    let (one, _other) = pair();
    assert!(matches!(one.try_send(&[], &[]), Err(SocketError::EmptyMessage)));
}

fn a_full_queue_is_told_apart_from_a_dead_peer() {
    let (one, other) = pair();
    let mut sent = 0;
    while one.try_send(&[1; 1024], &[]).expect("send") == Sending::Sent {
        sent += 1;
        assert!(sent < 100_000, "a queue that never fills");
    }
    assert!(sent > 0);
    let late = one.send_deadline(b"late", &[], Duration::from_millis(20)).expect("send");
    assert_eq!(late, Sending::Full);
    drop(other);
    assert!(matches!(one.try_send(b"x", &[]), Err(SocketError::Closed)));
}

fn waiting_ends_at_the_deadline() {
    let (one, _other) = pair();
    let mut buffer = [0; 8];
    let received = one.recv_deadline(&mut buffer, 0, Duration::from_millis(20)).expect("recv");
    assert!(received.is_none());
}

fn a_closed_peer_is_noticed() {
    let (one, other) = pair();
    assert!(!one.is_hung_up());
    other.send(b"last words", &[]).expect("send");
    drop(other);
    assert!(one.is_hung_up());
    let mut buffer = [0; 64];
    assert_eq!(one.recv(&mut buffer, 0).expect("what was sent before").bytes, 10);
    assert!(matches!(one.try_recv(&mut buffer, 0), Err(SocketError::Closed)));
}

fn a_pair_knows_its_maker() {
    let (one, _other) = pair();
    let peer = one.peer_credentials().expect("credentials");
    assert_eq!(peer.pid, std::process::id());
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
}

fn a_listener_is_private_and_replaced_only_under_the_lock() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let path = scratch.path().join("socket");
    let lock = FileLock::try_exclusive(&scratch.path().join("lock")).expect("lock").expect("free");
    assert!(FileLock::try_exclusive(lock.path()).expect("lock").is_none(), "held already");
    let listener = Listener::bind(&path, StaleSocket::Refuse).expect("bind");
    assert_eq!(std::fs::metadata(&path).expect("stat").mode() & 0o777, 0o600);
    assert!(listener.accept().expect("accept").is_none());
    let client = MessageSocket::connect(&path).expect("connect");
    let mut served = None;
    until("a connection", || {
        served = listener.accept().expect("accept");
        served.is_some()
    });
    client.send(b"hello", &[]).expect("send");
    let mut buffer = [0; 8];
    assert_eq!(served.expect("served").recv(&mut buffer, 0).expect("recv").bytes, 5);
    assert!(matches!(Listener::bind(&path, StaleSocket::Refuse), Err(SocketError::AddressInUse { .. })));
    let next = Listener::bind(&path, StaleSocket::ReplaceHolding(&lock)).expect("replace");
    drop(listener);
    assert!(path.exists(), "the old listener must not remove the new one's file");
    drop(next);
    assert!(!path.exists());
    std::fs::write(&path, "precious").expect("write");
    assert!(matches!(Listener::bind(&path, StaleSocket::ReplaceHolding(&lock)), Err(SocketError::AddressInUse { .. })));
    let long = scratch.path().join("x".repeat(120));
    assert!(matches!(Listener::bind(&long, StaleSocket::Refuse), Err(SocketError::PathTooLong { .. })));
}

fn a_doorbell_never_blocks() {
    let bell = Doorbell::new().expect("a doorbell");
    assert!(!bell.drain());
    for _ in 0..200_000 {
        bell.ring();
    }
    assert!(bell.drain(), "more rings than the pipe holds");
    assert!(!bell.drain(), "one drain silences it");
    let Doorbell { ring, listen } = bell;
    drop(listen);
    assert!(!doorbell::ring(ring.as_fd()), "nobody listens");
}

fn at_the_open_files_limit_a_message_with_descriptors_fails_typed() {
    let scratch = Scratch::new();
    let path = scratch.path().join("socket");
    let listener = Listener::bind(&path, StaleSocket::Refuse).expect("bind");
    let (one, other) = pair();
    let client = MessageSocket::connect(&path).expect("connect");
    one.send(b"x", &[one.as_fd(), one.as_fd(), one.as_fd(), one.as_fd()]).expect("send");
    one.send(b"y", &[]).expect("send");
    let limit = getrlimit(Resource::Nofile);
    let filler = fill_descriptors(64);
    let before = open_fds_without_opening(&filler);
    let mut buffer = [0; 8];
    let lost = other.try_recv(&mut buffer, 4).expect_err("no room for descriptors");
    assert!(matches!(lost, SocketError::TruncatedControl { .. }), "{lost}");
    assert!(lost.is_fd_exhaustion());
    let refused = listener.accept().expect_err("no room for a connection");
    assert!(refused.is_fd_exhaustion(), "{refused}");
    assert_eq!(open_fds_without_opening(&filler), before, "nothing leaked");
    assert_eq!(other.recv(&mut buffer, 4).expect("the connection goes on").bytes, 1);
    drop(filler);
    setrlimit(Resource::Nofile, Rlimit { current: limit.current, maximum: limit.maximum }).expect("restore");
    assert!(listener.accept().expect("accept").is_some(), "the connection waited");
    drop(client);
}

/// Lowers the limit and opens descriptors until it is reached.
fn fill_descriptors(limit: u64) -> Vec<OwnedFd> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum }).expect("lower");
    let mut filler = Vec::new();
    while let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 0) {
        filler.push(fd);
    }
    filler
}

/// Free numbers below the limit, found by asking for each: listing /proc would need a descriptor.
fn open_fds_without_opening(filler: &[OwnedFd]) -> usize {
    assert!(!filler.is_empty());
    (0..64)
        .filter(|&number| {
            // SAFETY: asking for the flags of a number reads nothing; a closed number answers EBADF.
            (unsafe { libc::fcntl(number, libc::F_GETFD) }) >= 0
        })
        .count()
}
