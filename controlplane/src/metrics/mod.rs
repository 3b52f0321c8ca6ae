//! The metrics endpoint of `praas serve --metrics`: what the server counts, in the OpenMetrics text format, over HTTP on
//! loopback or on a Unix socket.
//!
//! 1. It is for a collector on the same host: other addresses are refused. Whoever can connect may read; a Unix socket is of
//!    mode 0600 before anybody can connect.
//! 2. One request a connection, one connection at a time, each with a deadline: a peer that says nothing holds nothing up
//!    for long, and nobody can make the server hold more than one request's head.
//! 3. A scrape asks the server's loop once and stops no call.

mod address;
mod http;
mod text;

pub use address::MetricsAddress;

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use praas_server::ServerObserver;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::limits::METRICS_BACKLOG;

/// A served endpoint; it ends, and its socket file goes, when this is dropped.
#[derive(Debug)]
pub struct MetricsEndpoint {
    address: MetricsAddress,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    socket_file: Option<PathBuf>,
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl MetricsEndpoint {
    /// Serves at `address` what `observer` sees.
    ///
    /// # Errors
    /// The system's, when the address cannot be had.
    pub fn start(address: &MetricsAddress, observer: ServerObserver) -> io::Result<Self> {
        let (listening, bound, socket_file) = match address {
            MetricsAddress::Loopback(address) => {
                let listener = TcpListener::bind(address)?;
                let bound = MetricsAddress::Loopback(listener.local_addr()?);
                (Listening::Tcp(listener), bound, None)
            }
            MetricsAddress::Unix(path) => {
                remove_stale_socket(path)?;
                (Listening::Unix(listen_for_owner(path)?), address.clone(), Some(path.clone()))
            }
        };
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let thread = std::thread::Builder::new()
            .name("praas-metrics".into())
            .spawn(move || serve(&listening, &observer, &told))?;
        Ok(Self { address: bound, ends, thread: Some(thread), socket_file })
    }

    /// Where it answers; a port that was left to the system is filled in.
    #[must_use]
    pub fn address(&self) -> &MetricsAddress {
        &self.address
    }
}

/// A listening socket that only its owner may connect to, at every moment of its life: the kernel gives the file the mode of
/// the socket, whatever the umask allows beyond that, and nobody can connect before it listens.
fn listen_for_owner(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    let mode = std::fs::symlink_metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        let _ = std::fs::remove_file(path);
        let message = format!("its file system gives sockets the mode {:o}: choose a path on another", mode & 0o777);
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    listen(&socket, METRICS_BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// A socket that an earlier server left behind, and nobody listens to, makes room; anything else stays.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

fn serve(listening: &Listening, observer: &ServerObserver, ends: &AtomicBool) {
    while !ends.load(Ordering::Acquire) {
        // A connection that failed before it was taken, or descriptors that ran out, concern that collector alone.
        let served = match listening {
            Listening::Tcp(listener) => listener.accept().and_then(|(stream, _)| http::answer_tcp(stream, observer)),
            Listening::Unix(listener) => listener.accept().and_then(|(stream, _)| http::answer_unix(stream, observer)),
        };
        if served.is_err_and(|error| error.raw_os_error().is_some_and(http::is_shortage)) {
            std::thread::sleep(crate::limits::METRICS_SHORTAGE_PAUSE);
        }
    }
}

impl Drop for MetricsEndpoint {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        // A connection makes the thread look; where none can be made it has ended already.
        match &self.address {
            MetricsAddress::Loopback(address) => drop(std::net::TcpStream::connect(address)),
            MetricsAddress::Unix(path) => drop(std::os::unix::net::UnixStream::connect(path)),
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(path) = &self.socket_file {
            let _ = std::fs::remove_file(path);
        }
    }
}
