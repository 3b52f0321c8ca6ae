//! A message from one process to the other over bare memory, and one back: half of that is one way. The clock runs from the
//! instant at which a message is built to that at which its receiver has read its first and its last line; building and
//! summing are outside of it, on both sides. Beside it, of the same exchanges: the time until all of it is read.
//!
//! Invariants:
//! 1. Each direction has memory of its own. Its sender owns it from the other direction's hand-over on until its own, then
//!    its receiver does; the cells' Release and Acquire order the plain accesses.
//! 2. What fits beside the peer's two spans travels in the cell itself.
//! 3. Each side takes differences of its own clock readings only. The peer's travel in its answer.

use std::io;
use std::ptr;
use std::slice;

use super::bulk::{expected_sum, fill, sum};
use super::cell::{Cell, FIRST_SEQUENCE, Payload, Poisoned, successor};
use super::mapping::{Mapping, Shareable};
use super::peer::Orders;
use super::ping_pong::Waiting;
use super::session::Session;
use super::{Batch, Clock, Config, FloorError, Samples};

pub(super) const SPIN_ROLE: &str = "one-way-spin";
pub(super) const PARK_ROLE: &str = "one-way-park";
/// Messages begin after the control page.
const MESSAGES_OFFSET: usize = 4096;
/// Words of a cell that say how long the peer took: until it has built, since it read two lines, and since it read all.
const SPANS: usize = 2;
/// Bytes that travel in a cell.
const CARRIED_BYTES_MAX: usize = size_of::<Payload>() - 8 * SPANS;
/// The directions.
const THERE: usize = 0;
const BACK: usize = 1;

#[repr(C)]
struct OneWayPage {
    there: Cell,
    back: Cell,
}

// SAFETY: two cells, which are atomics and padding.
unsafe impl Shareable for OneWayPage {}

/// The messages of both directions.
#[derive(Debug)]
struct Messages<'a> {
    mapping: &'a Mapping,
    message_bytes: usize,
}

impl Messages<'_> {
    fn is_carried(&self) -> bool {
        self.message_bytes <= CARRIED_BYTES_MAX
    }

    fn address(&self, way: usize) -> *mut u8 {
        self.mapping.bytes(MESSAGES_OFFSET + way * self.message_bytes, self.message_bytes).as_ptr()
    }

    /// Builds a message that follows from `seed`; what its cell carries of it.
    #[inline]
    fn build(&self, way: usize, seed: u64) -> Payload {
        let mut payload = [0; _];
        if self.is_carried() {
            let words = payload[SPANS..].iter_mut().take(self.message_bytes / 8).enumerate();
            words.for_each(|(index, word)| *word = seed.wrapping_add(index as u64));
        } else {
            // SAFETY: `bytes` checked the range; this side owns it until the hand-over (invariant 1).
            fill(unsafe { slice::from_raw_parts_mut(self.address(way), self.message_bytes) }, seed);
        }
        payload
    }

    /// Reads the first and the last word: a line each.
    #[inline]
    fn read_ends(&self, way: usize, payload: &Payload) -> [u64; 2] {
        if self.is_carried() {
            return [payload[SPANS], payload[SPANS + self.message_bytes / 8 - 1]];
        }
        let (first, last) = (self.address(way), self.message_bytes - 8);
        // SAFETY: both words lie in the range that `bytes` checked, which is this side's now (invariant 1). Messages are
        // whole words and begin at one.
        unsafe { [ptr::read_volatile(first.cast::<u64>()), ptr::read_volatile(first.add(last).cast::<u64>())] }
    }

    /// Reads all of it.
    #[inline]
    fn read_whole(&self, way: usize, payload: &Payload) -> u64 {
        if self.is_carried() {
            return payload[SPANS..].iter().take(self.message_bytes / 8).fold(0, |sum, word| sum.wrapping_add(*word));
        }
        // SAFETY: as in `read_ends`.
        sum(unsafe { slice::from_raw_parts(self.address(way), self.message_bytes) })
    }

    fn is_right(&self, seed: u64, [first, last]: [u64; 2], total: u64) -> bool {
        let words = (self.message_bytes / 8) as u64;
        first == seed && last == seed.wrapping_add(words - 1) && total == expected_sum(self.message_bytes, seed)
    }
}

/// Hands a message over.
#[inline(always)]
fn publish(cell: &Cell, waiting: Waiting, sequence: u32, payload: &Payload) {
    cell.publish(sequence, 0, payload);
    if waiting == Waiting::Park {
        cell.wake();
    }
}

#[inline(always)]
fn wait(cell: &Cell, waiting: Waiting, sequence: u32) -> Result<(), Poisoned> {
    match waiting {
        Waiting::Spin => cell.wait_spinning(sequence),
        Waiting::Park => cell.wait_parked(sequence),
    }
}

/// The floor, open for rounds.
#[derive(Debug)]
pub struct OneWay {
    session: Session,
    mapping: Mapping,
    waiting: Waiting,
    message_bytes: usize,
    sequence: u32,
    sent: u64,
}

