//! The manifest: what says where everything of a snapshot is.
//!
//! ```text
//! offset  bytes
//!      0      8  `praassnp`
//!      8      4  version of this layout
//!     12      4  bytes of the manifest
//!     16      8  XXH3 of all that follows
//!     24         bytes of the process's id (2), the id, its incarnation (8)
//!                epoch (8), number of the writing (16), time of it (8)
//!                position (8), hash seed (8), bytes of the state's memory (8), objects (8)
//!                sections (4), each: kind (2), bytes (4), 0 and the bytes or 1 and their location (1 + …)
//!                blobs (4), each, in the order of their numbers: number (16), bytes (8), live bytes (8)
//!                bits of a hash that name a page (4), each page: place of its blob among the blobs (4; 2³² − 1 for a page
//!                without objects), offset (4), bytes (4), checksum (8), objects (4), sums over their versions (8) and keys (8),
//!                bytes of their values (8)
//!                pages with amendments (4), each, in order: page (4), place of the amendment's blob (4), offset (4), bytes (4),
//!                checksum (8), objects (4), bytes of the values that it replaces (8)
//! ```
//!
//! An *amendment* has those objects of a page that were replaced since the page was written, all of them, and nothing else: the
//! page's keys are the same. So a page is read in two parts at most.
//!
//! Invariants:
//! 1. A blob that anything of the snapshot needs is in the table, and no live bytes of it are missing from the count: it is
//!    removed only when none are left.
//!    What a page has is needed as a whole until the page is written anew, also what its amendment replaces.
//! 2. The sums of a page are over the objects that it has with its amendment ([`PageSum`]).

use super::cut::{CutFacts, SectionKind};
use super::format::{FormatError, Reading, check, checksum, length_u32};
use super::limits::{PAGE_BITS_MAX, PAGE_BYTES_MAX, SECTION_INLINE_BYTES_MAX, SECTIONS_MAX, VALUE_BYTES_MAX};
use super::location::{LOCATION_BYTES, Location};
use super::sum::PageSum;
use crate::backend::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};
use crate::name::Folder;
use praas_protocol::limits::PROCESS_ID_BYTES_MAX;

const MAGIC: [u8; 8] = *b"praassnp";
/// The layout that is written, and the newest that is read.
pub const MANIFEST_VERSION: u32 = 2;
/// The epoch of a process that was stopped: every owner is an earlier one, and none comes after it.
pub(crate) const ENDED_EPOCH: u64 = u64::MAX;
/// Where what the checksum covers begins.
const BODY_AT: usize = 24;
/// Bytes of one page in the table.
pub(crate) const PAGE_ENTRY_BYTES: usize = 48;
/// Bytes of one amendment.
pub(crate) const AMENDMENT_ENTRY_BYTES: usize = 36;
/// Bytes of one blob in the table.
const BLOB_ENTRY_BYTES: usize = 32;
const INLINE: u8 = 0;
const LOCATED: u8 = 1;
const EMPTY_PAGE: u32 = u32::MAX;

/// Bytes of a blob that have objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The blob's number.
    pub blob: u128,
    /// Where it begins there.
    pub offset: u32,
    /// How long it is.
    pub bytes: u32,
    /// The checksum of its bytes.
    pub checksum: u64,
}

/// What was replaced of a page since it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amendment {
    /// Where it lies.
    pub stretch: Stretch,
    /// How many objects it has.
    pub objects: u32,
    /// Bytes of the values that they replaced, at most: of what is stored, so much is not needed.
    pub dead_bytes: u64,
}

/// Where one page of the index lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePlace {
    /// As it was written whole.
    pub whole: Stretch,
    /// What was replaced since.
    pub amendment: Option<Amendment>,
    /// What tells its objects from any others.
    pub sum: PageSum,
}

/// One blob that a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobUse {
    /// Its number.
    pub number: u128,
    /// How long it is.
    pub bytes: u64,
    /// How many bytes of it the snapshot needs at most.
    pub live_bytes: u64,
}

