//! `praas process stop`.

use serde_json::json;

use super::ProcessArguments;
use crate::command::Context;
use crate::failure::Failure;

/// Drains and ends a process.
///
/// # Errors
/// [`Failure`], mostly the server's refusal.
pub fn stop(context: &Context, arguments: &ProcessArguments) -> Result<(), Failure> {
    let process = arguments.process;
    context.client()?.stop(process)?;
    context.output().value(&json!({ "process": process.to_string(), "state": "ended" }))?;
    context.output().line(format_args!("{process} has ended"))
}
