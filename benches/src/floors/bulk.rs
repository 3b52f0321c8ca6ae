//! Large payloads: a plain copy, and a block filled by one side, summed by the other and answered, over bare memory.
//!
//! Invariant: a block has one user at a time. The caller owns it until it publishes the request, the peer until it
//! publishes the reply; the cells' Release and Acquire order the plain accesses in between.

use std::hint::black_box;
use std::io;
use std::ptr;
use std::slice;

use super::cell::{Cell, FIRST_SEQUENCE, Poisoned, successor};
use super::mapping::{Mapping, Shareable};
use super::peer::Orders;
use super::ping_pong::Waiting;
use super::placement::Pinned;
use super::session::Session;
use super::{Batch, Config, FloorError, Samples, timed, timed_spans};
use crate::interleave::{Series, SeriesError};

pub(super) const ROLE: &str = "bulk";
const TOUCHED: &str = "block filled, summed and answered over a bare mapping";
const COPY: &str = "memcpy";
const COPY_FROM_PEER: &str = "memcpy of a block that the other side has just filled";
/// The blocks begin after the control page.
const BLOCKS_OFFSET: usize = 4096;

/// What a request asks of the peer, in its first payload word.
const SUM: u64 = 1;
const FILL: u64 = 2;

/// Sizes of a large-payload floor. A lane that reuses its blocks in turn touches more memory than one block; the floor
/// it is compared with has to rotate as far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Bytes of one block, a multiple of 64.
    pub block_bytes: usize,
    /// Blocks of shared memory that are used in turn.
    pub sources: usize,
    /// Private blocks that are written in turn by a copy.
    pub destinations: usize,
}

impl Blocks {
    /// One block of 1 MiB, copied to one place.
    pub const ONE_MIB: Self = Self { block_bytes: 1 << 20, sources: 1, destinations: 1 };

    fn check(self) {
        assert!(
            self.block_bytes > 0 && self.block_bytes.is_multiple_of(64) && self.sources > 0 && self.destinations > 0,
            "blocks are multiples of 64 bytes and there is at least one of each: {self:?}"
        );
    }

    fn shared_bytes(self) -> usize {
        BLOCKS_OFFSET + self.block_bytes * self.sources
    }
}

/// Fills `block` with words that follow from `seed`, as fast as memory takes them; the last word may be cut.
pub fn fill(block: &mut [u8], seed: u64) {
    let (words, rest) = block.as_chunks_mut::<8>();
    for (index, word) in words.iter_mut().enumerate() {
        *word = seed.wrapping_add(index as u64).to_le_bytes();
    }
    let last = seed.wrapping_add(words.len() as u64).to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Whether every byte of `block` is as [`fill`] writes it from `seed`. Reads all of it, whatever it finds.
#[must_use]
pub fn is_filled(block: &[u8], seed: u64) -> bool {
    let (words, rest) = block.as_chunks::<8>();
    let mut differing = 0;
    for (index, word) in words.iter().enumerate() {
        differing |= u64::from_le_bytes(*word) ^ seed.wrapping_add(index as u64);
    }
    let last = seed.wrapping_add(words.len() as u64).to_le_bytes();
    differing == 0 && *rest == last[..rest.len()]
}

/// Sums the words of `block`, wrapping.
#[must_use]
pub fn sum(block: &[u8]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |total, word| total.wrapping_add(u64::from_le_bytes(*word)))
}

/// What [`sum`] gives for a block of `block_bytes` that was filled from `seed`.
#[must_use]
pub fn expected_sum(block_bytes: usize, seed: u64) -> u64 {
    let words = (block_bytes / 8) as u64;
    words.wrapping_mul(seed).wrapping_add(words * words.saturating_sub(1) / 2)
}

#[repr(C)]
struct BulkPage {
    request: Cell,
    reply: Cell,
}

// SAFETY: two cells, which are atomics and padding.
unsafe impl Shareable for BulkPage {}

/// The caller's side of the shared blocks.
#[derive(Debug)]
struct Shared {
    session: Session,
    mapping: Mapping,
    blocks: Blocks,
    sequence: u32,
    calls: u64,
}

impl Shared {
    fn open(floor: &'static str, config: &Config, blocks: Blocks) -> Result<Self, FloorError> {
        blocks.check();
        Waiting::Spin.check(floor, config.placement)?;
        let mapping = Mapping::create(blocks.shared_bytes())?;
        let arguments = [blocks.block_bytes.to_string()];
        let session = Session::open(floor, ROLE, config, &[mapping.memfd()], &arguments)?;
        Ok(Self { session, mapping, blocks, sequence: FIRST_SEQUENCE, calls: 0 })
    }
}

