//! The command line: what can be asked for, and the help from which a person learns it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::command::check::CheckArguments;
use crate::command::completions::CompletionsArguments;
use crate::command::demo::DemoArguments;
use crate::command::invoke::InvokeArguments;
use crate::command::message::MessageCommand;
use crate::command::new::NewArguments;
use crate::command::ping::PingArguments;
use crate::command::process::ProcessCommand;
use crate::command::serve::ServeArguments;
use crate::command::state::StateCommand;
use crate::command::stats::StatsArguments;
use crate::command::storage::StorageCommand;
use crate::command::token::TokenCommand;
use crate::command::{demo, invoke, message, ping, serve, state, stats};

const ABOUT: &str = "\
Runs cloud processes: functions that keep state between calls and answer in microseconds.

An application is a program that holds functions, described by a praas.toml. A process is a living copy of it with a \
name of your choice, written APPLICATION/PROCESS. One server on each host starts processes and watches over them; \
clients call their functions through shared memory, past the server.";

const EXAMPLES: &str = "\
See it work:
  praas demo                           index and search real text files, with latencies

Your own, from nothing to the first call:
  praas new hello                      write a crate with two functions, a client and a test
  cd hello && cargo build --release
  praas serve                          serve ./praas.toml; leave it running
  praas process create hello/alice     in another terminal: start a process
  praas invoke hello/alice greet World

Exit codes:
  0  done
  1  refused or failed; the message says why and what to do
  2  the command line is wrong
  3  no server answers, or its connection was lost
  4  the function ran and failed, panicked, or lost its worker
  5  a deadline passed, or no message came in time
  6  the process has no such object
  7  the object is not as --if-version says; nothing was changed
  8  the server ended, and not everything that its processes know could be stored
  130  interrupted

With --json results are JSON on standard output, one document a line, and a failure is one line of JSON on standard \
error: {\"error\":{\"kind\":…,\"message\":…,\"exit_code\":…}}. Kinds do not change between releases.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "praas",
    version,
    about = "Stateful cloud processes that answer in microseconds",
    long_about = ABOUT,
    after_help = "`praas --help` shows examples and exit codes; `praas COMMAND --help` explains a command.",
    after_long_help = EXAMPLES,
    max_term_width = 110,
    propagate_version = true
)]
pub struct Arguments {
    /// What every command takes.
    #[command(flatten)]
    pub common: CommonArguments,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct CommonArguments {
    /// Print JSON for programs instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// The server's data directory
    ///
    /// It holds the server's socket and token, by which commands find it. Without it: praas in $XDG_RUNTIME_DIR, else in
    /// /run/user/UID, else /tmp/praas-UID.
    #[arg(long, global = true, value_name = "DIR", env = "PRAAS_DATA")]
    pub data: Option<PathBuf>,
    /// The address of a server on the network, HOST:PORT; given again, others that lead to the same service
    ///
    /// Without it commands go to the server of this host. One that turns out to be on this host is called through shared
    /// memory all the same.
    #[arg(long, global = true, value_name = "ADDRESS", env = "PRAAS_SERVER", value_delimiter = ',')]
    pub server: Vec<String>,
    /// The file with the token for it, as `praas token create` prints one; the data directory's own unless given
    #[arg(long, global = true, value_name = "FILE", env = "PRAAS_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what praas does on real files, and how fast
    #[command(long_about = demo::LONG_ABOUT)]
    Demo(DemoArguments),
    /// Write a function crate that is ready to build
    New(NewArguments),
    /// Name everything that is wrong in a praas.toml
    Check(CheckArguments),
    /// Run the server of this host
    #[command(long_about = serve::LONG_ABOUT)]
    Serve(ServeArguments),
    /// Create, list, stop and restart processes, put them to sleep, and read their output
    #[command(subcommand)]
    Process(ProcessCommand),
    /// Call a function of a process
    #[command(long_about = invoke::LONG_ABOUT)]
    Invoke(InvokeArguments),
    /// Send messages to processes, and receive theirs
    #[command(subcommand, long_about = message::LONG_ABOUT)]
    Message(MessageCommand),
    /// Show how long a call takes, and where
    #[command(long_about = ping::LONG_ABOUT)]
    Ping(PingArguments),
    /// Read and write the objects that a process keeps
    #[command(subcommand, long_about = state::LONG_ABOUT)]
    State(StateCommand),
    /// Show how often functions were called and how long they took
    #[command(long_about = stats::LONG_ABOUT)]
    Stats(StatsArguments),
    /// Show what is stored of processes that sleep
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Make tokens: who may do what to which processes until when
    #[command(subcommand)]
    Token(TokenCommand),
    /// Tell what this host grants praas, and what to do about the rest
    #[command(long_about = "\
Tells what this host grants praas: cores, memory, io_uring, confinement of workers, limits of files and memory. What is \
limited or lacking comes with what to do about it; praas works without, more slowly or with weaker walls.")]
    Doctor,
    /// Print completions for a shell
    Completions(CompletionsArguments),
    /// Hold memory while the server restarts; started by the server itself
    #[command(hide = true)]
    Keeper,
    /// Be a worker of the demo; started by a server itself
    #[command(hide = true)]
    DemoWorker,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                assert!(inner.get_about().is_some(), "{} {}", command.get_name(), inner.get_name());
                check(inner);
            }
        }
        check(&Arguments::command());
    }
}
