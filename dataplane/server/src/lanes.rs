//! Brokering of lanes: admission, creation, telling the workers, handing over to the client, and taking back.
//!
//! 1. A lane is charged to the host's budget at the limits of its segments, before it is created, until no worker maps it.
//! 2. Its number is unique for the life of the server, and its residue among the lanes of its process: workers index by it.
//! 3. The client gets a lane when every worker that is ready and not in a call has attached it. One that is in a call
//!    attaches it afterwards, and then finds what lies there.
//! 4. The lane of a dead client is never given to another.
//! 5. Who creates a process usually calls it next: the lane of the default size that it will ask for is made and attached
//!    while the first worker starts. If it is not asked for within [`PREPARED_LANE_MAX`], it is taken back.
//! 6. Workers read and write the lane of a network session in place, whatever its token says: only the server writes there.
//!    Whether their functions trust the caller is another matter.
//! 7. A lane belongs to whoever opened it: a client's connection, or a worker that calls other processes
//!    ([`crate::nested_lanes`]). It goes with its owner.
//! 8. The server neither reads nor writes the doorbell: a client could make its end block. Workers are woken by their
//!    control sockets, and ring each other through an open file description that no client shares.

mod attaching;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, LaneGeometry, LaneId, WorkerCommand};
use praas_protocol::limits::{CELLS_DEFAULT, LANES_PER_CLIENT_MAX, LANES_PER_PROCESS_MAX, RING_ENTRIES_MAX};
use praas_protocol::token::Rights;
use praas_protocol::{Name, Outcome, Phase, ProcessId};
use praas_shm::layout::{ARENA_BYTES_MAX, LaneLayout, geometry_for};
use praas_shm::server_lane::ServerLane;
use praas_sys::Doorbell;

use crate::application::Application;
use crate::budget::Charge;
use crate::clients::ClientKey;
use crate::clock;
use crate::limits::{NETWORK_REPLY_BUDGET_PARTS, NETWORK_REPLY_BYTES_MIN, NETWORK_REPLY_PAYLOADS};
use crate::peer::{Peer, PeerError};
use crate::processes::{Asker, Process, ProcessKey, Stage};
use crate::shard::Shard;
use crate::swap::Waiter;
use crate::timers::Timer;
use crate::workers::WorkerKey;

/// Period in which a lane that is being opened is looked at.
const OPENING_LOOK_PERIOD: Duration = Duration::from_millis(20);

/// How long a lane that nobody has asked for is kept.
const PREPARED_LANE_MAX: Duration = Duration::from_secs(1);

/// Prepared lanes are made only while the host's segments, with the new one, take up at most this part of their budget: they
/// must not be the reason why somebody is refused.
const PREPARED_BUDGET_PARTS: u64 = 4;

/// Who opened a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneOwner {
    Client(ClientKey),
    Worker(WorkerKey),
}

/// Who waits for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneAsker {
    Client(Asker),
    /// A worker, and the number of its request.
    Worker(WorkerKey, u32),
}

impl LaneAsker {
    /// Whose the lane will be.
    pub(crate) fn owner(self) -> LaneOwner {
        match self {
            Self::Client(asker) => LaneOwner::Client(asker.client),
            Self::Worker(worker, _) => LaneOwner::Worker(worker),
        }
    }
}

/// What the owner of a lane may do, and who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneStanding {
    pub(crate) owner: LaneOwner,
    pub(crate) rights: Rights,
    pub(crate) principal: Name,
    /// Whether it is a session of the server's own network side.
    pub(crate) is_network: bool,
}

/// How far a lane has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneStage {
    /// Nobody has asked for it yet; it is taken back then.
    Prepared(Instant),
    /// Workers attach it; the asker waits.
    Opening(LaneAsker),
    /// Its owner has it.
    Open,
    /// Its owner is gone; workers forget it.
    Closing,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) owner: LaneOwner,
    /// The server's view; `None` once its owner is gone.
    pub(crate) memory: Option<ServerLane>,
    /// Read end of the doorbell, for the workers.
    listen: OwnedFd,
    /// The workers' own write end: the client may change what its description does.
    workers_ring: OwnedFd,
    /// The client's write end, until the client has it.
    client_ring: Option<OwnedFd>,
    /// For a network session.
    replies: Option<ReplyDoorbell>,
    sizes: LaneSizes,
    rights: Rights,
    principal: Name,
    stage: LaneStage,
    /// Given back when the last worker has forgotten the lane.
    _charge: Charge,
}

