//! Questions: everything but calls that a client wants an answer to. The server's loop answers most of them; here they are
//! put into its words, and its answers into frames.

use praas_protocol::control::{ClientRequest, ControlError, FunctionStats, ServerMessage};
use praas_protocol::wire::{
    ApplicationPage, ChangesPage, CountsPage, Done, List, ListApplications, Open, Opened, Output, OutputChunk,
    ProcessPage, StoredPage, TransitionPage, WatchTransitions, encode_control_error,
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

/// A handle as its connection is told of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct GivenHandle {
    pub(super) number: u32,
    pub(super) payload_bytes_max: u32,
    pub(super) in_flight_max: u32,
}

impl Opener {
    /// Limits of 0 take what the server allows.
    pub(super) fn new(connection: ConnectionKey, request_id: u64, payload_bytes_max: u32, in_flight_max: u32) -> Self {
        Self { connection, request_id, payload_bytes_max, in_flight_max }
    }
}

impl NetworkShard {
    /// Refuses a question.
    pub(super) fn refuse(&mut self, key: ConnectionKey, request_id: u64, error: &ControlError) {
        self.push(key, |out| encode_control_error(error, request_id, out));
    }

    pub(super) fn session_for(&mut self, key: ConnectionKey) -> Result<SessionKey, ControlError> {
        let identity = self.connections.get(key).and_then(|connection| connection.identity.clone());
        let identity = identity.ok_or(ControlError::Protocol { reason: "no hello was said".into() })?;
        self.session_of(&identity.token)
    }

    /// A client wants to call a process.
    pub(super) fn open(&mut self, key: ConnectionKey, open: &Open) {
        let opener = Opener::new(key, open.request_id, open.payload_bytes_max, open.in_flight_max);
        let lane = self
            .ensure_handle_is_free(key)
            .and_then(|()| self.session_for(key))
            .and_then(|session| self.lane_to(session, open.process, None));
        match lane {
            Ok(lane) => match self.lanes.get_mut(lane).map(|room| &mut room.state) {
                Some(LaneState::Opening(openers)) => openers.push(opener),
                _ => self.give_handle(&opener, lane),
            },
            Err(error) => self.refuse(key, open.request_id, &error),
        }
    }

    /// Refuses a handle to a connection that has as many as it may have.
    pub(super) fn ensure_handle_is_free(&self, key: ConnectionKey) -> Result<(), ControlError> {
        let used = self.connections.get(key).map_or(0, |connection| connection.handles.len());
        if used < HANDLES_MAX as usize {
            return Ok(());
        }
        Err(ControlError::LimitReached {
            what: "handles of this connection".into(),
            used: used as u64,
            limit: HANDLES_MAX.into(),
            asked: 1,
            advice: "close some".into(),
        })
    }

    /// Gives a handle to whoever waited for an open lane, and tells it so.
    pub(super) fn give_handle(&mut self, opener: &Opener, lane: LaneKey) {
        let Some(handle) = self.add_handle(opener, lane) else { return };
        let Some(LaneState::Open(open)) = self.lanes.get(lane).map(|room| &room.state) else { return };
        let opened = Opened {
            request_id: opener.request_id,
            handle: handle.number,
            payload_bytes_max: handle.payload_bytes_max,
            in_flight_max: handle.in_flight_max,
            workers_max: open.workers_max,
            phase: open.lane.phase(),
        };
        self.push(opener.connection, |out| opened.encode(out));
    }

    /// Gives a handle to whoever waited for an open lane; `None` if nobody is there any more.
    pub(super) fn add_handle(&mut self, opener: &Opener, lane: LaneKey) -> Option<GivenHandle> {
        let connection = self.connections.get_mut(opener.connection).filter(|found| found.listens())?;
        let room = self.lanes.get_mut(lane)?;
        let LaneState::Open(open) = &room.state else { return None };
        let limit = u32::try_from(open.lane.payload_bytes_max()).unwrap_or(u32::MAX);
        let wish = |wish: u32, limit: u32| if wish == 0 { limit } else { wish.min(limit) };
        room.users += 1;
        connection.last_handle += 1;
        let handle = Handle {
            number: connection.last_handle,
            lane: Some(lane),
            spoken: None,
            payload_bytes_max: wish(opener.payload_bytes_max, limit),
            in_flight_max: wish(opener.in_flight_max, IN_FLIGHT_MAX),
            in_flight: 0,
        };
        let Handle { number, payload_bytes_max, in_flight_max, .. } = handle;
        connection.handles.push(handle);
        Some(GivenHandle { number, payload_bytes_max, in_flight_max })
    }

    /// Passes a question on.
    pub(super) fn ask(&mut self, key: ConnectionKey, request_id: u64, body: ClientRequest) {
        let asker = Asker { connection: key, request_id, after: None };
        let session = self.session_for(key);
        self.pass_on(session, asker, body);
    }

    /// Passes a question on in a session of the asker's choice.
    pub(super) fn ask_in(
        &mut self,
        session: Result<SessionKey, ControlError>,
        key: ConnectionKey,
        request_id: u64,
        body: ClientRequest,
    ) {
        self.pass_on(session, Asker { connection: key, request_id, after: None }, body);
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

    /// What happens next may happen at any time or never, like output that is followed.
    pub(super) fn ask_for_transitions(&mut self, key: ConnectionKey, watch: &WatchTransitions) {
        let &WatchTransitions { request_id, process, after } = watch;
        let session = if after.is_some() { self.following_session(key) } else { self.session_for(key) };
        let asker = Asker { connection: key, request_id, after: None };
        self.pass_on(session, asker, ClientRequest::TransitionWatch { process, after });
    }

    pub(super) fn following_session(&mut self, key: ConnectionKey) -> Result<SessionKey, ControlError> {
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
            ServerMessage::DirectoryChanges { upto, is_whole, more, entries, .. } => self.push(key, |out| {
                let mut page = ChangesPage::begin(request_id, upto, is_whole, out);
                let all = entries.iter().all(|entry| page.push(entry));
                debug_assert!(all, "a page of the one is a page of the other");
                page.end(more);
            }),
            ServerMessage::Stats { stats, .. } => self.push(key, |out| {
                let mut page = CountsPage::begin(request_id, &stats, out);
                let is_wanted = |row: &&FunctionStats| after.is_none_or(|after| row.function > after);
                let all = stats.functions.iter().filter(is_wanted).all(|row| page.push(row));
                page.end(!all);
            }),
            ServerMessage::Transitions { upto, lost, transitions, .. } => self.push(key, |out| {
                let mut page = TransitionPage::begin(request_id, upto, lost, out);
                let all = transitions.iter().all(|transition| page.push(transition));
                debug_assert!(all, "a page of the one is a page of the other");
                page.end();
            }),
            ServerMessage::Stored { place, folders, more, .. } => self.push(key, |out| {
                let mut page = StoredPage::begin(request_id, &place, out);
                let all = folders.iter().all(|folder| page.push(folder));
                page.end(more || !all);
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
