//! The guard by itself: `praas-perf guard` without the suite around it, and without what the suite is built of.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use praas_benches::subject::CountingAllocator;
use praas_perf::guard;

/// The guard counts allocations.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Holds instructions, allocations and system calls of the hot paths against stored figures.
#[derive(Debug, Parser)]
#[command(name = "praas-perf-guard", version)]
struct Arguments {
    /// Store what is found
    #[arg(long)]
    update: bool,
}

fn main() -> ExitCode {
    guard::serve_role_if_asked();
    guard::print(Arguments::parse().update).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
