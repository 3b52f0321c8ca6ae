//! A message lane with a real segment and a real bell, for tests: the server's view, a sender's end, receivers' ends.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use praas_protocol::control::MessageLaneGeometry;
use praas_protocol::{Key, MessageId};
use praas_shm::WorkerTag;
use praas_shm::mail_bell::MailBell;
use praas_shm::message_lane::{Arrived, ArrivedRoom, Contents, Inbound, Outbound, ServerMessageLane};

/// Longest wait of any test step; far above what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Entries, blocks and arena of a lane that is soon full.
pub const SMALL: MessageLaneGeometry = MessageLaneGeometry { entries: 16, blocks: 8, arena_bytes: 64 << 10 };

pub fn copy_of(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

/// What a server holds of a lane.
pub struct Host {
    pub lane: ServerMessageLane,
    pub bell: MailBell,
}

impl Host {
    pub fn new(geometry: MessageLaneGeometry) -> Self {
        Self { lane: ServerMessageLane::create(geometry).unwrap(), bell: MailBell::create().unwrap() }
    }

    pub fn bell(&self) -> MailBell {
        MailBell::attach(copy_of(self.bell.fd())).unwrap()
    }

    pub fn sender(&self) -> Outbound {
        Outbound::attach(copy_of(self.lane.fd()), &self.lane.geometry(), self.bell()).unwrap()
    }

    pub fn receiver(&self) -> Receiver {
        let inbound = Inbound::attach(copy_of(self.lane.fd()), &self.lane.geometry()).unwrap();
        Receiver { inbound, position: 0, room: ArrivedRoom::new() }
    }
}

/// A receiver with a position of its own, as the only one.
pub struct Receiver {
    pub inbound: Inbound,
    pub position: u64,
    pub room: ArrivedRoom,
}

impl Receiver {
    /// The next message, if it has come.
    pub fn look(&mut self) -> Option<Arrived<'_>> {
        self.inbound.arrived_at(self.position, &mut self.room).unwrap()
    }

    /// Is done with the entry of the next message.
    pub fn advance(&mut self) {
        self.position += 1;
        self.inbound.publish_consumed(self.position);
    }

    /// Takes the next message whole, and gives its block back.
    pub fn take(&mut self) -> Option<Taken> {
        let arrived = self.inbound.arrived_at(self.position, &mut self.room).unwrap()?;
        let (id, key) = (arrived.id, arrived.key.as_str().to_owned());
        let bytes = match arrived.contents {
            Contents::Inline(bytes) => bytes.to_vec(),
            Contents::Block(place) => {
                let bytes = self.inbound.block(&place).to_vec();
                self.inbound.release(place.descriptor(), place.stamp());
                bytes
            }
        };
        self.advance();
        Some(Taken { id, key, bytes })
    }

    /// The same, sleeping on the bell until there is one.
    pub fn await_one(&mut self, bell: &MailBell, tag: WorkerTag) -> Taken {
        let start = Instant::now();
        loop {
            if let Some(taken) = self.take() {
                return taken;
            }
            let seen = bell.prepare(tag);
            if !self.inbound.has_arrived(self.position) {
                bell.wait(seen, PATIENCE);
            }
            bell.finish(tag);
            assert!(start.elapsed() < PATIENCE, "message {} never came", self.position);
        }
    }
}

/// A message as it was received.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    pub id: MessageId,
    pub key: String,
    pub bytes: Vec<u8>,
}

pub fn id(sequence: u64) -> MessageId {
    MessageId { incarnation: 7, sequence }
}

pub fn key(text: &str) -> Key<'_> {
    Key::new(text).unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let byte = |at: u64| at.wrapping_mul(31) ^ at >> 8 ^ seed.wrapping_mul(0x9e37);
    (0..bytes as u64).map(|at| byte(at).to_le_bytes()[0]).collect()
}
