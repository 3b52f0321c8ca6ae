//! Searching gives what a scan of all texts gives, in the same order, and shows the right lines.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::demo::index::Index;
use crate::demo::messages::AddBatch;
use crate::demo::testing::{archive_and_add, archive_and_search, batch_of};

fn index_of(documents: &[(&str, &str)]) -> Index {
    let mut index = Index::new();
    archive_and_add(&mut index, &batch_of(documents)).expect("within every limit");
    index
}

fn found(index: &Index, text: &str) -> SearchResult {
    archive_and_search(index, text, 10).expect("an ordinary query")
}

fn paths(result: &SearchResult) -> Vec<&str> {
    result.hits.iter().map(|hit| hit.path.as_str()).collect()
}

#[test]
fn an_empty_index_matches_nothing() {
    assert_eq!(found(&Index::new(), "anything"), SearchResult::default());
}

#[test]
fn a_query_without_terms_or_with_an_unknown_one_matches_nothing() {
    let index = index_of(&[("a", "known words")]);
    for text in ["", " \u{2026} ,", "unknown", "known unknown"] {
        assert_eq!(found(&index, text), SearchResult::default(), "{text:?}");
    }
}

#[test]
fn every_term_must_occur_whatever_its_case_or_order() {
    let index = index_of(&[("a", "spin then park"), ("b", "spin"), ("c", "PARK, never SPIN")]);
    let result = found(&index, "Park SPIN park");
    assert_eq!(result.matches_total, 2);
    assert_eq!(BTreeSet::from_iter(paths(&result)), BTreeSet::from(["a", "c"]));
}

#[test]
fn repeated_terms_and_short_documents_rank_higher_and_ties_keep_their_order() {
    let index = index_of(&[
        ("long", "needle and much other hay around it and around it"),
        ("first", "needle hay"),
        ("second", "hay needle"),
        ("often", "needle needle needle"),
    ]);
    let result = found(&index, "needle");
    assert_eq!(paths(&result), ["often", "first", "second", "long"]);
    assert!(result.hits.is_sorted_by(|one, other| one.score >= other.score));
}

#[test]
fn a_hit_shows_the_line_of_the_rarest_term() {
    let index = index_of(&[("a", "common here\n\n  fn rare_name() -> common\n"), ("b", "common")]);
    let hit = &found(&index, "common rare_name").hits[0];
    assert_eq!((hit.line_number, hit.line.as_str()), (3, "fn rare_name() -> common"));
}

#[test]
fn a_huge_line_is_cut_and_still_shows_the_match() {
    let text = format!("{} needle {}", "é".repeat(100_000), "東".repeat(50_000));
    let hit = &found(&index_of(&[("a", &text)]), "needle").hits[0];
    assert!(hit.line.contains(" needle "));
    assert!(hit.line.len() <= 210, "{} bytes", hit.line.len());
}

#[test]
fn the_limit_bounds_the_hits_and_not_the_count() {
    let documents: Vec<(String, &str)> = (0..250).map(|number| (number.to_string(), "word")).collect();
    let pairs: Vec<(&str, &str)> = documents.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let index = index_of(&pairs);
    for (limit, shown) in [(0, 0), (1, 1), (7, 7), (u32::MAX, SEARCH_HITS_MAX)] {
        let result = archive_and_search(&index, "word", limit).expect("an ordinary query");
        assert_eq!((result.hits.len(), result.matches_total), (shown, 250));
    }
}

#[test]
fn queries_over_their_limits_are_refused_with_figures() {
    let words: Vec<String> = (0..=QUERY_TERMS_MAX).map(|number| format!("w{number}")).collect();
    let text = words.join(" ");
    let index = index_of(&[("a", &text)]);
    assert_eq!(archive_and_search(&index, &text, 1), Err(SearchError::TooManyTerms { terms_max: QUERY_TERMS_MAX }));
    assert_eq!(found(&index, &words[1..].join(" ")).matches_total, 1);
    let long = "x".repeat(QUERY_BYTES_MAX + 1);
    assert!(matches!(
        archive_and_search(&index, &long, 1),
        Err(SearchError::QueryTooLong { bytes, .. }) if bytes == QUERY_BYTES_MAX + 1
    ));
}

