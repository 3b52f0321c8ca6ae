//! Damage anywhere is an error that names the part, never another value; all other parts can still be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use praas_storage::snapshot::{MANIFEST_VERSION, Part, SectionKind, Snapshot, SnapshotError, WritePlan, write};
use praas_storage::{Backend, BlobName, MemoryBackend};

use crate::model::{Model, Name, Object, check, folder, manifest, seed, seen, stored};
use crate::random::Random;

/// Replaces a blob by other bytes, or removes it.
pub(crate) fn replace(backend: &Arc<dyn Backend>, number: u128, bytes: Option<&[u8]>) {
    let blob = BlobName { folder: folder(), number };
    backend.remove(&[blob]).unwrap();
    if let Some(bytes) = bytes {
        backend.put(&blob, bytes).unwrap();
    }
}

pub(crate) fn read(backend: &Arc<dyn Backend>, number: u128, bytes: u64) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(bytes).unwrap()];
    backend.read(&BlobName { folder: folder(), number }, 0, &mut all).unwrap();
    all
}

pub(crate) fn damaged_part(error: SnapshotError) -> Part {
    let text = error.to_string();
    match error {
        SnapshotError::Damaged { part, folder: whose, .. } => {
            assert_eq!(*whose, folder());
            assert!(text.contains(&part.to_string()), "{text}");
            *part
        }
        other => panic!("not told as damage: {other}"),
    }
}

/// Reads all there is: what is whole, which parts are not.
fn survey(snapshot: &Snapshot) -> (BTreeMap<Name, Object>, Vec<Part>) {
    let (mut whole, mut damaged) = (BTreeMap::new(), Vec::new());
    for number in 0..snapshot.pages() {
        match snapshot.page(number) {
            Err(error) => {
                let part = damaged_part(error);
                assert_eq!(part, Part::Page { number });
                damaged.push(part);
            }
            Ok(objects) => {
                for object in objects {
                    let mut value = vec![0; object.value_bytes as usize];
                    match snapshot.value(&object, &mut value) {
                        Ok(()) => drop(whole.insert((object.namespace, object.key.to_vec()), seen(&object, value))),
                        Err(error) => {
                            let part = damaged_part(error);
                            assert_eq!(part, object.part());
                            damaged.push(part);
                        }
                    }
                }
            }
        }
    }
    for kind in snapshot.section_kinds() {
        if let Err(error) = snapshot.section(kind) {
            let part = damaged_part(error);
            assert_eq!(part, Part::Section(kind));
            damaged.push(part);
        }
    }
    (whole, damaged)
}

fn two_pages(random: &mut Random) -> (Arc<dyn Backend>, Model, Snapshot) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut model = Model::filled(random, 60, 200);
    // Two pages by the size of the state.
    model.state_bytes = 32 << 20;
    model.sections = vec![(SectionKind::MAILBOX, random.bytes(5_000)), (SectionKind::LEDGER, random.bytes(50))];
    let (snapshot, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    assert!(snapshot.pages() >= 2);
    (backend, model, snapshot)
}

#[test]
fn a_flipped_bit_of_a_blob_spoils_one_part_and_that_part_says_so() {
    let mut random = Random::new(seed());
    let (backend, model, snapshot) = two_pages(&mut random);
    let mut hits: BTreeMap<&str, u32> = BTreeMap::new();
    for (number, bytes) in stored(&backend) {
        let sound = read(&backend, number, bytes);
        for at in (0..sound.len()).step_by(7) {
            let mut spoilt = sound.clone();
            spoilt[at] ^= 1 << random.below(8);
            replace(&backend, number, Some(&spoilt));
            let (whole, damaged) = survey(&snapshot);
            assert_eq!(damaged.len(), 1, "byte {at} of {number:x}: {damaged:?}");
            for (name, object) in whole {
                assert_eq!(model.objects.get(&name), Some(&object));
            }
            *hits
                .entry(match damaged[0] {
                    Part::Page { .. } => "page",
                    Part::Object { .. } => "object",
                    Part::Section(_) => "section",
                    Part::File { .. } => "file",
                    Part::Manifest => "manifest",
                })
                .or_default() += 1;
        }
        replace(&backend, number, Some(&sound));
    }
    assert_eq!(hits.keys().copied().collect::<Vec<_>>(), ["object", "page", "section"], "{hits:?}");
    check(&backend, &model);
}

