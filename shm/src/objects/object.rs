//! An object in its block: a fixed header, the key, the value.
//!
//! ```text
//! word 0–1  header of the block (`block`)
//!      2    version                    5    value bytes (32) │ schema version (32)
//!      3    hash of the key            6    time of publication, milliseconds since 1970
//!      4    type id                    7    key bytes (16) │ value's offset (16) │ namespace (8) │ encoding (8)
//!      8…   key, zero to the end of its last word
//!      then the value, at `offset` bytes from the block's start: aligned to 16, from 1 KiB on to 64
//! ```
//!
//! Invariants:
//! 1. Nothing of it changes from its publication until its block is free again; a retired block's link lies in word 1.
//! 2. [`Placed::read`] believes nothing that leads outside the block.

use praas_protocol::limits::KEY_BYTES_MAX;

use super::block::Sizes;
use super::error::StateError;
use super::granule::{GRANULE_BYTES, Granule};
use super::key::{Key, Namespace};
use super::limits::VALUE_BYTES_MAX;
use super::words::Space;

const VERSION: usize = 2;
const HASH: usize = 3;
const TYPE_ID: usize = 4;
const VALUE_AND_SCHEMA: usize = 5;
const MODIFIED: usize = 6;
const SHAPE: usize = 7;
const KEY: usize = 8;
/// In the length of the key: a stub, see `stub`.
const STUB: u64 = 1 << 15;
/// Cache lines that a lookup asks for: header, key and the value of an object of 64 bytes.
const LINES_AHEAD: usize = 2;
/// Bytes of what a stub has in the place of a value.
const STORED_BYTES: u64 = 40;
/// Bytes before the key.
const KEY_OFFSET: u64 = 64;
/// Alignment of values, and of those from [`LARGE_VALUE_BYTES`] on.
const VALUE_ALIGN: u64 = 16;
const LARGE_VALUE_ALIGN: u64 = 64;
const LARGE_VALUE_BYTES: u32 = 1024;

/// How a value's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoding {
    /// Bytes as they are.
    Raw,
    /// An rkyv archive of the type that the header names.
    Archived,
    /// Something that this release does not know.
    Other(u8),
}

impl Encoding {
    /// The byte by which it is kept.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Archived => 1,
            Self::Other(code) => code,
        }
    }

    /// What such a byte says; of one that this release does not know it is said that it does not.
    #[must_use]
    pub const fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Raw,
            1 => Self::Archived,
            other => Self::Other(other),
        }
    }
}

/// What a writer says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Meta {
    /// Names the value's type; 0 for raw bytes.
    pub type_id: u64,
    /// The version of that type's schema.
    pub schema_version: u32,
    /// How to read the bytes.
    pub encoding: Encoding,
}

impl Meta {
    /// Bytes without a type.
    pub const RAW: Self = Self { type_id: 0, schema_version: 0, encoding: Encoding::Raw };
}

/// What is known of an object without touching its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectHeader {
    /// Its version: no other object of the process ever has the same.
    pub version: u64,
    /// What its writer said.
    pub meta: Meta,
    /// Bytes of its value.
    pub value_bytes: u32,
    /// When it was published, in milliseconds since 1970, by its writer's clock.
    pub modified_unix_ms: u64,
}

/// Granules of a block for such an object.
#[inline]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a value has less than 2^31 bytes, so a block less than 2^28 granules"
)]
pub(crate) fn granules_for(key: &Key<'_>, value_bytes: u32) -> u32 {
    let before = (KEY_OFFSET + key.bytes() as u64).next_multiple_of(VALUE_ALIGN);
    let slack = if value_bytes >= LARGE_VALUE_BYTES { LARGE_VALUE_ALIGN - GRANULE_BYTES } else { 0 };
    (before + slack + u64::from(value_bytes)).div_ceil(GRANULE_BYTES) as u32
}

/// Bytes from the block's start to the value.
#[inline]
fn value_offset(place: Granule, key: &Key<'_>, value_bytes: u32) -> u64 {
    let align = if value_bytes >= LARGE_VALUE_BYTES { LARGE_VALUE_ALIGN } else { VALUE_ALIGN };
    let start = place.offset() as u64;
    (start + KEY_OFFSET + key.bytes() as u64).next_multiple_of(align) - start
}