/// The pipe by which workers wake a client that sleeps on other things than the lane's words: a network session. The server's
/// own write end has a description of its own, which no worker can make it wait with; [`ServerLane`] has it.
#[derive(Debug)]
struct ReplyDoorbell {
    /// The client's read end, until the client has it.
    listen: Option<OwnedFd>,
    workers_ring: OwnedFd,
}

impl Lane {
    /// Whether somebody has asked for it.
    pub(crate) fn is_asked_for(&self) -> bool {
        !matches!(self.stage, LaneStage::Prepared(_))
    }

    /// Whether workers are to serve it.
    pub(crate) fn is_served(&self) -> bool {
        self.memory.is_some() && self.stage != LaneStage::Closing
    }

    /// Tells a worker of the lane.
    pub(crate) fn announce(&self, id: LaneId, peer: &mut Peer) -> Result<(), PeerError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let add = WorkerCommand::LaneAdd {
            lane: id,
            geometry: self.sizes.geometry,
            rights: self.rights,
            in_place: self.rights.contains(Rights::TRUSTED) || self.replies.is_some(),
            principal: self.principal,
        };
        let mut fds = vec![memory.segment_fd(), memory.ledger_fd(), self.listen.as_fd(), self.workers_ring.as_fd()];
        fds.extend(self.replies.as_ref().map(|replies| replies.workers_ring.as_fd()));
        peer.send(&add, &fds)
    }
}

/// What a client asked of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneWish {
    pub(crate) process: ProcessId,
    pub(crate) payload_bytes_max: Option<u32>,
    pub(crate) calls_in_flight: Option<u32>,
}

/// The sizes of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneSizes {
    pub(crate) payload_bytes_max: u32,
    pub(crate) geometry: LaneGeometry,
}

impl LaneSizes {
    pub(crate) fn new(wish: &LaneWish, application: &Application) -> Self {
        let payload_limit = application.limits.payload_bytes_max;
        let payload_bytes_max = wish.payload_bytes_max.unwrap_or(payload_limit).clamp(1, payload_limit);
        let calls = wish.calls_in_flight.unwrap_or(CELLS_DEFAULT).clamp(1, RING_ENTRIES_MAX);
        Self { payload_bytes_max, geometry: geometry_for(payload_bytes_max, calls) }
    }

    /// With as much room for replies as a network session's lane has, which many clients share: as far as `is_free` allows.
    fn with_shared_replies(self, is_free: impl Fn(u64) -> bool) -> Self {
        let wanted = self.payload_bytes_max.saturating_mul(NETWORK_REPLY_PAYLOADS).max(NETWORK_REPLY_BYTES_MIN);
        let mut roomy = self;
        let half = &mut roomy.geometry.reply_arena_bytes;
        *half = (*half).max(wanted.min(ARENA_BYTES_MAX).next_power_of_two());
        while roomy.geometry.reply_arena_bytes > self.geometry.reply_arena_bytes {
            if roomy.charged_bytes().is_ok_and(&is_free) {
                return roomy;
            }
            roomy.geometry.reply_arena_bytes /= 2;
        }
        self
    }

    pub(crate) fn charged_bytes(&self) -> Result<u64, ControlError> {
        let layout = LaneLayout::new(&self.geometry).map_err(|error| host("laying out a lane", &error))?;
        Ok((layout.segment_bytes() + layout.ledger_bytes()) as u64)
    }
}

impl Process {
    /// Whether lanes to it are opened now.
    pub(crate) fn ensure_takes_lanes(&self) -> Result<(), ControlError> {
        match &self.stage {
            Stage::Active(_) if self.has_failed() => {
                Err(ControlError::WorkersFailed { process: self.id, reason: self.failure_words() })
            }
            Stage::Active(_) => Ok(()),
            Stage::Draining(drain) if drain.is_restart() => Ok(()),
            _ => Err(ControlError::WrongState { process: self.id, state: self.state() }),
        }
    }
}

