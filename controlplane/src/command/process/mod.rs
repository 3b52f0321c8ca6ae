//! `praas process …`: the lives of processes.

pub mod create;
pub mod list;
pub mod logs;
pub mod restart;
pub mod stop;

use clap::{Args, Subcommand};
use praas_client::ProcessId;

use crate::command::Context;
use crate::failure::Failure;

use logs::LogsArguments;

const EXAMPLES: &str = "\
Examples:
  praas process create hello/alice
  praas process list
  praas process logs hello/alice --follow
  praas process restart hello/alice    after a rebuild, or to lose a bad state
  praas process stop hello/alice";

/// The commands below `praas process`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ProcessCommand {
    /// Start a process and wait until it takes calls
    Create(ProcessArguments),
    /// List the processes of this server
    List,
    /// Let a process finish its calls, then end it
    Stop(ProcessArguments),
    /// Let a process finish its calls, then give it new workers
    Restart(ProcessArguments),
    /// Print what the functions of a process have printed
    Logs(LogsArguments),
}

/// A process.
#[derive(Debug, Args)]
pub struct ProcessArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
}

/// Carries out a command below `praas process`.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn process(context: &Context, command: ProcessCommand) -> Result<(), Failure> {
    match command {
        ProcessCommand::Create(arguments) => create::create(context, &arguments),
        ProcessCommand::List => list::list(context),
        ProcessCommand::Stop(arguments) => stop::stop(context, &arguments),
        ProcessCommand::Restart(arguments) => restart::restart(context, &arguments),
        ProcessCommand::Logs(arguments) => logs::logs(context, &arguments),
    }
}
