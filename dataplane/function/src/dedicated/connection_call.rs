//! A call that came over a dedicated connection, as its function sees it.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use praas_protocol::FunctionId;
use praas_protocol::wire::{HEADER_BYTES, Header, Kind};
use praas_shm::claim::Condemned;
use praas_shm::function_stats::CountedCall;
use praas_shm::worker_end::AsideCall;
use rustix::net::RecvFlags;

use crate::limits::{CANCEL_LOOK_PERIOD, CANCELS_NOTED_MAX};

/// A claimed call of a connection.
#[derive(Debug)]
pub(crate) struct ConnectionCall<'w> {
    pub(crate) call: AsideCall<'w>,
    pub(crate) request_id: u64,
    pub(crate) function: FunctionId,
    pub(crate) payload_bytes_max: usize,
    pub(crate) caller: CallerWatch<'w>,
}

impl<'w> ConnectionCall<'w> {
    pub(crate) fn function(&self) -> FunctionId {
        self.function
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    pub(crate) fn count(&self, index: usize) -> CountedCall<'w> {
        self.call.count(index, self.function)
    }

    pub(crate) fn time_remaining(&self) -> Option<Duration> {
        self.call.time_remaining()
    }

    /// Whether the caller cancelled or its time is over, as far as a look now and then tells.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.time_remaining() == Some(Duration::ZERO) || self.caller.has_cancelled(self.request_id)
    }

    pub(crate) fn release(self) -> Result<(), Condemned> {
        self.call.release()
    }
}

/// What is known of a caller's mind while its call runs.
#[derive(Debug)]
pub(crate) struct CallerWatch<'w> {
    cancelled: Cell<bool>,
    /// The connection, if the next byte that comes begins a frame.
    socket: Option<BorrowedFd<'w>>,
    looked: Cell<Option<Instant>>,
}

impl<'w> CallerWatch<'w> {
    pub(crate) fn new(cancelled: bool, socket: Option<BorrowedFd<'w>>) -> Self {
        Self { cancelled: Cell::new(cancelled), socket, looked: Cell::new(None) }
    }

    fn has_cancelled(&self, request_id: u64) -> bool {
        let Some(socket) = self.socket.filter(|_| !self.cancelled.get()) else { return self.cancelled.get() };
        let now = Instant::now();
        if self.looked.get().is_none_or(|looked| now.duration_since(looked) >= CANCEL_LOOK_PERIOD) {
            self.looked.set(Some(now));
            let mut bytes = [0; CANCELS_NOTED_MAX * HEADER_BYTES];
            // The bytes stay in the socket: they are read when their turn comes.
            let cancelled = match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                // Nobody is there any more, or nobody will say anything.
                Ok((_, 0)) => true,
                Ok((_, count)) => Cancels::in_frames(&bytes[..count.min(bytes.len())]).contains(request_id),
                Err(_) => false,
            };
            self.cancelled.set(cancelled);
        }
        self.cancelled.get()
    }
}

/// Ids that CANCEL frames name.
#[derive(Debug, Default)]
pub(crate) struct Cancels(Vec<u64>);

impl Cancels {
    /// Those behind the first of the frames that begin with `bytes`; most often there is no second.
    #[inline]
    pub(crate) fn behind_first(bytes: &[u8]) -> Self {
        let first = bytes.first_chunk().map_or(0, |length| HEADER_BYTES + u32::from_le_bytes(*length) as usize);
        match bytes.get(first..) {
            Some(rest) if !rest.is_empty() => Self::in_frames(rest),
            _ => Self::default(),
        }
    }

    /// Those among the frames that begin with `bytes`. What breaks the protocol ends the search: the decoder will say so.
    pub(crate) fn in_frames(bytes: &[u8]) -> Self {
        let (mut found, mut rest) = (Vec::new(), bytes);
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let [l0, l1, l2, l3, code, ..] = *header;
            // Most frames are calls, of which only the length is of interest.
            if code == Kind::Cancel.code()
                && found.len() < CANCELS_NOTED_MAX
                && let Ok(header) = Header::parse(header)
            {
                found.push(header.request_id);
            }
            let frame_bytes = HEADER_BYTES + u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            match rest.get(frame_bytes..) {
                Some(after) if !after.is_empty() => rest = after,
                _ => break,
            }
        }
        Self(found)
    }

    #[inline]
    pub(crate) fn contains(&self, request_id: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&request_id)
    }
}

#[cfg(test)]
mod tests {
    use praas_protocol::wire::{Cancel, Ping, Request};

    use super::*;

    #[test]
    fn cancels_are_found_behind_other_frames_and_junk_ends_the_search() {
        let mut bytes = Vec::new();
        Request::new(5, 0, FunctionId(1), 0).encode(&[22; 100], &mut bytes);
        Cancel { request_id: 5 }.encode(&mut bytes);
        Ping { opaque: 9 }.encode(&mut bytes);
        Cancel { request_id: 3 }.encode(&mut bytes);
        let whole = Cancels::in_frames(&bytes);
        assert!(whole.contains(5) && whole.contains(3) && !whole.contains(9));
        for cut in 0..bytes.len() {
            let _ = Cancels::in_frames(&bytes[..cut]);
        }
        bytes.splice(..0, [0xff; 40]);
        assert!(!Cancels::in_frames(&bytes).contains(5));
        let many: Vec<u8> = (0..1000)
            .flat_map(|request_id| {
                let mut one = Vec::new();
                Cancel { request_id: request_id + 1 }.encode(&mut one);
                one
            })
            .collect();
        assert_eq!(Cancels::in_frames(&many).0.len(), CANCELS_NOTED_MAX);
    }
}
