//! The suite, from the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use praas_benches::subject::CountingAllocator;

/// The bar `shm-steady` counts allocations; nothing else looks at the count.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    praas_benches::subject::serve_role_if_asked_with(praas_perf::functions::with_functions);
    praas_benches::floors::serve_peer_if_asked_with(praas_perf::baselines::prototype::serve);
    praas_perf::baselines::role::serve_role_if_asked();
    praas_perf::command::run()
}
