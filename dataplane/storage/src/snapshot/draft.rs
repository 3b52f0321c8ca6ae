//! Pages of a cut before they are written.

use std::collections::BTreeMap;

use super::cut::{Cut, CutError, CutValue, ObjectEntry};
use super::error::SnapshotError;
use super::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use super::location::Location;
use super::manifest::PagePlace;
use super::page::{self, PageObject};
use super::sum::{Glimpse, PageSum};
use crate::name::Folder;

/// One object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) hash: u64,
    pub(crate) version: u64,
    type_id: u64,
    modified_unix_ms: u64,
    key_at: u32,
    pub(crate) value_bytes: u32,
    schema_version: u32,
    namespace: u8,
    key_bytes: u8,
    encoding: u8,
    /// What the cut reads its value by, if it has it.
    pub(crate) token: Option<u64>,
    /// Where its value is stored, once it is.
    pub(crate) location: Option<Location>,
}

/// What becomes of a page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fate {
    /// It is written.
    Written,
    /// It is what the snapshot before has.
    Kept,
}

/// One page.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) number: u32,
    keys: Vec<u8>,
    pub(crate) records: Vec<Record>,
    pub(crate) fate: Fate,
    /// Where it lies, once it does; `None` without objects.
    pub(crate) place: Option<PagePlace>,
}

/// All objects that the cut shows of these pages, which come in order.
pub(crate) fn gather(folder: &Folder, cut: &dyn Cut, bits: u32, pages: &[u32]) -> Result<Vec<Draft>, SnapshotError> {
    let mut drafts: Vec<Draft> = pages.iter().map(|&number| Draft::new(number)).collect();
    let mut at = vec![usize::MAX; 1 << bits];
    pages.iter().enumerate().for_each(|(index, &number)| at[number as usize] = index);
    let shown = cut.objects(&mut |entry, value| {
        let draft = drafts.get_mut(at[page::page_of(entry.hash, bits) as usize]);
        draft.map_or(Ok(()), |draft| draft.add(&entry, value))
    });
    shown.map_err(|error| SnapshotError::cut(folder, error))?;
    Ok(drafts)
}

/// The objects of several, by the pages that they belong to.
pub(crate) fn by_pages(mixed: &[Draft], bits: u32) -> Result<BTreeMap<u32, Draft>, CutError> {
    let mut pages = BTreeMap::new();
    for draft in mixed {
        for record in &draft.records {
            let number = page::page_of(record.hash, bits);
            let page: &mut Draft = pages.entry(number).or_insert_with(|| Draft::new(number));
            page.push(&draft.entry(record), record.token, record.location)?;
        }
    }
    Ok(pages)
}

