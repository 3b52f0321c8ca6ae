//! The files of a process: what was in a directory is in the next one, what has not changed is not written again, and what is damaged
//! names the file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use praas_storage::snapshot::{
    Cut, CutError, CutFacts, CutFiles, Known, Part, SectionKind, ShowObject, Snapshot, SnapshotError, Tree, WritePlan,
    Written, write,
};
use praas_storage::{Backend, BlobName, MemoryBackend};
use tempfile::TempDir;

use crate::model::{Model, PIECE_BYTES, check_accounts, folder, restored, seed, stored};
use crate::random::Random;

/// A state with files.
struct WithFiles<'w> {
    model: &'w Model,
    tree: Option<&'w Tree>,
    known: Option<&'w Known>,
}

impl Cut for WithFiles<'_> {
    fn facts(&self) -> CutFacts {
        self.model.facts()
    }

    fn sections(&self) -> &[(SectionKind, Vec<u8>)] {
        self.model.sections()
    }

    fn objects(&self, show: &mut ShowObject<'_>) -> Result<(), CutError> {
        self.model.objects(show)
    }

    fn is_absent(&self, page: u32) -> bool {
        self.model.is_absent(page)
    }

    fn files(&self) -> CutFiles<'_> {
        self.tree.map_or(CutFiles::Kept, |tree| CutFiles::Taken { tree, known: self.known })
    }

    fn read(&self, token: u64, offset: u64, into: &mut [u8]) -> Result<(), CutError> {
        self.model.read(token, offset, into)
    }
}

/// A process with storage.
struct Stage {
    backend: Arc<dyn Backend>,
    model: Model,
    rooms: TempDir,
    made: u32,
}

impl Stage {
    fn new(random: &mut Random) -> Self {
        let backend = Arc::new(MemoryBackend::new());
        Self { backend, model: Model::filled(random, 40, 300), rooms: tempfile::tempdir().unwrap(), made: 0 }
    }

    fn write(&self, base: Option<&Snapshot>, directory: Option<&Path>, known: Option<&Known>) -> (Snapshot, Written) {
        let tree = directory.map(|directory| Tree::open(directory, None).unwrap().unwrap());
        let cut = WithFiles { model: &self.model, tree: tree.as_ref(), known };
        let (snapshot, written) = write(&self.backend, &folder(), base, &cut, &WritePlan::new(1)).unwrap();
        check_accounts(&self.backend, &snapshot);
        assert_eq!(restored(&snapshot, 2), self.model.objects);
        (snapshot, written)
    }

    /// A new directory with the files of a snapshot.
    fn restore(&mut self, snapshot: &Snapshot) -> (std::path::PathBuf, Known) {
        self.made += 1;
        let path = self.rooms.path().join(self.made.to_string());
        let table = snapshot.files().unwrap().expect("it has files");
        let known = snapshot.restore_files(&table, &path, None, 3).unwrap();
        (path, known)
    }
}

/// All that is in a directory, by path.
fn contents(root: &Path) -> BTreeMap<String, (String, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut found = vec![root.to_owned()];
    while let Some(directory) = found.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let (mut bytes, mut time) = (Vec::new(), format!("{:?}", metadata.modified().unwrap()));
            if metadata.is_dir() {
                found.push(path.clone());
            } else if metadata.is_file() {
                bytes = fs::read(&path).unwrap();
            } else {
                bytes = fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec();
                // Those of links are not kept.
                time.clear();
            }
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(name, (format!("{:o} {time}", metadata.mode()), bytes));
        }
    }
    all
}

/// A directory of all kinds of things.
fn filled(random: &mut Random, root: &Path) {
    fs::create_dir_all(root.join("deep/er/empty")).unwrap();
    for number in 0..50 {
        fs::write(root.join(format!("deep/{number}")), small(random)).unwrap();
    }
    fs::write(root.join("none"), "").unwrap();
    fs::write(root.join("text"), "again and ".repeat(100_000)).unwrap();
    fs::write(root.join("long"), random.bytes(usize::try_from(2 * PIECE_BYTES + 12_345).unwrap())).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(5 * PIECE_BYTES).unwrap();
    sparse.write_all_at(b"in the middle", 2 * PIECE_BYTES + 77).unwrap();
    fs::set_permissions(root.join("text"), fs::Permissions::from_mode(0o440)).unwrap();
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o500)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH - Duration::from_nanos(1_500_000_001);
    fs::File::open(root.join("none")).unwrap().set_modified(long_ago).unwrap();
    symlink("../../etc/passwd", root.join("out")).unwrap();
    symlink("text", root.join("deep/in")).unwrap();
}

fn small(random: &mut Random) -> Vec<u8> {
    let bytes = 1 + random.below(5000);
    random.bytes(bytes)
}

