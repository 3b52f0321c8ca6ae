//! What storage holds, for whoever asks: looked up page by page by the threads that transfer processes.
//!
//! Folders are asked for in the backend's order, and the parts of each are counted. What a token does not cover is passed over
//! without a look into it. Few questions are looked up at a time, each for [`USAGE_PAGE_MAX`]: processes that are to sleep or to
//! wake come first. What was counted by then is the page; where that is nothing, the question fails and says so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use praas_protocol::control::{ControlError, ServerMessage, StoredFolder, StoredPlace};
use praas_protocol::limits::{LIST_PAGE_PROCESSES, STORAGE_PLACE_BYTES_MAX};
use praas_protocol::token::Scope;
use praas_storage::backend::{LISTED_MAX, each_blob_page};
use praas_storage::snapshot::{Snapshot, SnapshotError};
use praas_storage::{Backend, Folder, StorageError};

use super::transfer::Job;
use crate::limits::{USAGE_PAGE_MAX, USAGE_QUESTIONS_MAX};
use crate::processes::Asker;
use crate::shard::Shard;

/// What is to be looked up.
#[derive(Debug)]
pub(crate) struct UsageJob {
    asker: Asker,
    scope: Scope,
    after: Option<Folder>,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct UsageFound {
    asker: Asker,
    page: Result<UsagePage, String>,
}

/// Folders with what they have, and whether more may follow.
#[derive(Debug, Default)]
struct UsagePage {
    folders: Vec<(Folder, Counted)>,
    more: bool,
}

/// What a folder has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counted {
    blobs: u64,
    /// With those of the manifest.
    bytes: u64,
    /// Of blobs that the manifest does not name.
    leftover_bytes: u64,
}

impl UsageJob {
    /// Looks it up; for a thread that may wait.
    pub(crate) fn carry_out(self, backend: &Arc<dyn Backend>) -> UsageFound {
        let page = match self.page(backend, Instant::now() + USAGE_PAGE_MAX) {
            Ok(Some(page)) => Ok(page),
            Ok(None) => Err(too_slow(USAGE_PAGE_MAX)),
            Err(error) => Err(error.to_string()),
        };
        UsageFound { asker: self.asker, page }
    }

    /// A page, which ends early when the time is over; `None` if nothing was counted by then.
    fn page(&self, backend: &Arc<dyn Backend>, until: Instant) -> Result<Option<UsagePage>, StorageError> {
        let mut page = UsagePage::default();
        let mut after = self.after;
        loop {
            if Instant::now() >= until {
                page.more = true;
                return Ok((!page.folders.is_empty()).then_some(page));
            }
            let folders = backend.folders(after.as_ref())?;
            let is_last = folders.len() < LISTED_MAX;
            after = folders.last().copied();
            for folder in folders.into_iter().filter(|folder| self.scope.covers(&folder.process)) {
                let counted =
                    if page.folders.len() < LIST_PAGE_PROCESSES { count(backend, &folder, until)? } else { None };
                let Some(counted) = counted else {
                    page.more = true;
                    return Ok((!page.folders.is_empty()).then_some(page));
                };
                page.folders.push((folder, counted));
            }
            if is_last {
                return Ok(Some(page));
            }
        }
    }
}

fn too_slow(limit: Duration) -> String {
    format!("not even one process was counted within {limit:?}: ask again when the storage has less to do")
}

/// What a folder has; `None` when the time is over.
fn count(backend: &Arc<dyn Backend>, folder: &Folder, until: Instant) -> Result<Option<Counted>, StorageError> {
    let (manifest_bytes, snapshot) = match Snapshot::open(backend, folder) {
        Ok(snapshot) => (snapshot.as_ref().map_or(0, |snapshot| snapshot.usage().manifest_bytes), snapshot),
        Err(SnapshotError::Storage(error)) => return Err(error),
        // Damaged: which parts it needs is not known. It takes what it takes all the same.
        Err(_) => (backend.manifest(folder)?.map_or(0, |manifest| manifest.bytes.len() as u64), None),
    };
    let is_needed = |number| snapshot.as_ref().is_none_or(|snapshot| snapshot.needs(number));
    let mut counted = Counted { bytes: manifest_bytes, ..Counted::default() };
    let has_manifest = manifest_bytes > 0;
    let mut is_over = false;
    let listed = each_blob_page(&**backend, folder, &mut |some| {
        is_over = Instant::now() >= until;
        if is_over {
            return Err(StorageError::late(backend.place(), "counting blobs", USAGE_PAGE_MAX));
        }
        counted.blobs += some.len() as u64;
        for entry in some {
            counted.bytes += entry.bytes;
            let is_left = !has_manifest || !is_needed(entry.blob.number);
            counted.leftover_bytes += if is_left { entry.bytes } else { 0 };
        }
        Ok(())
    });
    if is_over { Ok(None) } else { listed.map(|()| Some(counted)) }
}

