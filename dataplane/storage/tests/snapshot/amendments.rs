//! Pages of which little was replaced are amended: nothing that is stored is read for it, little is written, and what comes back is
//! what the state is; damage of either part is told.

use std::sync::Arc;

use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::snapshot::{Part, Snapshot, WritePlan, write};
use praas_storage::{Backend, MemoryBackend, Owner};

use crate::damage::{damaged_part, read, replace};
use crate::model::{Model, Name, check, folder, manifest, seed, stored};
use crate::random::Random;

const OBJECTS: usize = 1500;
const PLAN: WritePlan = WritePlan { threads: 3, compress: false, compact: true, epoch: 1, owner: Owner::NOBODY };

fn name(number: usize) -> Name {
    (0, format!("key/{number}").into_bytes())
}

/// A state, stored.
fn first(random: &mut Random, value_bytes: usize) -> (Arc<dyn Backend>, Model, Snapshot) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let mut model = Model::filled(random, OBJECTS, value_bytes);
    model.sections.clear();
    let (snapshot, _) = write(&backend, &folder(), None, &model, &PLAN).unwrap();
    (backend, model, snapshot)
}

/// Replaces the values of so many objects that are in memory.
fn change(model: &mut Model, random: &mut Random, changes: usize, value_bytes: usize) {
    let resident = model.resident();
    for _ in 0..changes.min(resident.len()) {
        let value = random.bytes(value_bytes);
        model.put(resident[random.below(resident.len())].clone(), value);
    }
}

fn amended_pages(backend: &Arc<dyn Backend>) -> usize {
    manifest(backend).pages.iter().flatten().filter(|place| place.amendment.is_some()).count()
}

#[test]
fn one_in_a_hundred_that_was_replaced_costs_a_few_in_a_hundred_and_no_read() {
    let mut random = Random::new(seed());
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut model = Model::filled(&mut random, 6_000, 0);
    model.sections.clear();
    for number in 0..6_000 {
        model.put(name(number), random.bytes(100));
    }
    let (base, all) = write(&backend, &folder(), None, &model, &PLAN).unwrap();
    change(&mut model, &mut random, 60, 100);
    faulty.plan(When::Every(Operation::Read), Fault::Refuse(Refusal::Failed));
    let (second, some) = write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
    faulty.heal();
    assert_eq!(some.values_reused, 0, "{some:?}");
    assert!(some.values_written <= 60 && some.bytes < all.bytes / 20, "{some:?} after {all:?}");
    assert!(amended_pages(&backend) > second.pages() as usize / 2);
    check(&backend, &model);
}

#[test]
fn generations_of_amendments_say_what_the_state_is_until_pages_are_written_anew() {
    let mut random = Random::new(seed());
    let (backend, mut model, mut base) = first(&mut random, 400);
    let (mut amended, mut anew) = (0, 0);
    for generation in 0..30 {
        // Nothing, a few, or now and then objects that come and go.
        let changes = [0, 3, 20, 45][random.below(4)];
        change(&mut model, &mut random, changes, 200);
        let resident = model.resident();
        if generation % 7 == 5 && !resident.is_empty() {
            model.delete(&resident[random.below(resident.len())]);
            let (kind, key) = (1, random.bytes(9));
            if model.may_put(&(kind, key.clone())) {
                model.put((kind, key), random.bytes(50));
            }
        }
        let before = amended_pages(&backend);
        let (written, _) = write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
        let now = amended_pages(&backend);
        amended += now;
        anew += usize::from(now < before);
        let opened = check(&backend, &model);
        base = if random.below(2) == 0 {
            model.sleep(&opened, &mut random);
            opened
        } else {
            written
        };
        for place in manifest(&backend).pages.iter().flatten() {
            let objects = place.amendment.map_or(0, |amendment| amendment.objects);
            assert!(objects * 4 <= place.sum.objects, "{place:?}");
        }
    }
    assert!(amended > 0 && anew > 0, "{amended} amendments, {anew} times fewer than before");
}

#[test]
fn what_comes_or_goes_has_its_page_written_anew() {
    let mut random = Random::new(seed());
    let (backend, mut model, base) = first(&mut random, 100);
    model.put(name(7), random.bytes(80));
    let (second, _) = write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
    assert_eq!(amended_pages(&backend), 1);
    let page = second.page_of(model.hash(&name(7)));
    let in_page = |number: &usize| second.page_of(model.hash(&name(*number))) == page && *number != 7;
    let [gone, replaced] = std::array::from_fn(|at| (0..OBJECTS).filter(in_page).nth(at).unwrap());
    // One goes and another comes: as many as before.
    model.delete(&name(gone));
    let comes = (0_u32..).map(|number| (2, number.to_le_bytes().to_vec()));
    let comes = comes.into_iter().find(|name| second.page_of(model.hash(name)) == page).unwrap();
    model.put(comes, random.bytes(10));
    model.put(name(replaced), random.bytes(10));
    let (_, some) = write(&backend, &folder(), Some(&second), &model, &PLAN).unwrap();
    assert_eq!((amended_pages(&backend), some.pages_written), (0, 1));
    check(&backend, &model);
}

