//! Handles that another server opens in the name of its processes and sessions, and what it watches.
//!
//! Such a handle is there at once and opens nothing: a lane for its calls is asked for by the first call, one for its messages
//! by the first message. Many a process that could call or send never does, and whether there is anybody at the other end is
//! told to who wants to know.

use std::sync::Arc;

use praas_protocol::control::{ClientRequest, ControlError};
use praas_protocol::message::Address;
use praas_protocol::token::Rights;
use praas_protocol::wire::{GoawayReason, OpenAs, Opened, Watch};
use praas_protocol::{Name, Phase, ProcessId};

use super::calls::NotRun;
use super::connection::{ConnectionKey, Handle};
use super::delivering::{Link, Spoken};
use super::generations::Refusal;
use super::lanes::LaneKey;
use super::questions::Opener;
use super::receiving::Flow;
use super::shard::NetworkShard;
use crate::limits::{HANDLES_MAX, IN_FLIGHT_MAX};

impl NetworkShard {
    /// Another server wants to call, or send, in somebody's name.
    pub(super) fn open_as(&mut self, key: ConnectionKey, open: &OpenAs) -> Flow {
        if let Err(error) = self.may_open_as(key, open) {
            self.refuse(key, open.request_id, &error);
            return Flow::GoOn;
        }
        match self.join_link(key, open) {
            Ok(()) => {}
            Err(Joined::Refused(error)) => {
                self.refuse(key, open.request_id, &error);
                return Flow::GoOn;
            }
            Err(Joined::Late(message)) => {
                self.refuse(key, open.request_id, &ControlError::Protocol { reason: message.clone() });
                self.send_away(key, GoawayReason::Protocol, &message);
                return Flow::Stop;
            }
        }
        match open.to {
            Address::Process(process) => {
                self.give_handle_as(key, open, ProcessId { application: open.application, process });
            }
            Address::Client(session) => {
                let opener = Opener::new(key, open.request_id, open.payload_bytes_max, open.in_flight_max);
                self.open_lane_to_session(opener, open.application, session, open.source, open.incarnation);
            }
        }
        Flow::GoOn
    }

    /// Whether the token allows it, and there is room for one more handle.
    fn may_open_as(&self, key: ConnectionKey, open: &OpenAs) -> Result<(), ControlError> {
        let connection = self.connections.get(key).ok_or(ControlError::ShuttingDown)?;
        let identity = connection.identity.as_ref().ok_or(ControlError::ShuttingDown)?;
        let application = open.application;
        let covers = |address: Address| match address {
            Address::Process(process) => identity.claims.scope.covers(&ProcessId { application, process }),
            Address::Client(_) => identity.claims.scope.covers_application(&application),
        };
        if !identity.claims.rights.contains(Rights::TRUSTED) || !covers(open.source) || !covers(open.to) {
            let what = format!("calls and messages of {} to {} of {application}", open.source, open.to);
            return Err(ControlError::Unauthorized { right: "trusted".into(), what });
        }
        let used = connection.handles.len();
        if used >= HANDLES_MAX as usize {
            return Err(ControlError::LimitReached {
                what: "handles of this connection".into(),
                used: used as u64,
                limit: HANDLES_MAX.into(),
                asked: 1,
                advice: "close some".into(),
            });
        }
        Ok(())
    }

    /// The connection belongs to the link that it shows.
    fn join_link(&mut self, key: ConnectionKey, open: &OpenAs) -> Result<(), Joined> {
        let plan = Arc::clone(&self.plan);
        let gone = Joined::Refused(ControlError::ShuttingDown);
        let Some(connection) = self.connections.get_mut(key) else { return Err(gone) };
        if let Some(link) = &connection.link
            && (link.instance, link.number) != (open.instance, open.generation)
        {
            return Err(Joined::Late("a connection belongs to one link, and shows the same always".into()));
        }
        let Some(principal) = connection.identity.as_ref().map(|identity| identity.claims.principal) else {
            return Err(gone);
        };
        match plan.generations.show(principal, open.instance, open.generation) {
            Ok(generation) => {
                connection.link = Some(Link { generation, instance: open.instance, number: open.generation });
                Ok(())
            }
            Err(Refusal::Late(newest)) => {
                let message = format!("link {} of the same server has taken the place of {}", newest, open.generation);
                Err(Joined::Late(message))
            }
            Err(Refusal::Full(limit)) => Err(Joined::Refused(ControlError::LimitReached {
                what: "servers linked to this one".into(),
                used: limit as u64,
                limit: limit as u64,
                asked: 1,
                advice: "link fewer".into(),
            })),
        }
    }

