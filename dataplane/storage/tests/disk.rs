//! The disk backend on a real file system: what the host's own layer adds to what the model has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use praas_storage::buffer::AlignedBuffer;
use praas_storage::disk::{Access, FileLayer, HostFiles};
use praas_storage::{Backend, BlobName, DiskBackend, Folder, StorageError};

/// A directory on the file system of the checkout, which is a disk's more often than `/tmp` is.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn folder(name: &str) -> Folder {
    Folder { process: name.parse().unwrap(), incarnation: 3 }
}

/// Bytes in which no part is like another.
fn noise(bytes: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        noise.extend_from_slice(&word.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

#[test]
fn any_memory_length_and_range_comes_back_whether_a_disk_takes_it_directly_or_not() {
    let directory = scratch();
    let backend = DiskBackend::open(&directory.path().join("swapped")).unwrap();
    let folder = folder("notes/alice");
    let lengths = [0, 1, 511, 4096, 4097, 65_536, (4 << 20) + 4096 * 3 + 17, (9 << 20) + 1];
    for (number, length) in lengths.into_iter().enumerate() {
        let blob = BlobName { folder, number: number as u128 };
        let bytes = noise(length + 8);
        // Once from memory that begins on a block, once from memory that begins anywhere.
        if number % 2 == 0 {
            let mut aligned = AlignedBuffer::new(length);
            aligned.copy_from_slice(&bytes[..length]);
            backend.put(&blob, &aligned).unwrap();
        } else {
            let start = (0..8).find(|start| !bytes[*start..].as_ptr().addr().is_multiple_of(4)).unwrap();
            backend.put(&blob, &bytes[start..start + length]).unwrap();
        }
        let start =
            if number % 2 == 0 { 0 } else { (0..8).find(|s| !bytes[*s..].as_ptr().addr().is_multiple_of(4)).unwrap() };
        let expected = &bytes[start..start + length];
        for (offset, wanted) in
            [(0, length), (1, length / 2), (length / 3, 100), (length.saturating_sub(5), 5), (4096, 4096)]
        {
            let Some(expected) = expected.get(offset..offset + wanted) else { continue };
            let mut read = AlignedBuffer::new(wanted);
            backend.read(&blob, offset as u64, &mut read).unwrap();
            assert!(*read == *expected, "{length} bytes, {wanted} from {offset}");
            let mut anywhere = vec![0; wanted + 1];
            backend.read(&blob, offset as u64, &mut anywhere[1..]).unwrap();
            assert!(anywhere[1..] == *expected, "{length} bytes, {wanted} from {offset}, anywhere");
        }
        let beyond = backend.read(&blob, 1, &mut vec![0; length]);
        let is_told = matches!(beyond, Err(StorageError::Truncated { expected, actual, .. })
            if expected == length as u64 + 1 && actual == length as u64);
        assert!(is_told || length == 0, "{beyond:?}");
        assert!(matches!(backend.read(&blob, u64::MAX, &mut [0]), Err(StorageError::Truncated { .. })));
    }
    assert_eq!(backend.blobs(&folder, None).unwrap().iter().map(|entry| entry.bytes).collect::<Vec<_>>(), {
        lengths.map(|length| length as u64)
    });
}

#[test]
fn what_a_dead_server_left_half_written_is_removed_but_not_under_a_living_one() {
    let directory = scratch();
    let place = directory.path().join("swapped");
    let first = DiskBackend::open(&place).unwrap();
    let left = place.join(".new/0000000000000001-5");
    fs::write(&left, b"half").unwrap();
    let second = DiskBackend::open(&place).unwrap();
    assert!(left.exists(), "the first may be writing it");
    // Both are as good as one: what one publishes the other finds, and is refused with what it knew before.
    let folder = folder("notes/bob");
    let revision = first.publish(&folder, None, b"one").unwrap();
    assert_eq!(second.manifest(&folder).unwrap().unwrap().bytes, b"one");
    second.publish(&folder, Some(&revision), b"two").unwrap();
    assert!(matches!(first.publish(&folder, Some(&revision), b"three"), Err(StorageError::Conflict { .. })));
    drop((first, second));
    let third = DiskBackend::open(&place).unwrap();
    assert!(!left.exists());
    assert_eq!(third.manifest(&folder).unwrap().unwrap().bytes, b"two");
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_cannot_be_used_is_told_with_what_to_do() {
    let directory = scratch();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = DiskBackend::open(&file).unwrap_err();
    assert!(matches!(error, StorageError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("name another one"), "{error}");
    let place = directory.path().join("swapped");
    let backend = DiskBackend::open(&place).unwrap();
    fs::remove_dir_all(&place).unwrap();
    let error = backend.put(&BlobName { folder: folder("notes/carol"), number: 1 }, b"x").unwrap_err();
    assert!(matches!(error, StorageError::Unusable { .. }), "{error}");
}

#[test]
fn files_of_the_hosts_layer_behave_on_disk_and_in_memory_as_the_layer_says() {
    let directory = scratch();
    let memory = tempfile::tempdir_in("/dev/shm");
    if let Err(error) = &memory {
        eprintln!("skipped the file system in memory: {error}");
    }
    for place in [Some(directory.path()), memory.as_ref().ok().map(tempfile::TempDir::path)].into_iter().flatten() {
        check_layer(place);
    }
}

fn check_layer(place: &Path) {
    use praas_sys::Errno;
    let files: Arc<dyn FileLayer> = Arc::new(HostFiles::new());
    let (first, second) = (place.join("first"), place.join("second"));
    let file = files.create(&first).unwrap();
    assert_eq!(files.create(&first).map(drop), Err(Errno::EXIST));
    file.reserve(3 * 4096).unwrap();
    assert_eq!(file.bytes(), Ok(3 * 4096));
    let mut blocks = AlignedBuffer::new(4096);
    blocks.fill(7);
    file.write_through(4096, &blocks).unwrap();
    file.write_through(8192, &[9; 4096]).unwrap();
    assert_eq!(file.write(5, &blocks), Err(Errno::INVAL));
    let mut read = vec![1; 3 * 4096 + 10];
    assert_eq!(file.read(1, &mut read), Ok(3 * 4096 - 1));
    assert_eq!((read[0], read[4094], read[4095], read[8190], read[8191]), (0, 0, 7, 7, 9));
    // What is no whole blocks ends the file.
    file.write(4096, b"end").unwrap();
    file.sync().unwrap();
    assert_eq!((file.bytes(), files.bytes(&first)), (Ok(4099), Ok(4099)));
    files.rename_new(&first, &second).unwrap();
    files.create(&first).unwrap();
    assert_eq!(files.rename_new(&first, &second), Err(Errno::EXIST));
    assert!(files.open(&second, Access::Read).unwrap().write(0, &blocks).is_err());
    let mut names = Vec::new();
    files.list(place, &mut |name| names.push(name.to_owned())).unwrap();
    names.sort();
    assert_eq!(names, ["first", "second"]);
    files.remove(&first).unwrap();
    assert_eq!(files.remove(&first), Err(Errno::NOENT));
    files.make_directory(&first).unwrap();
    files.sync_directory(place).unwrap();
    files.remove_directory(&first).unwrap();
}
