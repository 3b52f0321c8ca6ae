//! Packs values and pages into blobs.
//!
//! Each thread fills a chunk of its own, so neighbours lie together, and puts it when it is full. A chunk that is not full goes
//! back to the packer, and whoever comes next goes on in it: a small process has one blob.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::error::SnapshotError;
use super::format::length_u32;
use super::limits::{ALIGNED_VALUE_BYTES_MIN, BLOB_ALIGN, CHUNK_BYTES, PAGE_BYTES_MAX};
use super::share::{lock, share};
use crate::backend::{BLOB_BYTES_MAX, Backend};
use crate::buffer::AlignedBuffer;
use crate::name::{BlobName, Folder, Owner};

/// Bytes of the memory of a chunk, of which only what is used is ever touched.
const BUFFER_BYTES: usize = CHUNK_BYTES + PAGE_BYTES_MAX + BLOB_ALIGN;

const _: () = assert!(BUFFER_BYTES <= BLOB_BYTES_MAX);

/// Where bytes went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) blob: u128,
    pub(crate) offset: u32,
}

/// A blob that is being filled.
pub(crate) struct Chunk {
    number: u128,
    buffer: AlignedBuffer,
    filled: usize,
}

/// All blobs of one writing.
pub(crate) struct Packer<'w> {
    pub(crate) backend: &'w dyn Backend,
    pub(crate) folder: &'w Folder,
    /// Of its owner, and random; what tells this writing's blobs from all others.
    pub(crate) writing: u128,
    count: AtomicU64,
    open: Mutex<Vec<Chunk>>,
    /// Blobs that are put, or were tried to be, and their bytes.
    put: Mutex<HashMap<u128, u64>>,
}

/// The number of a writing, which no other one ever has: two manifests that differ in nothing else are never the same bytes.
pub(crate) fn new_writing(folder: &Folder, owner: Owner) -> Result<u128, SnapshotError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| SnapshotError::NoRandomness { folder: Box::new(*folder), reason: error.to_string() })?;
    Ok(owner.writing(random))
}

impl<'w> Packer<'w> {
    pub(crate) fn new(backend: &'w dyn Backend, folder: &'w Folder, owner: Owner) -> Result<Self, SnapshotError> {
        let writing = new_writing(folder, owner)?;
        Ok(Self { backend, folder, writing, count: AtomicU64::new(1), open: Mutex::default(), put: Mutex::default() })
    }

    /// The first of so many numbers in a row that no other blob of the folder has.
    pub(crate) fn numbers(&self, count: u64) -> u128 {
        self.writing | u128::from(self.count.fetch_add(count, Relaxed))
    }

    /// A chunk with room, for one thread.
    pub(crate) fn chunk(&self) -> Chunk {
        let open = lock(&self.open).pop();
        open.unwrap_or_else(|| Chunk { number: self.numbers(1), buffer: AlignedBuffer::new(BUFFER_BYTES), filled: 0 })
    }

    /// Takes it back, with whatever it holds.
    pub(crate) fn keep(&self, chunk: Chunk) {
        lock(&self.open).push(chunk);
    }

    /// Appends what `fill` puts into so many bytes and then says how many of them count. Nobody else has these numbers.
    pub(crate) fn append<T>(
        &self,
        chunk: &mut Chunk,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(usize, T), SnapshotError>,
    ) -> Result<(Place, T), SnapshotError> {
        if chunk.filled >= CHUNK_BYTES / 2 && chunk.filled + bytes > CHUNK_BYTES {
            self.seal(chunk)?;
        }
        let align = if bytes >= ALIGNED_VALUE_BYTES_MIN { BLOB_ALIGN } else { 1 };
        let start = chunk.filled.next_multiple_of(align);
        let (kept, found) = fill(&mut chunk.buffer[start..start + bytes])?;
        chunk.buffer[chunk.filled..start].fill(0);
        chunk.filled = start + kept;
        let place = Place { blob: chunk.number, offset: length_u32(start) };
        if chunk.filled >= CHUNK_BYTES {
            self.seal(chunk)?;
        }
        Ok((place, found))
    }

    /// Puts what a chunk holds; it begins anew.
    fn seal(&self, chunk: &mut Chunk) -> Result<(), SnapshotError> {
        if chunk.filled > 0 {
            self.put(chunk.number, &chunk.buffer[..chunk.filled])?;
            (chunk.number, chunk.filled) = (self.numbers(1), 0);
        }
        Ok(())
    }

    /// Puts a blob of a number that was asked for before.
    pub(crate) fn put(&self, number: u128, bytes: &[u8]) -> Result<(), SnapshotError> {
        lock(&self.put).insert(number, bytes.len() as u64);
        Ok(self.backend.put(&BlobName { folder: *self.folder, number }, bytes)?)
    }

    /// Puts all that is still open.
    pub(crate) fn finish(&self, threads: usize) -> Result<(), SnapshotError> {
        let open = std::mem::take(&mut *lock(&self.open));
        share(threads, open, || (), |(), mut chunk| self.seal(&mut chunk), |()| ())
    }

    /// Bytes of a blob of this writing.
    pub(crate) fn blob_bytes(&self, number: u128) -> Option<u64> {
        lock(&self.put).get(&number).copied()
    }

    /// How many blobs were put, and their bytes.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let put = lock(&self.put);
        (put.len() as u64, put.values().sum())
    }

    /// Removes what was put and `goes`, as far as that is possible: nobody will ever name it.
    pub(crate) fn abandon(&self, goes: impl Fn(u128) -> bool) {
        let put = lock(&self.put);
        let numbers = put.keys().filter(|number| goes(**number));
        let put: Vec<BlobName> = numbers.map(|&number| BlobName { folder: *self.folder, number }).collect();
        if !put.is_empty() {
            // What is left is found by `Snapshot::remove_unreferenced`.
            let _ = self.backend.remove(&put);
        }
    }
}