#[test]
fn files_come_back_as_they_were_and_only_what_changed_is_written_again() {
    let mut random = Random::new(seed());
    let mut stage = Stage::new(&mut random);
    let first = stage.rooms.path().join("first");
    filled(&mut random, &first);
    let (mut snapshot, written) = stage.write(None, Some(&first), None);
    let before = contents(&first);
    // Fifty small ones, the text, three pieces of the long one, one of the sparse one; zeros are nowhere.
    assert_eq!((written.file_pieces_written, written.file_pieces_reused), (55, 4));
    for round in 0..4 {
        let (path, known) = stage.restore(&snapshot);
        let mut after = contents(&path);
        assert_eq!(after, before, "round {round}");
        assert!(fs::metadata(path.join("sparse")).unwrap().blocks() * 512 < 3 * PIECE_BYTES, "zeros are holes again");
        // Whether stamps say that nothing has changed, or the bytes that are read.
        let known = Some(&known).filter(|_| round % 2 == 0);
        let (next, written) = stage.write(Some(&snapshot), Some(&path), known);
        assert_eq!((written.file_pieces_written, written.file_pieces_reused), (0, 59));
        snapshot = next;
        let long = fs::OpenOptions::new().write(true).open(path.join("long")).unwrap();
        long.write_all_at(&random.bytes(100), PIECE_BYTES + 5).unwrap();
        fs::write(path.join(format!("more {round}")), random.bytes(10_000)).unwrap();
        let (next, written) = stage.write(Some(&snapshot), Some(&path), known);
        assert_eq!(written.file_pieces_written, 2);
        assert!(written.bytes < 2 * PIECE_BYTES, "{} bytes", written.bytes);
        snapshot = next;
        fs::remove_file(path.join(format!("more {round}"))).unwrap();
        (snapshot, _) = stage.write(Some(&snapshot), Some(&path), None);
        let (path, _) = stage.restore(&snapshot);
        after = contents(&path);
        assert_ne!(after["long"], before["long"]);
        fs::write(path.join("long"), &before["long"].1).unwrap();
        for name in ["long", "deep/0"] {
            let file = fs::File::open(path.join(name)).unwrap();
            file.set_modified(fs::metadata(first.join(name)).unwrap().modified().unwrap()).unwrap();
        }
        (snapshot, _) = stage.write(Some(&snapshot), Some(&path), None);
    }
}

#[test]
fn whoever_does_not_look_at_the_files_leaves_them_and_a_directory_without_any_removes_them() {
    let mut random = Random::new(seed());
    let mut stage = Stage::new(&mut random);
    let first = stage.rooms.path().join("first");
    filled(&mut random, &first);
    let (mut snapshot, _) = stage.write(None, Some(&first), None);
    for round in 0..12 {
        for number in 0..30 {
            stage.model.put((0, format!("key/{number}").into_bytes()), random.bytes(900_000));
        }
        if round % 4 == 3 {
            // Other pages: nothing of the index is taken over.
            stage.model.hash_seed += 1;
        }
        let (next, written) = stage.write(Some(&snapshot), None, None);
        assert_eq!((written.file_pieces_written, written.file_pieces_reused), (0, 0));
        snapshot = next;
        let (path, _) = stage.restore(&snapshot);
        assert_eq!(contents(&path), contents(&first), "round {round}");
        remove(&path);
    }
    let empty = stage.rooms.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let (snapshot, _) = stage.write(Some(&snapshot), Some(&empty), None);
    assert!(snapshot.files().unwrap().is_none());
}

fn remove(path: &Path) {
    praas_storage::snapshot::remove_directory(path).unwrap();
}

#[test]
fn damage_names_the_file_and_the_next_snapshot_is_whole_again() {
    let mut random = Random::new(seed());
    let stage = Stage::new(&mut random);
    let first = stage.rooms.path().join("first");
    fs::create_dir(&first).unwrap();
    for name in ["one", "two", "three"] {
        fs::write(first.join(name), random.bytes(100_000)).unwrap();
    }
    let (snapshot, _) = stage.write(None, Some(&first), None);
    let mut named = BTreeMap::new();
    for (number, bytes) in stored(&stage.backend) {
        let blob = BlobName { folder: folder(), number };
        let mut sound = vec![0; usize::try_from(bytes).unwrap()];
        stage.backend.read(&blob, 0, &mut sound).unwrap();
        for at in (0..sound.len()).step_by(25_000) {
            let mut spoilt = sound.clone();
            spoilt[at] ^= 1 << random.below(8);
            stage.backend.remove(&[blob]).unwrap();
            stage.backend.put(&blob, &spoilt).unwrap();
            let path = stage.rooms.path().join("damaged");
            let found = snapshot.files().and_then(|table| snapshot.restore_files(&table.unwrap(), &path, None, 2));
            match found {
                Ok(_) => {}
                Err(SnapshotError::Damaged { part, .. }) => *named.entry(part.to_string()).or_insert(0) += 1,
                Err(error) => panic!("not told as damage: {error}"),
            }
            remove(&path);
        }
        stage.backend.remove(&[blob]).unwrap();
        stage.backend.put(&blob, &sound).unwrap();
    }
    assert!(["one", "two", "three"].iter().all(|name| named[&format!("the file `{name}`")] > 0), "{named:?}");
    let path = stage.rooms.path().join("missing");
    for (number, _) in stored(&stage.backend) {
        stage.backend.remove(&[BlobName { folder: folder(), number }]).unwrap();
    }
    let error = snapshot.restore_files(&snapshot.files().unwrap().unwrap(), &path, None, 2).unwrap_err();
    assert!(matches!(&error, SnapshotError::Damaged { part, .. } if matches!(**part, Part::File { .. })), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_told_with_the_file() {
    let mut random = Random::new(seed());
    let stage = Stage::new(&mut random);
    let first = stage.rooms.path().join("first");
    fs::create_dir(&first).unwrap();
    fs::write(first.join("one"), "bytes").unwrap();
    let (snapshot, _) = stage.write(None, Some(&first), None);
    let table = snapshot.files().unwrap().unwrap();
    for there in [first.clone(), first.join("one/below")] {
        let error = snapshot.restore_files(&table, &there, None, 2).unwrap_err();
        assert!(matches!(error, SnapshotError::NotPlaced { .. }), "{error}");
    }
    assert_eq!(fs::read(first.join("one")).unwrap(), b"bytes");
}
