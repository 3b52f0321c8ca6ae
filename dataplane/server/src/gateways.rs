//! Lanes to what is not in a process's memory on this host: a process or session of another server, or a client's session
//! here. Their serving end is a thread of the network ([`crate::network`]), which this loop gives the parts to.
//!
//! 1. Such a lane is made, charged and handed out as a lane to a process is, but for the workers: there are none to attach it.
//!    All of them have one control page, whose phase is always active: what they lead to has no phase here.
//! 2. It says for whom it speaks: that source is believed in messages, and shown to other servers.
//! 3. It goes with its owner. A worker's lane goes also with the session that it leads to, and with the other server's entry;
//!    a client's is served on, and answers that the session is gone. Calls that are under way then are answered by the
//!    thread that has them.
//! 4. Local names win: whether something is elsewhere is asked only when it is not here.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use praas_protocol::control::{ControlError, LaneId, WorkerCommand};
use praas_protocol::limits::LANES_PER_WORKER_MAX;
use praas_protocol::message::{Address, SessionId};
use praas_protocol::token::{Rights, Scope};
use praas_protocol::{Name, ProcessId};
use praas_shm::control_page::ControlPage;
use praas_shm::gateway_lane::GatewayLaneParts;
use praas_shm::server_lane::ServerLane;
use praas_sys::Doorbell;

use crate::budget::Charge;
use crate::lanes::{LaneOwner, LaneSizes, LaneWish, limit};
use crate::limits::GATEWAYS_MAX;
use crate::network::Letter;
use crate::shard::Shard;
use crate::workers::WorkerKey;

/// For whom a lane speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speaker {
    /// The application of both ends.
    pub(crate) application: Name,
    /// The source of its messages, and the principal of its calls.
    pub(crate) source: Address,
    /// Which life of it.
    pub(crate) incarnation: u64,
}

/// What a client may do on the lane to its own session.
#[derive(Debug, Clone)]
pub(crate) struct SessionClient {
    pub(crate) scope: Scope,
    pub(crate) rights: Rights,
}

/// Where a lane leads to.
#[derive(Debug, Clone)]
pub(crate) enum GatewayTarget {
    /// To something on another server.
    Peer {
        /// The server, by its place among those configured.
        peer: usize,
        /// What is called there.
        to: Address,
    },
    /// To a session of this server.
    Session {
        /// The session.
        session: SessionId,
        /// Its own client; `None` for those who send to it.
        client: Option<SessionClient>,
    },
}

impl GatewayTarget {
    fn address(&self) -> Address {
        match self {
            Self::Peer { to, .. } => *to,
            Self::Session { session, .. } => Address::Client(*session),
        }
    }
}

/// What the thread that serves a lane is given.
#[derive(Debug)]
pub(crate) struct GatewayParts {
    pub(crate) lane: GatewayLaneParts,
    /// Read end of the lane's doorbell.
    pub(crate) doorbell: OwnedFd,
    pub(crate) speaker: Speaker,
    pub(crate) target: GatewayTarget,
}

/// One lane.
#[derive(Debug)]
struct Gateway {
    owner: LaneOwner,
    application: Name,
    to: Address,
    /// The thread that serves it.
    shard: usize,
    _memory: ServerLane,
    _charge: Charge,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    control: Option<ControlPage>,
    lanes: BTreeMap<LaneId, Gateway>,
}

/// A lane that was made, as its owner gets it.
#[derive(Debug)]
pub(crate) struct OpenedGateway {
    pub(crate) lane: LaneId,
    pub(crate) sizes: LaneSizes,
    /// Segment, control page, doorbell; read end of the reply doorbell, for the network's own.
    pub(crate) fds: Vec<OwnedFd>,
}

/// What is to be made.
#[derive(Debug)]
pub(crate) struct GatewayWish {
    pub(crate) owner: LaneOwner,
    /// Whether the owner is the server's own network side, which sleeps until a reply doorbell rings.
    pub(crate) is_network: bool,
    pub(crate) speaker: Speaker,
    pub(crate) target: GatewayTarget,
    pub(crate) shard: usize,
    pub(crate) sizes: LaneSizes,
}

impl Gateways {
    fn control_fd(&mut self, incarnation: u64) -> std::io::Result<OwnedFd> {
        let control = match self.control.take() {
            Some(control) => control,
            None => {
                let control = ControlPage::create(incarnation, 1)?;
                control.set_workers(1);
                control
            }
        };
        self.control.insert(control).fd().try_clone_to_owned()
    }
}

