//! Lanes that workers open, for calls from function to function.
//!
//! 1. A worker reaches the processes of its own application, its own one among them, and no other: it names them within it.
//! 2. Such a lane is like a client's: the process that it leads to serves it like any other, and it is charged, refused,
//!    recovered and closed like any other ([`crate::lanes`]). Both ends are functions of one application, so it is trusted. The
//!    principal of its calls is the name of the calling process.
//! 3. It ends with its worker, and when the process that it leads to has ended; the worker is told of that.
//! 4. A draining process gives lanes to workers that run calls on behalf of its own running calls: it waits for these.

use praas_protocol::control::{ControlError, LaneId, WorkerCommand};
use praas_protocol::limits::LANES_PER_WORKER_MAX;
use praas_protocol::token::Rights;
use praas_protocol::{Address, Name, Phase, ProcessId};

use crate::lanes::{LaneAsker, LaneOwner, LaneSizes, LaneStanding, LaneWish, limit};
use crate::processes::ProcessKey;
use crate::shard::Shard;
use crate::swap::Waiter;
use crate::workers::WorkerKey;

/// What a function may do in the processes of its own application.
const RIGHTS_OF_FUNCTIONS: Rights = Rights::INVOKE.with(Rights::TRUSTED).with(Rights::STATE).with(Rights::MESSAGES);

impl Shard {
    /// Opens a lane for the calls of a worker, which is answered when the workers at its other end have it.
    /// One to what is no process of this server leads to a gateway ([`crate::gateways`]).
    pub(crate) fn open_call_lane(&mut self, caller: WorkerKey, request: u32, to: Address) {
        let opened = match to {
            Address::Process(process) => match self.try_open_call_lane(caller, request, process) {
                Err(error @ ControlError::UnknownProcess { .. }) => {
                    self.open_gateway_for_worker(caller, request, to).unwrap_or(Err(error))
                }
                opened => opened,
            },
            Address::Client(session) => {
                let unknown = Err(ControlError::UnknownSession { session });
                self.open_gateway_for_worker(caller, request, to).unwrap_or(unknown)
            }
        };
        if let Err(error) = opened {
            self.refuse_worker(caller, request, error);
        }
    }

    fn try_open_call_lane(&mut self, caller: WorkerKey, request: u32, name: Name) -> Result<(), ControlError> {
        let worker = self.workers.get(&caller).ok_or(ControlError::ShuttingDown)?;
        let home = self.processes.get(worker.process).ok_or(ControlError::ShuttingDown)?.id;
        let opened = worker.call_lanes.len() + worker.outbound.len();
        limit("lanes of this worker", opened, LANES_PER_WORKER_MAX, "call fewer processes from one worker")?;
        let process = ProcessId { process: name, ..home };
        if self.processes.swapped.contains_key(&process) || self.dozes(&process) {
            return self.wait_for(process, Waiter::CallLane { caller, request, process: name });
        }
        let key = self.processes.key_of(&process)?;
        let target = self.processes.get(key).ok_or(ControlError::UnknownProcess { process })?;
        let is_awaited = || {
            let roots = worker.page.claims().map(|claim| claim.root).filter(|root| *root != 0);
            target.phase() == Phase::Draining && roots.into_iter().any(|root| self.runs_root(key, root))
        };
        if let Err(refusal) =
            target.ensure_takes_lanes().or_else(|refusal| if is_awaited() { Ok(()) } else { Err(refusal) })
        {
            let away = self.is_away(&process);
            return if away {
                self.wait_for(process, Waiter::CallLane { caller, request, process: name })
            } else {
                Err(refusal)
            };
        }
        let wish = LaneWish { process, payload_bytes_max: None, calls_in_flight: None };
        let sizes = LaneSizes::new(&wish, &target.application);
        let owner = LaneOwner::Worker(caller);
        let standing = LaneStanding { owner, rights: RIGHTS_OF_FUNCTIONS, principal: home.process, is_network: false };
        self.make_asked_lane(key, standing, sizes, LaneAsker::Worker(caller, request))
    }

    /// Does something with a lane that this worker opened. A lane that ended just before is no breach.
    pub(crate) fn with_call_lane(
        &mut self,
        worker: WorkerKey,
        lane: LaneId,
        process: Name,
        what: fn(&mut Self, ProcessKey, LaneId),
    ) -> Result<(), String> {
        let held = self.workers.get(&worker).and_then(|worker| worker.call_lanes.get(&lane)).copied();
        let Some(key) = held else { return Ok(()) };
        if self.processes.get(key).is_none_or(|found| found.id.process != process) {
            return Err(format!("its lane {} leads to another process than {process}", lane.0));
        }
        what(self, key, lane);
        Ok(())
    }

    /// A process has ended: the lanes that workers opened to it end, too. Those of clients end when these let go of them.
    pub(crate) fn end_call_lanes_to(&mut self, key: ProcessKey) {
        let Some(process) = self.processes.get(key) else { return };
        let name = process.id.process;
        let of_workers = process.lanes.iter().filter_map(|(id, lane)| match lane.owner {
            LaneOwner::Worker(worker) => Some((*id, worker)),
            LaneOwner::Client(_) => None,
        });
        for (lane, worker) in of_workers.collect::<Vec<_>>() {
            self.close_lane(key, lane);
            self.command_worker(worker, &WorkerCommand::CallLaneGone { lane, to: name.into() }, &[]);
        }
    }
}
