//! The power goes, a call fails, room ends, a call does not return: at every call of the file system in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_sys::Errno;

use super::model::{Fault, ModelFiles, root};
use super::{DiskBackend, FileLayer};
use crate::backend::{Backend, Revision};
use crate::error::StorageError;
use crate::name::{BlobName, Folder};

/// Seeds of what a cut leaves, for each call at which it comes.
const CUTS_PER_CALL: u64 = 8;

/// Longest that a test waits for another thread.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Step {
    Put(usize, u128, usize),
    Flush(usize),
    /// Publishes a manifest that names all blobs of the folder.
    Publish(usize),
    /// Removes a blob that the newest manifest does not name any more, as the next one will not.
    PublishWithout(usize, u128),
    Remove(usize, u128),
    RemoveFolder(usize),
}

/// Snapshots of two folders, each twice, with what is in between; then one of them is removed.
const SCRIPT: &[Step] = &[
    Step::Put(0, 1, 10_000),
    Step::Put(0, 2, 0),
    Step::Flush(0),
    Step::Publish(0),
    Step::Put(1, 1, 4096),
    Step::Put(0, 3, 5),
    Step::Flush(0),
    Step::PublishWithout(0, 1),
    Step::Remove(0, 1),
    Step::Flush(1),
    Step::Publish(1),
    Step::Put(0, 4, 8192),
    Step::RemoveFolder(0),
    // Where its directories are has to be made lasting anew.
    Step::Put(0, 5, 300),
    Step::Flush(0),
    Step::Publish(0),
    Step::Put(1, 2, 700),
    Step::Flush(1),
    Step::Publish(1),
];

/// What a caller knows.
#[derive(Debug, Default, Clone)]
struct Known {
    /// Every blob whose put was begun, and how many bytes it has.
    begun: BTreeMap<(usize, u128), usize>,
    put: BTreeSet<(usize, u128)>,
    flushed: BTreeSet<(usize, u128)>,
    /// Those whose removal was begun.
    removing: BTreeSet<(usize, u128)>,
    /// The manifests of each folder that may be the newest: the last one, and one that was begun. `None`: that there is none.
    manifests: BTreeMap<usize, Vec<Option<Vec<u8>>>>,
    revisions: BTreeMap<usize, Revision>,
}

fn folder(index: usize) -> Folder {
    let names = ["notes/alice", "notes.b/alice-2", "a/x"];
    Folder { process: names[index].parse().unwrap(), incarnation: 7 }
}

fn blob(index: usize, number: u128) -> BlobName {
    BlobName { folder: folder(index), number }
}

/// The bytes of a blob: its own, so that no other's can be taken for it.
fn bytes_of(index: usize, number: u128, length: usize) -> Vec<u8> {
    let salt = number.to_le_bytes()[0] ^ index.to_le_bytes()[0] << 6;
    let byte = |at: usize| at.to_le_bytes()[0].wrapping_mul(31) ^ at.to_le_bytes()[1] ^ salt;
    (0..length).map(byte).collect()
}

/// A manifest that names blobs, one number a line.
fn naming(numbers: impl Iterator<Item = u128>) -> Vec<u8> {
    numbers.map(|number| format!("{number}\n")).collect::<String>().into_bytes()
}

fn named(manifest: &[u8]) -> Vec<u128> {
    std::str::from_utf8(manifest).expect("whole").lines().map(|line| line.parse().expect("whole")).collect()
}

impl Known {
    fn may_be(&self, index: usize) -> Vec<Option<Vec<u8>>> {
        self.manifests.get(&index).cloned().unwrap_or_else(|| vec![None])
    }

    fn present(&self, index: usize) -> impl Iterator<Item = u128> {
        self.put
            .iter()
            .filter(move |(of, number)| *of == index && !self.removing.contains(&(*of, *number)))
            .map(|put| put.1)
    }

    fn step(&mut self, backend: &DiskBackend, step: Step) -> Result<(), StorageError> {
        match step {
            Step::Put(index, number, length) => {
                self.begun.insert((index, number), length);
                backend.put(&blob(index, number), &bytes_of(index, number, length))?;
                self.put.insert((index, number));
            }
            Step::Flush(index) => {
                let before: Vec<u128> = self.present(index).collect();
                backend.flush(&folder(index))?;
                self.flushed.extend(before.into_iter().map(|number| (index, number)));
            }
            Step::Publish(index) => {
                let manifest = naming(self.present(index));
                self.publish(backend, index, manifest)?;
            }
            Step::PublishWithout(index, left_out) => {
                let manifest = naming(self.present(index).filter(|number| *number != left_out));
                self.publish(backend, index, manifest)?;
            }
            Step::Remove(index, number) => {
                self.removing.insert((index, number));
                backend.remove(&[blob(index, number)])?;
            }
            Step::RemoveFolder(index) => {
                self.manifests.entry(index).or_insert_with(|| vec![None]).push(None);
                let all: Vec<_> = self.begun.keys().filter(|(of, _)| *of == index).copied().collect();
                self.removing.extend(all);
                backend.remove_folder(&folder(index))?;
                self.manifests.insert(index, vec![None]);
                self.revisions.remove(&index);
            }
        }
        Ok(())
    }

