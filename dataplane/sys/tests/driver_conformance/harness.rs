//! A driver, the completions that nobody has asked for yet, and peers to talk to.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use praas_shm::io_buffer::IoBuffer;
use praas_sys::driver::{self, Completion, Driver, DriverChoice, DriverLimits, End, OpenError, Outgoing, SourceId};

/// Longest wait for anything that must happen: generous, because machines that run tests are loaded.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// How long a driver is watched for something that must not happen. Too short a time hides a fault, never makes one.
pub(crate) const A_WHILE: Duration = Duration::from_millis(30);
/// What buffers are filled with before anything is received.
pub(crate) const CANARY: u8 = 0xC5;

/// A buffer that counts itself.
#[derive(Debug)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    live: Arc<AtomicUsize>,
    read_only: bool,
}

// SAFETY: as for the vector, which is only changed by exclusive access.
unsafe impl IoBuffer for Buffer {
    fn start(&self) -> NonNull<u8> {
        IoBuffer::start(&self.bytes)
    }

    fn start_mut(&mut self) -> Option<NonNull<u8>> {
        if self.read_only { None } else { IoBuffer::start_mut(&mut self.bytes) }
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Buffer {
    pub(crate) fn make_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// All bytes but those of `range` are as they were.
    pub(crate) fn assert_untouched_outside(&self, range: Range<usize>) {
        let touched = |bytes: &[u8]| bytes.iter().any(|byte| *byte != CANARY);
        assert!(!touched(&self.bytes[..range.start]), "bytes before {range:?} were written");
        assert!(!touched(&self.bytes[range.end..]), "bytes after {range:?} were written");
    }
}

/// A driver under test.
pub(crate) struct Harness {
    pub(crate) driver: Box<dyn Driver<Buffer>>,
    pub(crate) choice: DriverChoice,
    pub(crate) name: &'static str,
    seen: Vec<Completion<Buffer>>,
    live: Arc<AtomicUsize>,
}

/// Runs a test with a driver, unless the host refuses it.
pub(crate) fn run(choice: DriverChoice, name: &'static str, test: fn(&mut Harness)) {
    run_with(choice, name, DriverLimits::default(), test);
}

fn run_with(choice: DriverChoice, name: &'static str, limits: DriverLimits, test: fn(&mut Harness)) {
    match driver::open(choice, limits) {
        Err(OpenError::IoUring(refusal)) => println!("skipped: {refusal}"),
        Err(other) => panic!("{other}"),
        Ok(opened) => {
            let live = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&live);
            test(&mut Harness { driver: opened.driver, choice, name, seen: Vec::new(), live });
            assert_eq!(counter.load(Ordering::SeqCst), 0, "each buffer came back, and was dropped once");
        }
    }
}

impl Harness {
    /// Starts over with other limits.
    pub(crate) fn limit(&mut self, limits: DriverLimits) {
        self.seen.clear();
        self.driver = driver::open(self.choice, limits).expect("it has opened before").driver;
    }

    pub(crate) fn buffer(&self, bytes: Vec<u8>) -> Buffer {
        self.live.fetch_add(1, Ordering::SeqCst);
        Buffer { bytes, live: Arc::clone(&self.live), read_only: false }
    }

    pub(crate) fn canary(&self, bytes: usize) -> Buffer {
        self.buffer(vec![CANARY; bytes])
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    pub(crate) fn live_counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.live)
    }

    pub(crate) fn message(&self, bytes: &[u8]) -> Outgoing<Buffer> {
        let mut message = Outgoing::new();
        let buffer = self.buffer(bytes.to_vec());
        message.push_buffer(buffer, 0..bytes.len()).expect("inside");
        message
    }

    /// A connection of the driver, and its peer.
    pub(crate) fn connect(&mut self, token: u64) -> (SourceId, TcpStream) {
        let (socket, peer) = pair();
        (self.driver.add_connection(socket, token).expect("room"), peer)
    }

    /// One turn, which may sleep a little.
    pub(crate) fn turn(&mut self) {
        self.turn_for(Duration::from_millis(5));
    }

