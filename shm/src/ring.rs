//! The request ring: entries that are themselves the queue, published by one client and claimed by many workers.
//!
//! An entry is two cache lines: a word, the request's header, and up to 64 bytes of payload. The word is
//! (turn, tag): the turn counts how often the entry was used, the tag says who has it. A worker polls the very word that
//! the client publishes, so a request costs one transfer of cache lines.
//!
//! The word lies at the end of the second line, behind the payload, and the header in the first, which nobody polls: each
//! store to a line that is polled may have to fetch it anew.
//!
//! ```text
//!  (t, FREE) --client: fill, Release--> (t, PUBLISHED) --worker/server/client: CAS--> (t, holder) --holder--> (t+1, FREE)
//! ```
//!
//! Memory: entries lie in the lane segment, which the client, every worker and the server may write at any time. The
//! client's tail and a worker's cursor are private to each.
//!
//! Invariants, for peers that keep the protocol:
//! 1. Only the client moves an entry from FREE to PUBLISHED, in order of positions; position p is entry p mod N, turn p / N.
//! 2. An entry leaves PUBLISHED by one successful CAS only, so each request is taken once: by a worker, by the server (to
//!    refuse it) or by the client (to retract it).
//! 3. Whoever took it copies what it needs before it frees the entry; nobody else writes the entry meanwhile.
//! 4. A cursor never passes a position that is published and not taken. An entry seen at turn t' proves only that
//!    everything up to (t'-2)·N + i is taken, so a late cursor moves to the position after that, never further.
//! 5. A tag is written by its owner; a dead worker's is resolved by the server (see [`crate::server_lane`]).
//!
//! A peer that breaks the protocol can lose, repeat or reorder requests of its own lane, and nothing else: each read is
//! bounded, each loop has a limit, and what is read is checked by [`crate::request`].

use crate::sync::{AtomicU64, Ordering, prefetch_for_read, prefetch_for_write};
use crate::tag::WorkerTag;

/// Words of inline payload in an entry.
#[cfg(not(loom))]
pub(crate) const INLINE_WORDS: usize = praas_protocol::limits::REQUEST_INLINE_BYTES / 8;
#[cfg(loom)]
pub(crate) const INLINE_WORDS: usize = 1;

const FREE: u32 = 0;
const PUBLISHED: u32 = 1;
/// Tag of the server while it refuses a request.
pub(crate) const SERVER: u32 = 2;
/// Tag of the client while it retracts its own request.
pub(crate) const CLIENT: u32 = 3;

/// One request in the ring. All fields are claims of the client until checked.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// [`praas_protocol::FunctionId`].
    pub(crate) function: AtomicU64,
    /// Reply cell (low half) and its generation (high half).
    pub(crate) target: AtomicU64,
    /// Payload bytes (low half) and block offset (high half, `u32::MAX` for inline).
    pub(crate) payload: AtomicU64,
    /// Time remaining when published, in nanoseconds; 0 for none.
    pub(crate) deadline_ns: AtomicU64,
    /// Root id; zero for a root call.
    pub(crate) root: [AtomicU64; 2],
    /// The CPU that the client ran on (low half), and flags of the request (high half).
    pub(crate) cpu: AtomicU64,
    /// Payload of up to 64 bytes.
    pub(crate) inline: [AtomicU64; INLINE_WORDS],
    /// (turn, tag). Released by the client in [`Producer::publish`], acquired in [`claim`].
    word: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<Entry>() == 128);
    assert!(offset_of!(Entry, function) == 0);
    assert!(offset_of!(Entry, target) == 8);
    assert!(offset_of!(Entry, payload) == 16);
    assert!(offset_of!(Entry, deadline_ns) == 24);
    assert!(offset_of!(Entry, root) == 32);
    assert!(offset_of!(Entry, cpu) == 48);
    assert!(offset_of!(Entry, inline) == 56);
    assert!(offset_of!(Entry, word) == 120);
};

