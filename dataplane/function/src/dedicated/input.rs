//! Memory into which connections are read.
//!
//! Small calls of all connections go through one buffer of the worker, and are run before anything else is read into it. A
//! payload that does not come with its head gets memory of its own, which grows with what came; one such piece is kept for the
//! next, an unusually large one only while such payloads go on coming: fresh memory for 64 MiB costs as much as sending them. An idle
//! connection has none.

use std::time::Instant;

use rkyv::util::AlignedVec;

use praas_protocol::limits::WIRE_REQUEST_HEAD_BYTES;
use praas_protocol::wire::Request;

use crate::limits::{LARGE_PAYLOAD_KEPT_FOR, PAYLOAD_BYTES_KEPT, PAYLOAD_BYTES_START, RECEIVE_BYTES};

/// Where receiving begins in the buffer, so that the payload behind a common head is aligned for any archive.
const RECEIVE_OFFSET: usize = AlignedVec::<16>::ALIGNMENT - WIRE_REQUEST_HEAD_BYTES % AlignedVec::<16>::ALIGNMENT;

/// The buffers that a worker's connections share.
#[derive(Debug, Default)]
pub(crate) struct Room {
    receive: AlignedVec,
    /// Of the last large payload.
    payload: AlignedVec,
    /// Until when that is kept, if it is unusually large.
    payload_until: Option<Instant>,
    /// For answers.
    pub(crate) replies: Vec<u8>,
}

impl Room {
    /// Where the next bytes of a connection go.
    #[inline]
    pub(crate) fn receive_place(&mut self) -> &mut [u8] {
        if self.receive.is_empty() {
            self.receive.resize(RECEIVE_OFFSET + RECEIVE_BYTES, 0);
        }
        &mut self.receive[RECEIVE_OFFSET..]
    }

    /// Takes the buffer out while its bytes are worked on; [`Room::put_received`] brings it back.
    #[inline]
    pub(crate) fn take_received(&mut self) -> Received {
        Received(std::mem::take(&mut self.receive))
    }

    #[inline]
    pub(crate) fn put_received(&mut self, received: Received) {
        self.receive = received.0;
    }

    /// Memory for a payload of which `first` has come. Unusually large memory is for the like alone: its time goes on while others
    /// come.
    pub(crate) fn begin_payload(&mut self, request: Request, first: &[u8], bytes: usize) -> Partial {
        let memory = if bytes > PAYLOAD_BYTES_KEPT || self.payload_until.is_none() {
            self.payload_until = None;
            std::mem::take(&mut self.payload)
        } else {
            AlignedVec::new()
        };
        let mut partial = Partial { request, memory, received: first.len(), bytes };
        partial.make_room();
        partial.memory[..first.len()].copy_from_slice(first);
        partial
    }

    /// Keeps the memory of a payload that is done with.
    pub(crate) fn end_payload(&mut self, memory: AlignedVec) {
        if memory.len() > self.payload.len() {
            self.payload = memory;
            let is_large = self.payload.len() > PAYLOAD_BYTES_KEPT;
            self.payload_until = is_large.then(|| Instant::now() + LARGE_PAYLOAD_KEPT_FOR);
        }
    }

    /// When memory has to be given back, if nothing comes that needs it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.payload_until
    }

    /// Gives memory back that was kept for long enough.
    pub(crate) fn trim(&mut self, now: Instant) {
        if self.payload_until.is_some_and(|until| until <= now) {
            self.give_large_back();
        }
    }

    /// Gives memory back that is kept for a while only.
    pub(crate) fn give_large_back(&mut self) {
        if self.payload_until.take().is_some() {
            self.payload = AlignedVec::new();
        }
    }
}

/// The bytes that were received last.
#[derive(Debug)]
pub(crate) struct Received(AlignedVec);

impl Received {
    #[inline]
    pub(crate) fn bytes(&self, count: usize) -> &[u8] {
        &self.0[RECEIVE_OFFSET..][..count]
    }
}

/// A call of which a part of the payload is there.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) request: Request,
    memory: AlignedVec,
    received: usize,
    bytes: usize,
}

impl Partial {
    /// Where the next bytes of the payload go; never empty while it is not complete.
    pub(crate) fn place(&mut self) -> &mut [u8] {
        self.make_room();
        let end = self.bytes.min(self.memory.len());
        &mut self.memory[self.received..end]
    }

