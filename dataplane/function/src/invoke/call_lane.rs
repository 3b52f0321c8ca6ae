//! A lane that this worker opened to call a process, or by the server's gateway whoever is elsewhere.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use praas_protocol::control::{LaneGeometry, LaneId, WorkerMessage};
use praas_protocol::{Address, codec};
use praas_shm::client_lane::{ClientLane, ClientLaneParts};
use praas_sys::message_socket::MessageSocket;

/// What the server said of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) id: LaneId,
    pub(super) to: Address,
    pub(super) geometry: LaneGeometry,
    pub(super) payload_bytes_max: u32,
    pub(super) workers_max: u32,
    pub(super) is_gateway: bool,
}

/// One lane. The server is told when it goes.
#[derive(Debug)]
pub(crate) struct CallLane {
    lane: Arc<ClientLane>,
    to: Address,
    is_gateway: bool,
    post: Arc<MessageSocket>,
    /// Whether the server has ended it.
    gone: Cell<bool>,
    /// Higher than that of all lanes that were used earlier.
    pub(super) used: Cell<u64>,
}

impl CallLane {
    /// Maps what the server gave. `post` is the worker's end of the control socket.
    pub(super) fn attach(opened: &Opened, fds: Vec<OwnedFd>, post: &Arc<MessageSocket>) -> Result<Self, String> {
        let Opened { id, to, geometry, payload_bytes_max, workers_max, is_gateway } = *opened;
        let [segment, control, doorbell] =
            <[OwnedFd; 3]>::try_from(fds).map_err(|fds| format!("{} descriptors came instead of 3", fds.len()))?;
        let ring = codec::encode(&WorkerMessage::CallLaneRing { lane: id, to }).map_err(|error| error.to_string())?;
        let socket = Arc::clone(post);
        let ring_server = Box::new(move || {
            // A full socket belongs to a server that has enough to read, and is rung again while the call waits.
            let _ = socket.try_send(&ring, &[]);
        });
        // Both ends are functions of one application, or the other one is the server.
        let trusted = true;
        let parts = ClientLaneParts {
            lane: id,
            geometry,
            trusted,
            payload_bytes_max,
            workers_max,
            segment,
            control,
            doorbell,
            ring_server,
        };
        let lane = Arc::new(ClientLane::attach(parts).map_err(|error| error.to_string())?);
        let (post, gone, used) = (Arc::clone(post), Cell::new(false), Cell::new(0));
        Ok(Self { lane, to, is_gateway, post, gone, used })
    }

    #[inline]
    pub(crate) fn lane(&self) -> &Arc<ClientLane> {
        &self.lane
    }

    pub(super) fn to(&self) -> &Address {
        &self.to
    }

    /// Whether its other end is the server's gateway, not a worker of whom it leads to.
    pub(crate) fn is_gateway(&self) -> bool {
        self.is_gateway
    }

    /// Whether it has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    pub(super) fn id(&self) -> LaneId {
        self.lane.id()
    }

    /// The server has ended it.
    pub(super) fn mark_gone(&self) {
        self.gone.set(true);
        self.lane.mark_lost();
    }
}

impl Drop for CallLane {
    fn drop(&mut self) {
        if !self.gone.get() {
            close(&self.post, self.lane.id(), self.to);
        }
    }
}

/// Tells the server that a lane is not needed any more.
pub(super) fn close(post: &MessageSocket, lane: LaneId, to: Address) {
    if let Ok(bytes) = codec::encode(&WorkerMessage::CallLaneClose { lane, to }) {
        // Lost in a full socket, it costs room until this worker ends.
        let _ = post.try_send(&bytes, &[]);
    }
}

/// A descriptor of its own for those who ring the server from inside a lane.
pub(super) fn post_of(socket: &MessageSocket) -> io::Result<Arc<MessageSocket>> {
    use std::os::fd::AsFd;
    Ok(Arc::new(MessageSocket::from(socket.as_fd().try_clone_to_owned()?)))
}
