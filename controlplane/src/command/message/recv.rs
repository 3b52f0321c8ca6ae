//! `praas message recv`.

use std::time::Duration;

use clap::Args;
use praas_client::{Address, Name, ProcessId, Sources};

use super::session::Party;
use super::{PartyArguments, TIMEOUT_DEFAULT, show_and_accept};
use crate::command::Context;
use crate::duration;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas message recv pipeline counts --session mine
  praas message recv pipeline counts --session mine --from counter --timeout 5s
  praas message recv pipeline counts --session mine --json | jq -r .source

Exit code 5 when no message came in time. A message whose bytes could not be written stays in the mailbox.";

/// Arguments of `praas message recv`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RecvArguments {
    /// The application whose processes send
    pub application: Name,
    /// The message's key
    pub key: String,
    /// Only from this process, such as counter; may be given again
    #[arg(long, value_name = "PROCESS", value_parser = source)]
    pub from: Vec<Address>,
    /// Wait no longer than this for a message, such as 5s; 30s unless given
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// As whom it is received
    #[command(flatten)]
    pub party: PartyArguments,
}

/// A process by its name, or by its whole id.
fn source(text: &str) -> Result<Address, String> {
    match text.contains('/') {
        true => text.parse::<ProcessId>().map(Address::from).map_err(|error| error.to_string()),
        false => text.parse::<Name>().map(Address::from).map_err(|error| error.to_string()),
    }
}

/// Receives a message.
///
/// # Errors
/// [`Failure::Receive`] when none came.
pub fn recv(context: &Context, arguments: &RecvArguments) -> Result<(), Failure> {
    let party = Party::begin(context, arguments.application, &arguments.party)?;
    if arguments.party.session.is_none() {
        // Nobody knows the address yet. Standard output is the message's.
        eprintln!("receiving as {}; with --session FILE the next command receives as the same", party.address());
    }
    let sources = match arguments.from.as_slice() {
        [] => Sources::Any,
        list => Sources::AnyOf(list),
    };
    let timeout = arguments.timeout.unwrap_or(TIMEOUT_DEFAULT);
    show_and_accept(context.output(), party.recv(sources, &arguments.key, timeout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_like_a_process() {
        let alice: Address = "alice".parse().unwrap();
        assert_eq!(source("alice"), Ok(alice));
        assert_eq!(source("hello/alice"), Ok(alice));
        for text in ["", "Alice", "hello/", "a/b/c"] {
            assert!(source(text).is_err(), "{text}");
        }
    }
}