    pub(crate) fn turn_for(&mut self, timeout: Duration) {
        let before = self.seen.len();
        self.driver.wait(Some(timeout), &mut self.seen).expect("wait");
        let mut received: Vec<u64> = self.seen[before..]
            .iter()
            .filter_map(|completion| match completion {
                Completion::Received { token, .. } => Some(*token),
                _ => None,
            })
            .collect();
        let count = received.len();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len(), count, "a turn hands over received bytes once for each connection");
    }

    /// Turns until a completion is what is looked for; the others stay.
    pub(crate) fn expect<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Completion<Buffer>) -> Result<T, Completion<Buffer>>,
    ) -> T {
        let end = Instant::now() + SOON;
        loop {
            let mut picked = None;
            let mut rest = Vec::new();
            for completion in self.seen.drain(..) {
                if picked.is_some() {
                    rest.push(completion);
                    continue;
                }
                match pick(completion) {
                    Ok(value) => picked = Some(value),
                    Err(completion) => rest.push(completion),
                }
            }
            self.seen = rest;
            if let Some(value) = picked {
                return value;
            }
            assert!(Instant::now() < end, "waited {SOON:?} for {what}; there are {:?}", self.seen);
            self.turn();
        }
    }

    /// Turns for a while; everything that has been seen and not asked for.
    pub(crate) fn everything_within_a_while(&mut self) -> Vec<Completion<Buffer>> {
        let end = Instant::now() + A_WHILE;
        while Instant::now() < end {
            self.turn();
        }
        std::mem::take(&mut self.seen)
    }

    pub(crate) fn expect_received(&mut self, wanted: u64) -> Vec<u8> {
        self.expect("bytes", |completion| match completion {
            Completion::Received { token, bytes } if token == wanted => Ok(bytes.to_vec()),
            other => Err(other),
        })
    }

    /// Exactly `count` bytes, in as many pieces as they come.
    pub(crate) fn expect_bytes(&mut self, wanted: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            bytes.extend(self.expect_received(wanted));
        }
        assert_eq!(bytes.len(), count);
        bytes
    }

    /// `count` bytes of each connection with a token below `tokens`; receive buffers are not kept meanwhile.
    pub(crate) fn expect_bytes_of_all(&mut self, tokens: usize, count: usize) -> Vec<Vec<u8>> {
        let mut all = vec![Vec::new(); tokens];
        let end = Instant::now() + SOON;
        while all.iter().any(|bytes: &Vec<u8>| bytes.len() < count) {
            assert!(Instant::now() < end, "waited {SOON:?} for bytes of {tokens} connections");
            let mut completions = Vec::new();
            self.driver.wait(Some(Duration::from_millis(5)), &mut completions).expect("wait");
            for completion in completions {
                match completion {
                    Completion::Received { token, bytes } => {
                        all[usize::try_from(token).expect("a small token")].extend_from_slice(&bytes);
                    }
                    other => self.seen.push(other),
                }
            }
        }
        all
    }

    pub(crate) fn expect_end(&mut self, wanted: u64) -> End {
        self.expect("the end of receiving", |completion| match completion {
            Completion::ReceiveEnded { token, end } if token == wanted => Ok(end),
            other => Err(other),
        })
    }

    pub(crate) fn expect_filled(&mut self, wanted: u64) -> (Buffer, usize, End) {
        self.expect("a filled buffer", |completion| match completion {
            Completion::Filled { token, buffer, bytes, end } if token == wanted => Ok((buffer, bytes, end)),
            other => Err(other),
        })
    }

    pub(crate) fn expect_sent(&mut self, wanted: u64) -> (Outgoing<Buffer>, usize, End) {
        self.expect("the end of a send", |completion| match completion {
            Completion::Sent { token, message, bytes, end } if token == wanted => Ok((message, bytes, end)),
            other => Err(other),
        })
    }

    pub(crate) fn expect_closed(&mut self, wanted: u64) {
        self.expect("a closed source", |completion| match completion {
            Completion::Closed { token } if token == wanted => Ok(()),
            other => Err(other),
        });
    }

    pub(crate) fn expect_accepted(&mut self, wanted: u64) -> OwnedFd {
        self.expect("an accepted connection", |completion| match completion {
            Completion::Accepted { token, socket } if token == wanted => Ok(socket),
            other => Err(other),
        })
    }
}

/// Two ends of a TCP connection.
pub(crate) fn pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = connect_to(listener.local_addr().expect("address"));
    let (socket, _) = listener.accept().expect("accept");
    socket.set_nodelay(true).expect("TCP_NODELAY");
    (socket.into(), peer)
}

pub(crate) fn connect_to(address: SocketAddr) -> TcpStream {
    let peer = TcpStream::connect(address).expect("connect");
    peer.set_nodelay(true).expect("TCP_NODELAY");
    peer.set_read_timeout(Some(SOON)).expect("SO_RCVTIMEO");
    peer.set_write_timeout(Some(SOON)).expect("SO_SNDTIMEO");
    peer
}

/// Two ends whose sockets hold next to nothing.
pub(crate) fn narrow_pair() -> (OwnedFd, TcpStream) {
    narrowed_pair(&[(libc::SO_SNDBUF, 4 * 1024), (libc::SO_RCVBUF, 8 * 1024)])
}

/// Two ends whose sockets hold little of what is sent, and what others do of what is received.
pub(crate) fn narrow_sender_pair() -> (OwnedFd, TcpStream) {
    narrowed_pair(&[(libc::SO_SNDBUF, 4 * 1024)])
}

fn narrowed_pair(sizes: &[(i32, i32)]) -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    narrow(&listener, sizes);
    let peer = connect_to(listener.local_addr().expect("address"));
    narrow(&peer, sizes);
    let (socket, _) = listener.accept().expect("accept");
    (socket.into(), peer)
}

fn narrow(socket: &impl AsRawFd, sizes: &[(i32, i32)]) {
    let set = |level, option, value: i32| {
        let length = libc::socklen_t::try_from(size_of::<i32>()).expect("small");
        // SAFETY: the kernel reads an int.
        let status = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        assert_eq!(status, 0, "setsockopt");
    };
    // Segments of the size of real networks: tiny buffers and loopback's huge segments make the kernel drop and resend.
    set(libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1_000);
    for (option, bytes) in sizes {
        set(libc::SOL_SOCKET, *option, *bytes);
    }
}

/// Bytes that differ from their neighbours and from the canary's run.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| u8::try_from((index * 31 + index / 251) % 251).unwrap_or(0)).collect()
}

/// Makes the kernel answer the peer's close with a reset.
pub(crate) fn reset(peer: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("SO_LINGER");
    drop(peer);
}

pub(crate) fn read_exactly(peer: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    peer.read_exact(&mut bytes).expect("the peer reads");
    bytes
}

pub(crate) fn write(peer: &mut TcpStream, bytes: &[u8]) {
    peer.write_all(bytes).expect("the peer writes");
}

/// Whether this is the child in which a test that changes the whole process runs; the parent runs that child to its end.
pub(crate) fn is_child(harness: &Harness) -> bool {
    const CHILD: &str = "PRAAS_SYS_DRIVER_CHILD";
    if std::env::var(CHILD).is_ok() {
        return true;
    }
    // The test's name has no crate in front.
    let test = harness.name.split_once("::").map_or(harness.name, |(_, test)| test);
    let output = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("a child");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "the child failed:\n{text}");
    false
}
