//! The backend that fails as planned: what is planned happens, to that call and no other, and nothing else does.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use praas_storage::faulty::{Fault, Faulty, Operation, Refusal, When};
use praas_storage::{Backend, BlobName, Folder, MemoryBackend, StorageError};

/// Longer than any wait here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn faulty() -> (Faulty, MemoryBackend) {
    let memory = MemoryBackend::new();
    (Faulty::new(Arc::new(memory.clone())), memory)
}

fn blob(number: u128) -> BlobName {
    BlobName { folder: Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 }, number }
}

/// One call of each operation, in the order of [`OPERATIONS`].
fn each_operation(backend: &dyn Backend) -> [Result<(), StorageError>; 9] {
    let folder = blob(1).folder;
    [
        backend.put(&blob(1), b"12345678"),
        backend.flush(&folder),
        backend.publish(&folder, None, b"manifest").map(drop),
        backend.read(&blob(1), 0, &mut [0; 8]),
        backend.manifest(&folder).map(drop),
        backend.blobs(&folder, None).map(drop),
        backend.folders(None).map(drop),
        backend.remove(&[blob(9)]),
        backend.remove_folder(&folder),
    ]
}

const OPERATIONS: [Operation; 9] = [
    Operation::Put,
    Operation::Flush,
    Operation::Publish,
    Operation::Read,
    Operation::Manifest,
    Operation::Blobs,
    Operation::Folders,
    Operation::Remove,
    Operation::RemoveFolder,
];

#[test]
fn every_call_in_turn_is_refused_as_planned_and_no_other() {
    let refusals = [Refusal::Failed, Refusal::Full, Refusal::Denied, Refusal::Unusable];
    for number in 0..OPERATIONS.len() {
        for refusal in refusals {
            let (backend, _) = faulty();
            backend.plan(When::Call(number as u64), Fault::Refuse(refusal));
            for (call, result) in each_operation(&backend).into_iter().enumerate() {
                match result {
                    Err(error) if call == number => {
                        let is_it = match refusal {
                            Refusal::Failed => matches!(error, StorageError::Failed { .. }),
                            Refusal::Full => matches!(error, StorageError::Full { .. }),
                            Refusal::Denied => matches!(error, StorageError::Denied { .. }),
                            Refusal::Unusable => matches!(error, StorageError::Unusable { .. }),
                        };
                        assert!(is_it, "{refusal:?}: {error}");
                    }
                    // The blob is not there when its put was refused.
                    Err(StorageError::Missing { .. }) => assert_eq!((call, number), (3, 0)),
                    Err(error) => panic!("call {call}, while {number} is to be refused: {error}"),
                    Ok(()) => assert_ne!(call, number, "{refusal:?} did not happen"),
                }
            }
            assert_eq!(backend.calls(), OPERATIONS.len() as u64);
        }
    }
}

#[test]
fn a_lost_acknowledgement_is_late_and_the_work_is_done() {
    for (number, operation) in OPERATIONS.into_iter().enumerate() {
        let (backend, _) = faulty();
        backend.plan(When::Nth(operation, 0), Fault::LoseAcknowledgement);
        for (call, result) in each_operation(&backend).into_iter().enumerate() {
            match result {
                Err(StorageError::Late { .. }) => assert_eq!(call, number),
                other => other.expect("all others go through, and find what was done before"),
            }
        }
    }
    let (backend, memory) = faulty();
    backend.plan(When::Every(Operation::Publish), Fault::LoseAcknowledgement);
    let folder = blob(1).folder;
    backend.publish(&folder, None, b"is there").expect_err("it is late");
    assert_eq!(memory.manifest(&folder).unwrap().expect("it was published").bytes, b"is there");
    assert!(matches!(backend.publish(&folder, None, b"again"), Err(StorageError::Conflict { .. })));
}

