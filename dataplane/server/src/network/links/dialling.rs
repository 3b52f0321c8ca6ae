//! Dialling: a name is resolved and two connections are made by a thread of their own, because either may block.
//!
//! At most one thread dials a server at a time, and ends within [`DIAL_MAX`] for each address that the name has, of which
//! at most [`DIALLED_ADDRESSES_MAX`] are tried. The thread owns the sockets until it has left them in the shard's mail.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::super::relay::Letter;
use super::super::shard::{Course, NetworkShard};
use super::super::timers::Timer;
use super::Standing;
use crate::limits::{DIAL_MAX, DIALLED_ADDRESSES_MAX};

/// What became of an attempt to connect.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(in super::super) peer: usize,
    /// The two connections of a link, or why there are none.
    pub(in super::super) outcome: Result<[OwnedFd; 2], String>,
}

impl NetworkShard {
    /// Timer: a link is to be dialled.
    pub(in super::super) fn dial(&mut self, peer: usize) {
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        if link.standing != Standing::Down || matches!(self.course, Course::Ending { .. }) {
            return;
        }
        let Some(address) = self.plan.peers.get(peer).map(|configured| configured.address.clone()) else { return };
        link.standing = Standing::Dialling;
        let mail = Arc::clone(&self.mail);
        let dials = move || mail.post(Letter::Dialled(Dialled { peer, outcome: connect(&address) }));
        let thread = std::thread::Builder::new().name(format!("praas-dial-{peer}")).spawn(dials);
        if let Err(error) = thread {
            link.standing = Standing::Down;
            self.link_stays_down(peer, &format!("starting a thread that connects: {error}"));
        }
    }

    /// Timer: the link is dialled again after a pause.
    pub(super) fn link_stays_down(&mut self, peer: usize, why: &str) {
        let Some(link) = self.links.of.get_mut(&peer) else { return };
        link.standing = Standing::Down;
        let pause = link.next_pause();
        if self.plan.elsewhere.unlinked(peer, why) {
            let address = self.plan.peers.get(peer).map_or("", |configured| configured.address.as_str());
            self.plan
                .log
                .warning(format_args!("there is no link to the server at {address}: {why}; it is tried again"));
        }
        self.timers.at(self.now + pause, Timer::Dial(peer));
    }
}

fn connect(address: &str) -> Result<[OwnedFd; 2], String> {
    let resolved = address.to_socket_addrs().map_err(|error| format!("its address cannot be resolved: {error}"))?;
    let mut why = String::from("its name has no address");
    for address in resolved.take(DIALLED_ADDRESSES_MAX) {
        match connect_twice(&address) {
            Ok(sockets) => return Ok(sockets),
            Err(error) => why = format!("connecting to {address}: {error}"),
        }
    }
    Err(why)
}

fn connect_twice(address: &SocketAddr) -> io::Result<[OwnedFd; 2]> {
    let connect = || TcpStream::connect_timeout(address, DIAL_MAX).map(OwnedFd::from);
    Ok([connect()?, connect()?])
}
