//! Clients' sessions as the loop sees them: who has one, where its mailbox is, and when it ends. The mailbox itself is served
//! by a thread of the network ([`crate::network`]), which alone maps it.
//!
//! 1. A session's memory is a segment of its own, like a process's: charged to the host's budget, held by the keeper before
//!    anybody learns the session's name, and found again by the next server. What the server must know of the session is an
//!    object in it.
//! 2. Who shows the ticket goes on with the session, and no one else learns whether there is one. The last to come has it: an
//!    earlier lane to it is superseded.
//! 3. A session without a client is kept for a while and then ends with all messages that it has. It ends at once when its
//!    client says so.
//! 4. All sessions of one application are with one thread, so that one sends to another without leaving it.

mod record;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use praas_protocol::Name;
use praas_protocol::control::{ControlError, LaneId, ProcessState, ServerMessage, SessionTicket};
use praas_protocol::limits::LANES_PER_CLIENT_MAX;
use praas_protocol::message::{Address, SessionId};
use praas_protocol::token::{Claims, Rights, Scope};
use praas_shm::layout::geometry_for;
use praas_shm::mailbox::SOURCE_KEPT;
use praas_shm::objects::{Objects, ObjectsLayout};
use praas_sys::process_self::random_bytes;

use self::record::{SessionName, SessionRecord, mailbox_bytes, read_record, write_record};
use crate::application::Application;
use crate::budget::Charge;
use crate::clients::ClientKey;
use crate::clock;
use crate::gateways::{GatewayTarget, GatewayWish, OpenedGateway, SessionClient, Speaker};
use crate::lanes::{LaneOwner, LaneSizes, limit};
use crate::limits::{
    SESSION_ADMITTED_PARTS, SESSION_CALLS, SESSION_LANES_SUPERSEDED_MAX, SESSION_PAYLOAD_BYTES_DEFAULT,
    SESSION_PAYLOAD_BYTES_MIN, SESSIONS_BEGUN_MAX, SESSIONS_OF_APPLICATION_MAX, SESSIONS_OF_PRINCIPAL_MAX,
    SESSIONS_OF_SERVER_MAX,
};
use crate::network::Letter;
use crate::processes::Asker;
use crate::shard::Shard;
use crate::timers::Timer;

/// What the thread that serves a session is given.
#[derive(Debug)]
pub(crate) struct SessionParts {
    pub(crate) session: SessionId,
    pub(crate) application: Name,
    pub(crate) incarnation: u64,
    /// Largest payload of a call on a lane to it, in bytes.
    pub(crate) payload_bytes_max: u32,
    pub(crate) objects: Arc<Objects>,
}

/// Who waits for the first answer.
#[derive(Debug)]
struct Opening {
    asker: Asker,
    client: SessionClient,
    is_network: bool,
}

/// One session.
#[derive(Debug)]
struct Session {
    record: SessionRecord,
    objects: Arc<Objects>,
    kept_name: String,
    is_kept: bool,
    shard: usize,
    opening: Option<Opening>,
    /// The lane that its client has now.
    lane: Option<(LaneOwner, LaneId)>,
    /// Those that were superseded, the first one first, as far as their owners have not closed them.
    superseded: VecDeque<LaneId>,
    left_at: Instant,
    is_timed: bool,
    _charge: Charge,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    entries: BTreeMap<SessionId, Session>,
    /// When which holder of a token began a session with which application, as far as receivers may know it by its messages
    /// still: the first one first.
    begun: VecDeque<(Instant, Name, Name)>,
    linger: Duration,
    news: Arc<SessionNews>,
}

/// What the threads that serve sessions tell the loop.
#[derive(Debug)]
pub(crate) struct SessionNews {
    ended: Mutex<Vec<SessionId>>,
    waker: Arc<Waker>,
}

impl SessionNews {
    /// The client of this session has ended it.
    pub(crate) fn ended(&self, session: SessionId) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        // A loop that cannot be woken has ended.
        let _ = self.waker.wake();
    }
}

impl Sessions {
    pub(crate) fn new(linger: Duration, waker: Arc<Waker>) -> Self {
        let news = Arc::new(SessionNews { ended: Mutex::default(), waker });
        Self { entries: BTreeMap::new(), begun: VecDeque::new(), linger, news }
    }