impl Shard {
    /// Has a page of what storage holds looked up; the asker is answered by [`Self::usage_found`].
    pub(crate) fn look_up_usage(
        &mut self,
        asker: Asker,
        scope: Scope,
        after: Option<StoredPlace>,
    ) -> Result<(), ControlError> {
        let after = after.map(|(process, incarnation)| Folder { process, incarnation });
        let Some(transfers) = &self.swaps.transfers else { return Err(ControlError::NoStorage) };
        if self.swaps.usage_questions >= USAGE_QUESTIONS_MAX {
            return Err(ControlError::LimitReached {
                what: "questions about what is stored, on this server".into(),
                used: self.swaps.usage_questions as u64,
                limit: USAGE_QUESTIONS_MAX as u64,
                asked: 1,
                advice: "ask again when others were answered".into(),
            });
        }
        transfers.begin(Job::Usage(UsageJob { asker, scope, after }));
        self.swaps.usage_questions += 1;
        Ok(())
    }

    /// A page was looked up, or not.
    pub(crate) fn usage_found(&mut self, found: UsageFound) {
        let UsageFound { asker, page } = found;
        self.swaps.usage_questions = self.swaps.usage_questions.saturating_sub(1);
        let place = self.swaps.backend().map(|backend| backend.place()).unwrap_or_default();
        match page {
            Ok(UsagePage { folders, more }) => {
                let folders = folders.into_iter().map(|(folder, counted)| {
                    let Folder { process, incarnation } = folder;
                    let Counted { blobs, bytes, leftover_bytes } = counted;
                    let state = self.state_of_life(&folder);
                    StoredFolder { process, incarnation, state, blobs, bytes, leftover_bytes }
                });
                let folders = folders.collect();
                let place = place[..place.floor_char_boundary(STORAGE_PLACE_BYTES_MAX)].to_owned();
                self.answer(asker, &ServerMessage::Stored { request: asker.request, place, folders, more }, &[]);
            }
            Err(error) => {
                let what = format!("looking up what is stored in {place}");
                self.answer_failed(asker, ControlError::Host { what, reason: error });
            }
        }
    }

    /// The state of this very life of a process, awake or not.
    fn state_of_life(&self, folder: &Folder) -> Option<praas_protocol::control::ProcessState> {
        let id = &folder.process;
        let life = match self.processes.swapped.get(id) {
            Some(swapped) => Some(swapped.incarnation),
            None => self
                .processes
                .by_id
                .get(id)
                .and_then(|key| self.processes.get(*key)?.folder())
                .map(|own| own.incarnation),
        };
        self.state_of(id).filter(|_| life == Some(folder.incarnation))
    }
}

#[cfg(test)]
mod tests {
    use praas_storage::{BlobName, MemoryBackend};

    use super::*;
    use crate::clients::ClientKey;

    fn folder(name: &str, incarnation: u64) -> Folder {
        Folder { process: format!("notes/{name}").parse().unwrap(), incarnation }
    }

    fn job(scope: Scope, after: Option<Folder>) -> UsageJob {
        UsageJob { asker: Asker { client: ClientKey(0), request: 1 }, scope, after }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn a_question_whose_time_is_over_ends() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let folder = folder("alice", 1);
        backend.put(&BlobName { folder, number: 0 }, &[0; 3]).unwrap();
        let over = Instant::now();
        assert!(job(Scope::Any, None).page(&backend, over).unwrap().is_none());
        assert_eq!(count(&backend, &folder, over).unwrap(), None);
        assert!(too_slow(USAGE_PAGE_MAX).contains("5s"));
    }

    #[test]
    fn parts_and_bytes_of_each_life_are_counted_page_by_page() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let count = LIST_PAGE_PROCESSES + 10;
        let all: Vec<Folder> =
            (0..count as u64).map(|number| folder(&format!("user-{number:04}"), number % 3)).collect();
        for (index, folder) in all.iter().enumerate() {
            for number in 0..=(index % 3) as u128 {
                backend.put(&BlobName { folder: *folder, number }, &[7; 100]).unwrap();
            }
            backend.publish(folder, None, &[1; 20]).unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = job(Scope::Any, after).page(&backend, far()).unwrap().unwrap();
            seen.extend(page.folders);
            after = seen.last().map(|(folder, _)| *folder);
            if !page.more {
                break;
            }
            assert_eq!(seen.len(), LIST_PAGE_PROCESSES);
        }
        let expected = all.iter().enumerate().map(|(index, folder)| {
            let blobs = index as u64 % 3 + 1;
            // A manifest that nobody can read needs what it needs.
            (*folder, Counted { blobs, bytes: blobs * 100 + 20, leftover_bytes: 0 })
        });
        assert_eq!(seen, expected.collect::<Vec<_>>());
        let one = job(Scope::Process(all[3].process), None).page(&backend, far()).unwrap().unwrap();
        assert_eq!((one.folders.len(), one.folders[0].0, one.more), (1, all[3], false));
    }

    #[test]
    fn a_life_with_more_parts_than_one_answer_lists_is_counted_whole() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        let folder = folder("alice", 1);
        for number in 0..LISTED_MAX as u128 + 5 {
            backend.put(&BlobName { folder, number }, &[0; 3]).unwrap();
        }
        let blobs = LISTED_MAX as u64 + 5;
        assert_eq!(
            count(&backend, &folder, far()).unwrap(),
            Some(Counted { blobs, bytes: 3 * blobs, leftover_bytes: 3 * blobs })
        );
    }
}
