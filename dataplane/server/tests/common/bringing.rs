//! Another server, by hand: handles in the name of its processes, messages that it brings, what it watches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use praas_protocol::control::ProcessState;
use praas_protocol::message::{
    AWAIT_ROOM_FUNCTION, Accepted, Address, DELIVER_FUNCTION, DELIVER_NEXT_FUNCTION, MessageId, PUT_FUNCTION, PutHead,
    codes, encode_room,
};
use praas_protocol::wire::{Frame, OpenAs, Opened, Request, Response, Watch};
use praas_protocol::{FunctionId, Key, Name, Outcome};

use crate::common::PATIENCE;
use crate::common::remote::{Came, Remote};

/// A life of the other server.
pub(crate) const INSTANCE: u64 = 0x5eed;

/// Which life of a source, in these tests.
pub(crate) const INCARNATION: u64 = 9;

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Accepted,
    Before,
    Full,
    Busy,
    Failed(u32),
    Other(Outcome),
}

impl Fate {
    pub(crate) fn of(response: &Response, payload: &[u8]) -> Self {
        match response.outcome().expect("an outcome of this version") {
            Outcome::Ok => match Accepted::from_answer(payload) {
                Some(Accepted::Now) => Self::Accepted,
                Some(Accepted::Before) => Self::Before,
                None => panic!("{payload:?}"),
            },
            Outcome::FunctionFailed => match response.detail {
                codes::MAILBOX_FULL => Self::Full,
                codes::BUSY => Self::Busy,
                code => Self::Failed(code),
            },
            outcome => Self::Other(outcome),
        }
    }
}

/// The payload of a message of `source`.
pub(crate) fn message(source: &str, sequence: u64, key: &str, bytes: &[u8]) -> Vec<u8> {
    let id = MessageId { incarnation: INCARNATION, sequence };
    PutHead { source: source.parse().unwrap(), id, key: Key::new(key).unwrap() }.encode(bytes)
}

impl Remote {
    pub(crate) fn ask_to_open_as(&mut self, generation: u64, source: &str, to: Address) -> u64 {
        let request_id = self.id();
        let open = OpenAs {
            request_id,
            payload_bytes_max: 0,
            in_flight_max: 0,
            instance: INSTANCE,
            generation,
            incarnation: INCARNATION,
            application: "hello".parse().unwrap(),
            source: source.parse().unwrap(),
            to,
        };
        self.send(|out| open.encode(out));
        request_id
    }

    pub(crate) fn try_open_as(&mut self, generation: u64, source: &str, to: &str) -> Result<Opened, Came> {
        let id = self.ask_to_open_as(generation, source, to.parse().unwrap());
        let came = self.answer_to(id);
        match came.frame() {
            Frame::Opened(opened) => Ok(opened),
            _ => Err(came),
        }
    }

    /// A handle in the name of `source`.
    pub(crate) fn open_as(&mut self, source: &str, to: &str) -> u32 {
        self.try_open_as(1, source, to).expect("the token is trusted").handle
    }

    /// Sends a request with a deadline; its id.
    pub(crate) fn start_within(&mut self, handle: u32, function: &str, payload: &[u8], time: Duration) -> u64 {
        let request_id = self.id();
        let time_ns = u64::try_from(time.as_nanos()).unwrap();
        self.send(|out| Request::new(request_id, handle, FunctionId::of(function), time_ns).encode(payload, out));
        request_id
    }

    pub(crate) fn fate_of(&mut self, id: u64) -> Fate {
        let (response, payload) = self.end_of(id);
        Fate::of(&response, &payload)
    }

    /// One delivery, however it ends.
    pub(crate) fn deliver_once(&mut self, handle: u32, payload: &[u8]) -> Fate {
        let id = self.start(handle, DELIVER_FUNCTION, payload);
        self.fate_of(id)
    }

    pub(crate) fn start_next(&mut self, handle: u32, payload: &[u8]) -> u64 {
        self.start(handle, DELIVER_NEXT_FUNCTION, payload)
    }

    /// Waits for room; how that ended.
    pub(crate) fn await_room(&mut self, handle: u32, bytes: usize) -> Outcome {
        let id = self.start_within(handle, AWAIT_ROOM_FUNCTION, &encode_room(bytes), PATIENCE);
        self.end_of(id).0.outcome().expect("an outcome of this version")
    }

    /// Delivers a message as a sender does: asks for room where there is none.
    pub(crate) fn deliver(&mut self, handle: u32, payload: &[u8]) -> Fate {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.deliver_once(handle, payload) {
                Fate::Full | Fate::Busy => {
                    assert!(Instant::now() < end, "no room in {PATIENCE:?}");
                    self.await_room(handle, payload.len());
                }
                fate => return fate,
            }
        }
    }

    /// Puts a message that may have been delivered.
    pub(crate) fn put(&mut self, handle: u32, payload: &[u8]) -> Fate {
        let id = self.start(handle, PUT_FUNCTION, payload);
        self.fate_of(id)
    }
}

/// What another server knows of this one's processes.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    after: u64,
    pub(crate) known: BTreeMap<Address, ProcessState>,
}

impl Watcher {
    pub(crate) fn ask(&self, remote: &mut Remote) -> u64 {
        let request_id = remote.id();
        remote.send(|out| Watch { request_id, after: self.after }.encode(out));
        request_id
    }

    /// Takes an answer; whether more follows at once.
    pub(crate) fn hear(&mut self, came: &Came) -> bool {
        let Frame::Changes(changes) = came.frame() else { panic!("{:?}", came.frame()) };
        if changes.is_whole {
            self.known.clear();
        }
        self.after = changes.upto;
        for entry in changes.entries() {
            assert_eq!(entry.application, "hello".parse::<Name>().unwrap());
            match entry.state {
                Some(state) => drop(self.known.insert(entry.address, state)),
                None => drop(self.known.remove(&entry.address)),
            }
        }
        changes.more
    }

    /// One question and its answer, with all that follows at once.
    pub(crate) fn look(&mut self, remote: &mut Remote) {
        loop {
            let id = self.ask(remote);
            let came = remote.answer_to(id);
            if !self.hear(&came) {
                return;
            }
        }
    }
}
