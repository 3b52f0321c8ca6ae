//! What the index promises about adding and replacing.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rkyv::rancor::Error;

use super::*;
use crate::demo::messages::AddBatch;
use crate::demo::testing::{archive_and_add, batch_of};

#[test]
fn an_empty_index_holds_nothing() {
    assert_eq!(Index::new().summary(), IndexSummary::default());
    let mut index = Index::new();
    let summary = archive_and_add(&mut index, &AddBatch::default());
    assert_eq!(summary, Ok(AddSummary::default()));
}

#[test]
fn a_batch_reports_what_it_added_and_the_index_what_it_holds() {
    let mut index = Index::new();
    let first = archive_and_add(&mut index, &batch_of(&[("a", "one two"), ("b", "Two three two")]));
    let second = archive_and_add(&mut index, &batch_of(&[("c", "three four")]));
    let summary = |documents, terms, bytes| Ok(AddSummary { documents, terms, bytes });
    assert_eq!(first, summary(2, 3, 20));
    assert_eq!(second, summary(1, 1, 10));
    let whole = IndexSummary { documents: 3, terms: 4, tokens: 7, bytes: 30 };
    assert_eq!(index.summary(), whole);
}

#[test]
fn a_document_over_its_limit_is_refused_and_nothing_of_its_batch_is_added() {
    let mut index = Index::new();
    let long = "x".repeat(FILE_BYTES_MAX + 1);
    let refused = archive_and_add(&mut index, &batch_of(&[("a", "fine"), ("b", &long)]));
    assert_eq!(
        refused,
        Err(AddError::DocumentTooLong { position: 1, bytes: FILE_BYTES_MAX + 1, bytes_max: FILE_BYTES_MAX })
    );
    let path = "p".repeat(PATH_BYTES_MAX + 1);
    let refused = archive_and_add(&mut index, &batch_of(&[(&path, "fine")]));
    assert!(matches!(refused, Err(AddError::PathTooLong { position: 0, .. })));
    assert_eq!(index, Index::new());
}

#[test]
fn documents_over_the_limit_are_refused_and_replacing_at_the_limit_is_not() {
    let mut index = Index::new();
    let paths: Vec<String> = (0..DOCUMENTS_MAX).map(|number| number.to_string()).collect();
    let full: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "x")).collect();
    assert!(archive_and_add(&mut index, &batch_of(&full)).is_ok());
    assert_eq!(
        archive_and_add(&mut index, &batch_of(&[("7", "y"), ("one more", "x")])),
        Err(AddError::TooManyDocuments { documents: DOCUMENTS_MAX + 1, documents_max: DOCUMENTS_MAX })
    );
    assert!(archive_and_add(&mut index, &batch_of(&[("7", "y"), ("7", "z")])).is_ok());
    assert_eq!(index.summary().terms, 2, "the words are x and z");
}

#[test]
fn lines_are_counted_from_one() {
    let mut index = Index::new();
    let added = archive_and_add(&mut index, &batch_of(&[("a", "one\n\nthree\n"), ("b", "")]));
    assert!(added.is_ok());
    let archive = rkyv::to_bytes::<Error>(&index).unwrap();
    let index = rkyv::access::<ArchivedIndex, Error>(&archive).unwrap();
    let lines: Vec<u32> = (0..=11).map(|offset| index.document(0).line_at(offset).0).collect();
    assert_eq!(lines, [1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 4]);
    assert_eq!(index.document(1).line_at(0), (1, 0));
}

#[test]
fn an_index_survives_being_archived() {
    let mut index = Index::new();
    assert!(archive_and_add(&mut index, &batch_of(&[("a", "one two"), ("b", "two")])).is_ok());
    let bytes = rkyv::to_bytes::<Error>(&index).expect("the index fits in memory twice");
    let restored: Index = rkyv::from_bytes::<Index, Error>(&bytes).expect("it was just archived");
    assert_eq!(restored, index);
}

fn assert_invariants(index: &Index) {
    for (term, postings) in &index.terms {
        assert!(!postings.is_empty(), "{term} has no postings");
        assert!(postings.is_sorted_by(|one, other| one.document < other.document));
        for posting in postings {
            let text = &index.document(posting.document).text;
            let first = tokens(&text[posting.offset_bytes as usize..]).next();
            let mut buffer = String::new();
            let folded = first.map(|token| token.term(&mut buffer).to_owned());
            assert_eq!(folded.as_ref(), Some(term));
        }
    }
}

/// What an index holds, whatever the numbers of its documents.
fn contents(index: &Index) -> BTreeSet<(String, String, u32, u32)> {
    let postings = index.terms.iter().flat_map(|(term, postings)| postings.iter().map(move |posting| (term, posting)));
    postings
        .map(|(term, posting)| {
            let path = index.document(posting.document).path.clone();
            (term.clone(), path, posting.frequency, posting.offset_bytes)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replacing_documents_equals_having_added_the_last_texts_only(
        writes in prop::collection::vec((0..4_u8, "[abAB _]{0,12}"), 0..24),
        cut in 0..24_usize,
    ) {
        let mut index = Index::new();
        let named: Vec<(String, &str)> = writes.iter().map(|(path, text)| (path.to_string(), text.as_str())).collect();
        let pairs: Vec<(&str, &str)> = named.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (first, second) = pairs.split_at(cut.min(pairs.len()));
        prop_assert!(archive_and_add(&mut index, &batch_of(first)).is_ok());
        prop_assert!(archive_and_add(&mut index, &batch_of(second)).is_ok());

        let last: std::collections::BTreeMap<&str, &str> = pairs.iter().copied().collect();
        let last: Vec<(&str, &str)> = last.into_iter().collect();
        let mut fresh = Index::new();
        prop_assert!(archive_and_add(&mut fresh, &batch_of(&last)).is_ok());

        assert_invariants(&index);
        prop_assert_eq!(contents(&index), contents(&fresh));
        prop_assert_eq!(index.summary(), fresh.summary());
    }
}
