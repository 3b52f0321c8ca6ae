//! How functions name the processes that they call.

use praas_protocol::{Address, CallError, Name, ProcessId};

use crate::messages::OwnProcess;

/// A process to be called: a `&str` or [`Name`] within the application, a [`ProcessId`] of it, the [`Address`] that a message
/// came from, or [`SELF`](crate::SELF).
#[derive(Debug, Clone, Copy)]
pub struct Callee<'a>(Kind<'a>);

#[derive(Debug, Clone, Copy)]
enum Kind<'a> {
    Own,
    Named(&'a str),
    Name(Name),
    Id(ProcessId),
    Address(Address),
}

impl Callee<'_> {
    /// The name that it stands for in the process `own`.
    #[inline(always)]
    pub(super) fn resolve(self, own: &ProcessId) -> Result<Name, CallError> {
        match self.0 {
            Kind::Own => Ok(own.process),
            Kind::Name(name) => Ok(name),
            Kind::Named(text) => text.parse().map_err(|error| not_a_process(&text, &error)),
            Kind::Id(id) if id.application == own.application => Ok(id.process),
            Kind::Id(_) => Err(CallError::Unauthorized { right: "invoke" }),
            Kind::Address(Address::Process(name)) => Ok(name),
            Kind::Address(Address::Client(session)) => {
                Err(not_a_process(&session, &"a client runs no functions; send it a message"))
            }
        }
    }
}

#[cold]
fn not_a_process(name: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> CallError {
    CallError::NotAProcess { name: name.to_string(), reason: reason.to_string() }
}

impl From<OwnProcess> for Callee<'_> {
    fn from(_: OwnProcess) -> Self {
        Self(Kind::Own)
    }
}

impl<'a> From<&'a str> for Callee<'a> {
    fn from(name: &'a str) -> Self {
        Self(Kind::Named(name))
    }
}

impl<'a> From<&'a String> for Callee<'a> {
    fn from(name: &'a String) -> Self {
        Self(Kind::Named(name))
    }
}

impl From<Name> for Callee<'_> {
    fn from(name: Name) -> Self {
        Self(Kind::Name(name))
    }
}

impl From<&Name> for Callee<'_> {
    fn from(name: &Name) -> Self {
        Self(Kind::Name(*name))
    }
}

impl From<ProcessId> for Callee<'_> {
    fn from(id: ProcessId) -> Self {
        Self(Kind::Id(id))
    }
}

impl From<Address> for Callee<'_> {
    fn from(address: Address) -> Self {
        Self(Kind::Address(address))
    }
}

impl From<&Address> for Callee<'_> {
    fn from(address: &Address) -> Self {
        Self(Kind::Address(*address))
    }
}

#[cfg(test)]
mod tests {
    use praas_protocol::message::SessionId;

    use super::*;
    use crate::messages::SELF;

    #[test]
    fn whatever_names_a_process_of_the_application_stands_for_it_and_nothing_else_does() {
        let own: ProcessId = "hello/me".parse().unwrap();
        let (alice, text): (Name, _) = ("alice".parse().unwrap(), String::from("alice"));
        let id: ProcessId = "hello/alice".parse().unwrap();
        let named: [Callee<'_>; 5] =
            ["alice".into(), (&text).into(), alice.into(), id.into(), Address::from(alice).into()];
        for callee in named {
            assert_eq!(callee.resolve(&own), Ok(alice), "{callee:?}");
        }
        assert_eq!(Callee::from(SELF).resolve(&own), Ok(own.process));
        let stranger: ProcessId = "other/alice".parse().unwrap();
        assert_eq!(Callee::from(stranger).resolve(&own), Err(CallError::Unauthorized { right: "invoke" }));
        for callee in [Callee::from("No name"), Address::Client(SessionId(7)).into()] {
            assert!(matches!(callee.resolve(&own), Err(CallError::NotAProcess { .. })), "{callee:?}");
        }
    }
}
