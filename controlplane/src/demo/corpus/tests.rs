//! Walking and batching: what is taken, what is left out and why, and the size of every batch.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use proptest::prelude::*;
use rkyv::rancor::Error;
use tempfile::TempDir;

use super::*;
use crate::demo::limits::BATCH_OVERHEAD_BYTES;
use crate::demo::messages::{AddBatch, Document};

fn directory_of(files: &[(&str, &[u8])]) -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("a writable directory");
        fs::write(path, bytes).expect("a writable directory");
    }
    directory
}

fn listing_of(root: &Path) -> Listing {
    Listing::walk(root, CorpusLimits::default()).expect("a directory of the test")
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.files().iter().map(|file| file.name.as_str()).collect()
}

fn read_all(listing: Listing) -> (Vec<AddBatch>, Skipped) {
    let mut batches = listing.batches();
    let all = batches.by_ref().collect();
    (all, batches.skipped().clone())
}

fn entries(skipped: &Skipped, reason: SkipReason) -> u64 {
    skipped.get(reason).map_or(0, |figure| figure.entries)
}

#[test]
fn files_are_listed_in_the_order_of_their_names() {
    let directory = directory_of(&[
        ("b.txt", b"b"),
        ("a.txt", b"a"),
        ("src/z.rs", b"z"),
        ("src/deep/y.rs", b"y"),
        ("docs/x.md", b"x"),
    ]);
    let listing = listing_of(directory.path());
    assert_eq!(names(&listing), ["a.txt", "b.txt", "docs/x.md", "src/z.rs", "src/deep/y.rs"]);
    assert_eq!(listing.bytes_total(), 5);
    let (batches, skipped) = read_all(listing);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].documents[2].text, "x");
    assert_eq!(skipped, Skipped::default());
}

#[test]
fn a_root_that_is_a_file_is_a_corpus_of_one() {
    let directory = directory_of(&[(".notes", b"hello")]);
    let listing = listing_of(&directory.path().join(".notes"));
    assert_eq!(names(&listing), [".notes"]);
}

#[test]
fn an_empty_directory_gives_no_batch() {
    let directory = directory_of(&[]);
    let (batches, skipped) = read_all(listing_of(directory.path()));
    assert!(batches.is_empty());
    assert_eq!(skipped.entries_total(), 0);
}

#[test]
fn a_root_that_cannot_be_walked_is_an_error_that_names_it() {
    let directory = directory_of(&[]);
    let missing = directory.path().join("missing");
    let error = Listing::walk(&missing, CorpusLimits::default()).expect_err("it does not exist");
    assert!(error.to_string().contains("missing"), "{error}");
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).expect("a short path");
    let error = Listing::walk(&socket, CorpusLimits::default()).expect_err("it is a socket");
    assert!(matches!(error, CorpusError::NotWalkable { .. }), "{error}");
}

#[test]
fn everything_left_out_is_counted_under_its_reason() {
    let directory = directory_of(&[
        ("kept.txt", b"kept"),
        (".hidden", b"x"),
        (".git/config", b"x"),
        ("empty", b""),
        ("zero", b"text\0text"),
        ("latin1", b"caf\xe9"),
        ("bad\nname", b"x"),
    ]);
    symlink("kept.txt", directory.path().join("link")).expect("a writable directory");
    symlink("..", directory.path().join("loop")).expect("a writable directory");
    let _listener = UnixListener::bind(directory.path().join("socket")).expect("a short path");

    let (batches, skipped) = read_all(listing_of(directory.path()));
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].documents.len(), 1);
    let counted: Vec<(SkipReason, u64)> = skipped.iter().map(|(reason, figure)| (reason, figure.entries)).collect();
    assert_eq!(
        counted,
        [
            (SkipReason::Hidden, 2),
            (SkipReason::SymbolicLink, 2),
            (SkipReason::Special, 1),
            (SkipReason::UnusableName, 1),
            (SkipReason::Empty, 1),
            (SkipReason::Binary, 2),
        ]
    );
    let unusable = skipped.get(SkipReason::UnusableName).expect("counted above");
    assert_eq!(unusable.example, "bad\u{fffd}name");
}

#[test]
fn what_tools_made_is_left_out_and_a_source_directory_of_the_same_name_is_not() {
    let directory = directory_of(&[
        ("Cargo.toml", b"x"),
        ("target/made.d", b"x"),
        ("src/target/written.rs", b"x"),
        ("build/CACHEDIR.TAG", b"x"),
        ("build/made.c", b"x"),
        ("web/node_modules/made.js", b"x"),
    ]);
    let listing = listing_of(directory.path());
    assert_eq!(names(&listing), ["Cargo.toml", "src/target/written.rs"]);
    assert_eq!(entries(listing.skipped(), SkipReason::Generated), 3);
}

#[test]
fn what_may_not_be_read_is_counted() {
    let directory = directory_of(&[("closed", b"x"), ("locked/file", b"x")]);
    for name in ["closed", "locked"] {
        let none = fs::Permissions::from_mode(0o000);
        fs::set_permissions(directory.path().join(name), none).expect("it is ours");
    }
    let readable = fs::read(directory.path().join("closed")).is_ok();
    let (_, skipped) = read_all(listing_of(directory.path()));
    let all = fs::Permissions::from_mode(0o700);
    fs::set_permissions(directory.path().join("locked"), all).expect("it is ours");
    if readable {
        println!("skipped: this user may read everything, whatever the permissions");
        return;
    }
    assert_eq!(entries(&skipped, SkipReason::Unreadable), 2);
}

