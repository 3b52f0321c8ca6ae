//! Storage that fails, forgets to answer, or tells the past, at every call in turn: what was stored stays what it was, or is the
//! new state; nothing is left behind for good.

use std::sync::Arc;
use std::time::Duration;

use praas_storage::faulty::{Fault, Faulty, Refusal, When};
use praas_storage::snapshot::{Snapshot, WritePlan, write};
use praas_storage::{Backend, MemoryBackend, Owner};

use crate::model::{Model, check, folder, seed};
use crate::random::Random;

/// Calls of one writing, at most: more would mean that the loop below never ends.
const CALLS_MAX: u64 = 200;

#[test]
fn a_writing_that_fails_at_any_call_leaves_the_old_state_or_the_new_one() {
    let mut random = Random::new(seed());
    let faults = [
        Fault::Refuse(Refusal::Failed),
        Fault::Refuse(Refusal::Full),
        Fault::Refuse(Refusal::Denied),
        Fault::Refuse(Refusal::Unusable),
        Fault::LoseAcknowledgement,
        Fault::Stall,
    ];
    for fault in faults {
        let before = Model::filled(&mut random, 1500, 300);
        let mut after = before.clone();
        for number in 0..400 {
            after.put((0, format!("key/{number}").into_bytes()), random.bytes(200));
        }
        let mut failures = 0;
        for call in 0.. {
            assert!(call < CALLS_MAX);
            let memory: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
            let (base, _) = write(&memory, &folder(), None, &before, &WritePlan::new(1)).unwrap();
            let faulty = Faulty::new(Arc::clone(&memory)).with_stall_limit_ms(1);
            let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
            let base = Snapshot::open(&backend, base.folder()).unwrap().unwrap();
            let before_all = faulty.calls();
            faulty.plan(When::Call(before_all + call), fault);
            let result = write(&backend, &folder(), Some(&base), &after, &WritePlan::new(1));
            let calls = faulty.calls() - before_all;
            faulty.heal();
            // Orphans first: the accounts know of none.
            let stored = Snapshot::open(&backend, &folder()).unwrap().unwrap();
            stored.remove_unreferenced(Duration::from_secs(30)).unwrap();
            let failed = result.is_err();
            failures += u32::from(failed);
            let stored = check(&memory, if failed { &before } else { &after });
            if failed {
                write(&memory, &folder(), Some(&stored), &after, &WritePlan::new(1)).unwrap();
                check(&memory, &after);
            }
            if calls <= call {
                break;
            }
        }
        println!("{fault:?}: {failures} failures");
        assert!(failures >= 3, "{fault:?} made {failures} writings fail");
    }
}

#[test]
fn a_first_writing_that_fails_leaves_nothing() {
    let mut random = Random::new(seed());
    let model = Model::filled(&mut random, 100, 300);
    let memory = MemoryBackend::new();
    let faulty = Faulty::new(Arc::new(memory.clone()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    faulty.plan(When::Every(praas_storage::faulty::Operation::Flush), Fault::Refuse(Refusal::Failed));
    write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap_err();
    assert!(Snapshot::open(&backend, &folder()).unwrap().is_none());
    assert_eq!(memory.used_bytes(), 0);
}

#[test]
fn a_manifest_of_the_past_can_be_read_and_never_replaces_the_present_one() {
    let mut random = Random::new(seed());
    let faulty = Faulty::new(Arc::new(MemoryBackend::new()));
    let backend: Arc<dyn Backend> = Arc::new(faulty.clone());
    let mut model = Model::filled(&mut random, 100, 300);
    let (first, _) = write(&backend, &folder(), None, &model, &WritePlan::new(1)).unwrap();
    let names: Vec<_> = model.objects.keys().cloned().collect();
    for name in names {
        model.put(name, random.bytes(100));
    }
    write(&backend, &folder(), Some(&first), &model, &WritePlan::new(1)).unwrap();
    faulty.plan(When::Every(praas_storage::faulty::Operation::Manifest), Fault::Old);
    let past = Snapshot::open(&backend, &folder()).unwrap().unwrap();
    assert!(past.facts().position < model.position);
    // Its blobs are gone, and that is what is said.
    let failed = past.page(0).unwrap_err();
    assert!(failed.is_damage(), "{failed}");
    assert!(past.claim(2, Owner::default()).unwrap_err().is_conflict());
    faulty.heal();
    check(&backend, &model);
}
