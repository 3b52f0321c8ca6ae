//! How much of a connection's credit is in use: calls in flight, and the bytes of their payloads.
//!
//! Both sides keep one. The client takes before it sends and gives back when the answer comes; the server takes when the
//! head of a REQUEST comes and gives back when it sends the answer. So the server never sees more in use than the client.

use crate::wire::rules::RuleError;

/// What a connection allows to be unanswered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowLimits {
    /// Most calls in flight.
    pub calls: u32,
    /// Most bytes of payloads of calls in flight.
    pub bytes: u64,
}

/// The credit of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    limits: WindowLimits,
    calls: u32,
    bytes: u64,
}

impl Window {
    /// A window of which nothing is in use.
    #[must_use]
    pub fn new(limits: WindowLimits) -> Self {
        Self { limits, calls: 0, bytes: 0 }
    }

    /// Calls in flight.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Bytes of their payloads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it allows.
    #[must_use]
    pub fn limits(&self) -> WindowLimits {
        self.limits
    }

    /// Whether a call with such a payload may be sent now.
    #[inline]
    #[must_use]
    pub fn fits(&self, payload_bytes: u32) -> bool {
        self.calls < self.limits.calls && u64::from(payload_bytes) <= self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Takes credit for a call.
    ///
    /// # Errors
    /// [`RuleError::TooManyCalls`] or [`RuleError::WindowExceeded`]; nothing is taken then.
    #[inline]
    pub fn take(&mut self, payload_bytes: u32) -> Result<(), RuleError> {
        if self.calls >= self.limits.calls {
            return Err(RuleError::TooManyCalls { limit: self.limits.calls });
        }
        if !self.fits(payload_bytes) {
            return Err(RuleError::WindowExceeded {
                in_flight_bytes: self.bytes,
                asked_bytes: payload_bytes,
                limit_bytes: self.limits.bytes,
            });
        }
        self.calls += 1;
        self.bytes += u64::from(payload_bytes);
        Ok(())
    }

    /// Gives back the credit of a call whose request had such a payload.
    ///
    /// # Errors
    /// [`RuleError::NothingInFlight`] if no such call can be in flight.
    #[inline]
    pub fn give(&mut self, payload_bytes: u32) -> Result<(), RuleError> {
        let bytes = self.bytes.checked_sub(u64::from(payload_bytes));
        let (Some(calls), Some(bytes)) = (self.calls.checked_sub(1), bytes) else {
            return Err(RuleError::NothingInFlight { kind: "RESPONSE" });
        };
        (self.calls, self.bytes) = (calls, bytes);
        Ok(())
    }
}
