//! Lists and removals.

use praas_storage::backend::LISTED_MAX;
use praas_storage::{Backend, BlobEntry, BlobName, Folder, StorageError};

use super::{Random, Room, THREADS, blob, folder, on_threads};

/// More than one answer names.
const MANY: usize = LISTED_MAX + 237;

/// All pages, each of which is full but the last.
fn all_blobs(backend: &dyn Backend, of: &Folder) -> Vec<BlobEntry> {
    let mut all: Vec<BlobEntry> = Vec::new();
    loop {
        let page = backend.blobs(of, all.last().map(|it| &it.blob)).expect("it answers");
        assert!(page.len() <= LISTED_MAX);
        let is_last = page.len() < LISTED_MAX;
        all.extend(page);
        if is_last {
            return all;
        }
    }
}

fn all_folders(backend: &dyn Backend) -> Vec<Folder> {
    let mut all: Vec<Folder> = Vec::new();
    loop {
        let page = backend.folders(all.last()).expect("it answers");
        assert!(page.len() <= LISTED_MAX);
        let is_last = page.len() < LISTED_MAX;
        all.extend(page);
        if is_last {
            return all;
        }
    }
}

/// Puts them from many threads, each its share.
fn put_all(room: &Room<'_>, blobs: &[BlobName], bytes: usize) {
    on_threads(room, |thread, backend| {
        for name in blobs.iter().skip(thread).step_by(THREADS) {
            backend.put(name, &vec![1; bytes]).expect("it is written");
        }
    });
}

