//! How much of each blob a snapshot needs, worked out from the one before and what changed.
//!
//! Pages that stay are not read for it: so counts are carried on. What they say is never less than what is needed: where a page
//! of the snapshot before cannot be read, its bytes go on counting, and the blob stays until the table is made anew. The values
//! that an amendment of a page replaces go on counting too, until that page is written whole: their places stand there alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::SnapshotError;
use super::limits::{COMPACTED_BYTES_MAX, GARBAGE_BYTES_KEPT, STORED_PER_LIVE_MAX};
use super::location::Location;
use super::manifest::{BlobUse, Manifest, Stretch};
use super::pack::Packer;
use super::pieces::parts;

/// What happened to the use of one blob.
#[derive(Debug, Default, Clone, Copy)]
struct Change {
    charged: u64,
    released: u64,
    charged_whole: bool,
    released_whole: bool,
}

/// What changed. Each thread has one, and they are joined.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    blobs: HashMap<u128, Change>,
}

impl Changes {
    /// Something is needed that lies there.
    pub(crate) fn charge(&mut self, location: &Location, value_bytes: u32) {
        for (blob, bytes) in parts(location, value_bytes) {
            let change = self.blobs.entry(blob).or_default();
            change.charged += bytes.unwrap_or(0);
            change.charged_whole |= bytes.is_none();
        }
    }

    /// Something is no longer needed that lies there, or is charged anew.
    pub(crate) fn release(&mut self, location: &Location, value_bytes: u32) {
        for (blob, bytes) in parts(location, value_bytes) {
            let change = self.blobs.entry(blob).or_default();
            change.released += bytes.unwrap_or(0);
            change.released_whole |= bytes.is_none();
        }
    }

    /// The same of the bytes of a page, or of its amendment.
    pub(crate) fn charge_stretch(&mut self, stretch: &Stretch) {
        self.blobs.entry(stretch.blob).or_default().charged += u64::from(stretch.bytes);
    }

    /// The same of the bytes of a page, or of its amendment.
    pub(crate) fn release_stretch(&mut self, stretch: &Stretch) {
        self.blobs.entry(stretch.blob).or_default().released += u64::from(stretch.bytes);
    }

    pub(crate) fn join(&mut self, other: Self) {
        for (blob, change) in other.blobs {
            let own = self.blobs.entry(blob).or_default();
            own.charged += change.charged;
            own.released += change.released;
            own.charged_whole |= change.charged_whole;
            own.released_whole |= change.released_whole;
        }
    }

    /// The table of the next snapshot, and which blobs of the one before it does without. `carried` says whether pages of that one
    /// may be in it.
    pub(crate) fn settle(
        &self,
        before: Option<&Manifest>,
        carried: bool,
        packer: &Packer<'_>,
    ) -> Result<(Vec<BlobUse>, Vec<u128>), SnapshotError> {
        let mut table: BTreeMap<u128, BlobUse> = BTreeMap::new();
        for blob in before.iter().flat_map(|manifest| &manifest.blobs) {
            let live_bytes = if carried { blob.live_bytes } else { 0 };
            table.insert(blob.number, BlobUse { live_bytes, ..*blob });
        }
        for (&number, change) in &self.blobs {
            let new = || packer.blob_bytes(number).map(|bytes| BlobUse { number, bytes, live_bytes: 0 });
            let Some(mut blob) = table.get(&number).copied().or_else(new) else {
                if change.charged == 0 && !change.charged_whole {
                    continue;
                }
                let reason = format!("the state has a value in blob {number:032x}, which that snapshot does not know");
                return Err(SnapshotError::unfit(packer.folder, reason));
            };
            blob.live_bytes = match (change.charged_whole, change.released_whole) {
                (true, _) => blob.bytes,
                (false, true) => 0,
                (false, false) => (blob.live_bytes + change.charged).saturating_sub(change.released).min(blob.bytes),
            };
            table.insert(number, blob);
        }
        let mut dead = Vec::new();
        table.retain(|&number, blob| {
            if blob.live_bytes == 0 {
                dead.push(number);
            }
            blob.live_bytes > 0
        });
        Ok((table.into_values().collect(), dead))
    }
}

/// The blobs out of which a writing moves what lives: none until there is as much garbage as there is of everything else, then the
/// emptiest first. So moving never costs more than what was written since.
pub(crate) fn emptied(manifest: &Manifest) -> HashSet<u128> {
    let stored: u64 = manifest.blobs.iter().map(|blob| blob.bytes).sum();
    let live: u64 = manifest.blobs.iter().map(|blob| blob.live_bytes).sum();
    if stored <= live * STORED_PER_LIVE_MAX + GARBAGE_BYTES_KEPT {
        return HashSet::new();
    }
    let mut candidates: Vec<&BlobUse> =
        manifest.blobs.iter().filter(|blob| blob.live_bytes * STORED_PER_LIVE_MAX < blob.bytes).collect();
    candidates.sort_by_key(|blob| (blob.live_bytes, blob.number));
    let mut moved_bytes = 0;
    let within = |blob: &&&BlobUse| {
        moved_bytes += blob.live_bytes;
        moved_bytes <= COMPACTED_BYTES_MAX
    };
    candidates.iter().take_while(within).map(|blob| blob.number).collect()
}