    pub(crate) fn news(&self) -> Arc<SessionNews> {
        Arc::clone(&self.news)
    }

    /// The thread that serves a session of this application, if there is one that is known to somebody.
    pub(crate) fn shard_of(&self, session: SessionId, application: Name) -> Option<usize> {
        let found = self.entries.get(&session)?;
        (found.is_kept && found.record.application == application).then_some(found.shard)
    }

    /// Those that are to be held by the keeper.
    pub(crate) fn ids(&self) -> Vec<SessionId> {
        self.entries.keys().copied().collect()
    }

    /// What the keeper holds of a session.
    pub(crate) fn kept_part(&self, session: SessionId) -> Option<(String, std::os::fd::BorrowedFd<'_>)> {
        self.entries.get(&session).map(|found| (found.kept_name.clone(), found.objects.fd()))
    }
}

fn random_u128() -> Result<u128, ControlError> {
    let mut bytes = [0; 16];
    random_bytes(&mut bytes).map_err(|error| host("choosing a random number", &error))?;
    Ok(u128::from_le_bytes(bytes))
}

/// Whether a token allows messages with anything of an application.
fn ensure_messages(claims: &Claims, application: Name) -> Result<(), ControlError> {
    let touches = match &claims.scope {
        Scope::Any => true,
        Scope::Application(one) => *one == application,
        Scope::Process(process) => process.application == application,
    };
    if claims.rights.contains(Rights::MESSAGES) && touches {
        return Ok(());
    }
    Err(ControlError::Unauthorized { right: "messages".into(), what: format!("sessions with {application}") })
}

impl Shard {
    /// Begins a session for a client, or gives it one back.
    pub(crate) fn open_session(
        &mut self,
        asker: Asker,
        claims: &Claims,
        application: Name,
        resume: Option<SessionTicket>,
        payload_bytes_max: Option<u32>,
    ) -> Result<(), ControlError> {
        ensure_messages(claims, application)?;
        if self.shutting_down {
            return Err(ControlError::ShuttingDown);
        }
        let is_network = self.clients.get(asker.client).is_some_and(|client| client.is_network);
        let client = SessionClient { scope: claims.scope.clone(), rights: claims.rights };
        let opening = Opening { asker, client, is_network };
        let Some(ticket) = resume else {
            return self.begin_client_session(opening, claims.principal, application, payload_bytes_max);
        };
        let session = ticket.session;
        let found = self.sessions.entries.get_mut(&session).filter(|found| {
            // One number against another: there is no first difference whose place the time could tell.
            let is_holder = (found.record.secret ^ ticket.secret) == 0;
            found.is_kept && is_holder && found.record.application == application
        });
        if found.is_none() {
            return Err(ControlError::UnknownSession { session });
        }
        self.admit_session_lane(asker.client)?;
        self.supersede_session_lane(session);
        self.give_session_lane(session, opening, true)
    }

    /// Lanes to sessions are bounded as others of a client are.
    fn admit_session_lane(&self, asker: ClientKey) -> Result<(), ControlError> {
        let opened = self.clients.get(asker).map_or(0, |client| client.lanes.len() + client.outbound.len());
        let opened = opened + self.gateways_of(LaneOwner::Client(asker));
        let advice = "leave sessions that are not needed, and close lanes that were superseded";
        limit("lanes of this connection", opened, LANES_PER_CLIENT_MAX, advice)
    }

    /// The lane that a session's client has is another's from now on. Whoever has it is told so when it calls, until too many
    /// others have come after it.
    fn supersede_session_lane(&mut self, session: SessionId) {
        let Some(found) = self.sessions.entries.get_mut(&session) else { return };
        let Some((_, lane)) = found.lane.take() else { return };
        // Should there be no room for another lane, its client has as long to come back as if it had just left.
        found.left_at = clock::now();
        found.superseded.push_back(lane);
        let is_one_too_many = found.superseded.len() > SESSION_LANES_SUPERSEDED_MAX;
        let ended = if is_one_too_many { found.superseded.pop_front() } else { None };
        self.gateway_is_superseded(lane);
        if let Some(ended) = ended {
            self.end_gateway(ended);
        }
    }

