//! A lane that this client opened: the shared-memory end, and what the server said about it.
//!
//! The lane outlives its connection: calls in flight, loans and replies keep it mapped. When its last user lets go, the
//! server is told, so that nothing of it stays behind.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::Phase;
use praas_protocol::control::{LaneGeometry, LaneId, ServerMessage, WaitMode};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Ticket, WaitEnd};

use crate::client::ClientShared;
use crate::deadline::Deadline;
use crate::destination::{Destination, LaneEnd};
use crate::error::RequestError;
use crate::limits::REQUEST_DEADLINE;
use crate::session::Session;

/// Longest wait for room in the control socket when a lane is closed: a server that reads nothing will drop it anyway.
const CLOSE_DEADLINE: Duration = Duration::from_millis(100);

/// One open lane.
pub(crate) struct OpenLane {
    lane: Arc<ClientLane>,
    id: LaneId,
    end: LaneEnd,
    session: Arc<Session>,
    wait_mode: WaitMode,
    trusted: bool,
    payload_bytes_max: u32,
    cells: u32,
    lost: AtomicBool,
}

/// What the server says of a lane that it gives.
struct Given {
    end: LaneEnd,
    id: LaneId,
    geometry: LaneGeometry,
    trusted: bool,
    payload_bytes_max: u32,
    workers_max: u32,
    wait_mode: WaitMode,
}

impl Given {
    /// What `message` says, if it gives a lane to `destination`.
    fn of(destination: &Destination, message: &ServerMessage) -> Result<Self, RequestError> {
        match (destination, message) {
            (
                Destination::Process(process),
                &ServerMessage::LaneOpened {
                    lane: id,
                    geometry,
                    trusted,
                    payload_bytes_max,
                    workers_max,
                    wait_mode,
                    ..
                },
            ) => {
                let end = LaneEnd::Process(*process);
                Ok(Self { end, id, geometry, trusted, payload_bytes_max, workers_max, wait_mode })
            }
            (
                Destination::Session(registration),
                &ServerMessage::SessionOpened {
                    ticket,
                    incarnation,
                    resumed,
                    lane: id,
                    geometry,
                    payload_bytes_max,
                    ..
                },
            ) => {
                registration.note(ticket, incarnation, resumed)?;
                // The server reads and writes it, and needs no worker for that.
                let (end, trusted, workers_max) = (LaneEnd::Session(ticket.session), false, 0);
                let wait_mode = WaitMode::Adaptive;
                Ok(Self { end, id, geometry, trusted, payload_bytes_max, workers_max, wait_mode })
            }
            _ => Err(RequestError::Unexpected { what: "something else than a lane" }),
        }
    }
}

impl OpenLane {
    /// Asks the server for a lane to `destination` and attaches it.
    pub(crate) fn open(
        client: &ClientShared,
        destination: &Destination,
        end: Instant,
    ) -> Result<Arc<Self>, RequestError> {
        let session = client.session_until(end)?;
        let limit = end.saturating_duration_since(Instant::now()).min(REQUEST_DEADLINE);
        let answer = session.ask(destination.lane_request(client.settings()), limit)?;
        // What is not wanted is given back, or the server would keep it as long as the connection.
        let given = Given::of(destination, &answer.message).inspect_err(|_| session.give_back(&answer.message))?;
        let opened = Arc::new(Self::attach(client, &given, &session, answer.descriptors)?);
        session.register(&opened);
        Ok(opened)
    }

    fn attach(
        client: &ClientShared,
        given: &Given,
        session: &Arc<Session>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Self, RequestError> {
        let &Given { end, id, geometry, trusted, payload_bytes_max, workers_max, wait_mode } = given;
        let Ok([segment, control, doorbell]) = <[_; 3]>::try_from(descriptors) else {
            return Err(RequestError::Unexpected { what: "a lane without its three descriptors" });
        };
        let socket = Arc::clone(session.socket());
        let ring = end.ring(id);
        let ring_server = Box::new(move || {
            if let Some(ring) = &ring {
                socket.send_hint(ring);
            }
        });
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
        let lane = ClientLane::attach(parts).map_err(|error| {
            session.socket().send_hint(&end.farewell(id));
            RequestError::Lane { reason: error.to_string() }
        })?;
        Ok(Self {
            lane: Arc::new(lane),
            id,
            end,
            session: Arc::clone(session),
            wait_mode: client.wait_mode_or(wait_mode),
            trusted,
            payload_bytes_max,
            cells: geometry.cells,
            lost: AtomicBool::new(false),
        })
    }

    #[inline]
    pub(crate) fn lane(&self) -> &Arc<ClientLane> {
        &self.lane
    }

    pub(crate) fn id(&self) -> LaneId {
        self.id
    }

    /// Whether both ends share a trust domain, so that payloads are read and written in place.
    pub(crate) fn trusted(&self) -> bool {
        self.trusted
    }

    pub(crate) fn payload_bytes_max(&self) -> u32 {
        self.payload_bytes_max
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lane.phase()
    }

    /// Reply cells that no call holds now.
    pub(crate) fn free_cells(&self) -> usize {
        (self.cells as usize).saturating_sub(self.lane.in_flight())
    }

    #[inline]
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether a request put here has a chance now or soon: the connection lives and the process was not closed.
    #[inline]
    pub(crate) fn is_usable(&self) -> bool {
        !self.is_lost() && self.phase() != Phase::Closed
    }

    /// The connection is gone: every waiter is woken and nothing is submitted any more.
    pub(crate) fn mark_lost(&self) {
        // Before the lane wakes anybody: who is woken looks here.
        self.lost.store(true, Ordering::Release);
        self.lane.mark_lost();
    }

    /// Waits for the answer to `ticket`. A wait that succeeds soon does not read the clock.
    #[inline]
    pub(crate) fn wait(&self, ticket: &Ticket, deadline: &mut Deadline) -> WaitEnd {
        self.lane.wait(ticket, self.wait_mode, deadline.remaining_or_limit())
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        if !self.session.is_lost() {
            // A connection on which this fails is broken, and the server closes its lanes with it.
            let _ = self.session.socket().send(&self.end.farewell(self.id), CLOSE_DEADLINE);
        }
    }
}

impl fmt::Debug for OpenLane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenLane")
            .field("id", &self.id)
            .field("end", &self.end)
            .field("trusted", &self.trusted)
            .field("wait_mode", &self.wait_mode)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
