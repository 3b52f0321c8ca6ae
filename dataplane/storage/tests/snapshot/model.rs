//! A state in plain maps that can be cut, and what a stored snapshot must say of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use praas_storage::snapshot::{
    Cut, CutError, CutFacts, CutValue, Form, Location, Manifest, ObjectEntry, PageObject, Restored, SectionKind,
    SectionPlace, ShowObject, Snapshot, SnapshotError, StoredValue,
};
use praas_storage::{Backend, Folder};

use crate::random::Random;

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) version: u64,
    pub(crate) type_id: u64,
    pub(crate) schema_version: u32,
    pub(crate) encoding: u8,
    pub(crate) modified_unix_ms: u64,
    pub(crate) value: Vec<u8>,
}

/// Namespace and key.
pub(crate) type Name = (u8, Vec<u8>);

/// A state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) objects: BTreeMap<Name, Object>,
    pub(crate) sections: Vec<(SectionKind, Vec<u8>)>,
    pub(crate) position: u64,
    pub(crate) hash_seed: u64,
    pub(crate) state_bytes: u64,
    /// Of which pages nothing is in memory, and how many bits name them.
    pub(crate) absent: BTreeSet<u32>,
    pub(crate) absent_bits: u32,
    /// Values that are only stored.
    pub(crate) stubs: HashMap<Name, Location>,
}

pub(crate) fn folder() -> Folder {
    Folder { process: "notes/alice".parse().unwrap(), incarnation: 7 }
}

impl Model {
    pub(crate) fn hash(&self, name: &Name) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.hash_seed, name).hash(&mut hasher);
        hasher.finish()
    }

    fn is_absent_name(&self, name: &Name) -> bool {
        !self.absent.is_empty() && self.absent.contains(&page(self.hash(name), self.absent_bits))
    }

    /// Puts a value under a name whose page is in memory.
    pub(crate) fn put(&mut self, name: Name, value: Vec<u8>) {
        assert!(!self.is_absent_name(&name), "a page is restored before it is changed");
        self.position += 1;
        self.stubs.remove(&name);
        let version = self.position;
        let object = Object {
            version,
            type_id: if version.is_multiple_of(3) { 0 } else { version.wrapping_mul(0x9e37_79b9_7f4a_7c15) },
            schema_version: u32::try_from(version % 5).unwrap(),
            encoding: u8::try_from(version % 3).unwrap(),
            modified_unix_ms: 1_700_000_000_000 + version,
            value,
        };
        self.objects.insert(name, object);
    }

    pub(crate) fn delete(&mut self, name: &Name) {
        assert!(!self.is_absent_name(name));
        self.position += 1;
        self.stubs.remove(name);
        self.objects.remove(name);
    }

    /// Makes a state of random objects.
    pub(crate) fn filled(random: &mut Random, objects: usize, value_bytes: usize) -> Self {
        let mut model = Self { hash_seed: random.next(), state_bytes: 1 << 20, ..Self::default() };
        for number in 0..objects {
            let value = value(random, value_bytes);
            model.put((0, format!("key/{number}").into_bytes()), value);
        }
        model.sections = vec![(SectionKind::LEDGER, random.bytes(100)), (SectionKind::MAILBOX, random.bytes(9_000))];
        model
    }

    /// Makes it the state of a process that has just been woken by this snapshot, and was asked for little since.
    pub(crate) fn sleep(&mut self, snapshot: &Snapshot, random: &mut Random) {
        (self.absent_bits, self.absent) = (snapshot.page_bits(), BTreeSet::new());
        self.stubs.clear();
        for number in 0..snapshot.pages() {
            if random.below(2) == 0 {
                self.absent.insert(number);
                continue;
            }
            for object in snapshot.page(number).unwrap() {
                if random.below(2) == 0 {
                    self.stubs.insert((object.namespace, object.key.to_vec()), object.location);
                }
            }
        }
    }

    /// Names whose pages are in memory.
    pub(crate) fn resident(&self) -> Vec<Name> {
        self.objects.keys().filter(|name| !self.is_absent_name(name)).cloned().collect()
    }

    pub(crate) fn may_put(&self, name: &Name) -> bool {
        !self.is_absent_name(name)
    }
}

/// A value that compresses well, or badly.
pub(crate) fn value(random: &mut Random, bytes_max: usize) -> Vec<u8> {
    let bytes = random.below(bytes_max + 1);
    if random.below(2) == 0 { random.bytes(bytes) } else { b"again and ".iter().copied().cycle().take(bytes).collect() }
}

