//! Snapshots that follow each other say what the state is, and share what did not change.

use std::sync::Arc;

use praas_storage::snapshot::{SectionKind, Snapshot, WritePlan, write};
use praas_storage::{Backend, MemoryBackend, Owner};

use crate::model::{Model, check, folder, seed, value};
use crate::random::Random;

fn memory() -> Arc<dyn Backend> {
    Arc::new(MemoryBackend::new())
}

fn change(model: &mut Model, random: &mut Random, changes: usize) {
    for _ in 0..changes {
        let resident = model.resident();
        let known = (!resident.is_empty()).then(|| resident[random.below(resident.len())].clone());
        match (random.below(10), known) {
            (0..3, Some(name)) => model.delete(&name),
            (3..6, Some(name)) => {
                let value = value(random, 3000);
                model.put(name, value);
            }
            _ => {
                let bytes = 1 + random.below(20);
                let name = (u8::try_from(random.below(3)).unwrap(), random.bytes(bytes));
                if model.may_put(&name) {
                    let value = value(random, 3000);
                    model.put(name, value);
                }
            }
        }
    }
    let kinds = [SectionKind::LEDGER, SectionKind::MAILBOX, SectionKind::WAKE_UPS, SectionKind(77)];
    model.sections = kinds
        .into_iter()
        .filter_map(|kind| {
            let bytes = random.below(20_000);
            (random.below(3) > 0).then(|| (kind, random.bytes(bytes)))
        })
        .collect();
}

#[test]
fn every_generation_says_what_the_state_is() {
    let mut random = Random::new(seed());
    for round in 0..12 {
        let backend = memory();
        let mut model = Model { hash_seed: random.next(), state_bytes: 1 << 20, ..Model::default() };
        let mut base: Option<Snapshot> = None;
        let mut epoch = 1;
        for generation in 0..8 {
            // More changes than a page has objects, now and then: so the number of pages changes too.
            let changes = [0, 1, 20, 2500][random.below(if round < 3 { 4 } else { 3 })];
            change(&mut model, &mut random, changes);
            // A server that cannot hash as before has all in memory.
            if model.absent.is_empty() && random.below(8) == 0 {
                model.hash_seed = random.next();
            }
            let plan =
                WritePlan { threads: 1 + random.below(4), compress: random.below(2) == 0, ..WritePlan::new(epoch) };
            let (written, _) = write(&backend, &folder(), base.as_ref(), &model, &plan)
                .unwrap_or_else(|error| panic!("round {round}, generation {generation}: {error}"));
            assert_eq!(written.epoch(), epoch);
            let opened = check(&backend, &model);
            base = Some(if random.below(2) == 0 {
                epoch += 1;
                model.sleep(&opened, &mut random);
                opened.claim(epoch, Owner::default()).unwrap()
            } else {
                written
            });
        }
    }
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let mut random = Random::new(seed());
    let backend = memory();
    let mut model = Model::filled(&mut random, 6000, 200);
    model.sections.clear();
    let (first, all) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    assert_eq!(all.values_written + all.values_reused, 6000);
    assert!(first.pages() >= 8);

    let (second, none) = write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1)).unwrap();
    assert_eq!((none.values_written, none.pages_written, none.blobs), (0, 0, 0));
    assert_eq!(none.pages_reused, u64::from(second.pages()));
    check(&backend, &model);

    model.put((0, b"key/17".to_vec()), random.bytes(200));
    let (third, one) = write(&backend, &folder(), Some(&second), &model, &WritePlan::new(1)).unwrap();
    assert_eq!((one.values_written, one.pages_written), (1, 1));
    assert!(
        (1..=2).contains(&one.blobs),
        "{one:?}: the value and its page lie together, or were written by two threads"
    );
    assert!(one.bytes < all.bytes / 8, "{one:?} after {all:?}");
    check(&backend, &model);

    // Nothing of a process that slept all the time is read or written.
    model.sleep(&third, &mut random);
    model.absent = (0..third.pages()).collect();
    let (_, asleep) = write(&backend, &folder(), Some(&third), &model, &WritePlan::new(1)).unwrap();
    assert_eq!((asleep.values_written, asleep.pages_written, asleep.blobs), (0, 0, 0));
}

#[test]
fn an_emptied_state_leaves_no_blob_behind() {
    let mut random = Random::new(seed());
    let backend = memory();
    let mut model = Model::filled(&mut random, 700, 300);
    let (first, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    check(&backend, &model);
    model.objects.clear();
    model.sections.clear();
    write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1)).unwrap();
    let empty = check(&backend, &model);
    assert_eq!(empty.usage().blobs, 0);
}

#[test]
fn garbage_is_never_much_more_than_what_lives() {
    let mut random = Random::new(seed());
    let backend = memory();
    let mut model = Model { hash_seed: 1, state_bytes: 128 << 20, ..Model::default() };
    let name = |number: usize| (0, format!("{number}").into_bytes());
    for number in 0..2000 {
        model.put(name(number), random.bytes(48 << 10));
    }
    let plan = WritePlan { compress: false, ..WritePlan::new(1) };
    let (mut base, first) = write(&backend, &folder(), None, &model, &plan).unwrap();
    // One in ten lives on in each chunk.
    for number in (0..2000).filter(|number| number % 10 > 0) {
        model.delete(&name(number));
    }
    let (second, kept) = write(&backend, &folder(), Some(&base), &model, &plan).unwrap();
    assert_eq!(kept.moved_bytes, 0, "the garbage was still alive when this began");
    check(&backend, &model);
    // Asleep or not, what lives is moved.
    base = second;
    model.sleep(&base, &mut random);
    let (third, moved) = write(&backend, &folder(), Some(&base), &model, &plan).unwrap();
    assert!(moved.moved_bytes > 0 && moved.moved_bytes < first.bytes / 8, "{moved:?}");
    model.absent.clear();
    model.stubs.clear();
    check(&backend, &model);
    let usage = third.usage();
    assert!(usage.stored_bytes <= 2 * usage.live_bytes, "{usage:?}");
}
