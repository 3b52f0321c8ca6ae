//! How functions name those who send and receive messages.

use praas_protocol::{Address, Name, NameError, ProcessId};

/// The type of [`SELF`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnProcess;

/// The process that the running function belongs to, as a destination and as a source of messages.
pub const SELF: OwnProcess = OwnProcess;

/// Somebody who sends or receives messages: a process of the same application by its name, an [`Address`] that a message
/// came from, or [`SELF`].
///
/// Wherever one is asked for, a `&str`, a [`Name`], a [`ProcessId`], an [`Address`] or [`SELF`] will do. Of a process's id
/// only the second name counts: messages stay within an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a>(Kind<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind<'a> {
    Own,
    Named(&'a str),
    Address(Address),
    AddressOf(&'a Address),
}

impl Party<'_> {
    /// Whether it stands for this address in any process but one of that address. Costs less than to resolve it.
    #[inline]
    pub(crate) fn names(&self, address: &Address) -> bool {
        match &self.0 {
            Kind::Own => false,
            Kind::Named(name) => matches!(address, Address::Process(known) if known.as_bytes() == name.as_bytes()),
            Kind::Address(one) => one == address,
            Kind::AddressOf(one) => *one == address,
        }
    }

    /// The address that it stands for in a process of the address `own`.
    ///
    /// # Errors
    /// [`NameError`] when a text is no process's name.
    #[inline]
    pub(crate) fn resolve(self, own: &Address) -> Result<Address, NameError> {
        match self.0 {
            Kind::Own => Ok(*own),
            Kind::Named(name) => Ok(Address::Process(name.parse()?)),
            Kind::Address(address) => Ok(address),
            Kind::AddressOf(address) => Ok(*address),
        }
    }
}

impl From<OwnProcess> for Party<'_> {
    fn from(_: OwnProcess) -> Self {
        Self(Kind::Own)
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

impl From<Address> for Party<'_> {
    fn from(address: Address) -> Self {
        Self(Kind::Address(address))
    }
}

impl<'a> From<&'a Address> for Party<'a> {
    fn from(address: &'a Address) -> Self {
        Self(Kind::AddressOf(address))
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
    /// Any of these; at most [`ADDRESSES_PER_CALL_MAX`](praas_protocol::limits::ADDRESSES_PER_CALL_MAX).
    AnyOf(&'a [Address]),
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

single_sources!(Party<'a>, OwnProcess, &'a str, &'a String, Name, ProcessId, Address, &'a Address);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_names_a_process_stands_for_its_address() {
        let own: Address = "me".parse().unwrap();
        let alice: Address = "alice".parse().unwrap();
        let name: Name = "alice".parse().unwrap();
        let id: ProcessId = "hello/alice".parse().unwrap();
        for party in ["alice".into(), (&String::from("alice")).into(), name.into(), id.into(), (&alice).into()] {
            assert_eq!(Party::resolve(party, &own), Ok(alice), "{party:?}");
        }
        assert_eq!(Party::from(SELF).resolve(&own), Ok(own));
        assert!(Party::from("No name").resolve(&own).is_err());
    }
}
