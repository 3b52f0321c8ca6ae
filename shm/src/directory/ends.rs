//! The server's end of a directory, and a worker's.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use praas_protocol::control::ProcessState;

use super::listing::{ListedProcess, Listing};
use super::table::{Entry, Head, Table, places};
use super::{DIRECTORY_ENTRIES_MAX, RECENT_CHANGES};
use crate::segment::{AttachError, Segment};
use crate::sync::{Ordering, sleep_low_half, wake_low_half};

const MAGIC: u64 = u64::from_le_bytes(*b"praasdir");
const VERSION: u32 = 2;
const KIND: &str = "directory of processes";

fn table(segment: &Segment) -> Table<'_> {
    // SAFETY: `Head` is atomics only and the only type in its place.
    let head: &Head = unsafe { segment.place(0) };
    // SAFETY: atomics, and the only type in their place.
    let recent = unsafe { segment.table(places::RECENT, RECENT_CHANGES) };
    // SAFETY: `Entry` is atomics only and the only type in this place.
    let entries: &[Entry] = unsafe { segment.table(places::ENTRIES, DIRECTORY_ENTRIES_MAX) };
    Table { head, recent, entries }
}

/// A process's place in its directory, given back by [`Directory::leave`].
#[derive(Debug, PartialEq, Eq)]
pub struct DirectorySlot(usize);

/// The directory lists as many processes as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the directory lists {DIRECTORY_ENTRIES_MAX} processes already: stop some")]
pub struct DirectoryFull;

/// The server's end: the only writer.
#[derive(Debug)]
pub struct Directory {
    segment: Segment,
    changes: u64,
    /// Slots that were taken once are below this.
    slots: usize,
    /// Those of them that are free.
    free: BTreeSet<usize>,
}

impl Directory {
    /// A directory of no processes.
    ///
    /// # Errors
    /// The system's, for want of descriptors or memory.
    pub fn create() -> io::Result<Self> {
        let segment = Segment::create_sole_writer("praas-directory", places::SEGMENT_BYTES)?;
        let head = table(&segment).head;
        head.version.store(VERSION, Ordering::Relaxed);
        // Release pairs with the Acquire in `DirectoryView::attach`.
        head.magic.store(MAGIC, Ordering::Release);
        Ok(Self { segment, changes: 0, slots: 0, free: BTreeSet::new() })
    }

    /// The descriptor for workers.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Lists a process. Low slots first, so that a list that shrinks becomes short again.
    ///
    /// # Errors
    /// [`DirectoryFull`].
    pub fn enter(&mut self, process: ListedProcess) -> Result<DirectorySlot, DirectoryFull> {
        let slot = match self.free.pop_first() {
            Some(slot) => slot,
            None if self.slots < DIRECTORY_ENTRIES_MAX => {
                self.slots += 1;
                self.bound_slots();
                self.slots - 1
            }
            None => return Err(DirectoryFull),
        };
        let change = self.next_change();
        table(&self.segment).enter(change, slot, process);
        Ok(DirectorySlot(slot))
    }

    /// Shows another state of a listed process.
    pub fn set(&mut self, slot: &DirectorySlot, state: ProcessState) {
        let change = self.next_change();
        table(&self.segment).set(change, slot.0, state);
    }

    /// Takes a process out of the list.
    pub fn leave(&mut self, DirectorySlot(slot): DirectorySlot) {
        let change = self.next_change();
        table(&self.segment).leave(change, slot);
        self.free.insert(slot);
        while self.slots > 0 && self.free.remove(&(self.slots - 1)) {
            self.slots -= 1;
        }
        self.bound_slots();
    }

    /// Wakes all who wait for a change: to be called after one, or after several.
    pub fn wake(&self) {
        wake_low_half(&table(&self.segment).head.changes);
    }

    fn next_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    fn bound_slots(&self) {
        table(&self.segment).bound_slots(u32::try_from(self.slots).expect("as many as there are entries"));
    }
}

/// A worker's end: reads only.
#[derive(Debug)]
pub struct DirectoryView {
    segment: Segment,
}

