//! What a call is addressed to within its process.

use std::fmt;

use praas_protocol::FunctionId;
use praas_protocol::limits::NAME_BYTES_MAX;

/// A function of an application, by name. A constant one is hashed by the compiler, not by the call.
///
/// ```
/// use praas_client::Function;
/// const SEARCH: Function<'static> = Function::new("search");
/// assert_eq!(SEARCH.name(), "search");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function<'a> {
    name: &'a str,
    id: FunctionId,
}

impl<'a> Function<'a> {
    /// The function called `name`.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self { name, id: FunctionId::of(name) }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// What requests name it by.
    #[must_use]
    pub const fn id(&self) -> FunctionId {
        self.id
    }
}

impl<'a> From<&'a str> for Function<'a> {
    #[inline]
    fn from(name: &'a str) -> Self {
        Self::new(name)
    }
}

/// A function's name kept for the error message of a call that outlives its caller's text; longer ones are cut.
#[derive(Clone, Copy)]
pub(crate) struct KeptName {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl KeptName {
    #[inline]
    pub(crate) fn new(name: &str) -> Self {
        let length = name.len().min(NAME_BYTES_MAX);
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self { bytes, length: u8::try_from(length).unwrap_or(u8::MAX) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..usize::from(self.length)]).into_owned()
    }
}

impl fmt::Debug for KeptName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_name_reads_as_written_and_an_impossible_one_is_cut() {
        assert_eq!(KeptName::new("search").text(), "search");
        assert_eq!(KeptName::new(&"ä".repeat(200)).text().chars().count(), 32);
    }
}
