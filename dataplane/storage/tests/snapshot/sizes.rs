//! Large values, long sections, many objects.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use praas_storage::faulty::{Faulty, Operation};
use praas_storage::snapshot::{
    PageObject, Restored, SectionKind, Snapshot, SnapshotError, StoredValue, WritePlan, write,
};
use praas_storage::{Backend, MemoryBackend};

use crate::model::{Model, PIECE_BYTES, check, folder, seed};
use crate::random::Random;

#[test]
fn values_of_any_length_come_back_and_go() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let piece = usize::try_from(PIECE_BYTES).unwrap();
    let mut model = Model { hash_seed: random.next(), state_bytes: 64 << 20, ..Model::default() };
    for bytes in [0, 1, 65_535, 65_536, piece - 1, piece, piece + 1, 2 * piece, 2 * piece + 12_345] {
        model.put((0, format!("noise of {bytes}").into_bytes()), random.bytes(bytes));
        let repeating = b"all the same ".iter().copied().cycle().take(bytes).collect();
        model.put((1, format!("text of {bytes}").into_bytes()), repeating);
    }
    model.sections = vec![(SectionKind::MAILBOX, random.bytes(piece + 5))];
    let (first, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    check(&backend, &model);
    // A long value that stays, of a page that changes; one that is replaced; one that goes.
    let name = |bytes: usize| (0, format!("noise of {bytes}").into_bytes());
    model.put(name(2 * piece), random.bytes(2 * piece));
    model.delete(&name(piece + 1));
    model.put(name(1), random.bytes(3));
    let (second, _) = write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1)).unwrap();
    check(&backend, &model);
    model.sleep(&second, &mut random);
    write(&backend, &folder(), Some(&second), &model, &WritePlan::new(1)).unwrap();
    check(&backend, &model);
}

#[test]
fn many_objects_are_opened_by_one_small_read_and_found_by_another() {
    let mut random = Random::new(seed());
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut model = Model { hash_seed: random.next(), state_bytes: 1 << 20, ..Model::default() };
    for number in 0..100_000 {
        model.put((0, format!("user/{number:08}/cart").into_bytes()), Vec::new());
    }
    let (_, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    let (calls, reads) = (faulty.calls(), faulty.calls_of(Operation::Read));
    let snapshot = Snapshot::open(&backend, &folder()).unwrap().unwrap();
    assert_eq!((faulty.calls() - calls, faulty.calls_of(Operation::Read) - reads), (1, 0));
    // 48 bytes for each of 256 pages, and little beside them; ten times that for a million objects.
    assert!(snapshot.usage().manifest_bytes <= 13 << 10, "{:?}", snapshot.usage());
    let name = (0, b"user/00077777/cart".to_vec());
    let page = snapshot.page(snapshot.page_of(model.hash(&name))).unwrap();
    assert!(page.iter().any(|object| *object.key == *name.1));
    assert_eq!(faulty.calls_of(Operation::Read) - reads, 1);
    let longest = crate::model::manifest(&backend).pages.iter().flatten().map(|page| page.whole.bytes).max().unwrap();
    assert!(longest <= 64 << 10, "a page has {longest} bytes");
}

/// Counts what it is given.
#[derive(Default)]
struct Counting {
    values: AtomicU64,
    value_bytes: AtomicU64,
}

impl Restored for Counting {
    fn page(&self, _number: u32, _objects: &[PageObject]) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn value(&self, object: &PageObject, value: &StoredValue<'_>) -> ControlFlow<()> {
        value.fill(&mut vec![0; object.value_bytes as usize]).unwrap();
        self.values.fetch_add(1, Ordering::Relaxed);
        self.value_bytes.fetch_add(u64::from(object.value_bytes), Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn damaged_page(&self, number: u32, error: SnapshotError) -> ControlFlow<()> {
        panic!("page {number}: {error}")
    }
}

#[test]
fn large_values_of_many_pages_are_read_blob_by_blob() {
    const OBJECTS: u64 = 256;
    const VALUE_BYTES: usize = 128 << 10;
    let mut random = Random::new(seed());
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut model = Model { hash_seed: random.next(), state_bytes: 2 << 30, ..Model::default() };
    for number in 0..OBJECTS {
        model.put((0, format!("picture/{number}").into_bytes()), random.bytes(VALUE_BYTES));
    }
    let (snapshot, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    assert!(snapshot.pages() >= 64, "{} pages: too few to tell", snapshot.pages());
    let blobs = crate::model::manifest(&backend).blobs.len() as u64;
    for threads in [1, 8] {
        let (before, restored) = (faulty.calls_of(Operation::Read), Counting::default());
        snapshot.restore(0..snapshot.pages(), threads, &restored);
        assert_eq!(restored.values.into_inner(), OBJECTS);
        assert_eq!(restored.value_bytes.into_inner(), OBJECTS * VALUE_BYTES as u64);
        let reads = faulty.calls_of(Operation::Read) - before;
        // One for each blob of values and one for all pages; what a blob has too much for one read of takes another one.
        assert!(reads <= 2 * blobs, "{reads} reads of {blobs} blobs by {threads} threads");
    }
}
