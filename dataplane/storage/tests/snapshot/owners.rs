//! Of two servers that believe to own a process one is told that it does not, and does no harm.

use std::sync::Arc;
use std::time::Duration;

use praas_storage::snapshot::{Snapshot, SnapshotError, WritePlan, write};
use praas_storage::{Backend, BlobName, MemoryBackend, Owner};

use crate::model::{Model, check, folder, seed, stored};
use crate::random::Random;

#[test]
fn who_was_replaced_publishes_nothing_and_removes_nothing() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut model = Model::filled(&mut random, 50, 500);
    let (old, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    let new = Snapshot::open(&backend, &folder()).unwrap().unwrap().claim(2, Owner::default()).unwrap();
    let there = stored(&backend);

    let mut other = model.clone();
    other.put((0, b"from the past".to_vec()), random.bytes(100));
    let refused = write(&backend, &folder(), Some(&old), &other, &WritePlan::new(1)).unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    assert_eq!(stored(&backend), there, "what it had put is removed again");
    assert!(old.claim(3, Owner::default()).unwrap_err().is_conflict());
    assert!(old.remove_unreferenced(Duration::from_secs(30)).unwrap_err().is_conflict());

    model.put((0, b"from the owner".to_vec()), random.bytes(100));
    write(&backend, &folder(), Some(&new), &model, &WritePlan::new(2)).unwrap();
    check(&backend, &model);
}

#[test]
fn of_two_who_claim_the_same_epoch_one_has_it() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let model = Model::filled(&mut random, 5, 50);
    write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    let open = || Snapshot::open(&backend, &folder()).unwrap().unwrap();
    let (one, other) = (open(), open());
    assert_eq!(one.claim(2, Owner::default()).unwrap().epoch(), 2);
    assert!(other.claim(2, Owner::default()).unwrap_err().is_conflict());
}

#[test]
fn an_epoch_never_goes_back() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let model = Model::filled(&mut random, 5, 50);
    let (first, _) = write(&backend, &folder(), None, &model, &WritePlan::new(7)).unwrap();
    assert!(matches!(first.claim(7, Owner::default()), Err(SnapshotError::Unfit { .. })));
    let early = write(&backend, &folder(), Some(&first), &model, &WritePlan::new(6));
    assert!(matches!(early, Err(SnapshotError::Unfit { .. })));
    assert_eq!(first.claim(8, Owner::default()).unwrap().epoch(), 8);
    assert_eq!(Snapshot::open(&backend, &folder()).unwrap().unwrap().epoch(), 8);
}

#[test]
fn orphans_are_removed_and_nothing_else() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let model = Model::filled(&mut random, 50, 500);
    let (snapshot, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    for number in [1_u128, 5, u128::MAX] {
        backend.put(&BlobName { folder: folder(), number }, &[1; 100]).unwrap();
    }
    let removed = snapshot.remove_unreferenced(Duration::from_secs(30)).unwrap();
    assert_eq!((removed.blobs, removed.bytes), (3, 300));
    assert_eq!(snapshot.remove_unreferenced(Duration::from_secs(30)).unwrap().blobs, 0);
    check(&backend, &model);
}

#[test]
fn a_state_that_does_not_fit_the_stored_one_is_refused() {
    let mut random = Random::new(seed());
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut model = Model::filled(&mut random, 50, 500);
    let (first, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    model.absent = [0].into();
    model.hash_seed += 1;
    let refused = write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1));
    assert!(matches!(refused, Err(SnapshotError::Unfit { .. })), "{refused:?}");
    model.hash_seed -= 1;
    model.absent.clear();
    // A value that is said to be stored where the snapshot has nothing.
    let name = model.objects.keys().next().unwrap().clone();
    let bytes = u32::try_from(model.objects[&name].value.len()).unwrap();
    let form = praas_storage::snapshot::Form::Plain;
    let nowhere =
        praas_storage::snapshot::Location { blob: 99, offset: 0, stored_bytes: bytes.max(1), checksum: 0, form };
    model.objects.get_mut(&name).unwrap().value.resize(bytes.max(1) as usize, 0);
    model.objects.get_mut(&name).unwrap().version = 1 << 40;
    model.stubs.insert(name, nowhere);
    let refused = write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1));
    assert!(matches!(refused, Err(SnapshotError::Unfit { .. })), "{refused:?}");
    assert_eq!(
        first.remove_unreferenced(Duration::from_secs(30)).unwrap().blobs,
        0,
        "what it had put is removed again"
    );
}