/// Where an object's value goes or lies, in bytes from the segment's start; inside its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValuePlace {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Writes everything but version, time and value into a block that nobody sees, and says where the value goes.
#[inline]
pub(crate) fn prepare(
    space: Space<'_>,
    place: Granule,
    key: &Key<'_>,
    hash: u64,
    meta: Meta,
    value_bytes: u32,
) -> ValuePlace {
    let (words, at) = (space.words, place.at());
    let offset = value_offset(place, key, value_bytes);
    words.store_private(at + HASH, hash);
    for (index, word) in key.words().enumerate() {
        words.store_private(at + KEY + index, word);
    }
    let shape =
        key.bytes() as u64 | offset << 16 | u64::from(key.namespace().0) << 32 | u64::from(meta.encoding.code()) << 40;
    words.store_private(at + SHAPE, shape);
    describe(space, place, meta, value_bytes);
    #[allow(clippy::cast_possible_truncation, reason = "less than a block's header, key and alignment")]
    ValuePlace { offset: place.offset() + offset as usize, bytes: value_bytes as usize }
}

/// Writes what a publication may say anew of a prepared object.
pub(crate) fn describe(space: Space<'_>, place: Granule, meta: Meta, value_bytes: u32) {
    let (words, at) = (space.words, place.at());
    words.store_private(at + TYPE_ID, meta.type_id);
    words.store_private(at + VALUE_AND_SCHEMA, u64::from(value_bytes) | u64::from(meta.schema_version) << 32);
    let shape = words.load(at + SHAPE) & !(0xff << 40) | u64::from(meta.encoding.code()) << 40;
    words.store_private(at + SHAPE, shape);
}

/// Granules that a prepared object needs when its value is cut to `value_bytes`.
#[allow(clippy::cast_possible_truncation, reason = "not more than the block has")]
pub(crate) fn granules_used(place: Granule, value: ValuePlace, value_bytes: u32) -> u32 {
    let end = (value.offset - place.offset()) as u64 + u64::from(value_bytes);
    end.div_ceil(GRANULE_BYTES) as u32
}

/// Writes what is known only when the object is published.
#[inline]
pub(crate) fn stamp(space: Space<'_>, place: Granule, version: u64, modified_unix_ms: u64) {
    space.words.store_private(place.at() + VERSION, version);
    space.words.store_private(place.at() + MODIFIED, modified_unix_ms);
}

/// Asks for an object's header and the lines behind it, which have its key and most or all of a small value.
#[inline]
pub(crate) fn prefetch(space: Space<'_>, place: Granule) {
    for line in 0..LINES_AHEAD {
        space.words.prefetch(place.at() + line * KEY);
    }
}

/// Bytes from a stub's block's start to the place of its value.
#[cfg(not(loom))]
pub(crate) fn place_offset(key: &Key<'_>) -> u64 {
    (KEY_OFFSET + key.bytes() as u64).next_multiple_of(VALUE_ALIGN)
}

/// Writes everything of a stub but version, time and the place of its value, and says the word where that goes.
#[cfg(not(loom))]
#[allow(clippy::cast_possible_truncation, reason = "less than a block's header and key")]
pub(crate) fn prepare_stub(space: Space<'_>, place: Granule, key: &Key<'_>, hash: u64, header: &ObjectHeader) -> usize {
    prepare(space, place, key, hash, header.meta, header.value_bytes);
    let (at, offset) = (place.at() + SHAPE, place_offset(key));
    let shape = space.words.load(at) & !(0xffff << 16) | offset << 16 | STUB;
    space.words.store_private(at, shape);
    place.at() + offset as usize / 8
}

#[inline]
fn key_bytes_of(shape: u64) -> u64 {
    shape & 0xffff
}

#[inline]
fn offset_of(shape: u64) -> u64 {
    shape >> 16 & 0xffff
}

#[inline]
fn value_bytes_of(sizes: u64) -> u64 {
    sizes & 0xffff_ffff
}

/// An object in view, its shape checked against its block: four words, as they are moved with every guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) place: Granule,
    pub(crate) version: u64,
    /// Words 5 and 7, as they stood there when they were checked.
    sizes: u64,
    shape: u64,
}

impl Placed {
    /// Reads the header of a block that is pinned, or looked at under the lock.
    #[inline]
    pub(crate) fn read(space: Space<'_>, place: Granule) -> Result<Self, StateError> {
        let (words, at) = (space.words, place.at());
        let block_bytes = u64::from(Sizes::of_word(words.load(at)).granules) * GRANULE_BYTES;
        let room = (space.layout.heap_end - place.number()) * GRANULE_BYTES;
        let (shape, sizes) = (words.load(at + SHAPE), words.load(at + VALUE_AND_SCHEMA));
        let (key_bytes, offset, value_bytes) = (key_bytes_of(shape), offset_of(shape), value_bytes_of(sizes));
        let fits = block_bytes <= room
            && key_bytes <= KEY_BYTES_MAX as u64
            && key_bytes >= 1
            && offset >= KEY_OFFSET + key_bytes
            && offset.is_multiple_of(VALUE_ALIGN)
            && value_bytes <= u64::from(VALUE_BYTES_MAX)
            && offset + value_bytes <= block_bytes;
        if !fits {
            return Err(StateError::corrupt("header of an object", at));
        }
        Ok(Self { place, version: words.load(at + VERSION), sizes, shape })
    }

