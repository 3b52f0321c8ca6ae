//! From files to an index: batches are read here, sent over the lane, several on their way at a time.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use praas_client::{CallError, Pending, Process};
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use serde::Serialize;

use super::interruption::Interruption;
use crate::demo::application::{ADD, PUBLISH};
use crate::demo::corpus::{CorpusLimits, Listing, Skipped};
use crate::demo::messages::{AddBatch, IndexSummary};
use crate::demo::queries::WordCensus;
use crate::failure::Failure;
use crate::limits::DEMO_BATCHES_IN_FLIGHT;

/// What indexing came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Indexed {
    /// Text files in the index.
    pub(super) documents: u32,
    /// Bytes of text in them.
    pub(super) bytes: u64,
    /// Different words.
    pub(super) terms: u32,
    /// Calls that carried them.
    pub(super) batches: u64,
    /// From the first file opened to the answer that the index is published.
    pub(super) took_ms: f64,
    /// What was left out.
    pub(super) skipped: Vec<SkippedFigure>,
}

/// Entries left out for one reason.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SkippedFigure {
    pub(super) reason: String,
    pub(super) entries: u64,
    pub(super) example: String,
}

/// The files below `path`.
pub(super) fn list(path: &Path) -> Result<Listing, Failure> {
    Ok(Listing::walk(path, CorpusLimits::default())?)
}

/// Indexes the listed files, and counts their words into `census`.
pub(super) fn index(
    process: &Process,
    listing: Listing,
    census: &mut WordCensus,
    interruption: &Interruption,
) -> Result<Indexed, Failure> {
    let start = Instant::now();
    let bar = progress_bar(listing.files().len() as u64);
    let mut batches = listing.batches();
    let mut pipeline = Pipeline { process, in_flight: VecDeque::new(), sent: 0 };
    while let Some(batch) = batches.next() {
        interruption.check()?;
        census.observe(&batch);
        pipeline.send(&batch)?;
        bar.set_position(batches.files_read() as u64);
    }
    pipeline.finish()?;
    let summary = process.invoke_typed::<_, IndexSummary>(PUBLISH, &())?.to_value()?;
    bar.finish_and_clear();
    let took = start.elapsed();
    Ok(indexed(summary, pipeline.sent, took, batches.skipped()))
}

fn indexed(summary: IndexSummary, batches: u64, took: Duration, skipped: &Skipped) -> Indexed {
    let figure = |(reason, figure): (crate::demo::corpus::SkipReason, &crate::demo::corpus::SkipFigure)| {
        SkippedFigure { reason: reason.to_string(), entries: figure.entries, example: figure.example.clone() }
    };
    Indexed {
        documents: summary.documents,
        bytes: summary.bytes,
        terms: summary.terms,
        batches,
        took_ms: took.as_secs_f64() * 1e3,
        skipped: skipped.iter().map(figure).collect(),
    }
}

/// Calls on their way, oldest first.
struct Pipeline<'a> {
    process: &'a Process,
    in_flight: VecDeque<Pending<'static>>,
    sent: u64,
}

impl Pipeline<'_> {
    fn send(&mut self, batch: &AddBatch) -> Result<(), Failure> {
        let archive = rkyv::to_bytes::<Error>(batch).map_err(|error| Failure::Archive { reason: error.to_string() })?;
        if self.in_flight.len() >= DEMO_BATCHES_IN_FLIGHT {
            self.collect_oldest()?;
        }
        loop {
            match self.start(&archive) {
                Ok(call) => {
                    self.in_flight.push_back(call);
                    self.sent += 1;
                    return Ok(());
                }
                // An answer makes room. With nothing on its way there is none to wait for.
                Err(CallError::Overloaded { .. }) if !self.in_flight.is_empty() => self.collect_oldest()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts the archive into the lane's own memory, where the function reads it.
    fn start(&self, archive: &AlignedVec) -> Result<Pending<'static>, CallError> {
        let mut loan = self.process.loan(archive.len())?;
        loan.write_at(0, archive)?;
        self.process.start(ADD, loan)
    }

    fn collect_oldest(&mut self) -> Result<(), CallError> {
        match self.in_flight.pop_front() {
            Some(call) => call.wait().map(drop),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), CallError> {
        while !self.in_flight.is_empty() {
            self.collect_oldest()?;
        }
        Ok(())
    }
}

/// A bar on standard error, where that is a terminal.
fn progress_bar(files: u64) -> ProgressBar {
    let bar = ProgressBar::new(files);
    let style = ProgressStyle::with_template("   indexing {bar:40} {human_pos}/{human_len} files {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
