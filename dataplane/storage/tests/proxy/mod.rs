//! A way to a server on which things go wrong: it carries bytes between clients and a real server, and refuses, loses, cuts or
//! holds back what it is told to, or answers itself. It knows nothing of HTTP but one answer.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What a busy S3 says.
const BUSY: &[u8] = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
/// Longest time that bytes are held back, whatever a test forgets.
const HOLD_MAX: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 64 << 10;

/// What happens to the next bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// So many times what a client sends is answered with "busy" and not passed on.
    pub(crate) busy: u32,
    /// So many times what the server answers is dropped, and the connection closed.
    pub(crate) lost: u32,
    /// So many times an answer is cut, as soon as it is longer than one buffer.
    pub(crate) cut: u32,
    /// Nothing that a client sends is passed on.
    pub(crate) held: bool,
    /// Whatever a client sends is answered with this, and not passed on.
    pub(crate) answer: Option<&'static str>,
}

/// The way, until it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    trouble: Trouble,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of a kind of trouble, if there is any.
    fn take(&self, of: impl Fn(&mut Trouble) -> &mut u32) -> bool {
        let mut state = self.state();
        let left = of(&mut state.trouble);
        let any = *left > 0;
        *left = left.saturating_sub(1);
        any
    }
}

impl Proxy {
    /// A way to the server on this port of loopback.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.state().is_over {
                    return;
                }
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
                if let (Ok(client), Ok(server)) = (client, server) {
                    carry(&accepting, &client, &server);
                }
            }
        });
        Self { shared, address }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn set(&self, trouble: Trouble) {
        self.shared.state().trouble = trouble;
        self.shared.changed.notify_all();
    }

    /// What of it has not happened yet.
    pub(crate) fn left(&self) -> Trouble {
        self.shared.state().trouble
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_over = true;
            state.trouble = Trouble::default();
        }
        self.shared.changed.notify_all();
        // The thread that accepts looks once more.
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(shared: &Arc<Shared>, client: &TcpStream, server: &TcpStream) {
    let pair = || Some((client.try_clone().ok()?, server.try_clone().ok()?));
    for stream in [client, server] {
        let _ = stream.set_nodelay(true);
    }
    let (Some(there), Some(back)) = (pair(), pair()) else { return };
    let (up, down) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || requests(&up, there));
    thread::spawn(move || answers(&down, back));
}

fn requests(shared: &Shared, (mut client, mut server): (TcpStream, TcpStream)) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let held = shared.changed.wait_timeout_while(shared.state(), HOLD_MAX, |state| state.trouble.held);
        drop(held);
        let answer = shared.state().trouble.answer;
        if let Some(answer) = answer {
            refuse(&client, answer);
            break;
        }
        if shared.take(|trouble| &mut trouble.busy) {
            let _ = client.write_all(BUSY);
            break;
        }
        if server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    close(&client, &server);
}

/// Answers, and lets the client finish what it still sends: it would not read the answer on a broken connection.
fn refuse(mut client: &TcpStream, answer: &str) {
    let said = client.write_all(answer.as_bytes()).and_then(|()| client.shutdown(Shutdown::Write));
    let _ = client.set_read_timeout(Some(HOLD_MAX));
    let mut rest = vec![0; BUFFER_BYTES];
    while said.is_ok() && matches!(client.read(&mut rest), Ok(1..)) {}
}

fn answers(shared: &Shared, (mut client, mut server): (TcpStream, TcpStream)) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        if shared.take(|trouble| &mut trouble.lost) {
            break;
        }
        let cut = count > BUFFER_BYTES / 4 && shared.take(|trouble| &mut trouble.cut);
        let passed = if cut { count / 2 } else { count };
        if client.write_all(&buffer[..passed]).is_err() || cut {
            break;
        }
    }
    close(&client, &server);
}

fn close(client: &TcpStream, server: &TcpStream) {
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
}