pub(crate) fn page(hash: u64, bits: u32) -> u32 {
    if bits == 0 { 0 } else { u32::try_from(hash >> (64 - bits)).unwrap() }
}

impl Cut for Model {
    fn facts(&self) -> CutFacts {
        CutFacts {
            position: self.position,
            hash_seed: self.hash_seed,
            state_bytes: self.state_bytes,
            objects: self.objects.len() as u64,
        }
    }

    fn sections(&self) -> &[(SectionKind, Vec<u8>)] {
        &self.sections
    }

    fn objects(&self, show: &mut ShowObject<'_>) -> Result<(), CutError> {
        // By name, which is not the order of hashes.
        for (name, object) in &self.objects {
            if self.is_absent_name(name) {
                continue;
            }
            let entry = ObjectEntry {
                hash: self.hash(name),
                namespace: name.0,
                key: &name.1,
                version: object.version,
                type_id: object.type_id,
                schema_version: object.schema_version,
                encoding: object.encoding,
                modified_unix_ms: object.modified_unix_ms,
                value_bytes: u32::try_from(object.value.len()).unwrap(),
            };
            let stub = self.stubs.get(name).map(|location| CutValue::Stored(*location));
            show(entry, stub.unwrap_or(CutValue::Here { token: object.version }))?;
        }
        Ok(())
    }

    fn is_absent(&self, page: u32) -> bool {
        self.absent.contains(&page)
    }

    fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), CutError> {
        let found = self.objects.iter().find(|(_, object)| object.version == token);
        let (name, object) = found.ok_or_else(|| CutError::new(format!("there is no version {token}")))?;
        if self.stubs.contains_key(name) {
            return Err(CutError::new("only its place is in memory"));
        }
        let start = usize::try_from(offset).unwrap();
        into.copy_from_slice(&object.value[start..start + into.len()]);
        Ok(())
    }
}

/// Checks that a stored snapshot is what the state is, by every way of reading it, and that its table of blobs is exact.
pub(crate) fn check(backend: &Arc<dyn Backend>, model: &Model) -> Snapshot {
    let snapshot = Snapshot::open(backend, &folder()).unwrap().expect("it was published");
    assert_eq!(snapshot.facts(), model.facts());
    let mut found = BTreeMap::new();
    for number in 0..snapshot.pages() {
        for object in snapshot.page(number).unwrap() {
            assert_eq!(snapshot.page_of(object.hash), number);
            let mut value = vec![0; object.value_bytes as usize];
            snapshot.value(&object, &mut value).unwrap();
            assert!(found.insert((object.namespace, object.key.to_vec()), seen(&object, value)).is_none());
        }
    }
    assert_eq!(found, model.objects);
    assert_eq!(restored(&snapshot, 3), model.objects);
    for (kind, bytes) in &model.sections {
        assert_eq!(snapshot.section(*kind).unwrap().as_ref(), Some(bytes), "{kind}");
    }
    assert_eq!(snapshot.section_kinds().count(), model.sections.len());
    check_accounts(backend, &snapshot);
    snapshot
}

pub(crate) fn seen(object: &PageObject, value: Vec<u8>) -> Object {
    Object {
        version: object.version,
        type_id: object.type_id,
        schema_version: object.schema_version,
        encoding: object.encoding,
        modified_unix_ms: object.modified_unix_ms,
        value,
    }
}

/// What restoring everything gives.
pub(crate) fn restored(snapshot: &Snapshot, threads: usize) -> BTreeMap<Name, Object> {
    struct Into {
        pages: Mutex<BTreeSet<u32>>,
        objects: Mutex<BTreeMap<Name, Object>>,
        bits: u32,
    }
    impl Restored for Into {
        fn page(&self, number: u32, _: &[PageObject]) -> ControlFlow<()> {
            assert!(self.pages.lock().unwrap().insert(number), "page {number} came twice");
            ControlFlow::Continue(())
        }

        fn value(&self, object: &PageObject, stored: &StoredValue<'_>) -> ControlFlow<()> {
            assert!(self.pages.lock().unwrap().contains(&page(object.hash, self.bits)), "a value before its page");
            let mut value = vec![0; object.value_bytes as usize];
            stored.fill(&mut value).unwrap();
            if let Some(in_place) = stored.in_place() {
                assert_eq!(in_place.unwrap(), value);
            }
            let name = (object.namespace, object.key.to_vec());
            assert!(self.objects.lock().unwrap().insert(name, seen(object, value)).is_none(), "a value came twice");
            ControlFlow::Continue(())
        }

        fn damaged_page(&self, number: u32, error: SnapshotError) -> ControlFlow<()> {
            panic!("page {number}: {error}");
        }
    }
    let into = Into { pages: Mutex::default(), objects: Mutex::default(), bits: snapshot.page_bits() };
    snapshot.restore(0..snapshot.pages(), threads, &into);
    assert_eq!(into.pages.into_inner().unwrap().len(), snapshot.pages() as usize);
    into.objects.into_inner().unwrap()
}

