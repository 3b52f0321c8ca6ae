//! Everything of a snapshot, in parallel, neighbours in one read.
//!
//! Threads take runs of pages, and the values that these name, in groups that lie together. Values come before further pages, so
//! what is known and not yet read stays little.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::{Condvar, Mutex, PoisonError};

use super::error::{Part, SnapshotError};
use super::limits::{ALIGNED_VALUE_BYTES_MIN, BLOB_ALIGN, READ_BYTES_MAX, READ_GAP_BYTES_MAX, THREADS_MAX};
use super::location::Form;
use super::page::PageObject;
use super::share::lock;
use super::stored::Snapshot;
use super::stored_page::StoredPage;
use crate::buffer::AlignedBuffer;

/// Pages that a thread takes at a time, however many bytes they have.
const PAGES_A_TURN: u32 = 16;
/// Bytes as stored up to which it takes more pages: of large values a page has few, and what lies beside each other is read together
/// only if it is known at the same time.
const SMALL_TURN_BYTES: u64 = 256 << 10;

/// The value of an object, for whoever takes it. A damaged one, or one that cannot be reached, is an error; all others go on.
#[derive(Debug)]
pub struct StoredValue<'v> {
    snapshot: &'v Snapshot,
    object: &'v PageObject,
    read: Read<'v>,
}

/// How much of a value was read already.
#[derive(Debug)]
enum Read<'v> {
    /// All that is stored of it.
    Whole(&'v [u8]),
    /// Nothing, or its neighbours with it in vain.
    Nothing,
    /// It alone, in vain, which nobody was told yet.
    Failed(RefCell<Option<SnapshotError>>),
}

impl StoredValue<'_> {
    /// Fills memory, exactly as long as the value, with the value.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the object.
    ///
    /// # Panics
    /// If the memory is not as long as the value.
    pub fn fill(&self, into: &mut [u8]) -> Result<(), SnapshotError> {
        assert_eq!(into.len(), self.object.value_bytes as usize, "memory for a value is as long as the value");
        match &self.read {
            Read::Whole(stored) => {
                self.snapshot.source().unpack(&self.object.part(), &self.object.location, stored, into)
            }
            Read::Nothing => self.snapshot.value(self.object, into),
            Read::Failed(error) => error.take().map_or_else(|| self.snapshot.value(self.object, into), Err),
        }
    }

    /// The value where it was read to, if it is stored as it is and was read already: nothing is copied.
    ///
    /// # Errors
    /// As [`StoredValue::fill`].
    pub fn in_place(&self) -> Option<Result<&[u8], SnapshotError>> {
        let PageObject { location, value_bytes, .. } = self.object;
        let is_plain = location.form == Form::Plain && location.suits(*value_bytes);
        let Read::Whole(stored) = self.read else { return None };
        if !is_plain || stored.len() != *value_bytes as usize {
            return None;
        }
        let is_right = self.snapshot.source().checked(&self.object.part(), location, stored);
        Some(is_right.map(|()| stored))
    }
}

/// What takes what is restored; called by many threads at once. Breaking ends the restoring.
pub trait Restored: Sync {
    /// Whether a page is to be read at all. Values of one that is not are not read either.
    fn wants_page(&self, _number: u32) -> bool {
        true
    }

    /// Whether the value of an object is to be read, after its page was given.
    fn wants(&self, _object: &PageObject) -> bool {
        true
    }

    /// The objects of a page, before any value of them.
    fn page(&self, number: u32, objects: &[PageObject]) -> ControlFlow<()>;

    /// So many bytes are about to be read, of pages or values.
    fn reads(&self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// The value of an object.
    fn value(&self, object: &PageObject, value: &StoredValue<'_>) -> ControlFlow<()>;

    /// A page that cannot be read: none of its objects will come.
    fn damaged_page(&self, number: u32, error: SnapshotError) -> ControlFlow<()>;
}

/// What lies somewhere in a blob.
pub(super) trait Lying {
    fn lies(&self) -> (u128, Range<u64>);
}

/// What is to be done.
#[derive(Default)]
struct Work {
    pages: Range<u32>,
    groups: VecDeque<Vec<PageObject>>,
    /// Threads that read pages, and so may find values.
    reading: usize,
    stopped: bool,
}

struct Restoring<'r> {
    snapshot: &'r Snapshot,
    into: &'r dyn Restored,
    work: Mutex<Work>,
    changed: Condvar,
}

/// Says that a thread reads pages, until it is done or panics.
struct ReadsPages<'r>(&'r Restoring<'r>);

impl Drop for ReadsPages<'_> {
    fn drop(&mut self) {
        lock(&self.0.work).reading -= 1;
        self.0.changed.notify_all();
    }
}

