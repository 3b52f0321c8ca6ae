//! The guard: a program of its own, built without the suite. What is linked beside a hot path changes how it is inlined, and so
//! its instructions; and this one is built for each change, the suite is not.
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
