//! Queries suit whatever corpus there is, match something in it, and are the same every time.

use std::collections::BTreeSet;

use super::*;
use crate::demo::index::Index;
use crate::demo::testing::{archive_and_add, archive_and_search, batch_of};

/// Two hundred documents: one word in all of them, others in fewer and fewer, all in the last.
fn graded_batch() -> AddBatch {
    let text = |number: usize| {
        let words = [(1, "everywhere"), (2, "half"), (10, "tenth"), (20, "twentieth"), (50, "fiftieth"), (200, "once")];
        let present = words.iter().filter(|(step, _)| (199 - number).is_multiple_of(*step));
        present.map(|(_, word)| format!("{word} fn x1 ")).collect::<String>()
    };
    let documents: Vec<(String, String)> = (0..200).map(|number| (number.to_string(), text(number))).collect();
    let pairs: Vec<(&str, &str)> = documents.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    batch_of(&pairs)
}

fn census_of(batch: &AddBatch) -> WordCensus {
    let mut census = WordCensus::new();
    census.observe(batch);
    census
}

#[test]
fn words_of_middling_frequency_come_first() {
    let queries = census_of(&graded_batch()).queries(4);
    assert_eq!(queries[0], "twentieth");
    assert!(queries[1].contains("tenth"), "{queries:?}");
    assert!(!queries[..2].iter().any(|query| query.contains("everywhere")), "{queries:?}");
}

#[test]
fn every_query_is_different_and_matches_something() {
    let batch = graded_batch();
    let mut index = Index::new();
    archive_and_add(&mut index, &batch).expect("within every limit");
    let queries = census_of(&batch).queries(8);
    assert!(queries.len() >= 4);
    assert!(queries.iter().any(|query| query.contains(' ')), "{queries:?}");
    assert_eq!(BTreeSet::from_iter(&queries).len(), queries.len());
    for query in &queries {
        let result = archive_and_search(&index, query, 1).expect("an ordinary query");
        assert!(result.matches_total > 0, "{query} matches nothing");
    }
}

#[test]
fn the_same_batches_give_the_same_queries() {
    let batch = graded_batch();
    assert_eq!(census_of(&batch).queries(6), census_of(&batch).queries(6));
}

#[test]
fn a_corpus_without_words_gives_no_queries() {
    assert!(WordCensus::new().queries(3).is_empty());
    assert!(census_of(&batch_of(&[("a", "1 + 1 = 2; x"), ("b", "")])).queries(3).is_empty());
}

#[test]
fn a_corpus_of_one_document_gives_its_most_repeated_words_first() {
    let census = census_of(&batch_of(&[("a", "alpha Beta beta gamma")]));
    assert_eq!(census.queries(5), ["beta", "alpha gamma"]);
    assert!(census.queries(0).is_empty());
}

#[test]
fn words_beyond_the_bound_are_not_counted() {
    let letters = |mut number: usize| {
        let mut word = "word".to_owned();
        while number > 0 {
            word.extend(char::from_digit(u32::try_from(number % 26).expect("small") + 10, 36));
            number /= 26;
        }
        word
    };
    let text: String = (0..2 * CENSUS_WORDS_MAX).map(|number| letters(number) + " ").collect();
    let census = census_of(&batch_of(&[("a", &text)]));
    assert_eq!(census.words.len(), CENSUS_WORDS_MAX);
}
