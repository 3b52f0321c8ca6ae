//! Tables of a process's files: any bytes are one that could have been written, or refused. Whatever is restored from one lies within
//! the directory, and is no longer than its pieces.
//!
//! Input: what follows the version in a table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use praas_storage::snapshot::{FILES_VERSION, FileTable};

fuzz_target!(|input: &[u8]| {
    let bytes = [&b"praasfil"[..], &FILES_VERSION.to_le_bytes(), input].concat();
    let Ok(table) = FileTable::parse(&bytes) else { return };
    assert!(table.len() <= bytes.len(), "more files than bytes");
    assert_eq!(table.to_bytes(), bytes, "a form that nobody writes");
    let pieces_bytes: u64 = table.places().map(|(_, bytes)| u64::from(bytes)).sum();
    assert_eq!(pieces_bytes, table.bytes());
    for (location, bytes) in table.places() {
        assert!(bytes > 0, "a piece of nothing");
        assert!(location.stored_bytes <= bytes, "{location:?} cannot have {bytes} bytes");
    }
});
