//! The way back to the network, for a client that was given an address and found its server on this host.
//!
//! Shared memory is preferred as long as the server's socket answers. When the connection there is lost and the socket does
//! not answer, while a server at the address does, calls and requests go there from then on: a network connection that is
//! lost later leads to the network again. Handles of processes follow with their next call; a call that waited for its lane
//! meanwhile ends as one that never ran.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use crate::options::Settings;
use crate::remote::{Link, RemoteClient, dial_shared};
use crate::session::lock;

/// Where a client of shared memory goes when that is over.
pub(crate) struct Fallback {
    /// There until it has gone.
    settings: Mutex<Option<Settings>>,
    remote: OnceLock<Arc<RemoteClient>>,
}

impl Fallback {
    /// To the addresses of `settings`.
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings: Mutex::new(Some(settings)), remote: OnceLock::new() }
    }

    /// The client of the network, once it is the way.
    pub(crate) fn remote(&self) -> Option<&Arc<RemoteClient>> {
        self.remote.get()
    }

    /// A connection over the network, if a server answers there.
    pub(crate) fn dial(&self, end: Instant) -> Option<Arc<Link>> {
        let settings = lock(&self.settings);
        let settings = settings.as_ref()?;
        dial_shared(&settings.addresses, settings, end).ok()
    }

    /// From here on the network is the way.
    pub(crate) fn take(&self, link: Arc<Link>) {
        if let Some(settings) = lock(&self.settings).take() {
            self.remote.get_or_init(|| Arc::new(RemoteClient::new(settings, link)));
        }
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fallback").field("remote", &self.remote).finish_non_exhaustive()
    }
}