#[test]
fn a_file_over_either_limit_is_reported_with_its_size() {
    let directory = directory_of(&[("a", &[b'x'; 400]), ("b", &[b'y'; 101]), ("c", &[b'z'; 100])]);
    let limits = CorpusLimits { file_bytes: 100, ..CorpusLimits::default() };
    let listing = Listing::walk(directory.path(), limits).expect("a directory");
    assert_eq!(names(&listing), ["c"]);
    let figure = listing.skipped().get(SkipReason::TooLarge).expect("two files");
    assert_eq!((figure.entries, figure.bytes, figure.example.as_str()), (2, 501, "a"));

    let limits = CorpusLimits { batch_bytes: 300, ..CorpusLimits::default() };
    let (batches, skipped) = read_all(Listing::walk(directory.path(), limits).expect("a directory"));
    assert_eq!(batches.iter().map(|batch| batch.documents.len()).sum::<usize>(), 2);
    assert_eq!(entries(&skipped, SkipReason::TooLarge), 1);
}

#[test]
fn a_file_that_grows_or_vanishes_after_the_listing_is_reported() {
    let directory = directory_of(&[("grows", b"small"), ("vanishes", b"small")]);
    let listing = listing_of(directory.path());
    fs::write(directory.path().join("grows"), "no longer small").expect("it is ours");
    fs::remove_file(directory.path().join("vanishes")).expect("it is ours");
    let (batches, skipped) = read_all(listing);
    assert!(batches.is_empty());
    assert_eq!(entries(&skipped, SkipReason::TooLarge), 1);
    assert_eq!(entries(&skipped, SkipReason::Unreadable), 1);
}

#[test]
fn every_limit_of_a_walk_is_kept_and_reported() {
    let directory = directory_of(&[("1", b"one"), ("2", b"two"), ("3", b"three"), ("d/e/f", b"deep")]);
    let walk = |limits| read_all(Listing::walk(directory.path(), limits).expect("a directory"));
    let all = CorpusLimits::default();
    let documents = |batches: &[AddBatch]| batches.iter().map(|batch| batch.documents.len()).sum::<usize>();

    let (batches, skipped) = walk(CorpusLimits { files: 3, ..all });
    assert_eq!((documents(&batches), entries(&skipped, SkipReason::FilesLimit)), (3, 1));
    let (batches, skipped) = walk(CorpusLimits { entries: 2, ..all });
    assert!(documents(&batches) <= 2);
    assert!(entries(&skipped, SkipReason::EntriesLimit) > 0);
    let (batches, skipped) = walk(CorpusLimits { depth: 2, ..all });
    assert_eq!((documents(&batches), entries(&skipped, SkipReason::TooDeep)), (3, 1));
    let (batches, skipped) = walk(CorpusLimits { text_bytes: 7, ..all });
    assert_eq!((documents(&batches), entries(&skipped, SkipReason::TextLimit)), (2, 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_hold_every_file_once_and_never_exceed_their_limit(
        sizes in prop::collection::vec(1..400_usize, 0..30),
        batch_bytes in 450..2000_usize,
    ) {
        let files: Vec<(String, Vec<u8>)> = sizes
            .iter()
            .enumerate()
            .map(|(number, &size)| (format!("file-{number:02}"), vec![b'x'; size]))
            .collect();
        let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let directory = directory_of(&borrowed);
        let limits = CorpusLimits { batch_bytes, ..CorpusLimits::default() };
        let (batches, skipped) = read_all(Listing::walk(directory.path(), limits).expect("a directory"));

        prop_assert_eq!(skipped.entries_total(), 0);
        for batch in &batches {
            let archived = rkyv::to_bytes::<Error>(batch).expect("a batch can be archived");
            prop_assert!(archived.len() <= batch_bytes, "{} over {batch_bytes} bytes", archived.len());
            prop_assert!(!batch.documents.is_empty());
        }
        let documents: Vec<&Document> = batches.iter().flat_map(|batch| &batch.documents).collect();
        prop_assert_eq!(documents.len(), files.len());
        for (document, (name, bytes)) in documents.iter().zip(&files) {
            prop_assert_eq!(&document.path, name);
            prop_assert_eq!(document.text.as_bytes(), bytes.as_slice());
        }
    }

    #[test]
    fn the_size_reckoned_for_a_document_covers_its_archived_form(
        texts in prop::collection::vec(("[a-z]{1,12}", "[a-zß]{0,20}"), 0..40),
    ) {
        let reckoned: usize = texts.iter().map(|(path, text)| document_bytes(path, text.len())).sum();
        let documents = texts.into_iter().map(|(path, text)| Document { path, text }).collect();
        let archived = rkyv::to_bytes::<Error>(&AddBatch { documents }).expect("a batch can be archived");
        prop_assert!(archived.len() <= BATCH_OVERHEAD_BYTES + reckoned);
    }
}