/// The same question answered without an index: paths with BM25 scores, best first.
fn scan(batch: &AddBatch, query: &str) -> Vec<(String, f64)> {
    let words = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| c != '_' && !c.is_alphanumeric());
        parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
    };
    let texts: Vec<Vec<String>> = batch.documents.iter().map(|document| words(&document.text)).collect();
    let asked: BTreeSet<String> = words(query).into_iter().collect();
    let count = texts.len() as f64;
    let mean = texts.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let mut found = Vec::new();
    for (document, text) in batch.documents.iter().zip(&texts) {
        if asked.is_empty() || !asked.iter().all(|word| text.contains(word)) {
            continue;
        }
        let score_of = |word: &String| {
            let with = texts.iter().filter(|text| text.contains(word)).count() as f64;
            let times = text.iter().filter(|other| *other == word).count() as f64;
            let norm = 1.2 * (0.25 + 0.75 * text.len() as f64 / mean);
            ((count - with + 0.5) / (with + 0.5) + 1.0).ln() * times * 2.2 / (times + norm)
        };
        found.push((document.path.clone(), asked.iter().map(score_of).sum()));
    }
    found.sort_by(|(_, one): &(String, f64), (_, other)| other.total_cmp(one));
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn searching_equals_scanning(
        texts in prop::collection::vec(prop::collection::vec("[a-eA-E]{1,2}|[ßж_]", 0..40), 0..40),
        query in prop::collection::vec("[a-eA-E]{1,2}|[ßж_]", 0..4),
        limit in 0..50_u32,
    ) {
        let documents: Vec<(String, String)> = texts
            .iter()
            .enumerate()
            .map(|(number, words)| (format!("{number:02}"), words.join(if number % 2 == 0 { " " } else { "\n" })))
            .collect();
        let pairs: Vec<(&str, &str)> = documents.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let batch = batch_of(&pairs);
        let query = query.join(" ");
        let result = archive_and_search(&index_of(&pairs), &query, limit).expect("within the limits");
        let expected = scan(&batch, &query);

        prop_assert_eq!(result.matches_total as usize, expected.len());
        prop_assert_eq!(result.hits.len(), expected.len().min(limit as usize));
        for (hit, (_, expected_score)) in result.hits.iter().zip(&expected) {
            // Equal in rank; scores that differ by rounding only may change places.
            prop_assert!((f64::from(hit.score) - expected_score).abs() < 1e-4 * expected_score.max(1.0));
            let own_score = expected.iter().find(|(path, _)| *path == hit.path).map(|(_, score)| *score);
            prop_assert!(own_score.is_some_and(|own| (own - expected_score).abs() < 1e-4 * own.max(1.0)));
            let text = &documents[hit.path.parse::<usize>().expect("a number")].1;
            let line = text.split('\n').nth(hit.line_number as usize - 1).expect("a line of the text");
            prop_assert_eq!(&hit.line, line.trim());
        }
        let distinct: BTreeSet<&str> = paths(&result).into_iter().collect();
        prop_assert_eq!(distinct.len(), result.hits.len());
    }

    #[test]
    fn galloping_finds_the_first_posting_from_a_document_on(
        numbers in prop::collection::btree_set(0..200_u32, 0..60),
        document in 0..210_u32,
    ) {
        let postings: Vec<ArchivedPosting> = numbers
            .iter()
            .map(|&document| ArchivedPosting {
                document: document.into(),
                frequency: 1.into(),
                offset_bytes: 0.into(),
            })
            .collect();
        let expected: Vec<u32> = numbers.range(document..).copied().collect();
        let found: Vec<u32> = from_document(&postings, document).iter().map(|posting| posting.document.to_native()).collect();
        prop_assert_eq!(found, expected);
    }
}
