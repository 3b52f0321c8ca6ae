//! A page of the index: all objects whose hashes begin with its number. An amendment of a page has the same layout, and of the page's
//! objects those that were replaced.
//!
//! ```text
//! offset  bytes
//!      0      4  `page`
//!      4      2  version of this layout
//!      6      2  bits of a hash that name the page
//!      8      4  its number
//!     12      4  objects
//!     16      4  blobs that they lie in
//!     20  16 × n numbers of these
//!                then each object, in the order of hash, namespace and key; numbers as `format::put_var` writes them:
//!                hash less that of the object before (the first: less the page's first hash), namespace (1), bytes of the
//!                key (1), key, version, type id (1 for whether there is one, then 8), schema version, encoding (1), time of
//!                publication, bytes of the value, and where it lies: form (1; 255 for no bytes), which of the blobs, offset,
//!                stored bytes unless they are the value's, checksum (8)
//! ```
//!
//! The manifest has the checksum of each page. Nothing of a page is believed that its shape does not allow: the bytes may be
//! anybody's.

use super::cut::ObjectEntry;
use super::error::Part;
use super::format::{FormatError, Reading, length_u32, put_var};
use super::limits::{KEY_BYTES_MAX, PAGE_BITS_MAX};
use super::location::{Form, Location, NO_BLOB};

const MAGIC: [u8; 4] = *b"page";
/// The layout that is written, and the newest that is read.
pub const PAGE_VERSION: u16 = 1;
/// What stands in place of a form where a value has no bytes.
const NO_BYTES: u8 = 0xff;
/// The shortest object: one byte for each number, and a key of one byte.
const OBJECT_BYTES_MIN: usize = 11;

/// An object as a snapshot has it: all but its value, and where that lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageObject {
    /// The hash of namespace and key.
    pub hash: u64,
    /// Which kind of key it is.
    pub namespace: u8,
    /// The key.
    pub key: Box<[u8]>,
    /// Its version.
    pub version: u64,
    /// Names the type of the value.
    pub type_id: u64,
    /// The version of that type's schema.
    pub schema_version: u32,
    /// How the value is encoded.
    pub encoding: u8,
    /// When it was published, in milliseconds since 1970.
    pub modified_unix_ms: u64,
    /// Bytes of its value.
    pub value_bytes: u32,
    /// Where the value lies.
    pub location: Location,
}

impl PageObject {
    /// What is known of it beside its value.
    #[must_use]
    pub fn entry(&self) -> ObjectEntry<'_> {
        ObjectEntry {
            hash: self.hash,
            namespace: self.namespace,
            key: &self.key,
            version: self.version,
            type_id: self.type_id,
            schema_version: self.schema_version,
            encoding: self.encoding,
            modified_unix_ms: self.modified_unix_ms,
            value_bytes: self.value_bytes,
        }
    }

    /// What errors call it.
    #[must_use]
    pub fn part(&self) -> Part {
        Part::Object { namespace: self.namespace, key: self.key.clone(), version: self.version }
    }
}

