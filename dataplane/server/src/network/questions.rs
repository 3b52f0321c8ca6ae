//! Questions: everything but calls that a client wants an answer to. The server's loop answers most of them; here they are
//! put into its words, and its answers into frames.

use praas_protocol::control::{ClientRequest, ControlError, FunctionStats, ServerMessage};
use praas_protocol::wire::{
    ApplicationPage, CountsPage, Done, List, ListApplications, Open, Opened, Output, OutputChunk, ProcessPage,
    encode_control_error,
};
use praas_protocol::{Name, ProcessId};

use super::connection::{ConnectionKey, Handle};
use super::control_session::{Question, SessionKey};
use super::lanes::{LaneKey, LaneState};
use super::shard::NetworkShard;
use crate::limits::{HANDLES_MAX, IN_FLIGHT_MAX};

/// Who asked, and how the answer is to be shown.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) connection: ConnectionKey,
    pub(super) request_id: u64,
    /// Of a list of names: the last one that the client has.
    after: Option<Name>,
}

/// Who waits for a lane.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) connection: ConnectionKey,
    pub(super) request_id: u64,
    payload_bytes_max: u32,
    in_flight_max: u32,
}

impl NetworkShard {
    /// Refuses a question.
    pub(super) fn refuse(&mut self, key: ConnectionKey, request_id: u64, error: &ControlError) {
        self.push(key, |out| encode_control_error(error, request_id, out));
    }

    fn session_for(&mut self, key: ConnectionKey) -> Result<SessionKey, ControlError> {
        let identity = self.connections.get(key).and_then(|connection| connection.identity.clone());
        let identity = identity.ok_or(ControlError::Protocol { reason: "no hello was said".into() })?;
        self.session_of(&identity.token)
    }

    /// A client wants to call a process.
    pub(super) fn open(&mut self, key: ConnectionKey, open: &Open) {
        let opener = Opener {
            connection: key,
            request_id: open.request_id,
            payload_bytes_max: open.payload_bytes_max,
            in_flight_max: open.in_flight_max,
        };
        let taken = self.connections.get(key).map_or(0, |connection| connection.handles.len());
        let lane = if taken >= HANDLES_MAX as usize {
            Err(ControlError::LimitReached {
                what: "handles of this connection".into(),
                used: taken as u64,
                limit: HANDLES_MAX.into(),
                asked: 1,
                advice: "close some".into(),
            })
        } else {
            self.session_for(key).and_then(|session| self.lane_to(session, open.process))
        };
        match lane {
            Ok(lane) => match self.lanes.get_mut(lane).map(|room| &mut room.state) {
                Some(LaneState::Opening(openers)) => openers.push(opener),
                _ => self.give_handle(&opener, lane),
            },
            Err(error) => self.refuse(key, open.request_id, &error),
        }
    }

    /// Gives a handle to whoever waited for an open lane.
    pub(super) fn give_handle(&mut self, opener: &Opener, lane: LaneKey) {
        let Some(connection) = self.connections.get_mut(opener.connection).filter(|found| found.listens()) else {
            return;
        };
        let Some(room) = self.lanes.get_mut(lane) else { return };
        let LaneState::Open(open) = &room.state else { return };
        let limit = u32::try_from(open.lane.payload_bytes_max()).unwrap_or(u32::MAX);
        let wish = |wish: u32, limit: u32| if wish == 0 { limit } else { wish.min(limit) };
        room.users += 1;
        connection.last_handle += 1;
        let handle = Handle {
            number: connection.last_handle,
            lane,
            payload_bytes_max: wish(opener.payload_bytes_max, limit),
            in_flight_max: wish(opener.in_flight_max, IN_FLIGHT_MAX),
            in_flight: 0,
        };
        let opened = Opened {
            request_id: opener.request_id,
            handle: handle.number,
            payload_bytes_max: handle.payload_bytes_max,
            in_flight_max: handle.in_flight_max,
            workers_max: open.workers_max,
            phase: open.lane.phase(),
        };
        connection.handles.push(handle);
        self.push(opener.connection, |out| opened.encode(out));
    }