    /// So many more bytes came.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// So many more bytes came another way.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let place = self.place();
            let now = rest.len().min(place.len());
            place[..now].copy_from_slice(&rest[..now]);
            self.add(now);
            rest = &rest[now..];
        }
    }

    /// Its memory, which begins with the payload.
    pub(crate) fn into_memory(self) -> AlignedVec {
        self.memory
    }

    /// The payload, if all of it is there.
    pub(crate) fn payload(&self) -> Option<&[u8]> {
        (self.received == self.bytes).then(|| &self.memory[..self.bytes])
    }

    /// Twice what came, if that is not there yet.
    fn make_room(&mut self) {
        // Memory kept from a smaller payload may be shorter than what came of this one at once.
        if self.received >= self.memory.len() {
            let more = (2 * self.received).max(PAYLOAD_BYTES_START).min(self.bytes).max(1);
            self.memory.resize(more.max(self.memory.len()), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use praas_protocol::FunctionId;

    use super::*;

    #[test]
    fn a_payload_is_put_together_whatever_the_pieces_and_its_memory_grows_with_them() {
        let bytes = 3 * PAYLOAD_BYTES_START + 17;
        let sent: Vec<u8> = (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for piece in [1_000, 77_777, bytes] {
            let mut room = Room::default();
            let request = Request::new(1, 0, FunctionId(1), 0);
            let mut partial = room.begin_payload(request, &sent[..10], bytes);
            assert!(partial.memory.len() <= PAYLOAD_BYTES_START);
            let mut at = 10;
            while partial.payload().is_none() {
                let place = partial.place();
                let now = place.len().min(piece).min(bytes - at);
                place[..now].copy_from_slice(&sent[at..at + now]);
                partial.add(now);
                at += now;
                assert!(partial.memory.len() <= (2 * at).max(PAYLOAD_BYTES_START));
            }
            assert!(partial.payload().unwrap() == sent);
            assert!(partial.payload().unwrap().as_ptr().addr().is_multiple_of(16));
            room.end_payload(partial.into_memory());
            let mut again = room.begin_payload(request, &[], bytes);
            assert!(again.place().len() >= bytes, "its memory was kept");
            again.append(&sent);
            assert!(again.payload().unwrap() == sent);
        }
    }

    #[test]
    fn memory_of_an_unusually_large_payload_is_kept_while_such_come_and_then_given_back() {
        let mut room = Room::default();
        let request = Request::new(1, 0, FunctionId(1), 0);
        let large = vec![5; PAYLOAD_BYTES_KEPT + 1];
        let mut first = room.begin_payload(request, &[], large.len());
        first.append(&large);
        let place = first.payload().unwrap().as_ptr();
        room.end_payload(first.into_memory());
        let until = room.deadline().expect("it is not kept for ever");
        room.trim(until - LARGE_PAYLOAD_KEPT_FOR);
        let mut second = room.begin_payload(request, &[], large.len());
        assert!(second.place().as_ptr() == place && room.deadline().is_none(), "it was kept, and is in use");
        room.end_payload(second.into_memory());
        room.trim(room.deadline().unwrap());
        assert!(room.deadline().is_none());
        let mut third = room.begin_payload(request, &[], large.len());
        assert_eq!(third.place().len(), PAYLOAD_BYTES_START, "it was given back");
    }

    #[test]
    fn payloads_of_usual_sizes_do_not_keep_the_memory_of_a_large_one() {
        let mut room = Room::default();
        let request = Request::new(1, 0, FunctionId(1), 0);
        let mut large = room.begin_payload(request, &[], PAYLOAD_BYTES_KEPT + 1);
        large.append(&vec![5; PAYLOAD_BYTES_KEPT + 1]);
        room.end_payload(large.into_memory());
        let until = room.deadline().expect("it is not kept for ever");
        for _ in 0..3 {
            let usual = room.begin_payload(request, &[1; 1000], 2 * PAYLOAD_BYTES_START);
            assert_eq!(room.deadline(), Some(until), "its time goes on");
            room.end_payload(usual.into_memory());
            assert_eq!(room.deadline(), Some(until));
        }
        room.trim(until);
        assert_eq!((room.deadline(), room.payload.len()), (None, 0));
    }

    #[test]
    fn a_first_part_longer_than_the_memory_kept_from_a_smaller_payload_fits() {
        let mut room = Room::default();
        let request = Request::new(1, 0, FunctionId(1), 0);
        let small = room.begin_payload(request, &[1; 1_000], 1_000);
        room.end_payload(small.into_memory());
        let first = vec![2; 17_898];
        let mut large = room.begin_payload(request, &first, 20_000);
        large.append(&[3; 20_000 - 17_898]);
        let payload = large.payload().unwrap();
        assert!(payload[..17_898] == first && payload[17_898..].iter().all(|&byte| byte == 3));
    }

    #[test]
    fn the_payload_behind_a_common_head_is_aligned() {
        let mut room = Room::default();
        let place = room.receive_place();
        assert!(place[WIRE_REQUEST_HEAD_BYTES..].as_ptr().addr().is_multiple_of(16));
    }
}