    fn publish(&mut self, backend: &DiskBackend, index: usize, manifest: Vec<u8>) -> Result<(), StorageError> {
        self.manifests.entry(index).or_insert_with(|| vec![None]).push(Some(manifest.clone()));
        let revision = backend.publish(&folder(index), self.revisions.get(&index), &manifest)?;
        self.manifests.insert(index, vec![Some(manifest)]);
        self.revisions.insert(index, revision);
        Ok(())
    }

    /// Compares what a caller finds with what it was told. `is_alive`: nothing was cut, so what was put is there as well.
    fn check(&self, backend: &DiskBackend, is_alive: bool) {
        for index in 0..2 {
            let published = backend.manifest(&folder(index)).expect("it can be read");
            let manifest = published.as_ref().map(|published| published.bytes.clone());
            assert!(self.may_be(index).contains(&manifest), "folder {index}: {manifest:?} of {:?}", self.may_be(index));
            let listed: BTreeMap<u128, u64> = backend
                .blobs(&folder(index), None)
                .expect("it can be listed")
                .into_iter()
                .map(|entry| (entry.blob.number, entry.bytes))
                .collect();
            for (number, bytes) in &listed {
                let length = self.begun.get(&(index, *number)).copied().expect("it was put");
                assert_eq!(*bytes, length as u64, "blob {number} of folder {index} is whole");
                let mut read = vec![0; length];
                backend.read(&blob(index, *number), 0, &mut read).expect("it can be read");
                assert_eq!(read, bytes_of(index, *number, length));
                let beyond = backend.read(&blob(index, *number), length as u64, &mut [0]);
                assert!(matches!(beyond, Err(StorageError::Truncated { .. })), "{beyond:?}");
            }
            let promised = if is_alive { &self.put } else { &self.flushed };
            for key in promised.iter().filter(|key| key.0 == index && !self.removing.contains(key)) {
                assert!(listed.contains_key(&key.1), "blob {} of folder {index} was lost", key.1);
            }
            for number in manifest.iter().flat_map(|manifest| named(manifest)) {
                assert!(
                    listed.contains_key(&number),
                    "the manifest of folder {index} names blob {number}, which is gone"
                );
            }
        }
    }
}

/// What was left can be gone on with: published upon, and removed to the last byte.
fn go_on(files: &ModelFiles, backend: &DiskBackend) {
    for index in 0..2 {
        let folder = folder(index);
        let found = backend.manifest(&folder).unwrap();
        let number = 1_000_000;
        backend.put(&blob(index, number), b"later").unwrap();
        backend.flush(&folder).unwrap();
        let replaces = found.as_ref().map(|found| &found.revision);
        let revision = backend.publish(&folder, replaces, b"1000000\n").unwrap();
        assert!(matches!(backend.publish(&folder, replaces, b"late"), Err(StorageError::Conflict { .. })));
        let newest = backend.manifest(&folder).unwrap().unwrap();
        assert_eq!((newest.revision, newest.bytes), (revision, b"1000000\n".to_vec()));
    }
    assert_eq!(backend.folders(None).unwrap(), [folder(0), folder(1)], "in order");
    for index in 0..2 {
        backend.remove_folder(&folder(index)).unwrap();
    }
    assert_eq!(backend.folders(None).unwrap(), []);
    let mut left = Vec::new();
    files.list(&root(), &mut |name| left.push(name.to_owned())).unwrap();
    files.list(&root().join(".new"), &mut |name| left.push(name.to_owned())).unwrap();
    assert_eq!(left, [".new"], "nothing is left");
}

/// Runs the script up to its first failure. What is known by then, and the failure.
fn run(files: &ModelFiles) -> (Known, Option<StorageError>) {
    let mut known = Known::default();
    let backend = match DiskBackend::over(Arc::new(files.clone()), &root()) {
        Ok(backend) => backend,
        Err(error) => return (known, Some(error)),
    };
    for step in SCRIPT {
        if let Err(error) = known.step(&backend, *step) {
            return (known, Some(error));
        }
    }
    if !files.is_cut() {
        known.check(&backend, true);
    }
    (known, None)
}