/// The page that a hash belongs to.
#[must_use]
pub(crate) fn page_of(hash: u64, bits: u32) -> u32 {
    // No more than PAGE_BITS_MAX bits are left.
    u32::try_from(hash.checked_shr(u64::BITS - bits).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The first hash of a page.
#[must_use]
pub(crate) fn first_hash(page: u32, bits: u32) -> u64 {
    u64::from(page).checked_shl(u64::BITS - bits).unwrap_or(0)
}

/// Appends a page of objects, which come in the order of hash, namespace and key.
pub(crate) fn encode<'k>(
    into: &mut Vec<u8>,
    number: u32,
    bits: u32,
    objects: impl ExactSizeIterator<Item = (ObjectEntry<'k>, Location)> + Clone,
) {
    let mut blobs: Vec<u128> =
        objects.clone().map(|(_, location)| location.blob).filter(|&blob| blob != NO_BLOB).collect();
    blobs.sort_unstable();
    blobs.dedup();
    into.extend_from_slice(&MAGIC);
    into.extend_from_slice(&PAGE_VERSION.to_le_bytes());
    // No more than PAGE_BITS_MAX.
    into.extend_from_slice(&u16::try_from(bits).unwrap_or(u16::MAX).to_le_bytes());
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(&length_u32(objects.len()).to_le_bytes());
    into.extend_from_slice(&length_u32(blobs.len()).to_le_bytes());
    for blob in &blobs {
        into.extend_from_slice(&blob.to_le_bytes());
    }
    let mut last = first_hash(number, bits);
    for (object, location) in objects {
        put_var(into, object.hash - last);
        last = object.hash;
        put_object(into, &object);
        put_location(into, &location, object.value_bytes, &blobs);
    }
}

fn put_object(into: &mut Vec<u8>, object: &ObjectEntry<'_>) {
    // No longer than KEY_BYTES_MAX; a longer one would not be read again.
    into.extend_from_slice(&[object.namespace, u8::try_from(object.key.len()).unwrap_or(0)]);
    into.extend_from_slice(object.key);
    put_var(into, object.version);
    into.push(u8::from(object.type_id != 0));
    if object.type_id != 0 {
        into.extend_from_slice(&object.type_id.to_le_bytes());
    }
    put_var(into, u64::from(object.schema_version));
    into.push(object.encoding);
    put_var(into, object.modified_unix_ms);
    put_var(into, u64::from(object.value_bytes));
}

fn put_location(into: &mut Vec<u8>, location: &Location, value_bytes: u32, blobs: &[u128]) {
    let Ok(blob) = blobs.binary_search(&location.blob) else {
        into.push(NO_BYTES);
        return;
    };
    into.push(location.form.code());
    put_var(into, blob as u64);
    put_var(into, u64::from(location.offset));
    if location.form != Form::Plain {
        put_var(into, u64::from(location.stored_bytes));
    }
    debug_assert!(location.suits(value_bytes), "{location:?} for {value_bytes} bytes");
    into.extend_from_slice(&location.checksum.to_le_bytes());
}

/// The objects of a page, from bytes that may be anything.
///
/// # Errors
/// [`FormatError`] says what is wrong with the bytes, and where.
pub fn parse(bytes: &[u8], number: u32, bits: u32) -> Result<Vec<PageObject>, FormatError> {
    let mut reading = Reading::new(bytes);
    if reading.bytes::<4>()? != MAGIC {
        return Err(reading.malformed("no page"));
    }
    let version = reading.u16()?;
    if version != PAGE_VERSION {
        return Err(FormatError::Version { actual: version.into(), known: PAGE_VERSION.into() });
    }
    if u32::from(reading.u16()?) != bits || bits > PAGE_BITS_MAX || reading.u32()? != number {
        return Err(reading.malformed("another page"));
    }
    let (objects, blobs) = (reading.u32()? as usize, reading.u32()? as usize);
    if blobs > objects || objects > reading.left() / OBJECT_BYTES_MIN {
        return Err(reading.malformed("more objects than fit the page"));
    }
    let blobs: Vec<u128> = (0..blobs).map(|_| reading.u128()).collect::<Result<_, _>>()?;
    let mut page: Vec<PageObject> = Vec::with_capacity(objects);
    for _ in 0..objects {
        let last = page.last().map_or(first_hash(number, bits), |last| last.hash);
        let hash = last.checked_add(reading.var()?).filter(|&hash| page_of(hash, bits) == number);
        let Some(hash) = hash else { return Err(reading.malformed("an object of another page")) };
        let object = object(&mut reading, hash, &blobs)?;
        let follows =
            |last: &PageObject| (last.hash, last.namespace, &last.key) < (object.hash, object.namespace, &object.key);
        if !page.last().is_none_or(follows) {
            return Err(reading.malformed("an object out of order"));
        }
        page.push(object);
    }
    reading.end()?;
    Ok(page)
}

fn object(reading: &mut Reading<'_>, hash: u64, blobs: &[u128]) -> Result<PageObject, FormatError> {
    let (namespace, key_bytes) = (reading.u8()?, usize::from(reading.u8()?));
    if key_bytes == 0 || key_bytes > KEY_BYTES_MAX {
        return Err(reading.malformed("a key without bytes"));
    }
    let key = reading.take(key_bytes)?.into();
    let version = reading.var()?;
    let type_id = match reading.u8()? {
        0 => 0,
        1 => reading.u64()?,
        _ => return Err(reading.malformed("neither a type id nor none")),
    };
    let schema_version = reading.var_u32("a schema version of more than 32 bits")?;
    let (encoding, modified_unix_ms, value_bytes) = (reading.u8()?, reading.var()?, reading.value_bytes()?);
    let location = location(reading, value_bytes, blobs)?;
    Ok(PageObject {
        hash,
        namespace,
        key,
        version,
        type_id,
        schema_version,
        encoding,
        modified_unix_ms,
        value_bytes,
        location,
    })
}

fn location(reading: &mut Reading<'_>, value_bytes: u32, blobs: &[u128]) -> Result<Location, FormatError> {
    let form = reading.u8()?;
    if form == NO_BYTES {
        return if value_bytes == 0 { Ok(Location::EMPTY) } else { Err(reading.malformed("a value without a place")) };
    }
    let form = Form::of_code(form.into()).ok_or_else(|| reading.malformed("an unknown form of a value"))?;
    let blob = usize::try_from(reading.var()?).ok().and_then(|blob| blobs.get(blob)).copied();
    let blob = blob.filter(|&blob| blob != NO_BLOB).ok_or_else(|| reading.malformed("a value in an unnamed blob"))?;
    let offset = reading.var_u32("a value behind the end of any blob")?;
    let stored_bytes = if form == Form::Plain { value_bytes } else { reading.value_bytes()? };
    let location = Location { blob, offset, stored_bytes, checksum: reading.u64()?, form };
    if value_bytes == 0 || !location.suits(value_bytes) || !location.is_sound() {
        return Err(reading.malformed("a value in a place that does not suit it"));
    }
    Ok(location)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u32 = 3;
    const NUMBER: u32 = 5;

    /// A page with objects of all shapes.
    fn sample() -> Vec<u8> {
        let keys: Vec<Vec<u8>> = (1..40_u8).map(|number| vec![b'k'; usize::from(number) * 6]).collect();
        let objects: Vec<(ObjectEntry<'_>, Location)> = keys
            .iter()
            .zip(0_u64..)
            .map(|(key, number)| {
                let value_bytes = [0, 1, 300, 9 << 20][key.len() / 6 % 4];
                let form = [Form::Plain, Form::Plain, Form::Zstd, Form::Pieces][key.len() / 6 % 4];
                // A table of two pieces has 34 bytes.
                let stored_bytes = if form == Form::Plain { value_bytes } else { 34 };
                let offset = if form == Form::Pieces { 0 } else { 1000 };
                let blob = u128::from(number % 3) + (1 << 90);
                let stored = Location { blob, offset, stored_bytes, checksum: number << 40, form };
                let entry = ObjectEntry {
                    hash: first_hash(NUMBER, BITS) + number * 0x0123_4567_89ab,
                    namespace: 1,
                    key,
                    version: number * number,
                    type_id: number % 2,
                    schema_version: 70_000,
                    encoding: 2,
                    modified_unix_ms: 1 << 41,
                    value_bytes,
                };
                (entry, if value_bytes == 0 { Location::EMPTY } else { stored })
            })
            .collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, NUMBER, BITS, objects.iter().copied());
        let parsed = parse(&bytes, NUMBER, BITS).unwrap();
        let back: Vec<_> = parsed.iter().map(|object| (object.entry(), object.location)).collect();
        assert_eq!(back, objects);
        bytes
    }

    /// What a parser lets pass is a page: it can be written again and says the same.
    fn holds(bytes: &[u8]) -> bool {
        let Ok(objects) = parse(bytes, NUMBER, BITS) else { return false };
        let mut again = Vec::new();
        encode(&mut again, NUMBER, BITS, objects.iter().map(|object| (object.entry(), object.location)));
        assert_eq!(parse(&again, NUMBER, BITS).as_ref(), Ok(&objects));
        true
    }

    #[test]
    fn any_other_bytes_are_refused_or_are_a_page_of_their_own() {
        let sound = sample();
        let mut passed = 0;
        for at in 0..sound.len() {
            assert!(!holds(&sound[..at]), "{at} bytes of a longer page");
            for bit in 0..8 {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                passed += u32::from(holds(&bytes));
            }
        }
        assert!(passed > 0, "another letter of a key is a page as well");
        assert!(!holds(&[&sound[..], &[0]].concat()));
        assert!(parse(&sound, NUMBER + 1, BITS).is_err() && parse(&sound, NUMBER, BITS + 1).is_err());
    }

    #[test]
    fn pages_are_cut_from_the_highest_bits() {
        assert_eq!((page_of(u64::MAX, 0), first_hash(0, 0)), (0, 0));
        assert_eq!((page_of(u64::MAX, 18), first_hash(1, 18)), ((1 << 18) - 1, 1 << 46));
        assert_eq!(page_of(first_hash(5, 3), 3), 5);
    }
}
