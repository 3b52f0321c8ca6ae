//! The functions of the demo, as its workers register them.
//!
//! The index is an object of the process's state: `search` reads it where it lies, in any worker, and it outlives all of them.
//! Building one takes many small changes, so `add` makes them in a worker's own memory and `publish` puts the whole. The
//! process has exactly one worker: a second one would build an index of its own.
//!
//! A process can also have results sent to another one, as messages, which that one receives when it comes to it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use praas_function::{Application, Call, Context, FunctionResult, RecvError, Sources, StateError};
use rkyv::rancor::Error;
use rkyv::rend::u32_le;

use super::index::Index;
use super::messages::{
    AddSummary, ArchivedAddBatch, ArchivedSearchQuery, ArchivedSendOrder, IndexSummary, ReceivedResults, SearchResult,
    SentResult,
};

/// Name of the application.
pub const APPLICATION: &str = "demo";

/// Key of the index among the objects of the process.
pub const INDEX_KEY: &str = "index";

/// Adds an [`AddBatch`](super::messages::AddBatch) to what is published next; answers an [`AddSummary`].
pub const ADD: &str = "add";

/// Makes what was added the index that is searched; answers its [`IndexSummary`].
pub const PUBLISH: &str = "publish";

/// Answers a [`SearchQuery`](super::messages::SearchQuery) with a [`SearchResult`] from the published index.
pub const SEARCH: &str = "search";

/// Answers the [`IndexSummary`] of the published index, whatever it gets.
pub const SUMMARY: &str = "summary";

/// Searches as [`SEARCH`] does, and sends what it finds to the process that a [`SendOrder`](super::messages::SendOrder) names;
/// answers the number of documents.
pub const SEND: &str = "send";

/// Receives as many results as it is told, and answers [`ReceivedResults`]: fewer, if no more come.
pub const RECEIVE: &str = "receive";

/// Key of the messages with results.
const RESULTS_KEY: &str = "results";

/// How long a result may take to come.
const RESULT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Answers what it gets: the shortest call that can be made.
pub const NOOP: &str = "noop";

/// Every function, as a `praas.toml` names them.
pub const FUNCTIONS: [&str; 7] = [ADD, PUBLISH, SEARCH, SUMMARY, SEND, RECEIVE, NOOP];

/// The application.
#[must_use]
pub fn application() -> Application {
    let added = Rc::new(RefCell::new(Draft::default()));
    let published = Rc::clone(&added);
    Application::new()
        .typed(ADD, move |context: &Context, batch: &ArchivedAddBatch| added.borrow_mut().add(context, batch))
        .typed(PUBLISH, move |context: &Context, (): &()| published.borrow_mut().publish(context))
        .typed(SEARCH, search)
        .typed(SEND, send)
        .typed(RECEIVE, |context: &Context, count: &u32_le| receive(context, count.to_native()))
        .typed(SUMMARY, |context: &Context, (): &()| {
            Ok(context.state::<Index>(INDEX_KEY)?.map_or_else(IndexSummary::default, |index| index.summary()))
        })
        .function(NOOP, |call: &mut Call| call.reply(call.input()))
}

fn search(context: &Context<'_>, query: &ArchivedSearchQuery) -> FunctionResult<SearchResult> {
    match context.state::<Index>(INDEX_KEY)? {
        Some(index) => Ok(index.search(query)?),
        None => Ok(SearchResult::default()),
    }
}

fn send(context: &Context<'_>, order: &ArchivedSendOrder) -> FunctionResult<u32> {
    let result = search(context, &order.query)?;
    let documents = result.matches_total;
    let message = SentResult { query: order.query.text.as_str().to_owned(), result };
    context.send(order.to.as_str(), RESULTS_KEY, &rkyv::to_bytes::<Error>(&message)?)?;
    Ok(documents)
}

fn receive(context: &Context<'_>, count: u32) -> FunctionResult<ReceivedResults> {
    let mut received = ReceivedResults::default();
    for _ in 0..count {
        let message = match context.recv(Sources::Any, RESULTS_KEY, RESULT_WAIT_MAX) {
            Ok(message) => message,
            Err(RecvError::DeadlineExceeded { .. }) => break,
            Err(error) => return Err(error.into()),
        };
        let result = rkyv::from_bytes::<SentResult, Error>(message.bytes())?;
        received.results.push((message.source().to_string(), result));
    }
    Ok(received)
}