const fn word(turn: u32, tag: u32) -> u64 {
    (turn as u64) << 32 | tag as u64
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The turn and the index of a position; turns wrap.
#[allow(clippy::cast_possible_truncation, reason = "the index is masked, and turns count modulo 2^32")]
fn place(position: u64, entries: usize) -> (u32, usize) {
    ((position >> entries.trailing_zeros()) as u32, (position & (entries as u64 - 1)) as usize)
}

/// The client's private end of the ring.
#[derive(Debug, Default)]
pub(crate) struct Producer {
    tail: u64,
    /// The next entry was seen free, and only this producer changes a free one.
    next_is_free: bool,
}

/// The next entry is still held by whoever took its last request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RingFull;

impl Producer {
    /// Asks for the entry of the next request; see [`prefetch`].
    #[inline]
    pub(crate) fn prefetch_next(&self, entries: &[Entry]) {
        prefetch(entries, self.tail);
    }

    /// Asks for the first line of the next request's entry: nobody polls that one.
    #[inline]
    pub(crate) fn prefetch_header(&self, entries: &[Entry]) {
        prefetch_for_write(&entries[place(self.tail, entries.len()).1].function);
    }

    /// A producer whose first position is `position`: a fresh ring starts at 0.
    #[cfg(test)]
    pub(crate) fn starting_at(position: u64) -> Self {
        Self { tail: position, next_is_free: false }
    }

    /// Fills the next entry and publishes it; returns its position.
    #[inline]
    pub(crate) fn publish(&mut self, entries: &[Entry], fill: impl FnOnce(&Entry)) -> Result<u64, RingFull> {
        let (turn, index) = place(self.tail, entries.len());
        let entry = &entries[index];
        if !std::mem::take(&mut self.next_is_free) && !is_free(entry, turn) {
            return Err(RingFull);
        }
        fill(entry);
        // Release pairs with the Acquire in `claim`.
        entry.word.store(word(turn, PUBLISHED), Ordering::Release);
        let position = self.tail;
        self.tail = self.tail.wrapping_add(1);
        Ok(position)
    }

    /// Looks whether the entry of the next request is free, while the line of the last one is on its way: just before a request
    /// is published that load would be a transfer of its own, and the store that publishes a second one. For one request at a
    /// time; with several on their way, [`Producer::prefetch_next`] has the line in time.
    #[inline]
    pub(crate) fn look_ahead(&mut self, entries: &[Entry]) {
        let (turn, index) = place(self.tail, entries.len());
        self.next_is_free = is_free(&entries[index], turn);
    }
}

/// Whether an entry is free at its `turn`. Acquire pairs with the Release in [`Taken::free`]: whoever held the entry has
/// finished reading it.
#[inline]
fn is_free(entry: &Entry, turn: u32) -> bool {
    entry.word.load(Ordering::Acquire) == word(turn, FREE)
}

/// An entry that the holder took and must free.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    /// The entry, to be read before it is freed.
    pub(crate) entry: &'a Entry,
    turn: u32,
}

impl Taken<'_> {
    /// Gives the entry back to the client for its next turn.
    #[inline]
    pub(crate) fn free(self) {
        // Release pairs with the Acquire in `publish`.
        self.entry.word.store(word(self.turn.wrapping_add(1), FREE), Ordering::Release);
    }
}

/// How far ahead of a cursor an entry is that its last holder has not freed: one turn behind. No cursor is further ahead
/// (invariant 4), so any other distance, however large, is that of a cursor that slept or started late.
const BEHIND: u32 = u32::MAX;

/// What a poll of the ring found.
#[derive(Debug)]
pub(crate) enum Polled<'a> {
    /// A request, now the caller's.
    Taken(Taken<'a>),
    /// Nothing is published at or after the cursor.
    Empty,
    /// The scan's limit was reached; poll again.
    Unsure,
}

/// Takes the next published request for `tag`, moving the private `cursor` on.
#[inline]
pub(crate) fn claim<'a>(entries: &'a [Entry], cursor: &mut u64, tag: WorkerTag) -> Polled<'a> {
    claim_and(entries, cursor, tag, || ())
}

/// The same. Before a request is taken, `meanwhile` asks for other lines that are needed soon: they come while this one does.
#[inline]
pub(crate) fn claim_and<'a>(
    entries: &'a [Entry],
    cursor: &mut u64,
    tag: WorkerTag,
    meanwhile: impl Fn(),
) -> Polled<'a> {
    for _ in 0..scan_limit(entries) {
        let (mine, index) = place(*cursor, entries.len());
        let entry = &entries[index];
        let seen = entry.word.load(Ordering::Acquire);
        let (turn, holder) = parts(seen);
        let ahead = turn.wrapping_sub(mine);
        if ahead == BEHIND || ahead == 0 && holder == FREE {
            return Polled::Empty;
        }
        if holder == PUBLISHED {
            // The header's line comes while the CAS waits for this one: loads behind a CAS wait for it.
            prefetch_for_read(&entry.function);
            meanwhile();
            let claimed = word(turn, tag.word());
            if entry.word.compare_exchange(seen, claimed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            *cursor = after(*cursor, ahead, entries.len());
            return Polled::Taken(Taken { entry, turn });
        }
        *cursor = after(*cursor, ahead, entries.len());
    }
    Polled::Unsure
}

