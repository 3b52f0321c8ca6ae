//! Values that are longer than one blob: pieces, and their table.
//!
//! ```text
//! the table   4  `pcs1`
//!             4  pieces
//!                each: stored bytes (4), form (1), checksum (8)
//! ```
//!
//! The table has the blob of the value's location for itself; piece `i` has that whose number is greater by `i + 1`, so the pieces
//! of a value are known from its location and its length alone.

use std::sync::Mutex;

use super::compress::Compression;
use super::error::SnapshotError;
use super::format::{FormatError, Reading, checksum, length_u32};
use super::limits::PIECE_BYTES;
use super::location::{Form, Location};
use super::pack::Packer;
use super::share::{lock, share};
use crate::buffer::AlignedBuffer;

const MAGIC: [u8; 4] = *b"pcs1";
/// Bytes before the first piece of a table.
const HEAD_BYTES: u64 = 8;
/// Bytes of each.
const PIECE_ENTRY_BYTES: u64 = 13;

/// One piece of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) stored_bytes: u32,
    pub(crate) form: Form,
    pub(crate) checksum: u64,
}

/// How many pieces such a value has.
pub(crate) fn piece_count(value_bytes: u32) -> u64 {
    (value_bytes as usize).div_ceil(PIECE_BYTES) as u64
}

/// Bytes of the table of such a value.
pub(crate) fn table_bytes(value_bytes: u32) -> u64 {
    HEAD_BYTES + PIECE_ENTRY_BYTES * piece_count(value_bytes)
}

/// All blobs that have a share in a value: their numbers, and how much of each it is; `None` for the whole of it.
pub(crate) fn parts(location: &Location, value_bytes: u32) -> impl Iterator<Item = (u128, Option<u64>)> + use<> {
    let pieces = if location.form == Form::Pieces { piece_count(value_bytes) } else { 0 };
    let first = (location.blob, Some(u64::from(location.stored_bytes)));
    let blob = location.blob;
    let pieces = (1..=pieces).map(move |piece| (blob.wrapping_add(u128::from(piece)), None));
    std::iter::once(first).filter(|(_, bytes)| *bytes != Some(0)).chain(pieces)
}

/// Copies the bytes of a long value from an offset on.
pub(crate) type ReadLong<'v> = dyn Fn(u64, &mut [u8]) -> Result<(), SnapshotError> + Sync + 'v;

/// A long value that is to be stored.
pub(crate) struct LongValue<'v> {
    pub(crate) bytes: u32,
    pub(crate) read: Box<ReadLong<'v>>,
}

/// Stores long values, pieces of all of them at once, and says where they are.
pub(crate) fn write(
    packer: &Packer<'_>,
    threads: usize,
    compress: bool,
    values: &[LongValue<'_>],
) -> Result<Vec<Location>, SnapshotError> {
    struct Job {
        value: usize,
        at: usize,
        piece: u64,
    }
    let mut jobs = Vec::new();
    let mut heads = Vec::new();
    for (value, long) in values.iter().enumerate() {
        let pieces = piece_count(long.bytes);
        heads.push(packer.numbers(pieces + 1));
        jobs.extend((0..).zip(0..pieces).map(|(at, piece)| Job { value, at, piece }));
    }
    let empty = Piece { stored_bytes: 0, form: Form::Plain, checksum: 0 };
    let tables: Vec<Mutex<Vec<Piece>>> = values
        .iter()
        .map(|long| Mutex::new(vec![empty; usize::try_from(piece_count(long.bytes)).unwrap_or(0)]))
        .collect();
    let begin = || (AlignedBuffer::new(PIECE_BYTES), Compression::new(compress));
    let each = |(buffer, compression): &mut (AlignedBuffer, Compression), job: Job| {
        let long = &values[job.value];
        let offset = job.piece * PIECE_BYTES as u64;
        let bytes = usize::try_from(u64::from(long.bytes) - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let room = &mut buffer[..bytes];
        (long.read)(offset, room)?;
        let small = compression.shrink(room);
        let (form, stored) = small.map_or((Form::Plain, &*room), |small| (Form::Zstd, small));
        let piece = Piece { stored_bytes: length_u32(stored.len()), form, checksum: checksum(stored) };
        packer.put(heads[job.value] + u128::from(job.piece) + 1, stored)?;
        lock(&tables[job.value])[job.at] = piece;
        Ok(())
    };
    share(threads, jobs, begin, each, drop)?;
    let places = heads.iter().zip(&tables).map(|(&head, table)| {
        let table = encode(&lock(table));
        packer.put(head, &table)?;
        let stored_bytes = length_u32(table.len());
        Ok(Location { blob: head, offset: 0, stored_bytes, checksum: checksum(&table), form: Form::Pieces })
    });
    places.collect()
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut table = MAGIC.to_vec();
    table.extend_from_slice(&length_u32(pieces.len()).to_le_bytes());
    for piece in pieces {
        table.extend_from_slice(&piece.stored_bytes.to_le_bytes());
        table.push(piece.form.code());
        table.extend_from_slice(&piece.checksum.to_le_bytes());
    }
    table
}

/// The pieces of a value of so many bytes, from bytes that may be anything.
pub(crate) fn parse(table: &[u8], value_bytes: u32) -> Result<Vec<Piece>, FormatError> {
    let mut reading = Reading::new(table);
    if reading.bytes::<4>()? != MAGIC || u64::from(reading.u32()?) != piece_count(value_bytes) {
        return Err(reading.malformed("no table of this value's pieces"));
    }
    let mut pieces = Vec::new();
    let mut left = value_bytes as usize;
    while left > 0 {
        let bytes = left.min(PIECE_BYTES);
        let (stored_bytes, form) = (reading.u32()?, Form::of_code(reading.u8()?.into()));
        let sound = match form {
            Some(Form::Plain) => stored_bytes as usize == bytes,
            Some(Form::Zstd) => stored_bytes > 0 && (stored_bytes as usize) < bytes,
            Some(Form::Pieces) | None => false,
        };
        let form = form.filter(|_| sound).ok_or_else(|| reading.malformed("a piece that cannot be"))?;
        pieces.push(Piece { stored_bytes, form, checksum: reading.u64()? });
        left -= bytes;
    }
    reading.end()?;
    Ok(pieces)
}
