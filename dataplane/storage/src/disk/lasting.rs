//! Of which folders it is known that their directories last, so that only what they have is still to be synced.
//!
//! 1. A folder is known only after all directories above it were synced by this backend, while it was there.
//! 2. It is forgotten before any of these directories is made or removed by this backend. What was synced before that teaches
//!    nothing: a count of the changes tells. Others do not remove a folder that somebody uses.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use praas_protocol::fingerprint::{Fingerprint, Fingerprints};

use crate::name::Folder;

/// Folders that are known at once, some 30 bytes each; then it begins anew.
const KNOWN_MAX: usize = 65_536;

/// The folders that last where they are.
#[derive(Debug, Default)]
pub(super) struct Lasting {
    state: Mutex<State>,
    fingerprints: Fingerprints,
}

#[derive(Debug, Default)]
struct State {
    known: HashSet<Fingerprint>,
    changes: u64,
}

impl Lasting {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every statement leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a folder is known, and how many changes there were so far: [`Self::learn`] wants to know.
    pub(super) fn knows(&self, folder: &Folder) -> (bool, u64) {
        let folder = self.fingerprints.of(folder);
        let state = self.state();
        (state.known.contains(&folder), state.changes)
    }

    /// All above a folder was synced, begun when there had been so many changes.
    pub(super) fn learn(&self, folder: &Folder, changes: u64) {
        let mut state = self.state();
        if state.changes != changes {
            return;
        }
        if state.known.len() >= KNOWN_MAX {
            state.known.clear();
        }
        state.known.insert(self.fingerprints.of(folder));
    }

    /// Its directories are about to be made or removed.
    pub(super) fn forget(&self, folder: &Folder) {
        let mut state = self.state();
        state.changes += 1;
        state.known.remove(&self.fingerprints.of(folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_changes_while_it_is_synced_is_not_known_afterwards() {
        let (lasting, folder) =
            (Lasting::default(), Folder { process: "notes/alice".parse().unwrap(), incarnation: 1 });
        let (known, begun) = lasting.knows(&folder);
        assert!(!known);
        lasting.forget(&folder);
        lasting.learn(&folder, begun);
        assert!(!lasting.knows(&folder).0);
        let (_, begun) = lasting.knows(&folder);
        lasting.learn(&folder, begun);
        assert!(lasting.knows(&folder).0);
        lasting.forget(&folder);
        assert!(!lasting.knows(&folder).0);
    }

    #[test]
    fn it_never_grows_beyond_its_limit() {
        let lasting = Lasting::default();
        for incarnation in 0..KNOWN_MAX as u64 + 10 {
            lasting.learn(&Folder { process: "notes/alice".parse().unwrap(), incarnation }, 0);
        }
        assert_eq!(lasting.state().known.len(), 10);
    }
}