/// The bytes of a section, or where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionPlace {
    /// In the manifest.
    Inline(Box<[u8]>),
    /// In blobs.
    Located {
        /// How many bytes there are.
        bytes: u32,
        /// Where.
        location: Location,
    },
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Whose it is.
    pub folder: Folder,
    /// Which owner of the process wrote it.
    pub epoch: u64,
    /// Which writing it is: no other manifest of the folder has the same number and epoch.
    pub writing: u128,
    /// When, in milliseconds since 1970.
    pub written_unix_ms: u64,
    /// The state as a whole.
    pub facts: CutFacts,
    /// What is kept beside objects, each kind once.
    pub sections: Vec<(SectionKind, SectionPlace)>,
    /// All blobs, in the order of their numbers.
    pub blobs: Vec<BlobUse>,
    /// Bits of a hash that name a page.
    pub page_bits: u32,
    /// All pages; `None` for those without objects.
    pub pages: Vec<Option<PagePlace>>,
}

impl PagePlace {
    /// Bytes that are read of it.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.whole.bytes) + self.amendment.map_or(0, |amendment| u64::from(amendment.stretch.bytes))
    }

    /// Both of its parts.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = Stretch> {
        std::iter::once(self.whole).chain(self.amendment.map(|amendment| amendment.stretch))
    }
}