    fn begin_client_session(
        &mut self,
        opening: Opening,
        principal: Name,
        application: Name,
        payload_bytes_max: Option<u32>,
    ) -> Result<(), ControlError> {
        let found = self.applications.get(&application).cloned();
        let found = found.ok_or_else(|| ControlError::UnknownApplication {
            application,
            known: self.applications.keys().map(Name::as_str).collect::<Vec<_>>().join(", "),
        })?;
        self.admit_session_lane(opening.asker.client)?;
        self.admit_session(application, principal)?;
        let session = SessionId(random_u128()?);
        let entry = self.make_session(session, &found, principal, payload_bytes_max, opening)?;
        self.sessions.entries.insert(session, entry);
        self.sessions.begun.push_back((clock::now(), application, principal));
        self.keep_session(session);
        Ok(())
    }

    fn admit_session(&mut self, application: Name, principal: Name) -> Result<(), ControlError> {
        let now = clock::now();
        while self.sessions.begun.pop_front_if(|(begun, ..)| *begun + SOURCE_KEPT <= now).is_some() {}
        let begun = self.sessions.begun.iter().filter(|begun| (begun.1, begun.2) == (application, principal));
        let advice = "go on with a session instead of beginning another for each message, or wait some minutes";
        limit("sessions that this token's holder began lately", begun.count(), SESSIONS_BEGUN_MAX, advice)?;
        let entries = self.sessions.entries.values();
        let of_application = entries.clone().filter(|found| found.record.application == application);
        let of_principal = of_application.clone().filter(|found| found.record.principal == principal);
        let advice = "end sessions that are not needed, or go on with one instead of beginning another";
        limit("sessions of this server", entries.count(), SESSIONS_OF_SERVER_MAX, advice)?;
        limit("sessions with this application", of_application.count(), SESSIONS_OF_APPLICATION_MAX, advice)?;
        limit("sessions of this token's holder", of_principal.count(), SESSIONS_OF_PRINCIPAL_MAX, advice)
    }

    fn make_session(
        &self,
        session: SessionId,
        application: &Application,
        principal: Name,
        payload_bytes_max: Option<u32>,
        opening: Opening,
    ) -> Result<Session, ControlError> {
        let limit_bytes = application.limits.payload_bytes_max;
        let least = SESSION_PAYLOAD_BYTES_MIN.min(limit_bytes);
        let wish = payload_bytes_max.unwrap_or(SESSION_PAYLOAD_BYTES_DEFAULT);
        let payload_bytes_max = wish.clamp(least, limit_bytes);
        let bytes = mailbox_bytes(payload_bytes_max);
        let charge = self.budget.charge(bytes / SESSION_ADMITTED_PARTS, "end sessions, stop processes")?;
        let layout = ObjectsLayout::for_limit(bytes).map_err(|error| host("laying out a session", &error))?;
        let objects = Objects::create(layout).map_err(|error| host("creating a session", &error))?;
        let objects = Arc::new(objects);
        let incarnation = clock::unix_time_ns();
        let name = application.name;
        let secret = random_u128()?;
        let record = SessionRecord { session, secret, application: name, principal, incarnation, payload_bytes_max };
        write_record(&objects, &record).map_err(|error| host("creating a session", &error))?;
        Ok(Session {
            record,
            objects,
            kept_name: SessionName { application: name, session, bytes }.to_string(),
            is_kept: false,
            shard: self.shard_for_sessions(name),
            opening: Some(opening),
            lane: None,
            superseded: VecDeque::new(),
            left_at: clock::now(),
            is_timed: false,
            _charge: charge,
        })
    }

    fn shard_for_sessions(&self, application: Name) -> usize {
        let mut hasher = DefaultHasher::new();
        application.as_str().hash(&mut hasher);
        let shards = self.network.as_ref().map_or(1, crate::network::NetworkThreads::shards).max(1);
        usize::try_from(hasher.finish() % shards as u64).unwrap_or(0)
    }

    /// The keeper holds the memory of a session: its client may have it.
    pub(crate) fn session_is_kept(&mut self, session: SessionId) {
        let Some(found) = self.sessions.entries.get_mut(&session) else { return };
        if std::mem::replace(&mut found.is_kept, true) {
            return;
        }
        let opening = found.opening.take();
        self.serve_session(session);
        let Some(opening) = opening else { return };
        let asker = opening.asker;
        if let Err(error) = self.give_session_lane(session, opening, false) {
            self.end_client_session(session);
            self.answer_failed(asker, error);
        }
    }

