//! Every maximum of the snapshot format, with its unit and its reason. Relations are asserted at the end.

use crate::backend::{BLOB_BYTES_MAX, MANIFEST_BYTES_MAX};

/// Bytes of values after which a chunk is put: a few milliseconds of a disk, so that threads share the work evenly and a
/// failed one costs little; far more than what one request to a disk or a bucket costs beside its bytes.
pub const CHUNK_BYTES: usize = 8 << 20;
/// Bytes of a value that lie in one blob. Longer ones are cut into pieces of this size, which are moved in parallel.
pub const PIECE_BYTES: usize = 8 << 20;
/// Objects of a page that are aimed at: what a first call reads of the index, less than 64 KiB with usual keys.
pub const PAGE_OBJECTS: u64 = 512;
/// Bits of a hash that can name a page. The table of so many pages, all of them amended, has 11 MiB, so the manifest can still be
/// published.
pub const PAGE_BITS_MAX: u32 = 17;
/// Bytes from which on a page is amended instead of being written anew: below it, reading and writing it costs no more than what
/// any snapshot costs, and nothing that was replaced stays stored.
pub const AMENDED_PAGE_BYTES_MIN: u32 = 4 << 10;
/// One part in so many of a page's objects, and of the bytes of its values, may be replaced before it is written anew: an amendment,
/// which is written as a whole each time, stays small beside its page, and so does what is stored in vain.
pub const AMENDED_SHARE: u64 = 4;
/// Bytes of a page: far more than any page needs, few enough to be read whole on the word of a manifest.
pub const PAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes of a section that lie in the manifest itself. What is longer goes into blobs, so that opening stays one small read.
pub const SECTION_INLINE_BYTES_MAX: usize = 4 << 10;
/// Sections of one snapshot: a handful is used.
pub const SECTIONS_MAX: usize = 64;
/// Bytes of a key, as the protocol has it.
pub const KEY_BYTES_MAX: usize = praas_protocol::limits::KEY_BYTES_MAX;
/// Bytes of a value or a section, as the protocol has it.
pub const VALUE_BYTES_MAX: u32 = praas_protocol::limits::PAYLOAD_BYTES_MAX;
/// Values from this size on begin at [`BLOB_ALIGN`] in their blob: what direct reads need, for less than 7 % of room.
pub const ALIGNED_VALUE_BYTES_MIN: usize = 64 << 10;
/// The unit in which disks read and write directly.
pub const BLOB_ALIGN: usize = 4 << 10;
/// Objects that one pass over the cut gathers: some 400 MiB of the server's memory.
pub const PASS_OBJECTS_MAX: u64 = 4 << 20;
/// Threads of one transfer: more only wait for each other.
pub const THREADS_MAX: usize = 64;
/// Stored bytes for each live one from which on emptied blobs are rewritten.
pub const STORED_PER_LIVE_MAX: u64 = 2;
/// Garbage that is left alone, however little lives: one chunk for each of a few swaps.
pub const GARBAGE_BYTES_KEPT: u64 = 64 << 20;
/// Bytes that one swap-out moves out of emptied blobs: a fraction of a second of a disk.
pub const COMPACTED_BYTES_MAX: u64 = 256 << 20;
/// Bytes that one read brings of neighbouring values or pages.
pub const READ_BYTES_MAX: usize = 8 << 20;
/// Bytes between two values that are read together: reading them costs less than one more request.
pub const READ_GAP_BYTES_MAX: usize = 64 << 10;

const _: () = {
    assert!(PIECE_BYTES <= CHUNK_BYTES);
    assert!(
        CHUNK_BYTES + PIECE_BYTES + BLOB_ALIGN <= BLOB_BYTES_MAX,
        "a chunk and the last value that it takes fit a blob"
    );
    assert!(
        PAGE_BYTES_MAX + CHUNK_BYTES <= BLOB_BYTES_MAX,
        "a blob of pages and the last page that it takes fit a blob"
    );
    let entry_bytes = super::manifest::PAGE_ENTRY_BYTES + super::manifest::AMENDMENT_ENTRY_BYTES;
    assert!((1 << PAGE_BITS_MAX) * entry_bytes + (4 << 20) <= MANIFEST_BYTES_MAX);
    assert!(ALIGNED_VALUE_BYTES_MIN >= 16 * BLOB_ALIGN);
};
