//! Every limit of the demo application, with its unit and its reason.
//!
//! The relations between them that other files rely on are asserted here, at compile time.

/// Longest term of the index; a longer token counts as its first 64 bytes, so that an encoded blob makes one short term.
pub const TOKEN_BYTES_MAX: usize = 64;

/// Longest query: a person's line of input, not a document.
pub const QUERY_BYTES_MAX: usize = 1024;

/// Distinct terms of one query; they live on the stack while it is answered.
pub const QUERY_TERMS_MAX: usize = 16;

/// Hits in one result, whatever the query asks for: about 30 KiB with the longest usual paths and lines.
pub const SEARCH_HITS_MAX: usize = 100;

/// Longest line of text in a hit, without its marks: a wide terminal's row.
pub const SNIPPET_BYTES_MAX: usize = 200;

/// Text kept before the match where a long line is cut.
pub const SNIPPET_LEAD_BYTES: usize = 60;

/// What stands where a line was cut.
pub const SNIPPET_MARK: &str = "…";

/// Archived size of one batch: big enough to make the cost of a call vanish, small enough for several in flight.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Archived size of a batch beside its documents: its root and the padding before the table of documents.
pub const BATCH_OVERHEAD_BYTES: usize = 16;

/// Archived size of a document beside its text and path: two string headers of 8 bytes.
pub const DOCUMENT_OVERHEAD_BYTES: usize = 16;

/// Longest text file; what is longer is nearly always generated data.
pub const FILE_BYTES_MAX: usize = 512 * 1024;

/// Longest path of a document, relative to the root of the walk: the kernel's `PATH_MAX`.
pub const PATH_BYTES_MAX: usize = 4096;

/// Documents in one index, and files listed by one walk: a large project's sources.
pub const DOCUMENTS_MAX: usize = 20_000;

/// Text in one index: with its postings it takes about twice as much memory, as an object and in the worker that builds it.
pub const INDEX_TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// State of the demo's process: room for the largest index, and a new one beside it where they are small.
pub const STATE_MIB_MAX: u64 = 256;

/// Directory entries looked at by one walk, so that a walk of a whole disk ends within seconds.
pub const WALK_ENTRIES_MAX: usize = 500_000;

/// Directories below each other in one walk.
pub const WALK_DEPTH_MAX: usize = 64;

/// Directories that hold what tools made, not what people wrote, wherever they are.
pub const GENERATED_DIRECTORIES: [&str; 2] = ["node_modules", "__pycache__"];

/// A directory that holds what tools made if one of [`BUILD_FILES`] lies beside it; alone it may be anyone's.
pub const BUILD_DIRECTORY: &str = "target";

/// Files that show that a [`BUILD_DIRECTORY`] beside them is Cargo's or Maven's.
pub const BUILD_FILES: [&str; 2] = ["Cargo.toml", "pom.xml"];

/// File by which a directory declares itself a cache of generated files (the Cache Directory Tagging convention).
pub const CACHE_TAG_FILE: &str = "CACHEDIR.TAG";

/// Distinct words counted while queries are chosen: about 6 MiB; words met later are not candidates.
pub const CENSUS_WORDS_MAX: usize = 65_536;

/// Shortest word offered as a query, in bytes: shorter ones say little.
pub const QUERY_WORD_BYTES_MIN: usize = 4;

/// Longest word offered as a query, in bytes: longer ones are hard to read in a table.
pub const QUERY_WORD_BYTES_MAX: usize = 20;

// Offsets into a document are u32, and so are document numbers.
const _: () = assert!(FILE_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(DOCUMENTS_MAX <= u32::MAX as usize);
// A file within its limit always fits an empty batch.
const _: () =
    assert!(FILE_BYTES_MAX + PATH_BYTES_MAX + DOCUMENT_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES <= BATCH_BYTES_MAX);
// A cut line always shows the first bytes of its match.
const _: () = assert!(SNIPPET_LEAD_BYTES + TOKEN_BYTES_MAX <= SNIPPET_BYTES_MAX);
// A query word is never a truncated term.
const _: () = assert!(QUERY_WORD_BYTES_MAX <= TOKEN_BYTES_MAX);