/// The state of a round of `Shared`, apart from the session that runs it.
struct Exchange<'a> {
    floor: &'static str,
    mapping: &'a Mapping,
    blocks: Blocks,
    sequence: &'a mut u32,
    calls: &'a mut u64,
}

impl Exchange<'_> {
    /// The block whose turn it is, and its offset.
    fn block(&self) -> (usize, *mut u8) {
        #[allow(clippy::cast_possible_truncation)] // a remainder below a usize
        let index = (*self.calls % self.blocks.sources as u64) as usize;
        let offset = BLOCKS_OFFSET + index * self.blocks.block_bytes;
        (offset, self.mapping.bytes(offset, self.blocks.block_bytes).as_ptr())
    }

    /// Has the peer do `operation` to the block at `offset`; gives its answer.
    fn ask(&mut self, operation: u64, offset: usize, seed: u64) -> Result<u64, FloorError> {
        let page = self.mapping.view::<BulkPage>();
        page.request.publish(*self.sequence, 0, &[operation, offset as u64, seed, 0, 0, 0, 0, 0]);
        page.reply.wait_spinning(*self.sequence).map_err(|Poisoned| FloorError::PeerGone { floor: self.floor })?;
        *self.sequence = successor(*self.sequence);
        *self.calls += 1;
        Ok(page.reply.payload()[0])
    }

    fn expect(&self, expected: u64, answer: u64) -> Result<(), FloorError> {
        if expected == answer {
            return Ok(());
        }
        Err(FloorError::WrongAnswer { floor: self.floor, expected, answer })
    }

    fn fill_and_sum(&mut self) -> Result<(), FloorError> {
        let seed = *self.calls;
        let (offset, address) = self.block();
        // SAFETY: `block` checked the range; the peer leaves the block alone until the request below (invariant).
        fill(unsafe { slice::from_raw_parts_mut(address, self.blocks.block_bytes) }, seed);
        let answer = self.ask(SUM, offset, 0)?;
        self.expect(expected_sum(self.blocks.block_bytes, seed), answer)
    }
}

fn run_round(
    shared: &mut Shared,
    batch: Batch,
    body: impl FnOnce(Exchange<'_>) -> Result<Samples, FloorError>,
) -> Result<Samples, FloorError> {
    let page = shared.mapping.view::<BulkPage>();
    let exchange = Exchange {
        floor: shared.session.floor(),
        mapping: &shared.mapping,
        blocks: shared.blocks,
        sequence: &mut shared.sequence,
        calls: &mut shared.calls,
    };
    shared.session.round(batch.operations(), &|| page.reply.poison(), || body(exchange))
}

/// A block is filled by the caller, summed by the peer, answered and checked; both sides spin.
#[derive(Debug)]
pub struct Touched(Shared);

impl Touched {
    /// Starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; one core is refused.
    pub fn open(config: &Config, blocks: Blocks) -> Result<Self, FloorError> {
        Shared::open(TOUCHED, config, blocks).map(Self)
    }

    /// One round of exchanges.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        run_round(&mut self.0, batch, |mut exchange| timed(batch, || exchange.fill_and_sum()))
    }
}

