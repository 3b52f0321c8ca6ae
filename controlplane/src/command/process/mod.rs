//! `praas process …`: the lives of processes.

pub mod create;
pub mod list;
pub mod logs;
pub mod restart;
pub mod stop;
pub mod swap;
pub mod watch;

use clap::{Args, Subcommand};
use praas_client::ProcessId;

use crate::command::Context;
use crate::failure::Failure;

use create::CreateArguments;
use logs::LogsArguments;
use swap::SwapArguments;
use watch::WatchArguments;

const EXAMPLES: &str = "\
Examples:
  praas process create hello/alice
  praas process list
  praas process logs hello/alice --follow
  praas process restart hello/alice    after a rebuild, or to lose a bad state
  praas process swap hello/alice       to sleep: stored, without workers and memory
  praas process watch                  who sleeps and wakes, as it happens
  praas process stop hello/alice";

/// The commands below `praas process`.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum ProcessCommand {
    /// Start a process and wait until it takes calls
    Create(CreateArguments),
    /// List the processes of this server
    List,
    /// Let a process finish its calls, then end it
    Stop(ProcessArguments),
    /// Let a process finish its calls, then give it new workers
    Restart(ProcessArguments),
    /// Store what a process knows and give its memory up; whatever needs it wakes it
    Swap(SwapArguments),
    /// Wake a process that sleeps, before somebody needs it
    Restore(SwapArguments),
    /// Print what happens in the lives of processes, as it happens
    #[command(long_about = watch::LONG_ABOUT)]
    Watch(WatchArguments),
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
        ProcessCommand::Swap(arguments) => swap::swap(context, &arguments),
        ProcessCommand::Restore(arguments) => swap::restore(context, &arguments),
        ProcessCommand::Watch(arguments) => watch::watch(context, &arguments),
        ProcessCommand::Logs(arguments) => logs::logs(context, &arguments),
    }
}
