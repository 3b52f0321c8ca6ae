//! The functions of the demo, as its workers register them.
//!
//! One worker owns one index, so the functions share it without locks. The process has exactly one worker: a second one
//! would have an index of its own.

use std::cell::RefCell;
use std::rc::Rc;

use praas_function::{Application, Call, Context};

use super::index::Index;
use super::messages::{ArchivedAddBatch, ArchivedSearchQuery, IndexSummary};

/// Name of the application.
pub const APPLICATION: &str = "demo";

/// Adds an [`AddBatch`](super::messages::AddBatch); answers an [`AddSummary`](super::messages::AddSummary).
pub const ADD: &str = "add";

/// Answers a [`SearchQuery`](super::messages::SearchQuery) with a [`SearchResult`](super::messages::SearchResult).
pub const SEARCH: &str = "search";

/// Answers an [`IndexSummary`], whatever it gets.
pub const SUMMARY: &str = "summary";

/// Answers what it gets: the shortest call that can be made.
pub const NOOP: &str = "noop";

/// Every function, as a `praas.toml` names them.
pub const FUNCTIONS: [&str; 4] = [ADD, SEARCH, SUMMARY, NOOP];

/// The application, with an empty index.
#[must_use]
pub fn application() -> Application {
    let index = Rc::new(RefCell::new(Index::new()));
    let (added, searched, summed) = (Rc::clone(&index), Rc::clone(&index), index);
    Application::new()
        .typed(ADD, move |_: &Context, batch: &ArchivedAddBatch| Ok(added.borrow_mut().add(batch)?))
        .typed(SEARCH, move |_: &Context, query: &ArchivedSearchQuery| Ok(searched.borrow().search(query)?))
        .typed(SUMMARY, move |_: &Context, (): &()| Ok::<IndexSummary, _>(summed.borrow().summary()))
        .function(NOOP, |call: &mut Call| call.reply(call.input()))
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;
    use crate::demo::messages::{AddSummary, SearchQuery, SearchResult};
    use crate::demo::testing::batch_of;

    #[test]
    fn what_one_function_adds_another_finds() {
        let harness = Harness::new(application).unwrap();
        let batch = batch_of(&[("a.txt", "the quick fox\njumps"), ("b.txt", "the lazy dog")]);
        let added: AddSummary = harness.invoke_typed(ADD, &batch).unwrap();
        assert_eq!(added.documents, 2);
        let query = SearchQuery { text: "Fox".into(), limit: 10 };
        let found: SearchResult = harness.invoke_typed(SEARCH, &query).unwrap();
        assert_eq!(found.hits.len(), 1);
        assert_eq!((found.hits[0].path.as_str(), found.hits[0].line_number), ("a.txt", 1));
        let summary: IndexSummary = harness.invoke_typed(SUMMARY, &()).unwrap();
        assert_eq!(summary.documents, 2);
    }

    #[test]
    fn the_shortest_call_answers_what_it_gets() {
        let harness = Harness::new(application).unwrap();
        assert_eq!(harness.invoke(NOOP, &[7; 64]).unwrap(), [7; 64]);
    }

    #[test]
    fn a_query_that_is_too_long_fails_in_words() {
        let harness = Harness::new(application).unwrap();
        let query = SearchQuery { text: "x".repeat(2000), limit: 1 };
        let error = harness.invoke_typed::<SearchResult>(SEARCH, &query).unwrap_err();
        assert!(error.to_string().contains("the query has 2000 bytes"), "{error}");
    }
}