impl Series for Touched {
    fn label(&self) -> String {
        self.0.session.config().label(TOUCHED)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// Private memory that copies go to, in turn.
#[derive(Debug)]
struct Destinations(Vec<Vec<u8>>);

impl Destinations {
    fn new(blocks: Blocks) -> Self {
        // Filled with something else than zero, so that the pages exist.
        Self(vec![vec![1; blocks.block_bytes]; blocks.destinations])
    }

    fn copy_from(&mut self, source: *const u8, calls: u64) {
        #[allow(clippy::cast_possible_truncation)] // a remainder below a usize
        let index = (calls % self.0.len() as u64) as usize;
        let destination = &mut self.0[index];
        // SAFETY: the source holds `block_bytes`, the length of every destination, and nobody writes it meanwhile
        // (the module's invariant); private and shared memory do not overlap.
        unsafe { ptr::copy_nonoverlapping(source, destination.as_mut_ptr(), destination.len()) };
        black_box(destination.as_ptr());
    }
}

/// A plain copy from shared into private memory, nobody else involved.
#[derive(Debug)]
pub struct Copy {
    config: Config,
    mapping: Mapping,
    blocks: Blocks,
    destinations: Destinations,
    calls: u64,
}

impl Copy {
    /// Makes and fills the memory.
    ///
    /// # Errors
    /// [`FloorError::System`] if there is too little of it.
    pub fn open(config: &Config, blocks: Blocks) -> Result<Self, FloorError> {
        blocks.check();
        let mapping = Mapping::create(blocks.shared_bytes())?;
        for index in 0..blocks.sources {
            let address = mapping.bytes(BLOCKS_OFFSET + index * blocks.block_bytes, blocks.block_bytes);
            // SAFETY: the range was checked by `bytes`; nobody else knows this mapping.
            fill(unsafe { slice::from_raw_parts_mut(address.as_ptr(), blocks.block_bytes) }, index as u64);
        }
        Ok(Self { config: config.clone(), mapping, blocks, destinations: Destinations::new(blocks), calls: 0 })
    }

    /// One round of copies.
    ///
    /// # Errors
    /// [`FloorError::System`] if the thread cannot be pinned.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let _pin = Pinned::to(self.config.placement.caller_cpu())?;
        timed(batch, || {
            #[allow(clippy::cast_possible_truncation)] // a remainder below a usize
            let index = (self.calls % self.blocks.sources as u64) as usize;
            let source = self.mapping.bytes(BLOCKS_OFFSET + index * self.blocks.block_bytes, self.blocks.block_bytes);
            self.destinations.copy_from(source.as_ptr(), self.calls);
            self.calls += 1;
            Ok(())
        })
    }
}

impl Series for Copy {
    fn label(&self) -> String {
        self.config.label(COPY)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// A copy of a block that the other side has filled a moment ago: the lines come from its core. Only the copy is timed.
#[derive(Debug)]
pub struct CopyFromPeer {
    shared: Shared,
    destinations: Destinations,
}

impl CopyFromPeer {
    /// Starts the other side.
    ///
    /// # Errors
    /// Any [`FloorError`]; one core is refused.
    pub fn open(config: &Config, blocks: Blocks) -> Result<Self, FloorError> {
        let shared = Shared::open(COPY_FROM_PEER, config, blocks)?;
        Ok(Self { shared, destinations: Destinations::new(blocks) })
    }

    /// One round of copies.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<Samples, FloorError> {
        let destinations = &mut self.destinations;
        run_round(&mut self.shared, batch, |mut exchange| {
            timed_spans(batch, |clock| {
                let seed = *exchange.calls;
                let (offset, address) = exchange.block();
                let answer = exchange.ask(FILL, offset, seed)?;
                exchange.expect(seed, answer)?;
                let started = clock.ticks();
                destinations.copy_from(address, seed);
                Ok(clock.ticks().saturating_sub(started))
            })
        })
    }
}

impl Series for CopyFromPeer {
    fn label(&self) -> String {
        self.shared.session.config().label(COPY_FROM_PEER)
    }

    fn round(&mut self, batch: Batch) -> Result<Samples, SeriesError> {
        Ok(Self::round(self, batch)?)
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders) -> io::Result<()> {
    let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
    let block_bytes: usize = orders
        .arguments
        .first()
        .and_then(|word| word.to_str()?.parse().ok())
        .ok_or_else(|| io::Error::other("the parent named no block size"))?;
    let page = mapping.view::<BulkPage>();
    let mut sequence = FIRST_SEQUENCE;
    orders.serve(|operations| {
        for _ in 0..operations {
            page.request.wait_spinning(sequence).map_err(|Poisoned| io::Error::other("poisoned"))?;
            let [operation, offset, seed, ..] = page.request.payload();
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let address = mapping.bytes(offset, block_bytes).as_ptr();
            let answer = match operation {
                // SAFETY: `bytes` checked the range; the caller leaves the block alone until the reply below.
                SUM => sum(unsafe { slice::from_raw_parts(address, block_bytes) }),
                FILL => {
                    // SAFETY: as above.
                    fill(unsafe { slice::from_raw_parts_mut(address, block_bytes) }, seed);
                    seed
                }
                other => return Err(io::Error::other(format!("unknown operation {other}"))),
            };
            page.reply.publish(sequence, 0, &[answer, 0, 0, 0, 0, 0, 0, 0]);
            sequence = successor(sequence);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filled_block_sums_to_what_is_expected() {
        for (block_bytes, seed) in [(64, 0), (4096, 7), (1 << 16, u64::MAX - 3)] {
            let mut block = vec![0; block_bytes];
            fill(&mut block, seed);
            assert_eq!(sum(&block), expected_sum(block_bytes, seed), "{block_bytes} bytes from {seed}");
        }
    }

    #[test]
    fn a_filled_block_of_any_length_is_told_from_one_with_any_other_byte() {
        for block_bytes in [0, 1, 7, 8, 10, 64, 1023] {
            let mut block = vec![0; block_bytes];
            fill(&mut block, u64::MAX - 3);
            assert!(is_filled(&block, u64::MAX - 3), "{block_bytes} bytes");
            for index in 0..block_bytes {
                block[index] ^= 1;
                assert!(!is_filled(&block, u64::MAX - 3), "byte {index} of {block_bytes}");
                block[index] ^= 1;
            }
        }
    }
}