/// Steps after which a scan of the ring ends. A cursor is at most three laps behind the tail (invariant 4), so a scan that
/// reaches this limit has passed requests that were published after it began: or the client has spoiled the ring.
fn scan_limit(entries: &[Entry]) -> usize {
    4 * entries.len() + 4
}

/// Whether [`claim`] would find a request, moving the cursor over what others took.
///
/// A scan that ends unsure counts as no, so that a client that spoils its ring cannot keep a worker from sleeping. Nothing
/// is lost by it: whatever still lies there was published after the caller's fence, so its client sees the caller's bits.
pub(crate) fn has_work(entries: &[Entry], cursor: &mut u64) -> bool {
    for _ in 0..scan_limit(entries) {
        let (mine, index) = place(*cursor, entries.len());
        let (turn, holder) = parts(entries[index].word.load(Ordering::Acquire));
        let ahead = turn.wrapping_sub(mine);
        if ahead == BEHIND || ahead == 0 && holder == FREE {
            return false;
        }
        if holder == PUBLISHED {
            return true;
        }
        *cursor = after(*cursor, ahead, entries.len());
    }
    false
}

/// Where the cursor of a worker begins that joins now: at the oldest position that may be unclaimed.
///
/// Entries are read one after another while others move them on. What is read late can only be further ahead, so the
/// smallest of what was read is never beyond what is unclaimed.
pub(crate) fn oldest_unclaimed(entries: &[Entry]) -> u64 {
    let word_of = |entry: &Entry| parts(entry.word.load(Ordering::Acquire));
    // Turns wrap: they are compared by their distance from one that no entry of an honest ring is behind.
    let base = word_of(&entries[0]).0.wrapping_sub(2);
    let next_of = |(index, entry): (usize, &Entry)| {
        let (turn, holder) = word_of(entry);
        let taken = u32::from(!matches!(holder, FREE | PUBLISHED));
        u64::from(turn.wrapping_add(taken).wrapping_sub(base)) * entries.len() as u64 + index as u64
    };
    let nearest = entries.iter().enumerate().map(next_of).min().unwrap_or(0);
    (u64::from(base) * entries.len() as u64).wrapping_add(nearest)
}

/// The position to look at after one whose entry is `ahead` turns further than the cursor (invariant 4).
#[inline]
fn after(cursor: u64, ahead: u32, entries: usize) -> u64 {
    let jump = u64::from(ahead.saturating_sub(2)) * entries as u64;
    cursor.wrapping_add(jump + 1)
}

/// Takes the request at `position` back, if nobody has taken it; used by the client on its own requests.
pub(crate) fn retract(entries: &[Entry], position: u64) -> bool {
    let (turn, index) = place(position, entries.len());
    take_published(&entries[index], turn, CLIENT).map(Taken::free).is_some()
}

/// Whether the request at `position` is still published and not taken.
pub(crate) fn is_unclaimed(entries: &[Entry], position: u64) -> bool {
    let (turn, index) = place(position, entries.len());
    entries[index].word.load(Ordering::Acquire) == word(turn, PUBLISHED)
}

/// The function of the request at `cursor`, if one is published there. A claim of the client's: good for a guess.
#[inline]
pub(crate) fn function_at(entries: &[Entry], cursor: u64) -> Option<u64> {
    let (turn, index) = place(cursor, entries.len());
    let entry = &entries[index];
    (entry.word.load(Ordering::Acquire) == word(turn, PUBLISHED)).then(|| entry.function.load(Ordering::Relaxed))
}

/// How many requests are published and not taken.
pub(crate) fn unclaimed(entries: &[Entry]) -> u32 {
    entries.iter().map(|entry| u32::from(parts(entry.word.load(Ordering::Acquire)).1 == PUBLISHED)).sum()
}

/// The turn of an entry that is published, so that it can be read, judged and then taken by [`take_published`].
pub(crate) fn published_turn(entry: &Entry) -> Option<u32> {
    let (turn, holder) = parts(entry.word.load(Ordering::Acquire));
    (holder == PUBLISHED).then_some(turn)
}

