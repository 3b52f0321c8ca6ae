//! The bars and floors, from the command line.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use praas_benches::bars::{self, Settings};
use praas_benches::machine::Machine;
use praas_benches::report::{Row, line_of, table_of, write_json_lines};
use praas_benches::subject::{self, CountingAllocator};
use praas_benches::{catalogue, floors};

/// The bar `shm-steady` counts allocations; nothing else looks at the count.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measures what this machine can do at best, and how close praas comes.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the bars of these ids, or all of them
    Bars {
        /// Ids of bars; `--list` shows them
        ids: Vec<String>,
        /// A small part of the samples: to see that a bar works
        #[arg(long)]
        quick: bool,
        /// Also write the rows to this file, one JSON object a line
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// List the bars and measure nothing
        #[arg(long)]
        list: bool,
    },
    /// Measure the machine's floors
    Floors {
        /// A small part of the samples
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> ExitCode {
    subject::serve_role_if_asked();
    floors::serve_peer_if_asked();
    let outcome = match Arguments::parse().command {
        Command::Bars { list: true, .. } => {
            list_bars();
            Ok(())
        }
        Command::Bars { ids, quick, json, .. } => measure_bars(&ids, Settings { quick }, json.as_deref()),
        Command::Floors { quick } => print_floors(Settings { quick }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list_bars() {
    for bar in bars::ALL {
        println!("{:24} {}", bar.id, bar.summary);
    }
}

/// A bar that is missed is a finding, not a failure; one that cannot be measured is, after all others had their turn.
fn measure_bars(ids: &[String], settings: Settings, json: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let selected = bars::select(bars::ALL, ids)?;
    bars::require_release_build()?;
    // Opened first: a path that cannot be written is better known before minutes of measuring.
    let mut file = json.map(File::create).transpose()?;
    eprintln!("{}", Machine::look()?.describe());
    let mut rows: Vec<Row> = Vec::new();
    let mut failed = Vec::new();
    for bar in selected {
        match (bar.run)(settings) {
            // Told and kept at once: all of them take long, and an end before that loses nothing.
            Ok(found) => {
                found.iter().for_each(|row| eprintln!("{}", line_of(row)));
                if let Some(file) = &mut file {
                    write_json_lines(&found, BufWriter::new(file))?;
                }
                rows.extend(found);
            }
            Err(error) => {
                eprintln!("{}: {error}", bar.id);
                failed.push(bar.id);
            }
        }
    }
    println!("{}", table_of(&rows));
    if failed.is_empty() { Ok(()) } else { Err(format!("could not be measured: {}", failed.join(", ")).into()) }
}

fn print_floors(settings: Settings) -> Result<(), Box<dyn Error>> {
    if bars::require_release_build().is_err() {
        eprintln!("this is a debug build: its figures mean nothing; add --release");
    }
    eprintln!("{}", Machine::look()?.describe());
    println!("{}", catalogue::floors_table(settings)?);
    Ok(())
}