impl Shard {
    /// Opens a lane, for calls in the name of a process of another server if one is named; `asker` is answered when the workers
    /// have it.
    pub(crate) fn open_lane(
        &mut self,
        wish: LaneWish,
        on_behalf: Option<Name>,
        asker: Asker,
    ) -> Result<(), ControlError> {
        if self.is_away(&wish.process) {
            return self.wait_for(wish.process, Waiter::Lane { wish, on_behalf, asker });
        }
        if self.may_be_stored(&wish.process) {
            return self.look_in_storage(wish.process, Waiter::Lane { wish, on_behalf, asker });
        }
        let key = self.processes.key_of(&wish.process)?;
        let client = self.clients.get(asker.client).ok_or(ControlError::ShuttingDown)?;
        limit(
            "lanes of this connection",
            client.lanes.len(),
            LANES_PER_CLIENT_MAX,
            "close some, or share a lane between threads",
        )?;
        let process = self.processes.get(key).ok_or(ControlError::UnknownProcess { process: wish.process })?;
        process.ensure_takes_lanes()?;
        let mut sizes = LaneSizes::new(&wish, &process.application);
        if client.is_network {
            sizes = sizes.with_shared_replies(|bytes| self.budget.leaves_free(bytes, NETWORK_REPLY_BUDGET_PARTS));
        }
        if on_behalf.is_none()
            && let Some(id) = self.take_prepared_lane(key, asker, sizes)
        {
            self.open_if_attached(key, id);
            return Ok(());
        }
        let mut standing = self.standing_of(asker.client)?;
        standing.principal = on_behalf.unwrap_or(standing.principal);
        self.make_asked_lane(key, standing, sizes, LaneAsker::Client(asker))
    }

    /// Makes a lane that somebody waits for, and hands it over when the workers have it.
    pub(crate) fn make_asked_lane(
        &mut self,
        key: ProcessKey,
        standing: LaneStanding,
        sizes: LaneSizes,
        asker: LaneAsker,
    ) -> Result<(), ControlError> {
        let id = self.make_lane(key, standing, sizes, LaneStage::Opening(asker))?;
        self.announce_lane(key, id);
        self.open_if_attached(key, id);
        Ok(())
    }

    fn standing_of(&self, client_key: ClientKey) -> Result<LaneStanding, ControlError> {
        let client = self.clients.get(client_key).ok_or(ControlError::ShuttingDown)?;
        let claims = client.claims.as_ref().ok_or(ControlError::ShuttingDown)?;
        let owner = LaneOwner::Client(client_key);
        Ok(LaneStanding { owner, rights: claims.rights, principal: claims.principal, is_network: client.is_network })
    }

    /// Makes the lane that the creator of a process is likely to ask for, while its first worker starts. Whatever stands
    /// against it, the client meets when it asks.
    pub(crate) fn prepare_lane(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let Stage::Creating(askers) = &process.stage else { return };
        let Some(client_key) = askers.first().map(|asker| asker.client).filter(|_| process.lanes.is_empty()) else {
            return;
        };
        let Some(client) = self.clients.get(client_key) else { return };
        let may_call = client
            .claims
            .as_ref()
            .is_some_and(|claims| claims.rights.contains(Rights::INVOKE) && claims.scope.covers(&process.id));
        let wish = LaneWish { process: process.id, payload_bytes_max: None, calls_in_flight: None };
        let sizes = LaneSizes::new(&wish, &process.application);
        // A network session asks for lanes of another size, and opens them before anybody calls.
        let has_room = !client.is_network
            && client.lanes.len() < LANES_PER_CLIENT_MAX / 2
            && sizes.charged_bytes().is_ok_and(|bytes| self.budget.leaves_free(bytes, PREPARED_BUDGET_PARTS));
        if may_call && has_room {
            let stage = LaneStage::Prepared(clock::now() + PREPARED_LANE_MAX);
            if let Ok(standing) = self.standing_of(client_key)
                && let Ok(id) = self.make_lane(key, standing, sizes, stage)
            {
                self.timers.after(PREPARED_LANE_MAX, Timer::Lane(key, id.0));
            }
        }
    }

    /// The lane that was prepared for this client in these sizes, now asked for.
    fn take_prepared_lane(&mut self, key: ProcessKey, asker: Asker, sizes: LaneSizes) -> Option<LaneId> {
        let process = self.processes.get_mut(key)?;
        let owner = LaneOwner::Client(asker.client);
        let fits = |lane: &Lane| !lane.is_asked_for() && lane.owner == owner && lane.sizes == sizes;
        let (id, lane) = process.lanes.iter_mut().find(|(_, lane)| fits(lane))?;
        lane.stage = LaneStage::Opening(LaneAsker::Client(asker));
        Some(*id)
    }