/// Takes an entry that was seen published at `turn`, unless somebody was faster.
pub(crate) fn take_published(entry: &Entry, turn: u32, holder: u32) -> Option<Taken<'_>> {
    let (from, to) = (word(turn, PUBLISHED), word(turn, holder));
    entry.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).ok()?;
    Some(Taken { entry, turn })
}

/// The entry, if a worker with this tag took it and never freed it. For the server, once that worker is dead.
pub(crate) fn left_by(entry: &Entry, tag: WorkerTag) -> Option<Taken<'_>> {
    let (turn, holder) = parts(entry.word.load(Ordering::Acquire));
    (holder == tag.word()).then_some(Taken { entry, turn })
}

#[cfg(all(test, not(loom)))]
impl Entry {
    /// Makes this the entry of a ring that has reached `turn`.
    pub(crate) fn free_at(&self, turn: u32) {
        self.word.store(word(turn, FREE), Ordering::Relaxed);
    }
}

impl Entry {
    /// Asks for both lines of the entry, to be written soon.
    #[inline]
    fn prefetch(&self) {
        prefetch_for_write(&self.function);
        prefetch_for_write(&self.word);
    }
}

/// Asks for the entry at `position`: worth it where several requests are on their way, so that it will be used soon. With
/// one request at a time it only takes the lines from the side that uses them next.
#[inline]
pub(crate) fn prefetch(entries: &[Entry], position: u64) {
    entries[place(position, entries.len()).1].prefetch();
}

