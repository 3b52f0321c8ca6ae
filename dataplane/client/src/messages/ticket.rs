//! [`SessionTicket`]: by what a session is resumed, in this program or another.

use std::fmt;
use std::str::FromStr;

use praas_protocol::message::SessionId;
use praas_protocol::{Address, Name, control};

use crate::limits::TICKET_BYTES_MAX;

const PREFIX: &str = "praas-session1";

/// What a session is resumed by: [`Session::ticket`](crate::Session::ticket) gives it,
/// [`Client::resume_session`](crate::Client::resume_session) takes it.
///
/// As text it is one line. Whoever has it can receive what is sent to the session, so keep it in a file of mode 0600; its
/// `Debug` form does not show the secret.
///
/// ```
/// use praas_client::SessionTicket;
///
/// let text = "praas-session1:hello:0000000000000000000000000000002a:00000000000000000000000000000007";
/// let ticket: SessionTicket = text.parse()?;
/// assert_eq!(ticket.application().as_str(), "hello");
/// assert_eq!(ticket.to_string(), text);
/// # Ok::<(), praas_client::TicketError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SessionTicket {
    application: Name,
    known: control::SessionTicket,
}

/// Why a text is no ticket of a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not the ticket of a session: {reason}; it is one line that begins with {PREFIX:?}")]
pub struct TicketError {
    reason: &'static str,
}

impl SessionTicket {
    pub(crate) fn new(application: Name, known: control::SessionTicket) -> Self {
        Self { application, known }
    }

    /// The application whose processes the session exchanges messages with.
    #[must_use]
    pub fn application(&self) -> Name {
        self.application
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.known.session
    }

    /// Where others send messages to it.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::Client(self.known.session)
    }

    pub(crate) fn known(&self) -> control::SessionTicket {
        self.known
    }
}

impl fmt::Display for SessionTicket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let control::SessionTicket { session, secret } = self.known;
        write!(formatter, "{PREFIX}:{}:{session}:{secret:032x}", self.application)
    }
}

impl fmt::Debug for SessionTicket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SessionTicket")
            .field("application", &self.application)
            .field("session", &self.known.session)
            .finish_non_exhaustive()
    }
}

impl FromStr for SessionTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let wrong = |reason| TicketError { reason };
        let text = text.trim();
        if text.len() > TICKET_BYTES_MAX {
            return Err(wrong("it is too long"));
        }
        let mut parts = text.split(':');
        if parts.next() != Some(PREFIX) {
            return Err(wrong("it does not begin like one"));
        }
        let application = parts.next().and_then(|name| name.parse().ok()).ok_or(wrong("it names no application"))?;
        let mut number = || parts.next().and_then(hexadecimal).ok_or(wrong("a number of it is wrong"));
        let (session, secret) = (number()?, number()?);
        match parts.next() {
            Some(_) => Err(wrong("something follows it")),
            None => Ok(Self::new(application, control::SessionTicket { session: SessionId(session), secret })),
        }
    }
}

/// 32 digits, no more and no less.
fn hexadecimal(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_reads_back_as_written_and_the_longest_fits() {
        for name in ["a", "with.dots-and_more", &"x".repeat(63)] {
            let known = control::SessionTicket { session: SessionId(u128::MAX), secret: 5 };
            let ticket = SessionTicket::new(name.parse().unwrap(), known);
            let text = ticket.to_string();
            assert!(text.len() <= TICKET_BYTES_MAX, "{}", text.len());
            assert_eq!(format!("{text}\n").parse::<SessionTicket>().unwrap(), ticket);
            assert!(!format!("{ticket:?}").contains(&format!("{:032x}", 5)), "a secret never shows in a log");
        }
    }

    #[test]
    fn any_other_text_is_refused() {
        let good = "praas-session1:a:0000000000000000000000000000002a:00000000000000000000000000000007";
        assert!(good.parse::<SessionTicket>().is_ok());
        let long = format!("{good}{}", "0".repeat(100));
        for text in [
            "",
            "praas-session1",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &format!("{good}:"),
            &good.replace(":a:", ":A:"),
            &good.replace("2a", "+a"),
            &good.replace("session1", "session2"),
            &long,
        ] {
            assert!(text.parse::<SessionTicket>().is_err(), "{text}");
        }
    }
}