impl Snapshot {
    /// Gives all objects of these pages and all their values, by so many threads. What is damaged is told and left out.
    pub fn restore(&self, pages: Range<u32>, threads: usize, into: &dyn Restored) {
        let pages = pages.start..pages.end.min(self.pages());
        let work = Mutex::new(Work { pages, ..Work::default() });
        let restoring = Restoring { snapshot: self, into, work, changed: Condvar::new() };
        std::thread::scope(|scope| {
            for _ in 1..threads.clamp(1, THREADS_MAX) {
                scope.spawn(|| restoring.work());
            }
            restoring.work();
        });
    }
}

enum Turn {
    Group(Vec<PageObject>),
    Pages(Range<u32>),
}

impl Restoring<'_> {
    fn work(&self) {
        let mut buffer = AlignedBuffer::new(READ_BYTES_MAX + 2 * BLOB_ALIGN);
        while let Some(turn) = self.next() {
            let done = match turn {
                Turn::Group(group) => self.values(group, &mut buffer),
                Turn::Pages(pages) => {
                    let reads = ReadsPages(self);
                    let done = self.pages(pages, &mut buffer);
                    drop(reads);
                    done
                }
            };
            if done.is_break() {
                lock(&self.work).stopped = true;
                self.changed.notify_all();
            }
        }
    }

    /// What a thread does next. It waits only for threads that read pages, which the storage's deadlines end.
    fn next(&self) -> Option<Turn> {
        let mut work = lock(&self.work);
        loop {
            if work.stopped {
                return None;
            }
            if let Some(group) = work.groups.pop_front() {
                return Some(Turn::Group(group));
            }
            if !work.pages.is_empty() {
                let start = work.pages.start;
                work.pages.start = self.end_of_turn(&work.pages);
                work.reading += 1;
                return Some(Turn::Pages(start..work.pages.start));
            }
            if work.reading == 0 {
                return None;
            }
            work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Up to where a thread takes pages, of those that are left: one of them at least.
    fn end_of_turn(&self, pages: &Range<u32>) -> u32 {
        let (least, mut bytes) = (pages.start.saturating_add(PAGES_A_TURN), 0);
        let is_taken = |&number: &u32| {
            bytes += self.snapshot.place(number).map_or(0, |place| place.bytes());
            number < least || bytes <= SMALL_TURN_BYTES
        };
        pages.clone().take_while(is_taken).last().map_or(pages.end, |last| last + 1)
    }

    fn pages(&self, pages: Range<u32>, buffer: &mut AlignedBuffer) -> ControlFlow<()> {
        let wanted = pages.filter(|&number| self.into.wants_page(number));
        let places = wanted.clone().filter_map(|number| self.snapshot.place(number));
        self.into.reads(places.map(|place| place.bytes()).sum())?;
        // Values of several pages lie beside each other: of large ones a page has few.
        let mut values = Vec::new();
        for (number, page) in self.snapshot.pages_with(wanted, buffer) {
            match page {
                Ok(StoredPage { objects, .. }) => {
                    self.into.page(number, &objects)?;
                    values.extend(objects.into_iter().filter(|object| self.into.wants(object)));
                }
                Err(error) => self.into.damaged_page(number, error)?,
            }
        }
        lock(&self.work).groups.extend(neighbours(values));
        self.changed.notify_all();
        ControlFlow::Continue(())
    }

    /// Some values may have come back by another way since their page was read: large ones are looked at again.
    fn values(&self, mut group: Vec<PageObject>, buffer: &mut AlignedBuffer) -> ControlFlow<()> {
        let before = group.len();
        let is_large = |object: &PageObject| object.location.stored_bytes as usize >= ALIGNED_VALUE_BYTES_MIN;
        group.retain(|object| !is_large(object) || self.into.wants(object));
        if group.len() == before {
            return self.read_values(&group, buffer);
        }
        neighbours(group).iter().try_for_each(|group| self.read_values(group, buffer))
    }

    fn read_values(&self, group: &[PageObject], buffer: &mut AlignedBuffer) -> ControlFlow<()> {
        let Some(first) = group.first() else { return ControlFlow::Continue(()) };
        self.into.reads(group.iter().map(|object| u64::from(object.location.stored_bytes)).sum())?;
        let read = if first.is_apart() { Ok(None) } else { self.snapshot.read_together(&first.part(), group, buffer) };
        // Of many each is tried alone then.
        let (read, mut failed) = read.map_or_else(|error| (None, Some(error)), |read| (read, None));
        failed = failed.filter(|_| group.len() == 1);
        for object in group {
            let read = match (&read, failed.take()) {
                (Some(read), _) => Read::Whole(&buffer[read.of(object)]),
                (None, Some(error)) => Read::Failed(RefCell::new(Some(error))),
                (None, None) => Read::Nothing,
            };
            self.into.value(object, &StoredValue { snapshot: self.snapshot, object, read })?;
        }
        ControlFlow::Continue(())
    }
}

/// Bytes of a blob that lie in a buffer.
pub(super) struct Together {
    /// Where in the blob the buffer begins.
    start: u64,
}

impl Together {
    /// Where in the buffer something lies.
    pub(super) fn of(&self, item: &impl Lying) -> Range<usize> {
        let (_, range) = item.lies();
        let within = |at: u64| usize::try_from(at - self.start).unwrap_or(usize::MAX);
        within(range.start)..within(range.end)
    }
}

impl Snapshot {
    /// Reads all of a group at once; `None` where what is known of it says that this is not to be had.
    pub(super) fn read_together(
        &self,
        part: &Part,
        group: &[impl Lying],
        buffer: &mut AlignedBuffer,
    ) -> Result<Option<Together>, SnapshotError> {
        let Some((blob, start, bytes)) = self.whole_blocks(group) else { return Ok(None) };
        let Some(into) = buffer.get_mut(..bytes) else { return Ok(None) };
        self.source().read(part, blob, start, into)?;
        Ok(Some(Together { start }))
    }

    /// The blob that a group lies in, and where it begins and how long it is in whole blocks, which a disk reads without a copy.
    fn whole_blocks(&self, group: &[impl Lying]) -> Option<(u128, u64, usize)> {
        let (blob, first) = group.first()?.lies();
        let end = group.last()?.lies().1.end;
        let blob_bytes = self.manifest().blob(blob)?.bytes;
        let align = BLOB_ALIGN as u64;
        let (start, end) = (first.start / align * align, end.next_multiple_of(align).min(blob_bytes));
        let bytes = usize::try_from(end.checked_sub(start)?).ok()?;
        group.iter().all(|item| item.lies().1.end <= end).then_some((blob, start, bytes))
    }
}

impl Lying for PageObject {
    fn lies(&self) -> (u128, Range<u64>) {
        let start = u64::from(self.location.offset);
        (self.location.blob, start..start + u64::from(self.location.stored_bytes))
    }
}

impl PageObject {
    /// Whether reading it with others makes no sense.
    fn is_apart(&self) -> bool {
        self.location.form == Form::Pieces || self.location.stored_bytes == 0
    }
}

/// Cuts items into groups that are read at once, in the order of the first items of each: names of blobs are random, and decide nothing.
pub(super) fn neighbours<Item: Lying + Apart>(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut items: Vec<(usize, Item)> = items.into_iter().enumerate().collect();
    items.sort_by_key(|(_, item)| {
        let (blob, range) = item.lies();
        (item.apart(), blob, range.start)
    });
    let mut groups: Vec<(usize, Vec<Item>)> = Vec::new();
    for (number, item) in items {
        let joins = groups.last().is_some_and(|(_, group)| {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { return false };
            let ((blob, begin), (_, before), (own, range)) = (first.lies(), last.lies(), item.lies());
            !item.apart()
                && blob == own
                && range.start >= before.end
                && range.start - before.end <= READ_GAP_BYTES_MAX as u64
                && range.end - begin.start <= READ_BYTES_MAX as u64
        });
        match groups.last_mut().filter(|_| joins) {
            Some((first, group)) => {
                *first = number.min(*first);
                group.push(item);
            }
            None => groups.push((number, vec![item])),
        }
    }
    groups.sort_by_key(|(first, _)| *first);
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Whether something is read alone in any case.
pub(super) trait Apart {
    fn apart(&self) -> bool;
}

impl Apart for PageObject {
    fn apart(&self) -> bool {
        self.is_apart()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a blob.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Piece(u128, Range<u64>, bool);

    impl Lying for Piece {
        fn lies(&self) -> (u128, Range<u64>) {
            (self.0, self.1.clone())
        }
    }

    impl Apart for Piece {
        fn apart(&self) -> bool {
            self.2
        }
    }

    #[test]
    fn neighbours_are_read_together_in_the_order_of_the_first_of_each_group() {
        let most = READ_BYTES_MAX as u64;
        let piece = |blob, range| Piece(blob, range, false);
        let apart = Piece(9, 30..40, true);
        let items =
            [piece(9, 20..30), apart.clone(), piece(2, 0..10), piece(9, 0..20), piece(2, 5..10), piece(9, 30..most)];
        let together = [piece(9, 0..20), piece(9, 20..30), piece(9, 30..most)];
        let groups = [together.to_vec(), vec![apart], vec![piece(2, 0..10)], vec![piece(2, 5..10)]];
        assert_eq!(neighbours(items.to_vec()), groups);
        let far = most + READ_GAP_BYTES_MAX as u64 + 1;
        let alone = [piece(1, 0..most), piece(1, most..most + 1), piece(1, far + 1..far + 2)];
        assert_eq!(neighbours(alone.to_vec()), alone.map(|piece| vec![piece]));
    }
}