#[cfg(any(test, loom))]
impl Entry {
    /// An entry outside shared memory, for tests and models.
    pub(crate) fn new(turn: u32) -> Self {
        Self {
            function: AtomicU64::new(0),
            target: AtomicU64::new(0),
            payload: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(0),
            root: [AtomicU64::new(0), AtomicU64::new(0)],
            cpu: AtomicU64::new(0),
            inline: std::array::from_fn(|_| AtomicU64::new(0)),
            word: AtomicU64::new(word(turn, FREE)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ENTRIES: usize = 4;
    const WORKER: WorkerTag = WorkerTag::new(0, 1);
    const OTHER: WorkerTag = WorkerTag::new(1, 1);

    /// A ring whose entries are about to be used at the turn of `position`.
    fn ring(position: u64) -> Vec<Entry> {
        let (turn, index) = place(position, ENTRIES);
        (0..ENTRIES).map(|entry| Entry::new(turn.wrapping_add(u32::from(entry < index)))).collect()
    }

    fn publish(producer: &mut Producer, entries: &[Entry], value: u64) -> Result<u64, RingFull> {
        producer.publish(entries, |entry| entry.function.store(value, Ordering::Relaxed))
    }

    fn take(entries: &[Entry], cursor: &mut u64, tag: WorkerTag) -> Option<u64> {
        match claim(entries, cursor, tag) {
            Polled::Taken(taken) => {
                let value = taken.entry.function.load(Ordering::Relaxed);
                taken.free();
                Some(value)
            }
            Polled::Empty => None,
            Polled::Unsure => panic!("the scan ended unsure"),
        }
    }

    #[test]
    fn requests_come_out_in_order_across_the_wrap_of_turns() {
        let start = (u64::from(u32::MAX) * ENTRIES as u64) - 3;
        let entries = ring(start);
        let (mut producer, mut cursor) = (Producer::starting_at(start), start);
        for value in 0..40 {
            publish(&mut producer, &entries, value).unwrap();
            assert_eq!(take(&entries, &mut cursor, WORKER), Some(value));
            assert_eq!(take(&entries, &mut cursor, WORKER), None);
        }
    }

    #[test]
    fn a_full_ring_refuses_until_an_entry_is_freed() {
        let entries = ring(0);
        let (mut producer, mut cursor) = (Producer::default(), 0);
        for value in 0..ENTRIES as u64 {
            publish(&mut producer, &entries, value).unwrap();
        }
        assert_eq!(publish(&mut producer, &entries, 9), Err(RingFull));
        assert_eq!(take(&entries, &mut cursor, WORKER), Some(0));
        publish(&mut producer, &entries, 9).unwrap();
        for value in [1, 2, 3, 9] {
            assert_eq!(take(&entries, &mut cursor, WORKER), Some(value));
        }
    }

    #[test]
    fn a_worker_that_slept_for_many_laps_misses_nothing() {
        for laps in 0..6 {
            for extra in 0..ENTRIES as u64 {
                let entries = ring(0);
                let (mut producer, mut awake, mut late) = (Producer::default(), 0, 0);
                for value in 0..laps * ENTRIES as u64 + extra {
                    publish(&mut producer, &entries, value).unwrap();
                    assert_eq!(take(&entries, &mut awake, WORKER), Some(value));
                }
                for value in 100..100 + ENTRIES as u64 {
                    publish(&mut producer, &entries, value).unwrap();
                }
                let mut seen = Vec::new();
                while let Some(value) = take(&entries, &mut late, OTHER) {
                    seen.push(value);
                }
                seen.sort_unstable();
                assert_eq!(seen, (100..100 + ENTRIES as u64).collect::<Vec<_>>(), "laps {laps} extra {extra}");
            }
        }
    }

    #[test]
    fn a_worker_that_joins_begins_at_the_oldest_request() {
        for start in [0, 1, 5, 4096, u64::from(u32::MAX) * ENTRIES as u64 - 2] {
            for lead in 0..=ENTRIES as u64 {
                let entries = ring(start);
                let (mut producer, mut cursor) = (Producer::starting_at(start), start);
                // One taken and freed, one taken and held, as far as there are any; the rest unclaimed.
                (0..lead).for_each(|value| drop(publish(&mut producer, &entries, value)));
                let freed = take(&entries, &mut cursor, WORKER);
                let held = claim(&entries, &mut cursor, WORKER);
                let mut joined = oldest_unclaimed(&entries);
                let expected =
                    start + lead.min(if matches!(held, Polled::Taken(_)) { 2 } else { freed.map_or(0, |_| 1) });
                assert_eq!(place(joined, ENTRIES), place(expected, ENTRIES), "start {start} lead {lead}");
                for value in 2..lead {
                    assert_eq!(take(&entries, &mut joined, OTHER), Some(value));
                }
                assert_eq!(take(&entries, &mut joined, OTHER), None);
            }
        }
    }

    #[test]
    fn an_entry_held_by_a_slow_worker_is_not_skipped_by_a_late_one() {
        let entries = ring(0);
        let (mut producer, mut fast, mut slow) = (Producer::default(), 0, 0);
        // The slow worker holds position 1 while the fast one runs ahead as far as the ring allows.
        for value in 0..4 {
            publish(&mut producer, &entries, value).unwrap();
        }
        assert_eq!(take(&entries, &mut fast, WORKER), Some(0));
        let Polled::Taken(held) = claim(&entries, &mut slow, OTHER) else { panic!("nothing to hold") };
        assert_eq!(held.entry.function.load(Ordering::Relaxed), 1);
        assert_eq!(take(&entries, &mut fast, WORKER), Some(2));
        assert_eq!(take(&entries, &mut fast, WORKER), Some(3));
        publish(&mut producer, &entries, 4).unwrap();
        assert_eq!(publish(&mut producer, &entries, 5), Err(RingFull));
        assert_eq!(take(&entries, &mut fast, WORKER), Some(4));
        held.free();
        publish(&mut producer, &entries, 5).unwrap();
        assert_eq!(take(&entries, &mut slow, OTHER), Some(5));
        assert_eq!(take(&entries, &mut fast, WORKER), None);
    }

    #[test]
    fn any_word_that_a_hostile_client_writes_ends_the_scan() {
        for tag in [0, 1, 2, 3, WORKER.word(), u32::MAX] {
            for turn in [0, 1, 2, 3, 7, u32::MAX / 2, u32::MAX / 2 + 1, u32::MAX - 1, u32::MAX] {
                for index in 0..ENTRIES {
                    let entries = ring(0);
                    entries[index].word.store(word(turn, tag), Ordering::Relaxed);
                    let mut cursor = 0;
                    let mut polls = 0;
                    while let Polled::Taken(taken) = claim(&entries, &mut cursor, WORKER) {
                        taken.free();
                        polls += 1;
                        assert!(polls < 10 * ENTRIES, "turn {turn} tag {tag} index {index}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_retracted_request_is_taken_by_nobody() {
        let entries = ring(0);
        let (mut producer, mut cursor) = (Producer::default(), 0);
        let first = publish(&mut producer, &entries, 1).unwrap();
        publish(&mut producer, &entries, 2).unwrap();
        assert!(is_unclaimed(&entries, first) && retract(&entries, first));
        assert!(!retract(&entries, first));
        assert_eq!(take(&entries, &mut cursor, WORKER), Some(2));
    }
}
