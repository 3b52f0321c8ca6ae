//! A page as it is stored: as it was written whole, with what was replaced of it since.
//!
//! Both parts are under checksums, and what they give together is under the sum that the manifest has. So what belongs to another
//! state of the page is damage, and never taken for an object.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{Part, SnapshotError};
use super::format::{FormatError, check};
use super::location::{Form, Location};
use super::manifest::{PagePlace, Stretch};
use super::page::{self, PageObject};
use super::restore::{Apart, Lying, neighbours};
use super::stored::Snapshot;
use super::sum::{Glimpse, PageSum};
use crate::buffer::AlignedBuffer;

/// What is stored of one page.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StoredPage {
    /// Its objects, in the order of hash, namespace and key.
    pub objects: Vec<PageObject>,
    /// Objects that were replaced since it was written whole: nobody needs them, but their places are kept with the page.
    pub replaced: Vec<PageObject>,
}

impl StoredPage {
    /// From the parts that were read.
    fn join(whole: Vec<PageObject>, amendment: Vec<PageObject>, sum: &PageSum) -> Result<Self, FormatError> {
        let malformed = |what| FormatError::Malformed { at: 0, what };
        let (mut objects, mut replaced) = (whole, Vec::with_capacity(amendment.len()));
        let mut rest = objects.iter_mut();
        for object in amendment {
            let older = rest.find(|older| older.name() >= object.name()).filter(|older| older.name() == object.name());
            let older = older.ok_or_else(|| malformed("an amendment with a key that the page does not have"))?;
            replaced.push(std::mem::replace(older, object));
        }
        if PageSum::of(objects.iter().map(Glimpse::from)) != *sum {
            return Err(malformed("other objects than the manifest tells of"));
        }
        Ok(Self { objects, replaced })
    }

    /// All objects that have places there.
    pub(crate) fn all(&self) -> impl Iterator<Item = &PageObject> {
        self.objects.iter().chain(&self.replaced)
    }
}

/// One of the two parts of a page.
#[derive(Clone, Copy)]
pub(super) struct PagePart {
    number: u32,
    is_amendment: bool,
    stretch: Stretch,
}

impl PagePart {
    fn whole(number: u32, place: &PagePlace) -> Self {
        Self { number, is_amendment: false, stretch: place.whole }
    }

    fn amendment(number: u32, place: &PagePlace) -> Option<Self> {
        place.amendment.map(|amendment| Self { number, is_amendment: true, stretch: amendment.stretch })
    }
}

type Read = HashMap<(u32, bool), Result<Vec<PageObject>, SnapshotError>>;

impl Snapshot {
    /// The objects of a page, in the order of their hashes; none for a page that there is not.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] or [`SnapshotError::Unreached`], naming the page.
    pub fn page(&self, number: u32) -> Result<Vec<PageObject>, SnapshotError> {
        self.stored_page(number).map(|page| page.objects)
    }

    /// The same with what was replaced.
    ///
    /// # Errors
    /// As [`Snapshot::page`].
    pub fn stored_page(&self, number: u32) -> Result<StoredPage, SnapshotError> {
        let Some(place) = self.place(number) else { return Ok(StoredPage::default()) };
        let whole = self.part(&PagePart::whole(number, &place))?;
        let amendment = PagePart::amendment(number, &place).map(|part| self.part(&part)).transpose()?;
        self.join(number, &place, whole, amendment.unwrap_or_default())
    }

    /// Pages, neighbours in one read.
    pub(crate) fn pages_with(
        &self,
        pages: impl Iterator<Item = u32> + Clone,
        buffer: &mut AlignedBuffer,
    ) -> Vec<(u32, Result<StoredPage, SnapshotError>)> {
        let placed = pages.clone().filter_map(|number| Some((number, self.place(number)?)));
        let parts = placed.flat_map(|(number, place)| {
            std::iter::once(PagePart::whole(number, &place)).chain(PagePart::amendment(number, &place))
        });
        let mut read = self.read_parts(parts.collect(), buffer);
        let joined = |number| {
            let Some(place) = self.place(number) else { return Ok(StoredPage::default()) };
            let whole = read.remove(&(number, false)).unwrap_or(Ok(Vec::new()))?;
            let amendment = read.remove(&(number, true)).unwrap_or(Ok(Vec::new()))?;
            self.join(number, &place, whole, amendment)
        };
        let numbers: Vec<u32> = pages.collect();
        let pages: Vec<_> = numbers.iter().copied().map(joined).collect();
        numbers.into_iter().zip(pages).collect()
    }

    /// The amendments of pages that have one, neighbours in one read.
    pub(crate) fn amendments_with(
        &self,
        pages: impl Iterator<Item = u32>,
        buffer: &mut AlignedBuffer,
    ) -> Vec<(u32, Result<Vec<PageObject>, SnapshotError>)> {
        let parts = pages.filter_map(|number| PagePart::amendment(number, &self.place(number)?)).collect();
        self.read_parts(parts, buffer).into_iter().map(|((number, _), read)| (number, read)).collect()
    }

    fn read_parts(&self, parts: Vec<PagePart>, buffer: &mut AlignedBuffer) -> Read {
        let mut found = Read::with_capacity(parts.len());
        for group in neighbours(parts) {
            let read = match &group[..] {
                [] | [_] => None,
                [first, ..] => self.read_together(&first.part(), &group, buffer).ok().flatten(),
            };
            for part in &group {
                let objects = match &read {
                    Some(read) => self.parse_part(part, &buffer[read.of(part)]),
                    None => self.part(part),
                };
                found.insert((part.number, part.is_amendment), objects);
            }
        }
        found
    }

    fn part(&self, part: &PagePart) -> Result<Vec<PageObject>, SnapshotError> {
        let mut bytes = vec![0; part.stretch.bytes as usize];
        self.source().read(&part.part(), part.stretch.blob, part.stretch.offset.into(), &mut bytes)?;
        self.parse_part(part, &bytes)
    }

    fn parse_part(&self, part: &PagePart, bytes: &[u8]) -> Result<Vec<PageObject>, SnapshotError> {
        let sound = check(bytes, part.stretch.checksum);
        let parsed = sound.and_then(|()| page::parse(bytes, part.number, self.page_bits()));
        parsed.map_err(|error| self.source().misformed(&part.part(), &part.stretch.location(), error))
    }

    fn join(
        &self,
        number: u32,
        place: &PagePlace,
        whole: Vec<PageObject>,
        amendment: Vec<PageObject>,
    ) -> Result<StoredPage, SnapshotError> {
        let stretch = place.amendment.map_or(place.whole, |amendment| amendment.stretch);
        let wrong = |error| self.source().misformed(&Part::Page { number }, &stretch.location(), error);
        StoredPage::join(whole, amendment, &place.sum).map_err(wrong)
    }
}

impl PagePart {
    /// What errors call it.
    fn part(&self) -> Part {
        Part::Page { number: self.number }
    }
}

impl Stretch {
    /// As errors tell of it.
    fn location(&self) -> Location {
        let Self { blob, offset, bytes, checksum } = *self;
        Location { blob, offset, stored_bytes: bytes, checksum, form: Form::Plain }
    }
}

impl Lying for PagePart {
    fn lies(&self) -> (u128, Range<u64>) {
        let start = u64::from(self.stretch.offset);
        (self.stretch.blob, start..start + u64::from(self.stretch.bytes))
    }
}

impl Apart for PagePart {
    fn apart(&self) -> bool {
        false
    }
}

impl PageObject {
    /// What orders objects within a page.
    fn name(&self) -> (u64, u8, &[u8]) {
        (self.hash, self.namespace, &self.key)
    }
}