    fn give_handle_as(&mut self, key: ConnectionKey, open: &OpenAs, process: ProcessId) {
        let payload_limit = self.plan.payload_bytes_max;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let wish = |wish: u32, limit: u32| if wish == 0 { limit } else { wish.min(limit) };
        connection.last_handle += 1;
        let handle = Handle {
            number: connection.last_handle,
            lane: None,
            spoken: Some(Box::new(Spoken::new(process, open.source, open.incarnation))),
            payload_bytes_max: wish(open.payload_bytes_max, payload_limit),
            in_flight_max: wish(open.in_flight_max, IN_FLIGHT_MAX),
            in_flight: 0,
        };
        let opened = Opened {
            request_id: open.request_id,
            handle: handle.number,
            payload_bytes_max: handle.payload_bytes_max,
            in_flight_max: handle.in_flight_max,
            workers_max: 1,
            phase: Phase::Active,
        };
        connection.handles.push(handle);
        self.push(key, |out| opened.encode(out));
    }

    /// The lane for the calls of such a handle, asked for if there is none that can be used.
    pub(super) fn lane_of_spoken(&mut self, key: ConnectionKey, number: u32) -> Result<LaneKey, NotRun> {
        let gone = NotRun::unavailable(Phase::Closed);
        let handle = self.connections.get_mut(key).and_then(|connection| connection.handle_mut(number)).ok_or(gone)?;
        let (before, process) = (handle.lane, handle.spoken.as_ref().map(|spoken| (spoken.process, spoken.source)));
        if let Some(lane) = before.filter(|lane| self.is_usable_lane(*lane)) {
            return Ok(lane);
        }
        let (process, source) = process.ok_or(gone)?;
        let on_behalf: Option<Name> = match source {
            Address::Process(name) => Some(name),
            Address::Client(_) => None,
        };
        let session = self.session_for(key);
        let lane = session.and_then(|session| self.lane_to(session, process, on_behalf));
        let lane = lane.map_err(|error| NotRun::for_refusal(&error))?;
        if let Some(room) = self.lanes.get_mut(lane) {
            room.users += 1;
        }
        if let Some(before) = before {
            self.leave_lane(before);
        }
        if let Some(handle) = self.connections.get_mut(key).and_then(|connection| connection.handle_mut(number)) {
            handle.lane = Some(lane);
        }
        Ok(lane)
    }

    /// Lets go of what a handle had.
    pub(super) fn leave_handle(&mut self, key: ConnectionKey, handle: &Handle) {
        let Some(spoken) = &handle.spoken else { return handle.lane.map_or((), |lane| self.leave_lane(lane)) };
        if let Some(lane) = handle.lane {
            self.end_aside(lane, NotRun::cancelled(), |of, asked| of == key && asked.handle == handle.number);
            self.leave_lane(lane);
        }
        self.end_room_waits(key, NotRun::cancelled(), |credit| credit.handle == handle.number);
        if let Some(outbound) = spoken.outbound() {
            self.leave_outbound(outbound);
        }
    }

    /// Another server wants to know what changes. Such questions have a session of their connection's own, whose end takes
    /// them back.
    pub(super) fn watch(&mut self, key: ConnectionKey, watch: &Watch) {
        let session = self.following_session(key);
        self.ask_in(session, key, watch.request_id, ClientRequest::DirectoryWatch { after: watch.after });
    }
}

/// Why a connection does not belong to the link that it shows.
enum Joined {
    Refused(ControlError),
    /// It is to end.
    Late(String),
}
