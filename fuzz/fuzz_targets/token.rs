//! Tokens: any text is refused or says what this server's secret signed; claims that decode sign and verify to the same.
//!
//! Input: `t` and a token's text, or `c` and the bytes of claims, which are signed as a server would.
#![no_main]

use libfuzzer_sys::fuzz_target;
use praas_protocol::limits::TOKEN_BYTES_MAX;
use praas_protocol::token::{Secret, TokenError};

/// Any secret does: the fuzzer is not asked to break BLAKE3.
const SECRET: [u8; 32] = [7; 32];

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind {
        b't' => foreign_text(rest),
        b'c' => signed_claims(rest),
        _ => {}
    }
});

fn foreign_text(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let refusal = Secret::from_bytes([8; 32]).verify(text, 0).expect_err("nobody knows this secret");
    assert!(matches!(refusal, TokenError::Malformed | TokenError::WrongSignature), "{refusal}");
}

fn signed_claims(claims: &[u8]) {
    let secret = Secret::from_bytes(SECRET);
    let hex: String = claims.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("praas1.{hex}.{}", blake3::keyed_hash(&SECRET, claims).to_hex());
    let verdict = secret.verify(&token, 1000);
    assert!(!matches!(verdict, Err(TokenError::WrongSignature)), "a signature was not recognised");
    let Ok(claims) = verdict else { return };
    let signed = secret.sign(&claims);
    assert!(signed.len() <= TOKEN_BYTES_MAX, "a token that nobody would accept was signed");
    assert_eq!(secret.verify(&signed, 1000).expect("this secret signed it"), claims);
    if let Some(end) = claims.expires_unix_s {
        assert_eq!(secret.verify(&signed, u64::MAX), Err(TokenError::Expired { seconds_ago: u64::MAX - end }));
    }
}