/// Bytes of a piece of a long value.
pub(crate) const PIECE_BYTES: u64 = praas_storage::snapshot::limits::PIECE_BYTES as u64;

/// Checks the table of blobs against what pages, values and sections really take, and against what is there.
pub(crate) fn check_accounts(backend: &Arc<dyn Backend>, snapshot: &Snapshot) {
    let manifest = manifest(backend);
    let sizes: HashMap<u128, u64> = stored(backend).into_iter().collect();
    let mut needed: BTreeMap<u128, u64> = BTreeMap::new();
    let mut need = |location: &Location, value_bytes: u32| {
        if location.stored_bytes > 0 {
            *needed.entry(location.blob).or_default() += u64::from(location.stored_bytes);
        }
        if location.form == Form::Pieces {
            for piece in 1..=u128::from(u64::from(value_bytes).div_ceil(PIECE_BYTES)) {
                needed.insert(location.blob + piece, sizes[&(location.blob + piece)]);
            }
        }
    };
    for (_, place) in &manifest.sections {
        if let SectionPlace::Located { bytes, location } = place {
            need(location, *bytes);
        }
    }
    if let Some(table) = snapshot.files().unwrap() {
        table.places().for_each(|(location, bytes)| need(location, bytes));
    }
    let mut value_bytes = 0;
    for number in 0..snapshot.pages() {
        let page = snapshot.stored_page(number).unwrap();
        for object in page.objects.iter().chain(&page.replaced) {
            need(&object.location, object.value_bytes);
        }
        value_bytes += page.objects.iter().map(|object| u64::from(object.value_bytes)).sum::<u64>();
        let amendment = manifest.pages[number as usize].and_then(|place| place.amendment);
        assert_eq!(page.replaced.len(), amendment.map_or(0, |amendment| amendment.objects as usize));
        let dead_bytes: u64 = page.replaced.iter().map(|object| u64::from(object.value_bytes)).sum();
        assert!(amendment.is_none_or(|amendment| dead_bytes <= amendment.dead_bytes), "page {number}");
    }
    for place in manifest.pages.iter().flatten() {
        for stretch in std::iter::once(place.whole).chain(place.amendment.map(|amendment| amendment.stretch)) {
            *needed.entry(stretch.blob).or_default() += u64::from(stretch.bytes);
        }
    }
    let told: BTreeMap<u128, u64> = manifest.blobs.iter().map(|blob| (blob.number, blob.live_bytes)).collect();
    assert_eq!(told, needed);
    let told: HashMap<u128, u64> = manifest.blobs.iter().map(|blob| (blob.number, blob.bytes)).collect();
    assert_eq!(told, sizes, "blobs that are needed, and blobs that are there");
    assert_eq!(manifest.value_bytes(), value_bytes);
}

pub(crate) fn manifest(backend: &Arc<dyn Backend>) -> Manifest {
    Manifest::parse(&backend.manifest(&folder()).unwrap().unwrap().bytes).unwrap()
}

/// Numbers and lengths of all blobs that are there.
pub(crate) fn stored(backend: &Arc<dyn Backend>) -> Vec<(u128, u64)> {
    let blobs = backend.blobs(&folder(), None).unwrap();
    assert!(blobs.len() < praas_storage::backend::LISTED_MAX, "one list has all of them");
    blobs.iter().map(|entry| (entry.blob.number, entry.bytes)).collect()
}

/// The seed of a test.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("PRAAS_SEED").ok().map(|text| text.parse().expect("PRAAS_SEED is a number"));
    let seed = given.unwrap_or_else(|| crate::random::from_the_system().next());
    println!("PRAAS_SEED={seed}");
    seed
}
