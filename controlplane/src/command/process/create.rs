//! `praas process create`.

use std::time::Instant;

use serde_json::json;

use super::ProcessArguments;
use crate::command::Context;
use crate::failure::Failure;

/// Starts a process.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn create(context: &Context, arguments: &ProcessArguments) -> Result<(), Failure> {
    let process = arguments.process;
    let client = context.client()?;
    let start = Instant::now();
    client.create(process)?;
    let took_ms = start.elapsed().as_secs_f64() * 1e3;
    let output = context.output();
    output.value(&json!({ "process": process.to_string(), "state": "active", "took_ms": took_ms }))?;
    output.line(format_args!(
        "{process} takes calls ({took_ms:.1} ms); call it: praas invoke {process} FUNCTION [PAYLOAD]"
    ))
}
