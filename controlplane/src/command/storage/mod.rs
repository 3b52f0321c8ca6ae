//! `praas storage …`: what is stored of processes that sleep.

pub mod place;
pub mod usage;

use clap::Subcommand;

use crate::command::Context;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas storage usage                  how much is stored of which process, and where";

/// The commands below `praas storage`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum StorageCommand {
    /// Show how much is stored, by process
    Usage,
}

/// Carries out a command below `praas storage`.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn storage(context: &Context, command: &StorageCommand) -> Result<(), Failure> {
    match command {
        StorageCommand::Usage => usage::usage(context),
    }
}
