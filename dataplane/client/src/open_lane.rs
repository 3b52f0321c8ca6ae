//! A lane that this client opened: the shared-memory end, and what the server said about it.
//!
//! The lane outlives its connection: calls in flight, loans and replies keep it mapped. When its last user lets go, the
//! server is told, so that nothing of it stays behind.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use praas_protocol::control::{ClientMessage, ClientRequest, LaneId, ServerMessage, WaitMode};
use praas_protocol::{Phase, ProcessId};
use praas_shm::client_lane::{ClientLane, ClientLaneParts, Ticket, WaitEnd};

use crate::client::ClientShared;
use crate::deadline::Deadline;
use crate::error::RequestError;
use crate::limits::REQUEST_DEADLINE;
use crate::session::{ControlAnswer, Session};

/// Longest wait for room in the control socket when a lane is closed: a server that reads nothing will drop it anyway.
const CLOSE_DEADLINE: Duration = Duration::from_millis(100);

/// One open lane.
pub(crate) struct OpenLane {
    lane: Arc<ClientLane>,
    id: LaneId,
    process: ProcessId,
    session: Arc<Session>,
    wait_mode: WaitMode,
    trusted: bool,
    payload_bytes_max: u32,
    cells: u32,
    lost: AtomicBool,
}

impl OpenLane {
    /// Asks the server for a lane to `process` and attaches it.
    pub(crate) fn open(client: &ClientShared, process: ProcessId, end: Instant) -> Result<Arc<Self>, RequestError> {
        let session = client.session_until(end)?;
        let settings = client.settings();
        let request = ClientRequest::LaneOpen {
            process,
            payload_bytes_max: settings.payload_bytes_max,
            calls_in_flight: settings.calls_in_flight,
        };
        let limit = end.saturating_duration_since(Instant::now()).min(REQUEST_DEADLINE);
        let answer = session.ask(request, limit)?;
        let opened = Arc::new(Self::attach(client, process, &session, answer)?);
        session.register(&opened);
        Ok(opened)
    }

    fn attach(
        client: &ClientShared,
        process: ProcessId,
        session: &Arc<Session>,
        answer: ControlAnswer,
    ) -> Result<Self, RequestError> {
        let ServerMessage::LaneOpened {
            lane: id, geometry, trusted, payload_bytes_max, workers_max, wait_mode, ..
        } = answer.message
        else {
            return Err(RequestError::Unexpected { what: "something else than a lane" });
        };
        let Ok([segment, control, doorbell]) = <[_; 3]>::try_from(answer.descriptors) else {
            return Err(RequestError::Unexpected { what: "a lane without its three descriptors" });
        };
        let socket = Arc::clone(session.socket());
        let ring_server = Box::new(move || socket.send_hint(&ClientMessage::Ring { lane: id, process }));
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
            session.socket().send_hint(&ClientMessage::LaneClose { lane: id, process });
            RequestError::Lane { reason: error.to_string() }
        })?;
        Ok(Self {
            lane: Arc::new(lane),
            id,
            process,
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
            let close = ClientMessage::LaneClose { lane: self.id, process: self.process };
            // A connection on which this fails is broken, and the server closes its lanes with it.
            let _ = self.session.socket().send(&close, CLOSE_DEADLINE);
        }
    }
}

impl fmt::Debug for OpenLane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("OpenLane")
            .field("id", &self.id)
            .field("process", &self.process)
            .field("trusted", &self.trusted)
            .field("wait_mode", &self.wait_mode)
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}