impl Manifest {
    /// Whether the process was stopped.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.epoch == ENDED_EPOCH
    }

    /// The blob of a number.
    pub(crate) fn blob(&self, number: u128) -> Option<&BlobUse> {
        self.blobs.binary_search_by_key(&number, |blob| blob.number).ok().map(|at| &self.blobs[at])
    }

    /// Bytes of all values.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        self.pages.iter().flatten().fold(0, |sum, page| page.sum.value_bytes.saturating_add(sum))
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body =
            Vec::with_capacity(256 + self.blobs.len() * BLOB_ENTRY_BYTES + self.pages.len() * PAGE_ENTRY_BYTES);
        let id = self.folder.process.to_string();
        let (sections, blobs) = (length_u32(self.sections.len()), length_u32(self.blobs.len()));
        // No longer than PROCESS_ID_BYTES_MAX.
        body.extend_from_slice(&u16::try_from(id.len()).unwrap_or(u16::MAX).to_le_bytes());
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(&self.folder.incarnation.to_le_bytes());
        body.extend_from_slice(&self.epoch.to_le_bytes());
        body.extend_from_slice(&self.writing.to_le_bytes());
        let facts = &self.facts;
        for number in [self.written_unix_ms, facts.position, facts.hash_seed, facts.state_bytes, facts.objects] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&sections.to_le_bytes());
        for (kind, place) in &self.sections {
            put_section(&mut body, *kind, place);
        }
        body.extend_from_slice(&blobs.to_le_bytes());
        for blob in &self.blobs {
            body.extend_from_slice(&blob.number.to_le_bytes());
            body.extend_from_slice(&blob.bytes.to_le_bytes());
            body.extend_from_slice(&blob.live_bytes.to_le_bytes());
        }
        body.extend_from_slice(&self.page_bits.to_le_bytes());
        self.put_pages(&mut body);
        let mut bytes = Vec::with_capacity(BODY_AT + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&MANIFEST_VERSION.to_le_bytes());
        // A manifest that has no room for its length is refused by its length before it is published.
        bytes.extend_from_slice(&u32::try_from(BODY_AT + body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&checksum(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn put_pages(&self, into: &mut Vec<u8>) {
        let mut amended = Vec::new();
        for (page, number) in self.pages.iter().zip(0_u32..) {
            let Some(page) = page else {
                into.extend_from_slice(&EMPTY_PAGE.to_le_bytes());
                into.extend_from_slice(&[0; PAGE_ENTRY_BYTES - 4]);
                continue;
            };
            self.put_stretch(into, &page.whole);
            into.extend_from_slice(&page.sum.objects.to_le_bytes());
            for number in [page.sum.versions, page.sum.keys, page.sum.value_bytes] {
                into.extend_from_slice(&number.to_le_bytes());
            }
            amended.extend(page.amendment.map(|amendment| (number, amendment)));
        }
        into.extend_from_slice(&length_u32(amended.len()).to_le_bytes());
        for (number, Amendment { stretch, objects, dead_bytes }) in amended {
            into.extend_from_slice(&number.to_le_bytes());
            self.put_stretch(into, &stretch);
            into.extend_from_slice(&objects.to_le_bytes());
            into.extend_from_slice(&dead_bytes.to_le_bytes());
        }
    }

    fn put_stretch(&self, into: &mut Vec<u8>, stretch: &Stretch) {
        let blob = self.blobs.binary_search_by_key(&stretch.blob, |blob| blob.number).ok();
        let blob = blob.and_then(|at| u32::try_from(at).ok()).expect("whoever places a page enters its blob");
        for number in [blob, stretch.offset, stretch.bytes] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        into.extend_from_slice(&stretch.checksum.to_le_bytes());
    }

    /// What bytes say, which may be anything.
    ///
    /// # Errors
    /// [`FormatError`] says what is wrong with them, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reading = Reading::new(bytes);
        if reading.bytes::<8>()? != MAGIC {
            return Err(reading.malformed("no manifest"));
        }
        let version = reading.u32()?;
        if version != MANIFEST_VERSION {
            return Err(FormatError::Version { actual: version, known: MANIFEST_VERSION });
        }
        if reading.u32()? as usize != bytes.len() || bytes.len() > MANIFEST_BYTES_MAX {
            return Err(reading.malformed("another length than that of the manifest"));
        }
        let expected = reading.u64()?;
        check(&bytes[BODY_AT..], expected)?;
        Self::parse_body(&mut reading)
    }

    fn parse_body(reading: &mut Reading<'_>) -> Result<Self, FormatError> {
        let folder = folder(reading)?;
        let (epoch, writing, written_unix_ms) = (reading.u64()?, reading.u128()?, reading.u64()?);
        let facts = CutFacts {
            position: reading.u64()?,
            hash_seed: reading.u64()?,
            state_bytes: reading.u64()?,
            objects: reading.u64()?,
        };
        let sections = sections(reading)?;
        let blobs = blobs(reading)?;
        let page_bits = reading.u32()?;
        if page_bits > PAGE_BITS_MAX || reading.left() < PAGE_ENTRY_BYTES << page_bits {
            return Err(reading.malformed("a table of pages that does not fit"));
        }
        let pages: Result<Vec<_>, _> = (0..1_u32 << page_bits).map(|_| page(reading, &blobs)).collect();
        let mut pages = pages?;
        amendments(reading, &blobs, &mut pages)?;
        reading.end()?;
        Ok(Self { folder, epoch, writing, written_unix_ms, facts, sections, blobs, page_bits, pages })
    }
}

fn put_section(into: &mut Vec<u8>, kind: SectionKind, place: &SectionPlace) {
    into.extend_from_slice(&kind.0.to_le_bytes());
    match place {
        SectionPlace::Inline(bytes) => {
            debug_assert!(bytes.len() <= SECTION_INLINE_BYTES_MAX);
            into.extend_from_slice(&length_u32(bytes.len()).to_le_bytes());
            into.push(INLINE);
            into.extend_from_slice(bytes);
        }
        SectionPlace::Located { bytes, location } => {
            into.extend_from_slice(&bytes.to_le_bytes());
            into.push(LOCATED);
            into.extend_from_slice(&location.to_bytes());
        }
    }
}

fn folder(reading: &mut Reading<'_>) -> Result<Folder, FormatError> {
    let id_bytes = usize::from(reading.u16()?);
    if id_bytes > PROCESS_ID_BYTES_MAX {
        return Err(reading.malformed("an id that is too long"));
    }
    let id = std::str::from_utf8(reading.take(id_bytes)?).ok().and_then(|id| id.parse().ok());
    let process = id.ok_or_else(|| reading.malformed("no id of a process"))?;
    Ok(Folder { process, incarnation: reading.u64()? })
}

fn sections(reading: &mut Reading<'_>) -> Result<Vec<(SectionKind, SectionPlace)>, FormatError> {
    let count = reading.u32()? as usize;
    if count > SECTIONS_MAX {
        return Err(reading.malformed("too many sections"));
    }
    let mut sections: Vec<(SectionKind, SectionPlace)> = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, bytes) = (SectionKind(reading.u16()?), reading.u32()?);
        let place = match reading.u8()? {
            INLINE if bytes as usize <= SECTION_INLINE_BYTES_MAX => {
                SectionPlace::Inline(reading.take(bytes as usize)?.into())
            }
            LOCATED if bytes <= VALUE_BYTES_MAX => {
                let location = Location::from_bytes(&reading.bytes::<LOCATION_BYTES>()?);
                let location = location.filter(|location| location.suits(bytes));
                let location =
                    location.ok_or_else(|| reading.malformed("a section in a place that does not suit it"))?;
                SectionPlace::Located { bytes, location }
            }
            _ => return Err(reading.malformed("a section that is nowhere")),
        };
        if sections.iter().any(|(other, _)| *other == kind) {
            return Err(reading.malformed("a section for the second time"));
        }
        sections.push((kind, place));
    }
    Ok(sections)
}