impl OneWay {
    /// Starts the other side for messages of so many bytes, rounded up to whole words.
    ///
    /// # Errors
    /// Any [`FloorError`]; spinning on one core is refused.
    pub fn open(waiting: Waiting, config: &Config, message_bytes: usize) -> Result<Self, FloorError> {
        let (name, role) = match waiting {
            Waiting::Spin => ("one way over a bare mapping, both spin", SPIN_ROLE),
            Waiting::Park => ("one way over a bare mapping, both park on a futex", PARK_ROLE),
        };
        waiting.check(name, config.placement)?;
        let message_bytes = message_bytes.max(1).next_multiple_of(8);
        let mapping = Mapping::create(MESSAGES_OFFSET + 2 * message_bytes)?;
        let session = Session::open(name, role, config, &[mapping.memfd()], &[message_bytes.to_string()])?;
        Ok(Self { session, mapping, waiting, message_bytes, sequence: FIRST_SEQUENCE, sent: 0 })
    }

    /// One round: one way until both ends of a message are read, and one way until all of it is.
    ///
    /// # Errors
    /// Any [`FloorError`], after which the floor is spent.
    pub fn round(&mut self, batch: Batch) -> Result<[Samples; 2], FloorError> {
        let floor = self.session.floor();
        let messages = Messages { mapping: &self.mapping, message_bytes: self.message_bytes };
        let page = self.mapping.view::<OneWayPage>();
        let (waiting, sequence, sent) = (self.waiting, &mut self.sequence, &mut self.sent);
        let mut whole = Samples::empty(1);
        let ends = self.session.round(batch.operations(), &|| page.back.poison(), || {
            let (clock, mut ends) = (Clock::calibrated(), Samples::empty(1));
            for operation in 0..batch.operations() {
                *sent += 1;
                let payload = messages.build(THERE, *sent);
                let begun = clock.ticks();
                publish(&page.there, waiting, *sequence, &payload);
                wait(&page.back, waiting, *sequence).map_err(|Poisoned| FloorError::PeerGone { floor })?;
                let payload = page.back.payload();
                let seen = messages.read_ends(BACK, &payload);
                let read_ends = clock.ticks();
                let total = messages.read_whole(BACK, &payload);
                let read_whole = clock.ticks();
                if !messages.is_right(!*sent, seen, total) {
                    return Err(FloorError::WrongAnswer { floor, expected: !*sent, answer: seen[0] });
                }
                *sequence = successor(*sequence);
                if operation >= batch.warm_up {
                    let half = |end: u64, theirs| clock.ns(end.saturating_sub(begun).saturating_sub(theirs) / 2);
                    ends.record(half(read_ends, payload[0]));
                    whole.record(half(read_whole, payload[1]));
                }
            }
            Ok(ends)
        })?;
        Ok([ends, whole])
    }
}

/// The peer's side.
pub(super) fn serve(mut orders: Orders, waiting: Waiting) -> io::Result<()> {
    let mapping = Mapping::attach(orders.take_fd()?).map_err(io::Error::other)?;
    let message_bytes = orders
        .arguments
        .first()
        .and_then(|word| word.to_str()?.parse().ok())
        .ok_or_else(|| io::Error::other("the parent named no size of messages"))?;
    let messages = Messages { mapping: &mapping, message_bytes };
    let page = mapping.view::<OneWayPage>();
    let (clock, mut sequence, mut received) = (Clock::calibrated(), FIRST_SEQUENCE, 0_u64);
    orders.serve(|operations| {
        for _ in 0..operations {
            wait(&page.there, waiting, sequence).map_err(|Poisoned| io::Error::other("poisoned"))?;
            let payload = page.there.payload();
            let seen = messages.read_ends(THERE, &payload);
            let read_ends = clock.ticks();
            let total = messages.read_whole(THERE, &payload);
            let read_whole = clock.ticks();
            received += 1;
            if !messages.is_right(received, seen, total) {
                return Err(io::Error::other(format!("message {received} is another one")));
            }
            let mut payload = messages.build(BACK, !received);
            let built = clock.ticks();
            payload[0] = built.saturating_sub(read_ends);
            payload[1] = built.saturating_sub(read_whole);
            publish(&page.back, waiting, sequence, &payload);
            sequence = successor(sequence);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_their_seed_says_and_nothing_else() {
        for message_bytes in [8, 16, CARRIED_BYTES_MAX, CARRIED_BYTES_MAX + 8, 1 << 16] {
            let mapping = Mapping::create(MESSAGES_OFFSET + 2 * message_bytes).expect("there is memory");
            let messages = Messages { mapping: &mapping, message_bytes };
            for (way, seed) in [(THERE, 7), (BACK, !7)] {
                let payload = messages.build(way, seed);
                let (ends, total) = (messages.read_ends(way, &payload), messages.read_whole(way, &payload));
                assert!(messages.is_right(seed, ends, total), "{message_bytes} bytes from {seed}");
                assert!(!messages.is_right(seed + 1, ends, total), "{message_bytes} bytes");
                assert!(!messages.is_right(seed, ends, total + 1), "{message_bytes} bytes");
            }
        }
    }
}