impl DirectoryView {
    /// The directory behind a descriptor from the server.
    ///
    /// # Errors
    /// [`AttachError`] when it is not a directory of this version.
    pub fn attach(fd: OwnedFd) -> Result<Self, AttachError> {
        let segment = Segment::attach_read_only(fd, places::SEGMENT_BYTES)?;
        let head = table(&segment).head;
        let magic = head.magic.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(AttachError::Magic { kind: KIND, actual: magic });
        }
        let version = head.version.load(Ordering::Relaxed);
        if version != VERSION {
            return Err(AttachError::Version { kind: KIND, actual: version, expected: VERSION });
        }
        Ok(Self { segment })
    }

    /// The number of the last change.
    #[must_use]
    #[inline]
    pub fn changes(&self) -> u64 {
        table(&self.segment).changes()
    }

    /// Brings a copy that was made from this directory up to date. It makes no system call and waits for nobody.
    pub fn follow(&self, listing: &mut Listing) {
        table(&self.segment).follow(listing);
    }

    /// Sleeps until there is a change after the one of this number, at most for `timeout`. Returns early at will.
    pub fn wait_for_change(&self, after: u64, timeout: Duration) {
        let changes = &table(&self.segment).head.changes;
        sleep_low_half(changes, after, timeout);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Instant;

    use praas_protocol::Name;

    use super::*;

    fn process(name: &str, state: ProcessState) -> ListedProcess {
        ListedProcess { name: name.parse().unwrap(), state }
    }

    /// A name that says its number, of a length that depends on it.
    fn numbered(number: u64) -> Name {
        format!("{number:0width$}", width = 8 + usize::try_from(number % 56).unwrap()).parse().unwrap()
    }

    fn view(directory: &Directory) -> DirectoryView {
        DirectoryView::attach(directory.fd().try_clone_to_owned().unwrap()).unwrap()
    }

    fn seen(view: &DirectoryView, listing: &mut Listing) -> Vec<(String, ProcessState)> {
        view.follow(listing);
        listing.iter().map(|process| (process.name.to_string(), process.state)).collect()
    }

    #[test]
    fn what_the_server_lists_is_what_workers_see() {
        let mut directory = Directory::create().unwrap();
        let (view, mut listing) = (view(&directory), Listing::default());
        assert_eq!((seen(&view, &mut listing), listing.change()), (vec![], 0));
        let alice = directory.enter(process("alice", ProcessState::Creating)).unwrap();
        let bob = directory.enter(process("bob", ProcessState::Active)).unwrap();
        directory.set(&alice, ProcessState::Active);
        let active = |name: &str| (name.to_owned(), ProcessState::Active);
        assert_eq!(seen(&view, &mut listing), [active("alice"), active("bob")]);
        assert_eq!((listing.change(), view.changes()), (3, 3));
        directory.leave(alice);
        directory.set(&bob, ProcessState::Idle);
        assert_eq!(seen(&view, &mut listing), [("bob".to_owned(), ProcessState::Idle)]);
        let longest = "z".repeat(63);
        let carol = directory.enter(process(&longest, ProcessState::Failed)).unwrap();
        let list = [(longest, ProcessState::Failed), ("bob".to_owned(), ProcessState::Idle)];
        assert_eq!(seen(&view, &mut listing), list, "a free slot was used again");
        assert_eq!(seen(&view, &mut Listing::default()), list, "who comes later sees the same");
        directory.leave(bob);
        directory.leave(carol);
        assert_eq!(seen(&view, &mut listing), []);
    }

    #[test]
    fn a_full_directory_refuses_one_more_and_an_emptied_one_is_short_again() {
        let mut directory = Directory::create().unwrap();
        let (view, mut follower) = (view(&directory), Listing::default());
        let mut slots = Vec::new();
        for number in 0..DIRECTORY_ENTRIES_MAX as u64 {
            slots.push(directory.enter(ListedProcess { name: numbered(number), state: ProcessState::Active }).unwrap());
            if number % 997 == 0 {
                view.follow(&mut follower);
                assert_eq!(follower.iter().count() as u64, number + 1);
            }
        }
        assert_eq!(directory.enter(process("one-more", ProcessState::Active)), Err(DirectoryFull));
        for listing in [&mut follower, &mut Listing::default()] {
            view.follow(listing);
            let names: BTreeSet<_> = listing.iter().map(|process| process.name).collect();
            assert_eq!(names.len(), DIRECTORY_ENTRIES_MAX);
        }
        // Every second first, so that slots become free in the middle.
        let (even, odd): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| slot.0 % 2 == 0);
        even.into_iter().chain(odd).for_each(|slot| directory.leave(slot));
        view.follow(&mut follower);
        assert_eq!((follower.iter().count(), follower.slots.len(), directory.slots), (0, 0, 0));
        assert!(directory.enter(process("one-more", ProcessState::Active)).is_ok());
    }

    #[test]
    fn readers_never_see_a_mixture_while_processes_come_and_go() {
        const WINDOW: u64 = 700;
        const CHANGES: u64 = 60_000;
        let mut directory = Directory::create().unwrap();
        let enter = |directory: &mut Directory, number| {
            directory.enter(ListedProcess { name: numbered(number), state: ProcessState::Active }).unwrap()
        };
        let mut window: std::collections::VecDeque<_> =
            (0..WINDOW).map(|number| enter(&mut directory, number)).collect();
        let views = [view(&directory), view(&directory)];
        let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for view in &views {
                let (over, looks) = (&over, &looks);
                scope.spawn(move || {
                    let mut listing = Listing::default();
                    while !over.load(Ordering::Relaxed) {
                        if looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
                            listing = Listing::default();
                        }
                        view.follow(&mut listing);
                        let mut numbers: Vec<u64> =
                            listing.iter().map(|process| process.name.as_str().parse().unwrap()).collect();
                        numbers.sort_unstable();
                        // One comes, one goes: at every moment they are as many, or one more, without a gap.
                        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
                        let count = numbers.len() as u64;
                        assert!(count == WINDOW || count == WINDOW + 1, "{count} processes");
                    }
                });
            }
            for number in WINDOW..WINDOW + CHANGES / 2 {
                window.push_back(enter(&mut directory, number));
                directory.leave(window.pop_front().unwrap());
                if number % 64 == 0 {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let mut listing = Listing::default();
        views[0].follow(&mut listing);
        assert_eq!(listing.change(), WINDOW + CHANGES);
        println!("{} looks", looks.into_inner());
    }

    #[test]
    fn whoever_waits_is_woken_by_the_next_change() {
        let mut directory = Directory::create().unwrap();
        let view = view(&directory);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let (start, mut listing, mut waits) = (Instant::now(), Listing::default(), 0);
                while listing.change() < 20 {
                    view.wait_for_change(listing.change(), Duration::from_secs(20));
                    view.follow(&mut listing);
                    waits += 1;
                }
                (start.elapsed(), waits)
            });
            let slot = directory.enter(process("alice", ProcessState::Creating)).unwrap();
            for _ in 1..20 {
                directory.wake();
                std::thread::sleep(Duration::from_millis(1));
                directory.set(&slot, ProcessState::Active);
            }
            directory.wake();
            let (took, waits) = waiter.join().unwrap();
            assert!(took < Duration::from_secs(20), "it slept through a change");
            assert!(waits < 1000, "it did not sleep: {waits} waits");
        });
    }

    #[test]
    fn only_the_server_can_write() {
        let directory = Directory::create().unwrap();
        let fd = directory.fd().try_clone_to_owned().unwrap();
        assert!(Segment::attach(fd, places::SEGMENT_BYTES).is_err(), "a writable mapping was made");
        assert!(rustix::io::pwrite(directory.fd(), b"junk", 0).is_err());
    }

    #[test]
    fn other_segments_are_refused() {
        let other = Segment::create("other", places::SEGMENT_BYTES).unwrap();
        let attach = |segment: &Segment| DirectoryView::attach(segment.fd().try_clone_to_owned().unwrap());
        assert!(matches!(attach(&other), Err(AttachError::Magic { .. })));
        table(&other).head.magic.store(MAGIC, Ordering::Relaxed);
        table(&other).head.version.store(VERSION + 1, Ordering::Relaxed);
        assert!(matches!(attach(&other), Err(AttachError::Version { .. })));
        assert!(attach(&Segment::create("small", 4096).unwrap()).is_err());
    }

    /// A generator of numbers that a seed decides.
    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 20
    }

    #[test]
    fn junk_costs_a_reader_neither_its_life_nor_its_time() {
        let segment = Segment::create("junk", places::SEGMENT_BYTES).unwrap();
        let table = table(&segment);
        let words = || {
            // SAFETY: everything in a directory is words of atomics; this test uses no other type meanwhile.
            unsafe { segment.table::<AtomicU64>(0, places::SEGMENT_BYTES / 8) }
        };
        table.head.magic.store(MAGIC, Ordering::Relaxed);
        table.head.version.store(VERSION, Ordering::Relaxed);
        let view = DirectoryView::attach(segment.fd().try_clone_to_owned().unwrap()).unwrap();
        let mut seed = 7_u64;
        let mut listing = Listing::default();
        for round in 0..60 {
            for word in words() {
                let value = match random(&mut seed) % 4 {
                    0 => random(&mut seed) << 24 | random(&mut seed),
                    1 => random(&mut seed) % 8,
                    2 => u64::MAX,
                    _ => u64::from_le_bytes(*b"namename"),
                };
                word.store(value, Ordering::Relaxed);
            }
            view.follow(&mut listing);
            assert!(listing.slots.len() <= DIRECTORY_ENTRIES_MAX, "round {round}");
            // Numbers that a worker's copy is just behind.
            table.head.changes.store(listing.change().wrapping_add(random(&mut seed) % 5), Ordering::Relaxed);
            view.follow(&mut listing);
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (words, over) = (&words, &over);
            scope.spawn(move || {
                let mut seed = 8_u64;
                while !over.load(Ordering::Relaxed) {
                    let words = words();
                    let index = random(&mut seed) % if random(&mut seed) & 1 == 0 { 600 } else { words.len() as u64 };
                    words[usize::try_from(index).unwrap()].store(random(&mut seed) % 512, Ordering::Relaxed);
                }
            });
            for _ in 0..200 {
                view.follow(&mut listing);
                view.wait_for_change(listing.change(), Duration::from_micros(10));
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
