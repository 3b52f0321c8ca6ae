//! `praas process create`.

use std::time::{Duration, Instant};

use clap::Args;
use praas_client::ProcessId;
use serde_json::json;

use crate::command::Context;
use crate::duration;
use crate::failure::Failure;

/// Arguments of `praas process create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The process, such as hello/alice
    #[arg(value_name = "APPLICATION/PROCESS")]
    pub process: ProcessId,
    /// Swap it out when it was not called for so long, 0 for never; what its praas.toml says unless given
    #[arg(long, value_name = "TIME", value_parser = idle_swap)]
    pub idle_swap: Option<Duration>,
}

fn idle_swap(text: &str) -> Result<Duration, duration::DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Starts a process.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn create(context: &Context, arguments: &CreateArguments) -> Result<(), Failure> {
    let process = arguments.process;
    let client = context.client()?;
    let start = Instant::now();
    match arguments.idle_swap {
        Some(idle_swap) => client.create_with_idle_swap(process, idle_swap)?,
        None => client.create(process)?,
    }
    let took_ms = start.elapsed().as_secs_f64() * 1e3;
    let output = context.output();
    output.value(&json!({ "process": process.to_string(), "state": "active", "took_ms": took_ms }))?;
    output.line(format_args!(
        "{process} takes calls ({took_ms:.1} ms); call it: praas invoke {process} FUNCTION [PAYLOAD]"
    ))
}