    /// Makes a lane and enters it with its process and owner.
    fn make_lane(
        &mut self,
        key: ProcessKey,
        standing: LaneStanding,
        sizes: LaneSizes,
        stage: LaneStage,
    ) -> Result<LaneId, ControlError> {
        let LaneStanding { owner, rights, principal, is_network } = standing;
        let taken = self.processes.get(key).map_or(0, |process| process.lanes.len());
        limit("lanes of this process", taken, LANES_PER_PROCESS_MAX, "close lanes, or create another process")?;
        let charge = self.budget.charge(sizes.charged_bytes()?, "close lanes, ask for a smaller payload_bytes_max")?;
        let id = self.choose_lane_id(key)?;
        let mut memory = ServerLane::create(id, sizes.geometry).map_err(|error| host("creating a lane", &error))?;
        let bell = Doorbell::new().map_err(|error| host("creating a doorbell", &error))?;
        let workers_ring = bell.another_ring().map_err(|error| host("opening a doorbell", &error))?;
        let replies = is_network.then(|| reply_doorbell(&mut memory)).transpose()?;
        let lane = Lane {
            owner,
            memory: Some(memory),
            listen: bell.listen,
            workers_ring,
            client_ring: Some(bell.ring),
            replies,
            sizes,
            rights,
            principal,
            stage,
            _charge: charge,
        };
        if let Some(process) = self.processes.get_mut(key) {
            process.lanes.insert(id, lane);
        }
        if let Some(lanes) = self.lanes_of(owner) {
            lanes.insert(id, key);
        }
        Ok(id)
    }

    /// The lanes that somebody holds.
    fn lanes_of(&mut self, owner: LaneOwner) -> Option<&mut BTreeMap<LaneId, ProcessKey>> {
        match owner {
            LaneOwner::Client(client) => self.clients.get_mut(client).map(|client| &mut client.lanes),
            LaneOwner::Worker(worker) => self.workers.get_mut(&worker).map(|worker| &mut worker.call_lanes),
        }
    }

    /// The next number whose residue no lane of the process has.
    fn choose_lane_id(&mut self, key: ProcessKey) -> Result<LaneId, ControlError> {
        let modulus = u32::try_from(LANES_PER_PROCESS_MAX).unwrap_or(u32::MAX);
        let lanes = self.processes.get(key).map(|process| process.lanes.keys());
        let taken: HashSet<u32> = lanes.into_iter().flatten().map(|lane| lane.0 % modulus).collect();
        let exhausted = || ControlError::LimitReached {
            what: "lane numbers of this server".into(),
            used: self.next_lane.into(),
            limit: u32::MAX.into(),
            asked: 1,
            advice: "restart the server".into(),
        };
        let last = self.next_lane.checked_add(modulus).ok_or_else(exhausted)?;
        let free = (self.next_lane..last).find(|id| !taken.contains(&(id % modulus))).ok_or_else(exhausted)?;
        self.next_lane = free + 1;
        Ok(LaneId(free))
    }

    /// The owner of a lane says that a request lies in it and nobody is awake, or that the phase is not active.
    pub(crate) fn lane_rang(&mut self, key: ProcessKey, id: LaneId) {
        let Some(process) = self.processes.get(key) else { return };
        let Some(memory) = process.lanes.get(&id).and_then(|lane| lane.memory.as_ref()) else {
            return process.control.acknowledge_rings();
        };
        let phase = process.phase();
        if phase == Phase::Active {
            self.wake_workers(key);
            return self.help(key);
        }
        process.control.acknowledge_rings();
        let running = self.running_roots(key);
        let keep = |root| phase == Phase::Draining && (running.contains(&root) || self.runs_root(key, root));
        let refused = memory.refuse_unclaimed(keep, Outcome::Unavailable, phase as u32);
        self.metrics.calls_refused += u64::from(refused);
        if phase == Phase::Draining {
            self.wake_workers(key);
            self.grow(key);
        }
    }
}

/// A reply doorbell, whose server end the lane gets.
fn reply_doorbell(memory: &mut ServerLane) -> Result<ReplyDoorbell, ControlError> {
    let bell = Doorbell::new().map_err(|error| host("creating a reply doorbell", &error))?;
    let workers_ring = bell.another_ring().map_err(|error| host("opening a reply doorbell", &error))?;
    memory.wake_client_by(bell.ring);
    Ok(ReplyDoorbell { listen: Some(bell.listen), workers_ring })
}

pub(crate) fn limit(what: &str, used: usize, limit: usize, advice: &str) -> Result<(), ControlError> {
    if used < limit {
        return Ok(());
    }
    Err(ControlError::LimitReached {
        what: what.into(),
        used: used as u64,
        limit: limit as u64,
        asked: 1,
        advice: advice.into(),
    })
}

fn host(what: &str, error: &dyn std::fmt::Display) -> ControlError {
    ControlError::Host { what: what.into(), reason: error.to_string() }
}
