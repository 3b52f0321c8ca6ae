//! Removes what is stored of a life of a process: on a thread, and never what is another server's.
//!
//! Storage may be shared. Which server a process belongs to is decided by its manifest alone, and by conditional publishing:
//!
//! 1. A process that was stopped is *ended* first: its manifest is replaced by one that nobody goes on from, on the condition that
//!    nobody has claimed or written it since. Who believed to own it publishes nothing any more. Blobs go after that, and the
//!    manifest last: after a crash whoever starts next finds it ended, and goes on with the removal.
//! 2. Parts without a manifest are of a first swap-out, under way or cut off. A server removes them only when it has written all
//!    of them itself ([`Owner`]), in a life of it that is over.
//! 3. An earlier life of a process is removed by the server that published it last, and by nobody else.
//!
//! A log is this server's own: it is marked first, so that nothing is made of what it has alone, and goes last.

use std::sync::Arc;

use praas_storage::backend::{each_blob_page, remove_all_blobs};
use praas_storage::snapshot::Snapshot;
use praas_storage::{Backend, Folder, Owner};

use super::reading::life_of;
use crate::durability::{DiskLog, LogStore};

/// Times that the end of a process is published: after the first, whoever was faster has claimed it, or storage gave an old manifest.
const END_TRIES_MAX: usize = 3;

/// What this server may remove of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mine {
    /// This server: what it published last is its own.
    pub(super) owner: Owner,
    /// As what else.
    pub(super) by: Right,
}

/// Why something that another server has published last may be removed all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// The process is in this server's memory, and was claimed with this epoch: no later owner is known.
    Epoch(u64),
    /// Whoever has ordered it to be stopped may: as long as it sleeps it is nobody's.
    Asleep,
    /// It may not.
    None,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    /// Nothing is stored of it any more.
    Done,
    /// It is another server's, and stays.
    Anothers,
}

impl Mine {
    /// The error says why that cannot be known.
    fn is(self, folder: &Folder, found: &Snapshot) -> Result<bool, String> {
        if found.is_ended() || found.owner() == self.owner {
            return Ok(true);
        }
        match self.by {
            Right::Epoch(epoch) => Ok(found.epoch() <= epoch),
            Right::Asleep => life_of(folder, found).map(|life| life.sleeps(found.epoch())),
            Right::None => Ok(false),
        }
    }
}

/// Removes what is stored of a process that is stopped, unless another server has claimed it since; its log in any case. The
/// error says why it is still there.
pub(super) fn remove(
    backend: &Arc<dyn Backend>,
    folder: &Folder,
    mine: Mine,
    log: Option<&DiskLog>,
) -> Result<Removal, String> {
    let in_log = |error: std::io::Error| format!("its log: {error}");
    log.map_or(Ok(()), |log| log.mark_ended(folder).map_err(in_log))?;
    let removal = remove_stored(backend, folder, mine)?;
    log.map_or(Ok(()), |log| log.remove(folder).map_err(in_log))?;
    Ok(removal)
}

fn remove_stored(backend: &Arc<dyn Backend>, folder: &Folder, mine: Mine) -> Result<Removal, String> {
    for _ in 0..END_TRIES_MAX {
        match Snapshot::open(backend, folder) {
            Ok(Some(found)) if !mine.is(folder, &found)? => return Ok(Removal::Anothers),
            Ok(Some(found)) => match found.end(mine.owner) {
                Ok(_) => return remove_folder(backend, folder),
                // It was claimed in between, or what was read was not the newest: whose it is is looked at anew.
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.to_string()),
            },
            Ok(None) => return remove_folder(backend, folder),
            // Nobody can go on from what is damaged.
            Err(error) if error.is_damage() => return remove_folder(backend, folder),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!(
        "its manifest in {} was another one each of {END_TRIES_MAX} times: somebody writes it, or the storage gives what is \
         old",
        backend.place()
    ))
}

/// Removes what nobody goes on from; likewise.
pub(super) fn remove_folder(backend: &Arc<dyn Backend>, folder: &Folder) -> Result<Removal, String> {
    remove_all_blobs(&**backend, folder).map_err(|error| error.to_string())?;
    backend.remove_folder(folder).map_err(|error| error.to_string())?;
    Ok(Removal::Done)
}