fn blobs(reading: &mut Reading<'_>) -> Result<Vec<BlobUse>, FormatError> {
    let count = reading.u32()? as usize;
    if count > reading.left() / BLOB_ENTRY_BYTES {
        return Err(reading.malformed("more blobs than fit the manifest"));
    }
    let mut blobs: Vec<BlobUse> = Vec::with_capacity(count);
    for _ in 0..count {
        let blob = BlobUse { number: reading.u128()?, bytes: reading.u64()?, live_bytes: reading.u64()? };
        let sound = blob.bytes <= BLOB_BYTES_MAX as u64 && (1..=blob.bytes).contains(&blob.live_bytes);
        if !sound || blobs.last().map_or(0, |last| last.number) >= blob.number {
            return Err(reading.malformed("a blob that cannot be"));
        }
        blobs.push(blob);
    }
    Ok(blobs)
}

fn page(reading: &mut Reading<'_>, blobs: &[BlobUse]) -> Result<Option<PagePlace>, FormatError> {
    let whole = stretch(reading, blobs)?;
    let objects = reading.u32()?;
    let (versions, keys, value_bytes) = (reading.u64()?, reading.u64()?, reading.u64()?);
    let sum = PageSum { objects, versions, keys, value_bytes };
    let fits = value_bytes <= u64::from(objects) * u64::from(VALUE_BYTES_MAX);
    match whole {
        Some(_) if !fits => Err(reading.malformed("a page whose values have more bytes than its objects can have")),
        Some(whole) if objects > 0 => Ok(Some(PagePlace { whole, amendment: None, sum })),
        None if sum == PageSum::default() => Ok(None),
        _ => Err(reading.malformed("a page without objects that has something")),
    }
}

fn amendments(
    reading: &mut Reading<'_>,
    blobs: &[BlobUse],
    pages: &mut [Option<PagePlace>],
) -> Result<(), FormatError> {
    let count = reading.u32()? as usize;
    if count != reading.left() / AMENDMENT_ENTRY_BYTES {
        return Err(reading.malformed("another number of amendments than fits"));
    }
    let mut next = 0;
    for _ in 0..count {
        let number = reading.u32()?;
        let place = pages.get_mut(number as usize).filter(|_| number >= next).and_then(Option::as_mut);
        let place = place.ok_or_else(|| reading.malformed("an amendment of no page, or out of order"))?;
        let (stretch, objects, dead_bytes) = (stretch(reading, blobs)?, reading.u32()?, reading.u64()?);
        let stretch = stretch.filter(|_| (1..=place.sum.objects).contains(&objects));
        let stretch = stretch.ok_or_else(|| reading.malformed("an amendment that cannot be"))?;
        place.amendment = Some(Amendment { stretch, objects, dead_bytes });
        next = number + 1;
    }
    Ok(())
}

