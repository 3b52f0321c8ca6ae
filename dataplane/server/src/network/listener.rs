//! Listening sockets, and the way of a connection up to its hello.
//!
//! All shards accept from the same sockets. Connections have a share of the server's descriptors, so that however many come
//! from outside, workers and lanes find theirs; beyond it, and when the host has none left, they wait in the backlog.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use praas_sys::driver::SourceId;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

use super::connection::{Connection, ConnectionKey};
use super::shard::{Course, NetworkShard};
use super::sources::Source;
use super::timers::Timer;
use crate::StartError;
use crate::limits::{
    KEEPALIVE_IDLE, KEEPALIVE_PERIOD, KEEPALIVE_PROBES, LISTEN_BACKLOG, NETWORK_ACCEPT_PAUSE,
    REPLY_WINDOW_BYTES_DEFAULT, UNACKNOWLEDGED_MS_MAX,
};

/// A socket that listens on `address`, and the address that it got.
pub(super) fn listen_on(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError> {
    open_listener(address).map_err(|errno| StartError::Listen { address, reason: errno.to_string() })
}

fn open_listener(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // A server that starts anew finds connections of the last one in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // So that both `0.0.0.0` and `::` can be listened on, whatever the host's setting.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, LISTEN_BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok((socket, bound))
}

/// What a connection's socket is set to.
pub(super) fn set_options(socket: impl AsFd) -> Result<(), Errno> {
    // Replies leave as they are written: what could be gathered was gathered before.
    sockopt::set_tcp_nodelay(&socket, true)?;
    // A client that is gone without a word is found by the kernel.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PERIOD)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS_MAX)
}

impl NetworkShard {
    /// A peer has connected.
    pub(super) fn connection_came(&mut self, socket: OwnedFd) {
        if self.course != Course::Serving {
            return;
        }
        if let Err(errno) = set_options(&socket) {
            // It has gone again already.
            return self.log().info(format_args!("a network connection cannot be set up: {errno}"));
        }
        let hello_due = self.now + self.plan.client_hello;
        let (now, id) = (self.now, self.plan.next_connection_id());
        let entered =
            self.enter(socket, |source| Connection::new(source, id, now, hello_due, REPLY_WINDOW_BYTES_DEFAULT));
        let Some(key) = entered else { return };
        self.counters.connection_came();
        self.timers.at(hello_due, Timer::Hello(key));
        self.adjust_receiving(key);
        if self.sockets >= self.connections_max {
            self.stop_accepting();
        }
    }

    /// Has the driver serve a socket as a connection.
    fn enter(&mut self, socket: OwnedFd, make: impl FnOnce(SourceId) -> Connection) -> Option<ConnectionKey> {
        let token = Source::Connection(self.connections.next_key()).token();
        match self.driver.add_connection(socket, token) {
            Ok(source) => {
                self.sockets += 1;
                Some(self.connections.insert(make(source)))
            }
            Err(refused) => {
                self.log().warning(format_args!("a network connection is dropped: {}", refused.refusal));
                self.pause_accepting();
                None
            }
        }
    }

    /// The host gives no more connections for now.
    pub(super) fn accepting_failed(&mut self, errno: Errno) {
        self.log().warning(format_args!("accepting network connections failed: {errno}; they wait (see `ulimit -n`)"));
        self.pause_accepting();
    }

    fn pause_accepting(&mut self) {
        self.stop_accepting();
        self.timers.at(Instant::now() + NETWORK_ACCEPT_PAUSE, Timer::Accept);
    }

    fn stop_accepting(&mut self) {
        self.accepts = false;
        for listener in &self.listeners {
            self.driver.pause_accepting(*listener);
        }
    }

    /// Accepts again if there is room.
    pub(super) fn look_for_room_to_accept(&mut self) {
        if !self.accepts && self.sockets < self.connections_max && self.course == Course::Serving {
            self.accepts = true;
            for listener in &self.listeners {
                self.driver.resume_accepting(*listener);
            }
        }
    }

    /// Timer: a connection that should have said hello.
    pub(super) fn hello_due(&mut self, key: ConnectionKey) {
        if self.connections.get(key).is_some_and(|connection| connection.identity.is_none()) {
            self.counters.cut();
            self.close(key);
        }
    }
}