    /// Passes a question on.
    pub(super) fn ask(&mut self, key: ConnectionKey, request_id: u64, body: ClientRequest) {
        let asker = Asker { connection: key, request_id, after: None };
        let session = self.session_for(key);
        self.pass_on(session, asker, body);
    }

    fn pass_on(&mut self, session: Result<SessionKey, ControlError>, asker: Asker, body: ClientRequest) {
        let (key, request_id) = (asker.connection, asker.request_id);
        let asked = session.and_then(|session| self.ask_session(session, Question::Client(asker), body));
        if let Err(error) = asked {
            self.refuse(key, request_id, &error);
        }
    }

    pub(super) fn ask_for_processes(&mut self, key: ConnectionKey, list: &List) {
        self.ask(key, list.request_id, ClientRequest::ProcessList { after: list.after });
    }

    pub(super) fn ask_for_applications(&mut self, key: ConnectionKey, list: &ListApplications) {
        let asker = Asker { connection: key, request_id: list.request_id, after: list.after };
        let session = self.session_for(key);
        self.pass_on(session, asker, ClientRequest::ApplicationList);
    }

    pub(super) fn ask_for_stats(
        &mut self,
        key: ConnectionKey,
        request_id: u64,
        process: ProcessId,
        after: Option<Name>,
    ) {
        let asker = Asker { connection: key, request_id, after };
        let session = self.session_for(key);
        self.pass_on(session, asker, ClientRequest::ProcessStats { process });
    }

    /// Output that is followed may come at any time or never: such questions have a session of their connection's own, whose
    /// end takes them back.
    pub(super) fn ask_for_output(&mut self, key: ConnectionKey, output: &Output) {
        let &Output { request_id, process, from, follow } = output;
        let session = if follow { self.following_session(key) } else { self.session_for(key) };
        let asker = Asker { connection: key, request_id, after: None };
        self.pass_on(session, asker, ClientRequest::ProcessOutput { process, from, follow });
    }

    fn following_session(&mut self, key: ConnectionKey) -> Result<SessionKey, ControlError> {
        let Some(connection) = self.connections.get(key) else { return Err(ControlError::ShuttingDown) };
        if let Some(session) = connection.following.filter(|session| self.sessions.get(*session).is_some()) {
            return Ok(session);
        }
        let identity = connection.identity.clone().ok_or(ControlError::ShuttingDown)?;
        let session = self.begin_session(&identity.token)?;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.following = Some(session);
        }
        Ok(session)
    }

    /// The server's loop has answered.
    pub(super) fn question_answered(&mut self, asker: &Asker, message: ServerMessage) {
        let &Asker { connection: key, request_id, after } = asker;
        match message {
            ServerMessage::Done { .. } => self.push(key, |out| Done { request_id }.encode(out)),
            ServerMessage::Failed { error, .. } => self.refuse(key, request_id, &error),
            ServerMessage::Processes { processes, more, .. } => self.push(key, |out| {
                let mut page = ProcessPage::begin(request_id, out);
                let all = processes.iter().all(|status| page.push(status));
                page.end(more || !all);
            }),
            ServerMessage::Applications { applications, .. } => self.push(key, |out| {
                let mut page = ApplicationPage::begin(request_id, out);
                let mut wanted = applications.iter().filter(|name| after.is_none_or(|after| **name > after));
                let all = wanted.all(|name| page.push(name));
                page.end(!all);
            }),
            ServerMessage::Stats { stats, .. } => self.push(key, |out| {
                let mut page = CountsPage::begin(request_id, &stats, out);
                let is_wanted = |row: &&FunctionStats| after.is_none_or(|after| row.function > after);
                let all = stats.functions.iter().filter(is_wanted).all(|row| page.push(row));
                page.end(!all);
            }),
            ServerMessage::Output { position, bytes, ended, .. } => {
                self.push(key, |out| OutputChunk { request_id, position, bytes: &bytes, ended }.encode(out));
            }
            _ => {
                let error = ControlError::Protocol { reason: "an answer to another question".into() };
                self.refuse(key, request_id, &error);
            }
        }
    }
}