/// Where something of a page lies; `None` for the stretch of a page without objects.
fn stretch(reading: &mut Reading<'_>, blobs: &[BlobUse]) -> Result<Option<Stretch>, FormatError> {
    let (blob, offset, bytes, checksum) = (reading.u32()?, reading.u32()?, reading.u32()?, reading.u64()?);
    if blob == EMPTY_PAGE && (offset, bytes, checksum) == (0, 0, 0) {
        return Ok(None);
    }
    let blob = blobs.get(blob as usize).ok_or_else(|| reading.malformed("a page in an unknown blob"))?;
    if u64::from(offset) + u64::from(bytes) > blob.bytes || bytes as usize > PAGE_BYTES_MAX {
        return Err(reading.malformed("a page that cannot be"));
    }
    Ok(Some(Stretch { blob: blob.number, offset, bytes, checksum }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::location::Form;

    fn sample() -> Manifest {
        let location = Location { blob: 9, offset: 5, stored_bytes: 5000, checksum: 77, form: Form::Plain };
        let whole = Stretch { blob: 1 << 100, offset: 3, bytes: 200, checksum: 1 << 63 };
        let amended = Stretch { blob: 9, offset: 5000, bytes: 100, checksum: 5 };
        let sum = PageSum { objects: 4, versions: u64::MAX, keys: 3, value_bytes: 9 };
        let place = PagePlace { whole, amendment: None, sum };
        let amendment = Some(Amendment { stretch: amended, objects: 4, dead_bytes: 1 << 40 });
        Manifest {
            folder: Folder { process: "notes/alice".parse().unwrap(), incarnation: 3 },
            epoch: 4,
            writing: 5 << 64,
            written_unix_ms: 6,
            facts: CutFacts { position: 7, hash_seed: u64::MAX, state_bytes: 1 << 30, objects: 8 },
            sections: vec![
                (SectionKind::LEDGER, SectionPlace::Inline((*b"abc").into())),
                (SectionKind::MAILBOX, SectionPlace::Located { bytes: 5000, location }),
            ],
            blobs: vec![
                BlobUse { number: 9, bytes: 6000, live_bytes: 5000 },
                BlobUse { number: 1 << 100, bytes: 1 << 20, live_bytes: 200 },
            ],
            page_bits: 2,
            pages: vec![None, Some(place), Some(PagePlace { amendment, ..place }), None],
        }
    }

    /// Bytes with the length and the checksum that they need.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&bytes[BODY_AT..]);
        bytes[16..24].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_manifest_comes_back_from_its_bytes() {
        let manifest = sample();
        assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest));
    }

    #[test]
    fn a_page_has_no_more_bytes_of_values_than_its_objects_can_have() {
        let with_value_bytes = |value_bytes| {
            let mut manifest = sample();
            manifest.pages[1].as_mut().unwrap().sum.value_bytes = value_bytes;
            Manifest::parse(&manifest.encode())
        };
        let most = 4 * u64::from(VALUE_BYTES_MAX);
        assert!(with_value_bytes(most).is_ok());
        let refused = with_value_bytes(most + 1).unwrap_err();
        assert!(matches!(refused, FormatError::Malformed { what, .. } if what.contains("more bytes")), "{refused}");
    }

    #[test]
    fn bytes_behind_a_good_checksum_are_a_manifest_or_refused() {
        let sound = sample().encode();
        let mut refused = 0;
        for at in BODY_AT..sound.len() {
            assert!(Manifest::parse(&sealed(sound[..at].to_vec())).is_err(), "{at} bytes of a longer one");
            for bit in 0..8 {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                let bytes = sealed(bytes);
                match Manifest::parse(&bytes) {
                    Ok(manifest) => assert_eq!(manifest.encode(), bytes, "a form that nobody writes"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 0);
        assert!(Manifest::parse(&sealed([&sound[..], &[0]].concat())).is_err());
    }

    #[test]
    fn another_version_is_told_from_damage_without_reading_further() {
        let mut bytes = sample().encode();
        for actual in [MANIFEST_VERSION - 1, MANIFEST_VERSION + 1] {
            bytes[8..12].copy_from_slice(&actual.to_le_bytes());
            bytes.truncate(12);
            assert_eq!(Manifest::parse(&bytes), Err(FormatError::Version { actual, known: MANIFEST_VERSION }));
        }
    }
}
