//! Tokens: who may do what to which processes until when.
//!
//! A token is text: `praas1.CLAIMS.MAC`, both parts in lower-case hexadecimal. CLAIMS is the postcard encoding of
//! [`Claims`]; MAC is the keyed BLAKE3 hash of CLAIMS' bytes under the server's 32-byte secret. It is verified once a
//! connection. A token is a bearer's: whoever holds it has its rights, so files that keep one are mode 0600.

use serde::{Deserialize, Serialize};

use crate::limits::TOKEN_BYTES_MAX;
use crate::{Name, ProcessId, codec};

const PREFIX: &str = "praas1";
const MAC_BYTES: usize = 32;

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Rights(u32);

impl Rights {
    /// No right at all.
    pub const NONE: Self = Self(0);
    /// Invoke functions.
    pub const INVOKE: Self = Self(1);
    /// Create, stop, restart and list processes, and read their output.
    pub const MANAGE: Self = Self(2);
    /// Share the application's trust domain: payloads are read in place by both sides.
    pub const TRUSTED: Self = Self(4);
    /// Read and write the objects of a process from outside, past its functions.
    pub const STATE: Self = Self(8);
    /// Send messages to processes, and receive those sent to the own session.
    pub const MESSAGES: Self = Self(16);
    /// Every right.
    pub const ALL: Self = Self(31);

    /// These rights and those.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Which processes a token speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Every process of every application.
    Any,
    /// Every process of one application.
    Application(Name),
    /// One process.
    Process(ProcessId),
}

impl Scope {
    /// Whether `process` lies in this scope.
    #[must_use]
    pub fn covers(&self, process: &ProcessId) -> bool {
        match self {
            Self::Any => true,
            Self::Application(application) => *application == process.application,
            Self::Process(one) => one == process,
        }
    }
}

impl Scope {
    /// Whether all of an application lies in this scope.
    #[must_use]
    pub fn covers_application(&self, application: &Name) -> bool {
        match self {
            Self::Any => true,
            Self::Application(covered) => covered == application,
            Self::Process(_) => false,
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who holds it, for logs and for the principal of calls.
    pub principal: Name,
    /// Which processes it speaks of.
    pub scope: Scope,
    /// What it allows.
    pub rights: Rights,
    /// When it ends, in seconds since 1970; `None` never ends.
    pub expires_unix_s: Option<u64>,
}

/// The secret that a server signs tokens with.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form `praas1.CLAIMS.MAC`.
    #[error("this is not a praas token; a local server writes one into the file `token` of its data directory")]
    Malformed,
    /// The MAC is another server's, or the text was changed.
    #[error("the token was not signed by this server: it was changed, or it belongs to another server")]
    WrongSignature,
    /// Its time is over.
    #[error("the token expired {seconds_ago} s ago; ask for a new one")]
    Expired {
        /// Seconds since it ended.
        seconds_ago: u64,
    },
}

impl Secret {
    /// The secret with these bytes, as read back from the server's data directory.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh secret from the kernel's random source.
    ///
    /// # Errors
    /// The kernel's error when it has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes to keep in a file of mode 0600.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The token that says `claims`.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        let bytes = codec::encode(claims).expect("claims are far smaller than a control message");
        let mac = blake3::keyed_hash(&self.0, &bytes);
        format!("{PREFIX}.{}.{}", to_hex(&bytes), mac.to_hex())
    }

    /// What `token` says, if this secret signed it and it has not expired at `now_unix_s`.
    ///
    /// # Errors
    /// [`TokenError`]; the comparison of signatures takes the same time whatever the token.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let mut parts = token.trim().split('.');
        let (Some(PREFIX), Some(claims), Some(mac), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let bytes = from_hex(claims).ok_or(TokenError::Malformed)?;
        let mac: [u8; MAC_BYTES] = from_hex(mac).and_then(|mac| mac.try_into().ok()).ok_or(TokenError::Malformed)?;
        // `blake3::Hash` compares in constant time.
        if blake3::keyed_hash(&self.0, &bytes) != blake3::Hash::from_bytes(mac) {
            return Err(TokenError::WrongSignature);
        }
        let claims: Claims = codec::decode(&bytes).map_err(|_| TokenError::Malformed)?;
        match claims.expires_unix_s {
            Some(end) if end <= now_unix_s => Err(TokenError::Expired { seconds_ago: now_unix_s - end }),
            _ => Ok(claims),
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(expires_unix_s: Option<u64>) -> Claims {
        Claims {
            principal: "local".parse().unwrap(),
            scope: Scope::Application("hello".parse().unwrap()),
            rights: Rights::INVOKE.with(Rights::TRUSTED),
            expires_unix_s,
        }
    }

    #[test]
    fn a_token_says_what_was_signed() {
        let secret = Secret::generate().unwrap();
        assert_eq!(secret.verify(&secret.sign(&claims(None)), 0).unwrap(), claims(None));
        assert_eq!(secret.verify(&secret.sign(&claims(Some(10))), 9).unwrap(), claims(Some(10)));
    }

    #[test]
    fn changed_foreign_expired_and_malformed_tokens_are_refused() {
        let secret = Secret::generate().unwrap();
        let token = secret.sign(&claims(Some(10)));
        assert_eq!(secret.verify(&token, 15), Err(TokenError::Expired { seconds_ago: 5 }));
        assert_eq!(Secret::generate().unwrap().verify(&token, 0), Err(TokenError::WrongSignature));
        for position in PREFIX.len() + 1..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'0' { b'1' } else { b'0' };
            assert!(secret.verify(std::str::from_utf8(&changed).unwrap(), 0).is_err(), "byte {position}");
        }
        for text in ["", "praas1", "praas1..", "praas1.zz.00", "praas2.00.00", &"x".repeat(5000)] {
            assert_eq!(secret.verify(text, 0), Err(TokenError::Malformed), "{text:.20}");
        }
    }

    #[test]
    fn a_scope_covers_its_own_processes_only() {
        let alice: ProcessId = "hello/alice".parse().unwrap();
        let bob: ProcessId = "other/bob".parse().unwrap();
        assert!(Scope::Any.covers(&bob));
        assert!(claims(None).scope.covers(&alice) && !claims(None).scope.covers(&bob));
        assert!(Scope::Process(bob).covers(&bob) && !Scope::Process(bob).covers(&alice));
    }
}