#[test]
fn a_stalled_call_goes_on_when_it_is_released_and_is_late_when_it_is_not() {
    let (backend, memory) = faulty();
    backend.plan(When::Call(0), Fault::Stall);
    thread::scope(|scope| {
        let stalled = scope.spawn(|| backend.put(&blob(1), b"bytes"));
        assert!(backend.wait_for_stalled(1, PATIENCE));
        assert_eq!(memory.used_bytes(), 0, "a stalled call has not happened");
        backend.put(&blob(2), b"others").expect("others go on");
        backend.release();
        stalled.join().unwrap().expect("it goes on");
    });
    memory.read(&blob(1), 0, &mut [0; 5]).expect("it is there");
    assert!(!backend.wait_for_stalled(1, Duration::ZERO));
    let backend = backend.with_stall_limit_ms(10);
    backend.plan(When::Every(Operation::Remove), Fault::Stall);
    let error = backend.remove(&[blob(1)]).expect_err("nobody releases it");
    assert!(matches!(error, StorageError::Late { limit_ms: 10, .. }), "{error}");
    memory.read(&blob(1), 0, &mut [0; 5]).expect("it was not removed");
    backend.heal();
    backend.remove(&[blob(1)]).expect("it is healed");
    assert_eq!((backend.calls_of(Operation::Remove), backend.calls_of(Operation::Put)), (2, 2));
}

#[test]
fn what_is_read_is_old_cut_short_or_damaged_as_planned() {
    let (backend, _) = faulty();
    let folder = blob(1).folder;
    let read = |backend: &Faulty, fault: Option<Fault>| {
        if let Some(fault) = fault {
            backend.plan(When::Call(backend.calls()), fault);
        }
        let mut bytes = *b"--------";
        backend.read(&blob(1), 0, &mut bytes).map(|()| bytes)
    };
    backend.put(&blob(1), b"12345678").unwrap();
    assert_eq!(&read(&backend, Some(Fault::Truncate)).unwrap(), b"1234\0\0\0\0");
    assert_eq!(&read(&backend, Some(Fault::Damage)).unwrap(), b"12344678");
    assert!(matches!(read(&backend, Some(Fault::Old)), Err(StorageError::Missing { .. })));
    assert_eq!(&read(&backend, None).unwrap(), b"12345678");
    let first = backend.publish(&folder, None, b"first").unwrap();
    backend.plan(When::Every(Operation::Manifest), Fault::Old);
    assert_eq!(backend.manifest(&folder).unwrap(), None);
    backend.publish(&folder, Some(&first), b"second").unwrap();
    let old = backend.manifest(&folder).unwrap().expect("there was one");
    assert_eq!((old.bytes.as_slice(), &old.revision), (b"first".as_slice(), &first));
    // Who takes it for the newest is told so by the publish.
    assert!(matches!(backend.publish(&folder, Some(&old.revision), b"third"), Err(StorageError::Conflict { .. })));
    backend.heal();
    for number in 2..6 {
        backend.put(&blob(number), b"").unwrap();
    }
    backend.plan(When::Nth(Operation::Blobs, 0), Fault::Truncate);
    assert_eq!(backend.blobs(&folder, None).unwrap().len(), 2);
    assert_eq!(backend.blobs(&folder, None).unwrap().len(), 5);
}

#[test]
fn what_is_written_is_cut_short_or_damaged_as_planned() {
    let (backend, memory) = faulty();
    backend.plan(When::Nth(Operation::Put, 0), Fault::Truncate);
    backend.plan(When::Nth(Operation::Put, 1), Fault::Damage);
    backend.plan(When::From(2), Fault::Truncate);
    backend.put(&blob(1), b"12345678").expect("nobody is told");
    backend.put(&blob(2), b"12345678").expect("nobody is told");
    backend.publish(&blob(1).folder, None, b"manifest").expect("nobody is told");
    let error = memory.read(&blob(1), 0, &mut [0; 8]).expect_err("it is shorter");
    assert!(matches!(error, StorageError::Truncated { expected: 8, actual: 4, .. }), "{error}");
    let mut bytes = [0; 8];
    memory.read(&blob(2), 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"12344678");
    assert_eq!(memory.manifest(&blob(1).folder).unwrap().unwrap().bytes, b"mani");
}
