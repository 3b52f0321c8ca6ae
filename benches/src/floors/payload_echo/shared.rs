//! Payloads in bare shared memory: a cell and a block each way. Those that a cell has room for travel in it.
//!
//! Invariant: the request's block is the caller's until it publishes the request and the peer's until it publishes the reply; the
//! reply's block is the peer's meanwhile and the caller's otherwise. The cells' Release and Acquire order the plain accesses.

use std::os::fd::BorrowedFd;
use std::ptr;
use std::slice;
use std::sync::Arc;

use super::super::cell::{Cell, FIRST_SEQUENCE, PAYLOAD_BYTES, Payload, Poisoned, successor};
use super::super::mapping::{Mapping, Shareable};
use super::super::ping_pong::Waiting;
use super::super::{fill, is_filled};

/// The blocks begin after the control page, and each at a page.
const PAGE_BYTES: usize = 4096;

#[derive(Debug)]
#[repr(C)]
struct EchoPage {
    request: Cell,
    reply: Cell,
}

// SAFETY: two cells, which are atomics and padding.
unsafe impl Shareable for EchoPage {}

/// Bytes of memory for payloads of this size.
pub(super) fn mapping_bytes(payload_bytes: usize) -> usize {
    PAGE_BYTES + 2 * payload_bytes.next_multiple_of(PAGE_BYTES)
}

/// Ends the caller's wait for a dead peer.
pub(super) fn poison(mapping: &Mapping) {
    mapping.view::<EchoPage>().reply.poison();
}

/// What both sides know.
#[derive(Debug)]
struct Side {
    mapping: Arc<Mapping>,
    payload_bytes: usize,
    waiting: Waiting,
    sequence: u32,
}

impl Side {
    fn new(mapping: Mapping, payload_bytes: usize, waiting: Waiting) -> Self {
        Self { mapping: Arc::new(mapping), payload_bytes, waiting, sequence: FIRST_SEQUENCE }
    }

    fn page(&self) -> &EchoPage {
        self.mapping.view()
    }

    fn is_inline(&self) -> bool {
        self.payload_bytes <= PAYLOAD_BYTES
    }

    fn request_block(&self) -> *mut u8 {
        self.mapping.bytes(PAGE_BYTES, self.payload_bytes).as_ptr()
    }

    fn reply_block(&self) -> *mut u8 {
        let offset = PAGE_BYTES + self.payload_bytes.next_multiple_of(PAGE_BYTES);
        self.mapping.bytes(offset, self.payload_bytes).as_ptr()
    }

    #[inline(always)]
    fn publish(&self, cell: &Cell, payload: &Payload) {
        cell.publish(self.sequence, 0, payload);
        if self.waiting == Waiting::Park {
            cell.wake();
        }
    }

    #[inline(always)]
    fn wait(&self, cell: &Cell) -> Result<(), Poisoned> {
        match self.waiting {
            Waiting::Spin => cell.wait_spinning(self.sequence),
            Waiting::Park => cell.wait_parked(self.sequence),
        }
    }
}

/// The caller's end.
#[derive(Debug)]
pub(super) struct SharedCaller(Side);

impl SharedCaller {
    pub(super) fn new(mapping: Mapping, payload_bytes: usize, waiting: Waiting) -> Self {
        Self(Side::new(mapping, payload_bytes, waiting))
    }

    pub(super) fn memfd(&self) -> BorrowedFd<'_> {
        self.0.mapping.memfd()
    }

    pub(super) fn mapping(&self) -> Arc<Mapping> {
        Arc::clone(&self.0.mapping)
    }

    /// Fills a payload, has it echoed, and tells whether the echo is right.
    #[inline(always)]
    pub(super) fn fill_and_check(&mut self, seed: u64) -> Result<bool, Poisoned> {
        let side = &self.0;
        let page = side.page();
        let mut inline = [0; PAYLOAD_BYTES];
        if side.is_inline() {
            fill(&mut inline[..side.payload_bytes], seed);
        } else {
            // SAFETY: the range was checked by `bytes`; the peer leaves the block alone until the request (invariant).
            fill(unsafe { slice::from_raw_parts_mut(side.request_block(), side.payload_bytes) }, seed);
        }
        side.publish(&page.request, &words_of(&inline));
        side.wait(&page.reply)?;
        let is_right = if side.is_inline() {
            is_filled(&bytes_of(&page.reply.payload())[..side.payload_bytes], seed)
        } else {
            // SAFETY: the range was checked by `bytes`; the peer leaves the block alone until the next request (invariant).
            is_filled(unsafe { slice::from_raw_parts(side.reply_block(), side.payload_bytes) }, seed)
        };
        self.0.sequence = successor(self.0.sequence);
        Ok(is_right)
    }
}

/// The peer's end.
#[derive(Debug)]
pub(super) struct SharedPeer(Side);

impl SharedPeer {
    pub(super) fn new(mapping: Mapping, payload_bytes: usize, waiting: Waiting) -> Self {
        Self(Side::new(mapping, payload_bytes, waiting))
    }

    /// Waits for a payload and answers it.
    #[inline(always)]
    pub(super) fn echo(&mut self) -> Result<(), Poisoned> {
        let side = &self.0;
        let page = side.page();
        side.wait(&page.request)?;
        if !side.is_inline() {
            // SAFETY: both ranges were checked by `bytes` and do not overlap; both are the peer's until the reply (invariant).
            unsafe { ptr::copy_nonoverlapping(side.request_block(), side.reply_block(), side.payload_bytes) };
        }
        side.publish(&page.reply, &page.request.payload());
        self.0.sequence = successor(self.0.sequence);
        Ok(())
    }
}

fn words_of(bytes: &[u8; PAYLOAD_BYTES]) -> Payload {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_ne_bytes(words[index]))
}

fn bytes_of(words: &Payload) -> [u8; PAYLOAD_BYTES] {
    let mut bytes = [0; PAYLOAD_BYTES];
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    chunks.iter_mut().zip(words).for_each(|(chunk, word)| *chunk = word.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn payloads_in_a_cell_and_beside_it_come_back_as_they_were() {
        for payload_bytes in [1, 10, PAYLOAD_BYTES, PAYLOAD_BYTES + 1, PAGE_BYTES + 8] {
            for waiting in [Waiting::Spin, Waiting::Park] {
                let mapping = Mapping::create(mapping_bytes(payload_bytes)).expect("there is memory");
                let mut caller = SharedCaller::new(mapping, payload_bytes, waiting);
                let theirs = caller.memfd().try_clone_to_owned().expect("a descriptor");
                let mut peer = SharedPeer::new(Mapping::attach(theirs).expect("mapped"), payload_bytes, waiting);
                thread::scope(|scope| {
                    scope.spawn(move || {
                        for _ in 0..3 {
                            peer.echo().expect("the caller is there");
                        }
                    });
                    for seed in [0, 7, u64::MAX] {
                        let is_right = caller.fill_and_check(seed).expect("the peer is there");
                        assert!(is_right, "{payload_bytes} bytes, {waiting:?}, seed {seed}");
                    }
                });
            }
        }
    }
}