/// The calls of the script when nothing goes wrong, without those of the checks.
fn calls_of_script() -> u64 {
    let files = ModelFiles::new(0);
    let backend = DiskBackend::over(Arc::new(files.clone()), &root()).unwrap();
    let mut known = Known::default();
    SCRIPT.iter().for_each(|step| known.step(&backend, *step).unwrap());
    let calls = files.calls();
    known.check(&backend, true);
    go_on(&files, &backend);
    calls
}

#[test]
fn after_a_loss_of_power_at_any_call_all_that_was_promised_is_there_and_nothing_is_half_there() {
    let calls = calls_of_script();
    assert!(calls > 100, "{calls}");
    for at in 0..calls {
        for seed in 0..CUTS_PER_CALL {
            let files = ModelFiles::new(at * 31 + seed);
            files.set_fault(Fault::Cut { at });
            let (known, _) = run(&files);
            assert!(files.is_cut(), "call {at}");
            let files = files.after_cut(seed);
            let context = format!("power lost at call {at} of {calls}, seed {seed}");
            let checked = std::panic::catch_unwind(|| {
                let backend = DiskBackend::over(Arc::new(files.clone()), &root()).expect("it opens");
                known.check(&backend, false);
                go_on(&files, &backend);
            });
            assert!(checked.is_ok(), "{context}");
        }
    }
}

#[test]
fn the_power_may_go_again_while_what_the_first_loss_left_is_gone_on_with() {
    let calls = calls_of_script();
    for at in (0..calls).step_by(3) {
        let files = ModelFiles::new(at);
        files.set_fault(Fault::Cut { at });
        let (known, _) = run(&files);
        for again in 0..6 {
            let files = files.after_cut(again);
            files.set_fault(Fault::Cut { at: again });
            // Opening clears what was half written; it is cut in the middle of that, or just after.
            let opened = DiskBackend::over(Arc::new(files.clone()), &root()).map(drop);
            let files = files.after_cut(again + 1);
            let backend = DiskBackend::over(Arc::new(files.clone()), &root()).expect("it opens");
            known.check(&backend, false);
            go_on(&files, &backend);
            drop(opened);
        }
    }
}

#[test]
fn a_call_that_fails_is_told_typed_and_harms_nothing_else() {
    let calls = calls_of_script();
    for at in 0..calls {
        for errno in [Errno::IO, Errno::NOSPC, Errno::ACCESS] {
            let files = ModelFiles::new(at);
            files.set_fault(Fault::Fail { at, errno });
            let (known, error) = run(&files);
            match (errno, &error) {
                // A file that was to be removed behind a success is left, and removed behind the next one.
                (_, None)
                | (Errno::IO, Some(StorageError::Failed { .. }))
                | (Errno::NOSPC, Some(StorageError::Full { .. }))
                | (Errno::ACCESS, Some(StorageError::Denied { .. })) => {}
                (_, error) => panic!("call {at}, {errno}: {error:?}"),
            }
            let backend = DiskBackend::over(Arc::new(files.clone()), &root()).unwrap();
            known.check(&backend, true);
            go_on(&files, &backend);
        }
    }
}

#[test]
fn a_full_disk_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let calls = calls_of_script();
    for at in (1..calls).step_by(2) {
        let files = ModelFiles::new(at);
        files.set_fault(Fault::FullFrom { at });
        let (known, error) = run(&files);
        assert!(matches!(error, None | Some(StorageError::Full { .. })), "call {at}: {error:?}");
        files.set_fault(Fault::None);
        let backend = DiskBackend::over(Arc::new(files.clone()), &root()).unwrap();
        known.check(&backend, true);
        go_on(&files, &backend);
    }
}

#[test]
fn while_one_call_stalls_others_go_on_and_when_it_returns_so_does_its_caller() {
    let calls = calls_of_script();
    for at in (0..calls).step_by(2) {
        let files = ModelFiles::new(at);
        let backend = DiskBackend::over(Arc::new(files.clone()), &root()).unwrap();
        files.set_fault(Fault::Stall { at: files.calls() + at });
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let mut known = Known::default();
                SCRIPT.iter().for_each(|step| known.step(&backend, *step).unwrap());
                known
            });
            let begun = Instant::now();
            while !files.is_stalling() && !caller.is_finished() {
                assert!(begun.elapsed() < PATIENCE, "call {at} neither stalls nor ends");
                std::thread::yield_now();
            }
            if !files.is_stalling() {
                // The script had fewer calls than counted, as opening is counted too: nobody is to stall now.
                files.set_fault(Fault::None);
            }
            let mut read = [0; 3];
            backend.put(&blob(2, 1), b"two").unwrap();
            backend.flush(&folder(2)).unwrap();
            backend.read(&blob(2, 1), 0, &mut read).unwrap();
            assert_eq!(&read, b"two");
            files.release();
            caller.join().unwrap().check(&backend, true);
        });
    }
}
