//! Standard output: words for people, or JSON for programs, never both.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether programs read it.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.json
    }

    /// A line for people; programs do not see it.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub fn line(self, line: impl Display) -> Result<(), Failure> {
        if self.json {
            return Ok(());
        }
        // Flushed: what a step says must be seen before the next one begins, also through a pipe.
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// A value for programs, as one line; people do not see it.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub fn value(self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Bytes as they are. A terminal's prompt gets a line of its own after them.
    ///
    /// # Errors
    /// [`Failure::Output`].
    pub fn bytes(self, bytes: &[u8], ends_here: bool) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let wants_newline = ends_here && stdout.is_terminal() && bytes.last().is_some_and(|&last| last != b'\n');
        stdout.write_all(bytes).map_err(Failure::Output)?;
        if wants_newline {
            stdout.write_all(b"\n").map_err(Failure::Output)?;
        }
        stdout.flush().map_err(Failure::Output)
    }
}

/// Bytes as a JSON document can hold them: text where they are text, hexadecimal where they are not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonBytes {
    /// UTF-8.
    Text(String),
    /// Two digits a byte.
    Hex(String),
}

impl From<&[u8]> for JsonBytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Hex(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_become_hexadecimal() {
        assert!(matches!(JsonBytes::from(&b"ab"[..]), JsonBytes::Text(text) if text == "ab"));
        assert!(matches!(JsonBytes::from(&[0xff, 0x00][..]), JsonBytes::Hex(hex) if hex == "ff00"));
    }
}
