//! Whether a server that was reached over the network lives on this host, and then a client that shares memory with it.
//!
//! The server names its host, its data directory within that, and its socket. All three are its word alone, so a client
//! compares the first two with what it finds itself, and then the incarnation that answers on the socket: a process of that
//! name in another container is not taken for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use praas_protocol::wire::host_id;

use crate::client::Client;
use crate::fallback::Fallback;
use crate::options::{Settings, Transport};
use crate::remote::Greeting;
use crate::session::Session;

/// A client of the same server over shared memory, if that is possible; else the settings again.
pub(crate) fn connect(greeting: &Greeting, settings: Settings) -> Result<Client, Settings> {
    let Some(session) = connect_here(greeting, &settings) else { return Err(settings) };
    let local = Settings {
        socket: PathBuf::from(&greeting.socket_path),
        token: settings.token.clone(),
        call_deadline: settings.call_deadline,
        lifecycle_deadline: settings.lifecycle_deadline,
        wait_mode: settings.wait_mode,
        payload_bytes_max: settings.payload_bytes_max,
        calls_in_flight: settings.calls_in_flight,
        addresses: Vec::new(),
        transport: Transport::Automatic,
        dedicated: false,
    };
    Ok(Client::local(local, session, Some(Fallback::new(settings))))
}

/// A connection to the socket of this very server. Whatever keeps it from answering there, it answers on the network.
fn connect_here(greeting: &Greeting, settings: &Settings) -> Option<Arc<Session>> {
    let socket = Path::new(&greeting.socket_path);
    if !socket.is_absolute() || own_host_id(socket)? != greeting.host_id {
        return None;
    }
    let session = Session::open(socket, settings.token.read().ok()?).ok()?;
    if session.incarnation() == greeting.incarnation {
        return Some(session);
    }
    session.close();
    None
}

/// What a server with its socket there would call this host.
fn own_host_id(socket: &Path) -> Option<[u8; 16]> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let directory = socket.parent()?.canonicalize().ok()?;
    Some(host_id(boot_id.trim(), &directory))
}