impl Shard {
    /// Opens a lane for a worker to something that is elsewhere or a session; `None` if it is neither.
    pub(crate) fn open_gateway_for_worker(
        &mut self,
        caller: WorkerKey,
        request: u32,
        to: Address,
    ) -> Option<Result<(), ControlError>> {
        let worker = self.workers.get(&caller)?;
        let home = self.processes.get(worker.process)?;
        let incarnation = home.memory.as_ref().map_or(0, crate::process_memory::ProcessMemory::incarnation);
        let application = home.id.application;
        let speaker = Speaker { application, source: home.id.into(), incarnation };
        let (shard, target) = self.gateway_target(application, to)?;
        let opened = worker.call_lanes.len() + worker.outbound.len() + self.gateways_of(LaneOwner::Worker(caller));
        let allowed =
            limit("lanes of this worker", opened, LANES_PER_WORKER_MAX, "call fewer processes from one worker");
        Some(allowed.and_then(|()| self.hand_gateway_to_worker(caller, request, speaker, shard, target)))
    }

    fn hand_gateway_to_worker(
        &mut self,
        caller: WorkerKey,
        request: u32,
        speaker: Speaker,
        shard: usize,
        target: GatewayTarget,
    ) -> Result<(), ControlError> {
        let application = self.applications.get(&speaker.application).ok_or(ControlError::ShuttingDown)?;
        let sizes = match &target {
            GatewayTarget::Session { session, .. } => self.session_sizes(*session)?,
            GatewayTarget::Peer { .. } => {
                let process = ProcessId { application: speaker.application, process: application.name };
                let wish = LaneWish { process, payload_bytes_max: None, calls_in_flight: None };
                LaneSizes::new(&wish, application)
            }
        };
        let owner = LaneOwner::Worker(caller);
        let opened = self.make_gateway(GatewayWish { owner, is_network: false, speaker, target, shard, sizes })?;
        let told = WorkerCommand::CallLaneOpened {
            request,
            lane: opened.lane,
            geometry: opened.sizes.geometry,
            payload_bytes_max: opened.sizes.payload_bytes_max,
            workers_max: 1,
            is_gateway: true,
        };
        let fds: Vec<_> = opened.fds.iter().map(AsFd::as_fd).collect();
        self.command_worker(caller, &told, &fds);
        Ok(())
    }

    /// Where something is that no process of this server is: the thread that leads there, and the way.
    pub(crate) fn gateway_target(&self, application: Name, to: Address) -> Option<(usize, GatewayTarget)> {
        if let Address::Client(session) = to
            && let Some(shard) = self.sessions.shard_of(session, application)
        {
            return Some((shard, GatewayTarget::Session { session, client: None }));
        }
        let place = self.elsewhere.find(application, &to)?;
        Some((place.shard, GatewayTarget::Peer { peer: place.peer, to }))
    }

    /// Makes a lane, and gives its serving end to the thread that is to have it.
    pub(crate) fn make_gateway(&mut self, wish: GatewayWish) -> Result<OpenedGateway, ControlError> {
        let GatewayWish { owner, is_network, speaker, target, shard, sizes } = wish;
        limit("lanes to what is not here", self.gateways.lanes.len(), GATEWAYS_MAX, "use fewer of them")?;
        let charge = self.budget.charge(sizes.charged_bytes()?, "close lanes, ask for a smaller payload_bytes_max")?;
        let id = self.next_gateway_id()?;
        let memory = ServerLane::create(id, sizes.geometry).map_err(|error| host("creating a lane", &error))?;
        let system = |error: std::io::Error| host("handing out a lane", &error);
        let segment = || memory.segment_fd().try_clone_to_owned().map_err(system);
        let bell = Doorbell::new().map_err(|error| host("creating a doorbell", &error))?;
        let replies = match is_network {
            true => Some(Doorbell::new().map_err(|error| host("creating a reply doorbell", &error))?),
            false => None,
        };
        let (reply_doorbell, reply_listen) = replies.map(|bell| (bell.ring, bell.listen)).unzip();
        let control = self.gateways.control_fd(self.incarnation).map_err(system)?;
        let mut fds = vec![segment()?, control, bell.ring];
        fds.extend(reply_listen);
        let lane = GatewayLaneParts {
            lane: id,
            geometry: sizes.geometry,
            payload_bytes_max: sizes.payload_bytes_max,
            segment: segment()?,
            reply_doorbell,
        };
        let (application, to) = (speaker.application, target.address());
        self.post(shard, Letter::Gateway(Box::new(GatewayParts { lane, doorbell: bell.listen, speaker, target })));
        let gateway = Gateway { owner, application, to, shard, _memory: memory, _charge: charge };
        self.gateways.lanes.insert(id, gateway);
        self.metrics.lanes_opened += 1;
        Ok(OpenedGateway { lane: id, sizes, fds })
    }

