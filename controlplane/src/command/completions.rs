//! `praas completions SHELL`.

use std::io::{self, Write};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::failure::Failure;

const EXAMPLES: &str = "\
Examples:
  praas completions bash > ~/.local/share/bash-completion/completions/praas
  praas completions zsh > \"${fpath[1]}/_praas\"
  praas completions fish > ~/.config/fish/completions/praas.fish";

/// Arguments of `praas completions`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

/// Prints completions.
///
/// # Errors
/// [`Failure::Output`].
pub fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    // Into memory first: the generator panics where writing fails.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "praas", &mut script);
    io::stdout().lock().write_all(&script).map_err(Failure::Output)
}