    /// The keeper has no room for the memory of a session. One that just begins is not begun; another goes on, and is lost with
    /// the server.
    pub(crate) fn session_is_not_kept(&mut self, session: SessionId, reason: &str) {
        let Some(found) = self.sessions.entries.get_mut(&session) else { return };
        self.log.error(format_args!("the keeper does not hold a client's session: {reason}"));
        if let Some(opening) = found.opening.take() {
            self.sessions.entries.remove(&session);
            self.answer_failed(opening.asker, host("having the keeper hold the session", &reason));
        }
    }

    /// Has a thread of the network serve a session from now on, and tells others that it is there.
    fn serve_session(&mut self, session: SessionId) {
        let Some(found) = self.sessions.entries.get(&session) else { return };
        let SessionRecord { application, incarnation, payload_bytes_max, .. } = found.record;
        let objects = Arc::clone(&found.objects);
        let parts = SessionParts { session, application, incarnation, payload_bytes_max, objects };
        self.post(found.shard, Letter::Session(Box::new(parts)));
        self.announce(application, Address::Client(session), Some(ProcessState::Active));
        self.time_session(session);
    }

    fn give_session_lane(&mut self, session: SessionId, opening: Opening, resumed: bool) -> Result<(), ControlError> {
        let Opening { asker, client, is_network } = opening;
        let owner = LaneOwner::Client(asker.client);
        let Some(found) = self.sessions.entries.get(&session) else {
            return Err(ControlError::UnknownSession { session });
        };
        let SessionRecord { application, incarnation, secret, .. } = found.record;
        let opened = self.make_session_gateway(
            session,
            owner,
            is_network,
            Speaker { application, source: Address::Client(session), incarnation },
            Some(client),
        );
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.time_session(session);
                return Err(error);
            }
        };
        if let Some(found) = self.sessions.entries.get_mut(&session) {
            found.lane = Some((owner, opened.lane));
        }
        let ticket = SessionTicket { session, secret };
        self.answer_session(asker, ticket, incarnation, resumed, &opened);
        if self.clients.get(asker.client).is_none() {
            // It was gone before it was answered.
            self.close_gateway(owner, opened.lane);
        }
        Ok(())
    }

    fn answer_session(
        &mut self,
        asker: Asker,
        ticket: SessionTicket,
        incarnation: u64,
        resumed: bool,
        opened: &OpenedGateway,
    ) {
        let message = ServerMessage::SessionOpened {
            request: asker.request,
            ticket,
            incarnation,
            resumed,
            lane: opened.lane,
            geometry: opened.sizes.geometry,
            payload_bytes_max: opened.sizes.payload_bytes_max,
        };
        let fds: Vec<_> = opened.fds.iter().map(AsFd::as_fd).collect();
        self.answer(asker, &message, &fds);
    }

    fn make_session_gateway(
        &mut self,
        session: SessionId,
        owner: LaneOwner,
        is_network: bool,
        speaker: Speaker,
        client: Option<SessionClient>,
    ) -> Result<OpenedGateway, ControlError> {
        let sizes = self.session_sizes(session)?;
        let shard = self.sessions.shard_of(session, speaker.application);
        let shard = shard.ok_or(ControlError::UnknownSession { session })?;
        let target = GatewayTarget::Session { session, client };
        self.make_gateway(GatewayWish { owner, is_network, speaker, target, shard, sizes })
    }

    /// Opens a lane to a session for a network session that speaks for a process or session of another server.
    pub(crate) fn open_session_lane(
        &mut self,
        asker: Asker,
        claims: &Claims,
        session: SessionId,
        speaker: Speaker,
    ) -> Result<(), ControlError> {
        ensure_messages(claims, speaker.application)?;
        self.admit_session_lane(asker.client)?;
        let owner = LaneOwner::Client(asker.client);
        let opened = self.make_session_gateway(session, owner, true, speaker, None)?;
        // The secret is its client's alone.
        let ticket = SessionTicket { session, secret: 0 };
        self.answer_session(asker, ticket, speaker.incarnation, false, &opened);
        Ok(())
    }

    /// The sizes of lanes to a session.
    pub(crate) fn session_sizes(&self, session: SessionId) -> Result<LaneSizes, ControlError> {
        let found = self.sessions.entries.get(&session).ok_or(ControlError::UnknownSession { session })?;
        let payload_bytes_max = found.record.payload_bytes_max;
        Ok(LaneSizes { payload_bytes_max, geometry: geometry_for(payload_bytes_max, SESSION_CALLS) })
    }

    /// A lane to something that is no process is gone: if it was that of a session's client, the session waits for the next.
    pub(crate) fn gateway_left(&mut self, owner: LaneOwner, lane: LaneId) {
        let has_it = |found: &Session| found.lane == Some((owner, lane)) || found.superseded.contains(&lane);
        let of = self.sessions.entries.iter_mut().find(|(_, found)| has_it(found));
        let Some((&session, found)) = of else { return };
        found.superseded.retain(|superseded| *superseded != lane);
        if found.lane != Some((owner, lane)) {
            return;
        }
        found.lane = None;
        found.left_at = clock::now();
        self.time_session(session);
    }

    fn time_session(&mut self, session: SessionId) {
        let linger = self.sessions.linger;
        if let Some(found) = self.sessions.entries.get_mut(&session)
            && found.lane.is_none()
            && !std::mem::replace(&mut found.is_timed, true)
        {
            self.timers.at(found.left_at + linger, Timer::ClientSession(session));
        }
    }

    /// Timer: whether somebody has come back to a session.
    pub(crate) fn client_session_due(&mut self, session: SessionId) {
        let linger = self.sessions.linger;
        let Some(found) = self.sessions.entries.get_mut(&session) else { return };
        found.is_timed = false;
        if found.lane.is_some() || found.opening.is_some() {
            return;
        }
        if found.left_at + linger > clock::now() {
            return self.time_session(session);
        }
        self.end_client_session(session);
    }

    /// What threads of the network have said about sessions.
    pub(crate) fn hear_of_sessions(&mut self) {
        let ended = std::mem::take(&mut *self.sessions.news.ended.lock().unwrap_or_else(PoisonError::into_inner));
        ended.into_iter().for_each(|session| self.end_client_session(session));
    }

    /// Ends a session with all that it has.
    fn end_client_session(&mut self, session: SessionId) {
        let Some(found) = self.sessions.entries.remove(&session) else { return };
        let (application, address) = (found.record.application, Address::Client(session));
        self.end_gateways_to(application, &address);
        self.post(found.shard, Letter::SessionEnded(session));
        self.announce(application, address, None);
        self.forget_kept(vec![found.kept_name]);
    }

    /// Brings back the sessions that an earlier server left. Their clients have as long to come back as if they had just left.
    pub(crate) fn recover_sessions(&mut self) {
        let left: Vec<_> = self.keeping.held_names().filter_map(SessionName::parse).collect();
        for name in left {
            if !self.applications.contains_key(&name.application) {
                continue;
            }
            let kept_name = name.to_string();
            let Some(fd) = self.keeping.claim(&kept_name) else { continue };
            match self.recover_session(&name, fd) {
                Ok(entry) => {
                    self.sessions.entries.insert(name.session, entry);
                    self.serve_session(name.session);
                }
                Err(reason) => {
                    self.log.error(format_args!("a client's session with {} is lost: {reason}", name.application));
                    self.forget_kept(vec![kept_name]);
                }
            }
        }
    }

    fn recover_session(&self, name: &SessionName, fd: OwnedFd) -> Result<Session, String> {
        let layout = ObjectsLayout::for_limit(name.bytes).map_err(|error| error.to_string())?;
        let objects = Objects::attach(fd, layout).map_err(|error| error.to_string())?;
        objects.recover_all().map_err(|error| error.to_string())?;
        let objects = Arc::new(objects);
        let record = read_record(&objects)?;
        if (record.session, record.application) != (name.session, name.application) {
            return Err("it is another session than its name says".into());
        }
        Ok(Session {
            record,
            objects,
            kept_name: name.to_string(),
            is_kept: true,
            shard: self.shard_for_sessions(name.application),
            opening: None,
            lane: None,
            superseded: VecDeque::new(),
            left_at: clock::now(),
            is_timed: false,
            _charge: self.budget.charge_in_use(name.bytes / SESSION_ADMITTED_PARTS),
        })
    }
}

fn host(what: &str, error: &dyn fmt::Display) -> ControlError {
    ControlError::Host { what: what.into(), reason: error.to_string() }
}
