//! `praas token …`: who may do what to which processes until when.

pub mod create;

use clap::Subcommand;

use crate::command::Context;
use crate::failure::Failure;

use create::TokenCreateArguments;

/// The commands below `praas token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for a client, on this host or another
    #[command(long_about = create::LONG_ABOUT)]
    Create(TokenCreateArguments),
}

/// Carries out a command below `praas token`.
///
/// # Errors
/// [`Failure`].
pub fn token(context: &Context, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(arguments) => create::create(context, &arguments),
    }
}