/// Removes what seemed to be of nobody when this server started, if it is this server's to remove; likewise.
pub(super) fn collect(backend: &Arc<dyn Backend>, folder: &Folder, owner: Owner) -> Result<Removal, String> {
    match Snapshot::open(backend, folder) {
        Ok(None) if is_all_of(&**backend, folder, owner)? => remove_folder(backend, folder),
        Ok(None) => Ok(Removal::Anothers),
        Ok(Some(_)) => remove_stored(backend, folder, Mine { owner, by: Right::None }),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether there is anything, and this owner wrote all of it.
fn is_all_of(backend: &dyn Backend, folder: &Folder, owner: Owner) -> Result<bool, String> {
    let (mut own, mut all) = (0, 0);
    each_blob_page(backend, folder, &mut |page| {
        own += page.iter().filter(|entry| Owner::of_number(entry.blob.number) == owner).count();
        all += page.len();
        Ok(())
    })
    .map_err(|error| error.to_string())?;
    Ok(all > 0 && own == all)
}

#[cfg(test)]
mod tests {
    use praas_storage::snapshot::{Cut, CutError, CutFacts, SectionKind, ShowObject, WritePlan, write};
    use praas_storage::{BlobName, MemoryBackend};

    use super::*;

    const FOLDER: &str = "notes/alice/0000000000000009";

    /// A process that knows nothing.
    #[derive(Debug)]
    struct Nothing;

    impl Cut for Nothing {
        fn facts(&self) -> CutFacts {
            CutFacts { position: 1, hash_seed: 2, state_bytes: 4096, objects: 0 }
        }

        fn sections(&self) -> &[(SectionKind, Vec<u8>)] {
            &[]
        }

        fn objects(&self, _show: &mut ShowObject<'_>) -> Result<(), CutError> {
            Ok(())
        }

        fn is_absent(&self, _page: u32) -> bool {
            false
        }

        fn read(&self, _token: u64, _offset: u64, _into: &mut [u8]) -> Result<(), CutError> {
            Err(CutError::new("there is nothing to read"))
        }
    }

    const OWN: u8 = 1;
    const OTHER: u8 = 2;

    fn owner(byte: u8) -> Owner {
        Owner::of_random([byte; 8])
    }

    struct World {
        memory: MemoryBackend,
        backend: Arc<dyn Backend>,
        folder: Folder,
    }

    impl World {
        fn new() -> Self {
            let memory = MemoryBackend::new();
            Self { backend: Arc::new(memory.clone()), memory, folder: Folder::parse(FOLDER).unwrap() }
        }

        fn stored_by(&self, byte: u8) -> Snapshot {
            let plan = WritePlan { owner: owner(byte), ..WritePlan::new(3) };
            let (snapshot, _) = write(&self.backend, &self.folder, None, &Nothing, &plan).unwrap();
            assert_eq!(snapshot.owner(), owner(byte));
            self.part_of(byte);
            snapshot
        }

        fn part_of(&self, byte: u8) {
            let blob = BlobName { folder: self.folder, number: u128::from_be_bytes([byte; 16]) };
            assert_eq!(Owner::of_number(blob.number), owner(byte));
            self.memory.put(&blob, b"a part").unwrap();
        }

        fn is_empty(&self) -> bool {
            self.backend.folders(None).unwrap().is_empty() && self.memory.used_bytes() == 0
        }

        fn collect(&self, byte: u8) -> Result<Removal, String> {
            collect(&self.backend, &self.folder, owner(byte))
        }

        fn remove(&self, by: Right) -> Result<Removal, String> {
            remove(&self.backend, &self.folder, Mine { owner: owner(OWN), by }, None)
        }
    }

    #[test]
    fn parts_of_a_first_swap_are_collected_by_who_wrote_all_of_them() {
        let world = World::new();
        world.part_of(OWN);
        assert_eq!(world.collect(OTHER), Ok(Removal::Anothers));
        world.part_of(OTHER);
        assert_eq!(world.collect(OWN), Ok(Removal::Anothers), "not all of it");
        assert_eq!(world.backend.blobs(&world.folder, None).unwrap().len(), 2);
        world.backend.remove_folder(&world.folder).unwrap();
        assert_eq!(world.collect(OWN), Ok(Removal::Anothers), "there is nothing yet");
        world.part_of(OWN);
        assert_eq!(world.collect(OWN), Ok(Removal::Done));
        assert!(world.is_empty());
    }

    #[test]
    fn an_earlier_life_is_collected_by_who_published_it_last() {
        let world = World::new();
        let claimed = world.stored_by(OWN).claim(4, owner(OTHER)).unwrap();
        assert_eq!(world.collect(OWN), Ok(Removal::Anothers));
        assert_eq!(Snapshot::open(&world.backend, &world.folder).unwrap().unwrap().epoch(), claimed.epoch());
        assert_eq!(world.collect(OTHER), Ok(Removal::Done));
        assert!(world.is_empty());
    }

    #[test]
    fn what_another_has_claimed_stays_and_what_was_ended_goes_whoever_ended_it() {
        let world = World::new();
        let stored = world.stored_by(OWN);
        let claimed = stored.claim(4, owner(OTHER)).unwrap();
        assert_eq!(world.remove(Right::Epoch(3)), Ok(Removal::Anothers));
        assert_eq!(world.remove(Right::None), Ok(Removal::Anothers));
        assert!(stored.end(owner(OWN)).unwrap_err().is_conflict());
        let ended = claimed.end(owner(OTHER)).unwrap();
        assert!(ended.is_ended() && ended.end(owner(OWN)).is_ok());
        assert!(claimed.claim(5, owner(OTHER)).unwrap_err().is_conflict());
        let plan = WritePlan::new(ended.epoch());
        let follows = write(&world.backend, &world.folder, Some(&ended), &Nothing, &plan).unwrap_err();
        assert!(follows.to_string().contains("stopped"), "{follows}");
        assert_eq!(world.remove(Right::Epoch(3)), Ok(Removal::Done));
        assert!(world.is_empty());
        assert_eq!(world.remove(Right::Epoch(3)), Ok(Removal::Done), "again");
    }

    #[test]
    fn what_is_damaged_is_removed_and_not_collected() {
        let world = World::new();
        world.backend.publish(&world.folder, None, b"nobody wrote this").unwrap();
        world.part_of(OWN);
        assert!(world.collect(OWN).is_err());
        assert_eq!(world.remove(Right::Epoch(3)), Ok(Removal::Done));
        assert!(world.is_empty());
    }
}