    /// A number for a lane that no process serves: its residue is nobody's matter.
    fn next_gateway_id(&mut self) -> Result<LaneId, ControlError> {
        let next = self.next_lane.checked_add(1).ok_or_else(|| ControlError::LimitReached {
            what: "lane numbers of this server".into(),
            used: self.next_lane.into(),
            limit: u32::MAX.into(),
            asked: 1,
            advice: "restart the server".into(),
        })?;
        Ok(LaneId(std::mem::replace(&mut self.next_lane, next)))
    }

    /// Leaves a letter for a thread of the network.
    pub(crate) fn post(&self, shard: usize, letter: Letter) {
        if let Some(network) = &self.network {
            network.post(shard, letter);
        }
    }

    /// A client's session was taken over by another lane to it: calls on this one are refused until its owner gives it up.
    pub(crate) fn gateway_is_superseded(&self, lane: LaneId) {
        if let Some(gateway) = self.gateways.lanes.get(&lane) {
            self.post(gateway.shard, Letter::GatewaySuperseded(lane));
        }
    }

    pub(crate) fn gateways_of(&self, owner: LaneOwner) -> usize {
        self.gateways.lanes.values().filter(|gateway| gateway.owner == owner).count()
    }

    /// Whether this is a lane of this kind that `owner` has.
    pub(crate) fn owns_gateway(&self, owner: LaneOwner, lane: LaneId) -> bool {
        self.gateways.lanes.get(&lane).is_some_and(|gateway| gateway.owner == owner)
    }

    /// The owner of a lane says that a request lies in it and nobody attends it: whoever serves it looks.
    pub(crate) fn gateway_rang(&self, owner: LaneOwner, lane: LaneId) {
        if let Some(gateway) = self.gateways.lanes.get(&lane).filter(|gateway| gateway.owner == owner) {
            self.post(gateway.shard, Letter::GatewayRang(lane));
        }
    }

    /// The owner of a lane is done with it. Whatever else it names is none of its lanes, and stays.
    pub(crate) fn close_gateway(&mut self, owner: LaneOwner, lane: LaneId) {
        if self.owns_gateway(owner, lane) {
            self.end_gateway(lane);
        }
    }

    /// Takes a lane back, whatever its owner still does with it.
    pub(crate) fn end_gateway(&mut self, lane: LaneId) {
        if let Some(gateway) = self.gateways.lanes.remove(&lane) {
            self.post(gateway.shard, Letter::GatewayGone(lane));
            self.gateway_left(gateway.owner, lane);
        }
    }

    /// The owner of lanes is gone, and they go with it.
    pub(crate) fn end_gateways_of(&mut self, owner: LaneOwner) {
        let lanes: Vec<_> =
            self.gateways.lanes.iter().filter(|(_, gateway)| gateway.owner == owner).map(|(id, _)| *id).collect();
        lanes.into_iter().for_each(|lane| self.end_gateway(lane));
    }

    /// Something is not to be reached any more, or by another way: the lanes of workers to it end, and these are told.
    pub(crate) fn end_gateways_to(&mut self, application: Name, to: &Address) {
        let leads_there = |gateway: &Gateway| gateway.application == application && gateway.to == *to;
        let lanes: Vec<_> = self
            .gateways
            .lanes
            .iter()
            .filter(|(_, gateway)| leads_there(gateway))
            .map(|(id, gateway)| (*id, gateway.owner))
            .collect();
        for (lane, owner) in lanes {
            // Clients are told by the answers to their calls, until they let go of the lane.
            if let LaneOwner::Worker(worker) = owner {
                self.end_gateway(lane);
                self.command_worker(worker, &WorkerCommand::CallLaneGone { lane, to: *to }, &[]);
            }
        }
    }
}

fn host(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::Host { what: what.into(), reason: error.to_string() }
}
