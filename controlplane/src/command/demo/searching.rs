//! A few searches, with what they find.

use std::time::Instant;

use praas_client::Process;
use serde::Serialize;

use super::interruption::Interruption;
use crate::demo::application::SEARCH;
use crate::demo::messages::{Hit, SearchQuery, SearchResult};
use crate::failure::Failure;
use crate::limits::{DEMO_HITS_SHOWN, DEMO_QUERIES_SHOWN};

/// One search and its best hits.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Searched {
    pub(super) query: String,
    pub(super) documents: u32,
    pub(super) took_ns: u64,
    pub(super) hits: Vec<FoundLine>,
}

/// A line that a search found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FoundLine {
    pub(super) path: String,
    pub(super) line_number: u32,
    pub(super) line: String,
}

impl From<Hit> for FoundLine {
    fn from(hit: Hit) -> Self {
        Self { path: hit.path, line_number: hit.line_number, line: hit.line }
    }
}

/// Searches for the first few queries.
pub(super) fn show(
    process: &Process,
    queries: &[String],
    interruption: &Interruption,
) -> Result<Vec<Searched>, Failure> {
    queries.iter().take(DEMO_QUERIES_SHOWN).map(|query| search(process, query, interruption)).collect()
}

/// One search.
pub(super) fn search(process: &Process, text: &str, interruption: &Interruption) -> Result<Searched, Failure> {
    interruption.check()?;
    let query = SearchQuery { text: text.to_owned(), limit: DEMO_HITS_SHOWN };
    let start = Instant::now();
    let reply = process.invoke_typed::<_, SearchResult>(SEARCH, &query)?;
    let took_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let result = reply.to_value()?;
    let hits = result.hits.into_iter().map(FoundLine::from).collect();
    Ok(Searched { query: query.text, documents: result.matches_total, took_ns, hits })
}
