//! Reading the listed files into batches, one at a time: never more than a batch and a file are in memory.

use std::fs::File;
use std::io::{self, Read};
use std::vec;

use super::listing::{ListedFile, Listing};
use super::{CorpusLimits, SkipReason, Skipped};
use crate::demo::limits::{BATCH_OVERHEAD_BYTES, DOCUMENT_OVERHEAD_BYTES};
use crate::demo::messages::{AddBatch, Document};

/// Archived size of a document with this path and this much text, at most.
#[must_use]
pub fn document_bytes(path: &str, text_bytes: usize) -> usize {
    path.len().saturating_add(text_bytes).saturating_add(DOCUMENT_OVERHEAD_BYTES)
}

/// Iterator over the batches of a corpus. A batch has at least one document.
#[derive(Debug)]
pub struct Batches {
    files: vec::IntoIter<ListedFile>,
    /// Read, but too much for the batch before.
    pending: Option<Document>,
    skipped: Skipped,
    limits: CorpusLimits,
    text_bytes: u64,
    files_read: usize,
}

impl Batches {
    pub(super) fn new(listing: Listing) -> Self {
        Self {
            files: listing.files.into_iter(),
            pending: None,
            skipped: listing.skipped,
            limits: listing.limits,
            text_bytes: 0,
            files_read: 0,
        }
    }

    /// Listed files dealt with so far, whether they became documents or were skipped.
    #[must_use]
    pub fn files_read(&self) -> usize {
        self.files_read
    }

    /// What walking and reading have left out so far; final after the last batch.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// The next file that is text. The files left bound the loop.
    fn next_document(&mut self) -> Option<Document> {
        if let Some(document) = self.pending.take() {
            return Some(document);
        }
        while let Some(file) = self.files.next() {
            self.files_read += 1;
            match self.read(&file) {
                Ok(text) => {
                    self.text_bytes += text.len() as u64;
                    return Some(Document { path: file.name, text });
                }
                Err(reason) => self.skipped.record(reason, &file.name, file.bytes),
            }
        }
        None
    }

    fn read(&self, file: &ListedFile) -> Result<String, SkipReason> {
        if self.text_bytes.saturating_add(file.bytes) > self.limits.text_bytes {
            return Err(SkipReason::TextLimit);
        }
        // The file was within every limit when it was listed; it may have changed, so no more than that is taken.
        let mut bytes = Vec::new();
        read_at_most(file, &mut bytes).map_err(|_| SkipReason::Unreadable)?;
        if bytes.len() as u64 > file.bytes {
            return Err(SkipReason::TooLarge);
        }
        if bytes.is_empty() {
            return Err(SkipReason::Empty);
        }
        if bytes.contains(&0) {
            return Err(SkipReason::Binary);
        }
        String::from_utf8(bytes).map_err(|_| SkipReason::Binary)
    }
}

/// Reads the file up to one byte over its listed size, which shows that it has grown.
fn read_at_most(file: &ListedFile, bytes: &mut Vec<u8>) -> io::Result<usize> {
    File::open(&file.location)?.take(file.bytes.saturating_add(1)).read_to_end(bytes)
}

impl Iterator for Batches {
    type Item = AddBatch;

    fn next(&mut self) -> Option<AddBatch> {
        let mut batch = AddBatch::default();
        let mut batch_bytes = BATCH_OVERHEAD_BYTES;
        while let Some(document) = self.next_document() {
            batch_bytes += document_bytes(&document.path, document.text.len());
            if batch_bytes > self.limits.batch_bytes {
                self.pending = Some(document);
                break;
            }
            batch.documents.push(document);
        }
        (!batch.documents.is_empty()).then_some(batch)
    }
}