#[test]
fn a_blob_that_is_cut_short_or_gone_spoils_what_lies_behind() {
    let mut random = Random::new(seed());
    let (backend, model, snapshot) = two_pages(&mut random);
    for (number, bytes) in stored(&backend) {
        let sound = read(&backend, number, bytes);
        for kept in [Some(0), Some(sound.len() / 2), Some(sound.len() - 1), None] {
            replace(&backend, number, kept.map(|kept| &sound[..kept]));
            let (whole, damaged) = survey(&snapshot);
            assert!(!damaged.is_empty(), "{kept:?} of {} bytes", sound.len());
            for (name, object) in whole {
                assert_eq!(model.objects.get(&name), Some(&object));
            }
        }
        replace(&backend, number, Some(&sound));
    }
    check(&backend, &model);
}

#[test]
fn a_manifest_with_any_other_byte_or_length_is_refused() {
    let mut random = Random::new(seed());
    let (backend, _, _) = two_pages(&mut random);
    let sound = backend.manifest(&folder()).unwrap().unwrap().bytes;
    let mut revision = backend.manifest(&folder()).unwrap().unwrap().revision;
    let mut spoilt: Vec<Vec<u8>> = (0..sound.len()).map(|kept| sound[..kept].to_vec()).collect();
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << random.below(8);
        spoilt.push(bytes);
    }
    spoilt.push([&sound[..], &[0]].concat());
    for bytes in spoilt {
        revision = backend.publish(&folder(), Some(&revision), &bytes).unwrap();
        match Snapshot::open(&backend, &folder()) {
            Err(SnapshotError::Version { part, actual, known, .. }) => {
                assert_eq!((*part, known), (Part::Manifest, MANIFEST_VERSION));
                assert_ne!(actual, MANIFEST_VERSION);
            }
            Err(error) => assert_eq!(damaged_part(error), Part::Manifest),
            Ok(_) => panic!("a manifest that nobody wrote was opened"),
        }
    }
}

#[test]
fn a_manifest_of_another_process_is_refused() {
    let mut random = Random::new(seed());
    let (backend, _, _) = two_pages(&mut random);
    let bytes = backend.manifest(&folder()).unwrap().unwrap().bytes;
    let other = praas_storage::Folder { incarnation: 8, ..folder() };
    backend.publish(&other, None, &bytes).unwrap();
    let error = Snapshot::open(&backend, &other).unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { part, .. } if **part == Part::Manifest), "{error}");
}

#[test]
fn a_damaged_snapshot_is_made_whole_by_the_next_as_far_as_memory_has_it() {
    let mut random = Random::new(seed());
    let (backend, mut model, snapshot) = two_pages(&mut random);
    let place = manifest(&backend).pages.into_iter().flatten().next().unwrap().whole;
    let bytes = stored(&backend).iter().find(|(number, _)| *number == place.blob).unwrap().1;
    let mut spoilt = read(&backend, place.blob, bytes);
    spoilt[place.offset as usize + 30] ^= 1;
    replace(&backend, place.blob, Some(&spoilt));
    let names: Vec<Name> = model.objects.keys().cloned().collect();
    for name in names {
        model.put(name, random.bytes(40));
    }
    let (next, _) = write(&backend, &folder(), Some(&snapshot), &model, &WritePlan::new(1)).unwrap();
    let (whole, damaged) = survey(&next);
    assert_eq!((whole, damaged), (model.objects, Vec::new()));
}
