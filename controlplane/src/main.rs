//! The `praas` binary: everything it does is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // The other side of a measured floor is this program again; it must not meet the command line.
    praas_benches::floors::serve_peer_if_asked();
    praas::run(std::env::args_os())
}
