//! Both ends of a message lane on one thread.

use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};

use praas_protocol::{Key, MessageId};
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{ArrivedRoom, Contents, Inbound, Outbound, ServerMessageLane, geometry_for};

use super::rig::{OPERATIONS, PAYLOAD_BYTES, Rig, Step};

const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const KEY: &str = "move";

pub(super) const STEPS: [Step; 2] = [
    Step { name: "message lane: send 64 B", function: "guarded_send" },
    Step { name: "message lane: read a message of 64 B and be done with it", function: "guarded_arrive" },
];

/// The ends of a lane, neither of which sleeps.
pub(super) struct LetterRig {
    outbound: Outbound,
    inbound: Inbound,
    position: u64,
    room: ArrivedRoom,
    _server: (ServerMessageLane, MailBell),
}

fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("a descriptor is left")
}

impl LetterRig {
    pub(super) fn new() -> Self {
        let lane = ServerMessageLane::create(geometry_for(PAYLOAD_BYTES_MAX)).expect("memory is left");
        let bell = MailBell::create().expect("memory is left");
        let own_bell = MailBell::attach(copy_of(bell.fd())).expect("the bell is sound");
        let outbound = Outbound::attach(copy_of(lane.fd()), &lane.geometry(), own_bell).expect("the lane is sound");
        let inbound = Inbound::attach(copy_of(lane.fd()), &lane.geometry()).expect("the lane is sound");
        Self { outbound, inbound, position: 0, room: ArrivedRoom::new(), _server: (lane, bell) }
    }
}

impl Rig for LetterRig {
    fn step_count(&self) -> usize {
        STEPS.len()
    }

    fn run(&mut self, step: usize) {
        [guarded_send, guarded_arrive][step](self);
    }
}

#[inline(never)]
fn guarded_send(rig: &mut LetterRig) {
    for number in 0..OPERATIONS {
        let payload = [u8::try_from(number).unwrap_or_default(); PAYLOAD_BYTES];
        let id = MessageId { incarnation: 1, sequence: rig.outbound.sent() };
        let key = Key::new(black_box(KEY)).expect("a key");
        rig.outbound.try_send(id, key, black_box(&payload)).expect("there is room");
    }
}

#[inline(never)]
fn guarded_arrive(rig: &mut LetterRig) {
    for _ in 0..OPERATIONS {
        let arrived = rig.inbound.arrived_at(rig.position, &mut rig.room).expect("in order").expect("it is there");
        let Contents::Inline(bytes) = arrived.contents else { panic!("64 bytes travel inline") };
        black_box(bytes);
        rig.position += 1;
        rig.inbound.publish_consumed(rig.position);
    }
}
