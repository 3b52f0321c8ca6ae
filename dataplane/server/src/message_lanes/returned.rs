//! Message lanes that come back with a process that slept, with what lay in them. Nobody sends on them: they stay until they are
//! drained, like those whose sender is gone.

use praas_protocol::ProcessId;
use praas_protocol::control::{ControlError, MessageLaneSlot};
use praas_protocol::limits::MESSAGE_LANES_MAX;
use praas_shm::message_lane::segment_bytes;
use praas_shm::swap::ReturnedLane;

use super::{LaneName, LaneStage, LaneUse, MessageLane, host};
use crate::processes::ProcessKey;
use crate::shard::Shard;

impl Shard {
    /// Numbers for as many lanes as a process has at most, none of which any lane had; the first of them.
    pub(crate) fn serials_for_lanes(&mut self) -> u64 {
        let first = self.messages.next_serial;
        self.messages.next_serial += MESSAGE_LANES_MAX as u64;
        first
    }

    /// Charges the lanes of a process that comes back to the host.
    pub(crate) fn lanes_of_returned(
        &self,
        process: ProcessId,
        incarnation: u64,
        returned: Vec<ReturnedLane>,
    ) -> Result<Vec<(MessageLaneSlot, MessageLane)>, ControlError> {
        let what = "making a message lane anew";
        let lanes = returned.into_iter().map(|returned| {
            let ReturnedLane { slot, serial, source, incarnation: source_incarnation, repeats, lane } = returned;
            let (slot, geometry) = (MessageLaneSlot(slot), lane.geometry());
            let bytes = segment_bytes(&geometry).map_err(|error| host(what, &error))?;
            let of_host = self.budget.charge(bytes as u64, "let other processes sleep, or stop some")?;
            let name = LaneName { process, incarnation, slot, serial, geometry, source, source_incarnation, repeats };
            let lane = MessageLane {
                serial,
                source,
                incarnation: source_incarnation,
                geometry,
                repeats,
                payload_bytes_max: 0,
                fd: lane.fd().try_clone_to_owned().map_err(|error| host(what, &error))?,
                kept_name: name.to_string(),
                is_kept: false,
                stage: LaneStage::Orphaned,
                _use: LaneUse { _of_host: of_host, _lane: self.messages.lanes.add(), _by_sender: None },
            };
            Ok((slot, lane))
        });
        lanes.collect()
    }

    /// Enters them with their process, which has no workers yet, and has the keeper hold them.
    pub(crate) fn enter_lanes_of_returned(&mut self, key: ProcessKey, lanes: Vec<(MessageLaneSlot, MessageLane)>) {
        for (slot, lane) in lanes {
            let serial = lane.serial;
            let Some(process) = self.processes.get_mut(key) else { return };
            process.inbound.insert(slot, lane);
            self.keep_message_lane(key, slot, serial);
            self.orphan_message_lane(key, slot);
        }
    }
}
