//! How a client names those who send and receive messages.

use praas_protocol::limits::ADDRESSES_PER_CALL_MAX;
use praas_protocol::message::SessionId;
use praas_protocol::{Address, Name, NameError, ProcessId};

use super::error::RecvError;

/// Somebody who sends or receives messages: a process of the session's application by its name, or an [`Address`] that a
/// message came from.
///
/// Wherever one is asked for, a `&str`, a [`Name`], a [`ProcessId`], a [`SessionId`] or an [`Address`] will do. Of a process's id
/// only the second name counts: messages stay within an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a>(Kind<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Named(&'a str),
    Address(Address),
}

impl Party<'_> {
    /// The address that it stands for.
    pub(super) fn resolve(self) -> Result<Address, NameError> {
        match self.0 {
            Kind::Named(name) => Ok(Address::Process(name.parse()?)),
            Kind::Address(address) => Ok(address),
        }
    }
}

impl<'a> From<&'a str> for Party<'a> {
    fn from(name: &'a str) -> Self {
        Self(Kind::Named(name))
    }
}

impl<'a> From<&'a String> for Party<'a> {
    fn from(name: &'a String) -> Self {
        Self(Kind::Named(name))
    }
}

impl From<Name> for Party<'_> {
    fn from(name: Name) -> Self {
        Self(Kind::Address(name.into()))
    }
}

impl From<ProcessId> for Party<'_> {
    fn from(id: ProcessId) -> Self {
        Self(Kind::Address(id.into()))
    }
}

impl From<SessionId> for Party<'_> {
    fn from(session: SessionId) -> Self {
        Self(Kind::Address(session.into()))
    }
}

impl From<Address> for Party<'_> {
    fn from(address: Address) -> Self {
        Self(Kind::Address(address))
    }
}

impl From<&Address> for Party<'_> {
    fn from(address: &Address) -> Self {
        Self(Kind::Address(*address))
    }
}

/// Whose messages are received.
///
/// | | receives |
/// |---|---|
/// | [`Sources::Any`] | from whoever sends, in turn: one that sends much does not keep others waiting |
/// | a [`Party`], or what becomes one | from it alone |
/// | a list of [`Address`]es | from any of them |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources<'a> {
    /// Everybody.
    Any,
    /// One alone.
    From(Party<'a>),
    /// Any of these; at most [`ADDRESSES_PER_CALL_MAX`].
    AnyOf(&'a [Address]),
}

impl Sources<'_> {
    /// The addresses that it names; nobody for everybody.
    pub(super) fn resolve(self) -> Result<Vec<Address>, RecvError> {
        match self {
            Self::Any => Ok(Vec::new()),
            Self::From(party) => Ok(vec![party.resolve()?]),
            Self::AnyOf(list) if list.is_empty() || list.len() > ADDRESSES_PER_CALL_MAX => {
                Err(RecvError::Sources { given: list.len() })
            }
            Self::AnyOf(list) => Ok(list.to_vec()),
        }
    }
}

impl<'a> From<&'a [Address]> for Sources<'a> {
    fn from(list: &'a [Address]) -> Self {
        Self::AnyOf(list)
    }
}

impl<'a, const N: usize> From<&'a [Address; N]> for Sources<'a> {
    fn from(list: &'a [Address; N]) -> Self {
        Self::AnyOf(list)
    }
}

impl<'a> From<&'a Vec<Address>> for Sources<'a> {
    fn from(list: &'a Vec<Address>) -> Self {
        Self::AnyOf(list)
    }
}

/// What becomes a [`Party`] names a single source.
macro_rules! single_sources {
    ($($one:ty),*) => {$(
        impl<'a> From<$one> for Sources<'a> {
            fn from(one: $one) -> Self {
                Self::From(one.into())
            }
        }
    )*};
}

single_sources!(Party<'a>, &'a str, &'a String, Name, ProcessId, SessionId, Address, &'a Address);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_names_a_process_stands_for_its_address() {
        let alice: Address = "alice".parse().unwrap();
        let name: Name = "alice".parse().unwrap();
        let id: ProcessId = "hello/alice".parse().unwrap();
        for party in [Party::from("alice"), (&String::from("alice")).into(), name.into(), id.into(), (&alice).into()] {
            assert_eq!(party.resolve(), Ok(alice), "{party:?}");
        }
        assert!(Party::from("No name").resolve().is_err());
        assert_eq!(Party::from(SessionId(7)).resolve(), Ok(Address::Client(SessionId(7))));
    }

    #[test]
    fn a_list_that_names_nobody_is_not_taken_for_everybody() {
        let alice: Address = "alice".parse().unwrap();
        assert_eq!(Sources::Any.resolve().unwrap(), []);
        assert_eq!(Sources::from("alice").resolve().unwrap(), [alice]);
        assert_eq!(Sources::from(&[alice]).resolve().unwrap(), [alice]);
        assert!(matches!(Sources::from(&[]).resolve(), Err(RecvError::Sources { given: 0 })));
        let many = vec![alice; ADDRESSES_PER_CALL_MAX + 1];
        assert!(matches!(Sources::from(&many).resolve(), Err(RecvError::Sources { .. })));
        assert!(matches!(Sources::from("No name").resolve(), Err(RecvError::Name(_))));
    }
}