/// The index as this worker changes it, and the version of the published one that it is based on.
#[derive(Default)]
struct Draft {
    index: Index,
    version: Option<u64>,
}

impl Draft {
    fn add(&mut self, context: &Context<'_>, batch: &ArchivedAddBatch) -> FunctionResult<AddSummary> {
        self.follow(context)?;
        Ok(self.index.add(batch)?)
    }

    fn publish(&mut self, context: &Context<'_>) -> FunctionResult<IndexSummary> {
        self.follow(context)?;
        self.version = Some(context.put(INDEX_KEY, &self.index)?);
        Ok(self.index.summary())
    }

    /// Begins with the published index, where another worker published it: the one before this.
    fn follow(&mut self, context: &Context<'_>) -> Result<(), StateError> {
        let Some(published) = context.state::<Index>(INDEX_KEY)? else { return Ok(()) };
        if self.version != Some(published.version()) {
            *self = Self { index: published.to_value()?, version: Some(published.version()) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use praas_function::testing::Harness;

    use super::*;
    use crate::demo::messages::{AddSummary, SearchQuery, SearchResult, SendOrder};
    use crate::demo::testing::batch_of;

    #[test]
    fn what_one_function_adds_another_finds() {
        let harness = Harness::new(application).unwrap();
        let batch = batch_of(&[("a.txt", "the quick fox\njumps"), ("b.txt", "the lazy dog")]);
        let added: AddSummary = harness.invoke_typed(ADD, &batch).unwrap();
        assert_eq!(added.documents, 2);
        let summary: IndexSummary = harness.invoke_typed(SUMMARY, &()).unwrap();
        assert_eq!(summary.documents, 0, "it is published as a whole");
        let published: IndexSummary = harness.invoke_typed(PUBLISH, &()).unwrap();
        assert_eq!(published.documents, 2);
        let query = SearchQuery { text: "Fox".into(), limit: 10 };
        let found: SearchResult = harness.invoke_typed(SEARCH, &query).unwrap();
        assert_eq!(found.hits.len(), 1);
        assert_eq!((found.hits[0].path.as_str(), found.hits[0].line_number), ("a.txt", 1));
        let summary: IndexSummary = harness.invoke_typed(SUMMARY, &()).unwrap();
        assert_eq!(summary.documents, 2);
    }

    #[test]
    fn results_are_sent_from_process_to_process() {
        let library = Harness::new(application).unwrap();
        let reader = library.another("reader").unwrap();
        library.invoke_typed::<AddSummary>(ADD, &batch_of(&[("a.txt", "the quick fox")])).unwrap();
        library.invoke_typed::<IndexSummary>(PUBLISH, &()).unwrap();
        for text in ["fox", "dog"] {
            let order = SendOrder { query: SearchQuery { text: text.into(), limit: 1 }, to: "reader".into() };
            library.invoke_typed::<u32>(SEND, &order).unwrap();
        }
        let received: ReceivedResults = reader.invoke_typed(RECEIVE, &2_u32).unwrap();
        let texts: Vec<_> = received.results.iter().map(|(_, sent)| sent.query.as_str()).collect();
        assert_eq!(texts, ["fox", "dog"], "in the order in which they were sent");
        assert!(received.results.iter().all(|(source, _)| source == "harness"), "{received:?}");
        let found: Vec<_> = received.results.iter().map(|(_, sent)| sent.result.matches_total).collect();
        assert_eq!(found, [1, 0]);
    }

    #[test]
    fn the_shortest_call_answers_what_it_gets() {
        let harness = Harness::new(application).unwrap();
        assert_eq!(harness.invoke(NOOP, &[7; 64]).unwrap(), [7; 64]);
    }

    #[test]
    fn a_query_that_is_too_long_fails_in_words() {
        let harness = Harness::new(application).unwrap();
        harness.invoke_typed::<IndexSummary>(PUBLISH, &()).unwrap();
        let query = SearchQuery { text: "x".repeat(2000), limit: 1 };
        let error = harness.invoke_typed::<SearchResult>(SEARCH, &query).unwrap_err();
        assert!(error.to_string().contains("the query has 2000 bytes"), "{error}");
    }
}
