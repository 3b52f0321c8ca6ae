//! What lies between two servers in the tests: a TCP proxy that can cut connections at a byte, hold them up, or let nobody
//! through. Its address is known before the server behind it runs.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a thread that waits looks whether it is to end.
const LOOK: Duration = Duration::from_millis(1);

/// Bytes that make a connection one of the large ones.
pub(crate) const LARGE_BYTES: u64 = 200_000;

/// One direction of all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who connected to the server behind the proxy.
    There,
    /// Back.
    Back,
}

#[derive(Debug, Default)]
struct Passage {
    /// Bytes that passed.
    passed: AtomicU64,
    /// The count at which every connection is cut; `u64::MAX` for none.
    cut_at: AtomicU64,
    is_held: AtomicBool,
    /// Whether connections that carried much are held up.
    holds_large: AtomicBool,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<Option<SocketAddr>>,
    connections: Mutex<Vec<TcpStream>>,
    ways: [Passage; 2],
    cuts: AtomicU64,
    accepted: AtomicU64,
    over: AtomicBool,
}

/// A proxy, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    /// It lets nobody through yet.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(None),
            connections: Mutex::default(),
            ways: Default::default(),
            cuts: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        shared.ways.iter().for_each(|way| way.cut_at.store(u64::MAX, Ordering::Relaxed));
        let address = listener.local_addr().unwrap();
        let acceptor = Some(std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        }));
        Self { address, shared, acceptor }
    }

    /// Where connections go from now on; `None` closes them as they come.
    pub(crate) fn lead_to(&self, target: Option<SocketAddr>) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.shared.cut();
    }

    /// Cuts every connection as soon as so many more bytes have passed one way.
    pub(crate) fn cut_after(&self, way: Way, bytes: u64) {
        let passage = &self.shared.ways[way as usize];
        passage.cut_at.store(passage.passed.load(Ordering::SeqCst) + bytes, Ordering::SeqCst);
    }

    /// Forgets about that.
    pub(crate) fn cut_no_more(&self) {
        self.shared.ways.iter().for_each(|way| way.cut_at.store(u64::MAX, Ordering::SeqCst));
    }

    /// Lets nothing pass one way, or lets it pass again.
    pub(crate) fn hold(&self, way: Way, is_held: bool) {
        self.shared.ways[way as usize].is_held.store(is_held, Ordering::SeqCst);
    }

    /// Holds up, one way, the connections that carry more than [`LARGE_BYTES`], or lets them pass again.
    pub(crate) fn hold_large(&self, way: Way, holds: bool) {
        self.shared.ways[way as usize].holds_large.store(holds, Ordering::SeqCst);
    }

    /// Cuts so far.
    pub(crate) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Bytes that passed one way so far.
    pub(crate) fn passed(&self, way: Way) -> u64 {
        self.shared.ways[way as usize].passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.cut();
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn cut(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        self.cuts.fetch_add(1, Ordering::SeqCst);
        for connection in connections {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut carriers = Vec::new();
    while !shared.is_over() {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let target = *shared.target.lock().unwrap();
        let Some(far) = target.and_then(|target| TcpStream::connect(target).ok()) else { continue };
        for stream in [&near, &far] {
            stream.set_nonblocking(false).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
        }
        for (way, from, to) in [(Way::There, &near, &far), (Way::Back, &far, &near)] {
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = Arc::clone(shared);
            carriers.push(std::thread::spawn(move || carry(&shared, way, from, to)));
        }
    }
    // Whoever is late is cut by this.
    shared.cut();
    carriers.into_iter().for_each(|carrier| carrier.join().unwrap());
}

/// Carries bytes one way until the connection ends.
fn carry(shared: &Shared, way: Way, mut from: TcpStream, mut to: TcpStream) {
    let passage = &shared.ways[way as usize];
    let mut buffer = vec![0; 64 << 10];
    let mut carried = 0;
    while !shared.is_over() {
        let is_large = carried > LARGE_BYTES && passage.holds_large.load(Ordering::SeqCst);
        if is_large || passage.is_held.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            continue;
        }
        let bytes = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        carried += bytes as u64;
        let cut_at = passage.cut_at.load(Ordering::SeqCst);
        let before = passage.passed.fetch_add(bytes as u64, Ordering::SeqCst);
        let allowed = usize::try_from(cut_at.saturating_sub(before)).unwrap_or(usize::MAX).min(bytes);
        if to.write_all(&buffer[..allowed]).is_err() {
            break;
        }
        if allowed < bytes || before + bytes as u64 == cut_at {
            passage.cut_at.store(u64::MAX, Ordering::SeqCst);
            shared.cut();
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
