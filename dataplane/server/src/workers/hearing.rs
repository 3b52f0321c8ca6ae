//! What workers say, checked against what they were sent and how far they have come.

use praas_protocol::codec;
use praas_protocol::control::{CONTROL_VERSION, WorkerMessage};
use praas_protocol::limits::{CONTROL_MESSAGE_BYTES_MAX, FUNCTIONS_MAX};
use praas_protocol::{Address, FunctionId, Name};

use super::{WorkerKey, WorkerStage};
use crate::lanes::LaneOwner;
use crate::limits::{PEER_PACKETS_TURN_MAX, WORKER_EXIT_MAX};
use crate::peer::{Packet, PeerError};
use crate::shard::Shard;
use crate::sources::Source;
use crate::timers::Timer;

impl Shard {
    /// A worker's control socket has something to read or room to write.
    pub(crate) fn converse_with_worker(&mut self, key: WorkerKey) {
        let mut buffer = std::mem::take(&mut self.packet_buffer);
        buffer.resize(CONTROL_MESSAGE_BYTES_MAX, 0);
        for turn in 0..=PEER_PACKETS_TURN_MAX {
            if turn == PEER_PACKETS_TURN_MAX {
                self.ready.add(Source::WorkerSocket(key));
                break;
            }
            let Some(worker) = self.workers.get_mut(&key) else { break };
            let was_queued = worker.peer.has_queued();
            let flushed = worker.peer.flush();
            if was_queued {
                // A worker that polls looks at its socket only when it is told to.
                worker.notify();
            }
            let received = flushed.and_then(|()| worker.peer.receive(&mut buffer));
            let outcome = match received {
                Ok(Some(packet)) => self.hear_worker(key, &packet),
                Ok(None) => break,
                Err(PeerError::Closed) => {
                    // Its pidfd says how it ended, if it does.
                    self.timers.after(WORKER_EXIT_MAX, Timer::WorkerExit(key));
                    break;
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = outcome {
                self.log.warning(format_args!("worker {} is ended: {reason}", self.worker_name(key)));
                self.end_worker(key, reason);
                break;
            }
        }
        self.packet_buffer = buffer;
    }

    fn worker_name(&self, key: WorkerKey) -> String {
        let worker = self.workers.get(&key);
        let process = worker.and_then(|worker| self.processes.get(worker.process));
        match (process, worker) {
            (Some(process), Some(worker)) => format!("{} of {}", worker.index, process.id),
            _ => "(gone)".into(),
        }
    }

    fn hear_worker(&mut self, key: WorkerKey, packet: &Packet<'_>) -> Result<(), String> {
        if !packet.fds.is_empty() {
            return Err("it sent file descriptors".into());
        }
        let message: WorkerMessage = codec::decode(packet.bytes).map_err(|error| error.to_string())?;
        let Some(worker) = self.workers.get(&key) else { return Ok(()) };
        match message {
            WorkerMessage::Hello { version, functions } if !worker.said_hello => {
                self.hear_hello(key, version, &functions)
            }
            WorkerMessage::Ready if worker.stage == WorkerStage::Attaching => {
                self.worker_ready(key);
                Ok(())
            }
            // Told to end just before.
            WorkerMessage::Ready if worker.stage == WorkerStage::Leaving => Ok(()),
            WorkerMessage::LaneAttached { lane, error } => self.lane_attached(key, lane, error),
            WorkerMessage::LaneDetached { lane } => self.lane_detached(key, lane),
            WorkerMessage::MessageLaneOpen { request, to, payload_bytes }
                if worker.stage >= WorkerStage::Attaching && request != 0 =>
            {
                self.open_message_lane_of_worker(key, request, to, payload_bytes);
                Ok(())
            }
            WorkerMessage::MessageLaneClose { serial } => {
                self.close_message_lane(LaneOwner::Worker(key), serial);
                Ok(())
            }
            WorkerMessage::InboundLaneAttached { slot, error } => self.inbound_lane_attached(key, slot, error),
            WorkerMessage::InboundLaneDetached { slot } => self.inbound_lane_detached(key, slot),
            WorkerMessage::ConnectionEnded { connection } => self.connection_ended(key, connection),
            WorkerMessage::Ring if worker.stage >= WorkerStage::Attaching => {
                let process = worker.process;
                self.worker_rang(process);
                Ok(())
            }
            WorkerMessage::StateFetch { request, wanted } if worker.is_introduced() && request != 0 => {
                self.fetch_state(key, request, wanted);
                Ok(())
            }
            WorkerMessage::WakeUps { seen, is_answer } if worker.is_introduced() => {
                self.hear_of_wake_ups(key, seen, is_answer);
                Ok(())
            }
            WorkerMessage::CallLaneOpen { request, to } if worker.is_introduced() => {
                self.open_call_lane(key, request, to);
                Ok(())
            }
            WorkerMessage::CallLaneRing { lane, .. } if self.owns_gateway(LaneOwner::Worker(key), lane) => {
                self.gateway_rang(LaneOwner::Worker(key), lane);
                Ok(())
            }
            WorkerMessage::CallLaneClose { lane, .. } if self.owns_gateway(LaneOwner::Worker(key), lane) => {
                self.close_gateway(LaneOwner::Worker(key), lane);
                Ok(())
            }
            WorkerMessage::CallLaneRing { lane, to: Address::Process(process) } => {
                self.with_call_lane(key, lane, process, Self::lane_rang)
            }
            WorkerMessage::CallLaneClose { lane, to: Address::Process(process) } => {
                self.with_call_lane(key, lane, process, Self::close_lane)
            }
            // It ended just before.
            WorkerMessage::CallLaneRing { .. } | WorkerMessage::CallLaneClose { .. } => Ok(()),
            other => Err(format!("{other:?} does not come now")),
        }
    }

    fn hear_hello(&mut self, key: WorkerKey, version: u32, functions: &[Name]) -> Result<(), String> {
        let Some(worker) = self.workers.get_mut(&key) else { return Ok(()) };
        if version != CONTROL_VERSION {
            return Err(format!(
                "it speaks version {version} of the control protocol, the server {CONTROL_VERSION}: build it with the same release"
            ));
        }
        check_functions(functions)?;
        let process = self.processes.get_mut(worker.process).ok_or("its process is gone")?;
        if let Some(difference) = process.application.functions_difference(functions) {
            return Err(difference);
        }
        process.counts.learn_names(functions);
        worker.said_hello = true;
        self.introduce(key);
        Ok(())
    }
}

/// Refuses a table of functions that calls could not be told apart by.
fn check_functions(functions: &[Name]) -> Result<(), String> {
    if functions.is_empty() || functions.len() > FUNCTIONS_MAX {
        return Err(format!("it registers {} functions, allowed is 1 to {FUNCTIONS_MAX}", functions.len()));
    }
    let mut ids: Vec<_> = functions.iter().map(|name| (FunctionId::of(name.as_str()), name)).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!("its functions {} and {} share an id: rename one", pair[0].1, pair[1].1)),
        None => Ok(()),
    }
}