impl Draft {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, keys: Vec::new(), records: Vec::new(), fate: Fate::Written, place: None }
    }

    pub(crate) fn add(&mut self, entry: &ObjectEntry<'_>, value: CutValue) -> Result<(), CutError> {
        let (key_bytes, value_bytes) = (entry.key.len(), entry.value_bytes);
        if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(CutError::new(format!(
                "an object has a key of {key_bytes} and a value of {value_bytes} bytes"
            )));
        }
        let (token, location) = match value {
            CutValue::Here { token } => (Some(token), (value_bytes == 0).then_some(Location::EMPTY)),
            CutValue::Stored(location) if location.suits(value_bytes) => (None, Some(location)),
            CutValue::Stored(location) => {
                let key = entry.key.escape_ascii();
                return Err(CutError::new(format!("`{key}` of {value_bytes} bytes cannot be stored at {location:?}")));
            }
        };
        self.push(entry, token, location)
    }

    fn push(
        &mut self,
        entry: &ObjectEntry<'_>,
        token: Option<u64>,
        location: Option<Location>,
    ) -> Result<(), CutError> {
        let key_at = u32::try_from(self.keys.len()).map_err(|_| CutError::new("a page has more than 4 GiB of keys"))?;
        let key_bytes = u8::try_from(entry.key.len()).map_err(|_| CutError::new("a key of more than 255 bytes"))?;
        self.keys.extend_from_slice(entry.key);
        self.records.push(Record {
            hash: entry.hash,
            version: entry.version,
            type_id: entry.type_id,
            modified_unix_ms: entry.modified_unix_ms,
            key_at,
            value_bytes: entry.value_bytes,
            schema_version: entry.schema_version,
            namespace: entry.namespace,
            key_bytes,
            encoding: entry.encoding,
            token,
            location,
        });
        Ok(())
    }

    /// Makes it the page that is stored.
    pub(crate) fn adopt(&mut self, objects: &[PageObject]) -> Result<(), CutError> {
        objects.iter().try_for_each(|object| self.push(&object.entry(), None, Some(object.location)))
    }

    pub(crate) fn key(&self, record: &Record) -> &[u8] {
        key_of(&self.keys, record)
    }

    fn entry(&self, record: &Record) -> ObjectEntry<'_> {
        ObjectEntry {
            hash: record.hash,
            namespace: record.namespace,
            key: self.key(record),
            version: record.version,
            type_id: record.type_id,
            schema_version: record.schema_version,
            encoding: record.encoding,
            modified_unix_ms: record.modified_unix_ms,
            value_bytes: record.value_bytes,
        }
    }

    /// What errors call a record.
    pub(crate) fn part(&self, record: &Record) -> super::error::Part {
        let key = self.key(record).into();
        super::error::Part::Object { namespace: record.namespace, key, version: record.version }
    }

    /// Puts its records in the order in which pages have them.
    pub(crate) fn sort(&mut self) -> Result<(), CutError> {
        let keys = &self.keys;
        self.records.sort_unstable_by(|left, right| order(keys, left).cmp(&order(keys, right)));
        let twice = self.records.array_windows().find(|[left, right]| order(keys, left) == order(keys, right));
        match twice {
            None => Ok(()),
            Some([record, _]) => Err(CutError::new(format!("it has `{}` twice", key_of(keys, record).escape_ascii()))),
        }
    }

    /// What tells its objects from any others.
    pub(crate) fn sum(&self) -> PageSum {
        PageSum::of(self.records.iter().map(Glimpse::from))
    }

    /// Takes those of a page's objects that it does not have itself; it is sorted, and is afterwards.
    pub(crate) fn fill_up(&mut self, objects: &[PageObject]) -> Result<(), CutError> {
        let own = self.records.len();
        for object in objects {
            let (keys, wanted) = (&self.keys, (object.hash, object.namespace, &*object.key));
            if self.records[..own].binary_search_by(|record| order(keys, record).cmp(&wanted)).is_err() {
                self.push(&object.entry(), None, Some(object.location))?;
            }
        }
        self.sort()
    }

    /// Gives each record the place of its value in an earlier snapshot, where that has the same version of it. That place is
    /// better than what the state says: it may know the value from a snapshot before that one, from where it was moved.
    pub(crate) fn reuse(&mut self, earlier: &[PageObject]) {
        let mut earlier = earlier.iter().peekable();
        for record in &mut self.records {
            let own = order(&self.keys, record);
            while earlier.next_if(|object| (object.hash, object.namespace, &*object.key) < own).is_some() {}
            let same = earlier.peek().filter(|object| (object.hash, object.namespace, &*object.key) == own);
            let same =
                same.filter(|object| object.version == record.version && object.value_bytes == record.value_bytes);
            record.location = same.map(|object| object.location).or(record.location);
        }
    }

    /// All its objects with their places.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (ObjectEntry<'_>, Location)> + Clone {
        self.records.iter().map(|record| {
            let location = record.location.expect("values are stored before their pages");
            (self.entry(record), location)
        })
    }
}

impl From<&Record> for Glimpse {
    fn from(record: &Record) -> Self {
        let &Record { hash, namespace, version, value_bytes, .. } = record;
        Self { hash, namespace, version, value_bytes }
    }
}

fn key_of<'k>(keys: &'k [u8], record: &Record) -> &'k [u8] {
    &keys[record.key_at as usize..][..usize::from(record.key_bytes)]
}

fn order<'k>(keys: &'k [u8], record: &Record) -> (u64, u8, &'k [u8]) {
    (record.hash, record.namespace, key_of(keys, record))
}