#[test]
fn a_large_value_that_is_replaced_again_and_again_is_not_stored_in_vain() {
    let mut random = Random::new(seed());
    let (backend, mut model, mut base) = first(&mut random, 20);
    for _ in 0..6 {
        model.put(name(1), random.bytes(40_000));
        (base, _) = write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
        check(&backend, &model);
        for place in manifest(&backend).pages.iter().flatten() {
            let dead_bytes = place.amendment.map_or(0, |amendment| amendment.dead_bytes);
            assert!(dead_bytes * 4 <= place.sum.value_bytes, "{place:?}");
        }
    }
}

#[test]
fn a_damaged_amendment_spoils_its_page_and_never_gives_what_was_replaced() {
    let mut random = Random::new(seed());
    let (backend, mut model, base) = first(&mut random, 60);
    change(&mut model, &mut random, 5, 60);
    write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
    let snapshot = check(&backend, &model);
    let sizes: std::collections::HashMap<u128, u64> = stored(&backend).into_iter().collect();
    let places: Vec<_> = manifest(&backend).pages.into_iter().zip(0_u32..).collect();
    let (place, number) = *places.iter().find(|(place, _)| place.is_some_and(|it| it.amendment.is_some())).unwrap();
    let amendment = place.unwrap().amendment.unwrap();
    let sound = read(&backend, amendment.stretch.blob, sizes[&amendment.stretch.blob]);
    for at in 0..amendment.stretch.bytes as usize {
        let mut spoilt = sound.clone();
        spoilt[amendment.stretch.offset as usize + at] ^= 1 << random.below(8);
        replace(&backend, amendment.stretch.blob, Some(&spoilt));
        assert_eq!(damaged_part(snapshot.page(number).unwrap_err()), Part::Page { number });
    }
    for left in [None, Some(&sound[..amendment.stretch.offset as usize])] {
        replace(&backend, amendment.stretch.blob, left);
        assert_eq!(damaged_part(snapshot.page(number).unwrap_err()), Part::Page { number });
    }
    // Memory has it all: a page whose amendment cannot be read is written anew when it changes again.
    let in_page = |name: &&Name| snapshot.page_of(model.hash(name)) == number;
    let again = model.objects.keys().find(in_page).unwrap().clone();
    let all: Vec<Name> = model.objects.keys().cloned().collect();
    model.put(again, random.bytes(30));
    let (next, _) = write(&backend, &folder(), Some(&snapshot), &model, &PLAN).unwrap();
    assert!(manifest(&backend).pages[number as usize].unwrap().amendment.is_none());
    // All but the values of other pages whose amendments lay in the same blob can be read.
    for name in all.iter().filter(|name| next.page_of(model.hash(name)) == number) {
        let page = next.page(number).unwrap();
        let found = page.iter().find(|object| (object.namespace, &*object.key) == (name.0, &*name.1)).unwrap();
        assert_eq!(found.version, model.objects[name].version);
    }
}

#[test]
fn an_amendment_that_belongs_to_another_state_of_its_page_is_damage() {
    let mut random = Random::new(seed());
    let (backend, mut model, base) = first(&mut random, 60);
    change(&mut model, &mut random, 5, 60);
    let (second, _) = write(&backend, &folder(), Some(&base), &model, &PLAN).unwrap();
    let mut mixed = manifest(&backend);
    let number = mixed.pages.iter().position(|place| place.is_some_and(|it| it.amendment.is_some())).unwrap();
    // As if the page had not been amended: every byte of it is sound, and it is not what the state was.
    mixed.pages[number].as_mut().unwrap().amendment = None;
    let revision = backend.manifest(&folder()).unwrap().unwrap().revision;
    backend.publish(&folder(), Some(&revision), &mixed.encode()).unwrap();
    let found = Snapshot::open(&backend, &folder()).unwrap().unwrap();
    let number = u32::try_from(number).unwrap();
    assert_eq!(damaged_part(found.page(number).unwrap_err()), Part::Page { number });
    assert!(second.page(number).is_ok());
}