    /// The same of an object or a stub.
    #[inline]
    pub(crate) fn read_any(space: Space<'_>, place: Granule) -> Result<Self, StateError> {
        Self::read(space, place).or_else(|error| Self::read_stub(space, place).ok_or(error))
    }

    /// The same of a stub alone; `None` if it is none.
    #[cold]
    pub(crate) fn read_stub(space: Space<'_>, place: Granule) -> Option<Self> {
        let (words, at) = (space.words, place.at());
        let block_bytes = u64::from(Sizes::of_word(words.load(at)).granules) * GRANULE_BYTES;
        let room = (space.layout.heap_end - place.number()) * GRANULE_BYTES;
        let (shape, sizes) = (words.load(at + SHAPE), words.load(at + VALUE_AND_SCHEMA));
        let (key_bytes, offset) = (key_bytes_of(shape) & !STUB, offset_of(shape));
        let fits = shape & STUB != 0
            && block_bytes <= room
            && key_bytes <= KEY_BYTES_MAX as u64
            && key_bytes >= 1
            && offset >= KEY_OFFSET + key_bytes
            && offset.is_multiple_of(VALUE_ALIGN)
            && value_bytes_of(sizes) <= u64::from(VALUE_BYTES_MAX)
            && offset + STORED_BYTES <= block_bytes;
        fits.then(|| Self { place, version: words.load(at + VERSION), sizes, shape })
    }

    /// Whether its value is not in the segment.
    #[inline]
    pub(crate) fn is_stub(&self) -> bool {
        self.shape & STUB != 0
    }

    /// What is known of it without its value, read anew but for what was checked.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the words")]
    pub(crate) fn header(&self, space: Space<'_>) -> ObjectHeader {
        let (words, at) = (space.words, self.place.at());
        let meta = Meta {
            type_id: words.load(at + TYPE_ID),
            schema_version: (self.sizes >> 32) as u32,
            encoding: Encoding::of_code((self.shape >> 40) as u8),
        };
        ObjectHeader {
            version: self.version,
            meta,
            value_bytes: value_bytes_of(self.sizes) as u32,
            modified_unix_ms: words.load(at + MODIFIED),
        }
    }

    /// Where its value lies.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "fields of the words, which were checked")]
    pub(crate) fn value(&self) -> ValuePlace {
        let offset = self.place.offset() + offset_of(self.shape) as usize;
        ValuePlace { offset, bytes: value_bytes_of(self.sizes) as usize }
    }

    /// Bytes of its value, wherever that is.
    #[cfg(not(loom))]
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the word")]
    pub(crate) fn value_bytes(&self) -> u32 {
        value_bytes_of(self.sizes) as u32
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the word")]
    pub(crate) fn namespace(&self) -> Namespace {
        Namespace((self.shape >> 32) as u8)
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a field of the word")]
    pub(crate) fn key_bytes(&self) -> usize {
        usize::from(self.shape as u8)
    }

    /// Whether the block, pinned anew, has this very object.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn is_there(&self, space: Space<'_>) -> bool {
        space.words.load(self.place.at() + VERSION) == self.version
    }

    /// Whether its key may be that of `other`: it is of the same length and namespace.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn has_shape_of_key(&self, other: &Self) -> bool {
        self.key_bytes() == other.key_bytes() && self.namespace() == other.namespace()
    }

    /// Whether it is the object of `key`.
    #[inline]
    pub(crate) fn has_key(&self, space: Space<'_>, key: &Key<'_>) -> bool {
        let at = self.place.at() + KEY;
        self.key_bytes() == key.bytes()
            && self.namespace() == key.namespace()
            && key.words().enumerate().all(|(index, word)| space.words.load(at + index) == word)
    }

    /// The words of its key.
    pub(crate) fn key_words<'a>(&self, space: Space<'a>) -> impl Iterator<Item = u64> + use<'a> {
        let at = self.place.at() + KEY;
        (at..at + self.key_bytes().div_ceil(8)).map(move |index| space.words.load(index))
    }

    /// Its key's text, copied; `None` if it is no key at all.
    pub(crate) fn key_text(&self, space: Space<'_>) -> Option<String> {
        let mut bytes: Vec<u8> = self.key_words(space).flat_map(u64::to_ne_bytes).collect();
        bytes.truncate(self.key_bytes());
        let text = String::from_utf8(bytes).ok()?;
        Key::new(self.namespace(), &text).ok()?;
        Some(text)
    }

    /// The hash that its header names, for checks.
    pub(crate) fn hash(&self, space: Space<'_>) -> u64 {
        space.words.load(self.place.at() + HASH)
    }
}
