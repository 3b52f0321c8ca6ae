//! Reading the fields of a body one after another, and writing a frame whose length is known only at its end.

use crate::wire::{HEADER_BYTES, Header, Kind, WireError};
use crate::{Name, ProcessId};

/// Reads fields from the front of a body.
pub(crate) struct Fields<'a> {
    kind: Kind,
    rest: &'a [u8],
    whole_bytes: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(kind: Kind, body: &'a [u8]) -> Self {
        Self { kind, rest: body, whole_bytes: body.len() }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.too_short(N))?;
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn slice(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (field, rest) = self.rest.split_at_checked(bytes).ok_or_else(|| self.too_short(bytes))?;
        self.rest = rest;
        Ok(field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes that must be 0 until a later version gives them a meaning.
    pub(crate) fn zeros<const N: usize>(&mut self, field: &'static str) -> Result<(), WireError> {
        let bytes = self.array::<N>()?;
        match bytes.iter().find(|byte| **byte != 0) {
            Some(&byte) => Err(WireError::Value { field, value: u64::from(byte) }),
            None => Ok(()),
        }
    }

    /// A 16-bit length and that many bytes of UTF-8.
    pub(crate) fn text(&mut self, field: &'static str, limit_bytes: usize) -> Result<&'a str, WireError> {
        let actual_bytes = usize::from(self.u16()?);
        if actual_bytes > limit_bytes {
            return Err(WireError::TextTooLong { field, actual_bytes, limit_bytes });
        }
        std::str::from_utf8(self.slice(actual_bytes)?).map_err(|_| WireError::NotText { field })
    }

    pub(crate) fn process(&mut self) -> Result<ProcessId, WireError> {
        self.text("the process", crate::limits::PROCESS_ID_BYTES_MAX).and_then(process_id)
    }

    /// An empty text is none.
    pub(crate) fn optional_process(&mut self) -> Result<Option<ProcessId>, WireError> {
        match self.text("the process", crate::limits::PROCESS_ID_BYTES_MAX)? {
            "" => Ok(None),
            text => process_id(text).map(Some),
        }
    }

    pub(crate) fn name(&mut self, field: &'static str) -> Result<Name, WireError> {
        let text = self.text(field, crate::limits::NAME_BYTES_MAX)?;
        text.parse().map_err(|reason| WireError::NotAName { field, reason })
    }

    /// A name, or nothing.
    pub(crate) fn optional_name(&mut self, field: &'static str) -> Result<&'a str, WireError> {
        let text = self.text(field, crate::limits::NAME_BYTES_MAX)?;
        match text.parse::<Name>() {
            Err(reason) if !text.is_empty() => Err(WireError::NotAName { field, reason }),
            _ => Ok(text),
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// `value`, if the body ends here.
    pub(crate) fn end<T>(&self, value: T) -> Result<T, WireError> {
        match self.rest.len() {
            0 => Ok(value),
            extra => Err(WireError::Trailing { kind: self.kind.name(), extra_bytes: extra as u64 }),
        }
    }

    fn too_short(&self, wanted_bytes: usize) -> WireError {
        let read_bytes = self.whole_bytes - self.rest.len();
        WireError::BodyTooShort {
            kind: self.kind.name(),
            actual_bytes: self.whole_bytes as u64,
            needed_bytes: (read_bytes + wanted_bytes) as u64,
        }
    }
}

pub(crate) fn process_id(text: &str) -> Result<ProcessId, WireError> {
    text.parse().map_err(|reason| WireError::NotAName { field: "the process", reason })
}

/// Appends one frame to `out`: a header, what `body` writes, and then the header's length.
pub(crate) fn frame(out: &mut Vec<u8>, kind: Kind, flags: u8, request_id: u64, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&Header::encode(kind, flags, request_id, 0));
    body(out);
    let body_bytes = u32::try_from(out.len() - start - HEADER_BYTES).expect("the bodies of control frames are short");
    debug_assert!(body_bytes <= kind.facts().body_bytes_max, "{} of {body_bytes} bytes", kind.name());
    out[start..start + 4].copy_from_slice(&body_bytes.to_le_bytes());
}

/// Appends a text that is known to fit its field.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("the text was checked against its limit");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a text for people, cut where its field ends.
pub(crate) fn put_cut_text(out: &mut Vec<u8>, text: &str, limit_bytes: usize) {
    put_text(out, &text[..text.floor_char_boundary(limit_bytes)]);
}

/// Appends `application/process`.
pub(crate) fn put_process(out: &mut Vec<u8>, process: &ProcessId) {
    let (application, name) = (process.application.as_str(), process.process.as_str());
    let length = u16::try_from(application.len() + 1 + name.len()).expect("names are short");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(application.as_bytes());
    out.push(b'/');
    out.extend_from_slice(name.as_bytes());
}

/// `text`, if it fits its field.
pub(crate) fn fitting<'a>(text: &'a str, field: &'static str, limit_bytes: usize) -> Result<&'a str, WireError> {
    if text.len() > limit_bytes {
        return Err(WireError::TextTooLong { field, actual_bytes: text.len(), limit_bytes });
    }
    Ok(text)
}