/// So many different numbers, in order.
fn numbers(random: &mut Random, count: usize) -> Vec<u128> {
    let mut numbers: Vec<_> = (0..count)
        .map(|_| (u128::from(random.next()) << 64 | u128::from(random.next())) >> random.below(100))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

pub(crate) fn blobs_are_listed_in_order_and_in_pages(room: &Room<'_>) {
    let (backend, mut random) = (room.handle(), room.random(0));
    let of = blob(0).folder;
    assert_eq!(backend.blobs(&of, None).expect("it answers"), Vec::new());
    let names: Vec<_> = numbers(&mut random, MANY).into_iter().map(blob).collect();
    put_all(room, &names, 3);
    backend.publish(&of, None, b"is no blob").expect("it is published");
    backend
        .put(&BlobName { folder: folder("notes/alice", 2), number: 5 }, b"of another folder")
        .expect("it is written");
    let expected: Vec<_> = names.iter().map(|&blob| BlobEntry { blob, bytes: 3 }).collect();
    assert!(all_blobs(&*backend, &of) == expected);
    for _ in 0..5 {
        let at = random.below(names.len());
        let page = backend.blobs(&of, Some(&names[at])).expect("it answers");
        let end = expected.len().min(at + 1 + LISTED_MAX);
        assert!(page == expected[at + 1..end], "after {}", names[at]);
        // The one that is named need not be there.
        let between = blob(names[at].number + 1);
        let page = backend.blobs(&of, Some(&between)).expect("it answers");
        let from = names.partition_point(|name| *name <= between);
        assert!(page[..] == expected[from..expected.len().min(from + LISTED_MAX)], "after {between}");
    }
    assert_eq!(backend.blobs(&of, names.last()).expect("it answers"), Vec::new());
    // As many removals at once as there are blobs.
    backend.remove(&names).expect("they are removed");
    assert_eq!(backend.blobs(&of, None).expect("it answers"), Vec::new());
    backend.remove_folder(&of).expect("it is removed");
}

pub(crate) fn folders_are_listed_in_order_and_in_pages(room: &Room<'_>) {
    let backend = room.handle();
    assert_eq!(backend.folders(None).expect("it answers"), Vec::new());
    let long = "z".repeat(63);
    let odd = [
        folder("a/b", 0),
        folder("a/b", u64::MAX),
        folder("a-b/b", 1),
        folder("a.b/b", 1),
        folder("a/b-1", 1),
        folder("a/b.1", 1),
        folder("a/b_1", 1),
        folder("ab/b", 1),
        folder("0/0", 1),
        folder(&format!("{long}/{long}"), 7),
    ];
    let many = (0..LISTED_MAX + 50).map(|number| folder(&format!("many/p{number}"), number as u64 % 3));
    let mut folders: Vec<_> = odd.into_iter().chain(many).collect();
    folders.sort_unstable();
    // Of a blob, of a manifest, of both.
    on_threads(room, |thread, backend| {
        for (index, folder) in folders.iter().enumerate().skip(thread).step_by(THREADS) {
            if index % 3 != 0 {
                backend.put(&BlobName { folder: *folder, number: 1 }, b"a blob").expect("it is written");
            }
            if index % 3 != 1 {
                backend.publish(folder, None, b"a manifest").expect("it is published");
            }
        }
    });
    assert!(all_folders(&*backend) == folders);
    let lives = |process: &str| backend.lives(&process.parse().unwrap()).expect("it answers");
    assert_eq!(lives("a.b/b"), [folder("a.b/b", 1)]);
    assert_eq!(lives("many/p4"), [folder("many/p4", 1)]);
    assert_eq!(lives("many/p"), []);
    for at in [0, 1, 5, folders.len() / 2, folders.len() - 1] {
        let page = backend.folders(Some(&folders[at])).expect("it answers");
        assert!(page == folders[at + 1..folders.len().min(at + 1 + LISTED_MAX)], "after {}", folders[at]);
    }
    let absent = folder("a/bb", 3);
    let from = folders.partition_point(|folder| *folder <= absent);
    assert_eq!(backend.folders(Some(&absent)).expect("it answers")[..5], folders[from..from + 5]);
    // Of a blob alone: it is gone with it, or when it is removed itself.
    let (of_a_blob, of_a_manifest) = (folders[1], folders[0]);
    backend.remove(&[BlobName { folder: of_a_blob, number: 1 }]).expect("it is removed");
    backend.remove_folder(&of_a_blob).expect("it is removed");
    let left = all_folders(&*backend);
    assert!(!left.contains(&of_a_blob) && left.contains(&of_a_manifest));
    assert_eq!(left.len(), folders.len() - 1);
}

pub(crate) fn removed_blobs_are_gone_and_others_stay(room: &Room<'_>) {
    let backend = room.handle();
    backend.remove(&[]).expect("nothing is to be done");
    backend.remove(&[blob(1), blob(2)]).expect("what is not there is no error");
    for number in 0..10 {
        backend.put(&blob(number), &[u8::try_from(number).unwrap(); 100]).expect("it is written");
    }
    let others = BlobName { folder: folder("notes/alice", 2), number: 3 };
    backend.put(&others, b"another life").expect("it is written");
    backend.publish(&blob(0).folder, None, b"stays").expect("it is published");
    backend.remove(&[blob(3), blob(77), blob(9), blob(3), blob(0)]).expect("they are removed");
    let left: Vec<_> = all_blobs(&*backend, &blob(0).folder).iter().map(|it| it.blob.number).collect();
    assert_eq!(left, [1, 2, 4, 5, 6, 7, 8]);
    let error = backend.read(&blob(3), 0, &mut [0; 100]).expect_err("it was removed");
    assert!(matches!(error, StorageError::Missing { .. }), "{error}");
    let mut read = [0; 12];
    backend.read(&others, 0, &mut read).expect("it stays");
    assert_eq!(&read, b"another life");
    let all: Vec<_> = (0..10).map(blob).collect();
    backend.remove(&all).expect("they are removed");
    assert_eq!(all_blobs(&*backend, &blob(0).folder), Vec::new());
    assert_eq!(backend.manifest(&blob(0).folder).expect("it answers").expect("it stays").bytes, b"stays");
}

pub(crate) fn a_removed_folder_is_gone_and_its_neighbours_stay(room: &Room<'_>) {
    let backend = room.handle();
    let gone = folder("notes/alice", 0x10);
    // Names that begin alike, lives before and after.
    let neighbours = [
        folder("notes/alic", 0x10),
        folder("notes/alice", 1),
        folder("notes/alice", 0x11),
        folder("notes/alice", 0x100),
        folder("notes/alice-1", 0x10),
        folder("note/alice", 0x10),
    ];
    backend.remove_folder(&gone).expect("what is not there is no error");
    for of in neighbours.iter().chain([&gone]) {
        for number in 0..4 {
            backend.put(&BlobName { folder: *of, number }, of.to_string().as_bytes()).expect("it is written");
        }
        backend.publish(of, None, of.to_string().as_bytes()).expect("it is published");
    }
    let many: Vec<_> = (10..LISTED_MAX as u128 + 20).map(|number| BlobName { folder: gone, number }).collect();
    put_all(room, &many, 1);
    backend.remove_folder(&gone).expect("it is removed");
    backend.remove_folder(&gone).expect("it is gone already");
    assert_eq!(backend.manifest(&gone).expect("it answers"), None);
    assert_eq!(all_blobs(&*backend, &gone), Vec::new());
    let mut expected = neighbours.to_vec();
    expected.sort_unstable();
    assert_eq!(all_folders(&*backend), expected);
    for of in neighbours {
        assert_eq!(all_blobs(&*backend, &of).len(), 4, "{of}");
        let manifest = backend.manifest(&of).expect("it answers").expect("it stays");
        assert_eq!(manifest.bytes, of.to_string().as_bytes());
    }
    // A folder that was removed can be used again.
    backend.put(&BlobName { folder: gone, number: 1 }, b"anew").expect("it is written");
    assert_eq!(all_blobs(&*backend, &gone).len(), 1);
    backend.publish(&gone, None, b"anew").expect("there is none");
}
