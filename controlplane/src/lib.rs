//! The control plane of `praas`, and the parts that its one binary is made of.
//!
//! [`run`] is the binary: it reads the command line ([`arguments`]), carries one command out ([`command`]) and turns its
//! end into what people, programs and shells get to see ([`failure`]). Results go to standard output, everything else to
//! standard error; under `--json` both are JSON.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod command;
pub mod demo;
pub mod duration;
pub mod failure;
pub mod latency;
pub mod limits;
pub mod metrics;
pub mod output;
pub mod size;
pub mod table;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use command::Context;
use failure::{EXIT_CODE_USAGE, Failure};

/// The `praas` binary: carries out what the command line asks for and reports how it ended.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(refusal) => return refuse(&refusal, words.iter().any(|word| word == "--json")),
    };
    let json = arguments.common.json;
    match command::carry_out(arguments.command, &Context::new(arguments.common)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough of it.
        Err(failure) if failure.is_closed_output() => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(json);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help, version, or a command line that is wrong.
fn refuse(refusal: &clap::Error, json: bool) -> ExitCode {
    if json && refusal.use_stderr() {
        let failure = Failure::Usage { message: refusal.render().to_string().trim_end().to_owned() };
        failure.report(true);
    } else {
        // Fails only when nobody can read it.
        let _ = refusal.print();
    }
    if refusal.use_stderr() { ExitCode::from(EXIT_CODE_USAGE) } else { ExitCode::SUCCESS }
}
