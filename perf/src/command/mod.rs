//! The suite's command line: what can be asked for. Each command is a file of its own.

mod bars;
mod compare;
mod measure;
mod results;
mod show;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use praas_benches::bars::Settings;

use measure::{Request, Selected};

/// Where a run is written unless `--out` says otherwise: from the root of the sources.
const DIRECTORY_DEFAULT: &str = "perf/report";
/// Exit status of a command line that says nothing to do, as of one that is wrong.
const USAGE_STATUS: u8 = 2;

/// Measures praas beside Redis, S3 and peers, as the plots of the paper, and writes one page.
#[derive(Debug, Parser)]
#[command(name = "praas-perf", version, about, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Plots to measure, in this order; `list` shows them
    #[arg(value_name = "PLOT")]
    plots: Vec<String>,
    #[command(flatten)]
    measuring: Measuring,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How measuring commands measure.
#[derive(Debug, Args)]
struct Measuring {
    /// A small part of the repetitions: minutes instead of an hour
    #[arg(long)]
    quick: bool,
    /// The directory of the page and the rows
    #[arg(long, value_name = "DIR", default_value = DIRECTORY_DEFAULT)]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure every plot, and the bars
    All {
        #[command(flatten)]
        measuring: Measuring,
        /// Leave the bars of praas-benches out
        #[arg(long)]
        no_bars: bool,
    },
    /// List the plots
    List,
    /// Say what became better or worse between two runs
    Compare {
        /// Rows of the earlier run, or its directory
        old: PathBuf,
        /// Rows of the later one
        new: PathBuf,
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// Show series that did not change, too
        #[arg(long)]
        all: bool,
    },
    /// Print the claims and what a run found of them
    Claims {
        /// Rows of a run, or its directory
        #[arg(default_value = DIRECTORY_DEFAULT)]
        results: PathBuf,
    },
    /// Write the page again, from rows that were measured before
    Report {
        /// Rows of a run, or its directory
        #[arg(default_value = DIRECTORY_DEFAULT)]
        results: PathBuf,
        /// The directory of the page, if not that of the rows
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let measure = |Measuring { quick, out }: Measuring, selected| {
        measure::measure(&Request { selected, settings: Settings { quick }, directory: out })
    };
    match arguments.command {
        None if arguments.plots.is_empty() => {
            Arguments::command().print_help()?;
            return Ok(ExitCode::from(USAGE_STATUS));
        }
        None => {
            let selected = measure::select(&arguments.plots)?;
            measure(arguments.measuring, selected)?;
        }
        Some(Command::All { measuring, no_bars }) => measure(measuring, Selected::all(!no_bars))?,
        Some(Command::List) => show::list(),
        Some(Command::Compare { old, new, json, all }) => compare::print(&old, &new, json, all)?,
        Some(Command::Claims { results }) => show::claims(&results)?,
        Some(Command::Report { results, out }) => show::report(&results, out.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("praas-perf").chain(line.split_ascii_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn plots_are_named_before_or_after_the_options() {
        for line in ["ipc state --quick", "--quick ipc state", "ipc --quick state"] {
            let arguments = parse(line).expect(line);
            assert_eq!(arguments.plots, ["ipc", "state"], "{line}");
            assert!(arguments.measuring.quick && arguments.command.is_none(), "{line}");
        }
    }

    #[test]
    fn all_has_the_options_of_plots() {
        let arguments = parse("all --quick --out somewhere").expect("a command");
        let Some(Command::All { measuring, no_bars: false }) = arguments.command else { panic!("{arguments:?}") };
        assert!(measuring.quick);
        assert_eq!(measuring.out, PathBuf::from("somewhere"));
        assert!(parse("all ipc").is_err());
    }
}
