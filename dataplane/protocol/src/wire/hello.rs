//! HELLO and WELCOME: the first frame of each side. With REFUSED they keep their layout in every version.

use std::fmt;

use crate::limits::{PAYLOAD_BYTES_MAX, SOCKET_PATH_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::wire::fields::{Fields, fitting, frame, put_text};
use crate::wire::{Header, Kind, WireError};

/// The version of the protocol that this code speaks.
pub const WIRE_VERSION: u16 = 1;

/// First bytes of a HELLO's body.
pub const MAGIC: [u8; 8] = *b"PRAASNET";

/// Who connects, and what it wants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Oldest version that the client speaks.
    pub version_min: u16,
    /// Newest version that the client speaks.
    pub version_max: u16,
    /// What the client offers beyond its version; a server ignores bits that it does not know.
    pub features: u32,
    /// Bytes of unread replies that the server may keep for this client; 0 leaves it to the server.
    pub reply_window_bytes: u64,
    /// The token in text form.
    pub token: &'a str,
}

impl fmt::Debug for Hello<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Hello")
            .field("version_min", &self.version_min)
            .field("version_max", &self.version_max)
            .field("features", &self.features)
            .field("reply_window_bytes", &self.reply_window_bytes)
            .field("token", &"hidden")
            .finish()
    }
}

impl<'a> Hello<'a> {
    /// The hello in `body`.
    ///
    /// # Errors
    /// [`WireError::NotPraas`] if the peer speaks something else, otherwise the field that is wrong.
    pub fn parse(_header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Hello, body);
        if fields.array()? != MAGIC {
            return Err(WireError::NotPraas);
        }
        let hello = Self {
            version_min: fields.u16()?,
            version_max: fields.u16()?,
            features: fields.u32()?,
            reply_window_bytes: fields.u64()?,
            token: fields.text("the token", TOKEN_BYTES_MAX)?,
        };
        if hello.version_min > hello.version_max {
            return Err(WireError::Value { field: "the oldest version", value: u64::from(hello.version_min) });
        }
        fields.end(hello)
    }

    /// The newest version that this hello and this code share.
    #[must_use]
    pub fn version(&self) -> Option<u16> {
        (self.version_min..=self.version_max).contains(&WIRE_VERSION).then_some(WIRE_VERSION)
    }

    /// Appends the frame.
    ///
    /// # Errors
    /// [`WireError::TextTooLong`] if the token has more than [`TOKEN_BYTES_MAX`] bytes; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let token = fitting(self.token, "the token", TOKEN_BYTES_MAX)?;
        frame(out, Kind::Hello, 0, 0, |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&self.version_min.to_le_bytes());
            out.extend_from_slice(&self.version_max.to_le_bytes());
            out.extend_from_slice(&self.features.to_le_bytes());
            out.extend_from_slice(&self.reply_window_bytes.to_le_bytes());
            put_text(out, token);
        });
        Ok(())
    }
}

/// The connection is accepted, under these limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version that both speak from here on.
    pub version: u16,
    /// The offers of the hello that the server takes.
    pub features: u32,
    /// Names this connection in the server's log.
    pub connection_id: u64,
    /// Changes whenever the server program starts anew.
    pub incarnation: u64,
    /// The same for all servers of one data directory on one boot of one host.
    pub host_id: [u8; 16],
    /// Most bytes of one payload, in both directions.
    pub payload_bytes_max: u32,
    /// Most calls in flight.
    pub in_flight_max: u32,
    /// Most handles open.
    pub handles_max: u32,
    /// Most payload bytes of calls in flight; at least `payload_bytes_max`.
    pub window_bytes: u64,
    /// Most bytes of unread replies that the server keeps before it stops reading.
    pub reply_window_bytes: u64,
    /// Path of the server's Unix socket, for clients on its host; empty if there is none.
    pub socket_path: &'a str,
}

impl<'a> Welcome<'a> {
    /// The welcome in `body`.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn parse(_header: &Header, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = Fields::of(Kind::Welcome, body);
        let version = fields.u16()?;
        fields.zeros::<2>("bytes 2 and 3 of WELCOME")?;
        let welcome = Self {
            version,
            features: fields.u32()?,
            connection_id: fields.u64()?,
            incarnation: fields.u64()?,
            host_id: fields.array()?,
            payload_bytes_max: fields.u32()?,
            in_flight_max: fields.u32()?,
            handles_max: fields.u32()?,
            window_bytes: fields.u64()?,
            reply_window_bytes: fields.u64()?,
            socket_path: fields.text("the socket path", SOCKET_PATH_BYTES_MAX)?,
        };
        check_limits(welcome.payload_bytes_max, welcome.in_flight_max, welcome.window_bytes)?;
        fields.end(welcome)
    }

    /// Appends the frame.
    ///
    /// # Errors
    /// [`WireError::TextTooLong`] if the path is longer than one can be; nothing is appended then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        let path = fitting(self.socket_path, "the socket path", SOCKET_PATH_BYTES_MAX)?;
        frame(out, Kind::Welcome, 0, 0, |out| {
            out.extend_from_slice(&self.version.to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&self.features.to_le_bytes());
            out.extend_from_slice(&self.connection_id.to_le_bytes());
            out.extend_from_slice(&self.incarnation.to_le_bytes());
            out.extend_from_slice(&self.host_id);
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.in_flight_max.to_le_bytes());
            out.extend_from_slice(&self.handles_max.to_le_bytes());
            out.extend_from_slice(&self.window_bytes.to_le_bytes());
            out.extend_from_slice(&self.reply_window_bytes.to_le_bytes());
            put_text(out, path);
        });
        Ok(())
    }
}

/// Limits under which a largest payload could never be sent are refused: a client would wait for ever.
pub(crate) fn check_limits(payload_bytes_max: u32, in_flight_max: u32, window_bytes: u64) -> Result<(), WireError> {
    if payload_bytes_max > PAYLOAD_BYTES_MAX {
        return Err(WireError::Value { field: "payload_bytes_max", value: u64::from(payload_bytes_max) });
    }
    if in_flight_max == 0 {
        return Err(WireError::Value { field: "in_flight_max", value: 0 });
    }
    if window_bytes < u64::from(payload_bytes_max) {
        return Err(WireError::Value { field: "window_bytes (less than one payload)", value: window_bytes });
    }
    Ok(())
}
