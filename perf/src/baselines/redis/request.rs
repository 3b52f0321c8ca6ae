//! Writing what a Redis server is asked (RESP 2).

use std::io::Write;

/// Requests that are sent at once.
#[derive(Clone, Debug)]
pub struct Requests {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Requests {
    /// `count` times `GET` of `key`.
    #[must_use]
    pub fn gets(key: &str, count: usize) -> Self {
        let mut bytes = Vec::new();
        for _ in 0..count {
            append(&mut bytes, 2, &[b"GET", key.as_bytes()]);
        }
        Self { bytes, count }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

/// A request of `count` words, of which these are the first.
pub(super) fn append(request: &mut Vec<u8>, count: usize, words: &[&[u8]]) {
    append_length(request, b'*', count);
    for word in words {
        append_length(request, b'$', word.len());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
}

pub(super) fn append_length(request: &mut Vec<u8>, kind: u8, length: usize) {
    request.push(kind);
    // Into a vector: it cannot fail.
    let _ = write!(request, "{length}\r\n");
}
