//! Manifests and pages of snapshots: any bytes are one that could have been written, or refused. Checksums let everything pass
//! here.
//!
//! Input: `m` and a manifest, or `p`, the bits of a hash that name a page, the page's number in one byte, and the page.
#![no_main]

use libfuzzer_sys::fuzz_target;
use praas_storage::snapshot::{Manifest, parse_page};

/// Where a manifest has its length, and its checksum up to where the rest begins.
const LENGTH_AT: usize = 12;
const BODY_AT: usize = 24;

fuzz_target!(|input: &[u8]| match input {
    [b'm', manifest @ ..] => parse_manifest(manifest.to_vec()),
    [b'p', bits, number, page @ ..] => check_page(page, u32::from(*number), u32::from(*bits)),
    _ => {}
});

fn parse_manifest(mut bytes: Vec<u8>) {
    let length = u32::try_from(bytes.len()).expect("the fuzzer's inputs are short");
    if let Some(room) = bytes.get_mut(LENGTH_AT..LENGTH_AT + 4) {
        room.copy_from_slice(&length.to_le_bytes());
    }
    let Ok(manifest) = Manifest::parse(&bytes) else { return };
    assert_eq!(manifest.pages.len(), 1 << manifest.page_bits);
    let again = manifest.encode();
    assert_eq!(again[BODY_AT..], bytes[BODY_AT..], "a form that nobody writes");
}

fn check_page(bytes: &[u8], number: u32, bits: u32) {
    let Ok(objects) = parse_page(bytes, number, bits) else { return };
    assert!(objects.len() <= bytes.len(), "more objects than bytes");
    assert!(objects.is_sorted_by_key(|object| object.hash));
    for object in objects {
        assert!(!object.key.is_empty());
        assert_eq!(object.hash.checked_shr(64 - bits).unwrap_or(0), u64::from(number));
        assert_eq!(object.location.stored_bytes == 0, object.value_bytes == 0);
    }
}
