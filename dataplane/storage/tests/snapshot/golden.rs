//! Snapshots of the present layout are read as ever, and others are refused by name.
//!
//! `golden/v2` has one, with values in all forms and an amended page: written by `keeps_a_golden_snapshot` and never changed since. A
//! later layout gets a directory of its own. `golden/v1` has the manifest of a layout that no release wrote.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use praas_storage::snapshot::{MANIFEST_VERSION, Manifest, SectionKind, Snapshot, SnapshotError, WritePlan, write};
use praas_storage::{Backend, BlobName, MemoryBackend};

use crate::model::{Model, check, folder, manifest, stored};
use crate::random::Random;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshot/golden/v2")
}

fn model() -> Model {
    let mut random = Random::new(1);
    let mut model = Model { hash_seed: 0x5eed, state_bytes: 32 << 20, ..Model::default() };
    for number in 0..200 {
        model.put((number % 3, format!("golden/{number}").into_bytes()), random.bytes(usize::from(number)));
    }
    model.put((0, b"text".to_vec()), b"golden ".repeat(100));
    model.put((0, b"long".to_vec()), b"golden ".repeat(1_200_000));
    model.put((0, "schlüssel".as_bytes().to_vec()), Vec::new());
    model.sections = vec![(SectionKind::LEDGER, vec![7; 30]), (SectionKind::MAILBOX, random.bytes(4_200))];
    model
}

/// The same later: some values were replaced, which amends their pages.
fn amended(mut model: Model) -> Model {
    for number in (3..200_u8).step_by(60) {
        model.put((number % 3, format!("golden/{number}").into_bytes()), vec![number; usize::from(number)]);
    }
    model
}

#[test]
fn the_golden_snapshot_is_read_as_it_was_written() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut blobs = 0;
    for file in fs::read_dir(directory()).unwrap() {
        let file = file.unwrap();
        let bytes = fs::read(file.path()).unwrap();
        let name = file.file_name().into_string().unwrap();
        if name == "manifest" {
            backend.publish(&folder(), None, &bytes).unwrap();
            assert_eq!(Manifest::parse(&bytes).unwrap().encode(), bytes, "the layout changed under its version");
        } else {
            let number = u128::from_str_radix(&name, 16).unwrap();
            backend.put(&BlobName { folder: folder(), number }, &bytes).unwrap();
            blobs += 1;
        }
    }
    assert!(blobs >= 4, "a value of pieces and the rest");
    let snapshot = check(&backend, &amended(model()));
    assert_eq!((snapshot.epoch(), snapshot.pages()), (3, 2));
    assert!(manifest(&backend).pages.iter().flatten().any(|place| place.amendment.is_some()));
}

#[test]
fn a_manifest_of_another_layout_is_refused_by_its_version() {
    let bytes = fs::read(directory().with_file_name("v1").join("manifest")).unwrap();
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    backend.publish(&folder(), None, &bytes).unwrap();
    let refused = Snapshot::open(&backend, &folder()).unwrap_err();
    assert!(matches!(refused, SnapshotError::Version { actual: 1, known: MANIFEST_VERSION, .. }), "{refused}");
    assert!(refused.to_string().contains("version 1"), "{refused}");
}

/// Made the golden snapshot. It refuses to make it again.
#[test]
#[ignore = "it writes files of the source tree"]
fn keeps_a_golden_snapshot() {
    assert!(!directory().exists(), "golden bytes never change");
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let (before, model) = (model(), amended(model()));
    let (base, _) = write(&backend, &folder(), None, &before, &WritePlan::new(3)).unwrap();
    write(&backend, &folder(), Some(&base), &model, &WritePlan::new(3)).unwrap();
    check(&backend, &model);
    fs::create_dir_all(directory()).unwrap();
    fs::write(directory().join("manifest"), backend.manifest(&folder()).unwrap().unwrap().bytes).unwrap();
    for (number, bytes) in stored(&backend) {
        let mut blob = vec![0; usize::try_from(bytes).unwrap()];
        backend.read(&BlobName { folder: folder(), number }, 0, &mut blob).unwrap();
        fs::write(directory().join(format!("{number:032x}")), blob).unwrap();
    }
    let opened = Snapshot::open(&backend, &folder()).unwrap().unwrap();
    println!("{:?}", opened.usage());
}
